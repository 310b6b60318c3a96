"""One request's ASGI cycle: uvicorn's, except that an answer's head leaves together with the first bytes of its body.

One write instead of two is one system call and one wake-up of the client less. Beside ASGI's `receive` and `send` it
has `take_body`, `start` and `write`, which do the same for the data plane without a message in between.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from http import HTTPStatus
from typing import Any, cast

from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode("ascii") for status in HTTPStatus}
_BODILESS = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_MAX_NAMES = 256
_names: dict[bytes, bytes] = {}  # names found good, and in lower case; ours are few


class AnswerCycle(RequestResponseCycle):
    """What the application calls `receive` and `send` of."""

    _head = b""

    def take_body(self) -> bytes | None:
        """The whole body, if all of it is here already; else nothing is taken, and `receive` is to be asked."""
        here = self.message_event.is_set() and not self.more_body and not self.waiting_for_100_continue
        if not here or self.disconnected or self.response_complete:
            return None
        self.flow.resume_reading()
        self.message_event.clear()
        body, self.body = bytes(self.body), bytearray()
        return body

    def start(self, status: int, lines: bytes, length: int | None) -> None:
        """Keep the head of an answer whose headers are known to be good: `lines`, of `header_lines`.

        `length` of the body in bytes; None if it streams. Neither framing nor `Connection` may be among the lines.
        """
        if self.response_started:
            raise RuntimeError("a second head of the answer")
        if self.disconnected:
            return
        self._begin(status, lines, length)

    async def write(self, body: bytes, *, more: bool) -> None:
        """Write a piece of the body; waits while the client does not read."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if not self.response_started or self.response_complete:
            raise RuntimeError("a piece of the body out of turn")
        self._write_body(body, more=more)

    async def receive(self) -> ASGIReceiveEvent:
        """The next piece of the body, or that the client went away."""
        if self.message_event.is_set() and not self.waiting_for_100_continue:
            if self.disconnected or self.response_complete:
                return {"type": "http.disconnect"}
            self.flow.resume_reading()
            self.message_event.clear()
            body, self.body = bytes(self.body), bytearray()
            return {"type": "http.request", "body": body, "more_body": self.more_body}
        return await super().receive()

    async def send(self, message: ASGISendEvent) -> None:
        """Take the head and keep it, or a piece of the body and write it; waits while the client does not read."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        fields = cast("dict[str, Any]", message)
        if not self.response_started:
            if fields["type"] != "http.response.start":
                raise RuntimeError(f"{fields['type']} before the head of the answer")
            self._encode_head(fields["status"], fields.get("headers", ()))
            return
        if self.response_complete or fields["type"] != "http.response.body":
            raise RuntimeError(f"{fields['type']} out of turn")
        self._write_body(fields.get("body", b""), more=fields.get("more_body", False))

    def _encode_head(self, status: int, headers: Any) -> None:  # noqa: ANN401 - as ASGI says: pairs of bytes
        pairs = [(name.lower(), value) for name, value in headers]
        fields = dict(pairs)
        length = fields.get(b"content-length")
        if b"transfer-encoding" in fields:
            raise RuntimeError("how an answer is framed is not the application's to say")
        lines = header_lines([pair for pair in pairs if pair[0] != b"content-length"])
        if told := b"close" in fields.get(b"connection", b"").lower():
            self.keep_alive = False
        self._begin(status, lines, None if length is None else int(length), told=told)

    def _begin(self, status: int, lines: bytes, length: int | None, *, told: bool = False) -> None:
        """Keep a head; `told`: its lines say already that the connection ends."""
        framing = b""
        self.chunked_encoding = False
        if length is not None:
            self.expected_content_length = length
            framing = b"content-length: %d\r\n" % length
        elif self.scope["method"] != "HEAD" and status not in _BODILESS:
            self.chunked_encoding = True
            framing = b"transfer-encoding: chunked\r\n"
        ending = b"" if self.keep_alive or told else b"connection: close\r\n"
        dated = b"".join([b"%b: %b\r\n" % pair for pair in self.default_headers])
        self._head = b"%b%b%b%b%b\r\n" % (_STATUS_LINES[status], dated, lines, framing, ending)
        # Only now: a head that could not be encoded is answered with a 500 instead.
        self.response_started = True
        self.waiting_for_100_continue = False

    def _write_body(self, body: bytes, *, more: bool) -> None:
        head, self._head = self._head, b""
        if self.scope["method"] == "HEAD":
            body, self.expected_content_length = b"", 0
        elif self.chunked_encoding:
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if not more:
                body += b"0\r\n\r\n"
        else:
            if len(body) > self.expected_content_length:
                raise RuntimeError("a body longer than its Content-Length")
            self.expected_content_length -= len(body)
        if head or body:
            self.transport.write(head + body)
        if more:
            return
        if self.expected_content_length:
            raise RuntimeError("a body shorter than its Content-Length")
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


def header_lines(headers: Collection[tuple[bytes, bytes]]) -> bytes:
    """The lines of headers: one for each and no line more, so that no value can add a header or a second answer.

    Raises:
        RuntimeError: a name is none, or a value holds a control character.
    """
    lines = b"".join([b"%b: %b\r\n" % (_names.get(name) or _checked(name), value) for name, value in headers])
    count = len(headers)
    if lines.count(b"\r") != count or lines.count(b"\n") != count or _CONTROL.search(lines):
        raise RuntimeError("a header of the answer holds a control character")
    return lines


def _checked(name: bytes) -> bytes:
    if not _NAME.fullmatch(name):
        raise RuntimeError("an answer's header has no valid name")
    if len(_names) < _MAX_NAMES:
        _names[name] = name.lower()
    return name.lower()
