from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from twogate.core.errors import ErrorCode, GateError
from twogate.core.json_stream import MAX_HELD, MAX_MEMBER, STEP, ResponseScanner
from twogate.core.message import parse_answer
from twogate.core.sse import SseEvent, SseParser, SsePart, SsePartParser, encode_event, encode_part

HEAD = b'{"jsonrpc":"2.0","id":1,"result":'


def passed(raw: bytes, scanner: ResponseScanner | None = None, step: int = STEP) -> bytes:
    scanner = scanner or ResponseScanner(1)
    return b"".join(scanner.feed(raw[at : at + step]) for at in range(0, len(raw), step)) + scanner.finish()


def refusal(raw: bytes, scanner: ResponseScanner | None = None, step: int = STEP) -> ErrorCode:
    with pytest.raises(GateError) as caught:
        passed(raw, scanner, step)
    return caught.value.code


def a_result(**members: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "result": members}).encode()


# The envelope.


@pytest.mark.parametrize("step", [1, 3, STEP])
def test_the_envelope_is_written_anew_and_the_bytes_of_the_result_pass(step: int) -> None:
    raw = b' {\r\n"id" :1, "res\\u0075lt": {"b":1e2, "a" : "\\/" } ,"jsonrpc":"2\\u002e0"}\n'
    assert passed(raw, step=step) == HEAD + b'{"b":1e2, "a" : "\\/" }}'


@pytest.mark.parametrize("identifier", [0, -7, 2**53 - 1, "", "1", '\u00fc\U0001f600"\\\n'])
def test_the_answer_carries_the_id_of_the_request(identifier: str | int) -> None:
    raw = json.dumps({"result": {}, "jsonrpc": "2.0", "id": identifier}).encode()
    assert json.loads(passed(raw, ResponseScanner(identifier)))["id"] == identifier
    for other in ("2", "7", '"\\u0000"', "null", "1.0", "true", "-0", "00", "[]", "{}", '"' + "x" * 300 + '"'):
        assert refusal(b'{"id":%s,"jsonrpc":"2.0","result":{}}' % other.encode(), ResponseScanner(identifier)) is (
            ErrorCode.UPSTREAM_INVALID
        )


@pytest.mark.parametrize(
    "raw",
    [
        b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"m"}}',
        b'{"jsonrpc":"2.0","id":1,"result":{},"method":"sampling/createMessage"}',
        b'{"jsonrpc":"2.0","id":1,"result":{},"m\\u0065thod":"roots/list"}',
        b'{"jsonrpc":"2.0","id":1,"result":{},"params":{}}',
        b'{"jsonrpc":"2.0","id":1,"result":{},"Result":{}}',
        b'{"jsonrpc":"2.0","id":1,"id":1,"result":{}}',
        b'{"jsonrpc":"2.0","id":1,"result":{},"result":{}}',
        b'{"jsonrpc":"2.0","id":1,"result":[]}',
        b'{"jsonrpc":"2.0","id":1,"result":null}',
        b'{"jsonrpc":"2.0","id":1}',
        b'{"jsonrpc":"2.0","result":{}}',
        b'{"id":1,"result":{}}',
        b'[{"jsonrpc":"2.0","id":1,"result":{}}]',
        b'{"jsonrpc":"2.0","id":1,"result":{}}{}',
        b'\xef\xbb\xbf{"jsonrpc":"2.0","id":1,"result":{}}',
    ],
)
@pytest.mark.parametrize("step", [1, STEP])
def test_what_is_no_response_with_a_result_is_refused(raw: bytes, step: int) -> None:
    assert refusal(raw, step=step) is ErrorCode.UPSTREAM_INVALID


def test_the_last_brace_comes_with_the_end_alone() -> None:
    scanner = ResponseScanner(1)
    given = scanner.feed(HEAD + b'{"a":1}')
    assert given == HEAD + b'{"a":1}'
    with pytest.raises(GateError):
        scanner.finish()
    assert scanner.feed(b"} \n") == b""
    assert scanner.finish() == b"}"


def test_after_a_refusal_nothing_more_is_given() -> None:
    scanner = ResponseScanner(1)
    scanner.feed(HEAD + b"{}}")
    with pytest.raises(GateError):
        scanner.feed(b"x")
    for step in (scanner.finish, lambda: scanner.feed(b" ")):
        with pytest.raises(GateError) as caught:
            step()
        assert caught.value.code is ErrorCode.UPSTREAM_INVALID


def test_an_escape_may_be_cut_anywhere() -> None:
    raw = HEAD + rb'{"a":["\ud83d\ude00\uDBFF\uDFFF\u00fc\n",{"\ud83d\ude00":0}],"\ud83d\ude00":"\ud83d\ude00"}}'
    for step in range(1, 30):
        assert passed(raw, step=step) == raw


# The result's own members.


@pytest.mark.parametrize(
    "name",
    [
        *("inputRequests", "input_requests", "INPUTREQUESTS", "requestState", "request_state", "taskId", "task_id"),
        *("task", "Task", "tas\u212a", "ResultType", "result_type", "meta", "cache_scope", "x" * 257),
    ],
)
def test_a_result_that_must_be_seen_whole_is_refused_whatever_its_spelling(name: str) -> None:
    assert refusal(a_result(content=[], **{name: {}})) is ErrorCode.UPSTREAM_INVALID
    escaped = "".join(f"\\u{ord(c):04x}" for c in name)
    assert refusal(HEAD + b'{"%s":"complete"}}' % escaped.encode()) is ErrorCode.UPSTREAM_INVALID


def test_further_in_these_names_mean_nothing() -> None:
    raw = a_result(structuredContent={"taskId": "t", "inputRequests": {}, "resultType": "x", "method": "m"})
    assert json.loads(passed(raw)) == json.loads(raw)


@pytest.mark.parametrize("value", ["input_required", "task", "Complete", "", None, True, {}, ["complete"]])
def test_a_result_that_is_not_complete_is_refused(value: object) -> None:
    assert passed(a_result(resultType="complete")) == HEAD + b'{"resultType": "complete"}}'
    assert refusal(a_result(resultType=value)) is ErrorCode.UPSTREAM_INVALID


def test_a_repeated_member_is_refused_and_so_are_too_many() -> None:
    assert refusal(HEAD + b'{"content":[],"c\\u006fntent":[]}}') is ErrorCode.UPSTREAM_INVALID
    assert refusal(a_result(**{f"m{n}": n for n in range(257)})) is ErrorCode.UPSTREAM_INVALID
    assert passed(a_result(**{f"m{n}": n for n in range(256)}))


@pytest.mark.parametrize("step", [1, 2, 5, STEP])
@pytest.mark.parametrize("scope", ["public", "private", None, 5, {"a": [1, "}"]}, ["public"], "\u00fc" * 9])
def test_what_was_answered_to_one_is_never_for_all(scope: object, step: int) -> None:
    for members in ({"cacheScope": scope, "ttlMs": 5}, {"contents": [{}], "cacheScope": scope}):
        assert json.loads(passed(a_result(**members), step=step))["result"] == {**members, "cacheScope": "private"}


@pytest.mark.parametrize("step", [1, 2, 7, STEP])
def test_of_meta_passes_what_the_caller_may_see(step: int) -> None:
    seen = list[object]()

    def shown(meta: dict[str, Any]) -> dict[str, Any]:
        seen.append(meta)
        return {"shown": True}

    raw = HEAD + b'{"a":1,"_meta" : {"secret":"\\u0061", "deep":[{"_meta":1}]} ,"b":"x"}}'
    given = passed(raw, ResponseScanner(1, meta=shown), step)
    assert given == HEAD + b'{"a":1,"_meta" : {"shown":true},"b":"x"}}'
    assert seen == [{"secret": "a", "deep": [{"_meta": 1}]}]


def test_a_server_s_own_name_of_a_task_does_not_pass_unless_somebody_seals_it() -> None:
    for name in ("io.modelcontextprotocol/related-task", "IO.ModelContextProtocol/Related_Task"):
        assert refusal(a_result(_meta={"a": 1, name: {"taskId": "t"}})) is ErrorCode.UPSTREAM_INVALID
    assert refusal(a_result(_meta=[])) is ErrorCode.UPSTREAM_INVALID
    raw = a_result(_meta={"a": {"io.modelcontextprotocol/related-task": 1}})
    assert json.loads(passed(raw)) == json.loads(raw)


@pytest.mark.parametrize("name", ["_meta", "cacheScope"])
@pytest.mark.parametrize("step", [7, STEP, 1 << 20])
def test_members_that_are_held_have_a_limit(name: str, step: int) -> None:
    at_most = {"a": "x" * (MAX_MEMBER - len('{"a": ""}'))}
    assert passed(a_result(**{name: at_most}), step=step)
    at_most["a"] += "x"
    assert refusal(a_result(**{name: at_most}), step=step) is ErrorCode.UPSTREAM_INVALID


@pytest.mark.parametrize("start", [b'{"', HEAD + b'{"', b'{"jsonrpc":"', b'{"id":"', HEAD + b'{"resultType":"'])
def test_names_and_values_that_are_read_whole_have_a_limit(start: bytes) -> None:
    scanner = ResponseScanner(1)
    scanner.feed(start)
    for _ in range(MAX_HELD - 1):
        assert not scanner.feed(b"x")
    with pytest.raises(GateError) as caught:
        scanner.feed(b"x")
    assert caught.value.code is ErrorCode.UPSTREAM_INVALID


# Large answers.


def steps(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        rest += piece
        while len(rest) >= STEP:
            yield rest[:STEP]
            rest = rest[STEP:]
    yield rest


LARGE = {
    "one string": (HEAD + b'{"a":"', b"QUJD" * 16384, b'"}}'),
    "escapes": (HEAD + b'{"a":"', b"\\ud83d\\ude00\\n" * 4096, b'"}}'),
    "numbers": (HEAD + b'{"a":[', b"1.5,-2e3," * 8192, b"0]}}"),
    "objects": (HEAD + b'{"a":[', b'{"id":1,"tags":["a",{}]},\n' * 2048, b"0]}}"),
    "space": (HEAD + b'{"a":[0', b" \t\r\n" * 8192, b"]}}"),
    "a name": (HEAD + b'{"a":{"', b"n" * 65536, b'":1}}}'),
    "nesting up and down": (HEAD + b'{"a":[', (b"[" * 50 + b"]" * 50 + b",") * 16, b"0]}}"),
}


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.no_cover  # what it runs a million times others run once
def test_a_large_answer_passes_as_it_comes_in_flat_memory(name: str) -> None:
    start, repeated, end = LARGE[name]
    # Tracing makes allocations slow, and there are some for each bracket.
    repeats = (200_000 if repeated.startswith(b"[") else 1_000_000) // len(repeated)
    scanner, given, fed, behind = ResponseScanner(1), 0, 0, 0
    tracemalloc.start()
    try:
        for chunk in steps([start, *[repeated] * repeats, end]):
            fed += len(chunk)
            given += len(scanner.feed(chunk.translate(None, b"\r\n")))
            behind = max(behind, fed - given - chunk.count(b"\n") - chunk.count(b"\r"))
        scanner.finish()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < fed / 2
    if b"\n" not in repeated:
        assert behind <= MAX_HELD


HOSTILE = {
    "brackets": b"[" * 60 + b"]" * 60 + b",",
    "what runs try in vain": b"[[" + b"1," * 60 + b"[[[1]]]]],",
    "objects in objects": b'{"":' * 50 + b"0" + b"}" * 50 + b",",
    "quotes and backslashes": b'"' + b"\\\\" * 30 + b'\\"",',
    "digits": b"1" * 200 + b",",
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.no_cover  # what it runs a million times others run once
def test_no_content_costs_more_than_in_proportion_to_its_length(name: str) -> None:
    def seconds(size: int) -> float:
        data, best = HEAD + b'{"a":[' + HOSTILE[name] * (size // len(HOSTILE[name])), float("inf")
        for _ in range(3):
            scanner, start = ResponseScanner(1), time.process_time()
            scanner.feed(data)
            best = min(best, time.process_time() - start)
        return best

    # Eight times the bytes; with backtracking it would be 64 times as long or worse.
    assert seconds(160_000) < 24 * seconds(20_000) + 0.01


@pytest.mark.parametrize("layout", [{}, {"indent": 1}])
@pytest.mark.parametrize("step", [1000, 65536])
def test_a_large_event_goes_through_both_and_reaches_the_client_as_one(layout: dict[str, Any], step: int) -> None:
    result = {"content": [{"type": "text", "text": "\u00fc\n" * 5000}], "rows": [[n, str(n)] for n in range(5000)]}
    raw = json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}, **layout).encode()
    stream = encode_event(SseEvent(b"{}")) + encode_event(SseEvent(raw, "message"))
    parser, scanner, sent = SsePartParser(10_000), ResponseScanner(1), list[bytes]()
    for at in range(0, len(stream), step):
        for item in parser.feed(stream[at : at + step]):
            if isinstance(item, SsePart):
                last = scanner.finish if item.last else bytes
                data = scanner.feed(item.data) + last()
                sent.append(encode_part(SsePart(data, item.first, item.last, "message" if item.first else "")))
    assert len(sent) > 1
    assert SseParser().feed(b"".join(sent[:-1])) == []
    (event,) = SseParser().feed(b"".join(sent))
    assert event.event == "message"
    assert parse_answer(event.data or b"").payload == result
