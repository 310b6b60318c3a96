import json
import math
from typing import Any

import pytest

from twogate.core.errors import FACES, ErrorCode, GateError
from twogate.core.message import (
    MAX_ANSWER,
    MAX_BODY,
    MAX_DEPTH,
    MAX_ID,
    MAX_MEMBERS,
    MAX_NAME,
    MAX_SAFE_INTEGER,
    Kind,
    Message,
    encode_error,
    encode_message,
    encode_result,
    parse_answer,
    parse_message,
)
from twogate.core.protocol import target_of


def call(**changes: Any) -> dict[str, Any]:
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "git_log", "arguments": {}}}
    return {name: value for name, value in {**message, **changes}.items() if value is not ...}


def with_arguments(text: str) -> bytes:
    head = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{"a":'
    return head + text.encode("utf-8", "surrogatepass") + b"}}}"


def refusal(raw: bytes | dict[str, Any] | list[Any], **options: int) -> ErrorCode:
    with pytest.raises(GateError) as caught:
        parse_message(raw if isinstance(raw, bytes) else json.dumps(raw).encode(), **options)
    return caught.value.code


def parsed(value: dict[str, Any]) -> Message:
    return parse_message(json.dumps(value).encode())


def test_a_request_is_read_with_all_its_parts() -> None:
    message = parsed(call(params={"name": "git_log", "arguments": {"n": 3}, "_meta": {"progressToken": 7}}))
    assert message == Message(
        Kind.REQUEST, 1, "tools/call", {"name": "git_log", "arguments": {"n": 3}, "_meta": {"progressToken": 7}}
    )


def test_a_notification_and_both_kinds_of_response_are_read() -> None:
    assert parsed({"jsonrpc": "2.0", "method": "notifications/initialized"}) == Message(
        Kind.NOTIFICATION, None, "notifications/initialized", {}
    )
    assert parsed({"jsonrpc": "2.0", "id": "a", "result": {"roots": []}}) == Message(
        Kind.RESPONSE, "a", "", {}, {"roots": []}
    )
    error = {"code": -1, "message": "no", "data": [1]}
    assert parsed({"jsonrpc": "2.0", "id": 2, "error": error}) == Message(Kind.RESPONSE, 2, "", {}, error, True)


@pytest.mark.parametrize(
    "raw", [b"", b"  \n", b"{", b"{}x", b'{"a":1}{"b":2}', b"{}\x00", b"\xef\xbb\xbf{}", b"[1,]", b"{'a':1}"]
)
def test_text_that_is_not_one_json_value_is_a_parse_error(raw: bytes) -> None:
    assert refusal(raw) is ErrorCode.PARSE_ERROR


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":"\xff"}',
        b'{"\xc0\x80":1}',
        b'"\xed\xa0\x80"',
        b"\xff\xfe{\x00}\x00",
        b'{"a":"\\ud800"}',
        b'{"\\udc00x":1}',
        b'"\\ud83dx"',
    ],
)
def test_invalid_utf8_and_lone_surrogates_are_refused(raw: bytes) -> None:
    assert refusal(raw) is ErrorCode.NOT_UTF8


@pytest.mark.parametrize(
    "number",
    [
        "NaN",
        "Infinity",
        "-Infinity",
        "1e400",
        "-1e400",
        "18446744073709551616",
        "-9223372036854775809",
        "1" * 400,
        "1" * 5000,
    ],
)
def test_numbers_that_peers_read_differently_are_refused(number: str) -> None:
    assert refusal(with_arguments(number)) is ErrorCode.BAD_NUMBER
    assert refusal(with_arguments(f' [{{"deep": {number}}}]')) is ErrorCode.BAD_NUMBER


@pytest.mark.parametrize(
    "number",
    ["9007199254740993", "18446744073709551615", "-9223372036854775808", "-0", "-0.0", "0.1", "1.0", "1e5", "5e-324",
     "1E+22", "1.7976931348623157e308", "0.30000000000000004", "123456789012345678901234567890.5"],
)  # fmt: skip
def test_a_number_goes_upstream_with_the_value_it_came_with(number: str) -> None:
    message = parse_message(with_arguments(number))
    before = json.loads(number)
    after = json.loads(encode_message(message))["params"]["arguments"]["a"]
    assert after == before == message.params["arguments"]["a"]
    assert type(after) is type(before)
    if isinstance(before, float):
        assert math.copysign(1, after) == math.copysign(1, before)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","m\\u0065thod":"tools/call"}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"a"}}',
        with_arguments('{"x":[{"k":1,"\\u006b":1}]}'),
        with_arguments('{"\xfc":1,"\\u00FC":1}'),
        with_arguments('{"":1,"":2}'),
    ],
)
def test_a_member_named_twice_is_refused_at_any_depth_and_spelling(raw: bytes) -> None:
    assert refusal(raw) is ErrorCode.DUPLICATE_KEY


def test_equal_names_in_different_objects_are_no_duplicates() -> None:
    assert parse_message(with_arguments(' {"a": {"a": [{"a": 1}, {"a": 1}]}}')).params["arguments"]["a"]


def test_nesting_is_allowed_to_the_limit_and_not_beyond() -> None:
    outer = 3  # envelope, params, arguments
    for opening, closing in (("[", "]"), ('{"k":', "}")):
        fits = MAX_DEPTH - outer
        leaf = "1" if opening != "[" else ""
        assert parse_message(with_arguments(opening * fits + leaf + closing * fits)).method == "tools/call"
        fits += 1
        assert refusal(with_arguments(opening * fits + leaf + closing * fits)) is ErrorCode.TOO_DEEP
    assert refusal(b"[" * 100_000) is ErrorCode.TOO_DEEP
    assert refusal(b"[" * 3000 + b"]" * 3000) is ErrorCode.TOO_DEEP


def test_many_brackets_on_few_levels_are_not_deep() -> None:
    assert parse_message(with_arguments("[" + "[]," * 500 + '"[[[{{{"]')).kind is Kind.REQUEST


def test_size_is_limited() -> None:
    assert refusal(b" " * (MAX_BODY + 1)) is ErrorCode.TOO_LARGE
    raw = json.dumps(call()).encode()
    assert parse_message(raw, max_bytes=len(raw)).id == 1
    assert refusal(raw, max_bytes=len(raw) - 1) is ErrorCode.TOO_LARGE


def test_batches_and_bare_values_are_refused() -> None:
    assert refusal([call()]) is ErrorCode.BATCH_NOT_SUPPORTED
    assert refusal(b"[]") is ErrorCode.INVALID_REQUEST
    for raw in (b"1", b'"x"', b"null", b"true"):
        assert refusal(raw) is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize(
    "message",
    [
        call(jsonrpc="1.0"),
        call(jsonrpc=2.0),
        call(jsonrpc=...),
        call(method=""),
        call(method=3),
        call(method=None),
        call(method="m" * 257),
        call(method="tools/call\n"),
        call(method="tools/\u202ecall"),
        call(id=None),
        call(id=True),
        call(id=1.0),
        call(id=[1]),
        call(id="x" * (MAX_ID + 1)),
        call(id=...),
        call(result={}),
        call(error={"code": 1, "message": ""}),
        call(method="notifications/cancelled"),
        {"jsonrpc": "2.0", "id": 1},
        {"jsonrpc": "2.0", "id": 1, "result": {}, "error": {"code": 1, "message": ""}},
        {"jsonrpc": "2.0", "result": {}},
        {"jsonrpc": "2.0", "id": None, "error": {"code": 1, "message": ""}},
        {"jsonrpc": "2.0", "id": 1, "result": 5},
        {"jsonrpc": "2.0", "id": 1, "result": {}, "params": {}},
        {"jsonrpc": "2.0", "id": 1, "error": {"code": "1", "message": ""}},
        {"jsonrpc": "2.0", "id": 1, "error": {"code": True, "message": ""}},
        {"jsonrpc": "2.0", "id": 1, "error": {"code": 1}},
    ],
)
def test_what_is_not_one_json_rpc_message_is_refused(message: dict[str, Any]) -> None:
    assert refusal(message) is ErrorCode.INVALID_REQUEST


def test_members_that_json_rpc_lacks_are_refused() -> None:
    assert refusal(call(extra=1)) is ErrorCode.UNKNOWN_MEMBER
    assert refusal(call(**{"x" * 300: 1})) is ErrorCode.UNKNOWN_MEMBER
    error = {"code": 1, "message": "", "stack": ""}
    assert refusal({"jsonrpc": "2.0", "id": 1, "error": error}) is ErrorCode.UNKNOWN_MEMBER


def test_an_id_is_exact_for_every_peer() -> None:
    for fine in (0, -1, MAX_SAFE_INTEGER, -MAX_SAFE_INTEGER, "", "x" * MAX_ID, "\U0001f600"):
        assert parsed(call(id=fine)).id == fine
    assert refusal(call(id=MAX_SAFE_INTEGER + 1)) is ErrorCode.BAD_NUMBER
    assert refusal(call(id=-MAX_SAFE_INTEGER - 1)) is ErrorCode.BAD_NUMBER


@pytest.mark.parametrize(
    "message",
    [
        call(params=[1]),
        call(params=None),
        call(params="x"),
        call(params={"name": "a", "arguments": None}),
        call(params={"name": "a", "arguments": [1]}),
        call(params={"name": "a", "_meta": None}),
        call(params={"name": "a", "_meta": []}),
        call(params={"name": "a", **{f"k{n}": 1 for n in range(MAX_MEMBERS)}}),
        call(params={"name": "a", "_meta": {f"k{n}": 1 for n in range(MAX_MEMBERS + 1)}}),
        call(params={"name": "a", "k" * (MAX_MEMBERS + 1): 1}),
    ],
)
def test_params_of_the_wrong_shape_are_refused(message: dict[str, Any]) -> None:
    assert refusal(message) is ErrorCode.INVALID_PARAMS


@pytest.mark.parametrize(
    "message",
    [
        call(params={}),
        call(params=...),
        call(params={"name": ""}),
        call(params={"name": 5}),
        call(params={"name": "x" * (MAX_NAME + 1)}),
        call(params={"name": "a\x00b"}),
        call(params={"name": "a\u2028b"}),
        call(params={"name": "a\u202eb"}),
        call(method="prompts/get", params={"uri": "x"}),
        call(method="resources/read", params={"name": "x"}),
        call(method="resources/read", params={"uri": "file:///a\nb"}),
        call(method="resources/subscribe", params={}),
    ],
)
def test_what_a_method_acts_on_must_have_a_name(message: dict[str, Any]) -> None:
    # Only where the version has the method: a method that does not exist is told so first.
    with pytest.raises(GateError) as caught:
        target_of("files", parsed(message))
    assert caught.value.code is ErrorCode.INVALID_PARAMS


def test_members_that_mcp_may_add_later_pass() -> None:
    extra = {
        "name": "a",
        "newMember": {"NAME": 1},
        "_meta": {"com.example/Name": 1},
        "arguments": {"Name": 1, "name": 2},
    }
    assert parsed(call(params=extra)).params == extra


def test_encoding_a_parsed_message_gives_the_same_message_back() -> None:
    for message in (
        call(),
        call(params={"name": '\u00fc \U0001f600 \\ "', "arguments": {"a": [None, True, -1.5]}}),
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": "x", "result": {"a": 1}},
        {"jsonrpc": "2.0", "id": "x", "error": {"code": 3, "message": "m"}},
    ):  # fmt: skip
        assert json.loads(encode_message(parsed(message))) == message


def test_absent_and_empty_params_are_both_left_out() -> None:
    for message in (call(method="tools/list", params={}), call(method="tools/list", params=...)):
        assert b"params" not in encode_message(parsed(message))


def test_results_and_errors_of_our_own_are_valid_messages() -> None:
    assert json.loads(encode_result(4, {"tools": []})) == {"jsonrpc": "2.0", "id": 4, "result": {"tools": []}}
    face = FACES[ErrorCode.UNSUPPORTED_PROTOCOL_VERSION]
    assert json.loads(encode_error(None, ErrorCode.UNSUPPORTED_PROTOCOL_VERSION, {"requested": "1"})) == {
        "jsonrpc": "2.0",
        "id": None,
        "error": {"code": -32022, "message": face.text, "data": {"reason": face.reason, "requested": "1"}},
    }
    for code in ErrorCode:
        assert parse_answer(encode_error("a", code)).is_error


def answer(**members: Any) -> Message:
    return parse_answer(json.dumps({"jsonrpc": "2.0", **members}).encode())


def test_every_kind_of_server_message_is_read() -> None:
    assert answer(id=1, result={"content": []}).payload == {"content": []}
    assert answer(id=None, error={"code": -32700, "message": "?"}) == Message(
        Kind.RESPONSE, None, "", {}, {"code": -32700, "message": "?"}, True
    )
    assert answer(error={"code": -32700, "message": "?"}).id is None
    assert answer(method="notifications/message", params=None).kind is Kind.NOTIFICATION
    assert answer(id=2, method="sampling/createMessage", params={"a": 1}).kind is Kind.REQUEST


def test_members_that_json_rpc_lacks_do_not_survive_a_server_message() -> None:
    assert json.loads(encode_message(answer(id=1, result={}, extra=1))) == {"jsonrpc": "2.0", "id": 1, "result": {}}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b'"x"',
        b"{}",
        b'{"jsonrpc":"1.0","id":1,"result":{}}',
        b'{"jsonrpc":"2.0","id":1}',
        b'{"jsonrpc":"2.0","id":null,"result":{}}',
        b'{"jsonrpc":"2.0","id":1,"result":[]}',
        b'{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":""}}',
        b'{"jsonrpc":"2.0","id":1,"error":{"code":1.5,"message":""}}',
        b'{"jsonrpc":"2.0","id":1,"error":"no"}',
        b'{"jsonrpc":"2.0","id":1,"method":"x","result":{}}',
        b'{"jsonrpc":"2.0","id":true,"result":{}}',
        b'{"jsonrpc":"2.0","method":5}',
        b'{"jsonrpc":"2.0","method":"x","params":[1]}',
        b'{"jsonrpc":"2.0","id":1,"result":{"a":"\xff"}}',
        b'{"jsonrpc":"2.0","id":1,"result":{"a":1e999}}',
        b'{"jsonrpc":"2.0","id":1,"result":{"a":' + b"[" * 70 + b"]" * 70 + b"}}",
        b"[" * 100_000,
        b" " * (MAX_ANSWER + 1),
    ],
)
def test_a_server_message_that_is_not_json_rpc_is_refused(raw: bytes) -> None:
    with pytest.raises(GateError) as caught:
        parse_answer(raw)
    assert caught.value.code is ErrorCode.UPSTREAM_INVALID
