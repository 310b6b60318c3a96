"""A pool of HTTP/1.1 connections to one MCP server; implements `flows.gateway.upstream.Upstream`.

What a caller must be able to rely on: a request is written at most once. Whatever happens before the first byte is
written is UPSTREAM_UNAVAILABLE, or goes unnoticed because another connection takes over; whatever happens after it is
reported, and never tried again, because the call may have run.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections import deque
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from twogate.adapters.upstream.http_answer import HttpAnswer
from twogate.adapters.upstream.http_connection import HttpConnection
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.gateway.upstream import UpstreamRequest

_METHODS: Final = ("POST", "GET", "DELETE")
_OUR_HEADERS: Final = frozenset(
    {b"host", b"accept-encoding", b"connection", b"content-length", b"transfer-encoding", b"upgrade", b"te", b"trailer"}
)
_HEADER_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_HEADER_VALUE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]{0,8192}")
_URL: Final = re.compile(r"https?://[\x21-\x7e]{1,2048}")


class HttpUpstreamLimits(msgspec.Struct, frozen=True):
    """Bounds of one server's pool; times in seconds.

    `idle` is shorter than the 5 s after which uvicorn and Node close a silent connection: a request written just as
    the other side closes is lost, and nobody could say whether it ran. `sweep` is how often deadlines are looked at,
    so every timeout may come that much later.
    """

    connections: int = 100
    waiting: int = 2000
    connect_timeout: float = 5.0
    queue_timeout: float = 10.0
    idle: float = 4.0
    sweep: float = 1.0


class HttpUpstream:
    """One MCP server, reached over HTTP.

    Args:
        url: Its endpoint; `http:` or `https:`, without userinfo or fragment.
        ca_file: PEM of the only authorities to trust instead of the system's; `https:` only.
        limits: Bounds of the pool.
        extra_headers: Sent with every request, for example a credential for this server.

    Raises:
        ValueError: A wrong URL or header.
        OSError: The CA file cannot be read (`ssl.SSLError` if it holds no certificate).
    """

    def __init__(
        self,
        url: str,
        *,
        ca_file: Path | None = None,
        limits: HttpUpstreamLimits | None = None,
        extra_headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        self._limits = limits or HttpUpstreamLimits()
        parts = urlsplit(url) if _URL.fullmatch(url) else None
        if parts is None or not parts.hostname or parts.username is not None or "#" in url:
            raise ValueError("an upstream's URL is http(s)://host[:port]/path, without userinfo or fragment")
        self._host = parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = _tls_context(ca_file) if parts.scheme == "https" else None
        if ca_file is not None and self._tls is None:
            raise ValueError("a CA file needs an https URL")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        fixed = f"{target} HTTP/1.1\r\nhost: {parts.netloc}\r\naccept-encoding: identity\r\n".encode("ascii")
        fixed += _encode_fixed(extra_headers)
        self._heads = {method: method.encode("ascii") + b" " + fixed for method in _METHODS}
        self._connections: set[HttpConnection] = set()
        self._idle: list[HttpConnection] = []  # The most recently used last, so that the others can expire.
        self._connecting = 0
        self._waiting: deque[asyncio.Future[HttpConnection | bool]] = deque()
        self._sweeper: asyncio.TimerHandle | None = None
        self._emptied: asyncio.Future[None] | None = None
        self._closed = False

    async def send(self, request: UpstreamRequest) -> HttpAnswer:
        """Send one message and return once the answer's head has arrived; see `Upstream.send`.

        Raises:
            GateError: UPSTREAM_UNAVAILABLE (nothing was sent), UPSTREAM_TIMEOUT, UPSTREAM_BROKEN, UPSTREAM_INVALID,
                INTERNAL for a header value with a line break.
        """
        encoded = self._encode(request)
        connection = self._take() or await self._acquire()
        answer = connection.exchange(encoded, request.timeout)
        await answer.head()
        return answer

    async def aclose(self) -> None:
        """Close every connection and wait until they are gone; running exchanges fail with UPSTREAM_BROKEN."""
        self._closed = True
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(False)
        for connection in list(self._connections):
            connection.abort(GateError(ErrorCode.UPSTREAM_BROKEN, "Twogate closed the connection to the server"))
        while self._connections or self._connecting:
            self._emptied = self._emptied or asyncio.get_running_loop().create_future()
            await asyncio.shield(self._emptied)
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    def _encode(self, request: UpstreamRequest) -> bytes:
        block = b"".join([b"%b: %b\r\n" % header for header in request.headers])
        count = len(request.headers)
        # One line per header and no line more, so that no value can add a header or a second request.
        if block.count(b"\r") != count or block.count(b"\n") != count:
            raise GateError(ErrorCode.INTERNAL, "a header for the upstream holds a line break")
        body = request.body
        if body or request.http_method == "POST":
            return b"%b%bcontent-length: %d\r\n\r\n%b" % (self._heads[request.http_method], block, len(body), body)
        return b"%b%b\r\n" % (self._heads[request.http_method], block)

    # The pool.

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
            async with asyncio.timeout(self._limits.connect_timeout):
                _, connection = await asyncio.get_running_loop().create_connection(
                    self._make_connection, self._host, self._port, ssl=self._tls
                )
        except OSError as error:  # TimeoutError and ssl.SSLError are OSErrors too.
            raise GateError(ErrorCode.UPSTREAM_UNAVAILABLE, f"cannot connect: {type(error).__name__}") from error
        finally:
            self._connecting -= 1
            self._offer_slots()
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
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(self._limits.sweep, self._sweep)

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
        if self._emptied is not None and not self._connections and not self._connecting and not self._emptied.done():
            self._emptied.set_result(None)

    def _sweep(self) -> None:
        """One timer for the whole pool, instead of one per request."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in list(self._connections):
            if connection.deadline < now:
                connection.expire()
        self._sweeper = loop.call_later(self._limits.sweep, self._sweep) if self._connections else None


def _tls_context(ca_file: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_file)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _encode_fixed(headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    for name, value in headers:
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise ValueError(f"not a header: {name!r}")
        if name.lower() in _OUR_HEADERS:
            raise ValueError(f"{name.decode('ascii')} is set by Twogate itself")
    return b"".join([b"%b: %b\r\n" % header for header in headers])
