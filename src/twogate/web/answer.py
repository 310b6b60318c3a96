"""One request's ASGI cycle: uvicorn's, except that an answer's head leaves together with the first bytes of its body.

One write instead of two is one system call and one wake-up of the client less.
"""

from __future__ import annotations

import re
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
            self._head = self._encode_head(fields["status"], fields.get("headers", ()))
            # Only now: a head that could not be encoded is answered with a 500 instead.
            self.response_started = True
            self.waiting_for_100_continue = False
            return
        if self.response_complete or fields["type"] != "http.response.body":
            raise RuntimeError(f"{fields['type']} out of turn")
        self._write_body(fields.get("body", b""), more=fields.get("more_body", False))

    def _encode_head(self, status: int, headers: Any) -> bytes:  # noqa: ANN401 - as ASGI says: pairs of bytes
        pairs = [(_names.get(name) or _checked(name), value) for name, value in [*self.default_headers, *headers]]
        block = b"".join([b"%b: %b\r\n" % pair for pair in pairs])
        # One line per header and no line more, so that no value can add a header or a second answer.
        count = len(pairs)
        if block.count(b"\r") != count or block.count(b"\n") != count or _CONTROL.search(block):
            raise RuntimeError("a header of the answer holds a control character")
        fields = dict(pairs)
        length = fields.get(b"content-length")
        self.chunked_encoding = False
        if length is not None:
            self.expected_content_length = int(length)
        elif b"transfer-encoding" in fields:
            raise RuntimeError("how an answer is framed is not the application's to say")
        elif self.scope["method"] != "HEAD" and status not in _BODILESS:
            self.chunked_encoding = True
            block += b"transfer-encoding: chunked\r\n"
        connection = fields.get(b"connection")
        if connection is not None and b"close" in connection.lower():
            self.keep_alive = False
        elif not self.keep_alive:
            block += b"connection: close\r\n"
        return b"%b%b\r\n" % (_STATUS_LINES[status], block)

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


def _checked(name: bytes) -> bytes:
    if not _NAME.fullmatch(name):
        raise RuntimeError("an answer's header has no valid name")
    if len(_names) < _MAX_NAMES:
        _names[name] = name.lower()
    return name.lower()
