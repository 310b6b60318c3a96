"""The HTTP edge's rules in front of an application that another HTTP server serves (library mode).

`web/server.py` judges bytes before anything is made of them. Here a server that is not ours has read them already, so
what it leaves open is judged by the same rules from what it says of them: the target, the headers, the body's size and
time. How requests are framed on a connection, and how many connections there may be, is that server's business.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

from twogate.core.errors import ErrorCode
from twogate.web import framing
from twogate.web.edge import OnRefusal
from twogate.web.edge_limits import EdgeLimits
from twogate.web.framing import HeadRules, Refusal, Refused, RequestLine
from twogate.web.headers import security_headers
from twogate.web.peer import peer_address

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_LINE_BYTES: Final = len(b"  HTTP/1.1\r\n")
_HEADER_BYTES: Final = len(b": \r\n")
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_NUMBERED: Final = ("1.0", "1.1")
"""The versions in which an answer may speak of its connection; from HTTP/2 on it must not (RFC 9113 section 8.2.2)."""
_OF_CONNECTIONS: Final = frozenset({b"connection", b"keep-alive"})

NOT_SERVING: Final = Refusal(
    HTTPStatus.SERVICE_UNAVAILABLE, ErrorCode.STORE_UNAVAILABLE, "The server has not started, or is stopping."
)
"""For requests that come while nothing can decide on them."""


class AsgiEdge:
    """Lets requests in to `app` that the HTTP edge would let in; the scope that it gives holds nothing else."""

    def __init__(
        self, app: AsgiApp, *, limits: EdgeLimits, allowed_hosts: frozenset[str], public_url: str, on_refusal: OnRefusal
    ) -> None:
        """`on_refusal` is told each refusal; it must not block.

        Raises:
            ValueError: No allowed host.
        """
        self._app = app
        self.limits = limits
        self._rules = HeadRules(limits, allowed_hosts)
        self.on_refusal = on_refusal
        self.headers = [(name.lower().encode(), value.encode()) for name, value in security_headers(public_url).items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request."""
        request = _Request(self, scope, receive, send)
        try:
            inner = self._judge(scope)
        except Refused as refused:
            await request.refuse(refused.refusal)
            return
        await self._app(inner, request.receive, request.send)

    def _judge(self, scope: Scope) -> Scope:
        """The scope for the application.

        Raises:
            Refused
        """
        headers = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
        line = self._read_line(scope)
        if any(_CONTROL.search(value) for _, value in headers):
            raise Refused(framing.HEADER)
        size = sum(len(name) + len(value) + _HEADER_BYTES for name, value in headers)
        size += len(line.raw_path) + len(line.query) + _LINE_BYTES
        if size > self.limits.max_head_bytes:
            raise Refused(framing.HEAD_SIZE)
        self._rules.read_headers(headers, line.version, size)
        return {
            "type": "http",
            "asgi": scope["asgi"],
            "http_version": scope["http_version"],
            "server": scope.get("server"),
            "client": scope.get("client"),
            "scheme": scope.get("scheme", "http"),
            "method": line.method,
            "root_path": "",
            "path": line.path,
            "raw_path": line.raw_path,
            "query_string": line.query,
            "headers": headers,
            "state": {},
            "extensions": {},
        }

    def _read_line(self, scope: Scope) -> RequestLine:
        """The request line as it must have been, and as the server understood it."""
        path: str = scope["path"]
        # Without the raw path nobody after us can have another one either.
        raw: bytes = scope.get("raw_path") or quote(path, safe="/-._~!$&'()*+,;=:@").encode("ascii")
        query: bytes = scope.get("query_string", b"")
        target = raw + b"?" + query if query else raw
        version = "1.0" if scope["http_version"] == "1.0" else "1.1"
        line = self._rules.read_request_line(
            b"%b %b HTTP/%b" % (scope["method"].encode("latin-1"), target, version.encode("ascii"))
        )
        if line.path != path or line.query != query:
            raise Refused(framing.TARGET)
        return line


class _Request:
    """One request's `receive` and `send`: the body under its caps, and one refusal instead of an answer."""

    def __init__(self, edge: AsgiEdge, scope: Scope, receive: Receive, send: Send) -> None:
        self._edge = edge
        self._scope = scope
        self._receive = receive
        self._send = send
        self._size = 0
        self._body_read = False
        self._waited = 0.0
        self._started = False
        self._refused = False

    async def receive(self) -> Event:
        if self._refused:
            return {"type": "http.disconnect"}
        if self._body_read:
            return await self._receive()
        limits, loop = self._edge.limits, asyncio.get_running_loop()
        begun = loop.time()
        try:
            # The client's time alone: not while nobody reads.
            async with asyncio.timeout(limits.body_seconds - self._waited):
                event = await self._receive()
        except TimeoutError:
            return await self._give_up(framing.BODY_TIME)
        self._waited += loop.time() - begun
        if event["type"] == "http.request":
            self._size += len(event.get("body", b""))
            self._body_read = not event.get("more_body", False)
            if self._size > limits.max_body_bytes:
                return await self._give_up(framing.BODY_SIZE)
        return event

    async def send(self, event: Event) -> None:
        if self._refused:
            return
        if event["type"] == "http.response.start":
            self._started = True
            if self._scope["http_version"] not in _NUMBERED:
                headers = [header for header in event.get("headers", ()) if header[0].lower() not in _OF_CONNECTIONS]
                event = {**event, "headers": headers}
        await self._pass_on(event)

    async def _pass_on(self, event: Event) -> None:
        if event["type"] != "http.response.body" or event.get("more_body", False) or self._body_read:
            await self._send(event)
            return
        # The client sends still. Many servers close at the end of the answer, and a connection closed with bytes
        # unread is reset, which loses the answer (RFC 9112 section 9.6); so the end waits a little.
        await self._send({**event, "more_body": True})
        with suppress(TimeoutError):
            async with asyncio.timeout(self._edge.limits.linger_seconds):
                await self._drain()
        await self._send({"type": "http.response.body", "body": b""})

    async def _drain(self) -> None:
        while not self._body_read and self._size <= 2 * self._edge.limits.max_body_bytes:
            event = await self._receive()
            self._size += len(event.get("body", b""))
            self._body_read = not event.get("more_body", False)

    async def _give_up(self, refusal: Refusal) -> Event:
        if not self._started:
            await self.refuse(refusal)
        # What follows is for nobody, as after the client's going away.
        self._refused = True
        return {"type": "http.disconnect"}

    async def refuse(self, refusal: Refusal) -> None:
        """Answer with a refusal, and let nothing else through."""
        self._refused = True
        self._edge.on_refusal(peer_address(self._scope), refusal.code)
        await answer_with(refusal, self._scope, self._pass_on, self._edge.headers)


async def answer_with(refusal: Refusal, scope: Scope, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
    """The whole answer, with these headers besides its own."""
    body = refusal.body()
    every = [
        *headers,
        (b"content-type", b"application/json"),
        (b"cache-control", b"no-store"),
        (b"content-length", b"%d" % len(body)),
    ]
    if scope["http_version"] in _NUMBERED:
        every.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": refusal.status.value, "headers": every})
    await send({"type": "http.response.body", "body": body})
