from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from fuzz.invariants import WHOLE, check_sse
from twogate.core.errors import ErrorCode, GateError
from twogate.core.sse import SseEvent, SseParser, encode_event

pieces = st.lists(
    st.sampled_from(
        [
            b"\n",
            b"\r",
            b"\r\n",
            b"data",
            b":",
            b" ",
            b"id",
            b"event",
            b"retry",
            b"1",
            b"\x00",
            b"\xef\xbb\xbf",
            b"\xc3\xbc",
            b"\xff",
            b"x",
            b"y" * 30,
        ]
    ),
    max_size=60,
).map(b"".join)
lines = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\x00"), max_size=20)
events = st.builds(
    SseEvent,
    data=st.lists(lines.map(str.encode), min_size=1, max_size=4).map(b"\n".join),
    event=lines,
    id=st.none() | lines,
    retry=st.none() | st.integers(0, 999_999_999),
) | st.builds(SseEvent, comment=lines)


def outcome(chunks: list[bytes]) -> list[SseEvent | ErrorCode]:
    """Every event, then the refusal if there is one."""
    parser, found = SseParser(50), list[SseEvent | ErrorCode]()
    try:
        for chunk in chunks:
            found += parser.feed(chunk)
    except GateError as error:
        found.append(error.code)
    return found


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[a:b] for a, b in pairwise(bounds)]


@given(pieces | st.binary(max_size=80), st.lists(st.integers(0, 500), max_size=8))
def test_where_a_stream_is_cut_changes_nothing(stream: bytes, places: list[int]) -> None:
    slowly = outcome([stream[n : n + 1] for n in range(len(stream))])
    for found in (outcome(cut(stream, places)), outcome([stream])):
        # A chunk that holds the offence gives none of its events.
        assert found == slowly or (
            found[-1:] == slowly[-1:] == [ErrorCode.UPSTREAM_INVALID] and found[:-1] == slowly[: len(found) - 1]
        )


@given(st.lists(events, max_size=5), st.lists(st.integers(0, 500), max_size=5))
def test_encoded_events_are_read_back_as_they_were(sent: list[SseEvent], places: list[int]) -> None:
    parser, stream = SseParser(), b"".join(map(encode_event, sent))
    assert [event for chunk in cut(stream, places) for event in parser.feed(chunk)] == sent


@given(pieces | st.lists(events, max_size=5).map(lambda sent: b"".join(map(encode_event, sent))))
def test_a_stream_is_read_as_the_standard_says_in_parts_too(stream: bytes) -> None:
    check_sse(stream)


@given(st.binary(min_size=WHOLE + 1, max_size=4 * WHOLE), st.binary(max_size=30), st.lists(st.integers(0, 500)))
def test_data_of_any_bytes_passes_in_parts_or_is_no_utf8(data: bytes, more: bytes, places: list[int]) -> None:
    stream = encode_event(SseEvent(data, "message", "7")) + b"data: " + more
    check_sse(stream)
