"""The HTTP+SSE transport of MCP 2024-11-05 towards clients.

`GET /mcp/{server}/sse` opens a stream, `POST /mcp/{server}/messages/{id}` sends a message.

A client opens one event stream, is told where to POST, and reads every answer from the stream. Each POST goes through
both gates like any other; only its answer takes another way. A stream belongs to the principal that opened it, and what
it brings is shown only as long as that principal is proven. Streams live in one process: with several replicas, a
client's requests must reach the same one.
"""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64encode
from contextlib import suppress
from typing import Final

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import MAX_ANSWER, encode_error
from twogate.core.principal import PrincipalKey
from twogate.core.sse import SseEvent, encode_event
from twogate.flows.environment import Rng
from twogate.flows.gateway.caller import Caller
from twogate.flows.gateway.exchange import Exchange, Head, Header, Refusal
from twogate.flows.gateway.pipeline import Pipeline
from twogate.flows.gateway.streams import KEEP_ALIVE_TICKS, TICK

OPEN_PATH: Final = "/sse"
MESSAGES_PATH: Final = "/messages/"

MAX_STREAMS: Final = 1000
"""Streams of this process, of which each tenant has an equal part, and at least as many as one principal may have."""
MAX_STREAMS_PER_PRINCIPAL: Final = 16
MAX_MESSAGES: Final = 32
"""Messages of one stream that may be under way at once."""
QUEUED: Final = 16
"""Events that wait for a client that does not read, and"""
QUEUED_BYTES: Final = 1024 * 1024
"""bytes of them, or one larger event; then what brings more waits too."""

_EVENTS: Final[tuple[Header, ...]] = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)
_KEEP_ALIVE: Final = b":\n\n"
_OK: Final = 200


class _Stream:
    """One client's event stream, the MCP session behind it, and what is under way for it."""

    def __init__(self, identifier: str, owner: PrincipalKey, server: str, caller: Caller) -> None:
        self.id = identifier
        self.owner = owner
        self.server = server
        self.caller = caller  # as last proven, since a stream may outlive the token that opened it
        self.session: str | None = None
        self.events: asyncio.Queue[bytes | None] = asyncio.Queue(QUEUED)  # None ends the stream
        self._room = asyncio.Event()
        self._queued = 0
        self.under_way: set[asyncio.Task[None]] = set()
        self.listener: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing is under way or waits to be read."""
        return not self.under_way and self.events.empty()

    async def show(self, block: bytes) -> None:
        """Bring one block to the client, unless it is a comment."""
        if block.startswith(b":"):
            return
        while self._queued and self._queued + len(block) > QUEUED_BYTES:
            self._room.clear()
            await self._room.wait()
        self._queued += len(block)
        await self.events.put(block)

    async def next(self) -> bytes | None:
        """The next block for the client; None at the end. Cancelled, it takes nothing."""
        block = await self.events.get()
        if block is not None:
            self._queued -= len(block)
            self._room.set()
        return block

    def run(self, task: asyncio.Task[None]) -> None:
        """Count a task in until it is done."""
        self.under_way.add(task)
        task.add_done_callback(self.under_way.discard)


class LegacyStreams:
    """The event streams of one process, whatever generation opened them."""

    def __init__(self, rng: Rng) -> None:
        self._rng = rng
        self._streams: dict[str, _Stream] = {}

    async def open(
        self, pipeline: Pipeline, head: Head, exchange: Exchange, closing: tuple[asyncio.Event, ...]
    ) -> None:
        """Open a stream and serve it until the client goes, may not listen any more, or one of `closing` is set."""
        caller = await pipeline.meet(head, exchange)
        if caller is None:
            return
        # Each message names its task and session; to open a stream must not declare one.
        opening = msgspec.structs.replace(head, headers={"accept": "text/event-stream"})
        if not await pipeline.enter(caller.of(opening), exchange):
            return
        owner = caller.authenticated.principal.key
        mine = sum(stream.owner == owner for stream in self._streams.values())
        ours = sum(stream.owner.tenant == owner.tenant for stream in self._streams.values())
        # So no tenant's clients keep another's out, and what there is in all is bounded by this too.
        part = max(MAX_STREAMS // max(pipeline.tenants, 1), MAX_STREAMS_PER_PRINCIPAL)
        if mine >= MAX_STREAMS_PER_PRINCIPAL or ours >= part:
            await pipeline.refuse(caller, GateError(ErrorCode.RATE_LIMITED, "too many event streams"), exchange)
            return
        stream = _Stream(urlsafe_b64encode(self._rng.token(18)).decode(), owner, head.server, caller)
        self._streams[stream.id] = stream
        try:
            await exchange.start(200, _EVENTS, length=None)
            address = f"/mcp/{head.server}{MESSAGES_PATH}{stream.id}"
            await exchange.send(encode_event(SseEvent(address.encode(), "endpoint")), more=True)
            await self._serve(stream, exchange, closing)
            await exchange.send(b"", more=False)
        finally:
            del self._streams[stream.id]
            tasks = [*stream.under_way] if stream.listener is None else [*stream.under_way, stream.listener]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def message(self, pipeline: Pipeline, head: Head, exchange: Exchange, stream_id: str) -> None:
        """Take one POSTed message through both gates; its answer goes to the stream."""
        caller = await pipeline.meet(head, exchange)
        if caller is None:
            return
        stream = self._streams.get(stream_id)
        if stream is None or stream.owner != caller.authenticated.principal.key or stream.server != head.server:
            # One answer for both: an id of another principal's stream must not be told from one that never was.
            await pipeline.refuse(caller, GateError(ErrorCode.MCP_SESSION_UNKNOWN, "no such event stream"), exchange)
            return
        if len(stream.under_way) >= MAX_MESSAGES:
            limited = GateError(ErrorCode.RATE_LIMITED, "too many messages of one stream", data={"retry_after": 1})
            await pipeline.refuse(caller, limited, exchange)
            return
        stream.caller = caller
        answer = _MessageExchange(exchange, stream)
        inner = caller.of(_inner(head, "POST", stream.session))
        task = asyncio.get_running_loop().create_task(pipeline.serve(inner, answer))
        stream.run(task)
        # The client sends its next message only when this one is accepted, and may have to before it is answered.
        await asyncio.wait({task, answer.accepted}, return_when=asyncio.FIRST_COMPLETED)
        if answer.accepted.done():
            await exchange.start(202, (), length=0)
            await exchange.send(b"", more=False)
        else:
            await task  # it was refused, and the POST answered
        if stream.session is not None and stream.listener is None:
            listening = caller.of(_inner(head, "GET", stream.session))
            stream.listener = asyncio.get_running_loop().create_task(pipeline.serve(listening, _ListenExchange(stream)))

    async def _serve(self, stream: _Stream, exchange: Exchange, closing: tuple[asyncio.Event, ...]) -> None:
        silent = 0
        while not (any(event.is_set() for event in closing) and stream.idle):
            event: bytes | None = b""
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK):
                    event = await stream.next()
            try:
                await stream.caller.renewed()
            except GateError:
                return
            if event is None:
                return
            silent = 0 if event else silent + 1
            if event or silent % KEEP_ALIVE_TICKS == 0:
                await exchange.send(event or _KEEP_ALIVE, more=True)


class _ListenExchange:
    """Brings what belongs to no message to the stream; a server that has nothing of the kind is not mentioned."""

    events = True

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream
        self._block = bytearray()
        self._json = False
        self._shown = False

    async def read_body(self, limit: int) -> bytes:
        raise GateError(ErrorCode.INTERNAL, f"a GET has no body ({limit})")

    async def refuse(self, refusal: Refusal) -> None:
        del refusal

    def forwarding(self) -> None:
        pass

    async def start(self, status: int, headers: tuple[Header, ...], *, length: int | None) -> None:
        del length
        given = dict(headers)
        self._shown = status == _OK
        self._json = given.get(b"content-type") == b"application/json"
        if b"mcp-session-id" in given:
            self._stream.session = given[b"mcp-session-id"].decode("ascii")

    async def send(self, chunk: bytes, *, more: bool) -> None:
        if not self._shown:
            return
        if len(self._block) + len(chunk) > MAX_ANSWER:
            self._block.clear()  # an error may come in its place
            raise GateError(ErrorCode.UPSTREAM_INVALID, f"an answer of more than {MAX_ANSWER} bytes on HTTP+SSE")
        self._block += chunk
        if self._json and more:
            return
        # Blocks of several answers must not mix, so each goes as a whole.
        if self._json or self._block.endswith(b"\n\n"):
            block = bytes(self._block)
            self._block.clear()
            await self._stream.show(_event(block) if self._json else block)

    async def abort(self) -> None:
        await self._stream.events.put(None)


class _MessageExchange(_ListenExchange):
    """One POSTed message. Its answer goes to the stream, and so does the refusal of a request.

    Clients of this transport take another status than 2xx for the end of the connection.
    """

    def __init__(self, outer: Exchange, stream: _Stream) -> None:
        super().__init__(stream)
        self._outer = outer
        self.accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def read_body(self, limit: int) -> bytes:
        return await self._outer.read_body(limit)

    def forwarding(self) -> None:
        if not self.accepted.done():
            self.accepted.set_result(None)

    async def refuse(self, refusal: Refusal) -> None:
        error = refusal.error
        if refusal.request_id is not None:
            self.forwarding()
            await self._stream.show(_event(encode_error(refusal.request_id, error.code, error.data)))
        elif not self.accepted.done():
            await self._outer.refuse(refusal)


def _inner(head: Head, method: str, session: str | None) -> Head:
    # What a client of this transport does not say (both types of answer) or must not decide (the MCP session).
    headers = {name: value for name, value in head.headers.items() if name not in ("mcp-session-id", "last-event-id")}
    headers["accept"] = "application/json, text/event-stream"
    if session is not None:
        headers["mcp-session-id"] = session
    return msgspec.structs.replace(head, method=method, headers=headers)


def _event(message: bytes) -> bytes:
    return encode_event(SseEvent(message, "message"))
