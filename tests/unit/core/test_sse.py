import time
import tracemalloc

import pytest

from twogate.core.errors import ErrorCode, GateError
from twogate.core.sse import MAX_EVENT, SseEvent, SseParser, SsePart, SsePartParser, encode_event, encode_part


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


@pytest.mark.no_cover  # what it runs a million times others run once
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


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "\n"])
def test_a_type_or_id_that_would_break_the_line_is_a_mistake_of_ours(value: str) -> None:
    with pytest.raises(ValueError, match="one line"):
        encode_event(SseEvent(b"", event=value))
    with pytest.raises(ValueError, match="one line"):
        encode_event(SseEvent(b"", id=value))
    with pytest.raises(ValueError, match="one line"):
        encode_part(SsePart(b"", first=True, last=False, event=value))


def test_what_a_reader_would_ignore_is_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match="NUL"):
        encode_event(SseEvent(b"", id="a\x00"))
    with pytest.raises(ValueError, match="negative"):
        encode_event(SseEvent(b"", retry=-1))


# Events that are too large to be held.

Item = SseEvent | SsePart


def pieces(stream: bytes, step: int, whole: int, limit: int | None = None) -> list[Item]:
    parser = SsePartParser(whole, limit)
    return [item for at in range(0, len(stream), step) for item in parser.feed(stream[at : at + step])]


def joined(items: list[Item]) -> list[SseEvent]:
    """Events made of their parts; every part must stand where it belongs."""
    events, data = list[SseEvent](), None
    for item in items:
        if isinstance(item, SseEvent):
            assert data is None
            events.append(item)
            continue
        assert item.first == (data is None)
        data = (data or b"") + item.data
        if item.last:
            events.append(SseEvent(data, item.event, item.id, item.retry))
            data = None
        else:
            assert item == SsePart(item.data, item.first, last=False)
    return events


@pytest.mark.parametrize("step", [1, 2, 3, 10, 1000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["lf", "crlf", "cr"])
@pytest.mark.parametrize("whole", [5, 12, 13, 40, 1000])
def test_parts_make_the_events_that_are_read_whole(whole: int, end: bytes, step: int) -> None:
    stream = b"data: a\n\ndata:{\ndata:  \xc3\xbc,\ndata\ndata: }\n\ndata: 0123456789012\ndatax\n\n"
    stream = stream.replace(b"\n", end)
    items = pieces(stream, step, whole)
    assert joined(items) == read(stream)
    assert {type(item) for item in items} == ({SseEvent} if whole >= 13 else {SseEvent, SsePart})


@pytest.mark.parametrize("step", [1, 4, 1000])
def test_an_event_comes_in_parts_exactly_if_its_data_is_over_the_threshold(step: int) -> None:
    for data in (b"x" * 30, b"x" * 14 + b"\n" + b"x" * 15, b"\n" * 30):
        assert pieces(encode_event(SseEvent(data)), step, 30) == [SseEvent(data)]
        items = pieces(encode_event(SseEvent(data + b"y")), step, 30)
        assert all(isinstance(item, SsePart) for item in items)
        assert joined(items) == [SseEvent(data + b"y")]


@pytest.mark.parametrize("step", [1, 5, 1000])
def test_a_byte_order_mark_stands_at_the_start_of_the_stream_alone(step: int) -> None:
    mark, long = b"\xef\xbb\xbf", b"data: " + b"x" * 50 + b"\n"
    for stream in (mark + long + mark + b"data: y\n\n", b"\n" + mark + b"data: y\n" + long + b"\n"):
        assert joined(pieces(stream, step, 30)) == read(stream) == [SseEvent(b"x" * 50)]


@pytest.mark.parametrize("step", [1, 5, 1000])
def test_the_other_fields_of_a_large_event_come_with_its_last_part(step: int) -> None:
    data = b"data: " + b"x" * 50 + b"\n"
    for before, after in ((b"event: e\nid: 7\nretry: 5\n", b""), (b"", b"event: e\nid: 7\nretry: 5\n")):
        items = pieces(before + data + after + b"\ndata: z\n\n", step, 30)
        assert joined(items) == [SseEvent(b"x" * 50, "e", "7", 5), SseEvent(b"z")]


@pytest.mark.parametrize("step", [1, 1000])
def test_a_comment_never_comes_between_the_parts_of_an_event(step: int) -> None:
    stream = b": a\ndata: x\n: b\ndata: " + b"y" * 50 + b"\n: c\ndata: z\n\n: d\n"
    items = pieces(stream, step, 30)
    assert joined(items) == [
        *(SseEvent(comment="a"), SseEvent(comment="b")),
        SseEvent(b"x\n" + b"y" * 50 + b"\nz"),
        SseEvent(comment="d"),
    ]


@pytest.mark.parametrize("step", [1, 1000])
def test_a_large_event_without_end_has_no_last_part(step: int) -> None:
    for stream in (b"data: " + b"x" * 50, b"data: " + b"x" * 50 + b"\n", b"data: " + b"x" * 50 + b"\nid: 7\n"):
        items = pieces(stream, step, 30)
        assert items
        assert not any(isinstance(item, SseEvent) or item.last for item in items)


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_a_large_event_that_is_not_utf8_is_refused(step: int) -> None:
    long = b"x" * 50
    for stream in (
        b"data: " + long + b"\xff" + long,
        b"data: " + long + b"\xc3\ndata: \xbc\n\n",
        b"data: " + long + b"\xe2\x82\n\n",
        b"data: " + long + b"\ndata: \xff\n\n",
    ):
        with pytest.raises(GateError) as caught:
            pieces(stream, step, 30)
        assert caught.value.code is ErrorCode.UPSTREAM_INVALID


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_what_is_no_data_may_not_be_large(step: int) -> None:
    for stream in (b"id: " + b"1" * 50, b"id: 1\n" * 10, b": " + b"x" * 50, b"x" * 50, b"database: " + b"x" * 50):
        with pytest.raises(GateError) as caught:
            pieces(stream + b"\n\n", step, 30)
        assert caught.value.code is ErrorCode.UPSTREAM_INVALID


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_a_large_event_may_have_a_limit_too(step: int) -> None:
    stream = b"data: " + b"x" * 50 + b"\n\n"
    assert joined(pieces(stream * 3, step, 30, 57)) == [SseEvent(b"x" * 50)] * 3
    with pytest.raises(GateError) as caught:
        pieces(stream, step, 30, 55)
    assert caught.value.code is ErrorCode.UPSTREAM_INVALID


@pytest.mark.parametrize("line", [b"data: " + b"x" * 900_000 + b"\n", b"data:\n" * 100_000, b"data: xy\n" * 100_000])
@pytest.mark.no_cover  # what it runs a million times others run once
def test_a_large_event_passes_in_flat_memory(line: bytes) -> None:
    parser, size, stream = SsePartParser(10_000), 0, memoryview(line + b"\n")
    tracemalloc.start()
    try:
        for at in range(0, len(stream), 8192):
            size += sum(len(item.data or b"") for item in parser.feed(bytes(stream[at : at + 8192])))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size == len(read(line + b"\n", limit=2**24)[0].data or b"")
    assert peak < 200_000


def test_parts_are_written_so_that_they_are_read_as_one_event() -> None:
    parts = [
        SsePart(b" {", first=True, last=False, event="message", id="7"),
        SsePart(b"", first=False, last=False),
        SsePart(b'"a":\n\n1', first=False, last=False),
        SsePart(b"\n}", first=False, last=True, retry=5),
    ]
    assert read(b"".join(map(encode_part, parts))) == [SseEvent(b' {"a":\n\n1\n}', "message", "7", 5)]
    assert read(b"".join(map(encode_part, parts[:-1]))) == []
    alone = SsePart(b"x", first=True, last=True, event="e", id="7")
    assert encode_part(alone) == encode_event(SseEvent(b"x", "e", "7"))


def test_a_part_with_half_a_line_end_is_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match="CR"):
        encode_part(SsePart(b"a\r", first=True, last=False))
