"""Calls that wait and channels that keep what they are told, over a real store and a clock that is moved by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from gatelab import FakeClock, RecordingAudit
from harness.database import open_migrated
from twogate.adapters.envelope import LocalEnvelope
from twogate.adapters.rng import SystemRng
from twogate.core.approval import Duty, ParkedCall, Rule
from twogate.core.audit.record import EventKind
from twogate.core.notices import EVENTS, Kind, Notice
from twogate.core.principal import UserId
from twogate.flows.approvals.notices import Channel, ChannelError, Listener, Notices
from twogate.flows.approvals.parked import Parking, live_key
from twogate.stores.sql.approvals import SqlParkedStore
from twogate.stores.sql.notices import SqlNoticeStore

PUBLIC_URL = "https://mcp.example.com"
ALICE = UserId("https://idp.example", "alice")
RULE = Rule(
    frozenset({Duty.APPROVER}),
    within=3600,
    remind_after=600,
    escalate_after=1200,
    escalate_to=frozenset({Duty.ADMINISTRATOR}),
)


@dataclass
class Kept:
    """A channel that keeps what it is told, and refuses while it is down."""

    got: list[Notice] = field(default_factory=list[Notice])
    down: bool = False
    tried: int = 0

    async def send(self, notice: Notice) -> None:
        self.tried += 1
        if self.down:
            raise ChannelError("down")
        self.got.append(notice)

    @property
    def kinds(self) -> list[Kind]:
        return [notice.kind for notice in self.got]


class Dying(Kept):
    """One whose process dies after each message, before that is noted."""

    async def send(self, notice: Notice) -> None:
        await super().send(notice)
        raise asyncio.CancelledError


@dataclass
class NoticeLab:
    engine: AsyncEngine
    clock: FakeClock
    audit: RecordingAudit
    parked: SqlParkedStore
    store: SqlNoticeStore
    made: int = 0

    def notices(self, listeners: Mapping[str, Listener]) -> Notices:
        """What a process would have; another one is another replica."""
        rng = SystemRng()
        parking = Parking(self.parked, LocalEnvelope(bytes(32), rng), self.audit, self.clock, rng)
        return Notices(self.store, self.parked, parking, listeners, self._name, PUBLIC_URL, self.audit, self.clock, rng)

    def telling(self, **channels: Channel) -> Notices:
        """With channels for every event of every tenant."""
        return self.notices({name: listener(channel) for name, channel in channels.items()})

    async def park(self, sealed: bytes = b"", **changes: object) -> ParkedCall:
        """Park a call; another one each time."""
        self.made += 1
        now = self.clock.now()
        call = msgspec.structs.replace(
            ParkedCall(
                id=f"a-{self.made}",
                nonce="n",
                tenant="acme",
                issuer="https://as.example",
                agent="reporter",
                user=ALICE,
                session="s-1",
                task="release",
                server="git",
                tool="git.git_commit",
                pin="",
                digest=f"{self.made:064x}",
                created_at=now,
                deadline=now + 3600,
                rule=RULE,
            ),
            **changes,
        )

        async def nothing() -> None:
            """Announce to nobody."""

        assert await self.parked.park(call, sealed, live_key(call), 1000, nothing) is not None
        return call

    def failed(self) -> list[str]:
        """What the trail says could not be delivered."""
        return [event.detail for event in self.audit.events if event.kind is EventKind.NOTICE_FAILED]

    async def _name(self, _tenant: str, user: UserId) -> str:
        return user.subject


def listener(channel: Channel, *tenants: str, events: tuple[Kind, ...] = EVENTS) -> Listener:
    return Listener(channel, frozenset(events), frozenset(tenants))


@asynccontextmanager
async def open_notice_lab(url: str) -> AsyncGenerator[NoticeLab]:
    engine = await open_migrated(url)
    try:
        store = SqlNoticeStore(engine)
        yield NoticeLab(engine, FakeClock(), RecordingAudit(), SqlParkedStore(engine), store)
    finally:
        await engine.dispose()


def secret_file(directory: Path, name: str, text: str, mode: int = 0o600) -> Path:
    path = directory / name
    path.write_text(text)
    path.chmod(mode)
    return path
