"""Approving what servers show of themselves, and withdrawing that (row R-43).

What is approved is exactly what was shown to the person, never what a server shows a moment later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, cast

import msgspec

from twogate.core import strict_json
from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import MAX_DEPTH
from twogate.core.pins import definition_of, pin_digest
from twogate.core.protocol import instructions_target, prompt_target, tool_target
from twogate.core.schema_reader import SchemaError
from twogate.flows.audit import AuditSink
from twogate.flows.environment import Clock
from twogate.flows.gateway.arguments import Compile
from twogate.flows.gateway.catalogue_fetch import Offer
from twogate.flows.gateway.pins import Pin, PinStore

MAX_DEFINITION: Final = 1024 * 1024
"""Bytes of what may be approved of one target: nobody reads more."""


class Proposal(msgspec.Struct, frozen=True):
    """What a server shows of one target, and what was approved of it. `problem` is why it cannot be approved."""

    tenant: str
    server: str
    target: str
    definition: bytes
    approved: bytes | None = None
    problem: str | None = None

    @property
    def digest(self) -> bytes:
        """By which it would be pinned."""
        return pin_digest(self.definition)

    @property
    def unchanged(self) -> bool:
        """Whether just this was approved."""
        return self.definition == self.approved


def proposals(
    tenant: str, server: str, offer: Offer, pins: Mapping[str, Pin], compile_schema: Compile | None
) -> Iterator[Proposal]:
    """Everything that a server shows. `pins` are the tenant's by target.

    `compile_schema` is None where arguments go on unchecked, so that a schema may be anything.
    """
    for target, shown, is_tool in _shown(server, offer):
        pin = pins.get(target)
        definition = definition_of(shown)
        problem = None
        if len(definition) > MAX_DEFINITION:
            problem = f"it has more than {MAX_DEFINITION} bytes"
        elif (unreadable := _unreadable(definition)) is not None:
            problem = unreadable
        elif is_tool and compile_schema is not None and (pin is None or pin.definition != definition):
            problem = _schema_problem(shown, compile_schema)
        yield Proposal(tenant, server, target, definition, None if pin is None else pin.definition, problem)


def _shown(server: str, offer: Offer) -> Iterator[tuple[str, object, bool]]:
    for name in sorted(offer.tools):
        yield tool_target(server, name), offer.tools[name], True
    for name in sorted(offer.prompts):
        yield prompt_target(server, name), offer.prompts[name], False
    if offer.instructions is not None:
        yield instructions_target(server), offer.instructions, False


def _unreadable(definition: bytes) -> str | None:
    # A server's own messages are read leniently, and what is kept strictly: readers disagree about large integers.
    try:
        strict_json.decode(definition, max_bytes=MAX_DEFINITION, max_depth=MAX_DEPTH)
    except GateError as error:
        return f"it cannot be kept exactly: {error.debug}"
    return None


def _schema_problem(tool: object, compile_schema: Compile) -> str | None:
    try:
        compile_schema(cast("Mapping[str, object]", tool).get("inputSchema"))
    except SchemaError as error:
        return f"its arguments cannot be checked: {error}"
    return None


class PinAdmin:
    """Operators' use cases on pins. `by` is who does it, as the system knows them."""

    def __init__(self, store: PinStore, audit: AuditSink, clock: Clock, by: str) -> None:
        self._store = store
        self._audit = audit
        self._clock = clock
        self._by = by

    async def approve(self, chosen: Sequence[Proposal]) -> None:
        """Pin what was shown; in force everywhere on return.

        Raises:
            GateError: STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
            ValueError: one of them has a problem.
        """
        if any(proposal.problem is not None for proposal in chosen):
            raise ValueError("what has a problem cannot be approved")
        now = self._clock.now()
        for proposal in chosen:
            await self._record(EventKind.TOOL_APPROVED, proposal.tenant, proposal.server, proposal.target, proposal)
        await self._store.approve(
            [Pin(item.tenant, item.server, item.target, item.digest, item.definition, now, self._by) for item in chosen]
        )

    async def withdraw(self, pins: Sequence[Pin]) -> None:
        """Forget these approvals; in force everywhere on return.

        Raises:
            GateError: NOT_FOUND if there are none; STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        if not pins:
            raise GateError(ErrorCode.NOT_FOUND, "nothing of that was approved; `twogate tool pins` shows what is")
        by_server: dict[tuple[str, str], list[str]] = {}
        for pin in pins:
            await self._record(EventKind.TOOL_UNAPPROVED, pin.tenant, pin.server, pin.target)
            by_server.setdefault((pin.tenant, pin.server), []).append(pin.target)
        for (tenant, server), targets in by_server.items():
            await self._store.withdraw(tenant, server, targets)

    async def _record(
        self, kind: EventKind, tenant: str, server: str, target: str, approved: Proposal | None = None
    ) -> None:
        what = "" if approved is None else f", sha256 {approved.digest.hex()}"
        await self._audit.append(
            AuditEvent(
                kind=kind,
                at=self._clock.now_us(),
                tenant=tenant,
                server=server,
                target=target,
                detail=f"by {self._by}{what}",
            )
        )
