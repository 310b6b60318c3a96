"""One HTTP/1.1 connection to an MCP server (RFC 9112).

Callbacks only: httptools parses what the transport hands over, and the awaiting task is woken once, when there is
something to tell. An answer that has a small `Content-Length` is told when it is complete, so it costs one wake-up and
its connection is back in the pool before the task runs. Everything the other side sends is hostile input here.
"""

from __future__ import annotations

import asyncio
import math
import select
import socket
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Final, cast

import httptools

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
from twogate.adapters.upstream.http_answer import HttpAnswer
from twogate.core.errors import ErrorCode, GateError

EAGER_BODY: Final = 64 * 1024
"""Up to this `Content-Length` an answer is told when it is complete, not when its head is."""
TRUSTED_IDLE: Final = 1.0
"""Seconds of idleness after which a connection is asked whether the other side has closed it."""

_SWITCHING_PROTOCOLS: Final = int(HTTPStatus.SWITCHING_PROTOCOLS)
_OK: Final = int(HTTPStatus.OK)
_NO_CONTENT: Final = int(HTTPStatus.NO_CONTENT)
_INTERIM: Final = 1


class HttpConnection(asyncio.Protocol):
    """A connection that carries one exchange at a time.

    `deadline` (of the loop's clock) is when the pool must call `expire`: the end of idleness, or of patience.
    """

    def __init__(
        self,
        *,
        idle_seconds: float,
        on_made: Callable[[HttpConnection], None],
        on_idle: Callable[[HttpConnection], None],
        on_lost: Callable[[HttpConnection], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._idle_seconds = idle_seconds
        self._on_made = on_made
        self._on_idle = on_idle
        self._on_lost = on_lost
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._answer: HttpAnswer | None = None
        self._lost = False
        self._tls = False
        self._paused = False
        self._timeout = 0.0
        self._stream = False
        self.deadline = math.inf
        self._seen: dict[bytes, bytes] = {}
        self._begin()

    def _begin(self) -> None:
        """Forget the last answer."""
        self._room = MAX_HEAD
        self._headers = 0
        self._interim = False
        self._head_done = False
        self._hold = False
        self._endless = False
        self._until_close = False
        self._complete = False
        self._reusable = False
        self._grown = 0
        self._seen.clear()

    # What the pool asks of it.

    def is_usable(self) -> bool:
        """Whether a request may be written: open, silent since the last answer, and not idle for too long."""
        left = self.deadline - self._loop.time()
        if self._lost or left <= 0 or self._transport.is_closing():
            return False
        # The loop may not have seen yet that the other side closed. A request written now would be lost, and nobody
        # could say whether it ran, so a connection that was idle for a while is asked (not always: a system call).
        return left > self._idle_seconds - TRUSTED_IDLE or not self._is_readable()

    def exchange(self, request: bytes, timeout: float, *, stream: bool = False) -> HttpAnswer:
        """Write a request on a usable connection; from here on it may have run.

        `timeout` bounds, in seconds, the silence before the head and within the body; not within the body of a
        `stream`, if events are what it is answered with.
        """
        self._begin()
        self._timeout = timeout
        self._stream = stream
        self.deadline = self._loop.time() + timeout
        answer = self._answer = HttpAnswer(self)
        self._transport.write(request)
        return answer

    def resume(self) -> None:
        """Read on: what had arrived was taken."""
        if self._paused:
            self._paused = False
            self._wait_on()
            self._transport.resume_reading()

    def abort(self, error: GateError) -> None:
        """Close now; a running exchange fails with `error`."""
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.fail(error)
        # Not `close`: with TLS that would wait for the other side's goodbye.
        self._transport.abort()

    def expire(self) -> None:
        """The deadline has passed."""
        self.abort(GateError(ErrorCode.UPSTREAM_TIMEOUT, f"silent for {self._timeout:g} s"))

    def keep_alive(self, options: Iterable[tuple[str, int]]) -> None:
        """Let the kernel ask from time to time whether the other side still exists; `options` are of TCP, in seconds.

        A connection whose other side vanished without a word then ends as a broken one does.
        """
        connected: socket.socket = self._transport.get_extra_info("socket")
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in options:
            if (option := getattr(socket, name, None)) is not None:  # not every system has each
                connected.setsockopt(socket.IPPROTO_TCP, option, value)

    def _is_readable(self) -> bool:
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection, with its TLS handshake, stands."""
        self._transport = cast("asyncio.Transport", transport)
        self._tls = transport.get_extra_info("ssl_object") is not None
        self.deadline = self._loop.time() + self._idle_seconds
        self._on_made(self)

    def data_received(self, data: bytes) -> None:
        """Parse what arrived and wake the reader at most once."""
        answer = self._answer
        if answer is None:
            # Nobody asked. Kept, these bytes would become the beginning of the next caller's answer.
            self._transport.abort()
            return
        told, self._grown = self._head_done, 0
        try:
            self._feed(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, RefusedError) as error:
            self._refuse(answer, error)
            return
        if self._complete:
            self._finish(answer)
        elif self._head_done and not self._hold and (self._grown or not told):
            self._await_more()
            answer.wake()

    def _feed(self, data: bytes) -> None:
        if not self._head_done and len(data) > self._room:
            self._parser.feed_data(data[: self._room])
            if not self._head_done:
                raise RefusedError("the head is too large")
            data = data[self._room :]
        self._parser.feed_data(data)
        if not self._grown:
            self._room -= len(data)
            if self._room <= 0 and not self._complete:
                raise RefusedError("too much that is not body")

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._lost = True
        answer, self._answer = self._answer, None
        if answer is not None:
            # "a response message without a declared message body length [is] determined by the number of octets
            # received prior to the server closing the connection" (RFC 9112 section 6.3); a reset is not a close.
            if self._head_done and self._until_close and exc is None:
                answer.end()
            else:
                answer.fail(GateError(ErrorCode.UPSTREAM_BROKEN, "the connection was closed before the answer ended"))
        self._on_lost(self)

    def _await_more(self) -> None:
        if self._paused:
            return
        self._wait_on()
        self._room = MAX_HEAD

    def _wait_on(self) -> None:
        self.deadline = math.inf if self._endless else self._loop.time() + self._timeout

    def _finish(self, answer: HttpAnswer) -> None:
        self._answer = None
        answer.end()
        # A request that the other side did not read to its end leaves a rest that would precede the next one.
        if not self._reusable or self._transport.get_write_buffer_size():
            self._transport.abort()
            return
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        self.deadline = self._loop.time() + self._idle_seconds
        self._on_idle(self)

    def _refuse(self, answer: HttpAnswer, error: Exception) -> None:
        self._answer = None
        if self._complete:
            answer.end()  # The answer was whole; what followed it was not asked for.
        else:
            reason = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else error
            answer.fail(GateError(ErrorCode.UPSTREAM_INVALID, f"not a valid HTTP/1.1 answer: {reason}"))
        self._transport.abort()

    # httptools

    def on_message_begin(self) -> None:
        """An answer begins."""
        if self._complete:
            raise RefusedError("an answer that nobody asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field."""
        if self._head_done:
            raise RefusedError("trailers")
        self._headers += 1
        if self._headers > MAX_HEADERS:
            raise RefusedError("too many header fields")
        name = name.lower()
        if name in READ_HEADERS:
            if name in self._seen:
                raise RefusedError(f"{name.decode('ascii')} twice")
            self._seen[name] = value.strip(b" \t")

    def on_headers_complete(self) -> None:
        """The head is complete."""
        status = self._parser.get_status_code()
        # "A client MUST be able to parse one or more 1xx responses received prior to a final response" (RFC 9110
        # section 15.2). 101 is none of these: we never ask to switch protocols.
        kind = status // 100
        if kind == _INTERIM and status != _SWITCHING_PROTOCOLS:
            self._interim = True
            return
        if kind not in FINAL:
            raise RefusedError(f"status {status}")
        seen = self._seen
        coding, length = seen.get(b"transfer-encoding"), seen.get(b"content-length")
        check_codings(seen)
        answer = self._answer
        if answer is None:
            raise RefusedError("an answer that nobody asked for")
        answer.status = status
        answer.content_type = parse_media_type(seen.get(b"content-type"))
        answer.session_id = parse_session_id(seen.get(b"mcp-session-id"))
        self._until_close = coding is None and length is None and status != _NO_CONTENT
        if self._until_close and self._tls:
            # asyncio does not say whether TLS ended with its goodbye, so a body cut short by somebody between the two
            # would look complete (RFC 9112 section 9.8).
            raise RefusedError("with TLS a body must say where it ends")
        self._hold = length is not None and int(length) <= EAGER_BODY
        self._endless = self._stream and status == _OK and answer.content_type == "text/event-stream"
        self._head_done = True

    def on_body(self, body: bytes) -> None:
        """Body bytes, freed of their framing."""
        self._grown += len(body)
        if self._answer is not None and self._answer.add(body) > READ_AHEAD and not self._paused:
            # The silence that follows is ours, so nobody is blamed for it.
            self._paused = True
            self.deadline = math.inf
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """An answer ends."""
        if self._interim:
            self._interim = False
            self._seen.clear()
            return
        self._complete = True
        self._reusable = self._parser.should_keep_alive()
