"""What must hold of the parsers for any bytes at all, each as one function that a fuzzer or a test can call.

Each parser is held to another that knows nothing of it: the standard library's JSON, msgspec, jiter, and the event
stream's algorithm as the standard states it, line by line.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any, Final, NamedTuple, NoReturn, TypeVar

import jiter
import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.json_stream import MAX_NUMBER, ResponseScanner
from twogate.core.message import MAX_DEPTH, MAX_MEMBERS, Message, encode_message, parse_answer, parse_message, reads_as
from twogate.core.sse import SseEvent, SseParser, SsePart, SsePartParser, encode_event, encode_part

MESSAGE_CODES = {
    ErrorCode.PARSE_ERROR,
    ErrorCode.DUPLICATE_KEY,
    ErrorCode.TOO_DEEP,
    ErrorCode.TOO_LARGE,
    ErrorCode.NOT_UTF8,
    ErrorCode.BAD_NUMBER,
    ErrorCode.INVALID_REQUEST,
    ErrorCode.UNKNOWN_MEMBER,
    ErrorCode.CASE_CONFLICT,
    ErrorCode.INVALID_PARAMS,
    ErrorCode.BATCH_NOT_SUPPORTED,
}


SHORT: Final = 64
Read = TypeVar("Read")


class Number(NamedTuple):
    """A number as it was spelled."""

    text: str


class Object(list[tuple[str, Any]]):
    """An object with its members in order, repeated ones too."""


def exact(value: object) -> object:
    """A value with its types, so that 1, 1.0 and True are told apart."""
    if isinstance(value, dict):
        return {name: exact(item) for name, item in value.items()}
    if isinstance(value, list):
        return [exact(item) for item in value]
    return type(value), repr(value)


def attempt(step: Callable[[], Read]) -> Read | ErrorCode:
    """What a step gives, or why it refuses."""
    try:
        return step()
    except GateError as error:
        return error.code


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """Ways to cut the data: not at all, everywhere (if it is short), and at places that depend on the data alone."""
    yield [data]
    seed = zlib.crc32(data)
    step = 1 if len(data) <= SHORT else 1 + seed % 7
    yield [data[n : n + step] for n in range(0, len(data), step)]
    bounds = sorted({0, len(data), *((seed >> shift) % (len(data) + 1) for shift in range(0, 24, 3))})
    yield [data[a:b] for a, b in pairwise(bounds)]


# Messages.


def check_message(raw: bytes) -> Message | ErrorCode:
    """A client's message is refused, or read as every parser reads it and written as it was read.

    A server's is refused, or what is written of it is read as it was.
    """
    _check_parsed_answer(raw)
    message = attempt(lambda: parse_message(raw))
    if isinstance(message, ErrorCode):
        assert message in MESSAGE_CODES
        return message
    value = _read(raw)
    assert isinstance(value, Object)
    assert not _repeats(value)
    for parse in (json.loads, msgspec.json.decode, jiter.from_json):
        read: Any = parse(raw)
        assert exact(read.get("params", {})) == exact(message.params)
        assert exact([read.get("id"), read.get("method", "")]) == exact([message.id, message.method])
    again = encode_message(message)
    assert parse_message(again) == message
    assert encode_message(parse_message(again)) == again
    return message


def _check_parsed_answer(raw: bytes) -> None:
    answer = attempt(lambda: parse_answer(raw))
    if isinstance(answer, ErrorCode):
        assert answer is ErrorCode.UPSTREAM_INVALID
        return
    again = encode_message(answer)
    read = parse_answer(again)
    assert exact([read.id, read.method, read.params, read.payload]) == exact(
        [answer.id, answer.method, answer.params, answer.payload]
    )
    assert not _repeats(_read(again))


# Answers that pass piece by piece.

IDENTIFIER = 1


def check_answer(raw: bytes) -> bytes | None:
    """An answer passes exactly if the rules hold, however it is cut, and as every parser reads it; what passed of
    a refused one is no complete text. Gives what passed."""
    passed = [_passed(chunks) for chunks in cuts(raw)]
    expected = _acceptable(raw)
    assert [complete for complete, _ in passed] == [expected] * len(passed)
    if not expected:
        for _, text in passed:
            assert not _complete(text), text
        return None
    given = passed[0][1]
    assert all(text == given for _, text in passed)
    assert not re.search(rb"[\r\n]", given)
    result = msgspec.json.decode(raw)["result"]
    if "cacheScope" in result:
        result["cacheScope"] = "private"
    response = exact({"jsonrpc": "2.0", "id": IDENTIFIER, "result": result})
    for parse in (json.loads, msgspec.json.decode, jiter.from_json):
        assert exact(parse(given)) == response
    assert exact(parse_answer(raw).payload) == exact(msgspec.json.decode(raw)["result"])
    assert exact(parse_answer(given).payload) == exact(result)
    return given


def _passed(chunks: list[bytes]) -> tuple[bool, bytes]:
    scanner, passed = ResponseScanner(IDENTIFIER), bytearray()
    for chunk in chunks:
        given = attempt(partial(scanner.feed, chunk))
        if isinstance(given, ErrorCode):
            after = [given, attempt(lambda: scanner.feed(b"}")), attempt(scanner.finish)]
            assert after == [ErrorCode.UPSTREAM_INVALID] * 3
            return False, bytes(passed)
        passed += given
    last = attempt(scanner.finish)
    if isinstance(last, ErrorCode):
        assert last is ErrorCode.UPSTREAM_INVALID
        return False, bytes(passed)
    assert not _complete(bytes(passed))
    return True, bytes(passed + last)


def _complete(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _acceptable(raw: bytes) -> bool:
    try:
        value = _read(raw)
    except (ValueError, RecursionError):
        return False
    if not isinstance(value, Object) or sorted(name for name, _ in value) != ["id", "jsonrpc", "result"]:
        return False
    envelope = dict(value)
    result = envelope["result"]
    return (
        envelope["jsonrpc"] == "2.0"
        and envelope["id"] == Number(str(IDENTIFIER))
        and isinstance(result, Object)
        and len(result) <= MAX_MEMBERS
        and len(dict(result)) == len(result)
        and all(_may_pass(name, item) for name, item in result)
    )


def _may_pass(name: str, value: object) -> bool:
    if len(name) > MAX_MEMBERS or any(reads_as(name, m) for m in ("inputRequests", "requestState", "taskId", "task")):
        return False
    for member in ("resultType", "cacheScope", "_meta"):
        if reads_as(name, member) and name != member:
            return False
    if name == "resultType":
        return value == "complete"
    if name == "_meta":
        return isinstance(value, Object) and not any(
            reads_as(inner, "io.modelcontextprotocol/related-task") for inner, _ in value
        )
    return True


def _read(raw: bytes) -> object:
    """The value by the standard library and within our limits, or ValueError."""
    value = json.loads(
        raw.decode(), object_pairs_hook=Object, parse_int=Number, parse_float=Number, parse_constant=_refuse
    )
    _check_limits(value, 0)
    return value


def _refuse(text: str) -> NoReturn:
    raise ValueError(text)


def _check_limits(value: object, depth: int) -> None:
    if isinstance(value, Number):
        if len(value.text) > MAX_NUMBER or not math.isfinite(float(value.text)):
            _refuse("number")
    elif isinstance(value, str):
        value.encode()  # no lone surrogates
    elif isinstance(value, list):
        if depth >= MAX_DEPTH:
            _refuse("depth")
        for item in value:
            if isinstance(value, Object):
                item[0].encode()
            _check_limits(item[1] if isinstance(value, Object) else item, depth + 1)


def _repeats(value: object) -> bool:
    if isinstance(value, Object):
        return len(dict(value)) != len(value) or any(_repeats(item) for _, item in value)
    return isinstance(value, list) and any(map(_repeats, value))


# Event streams.

WHOLE = 64
"""Bytes of data that an event may have before it is given in parts, here."""


def check_sse(stream: bytes) -> list[SseEvent] | ErrorCode:
    """A stream is read as the standard reads it, however it is cut; what is written of it is read as it was.

    Gives its events, or why it is refused.
    """
    read = [_events(chunks) for chunks in cuts(stream)]
    assert all(events == read[0] for events in read)
    for chunks in cuts(stream):
        _check_parts(chunks, read[0])
    events = read[0]
    if isinstance(events, ErrorCode):
        assert not _is_utf8(stream)
        return events
    if _is_utf8(stream):
        assert [event for event in events if event.comment is None] == _as_the_standard_reads(stream.decode())
    for event in events:
        assert _events([encode_event(event)]) == [event]
    return events


def _events(chunks: list[bytes]) -> list[SseEvent] | ErrorCode:
    parser = SseParser()
    return attempt(lambda: [event for chunk in chunks for event in parser.feed(chunk)])


def _check_parts(chunks: list[bytes], whole: list[SseEvent] | ErrorCode) -> None:
    """The same events come out, but for large ones' parts, and for other fields than data that are too large."""
    parser, parts, events = SsePartParser(WHOLE), list[SsePart](), list[SseEvent]()
    items = attempt(lambda: [item for chunk in chunks for item in parser.feed(chunk)])
    if isinstance(items, ErrorCode):
        assert items is ErrorCode.UPSTREAM_INVALID
        return
    for item in items:
        if isinstance(item, SsePart):
            assert item.first == (not parts)
            assert item.last or item.data
            parts.append(item)
            if item.last:
                events.append(_joined(parts))
                parts.clear()
        else:
            assert not parts
            assert len(item.data or b"") <= WHOLE
            events.append(item)
    if parts:
        _joined(parts)  # of an event that did not end
    assert not isinstance(whole, ErrorCode)
    assert [event for event in events if event.comment is None] == [event for event in whole if event.comment is None]


def _joined(parts: list[SsePart]) -> SseEvent:
    last = parts[-1]
    event = SseEvent(b"".join(part.data for part in parts), last.event, last.id, last.retry)
    assert len(event.data or b"") > WHOLE or not last.last
    written = b"".join(map(encode_part, parts))
    assert _events([written]) == ([event] if last.last else [])
    return event


def _is_utf8(stream: bytes) -> bool:
    try:
        stream.decode()
    except UnicodeDecodeError:
        return False
    return True


def _as_the_standard_reads(stream: str) -> list[SseEvent]:
    """WHATWG HTML, section 9.2.6 "Interpreting an event stream", without what a client remembers between events."""
    events = list[SseEvent]()
    data, kind, identifier, retry = "", "", None, None
    *lines, _ = re.split("\r\n|\r|\n", stream.removeprefix("\ufeff"))
    for line in lines:
        if not line:
            if data:
                events.append(SseEvent(data.removesuffix("\n").encode(), kind, identifier, retry))
            elif identifier is not None or retry is not None:
                events.append(SseEvent(None, "", identifier, retry))
            data, kind, identifier, retry = "", "", None, None
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            kind = value
        elif field == "data":
            data += value + "\n"
        elif field == "id" and "\0" not in value:
            identifier = value
        elif field == "retry" and re.fullmatch("[0-9]{1,9}", value):
            retry = int(value)
    return events
