"""One connection of the HTTP+SSE transport (MCP 2024-11-05, "Transports"): a stream of events, and posts beside it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Final

from twogate.adapters.upstream.duplex_channel import DuplexLimits
from twogate.adapters.upstream.http_answer import HttpAnswer
from twogate.adapters.upstream.http_origin import Header, HttpOrigin
from twogate.adapters.upstream.http_pool import HttpPool
from twogate.adapters.upstream.sse_endpoint import endpoint_target
from twogate.core.errors import ErrorCode, GateError
from twogate.core.sse import SseEvent, SseParser

_EVENTS: Final = "text/event-stream"
_SLICE_BYTES: Final = 16 * 1024
_OK: Final = 200
_SUCCESS: Final = 2
_OFFERED_BYTES: Final = 64 * 1024
_RECEIPT_BYTES: Final = 64 * 1024
# Some servers answer a post only when its call is done; the call has a limit of its own.
_POST_SECONDS: Final = 3600.0


class SseLimits(DuplexLimits, frozen=True, kw_only=True):
    """Bounds for the connections of one server. Times are in seconds.

    `start` is for the stream's head and then for its first event, `receipt` for a message that nobody waits for.
    """

    links: int = 1000
    start: float = 10.0
    receipt: float = 10.0


class SseChannel:
    """Implements `duplex_channel.Channel`: the server writes events, we post every message to its endpoint."""

    def __init__(
        self,
        answer: HttpAnswer,
        origin: HttpOrigin,
        pool: HttpPool,
        limits: SseLimits,
        credential: Callable[[], Awaitable[Header]] | None = None,
    ) -> None:
        self._answer = answer
        self._origin = origin
        self._pool = pool
        self._limits = limits
        self._credential = credential
        self._parser = SseParser(limits.message_bytes)
        self._unread = memoryview(b"")
        self._arrived: deque[SseEvent] = deque()
        self._post_head = b""
        self._offered: deque[bytes] = deque()
        self._offered_bytes = 0
        self._posting: asyncio.Task[None] | None = None
        self._ended = False

    @classmethod
    async def open(
        cls,
        origin: HttpOrigin,
        pool: HttpPool,
        limits: SseLimits,
        credential: Callable[[], Awaitable[Header]] | None = None,
    ) -> SseChannel:
        """Connect and learn where to post. `credential` makes a header for each request.

        Raises:
            GateError: SECRET_UNAVAILABLE; UPSTREAM_UNAVAILABLE; UPSTREAM_INVALID if what answers is no such server, or
                its endpoint elsewhere.
        """
        try:
            answer = await pool.open_stream(
                origin.head("GET")
                + b"accept: text/event-stream\r\ncache-control: no-store\r\n"
                + await _line(credential)
                + b"\r\n",
                limits.start,
            )
        except GateError as error:
            if error.code in (ErrorCode.UPSTREAM_TIMEOUT, ErrorCode.UPSTREAM_BROKEN):  # no call was sent yet
                raise GateError(ErrorCode.UPSTREAM_UNAVAILABLE, error.debug) from error
            raise
        channel = cls(answer, origin, pool, limits, credential)
        try:
            await channel._greet()
        except BaseException:
            await answer.aclose()
            raise
        return channel

    async def _greet(self) -> None:
        if self._answer.status != _OK:
            raise GateError(ErrorCode.UPSTREAM_UNAVAILABLE, f"the stream was answered with {self._answer.status}")
        if self._answer.content_type != _EVENTS:
            raise GateError(ErrorCode.UPSTREAM_INVALID, f"a stream of type {self._answer.content_type!r}")
        try:
            async with asyncio.timeout(self._limits.start):
                event = await self._next()
        except TimeoutError as error:
            raise GateError(ErrorCode.UPSTREAM_UNAVAILABLE, "no endpoint in time") from error
        if event is None:
            raise GateError(ErrorCode.UPSTREAM_UNAVAILABLE, "the stream ended before the endpoint")
        if event.event != "endpoint" or event.data is None:
            raise GateError(ErrorCode.UPSTREAM_INVALID, "the first event is no endpoint")
        self._post_head = self._origin.head("POST", endpoint_target(self._origin, event.data))

    async def _next(self) -> SseEvent | None:
        """The next event with data; None at the end of the stream."""
        while True:
            while self._arrived:
                event = self._arrived.popleft()
                if event.data is not None:
                    return event
            if not self._unread:
                chunk = await anext(self._answer.chunks(), None)
                if chunk is None:
                    return None
                self._unread = memoryview(chunk)
            self._arrived.extend(self._parser.feed(bytes(self._unread[:_SLICE_BYTES])))
            self._unread = self._unread[_SLICE_BYTES:]

    async def messages(self) -> AsyncIterator[bytes]:
        """The server's messages, until it ends the stream. Events of a type that the transport lacks are passed over.

        Raises:
            GateError: UPSTREAM_INVALID, UPSTREAM_BROKEN.
        """
        while (event := await self._next()) is not None:
            if event.event == "endpoint":
                raise GateError(ErrorCode.UPSTREAM_INVALID, "a second endpoint")
            if event.event in ("", "message") and event.data is not None:
                yield event.data

    async def write(self, message: bytes) -> None:
        """Post one message and wait until the server has accepted it.

        Raises:
            GateError: SECRET_UNAVAILABLE, UPSTREAM_UNAVAILABLE (nothing was sent), UPSTREAM_TIMEOUT, UPSTREAM_BROKEN;
                UPSTREAM_INVALID if the server refuses it.
        """
        head = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(message)
        credential = await _line(self._credential)
        answer = await self._pool.send(self._post_head + head + credential + b"\r\n" + message, _POST_SECONDS)
        try:
            if answer.status // 100 != _SUCCESS:
                raise GateError(ErrorCode.UPSTREAM_INVALID, f"status {answer.status} to a message")
            size = 0
            # So that the connection can be used again; whatever it says, the message was accepted.
            with suppress(GateError):
                async for chunk in answer.chunks():
                    size += len(chunk)
                    if size > _RECEIPT_BYTES:
                        break
        finally:
            await answer.aclose()

    def offer(self, message: bytes) -> None:
        """Post one message some time, in the order of the offers; it is lost if too much is waiting already."""
        if self._ended or self._offered_bytes + len(message) > _OFFERED_BYTES:
            return
        self._offered.append(message)
        self._offered_bytes += len(message)
        if self._posting is None:
            self._posting = asyncio.get_running_loop().create_task(self._post_offered())

    async def _post_offered(self) -> None:
        try:
            while self._offered:
                message = self._offered.popleft()
                self._offered_bytes -= len(message)
                with suppress(GateError, TimeoutError):
                    async with asyncio.timeout(self._limits.receipt):
                        await self.write(message)
        finally:
            self._posting = None

    def end_soon(self, *, now: bool) -> None:
        """Close the stream, which is how a server of this transport learns that its client has gone."""
        del now  # there is no grace to give
        self._ended = True
        self._offered.clear()
        if self._posting is not None:
            self._posting.cancel()
        self._answer.abandon()

    async def end(self, *, now: bool) -> None:
        """Close the stream and return when nothing of it is left."""
        posting = self._posting
        self.end_soon(now=now)
        if posting is not None:
            await asyncio.gather(posting, return_exceptions=True)


async def _line(credential: Callable[[], Awaitable[Header]] | None) -> bytes:
    """The header line of a credential, if there is one; its value has no line break (`flows.secrets.parse_secret`)."""
    return b"" if credential is None else b"%b: %b\r\n" % await credential()
