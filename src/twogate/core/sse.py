"""Server-sent events: bytes to events as they arrive, and back (WHATWG HTML, section 9.2 "Server-sent events")."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from twogate.core.errors import ErrorCode, GateError

MAX_EVENT: Final = 4 * 1024 * 1024
MAX_RETRY_DIGITS: Final = 9

_BOM: Final = b"\xef\xbb\xbf"
_UNSAFE: Final = re.compile(r"[\r\n\x00]")


class SseEvent(msgspec.Struct, frozen=True):
    """One event, or one comment line, or a block without data that sets `id` or `retry` (milliseconds).

    `data` is None without a `data` field, else UTF-8 with its lines joined by LF. `event` is empty for the default
    type. `id` is what this event's own block set (an empty one resets the last event id); None if it set none.
    """

    data: bytes | None = None
    event: str = ""
    id: str | None = None
    retry: int | None = None
    comment: str | None = None


class SseParser:
    """Reads a stream chunk by chunk; an event unfinished at the stream's end is discarded, as the standard says.

    Each byte is looked at once, however the stream is cut.
    """

    def __init__(self, max_event: int = MAX_EVENT) -> None:
        self._max = max_event
        self._line = bytearray()  # the line that has not ended yet
        self._size = 0  # of the ended lines of the event so far
        self._after_cr = False  # a LF now belongs to the CR before it
        self._first = True  # a byte order mark may come
        self._clear()

    def _clear(self) -> None:
        self._data: list[bytes] = []
        self._event = ""
        self._id: str | None = None
        self._retry: int | None = None
        self._size = 0

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """The events that this chunk completes, in order.

        Raises:
            GateError: UPSTREAM_INVALID (an event over the limit, or not UTF-8); the stream must be dropped then.
        """
        events: list[SseEvent] = []
        if self._after_cr and chunk:
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = _as_lf(chunk)
        *ended, rest = chunk.split(b"\n")
        for part in ended:
            self._check_size(part)
            line = part
            if self._line:
                line = bytes(self._line) + part
                self._line.clear()
            self._size += len(line) + 1
            self._take(line, events)
        self._check_size(rest)
        self._line += rest
        return events

    def _check_size(self, part: bytes) -> None:
        if self._size + len(self._line) + len(part) > self._max:
            raise GateError(ErrorCode.UPSTREAM_INVALID, f"a server-sent event over {self._max} bytes")

    def _take(self, line: bytes, events: list[SseEvent]) -> None:
        if self._first:
            self._first = False
            line = line.removeprefix(_BOM)
        if not line:
            self._dispatch(events)
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match name:
            case b"":
                events.append(SseEvent(comment=_text(value)))
                # A comment is no part of the event around it, and a stream of nothing else is no event.
                self._size -= len(line) + 1
            case b"data":
                _text(value)
                self._data.append(value)
            case b"event":
                self._event = _text(value)
            case b"id" if b"\x00" not in value:
                self._id = _text(value)
            case b"retry" if value.isdigit() and len(value) <= MAX_RETRY_DIGITS:
                self._retry = int(value)
            case _:
                pass  # "Otherwise: The field is ignored."

    def _dispatch(self, events: list[SseEvent]) -> None:
        if self._data:
            events.append(SseEvent(b"\n".join(self._data), self._event, self._id, self._retry))
        elif self._id is not None or self._retry is not None:
            # Browsers fire no event for it but do take over both values, so a proxy must pass it on.
            events.append(SseEvent(None, "", self._id, self._retry))
        self._clear()


def encode_event(event: SseEvent) -> bytes:
    """One whole block that a parser reads as this event and nothing else.

    Raises:
        ValueError: `event` or `id` holds a line break or NUL, or `retry` is negative.
    """
    lines: list[bytes] = []
    if event.comment is not None:
        lines += (b": " + part for part in _as_lf(event.comment.encode()).split(b"\n"))
    if event.event:
        lines.append(b"event: " + _single_line(event.event))
    if event.id is not None:
        lines.append(b"id: " + _single_line(event.id))
    if event.retry is not None:
        if event.retry < 0:
            raise ValueError("retry is negative")
        lines.append(b"retry: %d" % event.retry)
    if event.data is not None:
        lines += (b"data: " + part for part in _as_lf(event.data).split(b"\n"))
    return b"\n".join(lines) + b"\n\n"


def _as_lf(text: bytes) -> bytes:
    return text.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in text else text


def _single_line(value: str) -> bytes:
    if _UNSAFE.search(value):
        raise ValueError("a line break or NUL in a field of one line")
    return value.encode()


def _text(value: bytes) -> str:
    # The standard decodes with replacement characters; a server that sends other bytes is broken, and says so here.
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise GateError(ErrorCode.UPSTREAM_INVALID, "a server-sent event is not UTF-8") from error
