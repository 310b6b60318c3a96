"""Exchanges of calls that wait: one whose answer is held, and one that catches what a run brings.

A held answer becomes an event stream as soon as there is something to tell before its end; whatever ends it comes as
the last event then. A shared stream is a long-lived one, on which Twogate has its own word between those of the server.
What a run brings is caught whole, so that it can be kept before it is delivered; one that is too
long to be kept goes through as it comes.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, Protocol

import msgspec

from twogate.core import strict_json
from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import encode_error
from twogate.core.sse import SseEvent, SsePart, encode_event, encode_part
from twogate.flows.gateway.exchange import EVENT_ANSWER, JSON_ANSWER, Exchange, Header, Refusal

_OK: Final = 200
_KEEP_ALIVE: Final = b":\n\n"


class HeldExchange:
    """One request whose answer may be held; implements `Exchange` for refusals and whole answers."""

    def __init__(self, outer: Exchange) -> None:
        self._outer = outer
        self._streaming = False
        self._large = False

    @property
    def events(self) -> bool:
        """Whether the answer may be an event stream; a batch's may not."""
        return self._outer.events

    def begin(self) -> None:
        """Told when the call is accepted: an answer will come, though it may take its time."""
        self._outer.forwarding()

    async def word(self, notification: dict[str, Any] | None) -> None:
        """Tell the client that it waits: by a notification, or else by a comment."""
        if not self._streaming:
            self._streaming = True
            await self._outer.start(_OK, EVENT_ANSWER, length=None)
        block = _KEEP_ALIVE
        if notification is not None:
            block = encode_event(SseEvent(strict_json.encode(notification), "message"))
        await self._outer.send(block, more=True)

    async def answer(self, status: int, body: bytes) -> None:
        """End with a whole message."""
        if self._streaming:
            await self._outer.send(encode_event(SseEvent(body, "message")), more=False)
        else:
            await self._outer.start(status, JSON_ANSWER, length=len(body))
            await self._outer.send(body, more=False)

    async def piece(self, data: bytes, *, more: bool) -> None:
        """A piece of a message that is too long to be held."""
        first, self._large = not self._large, True
        if self._streaming:
            await self._outer.send(encode_part(SsePart(data, first=first, last=not more, event="message")), more=more)
            return
        if first:
            await self._outer.start(_OK, JSON_ANSWER, length=None)
        await self._outer.send(data, more=more)

    async def refuse(self, refusal: Refusal) -> None:
        """End with a refusal."""
        if not self._streaming:
            await self._outer.refuse(refusal)
            return
        error = refusal.error
        await self.answer(_OK, encode_error(refusal.request_id, error.code, error.data))

    async def abort(self) -> None:
        """Break the answer off."""
        await self._outer.abort()

    async def read_body(self, limit: int) -> bytes:
        """The body was read already."""
        raise GateError(ErrorCode.INTERNAL, f"the body of a call that waits is read twice ({limit})")

    def forwarding(self) -> None:
        """The client was told."""

    async def start(self, status: int, headers: tuple[Header, ...], *, length: int | None) -> None:
        """Nothing is streamed to it but by `word` and `piece`."""
        raise GateError(ErrorCode.INTERNAL, f"a held answer is started anew ({status}, {len(headers)}, {length})")

    async def send(self, chunk: bytes, *, more: bool) -> None:
        """As `start`."""
        raise GateError(ErrorCode.INTERNAL, f"a held answer is streamed ({len(chunk)}, {more})")


class SharedStream:
    """A long-lived stream on which Twogate may speak too; implements `Exchange`.

    The relay of such a stream sends whole events, so between two of them there is room for another.
    """

    def __init__(self, outer: Exchange) -> None:
        self._outer = outer
        self._turn = asyncio.Lock()
        self._open = False
        self.served = asyncio.Event()
        """Set once nothing serves it any more."""
        self.heard = False
        """Whether anything but comments was sent: on `subscriptions/listen` that begins with what is acknowledged."""

    @property
    def events(self) -> bool:
        """Whether the answer may be an event stream."""
        return self._outer.events

    @property
    def open(self) -> bool:
        """Whether there is an event stream now."""
        return self._open

    async def begin(self) -> None:
        """Open the stream, where no server does."""
        await self.start(_OK, EVENT_ANSWER, length=None)

    async def tell(self, message: dict[str, Any]) -> bool:
        """Send a message of Twogate's; False if there is no stream."""
        event = encode_event(SseEvent(strict_json.encode(message), "message"))
        async with self._turn:
            if not self._open:
                return False
            self.heard = True
            await self._outer.send(event, more=True)
        return True

    async def keep_alive(self) -> None:
        """Send a comment, so that a client that is gone is noticed."""
        await self.send(_KEEP_ALIVE, more=True)

    async def end(self, message: dict[str, Any] | None) -> None:
        """End the stream, with a last message if there is one to send."""
        await self.send(b"" if message is None else encode_event(SseEvent(strict_json.encode(message))), more=False)

    async def read_body(self, limit: int) -> bytes:
        """The body was read already."""
        raise GateError(ErrorCode.INTERNAL, f"the body of a stream is read twice ({limit})")

    def forwarding(self) -> None:
        """As the exchange that is shared."""
        self._outer.forwarding()

    async def refuse(self, refusal: Refusal) -> None:
        """As the exchange that is shared."""
        async with self._turn:
            self._open = False
            await self._outer.refuse(refusal)

    async def start(self, status: int, headers: tuple[Header, ...], *, length: int | None) -> None:
        """As the exchange that is shared."""
        async with self._turn:
            await self._outer.start(status, headers, length=length)
            self._open = length is None and headers[:1] == EVENT_ANSWER[:1]

    async def send(self, chunk: bytes, *, more: bool) -> None:
        """As the exchange that is shared, when it is its turn."""
        async with self._turn:
            self._open = self._open and more
            self.heard = self.heard or not chunk.startswith(b":")
            await self._outer.send(chunk, more=more)

    async def abort(self) -> None:
        """As the exchange that is shared."""
        self._open = False
        await self._outer.abort()


class Passing(Protocol):
    """Where an answer goes that is too long to be kept."""

    async def piece(self, data: bytes, *, more: bool) -> None:
        """Pass one piece on."""
        ...


class Answered(msgspec.Struct, frozen=True):
    """A whole answer."""

    status: int
    body: bytes


class Captured:
    """Catches the answer of a run; implements `Exchange`. It has no events: the run's server can ask nobody anything.

    `outcome` is the whole answer or the refusal; None if there is none, because it went on or was broken off.
    """

    events = False

    def __init__(self, passing: Passing | None, longest: int) -> None:
        """Longer answers go to `passing`, or are dropped without it."""
        self._passing = passing
        self._longest = longest
        self._status = _OK
        self._body = bytearray()
        self.outcome: Answered | Refusal | None = None
        self.long = False
        self.broken = False

    async def read_body(self, limit: int) -> bytes:
        """The body was read already."""
        raise GateError(ErrorCode.INTERNAL, f"the body of a call that waits is read twice ({limit})")

    def forwarding(self) -> None:
        """Nobody has to be told."""

    async def refuse(self, refusal: Refusal) -> None:
        """Catch a refusal."""
        self.outcome = refusal

    async def start(self, status: int, headers: tuple[Header, ...], *, length: int | None) -> None:
        """Catch the head; its headers are the answer's own form, and made anew."""
        del headers, length
        self._status = status

    async def send(self, chunk: bytes, *, more: bool) -> None:
        """Catch a piece."""
        if not self.long:
            self._body += chunk
            if len(self._body) <= self._longest:
                if not more:
                    self.outcome = Answered(self._status, bytes(self._body))
                return
            self.long, chunk = True, bytes(self._body)
            self._body.clear()
        if self._passing is not None:
            await self._passing.piece(chunk, more=more)

    async def abort(self) -> None:
        """Nothing whole comes any more."""
        self.broken = True
