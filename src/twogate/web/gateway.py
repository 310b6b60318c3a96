"""`/mcp/{server}` as raw ASGI: heads and bodies for the pipeline, its answers and refusals for the client.

Nothing is decided here but what is HTTP's alone: the Origin of browsers, CORS, and noticing that a client went away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, cast

from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import encode_error
from twogate.core.oauth.resource import metadata_url
from twogate.flows.gateway.exchange import EVENT_ANSWER, JSON_ANSWER, Exchange, Head, Header, Refusal
from twogate.flows.gateway.pipeline import Pipeline
from twogate.flows.gateway.possession import NONCE
from twogate.web.answer import AnswerCycle, header_lines
from twogate.web.errors import http_status, www_authenticate
from twogate.web.framing import KNOWN
from twogate.web.legacy import MESSAGES_PATH, OPEN_PATH, LegacyStreams
from twogate.web.peer import peer_address, peer_certificate

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PREFIX: Final = "/mcp/"

WATCH_AFTER: Final = 0.05
"""Seconds after which, or at most twice as many, a running call is watched for its client's going away."""

_ALWAYS: Final = ((b"x-content-type-options", b"nosniff"),)
_NAMES: Final = {name: name.decode() for name in KNOWN}
_CORS_METHODS: Final = b"GET, POST, DELETE, OPTIONS"
_CORS_HEADERS: Final = (
    b"authorization, content-type, accept, mcp-protocol-version, mcp-session-id, mcp-method, mcp-name, "
    b"last-event-id, twogate-session, twogate-task, "
    b"twogate-operation-token, dpop"
)
_CORS_EXPOSED: Final = b"mcp-session-id, www-authenticate, dpop-nonce"


class GatewayApp:
    """The data plane's ASGI application."""

    def __init__(
        self,
        pipeline: Pipeline,
        legacy: LegacyStreams,
        *,
        public_url: str,
        allowed_origins: frozenset[str],
        scopes: frozenset[str],
        closing: tuple[asyncio.Event, ...],
    ) -> None:
        """`closing` ends long-lived streams."""
        self._pipeline = pipeline
        self._legacy = legacy
        self._closing = closing
        self._public_url = public_url
        self._origins = allowed_origins | {public_url}
        self._scopes = scopes
        self._running: dict[_AsgiExchange, int] = {}  # and the number of sweeps when it began
        self._sweeps = 0
        self._sweeping = False
        self._fixed: tuple[tuple[bytes, bytes], ...] = _ALWAYS
        if public_url.startswith("https:"):
            self._fixed += ((b"strict-transport-security", b"max-age=31536000"),)
        self._lines = {headers: header_lines(headers + self._fixed) for headers in (JSON_ANSWER, EVENT_ANSWER)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request under `/mcp/`."""
        headers = _decode_headers(scope["headers"])
        server, slash, rest = scope["path"][len(PREFIX) :].partition("/")
        head = Head(
            method=scope["method"],
            server=server,
            headers=headers,
            query=scope["query_string"],
            address=peer_address(scope),
            certificate=peer_certificate(scope),
        )
        exchange = self._exchange(head, receive, send)
        origin = headers.get("origin")
        if origin is not None:
            try:
                if origin not in self._origins:
                    self._pipeline.take(head.address)
                    # MCP, transports: an invalid Origin "MUST" be answered with 403 (DNS rebinding).
                    raise GateError(ErrorCode.ORIGIN_REFUSED, "Origin")
                exchange.cors = _cors(origin)
                if head.method == "OPTIONS":
                    self._pipeline.take(head.address)
            except GateError as error:
                await self._pipeline.refuse_stranger(head, error, exchange)
                return
            if head.method == "OPTIONS":
                await exchange.start(204, (), length=None)  # RFC 9110 section 8.6: no Content-Length with 204
                await exchange.send(b"", more=False)
                return
        self._running[exchange] = self._sweeps
        if not self._sweeping:
            self._sweeping = True
            asyncio.get_running_loop().call_later(WATCH_AFTER, self._sweep)
        try:
            await self._serve(head, slash + rest, exchange)
        except asyncio.CancelledError:
            # Nothing is left to do for a client that went away, nor for one whose answer is complete (at the stop).
            if not exchange.gone and not exchange.ended:
                raise
        except _BrokenOffError:
            # Returning without the last piece makes the server close the connection.
            return
        finally:
            del self._running[exchange]
            exchange.unwatch()

    async def _serve(self, head: Head, rest: str, exchange: Exchange) -> None:
        if not rest:
            await self._pipeline.handle(head, exchange)
        elif rest == OPEN_PATH and head.method == "GET":
            await self._legacy.open(self._pipeline, head, exchange, self._closing)
        elif rest.startswith(MESSAGES_PATH) and head.method == "POST":
            await self._legacy.message(self._pipeline, head, exchange, rest.removeprefix(MESSAGES_PATH))
        else:
            self._pipeline.take(head.address)
            await self._pipeline.refuse_stranger(head, GateError(ErrorCode.NOT_FOUND, "no such path"), exchange)

    def _exchange(self, head: Head, receive: Receive, send: Send) -> _AsgiExchange:
        # Straight to our own server where nothing stands in between; any other server, and any middleware, by ASGI.
        cycle: object = getattr(receive, "__self__", None)
        if isinstance(cycle, AnswerCycle):
            return _DirectExchange(self, head, cycle)
        return _AsgiExchange(self, head, receive, send)

    def _sweep(self) -> None:
        """Watch every call that was running at the last sweep already: one timer for all instead of one a call."""
        self._sweeps += 1
        for exchange, begun in self._running.items():
            if begun < self._sweeps - 1:
                exchange.watch()
        self._sweeping = bool(self._running)
        if self._sweeping:
            asyncio.get_running_loop().call_later(WATCH_AFTER, self._sweep)

    def fixed_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """Headers of every answer."""
        return self._fixed

    def lines(self, headers: tuple[Header, ...]) -> bytes | None:
        """These headers and those of every answer as lines, if they are among the usual ones."""
        return self._lines.get(headers)

    def challenge(self, code: ErrorCode, server: str, scopes: tuple[str, ...]) -> str | None:
        """`WWW-Authenticate` for a refusal: a 401 names every scope there is to ask for, a 403 what would help."""
        return www_authenticate(code, metadata_url(self._public_url, PREFIX + server), scopes or self._scopes)


class _AsgiExchange:
    """One request's exchange; implements `flows.gateway.exchange.Exchange`."""

    events = True

    def __init__(self, app: GatewayApp, head: Head, receive: Receive, send: Send) -> None:
        self._app = app
        self._head = head
        self._receive = receive
        self._send = send
        self._body_read = head.method != "POST"
        self._task: asyncio.Task[None] | None = asyncio.current_task()
        self._watched = False
        self._watcher: asyncio.Task[None] | None = None
        self.ended = False
        self.cors: tuple[tuple[bytes, bytes], ...] = ()
        self.gone = False

    async def read_body(self, limit: int) -> bytes:
        body = self.body_at_hand()
        if body is None:
            body = await self._in_pieces(limit)
        elif len(body) > limit:
            raise _too_large(limit)
        self._body_read = True
        self._start_watching()
        return body

    def body_at_hand(self) -> bytes | None:
        """The whole body, if it can be had without waiting."""
        return None

    async def _in_pieces(self, limit: int) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while True:
            event = await self._receive()
            if event["type"] == "http.disconnect":
                self.gone = True
                raise asyncio.CancelledError
            piece: bytes = event.get("body", b"")
            size += len(piece)
            if size > limit:
                raise _too_large(limit)
            pieces.append(piece)
            if not event.get("more_body", False):
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def forwarding(self) -> None:
        pass

    async def refuse(self, refusal: Refusal) -> None:
        error = refusal.error
        status = http_status(error.code)
        headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
        challenge = self._app.challenge(error.code, self._head.server, refusal.scopes)
        if challenge is not None:
            headers.append((b"www-authenticate", challenge.encode()))
        if error.code is ErrorCode.METHOD_NOT_ALLOWED:
            headers.append((b"allow", b"GET, POST, DELETE"))
        if error.data is not None and NONCE in error.data:
            headers.append((b"dpop-nonce", str(error.data[NONCE]).encode()))
        if error.data is not None and "retry_after" in error.data:
            headers.append((b"retry-after", str(error.data["retry_after"]).encode()))
        if not self._body_read:
            # What the client still sends was never read; it must not be taken for the next request.
            headers.append((b"connection", b"close"))
        body = encode_error(refusal.request_id, error.code, error.data)
        await self.start(status, tuple(headers), length=len(body))
        await self.send(body, more=False)

    async def start(self, status: int, headers: tuple[tuple[bytes, bytes], ...], *, length: int | None) -> None:
        all_headers = [*headers, *self._app.fixed_headers(), *self.cors]
        if length is not None:
            all_headers.append((b"content-length", str(length).encode()))
        await self._send({"type": "http.response.start", "status": status, "headers": all_headers})

    async def send(self, chunk: bytes, *, more: bool) -> None:
        if not more:
            # A finished answer ends the server's `receive` too, which must not be taken for a client's going away.
            self.unwatch()
        await self._send({"type": "http.response.body", "body": chunk, "more_body": more})

    async def abort(self) -> None:
        raise _BrokenOffError

    def watch(self) -> None:
        """From now on, once the body is read, cancel the call when the client goes away."""
        if not self._watched:
            self._watched = True
            self._start_watching()

    def _start_watching(self) -> None:
        # Only one may wait in `receive`, and until the body is read that is `read_body`.
        if self._watched and self._body_read and self._watcher is None and not self.ended and self._task is not None:
            self._watcher = asyncio.get_running_loop().create_task(self._watch(self._task))

    async def _watch(self, task: asyncio.Task[None]) -> None:
        # The empty body of a GET comes first.
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        task.cancel()

    def unwatch(self) -> None:
        """Stop watching."""
        self.ended = True
        if self._watcher is not None:
            self._watcher.cancel()


class _DirectExchange(_AsgiExchange):
    """The same for a request of our own server: the usual answer costs no ASGI messages."""

    def __init__(self, app: GatewayApp, head: Head, cycle: AnswerCycle) -> None:
        super().__init__(app, head, cast("Receive", cycle.receive), cast("Send", cycle.send))
        self._cycle = cycle

    def body_at_hand(self) -> bytes | None:
        return self._cycle.take_body()

    async def start(self, status: int, headers: tuple[Header, ...], *, length: int | None) -> None:
        lines = None if self.cors else self._app.lines(headers)
        if lines is None:
            await super().start(status, headers, length=length)
        else:
            self._cycle.start(status, lines, length)

    async def send(self, chunk: bytes, *, more: bool) -> None:
        if not more:
            self.unwatch()
        await self._cycle.write(chunk, more=more)


class _BrokenOffError(Exception):
    """Makes the server close a connection whose answer cannot be completed."""


def _too_large(limit: int) -> GateError:
    return GateError(ErrorCode.TOO_LARGE, f"a body of more than {limit} bytes")


def _decode_headers(raw: list[tuple[bytes, bytes]]) -> dict[str, str]:
    headers = {_NAMES.get(name) or name.decode("latin-1"): value.decode("latin-1") for name, value in raw}
    if len(headers) == len(raw):
        return headers
    headers.clear()
    for name, value in ((name.decode("latin-1"), value.decode("latin-1")) for name, value in raw):
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _cors(origin: str) -> tuple[tuple[bytes, bytes], ...]:
    return (
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"vary", b"Origin"),
        (b"access-control-allow-methods", _CORS_METHODS),
        (b"access-control-allow-headers", _CORS_HEADERS),
        (b"access-control-expose-headers", _CORS_EXPOSED),
        (b"access-control-max-age", b"600"),
    )
