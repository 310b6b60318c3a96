"""Pins in memory, and the book over them, for tests of what was approved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gatelab import NOW, FakeClock, RecordingAudit
from twogate.core.pins import definition_of, pin_digest
from twogate.flows.gateway.pins import AnswerPins, Pin, PinBook


def a_pin(target: str, shown: object, tenant: str = "acme", server: str = "files") -> Pin:
    """What an approval of this would store."""
    definition = definition_of(shown)
    return Pin(tenant, server, target, pin_digest(definition), definition, NOW, "ada")


@dataclass
class MemoryPins:
    """A store of pins in memory, and its revision; implements `PinStore` and `Revision`."""

    rows: dict[tuple[str, str, str], Pin] = field(default_factory=dict)
    revision: int = 1
    reads: int = 0
    knows: bool = True
    """Whether the revision is known without asking."""

    def current(self) -> int | None:
        return self.revision if self.knows else None

    async def read(self) -> int:
        return self.revision

    async def digests(self, tenant: str, server: str) -> Mapping[str, bytes]:
        self.reads += 1
        return {pin.target: pin.digest for pin in self.rows.values() if (pin.tenant, pin.server) == (tenant, server)}

    async def get(self, tenant: str, server: str, target: str) -> Pin | None:
        return self.rows.get((tenant, server, target))

    async def list(self, tenant: str | None = None, server: str | None = None) -> Sequence[Pin]:
        return [pin for pin in self.rows.values() if tenant in (None, pin.tenant) and server in (None, pin.server)]

    async def approve(self, pins: Sequence[Pin]) -> None:
        self.rows |= {(pin.tenant, pin.server, pin.target): pin for pin in pins}
        self.revision += 1

    async def withdraw(self, tenant: str, server: str, targets: Sequence[str]) -> None:
        for target in targets:
            self.rows.pop((tenant, server, target), None)
        self.revision += 1


def a_book(store: MemoryPins | None = None, audit: RecordingAudit | None = None) -> PinBook:
    """A book over a store; without one, over nothing that anybody approved."""
    store = store or MemoryPins()
    return PinBook(store, store, audit or RecordingAudit(), FakeClock())


def no_pins(server: str = "files") -> AnswerPins:
    """What judges an answer where nothing was approved and nothing has to be."""
    return AnswerPins(a_book(), "acme", server, required=False)
