"""Headers that say something else than the body, to mislead whoever routes or decides on them."""

import json
from typing import Any

import pytest

from twogate.core.errors import FACES, ErrorCode, GateError
from twogate.core.message import Kind, Message, parse_message
from twogate.flows.gateway.headers import check_headers

MODERN = "2026-07-28"
VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES_KEY = "io.modelcontextprotocol/clientCapabilities"
ENVELOPE: dict[str, Any] = {VERSION_KEY: MODERN, CAPABILITIES_KEY: {}}
HEADERS = {"mcp-protocol-version": MODERN, "mcp-method": "tools/call", "mcp-name": "read"}


def call(method: str = "tools/call", meta: dict[str, Any] | None = None, **params: Any) -> Message:
    if meta is not None:
        params["_meta"] = meta
    raw = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params or {"name": "read"}}
    if method.startswith("notifications/"):
        del raw["id"]
    return parse_message(json.dumps(raw).encode())


def refusal(message: Message, headers: dict[str, str]) -> GateError:
    with pytest.raises(GateError) as caught:
        check_headers(message, headers)
    return caught.value


def test_the_honest_request_passes() -> None:
    assert check_headers(call(name="read", meta=ENVELOPE), HEADERS) == MODERN


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize(
    "value", [None, "", "delete", "READ", "read ", "=?base64?ZGVsZXRl?=", "=?base64?%%?=", "2025-11-25"]
)
def test_a_modern_header_that_is_missing_or_differs_is_a_mismatch(header: str, value: str | None) -> None:
    headers = {name: text for name, text in {**HEADERS, header: value}.items() if text is not None}
    error = refusal(call(name="read", meta=ENVELOPE), headers)
    assert error.code is ErrorCode.HEADER_MISMATCH
    assert error.face.jsonrpc == -32020


@pytest.mark.parametrize(
    ("method", "params"),
    [("prompts/get", {"name": "read"}), ("resources/read", {"uri": "read"}), ("tasks/get", {"taskId": "read"})],
)
def test_every_name_is_compared(method: str, params: dict[str, Any]) -> None:
    headers = {**HEADERS, "mcp-method": method}
    assert check_headers(call(method, ENVELOPE, **params), headers) == MODERN
    assert refusal(call(method, ENVELOPE, **params), {**headers, "mcp-name": "x"}).code is ErrorCode.HEADER_MISMATCH


@pytest.mark.parametrize("value", ["delete", "", "=?base64??=", "=?base64?%%?="])
def test_a_name_header_on_a_method_without_name_is_a_mismatch(value: str) -> None:
    headers = {**HEADERS, "mcp-method": "tools/list", "mcp-name": value}
    assert refusal(call("tools/list", ENVELOPE, cursor="c"), headers).code is ErrorCode.HEADER_MISMATCH
    # Another member that happens to be called `name` is no name.
    assert refusal(call("tools/list", ENVELOPE, name=value), headers).code is ErrorCode.HEADER_MISMATCH
    legacy = {"mcp-protocol-version": "2025-11-25", "mcp-name": value}
    assert refusal(call("tools/list", cursor="c"), legacy).code is ErrorCode.HEADER_MISMATCH


@pytest.mark.parametrize("version", [None, "2025-03-26", "2025-11-25"])
def test_a_modern_body_under_a_handshake_header_is_a_mismatch(version: str | None) -> None:
    headers = {**HEADERS, "mcp-protocol-version": version} if version else {"mcp-method": "tools/call"}
    message = call(name="read", meta=ENVELOPE)
    assert refusal(message, {k: v for k, v in headers.items() if v}).code is ErrorCode.HEADER_MISMATCH


@pytest.mark.parametrize(
    "meta",
    [
        None,
        {},
        {VERSION_KEY: MODERN},
        {CAPABILITIES_KEY: {}},
        {**ENVELOPE, CAPABILITIES_KEY: None},
        {**ENVELOPE, CAPABILITIES_KEY: [1]},
    ],
)
def test_a_modern_header_over_a_body_without_envelope_is_invalid(meta: dict[str, Any] | None) -> None:
    error = refusal(call(name="read", meta=meta), HEADERS)
    assert error.code is ErrorCode.INVALID_PARAMS
    assert error.face.jsonrpc == -32602


@pytest.mark.parametrize("value", [None, 5, ["2026-07-28"], {}])
def test_an_envelope_version_that_is_no_string_is_refused(value: object) -> None:
    meta = {**ENVELOPE, VERSION_KEY: value}
    assert refusal(call(name="read", meta=meta), HEADERS).code is ErrorCode.HEADER_MISMATCH


def test_an_envelope_version_that_nobody_knows_is_unsupported() -> None:
    meta, headers = {**ENVELOPE, VERSION_KEY: "2099-01-01"}, {**HEADERS, "mcp-protocol-version": "2099-01-01"}
    for message in (call(name="read", meta=meta), call("notifications/cancelled", meta, requestId=1)):
        error = refusal(message, headers)
        assert error.code is ErrorCode.UNSUPPORTED_PROTOCOL_VERSION
        assert error.face.jsonrpc == -32022
        assert error.data is not None
        assert error.data["requested"] == "2099-01-01"
    assert FACES[ErrorCode.UNSUPPORTED_PROTOCOL_VERSION].text == "Unsupported protocol version"


def test_an_envelope_that_names_a_handshake_version_is_invalid() -> None:
    meta, headers = {**ENVELOPE, VERSION_KEY: "2025-11-25"}, {**HEADERS, "mcp-protocol-version": "2025-11-25"}
    assert refusal(call(name="read", meta=meta), headers).code is ErrorCode.INVALID_PARAMS
    message = call("notifications/cancelled", meta, requestId=1)
    assert refusal(message, headers).code is ErrorCode.INVALID_PARAMS


@pytest.mark.parametrize(
    "headers", [{"mcp-method": "tools/list"}, {"mcp-name": "delete"}, {"mcp-name": "=?base64?%%?="}]
)
@pytest.mark.parametrize("version", [{}, {"mcp-protocol-version": "2025-11-25"}])
def test_a_handshake_request_may_carry_routing_headers_only_if_they_agree(
    version: dict[str, str], headers: dict[str, str]
) -> None:
    assert refusal(call(name="read"), {**version, **headers}).code is ErrorCode.HEADER_MISMATCH
    assert check_headers(call(name="read"), {**version, "mcp-method": "tools/call", "mcp-name": "read"})


def test_a_notification_that_contradicts_its_own_header_is_a_mismatch() -> None:
    message = call("notifications/cancelled", ENVELOPE, requestId=1)
    for version in ({}, {"mcp-protocol-version": "2025-11-25"}):
        assert refusal(message, version).code is ErrorCode.HEADER_MISMATCH
    headers = {"mcp-protocol-version": MODERN, "mcp-method": "tools/call"}
    assert refusal(message, headers).code is ErrorCode.HEADER_MISMATCH


def test_a_response_has_no_place_in_a_version_without_server_requests() -> None:
    response = Message(Kind.RESPONSE, 1, "", {}, {})
    assert refusal(response, {"mcp-protocol-version": MODERN}).code is ErrorCode.INVALID_REQUEST
    legacy = {"mcp-protocol-version": "2025-11-25", "mcp-method": "tools/call"}
    assert refusal(response, legacy).code is ErrorCode.HEADER_MISMATCH
