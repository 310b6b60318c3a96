"""Servers that know one line each way, as upstreams: a link for each principal and session, kept as long as it is used.

A link is never shared by two principals, because such a server may keep state between calls. It is not shared by the
eras either, since a server settles on one with the first message it reads, nor by clients that settled different things
with `initialize`: what the server is told of its client must be true of who answers.

Clients of both eras ask `server/discover` first. A server that answers with an error has no stateless era to keep a
link for, so that link is ended, and who asks the same again is told the same without another start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from itertools import count
from typing import Final

from twogate.adapters.upstream.duplex_channel import Channel, DuplexLimits
from twogate.adapters.upstream.duplex_link import Link
from twogate.adapters.upstream.duplex_mailbox import FixedAnswer, Mailbox, StreamAnswer
from twogate.adapters.upstream.duplex_refusal import DISCOVER, Refusal, refusal_of
from twogate.adapters.upstream.duplex_session import ClientSession, parse_session, session_of
from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import Kind, Message
from twogate.core.principal import PrincipalKey
from twogate.flows.environment import Clock
from twogate.flows.gateway.upstream import UpstreamAnswer, UpstreamRequest

_ENDED: Final = FixedAnswer(200)
_ACCEPTED: Final = FixedAnswer(202)
_NOT_ALLOWED: Final = FixedAnswer(405)
_CONFLICT: Final = FixedAnswer(409)

_Key = tuple[PrincipalKey, bool, str]
_STALE: Final = "#"
"""Stands in the key of a slot that only ends what it began, and in no session's id."""


class _Slot:
    """A place for a link: the one that runs, its stream, and when the next may be started if the last one failed.

    `leaving` is set while the client has ended its session, and something else still uses the link; `stale` when no new
    call comes to it, so that it ends with the calls it has. `refusal` is how the server refused the stateless era.
    """

    def __init__(self, session: ClientSession | None) -> None:
        self.session = session
        self.link: Link | None = None
        self.stream: Mailbox | None = None
        self.leaving = False
        self.stale = False
        self.refusal: Refusal | None = None
        self.started_at = 0.0
        self.backoff = 0.0
        self.not_before = 0.0


class DuplexUpstream:
    """Implements `flows.gateway.upstream.Upstream` over links, which `connect` opens for their owner.

    `log` takes lines for people.
    """

    def __init__(
        self,
        connect: Callable[[PrincipalKey], Awaitable[Channel]],
        *,
        limits: DuplexLimits,
        clock: Clock,
        log: Callable[[str], None],
    ) -> None:
        self._connect = connect
        self._limits = limits
        self._clock = clock
        self._log = log
        self._slots: dict[_Key, _Slot] = {}
        self._lives: dict[asyncio.Task[None], PrincipalKey] = {}
        """One task for each link that exists, those that are being ended included."""
        self._sweeper: asyncio.Task[None] | None = None
        self._closed = False
        self._epoch = clock.now_us()
        self._serials = count(1)

    async def send(self, request: UpstreamRequest) -> UpstreamAnswer:
        """Send one message to the principal's link, which is started if there is none.

        A notification or response of a client is accepted (202) and never starts a link, nor does GET, whose stream
        waits for one; a second GET is refused (409). DELETE ends a session. The stateless era has neither (405).

        Raises:
            GateError: what `Link.call` raises; MCP_SESSION_UNKNOWN, INVALID_PARAMS; UPSTREAM_UNAVAILABLE during a
                back-off, if no link can be opened, and if every link or stream is in use.
        """
        message = request.message
        session = None if request.modern or request.session is None else parse_session(request.session)
        if message is not None and message.method == "initialize" and not request.modern:
            session = session_of(message)
        key = (request.owner, request.modern, "" if session is None else session.id)
        if request.http_method == "GET" and not request.modern:
            return self._listen(key, session)
        if request.http_method == "DELETE" and session is not None:
            return self._end(key)
        if request.http_method != "POST" or message is None:
            return _NOT_ALLOWED
        if message.kind is not Kind.REQUEST:
            for link in self._links(key):
                if message.kind is Kind.NOTIFICATION:
                    link.notify(message)
                else:
                    await link.respond(message, request.timeout)
            return _ACCEPTED
        if request.modern and message.method == DISCOVER:
            return await self._discover(key, message, request.timeout)
        return (await self._call(key, session, message, request.timeout))[0]

    async def aclose(self) -> None:
        """End every link with its grace and return when all are gone."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        for slot in self._slots.values():
            self._retire(slot)
        if self._lives:
            await asyncio.wait(self._lives)

    def sweep(self) -> None:
        """End the links that were idle too long, and forget principals without any."""
        now = self._clock.monotonic()
        for key, slot in list(self._slots.items()):
            if slot.link is None:
                known = slot.refusal is not None and now < slot.refusal.until
                if slot.stream is None and not known and now >= slot.not_before + self._limits.backoff_longest:
                    del self._slots[key]
            elif slot.link.idle and now - slot.link.last_used >= self._limits.idle:
                self._retire(slot)

    def renew(self, tenant: str) -> None:
        """Let nothing more begin on the links that a tenant has now; each ends when what is under way on it has."""
        for key, slot in list(self._slots.items()):
            if key[0].tenant != tenant:
                continue
            slot.refusal = None
            if slot.link is not None:
                # Under another name, which no session has, so that it counts and is ended like any other.
                del self._slots[key]
                self._slots[key[0], key[1], f"{key[2]}{_STALE}{next(self._serials):x}"] = slot
                slot.leaving = slot.stale = True
                self._settle(slot)

    # Requests.

    async def _call(
        self, key: _Key, session: ClientSession | None, message: Message, seconds: float
    ) -> tuple[UpstreamAnswer, Link]:
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        try:
            async with asyncio.timeout_at(until):
                link = await self._link(key, session)
        except TimeoutError as error:
            raise GateError(ErrorCode.UPSTREAM_UNAVAILABLE, "no link became free in time") from error
        return await link.call(message, until - loop.time()), link

    async def _discover(self, key: _Key, message: Message, seconds: float) -> UpstreamAnswer:
        slot = self._slots.get(key)
        known = None if slot is None or slot.refusal is None else slot.refusal.again(message, self._clock.monotonic())
        if known is not None:
            return known
        answer, link = await self._call(key, None, message, seconds)
        refusal = refusal_of(message, answer, until=self._clock.monotonic() + self._limits.idle)
        slot = self._slots.get(key)
        if refusal is not None and slot is not None and slot.link is link:
            slot.refusal = refusal
            slot.leaving = True
            self._settle(slot)
        return answer

    # Streams and sessions.

    def _listen(self, key: _Key, session: ClientSession | None) -> UpstreamAnswer:
        if self._closed:
            raise GateError(ErrorCode.UPSTREAM_UNAVAILABLE, "this server was closed")
        slot = self._slots.get(key)
        if slot is not None and slot.stream is not None:
            return _CONFLICT
        mine = sum(other.stream is not None for (owner, _, _), other in self._slots.items() if owner == key[0])
        if mine >= self._limits.links_per_owner:
            raise GateError(ErrorCode.UPSTREAM_UNAVAILABLE, f"{mine} streams of this principal are open")
        if slot is None:
            slot = self._slots[key] = _Slot(session)
        stream = slot.stream = Mailbox(self._limits.queued_bytes, drop_oldest=True)
        if slot.link is not None:
            slot.link.attach(stream)
        return StreamAnswer(
            stream, silence=None, patience=self._limits.patience, close=lambda: self._leave(key, slot, stream)
        )

    def _leave(self, key: _Key, slot: _Slot, stream: Mailbox) -> None:
        """The reader of a stream has gone."""
        if slot.link is not None:
            slot.link.detach(stream)
        if slot.stream is stream:
            slot.stream = None
        self._settle(slot)
        free = slot.link is None and slot.stream is None and slot.not_before <= self._clock.monotonic()
        if free and self._slots.get(key) is slot:
            del self._slots[key]

    def _end(self, key: _Key) -> UpstreamAnswer:
        # The official client ends its session before it closes its stream, so that one may still be open.
        slot = self._slots.get(key)
        if slot is not None:
            slot.leaving = True
            self._settle(slot)
        return _ENDED

    def _settle(self, slot: _Slot) -> None:
        if slot.leaving and (slot.link is None or slot.link.idle or (slot.stale and slot.link.spare)):
            self._retire(slot)

    # Links.

    def _links(self, key: _Key) -> list[Link]:
        """The link of a session, and those that only end what they began; each knows what is its own."""
        return [
            slot.link
            for (owner, modern, session), slot in self._slots.items()
            if slot.link is not None and (owner, modern, session.partition(_STALE)[0]) == key
        ]

    async def _link(self, key: _Key, session: ClientSession | None) -> Link:
        while True:
            if self._closed:
                raise GateError(ErrorCode.UPSTREAM_UNAVAILABLE, "this server was closed")
            slot = self._slots.get(key)
            if slot is not None and slot.link is not None:
                slot.leaving = False
                return slot.link
            if slot is not None and self._clock.monotonic() < slot.not_before:
                raise GateError(ErrorCode.UPSTREAM_UNAVAILABLE, f"failed; waiting {slot.backoff} s to start again")
            # Nothing is awaited between the counts and the start, so the limits hold.
            tenant, limits = key[0].tenant, self._limits
            mine = [life for life, owner in self._lives.items() if owner == key[0]]
            ours = [life for life, owner in self._lives.items() if owner.tenant == tenant]
            if len(mine) >= limits.links_per_owner:
                await self._make_room(mine, [slot for other, slot in self._slots.items() if other[0] == key[0]])
            elif limits.links_per_tenant is not None and len(ours) >= limits.links_per_tenant:
                # Of its own only: nobody's link has to go for another tenant's.
                await self._make_room(ours, [slot for other, slot in self._slots.items() if other[0].tenant == tenant])
            elif len(self._lives) >= limits.links:
                await self._make_room(self._lives, self._slots.values())
            else:
                return self._start(key, self._slots.setdefault(key, slot or _Slot(session)))

    async def _make_room(self, lives: Iterable[asyncio.Task[None]], slots: Iterable[_Slot]) -> None:
        """Wait until one of these links has ended.

        If none is ending, the one that was used longest ago is ended: an idle one, else one with nothing but streams.
        """
        lives = list(lives)
        running = [(slot, slot.link) for slot in slots if slot.link is not None]
        if len(running) == len(lives):
            spare = [(not link.idle, link.last_used, slot) for slot, link in running if link.spare]
            if not spare:
                raise GateError(ErrorCode.UPSTREAM_UNAVAILABLE, f"all {len(running)} links are in use")
            self._retire(min(spare, key=lambda entry: entry[:2])[2])
        await asyncio.wait(lives, return_when=asyncio.FIRST_COMPLETED)

    def _start(self, key: _Key, slot: _Slot) -> Link:
        link = Link(
            modern=key[1],
            session=slot.session,
            serial=f"{self._epoch:x}.{next(self._serials):x}",
            limits=self._limits,
            clock=self._clock,
            on_failure=partial(self._failed, slot),
            on_idle=partial(self._settle, slot),
        )
        slot.link = link
        slot.leaving = False
        slot.started_at = self._clock.monotonic()
        if slot.stream is not None:
            link.attach(slot.stream)
        life = link.start(partial(self._connect, key[0]), self._log)
        self._lives[life] = key[0]
        life.add_done_callback(self._lives.pop)
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().create_task(self._sweep_for_ever())
        return link

    def _failed(self, slot: _Slot) -> None:
        now = self._clock.monotonic()
        slot.link = slot.stream = None
        if now - slot.started_at >= self._limits.healthy_after:
            slot.backoff = 0.0
        else:
            slot.backoff = min(self._limits.backoff_longest, slot.backoff * 2 or self._limits.backoff)
        slot.not_before = now + slot.backoff

    @staticmethod
    def _retire(slot: _Slot) -> None:
        if slot.link is not None:
            slot.link.end_soon()
        elif slot.stream is not None:
            slot.stream.end()
        slot.link = slot.stream = None
        slot.leaving = False

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._limits.sweep)
            self.sweep()
