"""The hardened HTTP edge: uvicorn's httptools protocol, which refuses what it should never have accepted.

A connection reads one request at a time: the head is cut out at its empty line, judged by `web/framing.py`, and only
then given to the application; bytes of the next request wait unread until the answer is complete. Deadlines are numbers
on the connection that one sweep per process compares with the clock, so a request costs no timer.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any, ClassVar, Final, cast

import httptools
from uvicorn._types import ASGI3Application, HTTPScope
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from twogate.core.limits import address_key
from twogate.flows.environment import Clock
from twogate.web import framing
from twogate.web.answer import AnswerCycle
from twogate.web.edge import Edge, OnRefusal
from twogate.web.edge_limits import EdgeLimits
from twogate.web.framing import CHUNKED, ChunkGuard, Refusal, Refused, RequestLine
from twogate.web.parser_events import ParserEvents
from twogate.web.peer import PEER_CERTIFICATE, UNIX_PEER

# What a connection's deadline is for. Plain numbers, since an enum's members are slow to reach in Python 3.11.
WAIT_FIRST_BYTE: Final = 0
WAIT_HEAD: Final = 1
WAIT_BODY: Final = 2
WAIT_ANSWER: Final = 3
WAIT_IDLE: Final = 4
WAIT_END: Final = 5


class EdgeProtocol(HttpToolsProtocol):
    """One connection. `protocol_class` makes the class that uvicorn instantiates."""

    edge: ClassVar[Edge]
    app: ASGI3Application
    parser: httptools.HttpRequestParser

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        # In place of the base class's parser, which is lenient about bytes after `Connection: close` and reports more.
        self._events = ParserEvents()
        self.parser = self._events.parser
        self._address = UNIX_PEER
        self._key: str | None = None
        self._admitted = False
        self._extensions: dict[str, bytes | None] = {}
        self._trust = self.edge.trust
        self._raw_line = b""
        self._line = RequestLine("", b"", "", b"", "")
        self._held = b""  # the beginning of a head, or requests that came ahead of their turn
        self._scanned = 0  # where in `_held` to go on looking for the end of the head
        self._body_left = 0
        self._chunks: ChunkGuard | None = None
        self._in_body = False
        self._answering = False  # a request was let in and its answer is not complete
        self._expects = False
        self._ended = False  # nothing more is read
        self._waiting_cycle: AnswerCycle | None = None
        self._wait = WAIT_FIRST_BYTE
        self._deadline = math.inf
        self._stalled = math.inf

    # --- the transport's events

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the base class
        """Count the connection in and note who is at the other end."""
        super().connection_made(transport)
        edge = self.edge
        if self.client is not None:
            self._address = self.client[0]
            self._key = address_key(self._address)
        certificate: bytes | None = None
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            certificate = tls.getpeercert(True)
            if self._trust != self.edge.trust or (certificate is not None and tls.session_reused):
                # Else a handshake that began before a reload, or a resumed session, would bring a certificate that was
                # checked under an earlier trust configuration.
                self._ended = True
                transport.abort()
                return
        self._extensions = {PEER_CERTIFICATE: certificate}
        self._admitted = edge.admit(self, self._key)
        if self._admitted:
            self._set_deadline(WAIT_FIRST_BYTE, edge.limits.first_byte_seconds)
        else:
            self._ended = True
            edge.on_refusal(self._address, framing.CONNECTIONS.code)
            transport.write(framing.CONNECTIONS.answer(self.server_state.default_headers))
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the connection out and let a running application see the disconnect."""
        self._ended = True
        self._held = b""
        if self._admitted:
            self._admitted = False
            self.edge.release(self, self._key)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes in; nothing is read after a refusal."""
        if not self._ended:
            if self._held:
                data = self._held + data
                self._held = b""
            self._advance(data)

    def pause_writing(self) -> None:
        """Start the time that the client has to read on."""
        super().pause_writing()
        self._stalled = self.edge.after(self.edge.limits.stalled_write_seconds)

    def resume_writing(self) -> None:
        """The client read on."""
        super().resume_writing()
        self._stalled = math.inf

    # --- reading

    def _advance(self, data: bytes) -> None:
        """Read as much as may be read now, then start the application if a request was let in."""
        try:
            while data:
                if self._in_body:
                    data = self._read_body(data)
                elif self._answering:
                    self._hold(data)
                    break
                else:
                    data = self._read_head(data)
        except Refused as refused:
            self._refuse(refused.refusal)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._refuse(framing.MALFORMED)
        cycle = self._waiting_cycle
        if cycle is not None:
            # Only now, so that a body refused in the same breath leaves the application unaware of the
            self._waiting_cycle = None
            self._start_asgi_task(cycle, self.app)

    def _hold(self, data: bytes) -> None:
        """Keep bytes of the next request until the answer of this one is complete; parse and queue nothing."""
        if len(data) > self.edge.limits.max_ahead_bytes:
            raise Refused(framing.AHEAD_SIZE)
        self._held = data
        self._scanned = 0
        self.flow.pause_reading()

    def _read_head(self, data: bytes) -> bytes:
        """Read one head if it is complete, and let its request in; the rest of the bytes."""
        end = data.find(b"\r\n\r\n", self._scanned) + 4
        if end < 4 or data[0] == 13:  # noqa: PLR2004 - not found, or a CR before the request line
            return self._await_head(data)
        self._scanned = 0
        head = data if end == len(data) else data[:end]
        rules = self.edge.rules
        if end > self.edge.limits.max_head_bytes:
            raise Refused(framing.HEAD_SIZE)
        raw_line = head[: head.find(b"\r\n")]
        if raw_line == self._raw_line:
            line = self._line  # as in this connection's last request: judged already
        else:
            self._line = line = rules.read_request_line(raw_line)
            self._raw_line = raw_line
        events = self._events
        events.head_read = events.message_read = False
        headers: list[tuple[bytes, bytes]] = []
        events.headers = headers
        self.parser.feed_data(head)
        length, expects = rules.read_headers(headers, line.version, end)
        if events.odd or not events.head_read or events.message_read != (length == 0):
            # The parser found another end of the head, or another length: somebody is being tricked.
            raise Refused(framing.FRAMING)
        self._let_in(line, headers, length)
        self._expects = self.cycle.waiting_for_100_continue = expects
        return b"" if end == len(data) else data[end:]

    def _await_head(self, data: bytes) -> bytes:
        """Keep the beginning of a head, if it can still become one."""
        skip = self.edge.rules.read_partial_head(data, self._scanned)
        if skip:
            self._scanned = 0
            return data[skip:]
        if self._wait != WAIT_HEAD:
            self._set_deadline(WAIT_HEAD, self.edge.limits.head_seconds)
        self._held = data
        self._scanned = max(0, len(data) - 3)
        return b""

    def _read_body(self, data: bytes) -> bytes:
        """Read body bytes; those that follow the body."""
        guard = self._chunks
        if guard is not None:
            size = guard.take(data)
            done = guard.done
        else:
            size = min(self._body_left, len(data))
            self._body_left -= size
            done = self._body_left == 0
        self.parser.feed_data(data if size == len(data) else data[:size])
        if done != self._events.message_read:
            raise Refused(framing.FRAMING)
        self._pass_on(done=done)
        return b"" if size == len(data) else data[size:]

    def _pass_on(self, *, done: bool) -> None:
        """Give the application what was read of the body, unless it has answered already."""
        cycle = self.cycle
        body = self._events.body
        if not cycle.response_complete:
            for part in body:
                cycle.body += part
            if len(cycle.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            cycle.more_body = not done
            cycle.message_event.set()
        body.clear()
        if done:
            self._in_body = False
            self._chunks = None
            if cycle.response_complete:
                self._set_deadline(WAIT_IDLE, self.edge.limits.idle_seconds)
            else:
                self._deadline = math.inf
                self._wait = WAIT_ANSWER

    def _let_in(self, line: RequestLine, headers: list[tuple[bytes, bytes]], length: int) -> None:
        """Make the request's scope and cycle; `_advance` starts the application."""
        self.scope = cast(
            "HTTPScope",
            {
                "type": "http",
                "asgi": {"version": "3.0", "spec_version": "2.3"},
                "http_version": line.version,
                "server": self.server,
                "client": self.client,
                "scheme": self.scheme,
                "method": line.method,
                "root_path": "",
                "path": line.path,
                "raw_path": line.raw_path,
                "query_string": line.query,
                "headers": headers,
                "state": self.app_state.copy(),
                "extensions": self._extensions,
            },
        )
        self.cycle = cycle = AnswerCycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=self._events.keep_alive and line.version != "1.0" and not self._is_last(),
            on_response=self.on_response_complete,
        )
        self._waiting_cycle = cycle
        self._answering = True
        if length == 0:
            cycle.more_body = False
            cycle.message_event.set()
            self._deadline = math.inf
            self._wait = WAIT_ANSWER
        else:
            self._in_body = True
            self._chunks = ChunkGuard(self.edge.limits) if length == CHUNKED else None
            self._body_left = max(length, 0)
            self._set_deadline(WAIT_BODY, self.edge.limits.body_seconds)

    def on_response_complete(self) -> None:
        """Go on to the next request, or wait for it."""
        self._answering = False
        self.server_state.total_requests += 1
        limits = self.edge.limits
        if self.transport.is_closing():
            self._ended = True
            self._set_deadline(WAIT_END, limits.stalled_write_seconds)
            return
        self.flow.resume_reading()
        if self._in_body:
            if self._expects:
                # A client that was told the answer instead of `100 Continue` may send the body or not; what comes next
                # would be a guess (RFC 9110 section 10.1.1).
                self._linger()
            return
        self._set_deadline(WAIT_IDLE, limits.idle_seconds)
        if self._held:
            data, self._held = self._held, b""
            self._advance(data)

    def _is_last(self) -> bool:
        return self.edge.draining or self._trust != self.edge.trust

    def shutdown(self) -> None:
        """Answer what is under way, and what arrives within a moment: closing at once would lose a request on its way.

        Called when the process begins to end, or the handshake was one under an earlier trust configuration; each
        answer closes its connection from then on.
        """
        if self._answering:
            self.cycle.keep_alive = False
        elif self._in_body:
            self.transport.close()  # answered already
        elif self._wait in {WAIT_FIRST_BYTE, WAIT_IDLE}:
            self._set_deadline(self._wait, 0)

    # --- refusals and deadlines

    def _refuse(self, refusal: Refusal) -> None:
        """Answer with the refusal if nothing has been answered yet, and read no more of this connection."""
        self._waiting_cycle = None
        speak = True
        if self._in_body or self._answering:
            # The request whose body this is, or the one whose answer is still due: it is over for the application.
            cycle = self.cycle
            speak = self._in_body and not cycle.response_started
            cycle.disconnected = True
            cycle.message_event.set()
        self._ended = True
        self._held = b""
        self.edge.on_refusal(self._address, refusal.code)
        if speak:
            self.transport.write(refusal.answer(self.server_state.default_headers))
            self._linger()
        else:
            self.transport.abort()

    def _linger(self) -> None:
        """End our side, and throw away for a while what still arrives: closing at once could lose our last answer."""
        self._ended = True
        self._set_deadline(WAIT_END, self.edge.limits.linger_seconds)
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _set_deadline(self, wait: int, seconds: float) -> None:
        self._wait = wait
        self._deadline = self.edge.after(seconds)

    def check_deadlines(self, now: float) -> None:
        """Called by the sweep."""
        if self._stalled <= now:
            self.transport.abort()
        elif self._wait == WAIT_ANSWER and self.transport.is_closing():
            # The application failed half-way; closing waits for a client that may not read.
            self._set_deadline(WAIT_END, self.edge.limits.linger_seconds)
        elif self._deadline <= now:
            if self._wait == WAIT_HEAD:
                self._refuse(framing.HEAD_TIME)
            elif self._wait != WAIT_BODY:
                self._ended = True
                # Closing would wait for a client that does not read.
                self.transport.abort()
            elif self.flow.read_paused:
                self._set_deadline(WAIT_BODY, 0)  # the application is slow, not the client
            else:
                self._refuse(framing.BODY_TIME)


def protocol_class(
    limits: EdgeLimits, allowed_hosts: frozenset[str], on_refusal: OnRefusal, clock: Clock
) -> type[EdgeProtocol]:
    """The protocol class for one process, to be given to uvicorn as `http`.

    Args:
        limits: Caps and deadlines.
        allowed_hosts: Accepted Host values, with the port where it is not the scheme's default.
        on_refusal: Told every refusal; must not block.
        clock: Its monotonic time drives the deadlines.

    Raises:
        ValueError: No allowed host.
    """

    class BoundProtocol(EdgeProtocol):
        edge = Edge(limits, allowed_hosts, on_refusal, clock)

    return BoundProtocol
