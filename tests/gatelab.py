"""Doubles for the ports of both gates. They note what happens in one journal, so that tests see its order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from twogate.adapters.rng import SystemRng
from twogate.adapters.signers.local import LocalSigner
from twogate.config.settings import SHIPPED_ROLES
from twogate.core.access import Group, Policy, Role, Tenant, ToolClass
from twogate.core.audit.accessor import Accessors
from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import Kind
from twogate.core.principal import Agent, AgentId, Binding, Method, Principal, UserId
from twogate.core.session import Session, find_or_refuse
from twogate.flows.authserver.dpop import DpopProofs
from twogate.flows.environment import Clock
from twogate.flows.gateway.exchange import Refusal
from twogate.flows.gateway.identify import Identifier
from twogate.flows.gateway.possession import Possession
from twogate.flows.gateway.upstream import UpstreamRequest
from twogate.flows.sessions import nothing

NOW = 1_800_000_000
URL = "https://mcp.example.com"
ISSUER = "https://login.example.com"
FILES = f"{URL}/mcp/files"
ROBOT = AgentId("acme", "robot")
AGENT = Agent(ROBOT, "executor", ("report", "edit"), "report")
BINDING = Binding(Method.JWT, ISSUER, "robot")
PRINCIPAL = Principal(
    tenant="acme",
    issuer=ISSUER,
    agent=AGENT,
    user=None,
    user_roles=(),
    groups=(),
    scopes=frozenset(),
    method=Method.JWT,
    credential="a1:00",
    session_id=None,
    expires_at=NOW + 300,
)
ALICE = UserId(ISSUER, "alice")

CLASSES = {
    "files.look": ToolClass.READ,
    "files.find": ToolClass.SEARCH,
    "files.get": ToolClass.FETCH,
    "files.change": ToolClass.WRITE,
    "files.mail": ToolClass.SEND,
    "files.run": ToolClass.EXECUTE,
    "files.peek": ToolClass.SECRETS,
    "files.wipe": ToolClass.CONFIGURE,
    "files.resource:file:///a": ToolClass.READ,
    "notes.look": ToolClass.READ,
}
ROLES = {
    name: Role(name, frozenset(role.allow), frozenset(role.token), frozenset(role.deny))
    for name, role in SHIPPED_ROLES.items()
}
POLICY = Policy(
    generation="g1",
    classes=CLASSES,
    roles=ROLES,
    tasks={
        "report": frozenset({"files.look", "notes.look"}),
        "edit": frozenset({"files.look", "files.find", "files.change", "files.wipe"}),
        "all": frozenset(tool_class.value for tool_class in ToolClass),
    },
    scopes={},
    groups={"staff": Group("reader", frozenset({"reports"}))},
    tenants={"acme": Tenant(frozenset({"files"}))},
)


def with_user(
    principal: Principal = PRINCIPAL, *, role: str | None = None, roles: Iterable[str] = (), groups: Iterable[str] = ()
) -> Principal:
    """The principal with Alice behind it."""
    every = (*roles,) if role is None else (role, *roles)
    return msgspec.structs.replace(principal, user=ALICE, user_roles=every, groups=tuple(groups))


def policy(**changes: Any) -> Policy:
    """The sample policy with some parts replaced."""
    return msgspec.structs.replace(POLICY, **changes)


def accessors() -> Accessors:
    """Accessors under a fixed key."""
    return Accessors("a1", bytes(32))


class EveryReplay:
    """A store of used values in memory; implements `ReplayStore`."""

    def __init__(self) -> None:
        self.used: set[tuple[str, str, str]] = set()

    async def redeem(self, kind: str, issuer: str, value: str, expires_at: int, now: int) -> bool:
        fresh = (kind, issuer, value) not in self.used
        self.used.add((kind, issuer, value))
        return fresh


def possession() -> Possession:
    """What judges proofs, under a fixed key for nonces."""
    replay = EveryReplay()
    return Possession(DpopProofs("https://mcp.example.com", replay, bytes(32)), replay)


def identifier(clock: Clock) -> Identifier:
    """What makes identity tokens, under a key of its own."""
    return Identifier(
        "https://mcp.example.com", LocalSigner(ec.generate_private_key(ec.SECP256R1())), clock, SystemRng()
    )


@dataclass
class FakeClock:
    """A clock that moves only when told to."""

    seconds: float = float(NOW)

    def now(self) -> int:
        return int(self.seconds)

    def now_us(self) -> int:
        return int(self.seconds * 1_000_000)

    def monotonic(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


@dataclass
class CountingRng:
    """Draws 1, 2, 3, … so that nothing repeats and every run is alike."""

    drawn: int = 0

    def token(self, size: int) -> bytes:
        self.drawn += 1
        return self.drawn.to_bytes(size, "big")


@dataclass
class RecordingAudit:
    """An audit trail in memory that refuses the kinds of event it is told to."""

    journal: list[str] = field(default_factory=list)
    events: list[AuditEvent] = field(default_factory=list)
    refuses: frozenset[EventKind] = frozenset()

    async def append(self, event: AuditEvent) -> None:
        if event.kind in self.refuses:
            raise GateError(ErrorCode.AUDIT_UNAVAILABLE, "told to")
        self.journal.append(event.kind.value)
        self.events.append(event)

    @property
    def kinds(self) -> list[EventKind]:
        return [event.kind for event in self.events]


@dataclass
class MemorySessions:
    """A session store in memory, and the revision that each of its changes moves."""

    rows: dict[str, Session] = field(default_factory=dict)
    revision: int = 0
    reads: int = 0
    before_read_returns: Callable[[], None] = lambda: None
    knows: bool = True
    """Whether the revision is known without asking."""

    def current(self) -> int | None:
        return self.revision if self.knows else None

    async def read(self) -> int:
        return self.revision

    async def open(
        self, candidate: Session, agent: Agent, now: int, announce: Callable[[], Awaitable[None]] = nothing
    ) -> Session:
        wanted = candidate.principal
        mine = [
            row
            for row in await self.list_unexpired(now)
            if (row.principal.tenant, row.principal.agent, row.principal.user)
            == (wanted.tenant, wanted.agent, wanted.user)
        ]
        found = find_or_refuse(agent, wanted, candidate.task, mine)
        if found is None:
            await announce()
            self.rows[candidate.id] = found = candidate
            self.revision += 1
        self.before_read_returns()
        return found

    async def get(self, session_id: str) -> Session | None:
        self.reads += 1
        row = self.rows.get(session_id)
        self.before_read_returns()
        return row

    async def list_unexpired(self, now: int, tenant: str | None = None) -> Sequence[Session]:
        rows = [row for row in self.rows.values() if now < row.deadline and tenant in (None, row.principal.tenant)]
        return sorted(rows, key=lambda row: row.created_at)

    async def end(self, session_id: str, now: int) -> Session | None:
        row = self.rows.get(session_id)
        if row is None:
            return None
        if row.ended_at is None and now < row.deadline:
            row = self.rows[session_id] = msgspec.structs.replace(row, ended_at=now)
            self.revision += 1
        return row


@dataclass
class FakeExchange:
    """One request whose answer is kept. `complete` only when the last piece was sent."""

    body: bytes = b""
    journal: list[str] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    status: int | None = None
    headers: Mapping[bytes, bytes] = field(default_factory=dict)
    length: int | None = None
    sent: list[bytes] = field(default_factory=list)
    complete: bool = False
    broken_off: bool = False
    stuck_at_last: asyncio.Event | None = None
    events_allowed: bool = True

    @property
    def events(self) -> bool:
        return self.events_allowed

    async def read_body(self, limit: int) -> bytes:
        self.journal.append("body read")
        if len(self.body) > limit:
            raise GateError(ErrorCode.TOO_LARGE)
        return self.body

    def forwarding(self) -> None:
        pass

    async def refuse(self, refusal: Refusal) -> None:
        assert self.status is None, "refused an exchange that had been answered"
        self.journal.append("refused")
        self.refusals.append(refusal)
        self.status = 0
        self.complete = True

    async def start(self, status: int, headers: tuple[tuple[bytes, bytes], ...], *, length: int | None) -> None:
        assert self.status is None, "answered twice"
        self.journal.append("head")
        self.status, self.headers, self.length = status, dict(headers), length

    async def send(self, chunk: bytes, *, more: bool) -> None:
        assert self.status is not None
        assert not self.complete, "sent after the end"
        self.journal.append("piece" if more else "last piece")
        self.sent.append(chunk)
        self.complete = not more
        if self.complete and self.stuck_at_last is not None:
            await self.stuck_at_last.wait()

    async def abort(self) -> None:
        self.journal.append("broken off")
        self.broken_off = True

    @property
    def refused(self) -> ErrorCode:
        """The reason of the one refusal."""
        assert len(self.refusals) == 1
        return self.refusals[0].error.code

    @property
    def answer(self) -> bytes:
        return b"".join(self.sent)

    def message(self) -> Any:
        """The answer as JSON."""
        return msgspec.json.decode(self.answer)

    def messages(self) -> list[Any]:
        """The messages of an answer that is an event stream."""
        lines = [line for line in self.answer.split(b"\n") if line.startswith(b"data: ")]
        return [msgspec.json.decode(line.removeprefix(b"data: ")) for line in lines if line != b"data: "]


@dataclass
class FakeAnswer:
    """An upstream's answer in pieces; a `GateError` among them is raised, an `Event` is waited for."""

    pieces: Sequence[bytes | GateError | asyncio.Event]
    status: int = 200
    content_type: str = "application/json"
    session_id: str | None = None
    closed: int = 0

    async def chunks(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            if isinstance(piece, GateError):
                raise piece
            if isinstance(piece, asyncio.Event):
                await piece.wait()
            else:
                yield piece

    async def aclose(self) -> None:
        self.closed += 1


@dataclass
class FakeUpstream:
    """An MCP server that gives one prepared answer and keeps what it was sent; it accepts what is no request."""

    answer: FakeAnswer | GateError | asyncio.Event
    journal: list[str] = field(default_factory=list)
    seen: list[UpstreamRequest] = field(default_factory=list)

    async def send(self, request: UpstreamRequest) -> FakeAnswer:
        self.journal.append("upstream")
        self.seen.append(request)
        if len(self.seen) > 1 and request.message is not None and request.message.kind is Kind.RESPONSE:
            return FakeAnswer([], 202, "")
        if isinstance(self.answer, GateError):
            raise self.answer
        if isinstance(self.answer, asyncio.Event):
            await self.answer.wait()
            raise GateError(ErrorCode.UPSTREAM_BROKEN, "let go")
        return self.answer

    async def aclose(self) -> None:
        raise AssertionError("nobody closes the upstream during a call")


def response(result: Any, request_id: object = 1) -> bytes:
    """A JSON-RPC response."""
    return msgspec.json.encode({"jsonrpc": "2.0", "id": request_id, "result": result})


def sse(*messages: Any) -> bytes:
    """Messages (objects, or bytes as they are) as an event stream."""
    encoded = [message if isinstance(message, bytes) else msgspec.json.encode(message) for message in messages]
    return b"".join(b"event: message\ndata: %b\n\n" % data for data in encoded)


class NoTools:
    """A catalogue of servers whose tools repeat no argument in headers."""

    async def tools(self, tenant: str, server: str, *, newer_than: object = None) -> Any:
        raise AssertionError("no test here calls a tool of a modern server")

    async def prompts(self, tenant: str, server: str, *, newer_than: object = None) -> Any:
        raise AssertionError("no test here gets a prompt that was approved")
