import time

import pytest

from twogate.core.errors import ErrorCode, GateError
from twogate.core.sse import MAX_EVENT, SseEvent, SseParser, encode_event


def read(stream: bytes, step: int | None = None, limit: int = MAX_EVENT) -> list[SseEvent]:
    parser, size = SseParser(limit), step or max(len(stream), 1)
    return [event for at in range(0, len(stream), size) for event in parser.feed(stream[at : at + size])]


# Streams of the standard's section "Interpreting an event stream", and the corner cases beside them.
STREAMS = {
    "the standard's stock example": (
        b"data: YHOO\ndata: +2\ndata: 10\n\n",
        [SseEvent(b"YHOO\n+2\n10")],
    ),
    "the standard's four blocks": (
        b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n",
        [SseEvent(comment="test stream"), SseEvent(b"first event", id="1"), SseEvent(b"second event", id="")],
    ),
    "the standard's empty data": (b"data\n\ndata\ndata\n\ndata:", [SseEvent(b""), SseEvent(b"\n")]),
    "the standard's equal events": (b"data:test\n\ndata: test\n\n", [SseEvent(b"test"), SseEvent(b"test")]),
    "every field": (
        b"event: message\nid: 7\nretry: 3000\ndata: {}\n\n",
        [SseEvent(b"{}", "message", "7", 3000)],
    ),
    "a priming event": (b"id: 7\ndata:\n\n", [SseEvent(b"", id="7")]),
    "id and retry without data": (b"id: 7\nretry: 5\n\n", [SseEvent(None, "", "7", 5)]),
    "an event type without data": (b"event: x\n\ndata: a\n\n", [SseEvent(b"a")]),
    "an id with NUL": (b"id: a\x00b\ndata: x\n\n", [SseEvent(b"x")]),
    "a retry that is no number": (
        b"retry: 1.5\nretry: -1\nretry: \xd9\xa3\nretry: 99999999999\nretry:\ndata: x\n\n",
        [SseEvent(b"x")],
    ),
    "unknown fields": (b"Data: a\n data: a\nfoo\nfoo: bar\ndata: x\n\n", [SseEvent(b"x")]),
    "a colon in the value": (b"data: a: b\ndata::\n\n", [SseEvent(b"a: b\n:")]),
    "a comment inside an event": (b"data: a\n:\ndata: b\n\n", [SseEvent(comment=""), SseEvent(b"a\nb")]),
    "a byte order mark": (b"\xef\xbb\xbfdata: x\n\n", [SseEvent(b"x")]),
    "only one byte order mark": (b"\xef\xbb\xbf\xef\xbb\xbfdata: x\n\n", []),
    "a byte order mark later": (b"data: a\n\n\xef\xbb\xbfdata: x\n\n", [SseEvent(b"a")]),
    "characters of several bytes": ("data: \u00fc\U0001f600\n\n".encode(), [SseEvent("\u00fc\U0001f600".encode())]),
    "an event without end": (b"data: x\n", []),
    "nothing": (b"\n\n\n", []),
}  # fmt: skip


@pytest.mark.parametrize("step", [None, 1, 2, 3])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["lf", "crlf", "cr"])
@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_is_read_alike_with_every_line_ending_and_however_it_is_cut(
    name: str, end: bytes, step: int | None
) -> None:
    stream, events = STREAMS[name]
    assert read(stream.replace(b"\n", end), step) == events


def test_line_endings_may_be_mixed() -> None:
    assert read(b"data: a\r\ndata: b\rdata: c\n\r\ndata: d\r\r") == [SseEvent(b"a\nb\nc"), SseEvent(b"d")]


def test_an_event_is_given_as_soon_as_its_blank_line_ends() -> None:
    parser = SseParser()
    assert parser.feed(b"data: a\r\n\r") == [SseEvent(b"a")]
    assert parser.feed(b"") == []
    assert parser.feed(b"\ndata: b\r\n\r\n") == [SseEvent(b"b")]


def refusal(stream: bytes, limit: int = MAX_EVENT, step: int = 1 << 16) -> ErrorCode:
    with pytest.raises(GateError) as caught:
        read(stream, step, limit)
    return caught.value.code


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_an_event_over_the_limit_is_refused_in_every_shape(step: int) -> None:
    for stream in (
        b"data: " + b"x" * 100,
        b"data:\n" * 20,
        b"id: 1\n" * 20,
        b"x" * 101,
        b": " + b"x" * 100,
        b"nonsense\n" * 20,
    ):
        assert refusal(stream, 100, step) is ErrorCode.UPSTREAM_INVALID


def test_the_limit_is_for_one_event_and_not_for_the_stream() -> None:
    parser = SseParser(100)
    for _ in range(50):
        assert parser.feed(b"data: " + b"x" * 80 + b"\n\n: keep-alive\n") == [
            SseEvent(b"x" * 80),
            SseEvent(comment="keep-alive"),
        ]
    assert len(parser.feed(b": keep-alive\n" * 50)) == 50


@pytest.mark.parametrize("stream", [b"data: \xff\n\n", b"event: \xc0\x80\n\n", b"id: \xed\xa0\x80\n\n", b": \xff\n"])
def test_bytes_that_are_not_utf8_are_refused(stream: bytes) -> None:
    assert refusal(stream) is ErrorCode.UPSTREAM_INVALID


def test_a_stream_fed_byte_by_byte_costs_time_in_proportion() -> None:
    def seconds(size: int) -> float:
        stream, parser, best = b"data: " + b"x" * size + b"\n\n", SseParser(), float("inf")
        for _ in range(3):
            start = time.process_time()
            for at in range(len(stream)):
                parser.feed(stream[at : at + 1])
            best = min(best, time.process_time() - start)
        return best

    # Eight times the bytes; a parser that looks at the line again for each byte would take 64 times as long.
    assert seconds(160_000) < 24 * seconds(20_000)


@pytest.mark.parametrize(
    "event",
    [
        SseEvent(b"{}"),
        SseEvent(b""),
        SseEvent(b"\n"),
        SseEvent(b"a\nb\n\nc"),
        SseEvent(b" leading: colon"),
        SseEvent(b"x", " spaced", " 7", 0),
        SseEvent(b"x", "message", ""),
        SseEvent(None, "", "7", 1000),
        SseEvent(comment=""),
        SseEvent(comment=" keep-alive"),
    ],
)
def test_an_encoded_event_is_read_back_as_it_was(event: SseEvent) -> None:
    assert read(encode_event(event)) == [event]
    assert read(encode_event(SseEvent(b"before")) + encode_event(event))[1:] == [event]


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_data_cannot_inject_fields_or_events(end: bytes) -> None:
    evil = b"x" + end + end + b"event: evil" + end + b"data: y"
    assert read(encode_event(SseEvent(evil))) == [SseEvent(b"x\n\nevent: evil\ndata: y")]


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_a_comment_cannot_inject_fields_or_events(end: str) -> None:
    events = read(encode_event(SseEvent(comment=f"x{end}data: evil{end}{end}id: 1")))
    assert [event.comment for event in events] == ["x", "data: evil", "", "id: 1"]


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "\n", "a\x00"])
def test_a_type_or_id_that_would_break_the_line_is_a_mistake_of_ours(value: str) -> None:
    with pytest.raises(ValueError, match="one line"):
        encode_event(SseEvent(b"", event=value))
    with pytest.raises(ValueError, match="one line"):
        encode_event(SseEvent(b"", id=value))
    with pytest.raises(ValueError, match="negative"):
        encode_event(SseEvent(b"", retry=-1))
