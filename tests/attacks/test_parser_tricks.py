"""Spellings by which one peer would run another call than Twogate decided on."""

import json
from typing import Any

import pytest
from mcp_types import CallToolRequestParams

from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import encode_message, parse_message


def refusal(text: str) -> ErrorCode:
    with pytest.raises(GateError) as caught:
        parse_message(text.encode("utf-8", "surrogatepass"))
    return caught.value.code


def envelope(**members: Any) -> str:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "read"}, **members})


@pytest.mark.parametrize(
    "name",
    [
        "Method",
        "METHOD",
        "PARAMS",
        "\u0131d",
        "ID",
        "\u0130d",
        "re\u017fult",
        "par\u00e4ms",
        "\uff4dethod",
        "json_rpc",
        "JSONRPC",
        "me\u200bthod",
    ],
)
def test_an_envelope_member_in_disguise_is_refused(name: str) -> None:
    assert refusal(envelope(**{name: "tools/call"})) is ErrorCode.CASE_CONFLICT


@pytest.mark.parametrize(
    "name",
    [
        *("Name", "NAME", "na\u200bme", "\uff4eame", "Arguments", "argument\u017f", "URI", "ur\u0131", "meta", "_Meta"),
        *("__meta", "request_state", "RequestState", "input_responses", "inputresponses", "Cursor", "protocol_version"),
        *("ProtocolVersion", "client_info", "Capabilities", "REF", "Argument", "Context", "Level", "request_id"),
        *("progress_token", "task_id", "Ta\u017fk", "tas\u212a"),
    ],
)
def test_a_params_member_in_disguise_is_refused(name: str) -> None:
    assert refusal(envelope(params={"name": "read", name: {}})) is ErrorCode.CASE_CONFLICT


def test_the_python_sdk_would_read_the_disguises_that_differ_by_more_than_case() -> None:
    # Why `meta` and `request_state` count as disguises: the SDK's models take members by field name too.
    disguised = {"name": "read", "meta": {"progressToken": 1}, "request_state": "forged"}
    read = CallToolRequestParams.model_validate(disguised)
    assert (read.meta, read.request_state) != (None, None)
    assert refusal(envelope(params=disguised)) is ErrorCode.CASE_CONFLICT


@pytest.mark.parametrize(
    "name",
    [
        "io.modelcontextprotocol/ProtocolVersion",
        "IO.modelcontextprotocol/clientCapabilities",
        "progress_token",
        "ProgressToken",
    ],
)
def test_a_meta_member_in_disguise_is_refused(name: str) -> None:
    assert refusal(envelope(params={"name": "read", "_meta": {name: "x"}})) is ErrorCode.CASE_CONFLICT


def test_a_second_tool_name_hidden_behind_an_escape_is_refused() -> None:
    for spelling in ("name", "n\\u0061me", "\\u006e\\u0061\\u006d\\u0065"):
        params = '{"name":"read","' + spelling + '":"delete"}'
        text = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":' + params + "}"
        assert refusal(text) is ErrorCode.DUPLICATE_KEY


def test_a_second_message_after_the_first_is_refused() -> None:
    for between in ("", " ", "\n", "\x1e", "\x00", ","):
        assert refusal(envelope() + between + envelope()) is ErrorCode.PARSE_ERROR


def test_a_call_without_id_cannot_run_unanswered() -> None:
    text = '{"jsonrpc":"2.0","method":"tools/call","params":{"name":"delete"}}'
    assert refusal(text) is ErrorCode.INVALID_REQUEST


def test_a_call_smuggled_inside_a_response_is_refused() -> None:
    text = '{"jsonrpc":"2.0","id":1,"result":{},"method":"tools/call","params":{"name":"delete"}}'
    assert refusal(text) is ErrorCode.INVALID_REQUEST


def test_no_byte_of_the_callers_text_goes_upstream_as_it_was() -> None:
    text = ' {"id" : 1e0, "jsonrpc": "2.0" } '
    assert refusal(text) is ErrorCode.INVALID_REQUEST
    text = '{ "params" :{"name":"r\\u0065ad" , "arguments":{"n":1E2,"s":"\\/"}},"method":"tools\\/call",'
    text += '"id":7,"jsonrpc":"2.0"}\n'
    assert encode_message(parse_message(text.encode())) == (
        b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"read","arguments":{"n":100.0,"s":"/"}}}'
    )
