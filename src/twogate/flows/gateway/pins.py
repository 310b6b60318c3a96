"""What operators approved of the servers, as of now, and the alert when a server shows something else (row R-43).

Pins are kept by tenant, because a server may show each tenant something else. A change of theirs holds for the next
request at every replica: they are read again whenever the store's revision moved. Only digests are kept here.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import msgspec

from twogate.core import strict_json
from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import MAX_ANSWER, MAX_DEPTH
from twogate.core.pins import Shape, changed_members, definition_of, named, pin_digest, shape_of
from twogate.flows.audit import AuditSink
from twogate.flows.environment import Clock
from twogate.flows.registry import Revision

MAX_NOTED: Final = 10_000
"""Changes of which it is remembered that they were told; the oldest would be told again."""

_GONE: Final = b""


class Pin(msgspec.Struct, frozen=True):
    """What was approved of one target for one tenant. `definition` is `core.pins.definition_of` of what was shown."""

    tenant: str
    server: str
    target: str
    digest: bytes
    definition: bytes
    approved_at: int
    approved_by: str


class PinStore(Protocol):
    """Keeps pins. What it changes is in force at every replica on return."""

    async def digests(self, tenant: str, server: str) -> Mapping[str, bytes]:
        """The digest of each pinned target of one server.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def get(self, tenant: str, server: str, target: str) -> Pin | None:
        """One pin; its digest is that of its definition.

        Raises:
            GateError: STORE_UNAVAILABLE, also if the digest is not.
        """
        ...

    async def list(self, tenant: str | None = None, server: str | None = None) -> Sequence[Pin]:
        """Every pin, by tenant and target.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def approve(self, pins: Sequence[Pin]) -> None:
        """Keep pins in place of those that their targets have; all or nothing.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def withdraw(self, tenant: str, server: str, targets: Sequence[str]) -> None:
        """Forget the pins of these targets; all or nothing.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...


class ServerPins(msgspec.Struct, frozen=True):
    """The digest of each pinned target of one server for one tenant, as of one revision."""

    revision: int
    digests: Mapping[str, bytes]


class Change(msgspec.Struct, frozen=True):
    """A target that a server shows otherwise than it was approved; without a shape it is not shown at all."""

    target: str
    digest: bytes = _GONE
    shape: Shape | None = None


class PinBook:
    """Every pin as of now. One for the whole process, so that a reload does not tell of changes again."""

    def __init__(self, store: PinStore, revision: Revision, audit: AuditSink, clock: Clock) -> None:
        self._store = store
        self._revision = revision
        self._audit = audit
        self._clock = clock
        self._lock = asyncio.Lock()
        self._known: dict[tuple[str, str], ServerPins] = {}
        self._noted: OrderedDict[tuple[str, str, bytes], None] = OrderedDict()

    async def of(self, tenant: str, server: str) -> ServerPins:
        """The pins of one server for one tenant. The caller has made sure that both are configured.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        revision = self._revision.current()
        if revision is None:
            revision = await self._revision.read()
        known = self._known.get((tenant, server))
        if known is not None and known.revision == revision:
            return known
        async with self._lock:
            known = self._known.get((tenant, server))
            if known is None or known.revision != revision:
                # The revision was read before the rows: should they be newer, the next call reads once more.
                known = ServerPins(revision, await self._store.digests(tenant, server))
                self._known[tenant, server] = known
            return known

    async def definition(self, tenant: str, server: str, target: str, digest: bytes) -> bytes:
        """What was approved under this digest.

        Raises:
            GateError: STORE_UNAVAILABLE; TOOL_CHANGED if something else is approved by now.
        """
        pin = await self._store.get(tenant, server, target)
        if pin is None or pin.digest != digest:
            raise GateError(ErrorCode.TOOL_CHANGED, "another definition was approved, or none, in the meantime")
        return pin.definition

    async def note(self, tenant: str, server: str, changes: Sequence[Change]) -> None:
        """Write an alert for each change that this process did not tell of yet.

        Raises:
            GateError: AUDIT_UNAVAILABLE, STORE_UNAVAILABLE; a change that was not written is told the next time.
        """
        for change in changes:
            key = (tenant, change.target, change.digest)
            if key in self._noted:
                self._noted.move_to_end(key)
                continue
            detail = await self._detail(tenant, server, change)
            await self._audit.append(
                AuditEvent(
                    kind=EventKind.TOOL_CHANGED,
                    at=self._clock.now_us(),
                    tenant=tenant,
                    server=server,
                    target=change.target,
                    decision="deny",
                    reason=ErrorCode.TOOL_CHANGED,
                    detail=detail,
                    anomaly=True,
                )
            )
            self._noted[key] = None
            if len(self._noted) > MAX_NOTED:
                self._noted.popitem(last=False)

    async def _detail(self, tenant: str, server: str, change: Change) -> str:
        if change.shape is None:
            return "it was approved, and the server does not list it any more"
        pin = await self._store.get(tenant, server, change.target)
        if pin is None:
            return "it differs from what was approved; the approval was withdrawn in the meantime"
        approved = strict_json.decode(pin.definition, max_bytes=MAX_ANSWER, max_depth=MAX_DEPTH)
        members = changed_members(shape_of(approved), change.shape)
        return f"other than approved: {named(members)}"


class AnswerPins:
    """What of one answer agrees with the pins. `changes` is what of it does not though it is pinned."""

    def __init__(self, book: PinBook, tenant: str, server: str, *, required: bool) -> None:
        self._book = book
        self._tenant = tenant
        self._server = server
        self._required = required
        self._pins: ServerPins | None = None
        self.changes: list[Change] = []

    async def load(self) -> None:
        """Take the pins as of now; before this, nothing can be judged.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        self._pins = await self._book.of(self._tenant, self._server)

    def passes(self, target: str, shown: object) -> bool:
        """Whether what the server shows of a target may be seen: it is what was approved, or nothing has to be.

        Raises:
            GateError: INTERNAL before `load`.
        """
        if self._pins is None:
            raise GateError(ErrorCode.INTERNAL, "an answer was judged before its pins were known")
        approved = self._pins.digests.get(target)
        if approved is None:
            return not self._required
        digest = pin_digest(definition_of(shown))
        if digest == approved:
            return True
        self.changes.append(Change(target, digest, shape_of(shown)))
        return False

    async def note(self) -> None:
        """Write down what changed, before anything of the answer passes.

        Raises:
            GateError: OUTCOME_UNRECORDED: after the call was forwarded nobody may be told that nothing was run.
        """
        try:
            await self._book.note(self._tenant, self._server, self.changes)
        except GateError as unavailable:
            raise GateError(ErrorCode.OUTCOME_UNRECORDED, unavailable.debug) from unavailable
