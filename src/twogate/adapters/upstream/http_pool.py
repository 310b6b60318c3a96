"""The HTTP/1.1 connections to one origin: a pool for calls, and one of its own for every long-lived stream.

What a caller must be able to rely on: a request is written at most once. Whatever happens before the first byte is
written is UPSTREAM_UNAVAILABLE, or goes unnoticed because another connection takes over; whatever happens after it is
reported, and never tried again, because the call may have run.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from twogate.adapters.upstream.http_answer import HttpAnswer
from twogate.adapters.upstream.http_connection import HttpConnection
from twogate.core.errors import ErrorCode, GateError

# A stream may be silent for ever, so the kernel asks whether the other side still exists: half a minute after the last
# byte, and four times more, ten seconds apart.
_KEEPALIVE: Final = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 4))


class HttpUpstreamLimits(msgspec.Struct, frozen=True):
    """Bounds of one server's connections; times in seconds.

    `connections` is for calls, `streams` for long-lived streams beside them. `idle` is shorter than the 5 s after which
    uvicorn and Node close a silent connection: a request written just as the other side closes is lost, and nobody
    could say whether it ran. `sweep` is how often deadlines are looked at, so every timeout may come that much later.
    """

    connections: int = 100
    waiting: int = 2000
    streams: int = 1000
    connect_timeout: float = 5.0
    queue_timeout: float = 10.0
    idle: float = 4.0
    sweep: float = 1.0


class HttpPool:
    """Connections to one host and port; with TLS if there is a context."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None, limits: HttpUpstreamLimits) -> None:
        self._host = host
        self._port = port
        self._tls = tls
        self._limits = limits
        self._connections: set[HttpConnection] = set()
        self._idle: list[HttpConnection] = []  # The most recently used last, so that the others can expire.
        self._connecting = 0
        self._waiting: deque[asyncio.Future[HttpConnection | bool]] = deque()
        self._streams: set[HttpConnection] = set()
        self._opening = 0  # streams whose connection does not stand yet
        self._sweeper: asyncio.TimerHandle | None = None
        self._emptied: asyncio.Future[None] | None = None
        self._closed = False

    async def send(self, request: bytes, timeout: float) -> HttpAnswer:  # noqa: ASYNC109 - of `UpstreamRequest`
        """Write a whole request and return once the answer's head has arrived; `timeout` bounds every silence.

        Raises:
            GateError: UPSTREAM_UNAVAILABLE (nothing was sent), UPSTREAM_TIMEOUT, UPSTREAM_BROKEN, UPSTREAM_INVALID.
        """
        connection = self._take() or await self._acquire()
        answer = connection.exchange(request, timeout)
        await answer.head()
        return answer

    async def open_stream(self, request: bytes, timeout: float) -> HttpAnswer:  # noqa: ASYNC109 - as above
        """The same on a connection of its own, which serves nothing else; events may then be as far apart as they like.

        An answer that is no event stream must come as any other answer must.

        Raises:
            GateError: as `send`; UPSTREAM_UNAVAILABLE if too many streams are open.
        """
        if self._closed:
            raise GateError(ErrorCode.UPSTREAM_UNAVAILABLE, "Twogate is closing the connections to this server")
        if len(self._streams) + self._opening >= self._limits.streams:
            raise GateError(ErrorCode.UPSTREAM_UNAVAILABLE, f"{self._limits.streams} streams of this server are open")
        self._opening += 1
        try:
            connection = await self._dial(self._make_stream)
        finally:
            self._opening -= 1
            self._check_emptied()
        answer = connection.exchange(request, timeout, stream=True)
        await answer.head()
        return answer

    async def aclose(self) -> None:
        """Close every connection and wait until they are gone; running exchanges fail with UPSTREAM_BROKEN."""
        self._closed = True
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(False)
        for connection in self._connections | self._streams:
            connection.abort(GateError(ErrorCode.UPSTREAM_BROKEN, "Twogate closed the connection to the server"))
        while not self._empty:
            self._emptied = self._emptied or asyncio.get_running_loop().create_future()
            await asyncio.shield(self._emptied)
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    @property
    def _empty(self) -> bool:
        return not (self._connections or self._connecting or self._streams or self._opening)

    # Connections for calls.

    def _take(self) -> HttpConnection | None:
        """The most recently used idle connection that can still be used."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable():
                return connection
            connection.abort(GateError(ErrorCode.UPSTREAM_UNAVAILABLE, "idle for too long"))
        return None

    async def _acquire(self) -> HttpConnection:
        """A connection that became free, or a new one."""
        while True:
            if self._closed:
                raise GateError(ErrorCode.UPSTREAM_UNAVAILABLE, "Twogate is closing the connections to this server")
            if len(self._connections) + self._connecting < self._limits.connections:
                self._connecting += 1
                return await self._connect()
            given = await self._queue()
            if given is True:
                return await self._connect()
            # It may have died between being given and now; nothing was written, so another one will do.
            if given is not False and given.is_usable():
                return given

    async def _queue(self) -> HttpConnection | bool:
        """Wait for a free connection, or True for the right to open one; False means that the pool was closed."""
        if len(self._waiting) >= self._limits.waiting:
            raise GateError(ErrorCode.UPSTREAM_UNAVAILABLE, "too many calls wait for a connection to this server")
        waiter: asyncio.Future[HttpConnection | bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        taken = False
        try:
            async with asyncio.timeout(self._limits.queue_timeout):
                given = await waiter
            taken = True
        except TimeoutError:
            raise GateError(ErrorCode.UPSTREAM_UNAVAILABLE, "no connection became free in time") from None
        finally:
            if not taken:
                self._give_back(waiter)
        return given

    def _give_back(self, waiter: asyncio.Future[HttpConnection | bool]) -> None:
        """Pass on what a waiter got that was cancelled before it could take it."""
        if waiter.cancelled():
            if waiter in self._waiting:
                self._waiting.remove(waiter)
        elif waiter.result() is True:
            self._connecting -= 1
            self._offer_slots()
        elif isinstance(given := waiter.result(), HttpConnection):
            self._release(given)

    async def _connect(self) -> HttpConnection:
        """Open a connection; the caller has counted it in `_connecting`."""
        try:
            return await self._dial(self._make_connection)
        finally:
            self._connecting -= 1
            self._offer_slots()

    async def _dial(self, make: Callable[[], HttpConnection]) -> HttpConnection:
        try:
            async with asyncio.timeout(self._limits.connect_timeout):
                _, connection = await asyncio.get_running_loop().create_connection(
                    make, self._host, self._port, ssl=self._tls
                )
        except OSError as error:  # TimeoutError and ssl.SSLError are OSErrors too.
            raise GateError(ErrorCode.UPSTREAM_UNAVAILABLE, f"cannot connect: {type(error).__name__}") from error
        if self._closed or not connection.is_usable():
            unsent = GateError(ErrorCode.UPSTREAM_UNAVAILABLE, "the connection was closed before anything was sent")
            connection.abort(unsent)
            raise unsent
        return connection

    def _make_connection(self) -> HttpConnection:
        return HttpConnection(
            idle_seconds=self._limits.idle, on_made=self._add, on_idle=self._release, on_lost=self._remove
        )

    def _add(self, connection: HttpConnection) -> None:
        self._connections.add(connection)
        self._sweep_soon()

    def _release(self, connection: HttpConnection) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        self._idle.append(connection)

    def _remove(self, connection: HttpConnection) -> None:
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._offer_slots()

    def _offer_slots(self) -> None:
        """Let waiting callers open connections in the place of those that are gone."""
        while self._waiting and len(self._connections) + self._connecting < self._limits.connections:
            waiter = self._waiting.popleft()
            if not waiter.done():
                self._connecting += 1
                waiter.set_result(True)
        self._check_emptied()

    # Connections for streams.

    def _make_stream(self) -> HttpConnection:
        return HttpConnection(
            idle_seconds=self._limits.idle, on_made=self._add_stream, on_idle=_end, on_lost=self._remove_stream
        )

    def _add_stream(self, connection: HttpConnection) -> None:
        self._streams.add(connection)
        connection.keep_alive(_KEEPALIVE)
        self._sweep_soon()

    def _remove_stream(self, connection: HttpConnection) -> None:
        self._streams.discard(connection)
        self._check_emptied()

    # Both.

    def _check_emptied(self) -> None:
        if self._emptied is not None and self._empty and not self._emptied.done():
            self._emptied.set_result(None)

    def _sweep_soon(self) -> None:
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(self._limits.sweep, self._sweep)

    def _sweep(self) -> None:
        """One timer for the whole pool, instead of one per request."""
        now = asyncio.get_running_loop().time()
        for connection in self._connections | self._streams:
            if connection.deadline < now:
                connection.expire()
        self._sweeper = None
        if self._connections or self._streams:
            self._sweep_soon()


def _end(connection: HttpConnection) -> None:
    """A stream that came to its end leaves a connection that nobody uses again."""
    connection.abort(GateError(ErrorCode.UPSTREAM_BROKEN, "the stream has ended"))
