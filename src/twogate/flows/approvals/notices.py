"""Telling people about calls that wait (row R-34): planned from what is stored, delivered at least once.

Nothing here is on a call's way. A call that was parked waits whether or not anybody could be told; what is due is read
from the store each time, so that neither a crash nor a restart loses anything. Of several replicas one makes a message
(its row is its unique key) and one sends it (it claims the row for LEASE seconds, by which a crash only delays).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from typing import Final, Protocol

import msgspec

from twogate.core.approval import Duty, ParkedCall, Rule, State
from twogate.core.audit.record import EventKind
from twogate.core.notices import MAX_ATTEMPTS, Kind, Notice, OpenCall, compose, due, is_moot, pause
from twogate.core.principal import UserId
from twogate.core.shown import shown
from twogate.flows.approvals.parked import Announce, Parked, ParkedStore, Parking
from twogate.flows.audit import AuditSink
from twogate.flows.environment import Clock, Rng

LEASE: Final = 60
"""Seconds for which whoever claimed a message has it alone; longer than any channel takes to send one."""

MOST: Final = 2000
"""Calls that are looked at in one round."""

PER_ROUND: Final = 20
"""Messages that a channel sends in one round."""

_MAX_WHY: Final = 200
_NO_RULE: Final = Rule(frozenset({Duty.APPROVER}))


class ChannelError(Exception):
    """A message could not be delivered, or not surely. The text says why; it holds no secret."""


class Channel(Protocol):
    """A way to reach people."""

    async def send(self, notice: Notice) -> None:
        """Send a message once, within less than LEASE seconds.

        Raises:
            ChannelError: it was not taken, or nobody knows.
        """
        ...


class Listener(msgspec.Struct, frozen=True):
    """A channel, and what it is for. `tenants` is empty for all of them."""

    channel: Channel
    events: frozenset[Kind]
    tenants: frozenset[str] = frozenset()

    def hears(self, tenant: str, kind: Kind) -> bool:
        """Whether it is told this."""
        return kind in self.events and (not self.tenants or tenant in self.tenants)


class Planned(msgspec.Struct, frozen=True):
    """A message that is to be sent."""

    approval: str
    kind: Kind
    channel: str
    tenant: str


class Claimed(msgspec.Struct, frozen=True):
    """A message that this process sends now. `attempts` counts this one; `rest` are others that it stands for."""

    approval: str
    kind: Kind
    channel: str
    attempts: int
    rest: tuple[tuple[str, Kind], ...] = ()


class Ended(StrEnum):
    """What became of a message: it was sent, had nothing to say any more, or could not be delivered."""

    SENT = "sent"
    MOOT = "moot"
    FAILED = "failed"


class NoticeStore(Protocol):
    """Keeps messages. Every method may raise GateError STORE_UNAVAILABLE."""

    async def open_calls(self, now: int, most: int) -> Sequence[OpenCall]:
        """Pending calls, oldest first, and then those decided lately (TOLD_LATE)."""
        ...

    async def plan(self, planned: Sequence[Planned], now: int) -> None:
        """Make messages, each once however often it is asked for."""
        ...

    async def claim(self, channel: str, now: int, until: int) -> Claimed | None:
        """Take the next message that is due for a channel, until then; None if there is none.

        A tenant has PER_MINUTE messages a minute; the last of them stands for all others that are due.
        """
        ...

    async def retry(self, claimed: Claimed, at: int) -> None:
        """Try it again at this time."""
        ...

    async def end(self, claimed: Claimed, ended: Ended, now: int, announce: Announce) -> bool:
        """Note what became of it, and if it was sent, of those that it stands for. False if that was noted before."""
        ...


NameOf = Callable[[str, UserId], Awaitable[str]]
"""What a user of a tenant is called."""


class Notices:
    """Tells people. `listeners` are the channels by name."""

    def __init__(
        self,
        store: NoticeStore,
        parked: ParkedStore,
        parking: Parking,
        listeners: Mapping[str, Listener],
        name_of: NameOf,
        public_url: str,
        audit: AuditSink,
        clock: Clock,
        rng: Rng,
    ) -> None:
        self._store = store
        self._parked = parked
        self._parking = parking
        self._listeners = listeners
        self._name_of = name_of
        self._public_url = public_url
        self._audit = audit
        self._clock = clock
        self._rng = rng

    @property
    def channels(self) -> Sequence[str]:
        """Their names."""
        return tuple(self._listeners)

    async def plan(self) -> None:
        """Make every message that is due and was not made, and end the calls whose time is over.

        Raises:
            GateError: STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        now = self._clock.now()
        planned: list[Planned] = []
        for call in await self._store.open_calls(now, MOST):
            if call.state is State.PENDING and now >= call.deadline:
                await self._parking.current(call.approval)
                continue
            kinds = tuple(due(call, now))
            await self._note(call, kinds, now)
            planned += (
                Planned(call.approval, kind, name, call.tenant)
                for kind in kinds
                for name, listener in self._listeners.items()
                if listener.hears(call.tenant, kind) and (kind, name) not in call.told
            )
        if planned:
            await self._store.plan(planned, now)

    async def deliver(self, channel: str) -> int:
        """Send what is due for one channel, until one message fails; how many were sent.

        Raises:
            GateError: STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        sent = 0
        for _ in range(PER_ROUND):
            now = self._clock.now()
            claimed = await self._store.claim(channel, now, now + LEASE)
            if claimed is None:
                break
            outcome = await self._send(claimed, now)
            sent += outcome is Ended.SENT
            if outcome in (None, Ended.FAILED):
                # The others would likely fail as this one did, each after as long a wait.
                break
        return sent

    async def tick(self) -> None:
        """One round: plan, and deliver on every channel.

        Raises:
            GateError: STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        await self.plan()
        for channel in self.channels:
            await self.deliver(channel)

    async def _note(self, call: OpenCall, kinds: Sequence[Kind], now: int) -> None:
        # For the pages, which show when.
        if Kind.REMINDED in kinds and call.reminded_at is None:
            await self._parked.note(call.approval, reminded_at=now)
        if Kind.ESCALATED in kinds and call.escalated_at is None:
            await self._parked.note(call.approval, escalated_at=now)

    async def _send(self, claimed: Claimed, now: int) -> Ended | None:
        parked = await self._parked.get(claimed.approval)
        listener = self._listeners[claimed.channel]
        if parked is None or not listener.hears(parked.call.tenant, claimed.kind):
            return await self._end(claimed, Ended.MOOT, now, _nothing)
        if is_moot(claimed.kind, parked.state, parked.call.deadline, now):
            if claimed.attempts == 1:
                return await self._end(claimed, Ended.MOOT, now, _nothing)
            return await self._give_up(claimed, parked, "the call was over before the message could be delivered")
        if claimed.attempts > MAX_ATTEMPTS:
            return await self._give_up(claimed, parked, "whoever sent it never said how it ended")
        user = "" if parked.call.user is None else await self._name_of(parked.call.tenant, parked.call.user)
        notice = compose(
            claimed.kind,
            claimed.channel,
            parked.call,
            parked.state,
            user=user,
            public_url=self._public_url,
            now=now,
            more=len(claimed.rest),
        )
        try:
            await listener.channel.send(notice)
        except ChannelError as error:
            wait = pause(claimed.attempts, self._rng.token(1)[0])
            if wait is None:
                return await self._give_up(claimed, parked, str(error))
            await self._store.retry(claimed, self._clock.now() + wait)
            return None
        return await self._end(claimed, Ended.SENT, self._clock.now(), _nothing)

    async def _give_up(self, claimed: Claimed, parked: Parked, why: str) -> Ended:
        async def announce() -> None:
            detail = f"{claimed.channel}: {claimed.kind.value}, tried {claimed.attempts} times: {shown(why, _MAX_WHY)}"
            event = self._parking.event(EventKind.NOTICE_FAILED, parked.call, detail)
            await self._audit.append(event)

        return await self._end(claimed, Ended.FAILED, self._clock.now(), announce)

    async def _end(self, claimed: Claimed, ended: Ended, now: int, announce: Announce) -> Ended:
        await self._store.end(claimed, ended, now, announce)
        return ended


async def _nothing() -> None:
    """Announce to nobody: a message that was sent stands in no trail."""


def trial(channel: str, tenant: str, public_url: str, now: int, nonce: str) -> Notice:
    """A message by which an operator tries a channel."""
    call = ParkedCall(
        id=f"test-{nonce}",
        nonce="",
        tenant=tenant,
        issuer="",
        agent="no-agent",
        user=None,
        session="",
        task="none",
        server="",
        tool="none.none",
        pin="",
        digest="",
        created_at=now,
        deadline=now,
        rule=_NO_RULE,
    )
    return msgspec.structs.replace(
        compose(Kind.TEST, channel, call, State.PENDING, user="", public_url=public_url, now=now),
        link=f"{public_url}/console/approvals",
    )
