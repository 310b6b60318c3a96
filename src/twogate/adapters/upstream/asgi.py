"""An MCP server that is an ASGI application in this process; implements `flows.gateway.upstream.Upstream`.

The application is called as an HTTP server would call it, with a request that holds what was decided on and nothing of
the caller's: headers of ours, the re-encoded message, the configured path. Beside them is a stamp, which says that both
gates let this request in (`stamp.py`). What the application answers is judged as another server's answer would be.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, Final, cast

import msgspec

from twogate.adapters.upstream.answer_head import (
    FINAL,
    MAX_HEAD,
    MAX_HEADERS,
    READ_AHEAD,
    READ_HEADERS,
    RefusedError,
    check_codings,
    parse_media_type,
    parse_session_id,
)
from twogate.adapters.upstream.duplex_mailbox import FixedAnswer
from twogate.adapters.upstream.http_answer import HttpAnswer
from twogate.adapters.upstream.stamp import SCOPE_KEY, Identity, Stamp, issue_stamp, set_current
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.gateway.admit import Admitted
from twogate.flows.gateway.upstream import UpstreamAnswer, UpstreamRequest

Event = MutableMapping[str, Any]
AsgiApp = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Event]], Callable[[Event], Awaitable[None]]], Awaitable[None]
]

log = logging.getLogger("twogate.asgi")

LAST_SECONDS: Final = 5.0
"""How long requests that are cancelled at the stop may take to end."""

_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_VALUE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_LENGTH: Final = re.compile(rb"[0-9]{1,15}")
_OK: Final = 200
# To a notification that the application is not told of: see `UpstreamRequest.unattributed`.
_ACCEPTED: Final = FixedAnswer(202)


class AsgiUpstreamLimits(msgspec.Struct, frozen=True):
    """How many requests may be in the application at once; of `streams` (long-lived ones) beside them.

    A request counts until the application has returned, also when its caller went away long ago.
    """

    calls: int = 1000
    streams: int = 1000


class AsgiUpstream:
    """One ASGI application. `path` is where its MCP endpoint is, `origin` our scheme, host and port as a URL has them.

    `state` is what its lifespan gave it. `name` is the server's name in the configuration.
    """

    def __init__(
        self,
        app: AsgiApp,
        *,
        name: str,
        path: str,
        scheme: str,
        host: str,
        port: int,
        netloc: str,
        state: Mapping[str, Any],
        limits: AsgiUpstreamLimits | None = None,
    ) -> None:
        self._app = app
        self._name = name
        self._state = state
        self._limits = limits or AsgiUpstreamLimits()
        self._headers = ((b"host", netloc.encode("ascii")), (b"accept-encoding", b"identity"))
        self._scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "server": (host, port),
            "scheme": scheme,
            "root_path": "",
            "path": path,
            "raw_path": path.encode("ascii"),
            "query_string": b"",
        }
        self._calls: set[_Exchange] = set()
        self._streams: set[_Exchange] = set()
        self._closed = False

    async def send(self, request: UpstreamRequest) -> UpstreamAnswer:
        """Give the application one message and return once it has begun to answer; see `Upstream.send`.

        Raises:
            GateError: UPSTREAM_UNAVAILABLE (it was not called), UPSTREAM_TIMEOUT, UPSTREAM_BROKEN, UPSTREAM_INVALID.
        """
        if request.unattributed:
            return _ACCEPTED
        running, most = (self._streams, self._limits.streams) if request.stream else (self._calls, self._limits.calls)
        if self._closed or len(running) >= most:
            raise GateError(ErrorCode.UPSTREAM_UNAVAILABLE, "stopped" if self._closed else f"{most} requests are in it")
        stamp = issue_stamp(_identity(request.admitted), request.message)
        exchange = _Exchange(self._app, self._make_scope(request, stamp), request, stamp, running)
        exchange.start(self._name)
        await exchange.answer.head()
        return exchange.answer

    async def aclose(self) -> None:
        """Cancel what still runs in the application and wait, for `LAST_SECONDS` at most, until it has ended."""
        self._closed = True
        tasks = [exchange.cancel() for exchange in (*self._calls, *self._streams)]
        if tasks:
            _, stuck = await asyncio.wait(tasks, timeout=LAST_SECONDS)
            if stuck:
                log.warning("%d requests in the application of server %s do not end", len(stuck), self._name)

    def _make_scope(self, request: UpstreamRequest, stamp: Stamp) -> dict[str, Any]:
        headers = [*self._headers, *request.headers]
        if request.body or request.http_method == "POST":
            headers.append((b"content-length", b"%d" % len(request.body)))
        address = None if request.admitted is None else request.admitted.call.head.address
        return {
            **self._scope,
            "method": request.http_method,
            "headers": headers,
            "client": (address, 0) if address else None,
            # Of its own for each request, as servers do it: what one puts there, another does not see.
            "state": dict(self._state),
            "extensions": {},
            SCOPE_KEY: stamp,
        }


class _Exchange:
    """One request in the application, until that returns; the answer's `Carrier`."""

    def __init__(
        self, app: AsgiApp, scope: dict[str, Any], request: UpstreamRequest, stamp: Stamp, running: set[_Exchange]
    ) -> None:
        self.answer = HttpAnswer(self)
        self._app = app
        self._scope = scope
        self._stamp = stamp
        self._running = running
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None]
        self._body: bytes | None = request.body
        self._timeout = request.timeout
        self._stream = request.stream
        self._endless = False
        self._deadline = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._started = False
        self._length: int | None = None
        self._sent = 0
        self._over = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    def start(self, name: str) -> None:
        """Call the application."""
        self._running.add(self)
        self._wait_on()
        self._task = self._loop.create_task(self._run())
        self._task.add_done_callback(lambda task: self._returned(task, name))

    def cancel(self) -> asyncio.Task[None]:
        """End it now; the task, which may take its time."""
        self._task.cancel()
        return self._task

    async def _run(self) -> None:
        set_current(self._stamp)
        await self._app(self._scope, self._receive, self._send)

    def _returned(self, task: asyncio.Task[None], name: str) -> None:
        self._running.discard(self)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("the application of server %s failed", name, exc_info=error)
        if task.cancelled() or error is not None:
            self.abort(GateError(ErrorCode.UPSTREAM_BROKEN, "the application failed"))
        elif not self._started:
            self.abort(GateError(ErrorCode.UPSTREAM_INVALID, "the application returned without an answer"))
        else:
            self.abort(GateError(ErrorCode.UPSTREAM_BROKEN, "the application returned before its answer ended"))

    # What the answer asks of it.

    def resume(self) -> None:
        """Let the application send on: what it had sent was taken."""
        if not self._room.is_set():
            self._room.set()
            self._wait_on()

    def abort(self, error: GateError) -> None:
        """The exchange is over unless it was already; the application sees a client that went away."""
        if not self._over.is_set():
            self._close()
            self.answer.fail(error)

    def _close(self) -> None:
        self._over.set()
        self._room.set()
        self._stamp.end()
        if self._timer is not None:
            self._timer.cancel()

    # What the application is given.

    async def _receive(self) -> Event:
        body, self._body = self._body, None
        if body is not None:
            return {"type": "http.request", "body": body, "more_body": False}
        await self._over.wait()
        return {"type": "http.disconnect"}

    async def _send(self, event: Event) -> None:
        if self._over.is_set():
            return
        try:
            unread = self._take(event)
        except RefusedError as error:
            self.abort(GateError(ErrorCode.UPSTREAM_INVALID, f"not a valid ASGI answer: {error}"))
            raise RuntimeError(f"not a valid ASGI answer: {error}") from None
        if unread > READ_AHEAD:
            # The silence that follows is the caller's, so the application is not blamed for it.
            self._room.clear()
            self._deadline = math.inf
            await self._room.wait()

    def _take(self, event: Event) -> int:
        """Take one event in; how many bytes wait to be read."""
        match event.get("type"):
            case "http.response.start" if not self._started:
                self._read_head(event)
                self._started = True
                self._wait_on()
                self.answer.wake()
                return 0
            case "http.response.body" if self._started:
                return self._read_body(event)
            case _:
                raise RefusedError("an event out of turn")

    def _read_head(self, event: Event) -> None:
        status: object = event.get("status")
        if not isinstance(status, int) or status // 100 not in FINAL:
            raise RefusedError("status")
        seen = _read_headers(event.get("headers", ()))
        check_codings(seen)
        answer = self.answer
        answer.status = int(status)
        answer.content_type = parse_media_type(seen.get(b"content-type"))
        answer.session_id = parse_session_id(seen.get(b"mcp-session-id"))
        length = seen.get(b"content-length")
        if length is not None:
            if not _LENGTH.fullmatch(length):
                raise RefusedError("content-length")
            self._length = int(length)
        self._endless = self._stream and status == _OK and answer.content_type == "text/event-stream"

    def _read_body(self, event: Event) -> int:
        body: object = event.get("body", b"")
        if not isinstance(body, bytes | bytearray | memoryview):
            raise RefusedError("a body that is not bytes")
        piece, more = bytes(cast("bytes", body)), bool(event.get("more_body", False))
        self._sent += len(piece)
        if self._length is not None and (self._sent > self._length or (not more and self._sent < self._length)):
            raise RefusedError("a body of another length than Content-Length")
        unread = self.answer.add(piece) if piece else 0
        if not more:
            self._close()
            self.answer.end()
            return 0
        if piece:
            self._wait_on()
            self.answer.wake()
        return unread

    # How long it may be silent.

    def _wait_on(self) -> None:
        self._deadline = math.inf if self._endless else self._loop.time() + self._timeout
        if self._timer is None and self._deadline < math.inf:
            self._timer = self._loop.call_at(self._deadline, self._look)

    def _look(self) -> None:
        # One timer for many events: each of them only moves the deadline.
        self._timer = None
        if self._loop.time() >= self._deadline:
            self.abort(GateError(ErrorCode.UPSTREAM_TIMEOUT, f"silent for {self._timeout:g} s"))
        elif self._deadline < math.inf:
            self._timer = self._loop.call_at(self._deadline, self._look)


def _read_headers(headers: object) -> dict[bytes, bytes]:
    if not isinstance(headers, Iterable):
        raise RefusedError("headers")
    seen: dict[bytes, bytes] = {}
    size = 0
    for place, header in enumerate(cast("Iterable[object]", headers)):
        name, value = _pair(header)
        size += len(name) + len(value)
        if place >= MAX_HEADERS or size > MAX_HEAD:
            raise RefusedError("the head is too large")
        name = name.lower()
        if name in READ_HEADERS:
            if name in seen:
                raise RefusedError(f"{name.decode('ascii')} twice")
            seen[name] = value.strip(b" \t")
    return seen


def _pair(header: object) -> tuple[bytes, bytes]:
    if not isinstance(header, tuple | list):
        raise RefusedError("a header that is no pair")
    pair = tuple(cast("tuple[object, ...]", header))
    if len(pair) != 2 or not all(isinstance(part, bytes) for part in pair):  # noqa: PLR2004 - name and value
        raise RefusedError("a header that is no pair of bytes")
    name, value = cast("tuple[bytes, bytes]", pair)
    if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
        raise RefusedError("a header")
    return name, value


def _identity(admitted: Admitted | None) -> Identity | None:
    if admitted is None:
        return None
    call, session = admitted.call, admitted.session
    principal = call.principal
    return Identity(
        tenant=principal.tenant,
        agent=principal.agent.id.agent,
        role=principal.agent.role,
        server=call.head.server,
        method=call.message.method,
        target=admitted.target,
        user_issuer=None if principal.user is None else principal.user.issuer,
        user=None if principal.user is None else principal.user.subject,
        user_roles=principal.user_roles,
        groups=principal.groups,
        scopes=principal.scopes,
        session=None if session is None else session.id,
        task=None if session is None else session.task,
    )
