"""Server-sent events: bytes to events as they arrive, and back (WHATWG HTML, section 9.2 "Server-sent events")."""

from __future__ import annotations

import codecs
import re
from typing import Final

import msgspec

from twogate.core.errors import ErrorCode, GateError

MAX_EVENT: Final = 4 * 1024 * 1024
MAX_WHOLE: Final = 1024 * 1024
"""Bytes of data up to which an event is given whole by a parser that gives parts."""
MAX_RETRY_DIGITS: Final = 9

_BOM: Final = b"\xef\xbb\xbf"
_DATA: Final = b"data:"
_LINE_END: Final = re.compile(r"[\r\n]")


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


class SsePart(msgspec.Struct, frozen=True):
    """A piece of an event whose data is too large to be held.

    The `data` of its parts in a row is the event's. Its other fields may follow the data, so the last part has them;
    if that does not come, there was no event.
    """

    data: bytes
    first: bool
    last: bool
    event: str = ""
    id: str | None = None
    retry: int | None = None


class SsePartParser:
    """Reads a stream chunk by chunk; an event unfinished at the stream's end is discarded, as the standard says.

    An event with at most `whole` bytes of data is given as one, a larger one in parts. So no more than `whole` bytes of
    its data are held between two chunks; its other lines may have as many. `max_event` is for all lines of an event.
    Each byte is looked at once, however the stream is cut.
    """

    def __init__(self, whole: int = MAX_WHOLE, max_event: int | None = None) -> None:
        self._whole = whole
        self._max = max_event
        self._after_cr = False  # a LF now belongs to the CR before it
        self._first = True  # a byte order mark may come
        self._line = bytearray()  # the line that has not ended yet, unless it is in `_data`
        self._length = 0  # of that line
        self._in_data = False  # that line is data, and what came of it is in `_data`
        self._utf8 = codecs.getincrementaldecoder("utf-8")()  # of that line then
        self._clear()

    def _clear(self) -> None:
        self._data = bytearray()  # as far as it was not given
        self._size = 0  # of all data
        self._has_data = False
        self._given = False  # a part of it was
        self._event = ""
        self._id: str | None = None
        self._retry: int | None = None
        self._total = 0  # of the lines that ended
        self._others = 0  # of those that are not data

    def feed(self, chunk: bytes) -> list[SseEvent | SsePart]:
        """The events that this chunk completes, and what it brings of a large one, in order.

        Raises:
            GateError: UPSTREAM_INVALID (an event over the limit, or not UTF-8); the stream must be dropped then.
        """
        events: list[SseEvent | SsePart] = []
        if self._after_cr and chunk:
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = _as_lf(chunk)
        *ended, rest = chunk.split(b"\n")
        for part in ended:
            if part or self._length or self._total:
                self._end_line(part, events)
            else:
                self._first = False  # a blank line between events
        self._continue_line(rest)
        if self._size > self._whole and self._data:
            events.append(SsePart(bytes(self._data), not self._given, last=False))
            self._data.clear()
            self._given = True
        return events

    def _end_line(self, part: bytes, events: list[SseEvent | SsePart]) -> None:
        self._count(part)
        self._total += self._length + 1
        self._length = 0
        if self._in_data:
            self._in_data = False
            self._add(part)
            self._check(part, final=True)
            return
        line = part
        if self._line:
            line = bytes(self._line) + part
            self._line.clear()
        self._take(line, events)

    def _continue_line(self, part: bytes) -> None:
        self._count(part)
        if self._in_data:
            self._add(part)
            self._check(part)
            return
        self._line += part
        # Shorter ones may still turn out to have a byte order mark, or the space that is no part of the data.
        if self._length <= len(_BOM + _DATA):
            return
        start = len(_BOM) if self._first and self._line.startswith(_BOM) else 0
        if not self._line.startswith(_DATA, start):
            self._check_others(self._length)
        elif self._size + self._length > self._whole:
            value = bytes(self._line[start + len(_DATA) :]).removeprefix(b" ")
            self._line.clear()
            self._first = False
            self._in_data = True
            self._add_line(value)
            self._check(value)

    def _count(self, part: bytes) -> None:
        self._length += len(part)
        if self._max is not None and self._total + self._length > self._max:
            raise GateError(ErrorCode.UPSTREAM_INVALID, f"a server-sent event over {self._max} bytes")

    def _check_others(self, length: int) -> None:
        if self._others + length > self._whole:
            raise GateError(ErrorCode.UPSTREAM_INVALID, f"over {self._whole} bytes beside an event's data")

    def _check(self, part: bytes, *, final: bool = False) -> None:
        try:
            self._utf8.decode(part, final)
        except UnicodeDecodeError as error:
            raise _not_utf8() from error

    def _add_line(self, value: bytes) -> None:
        if self._has_data:
            self._add(b"\n")
        self._has_data = True
        self._add(value)

    def _add(self, value: bytes) -> None:
        self._data += value
        self._size += len(value)

    def _take(self, line: bytes, events: list[SseEvent | SsePart]) -> None:
        length = len(line)
        if self._first:
            self._first = False
            line = line.removeprefix(_BOM)
        if not line:
            self._dispatch(events)
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            _text(value)
            self._add_line(value)
            return
        self._check_others(length)
        self._others += length + 1
        match name:
            case b"":
                comment = _text(value)
                # Between two parts it would come to stand inside of the event that they make.
                if self._size <= self._whole:
                    events.append(SseEvent(comment=comment))
                # A comment is no part of the event around it, and a stream of nothing else is no event.
                self._total -= length + 1
                self._others -= length + 1
            case b"event":
                self._event = _text(value)
            case b"id" if b"\x00" not in value:
                self._id = _text(value)
            case b"retry" if value.isdigit() and len(value) <= MAX_RETRY_DIGITS:
                self._retry = int(value)
            case _:
                pass  # "Otherwise: The field is ignored."

    def _dispatch(self, events: list[SseEvent | SsePart]) -> None:
        data = bytes(self._data)
        if self._size > self._whole:
            events.append(SsePart(data, not self._given, True, self._event, self._id, self._retry))
        elif self._has_data:
            events.append(SseEvent(data, self._event, self._id, self._retry))
        elif self._id is not None or self._retry is not None:
            # Browsers fire no event for it but do take over both values, so a proxy must pass it on.
            events.append(SseEvent(None, "", self._id, self._retry))
        self._clear()


class SseParser:
    """As `SsePartParser`, for events that are all held whole, and refused if larger than `max_event`."""

    def __init__(self, max_event: int = MAX_EVENT) -> None:
        self._parser = SsePartParser(max_event, max_event)

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """The events that this chunk completes, in order.

        Raises:
            GateError: UPSTREAM_INVALID (an event over the limit, or not UTF-8); the stream must be dropped then.
        """
        return [event for event in self._parser.feed(chunk) if isinstance(event, SseEvent)]


def encode_event(event: SseEvent) -> bytes:
    """One whole block that a parser reads as this event and nothing else.

    Raises:
        ValueError: `event` or `id` holds a line break, `id` a NUL, or `retry` is negative.
    """
    lines: list[bytes] = []
    if event.comment is not None:
        lines += (b": " + part for part in _as_lf(event.comment.encode()).split(b"\n"))
    lines += _fields(event)
    if event.data is not None:
        lines += (b"data: " + part for part in _as_lf(event.data).split(b"\n"))
    return b"\n".join(lines) + b"\n\n"


def encode_part(part: SsePart) -> bytes:
    """What to send for one part of an event; fields may come with the first or the last one.

    A client that gets no last part discards the event, unless something else is sent in its place: break off then.

    Raises:
        ValueError: as for `encode_event`, or `data` holds a CR, whose LF could come with the next part.
    """
    if b"\r" in part.data:
        raise ValueError("a CR in a part of an event")
    fields = b"".join(line + b"\n" for line in _fields(part))
    data = part.data.replace(b"\n", b"\ndata: ")
    if part.first:
        data, fields = fields + b"data: " + data, b""
    return data + b"\n" + fields + b"\n" if part.last else data


def _fields(event: SseEvent | SsePart) -> list[bytes]:
    lines: list[bytes] = []
    if event.event:
        lines.append(b"event: " + _single_line(event.event))
    if event.id is not None:
        if "\x00" in event.id:
            raise ValueError("a NUL in an id, which would be ignored")
        lines.append(b"id: " + _single_line(event.id))
    if event.retry is not None:
        if event.retry < 0:
            raise ValueError("retry is negative")
        lines.append(b"retry: %d" % event.retry)
    return lines


def _as_lf(text: bytes) -> bytes:
    return text.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in text else text


def _single_line(value: str) -> bytes:
    if _LINE_END.search(value):
        raise ValueError("a line break in a field of one line")
    return value.encode()


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8() from error


def _not_utf8() -> GateError:
    # The standard decodes with replacement characters; a server that sends other bytes is broken, and says so here.
    return GateError(ErrorCode.UPSTREAM_INVALID, "a server-sent event is not UTF-8")
