import copy
import json
from typing import Any

import pytest
from mcp.shared.inbound import InboundModernRoute, classify_inbound_request

from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import Kind, Message, encode_message, parse_message
from twogate.core.protocol import HANDSHAKE_VERSIONS, VERSIONS
from twogate.flows.gateway.headers import check_headers, upstream_headers
from twogate.flows.gateway.meta import forwarded

NOTHING: frozenset[str] = frozenset()
MODERN = "2026-07-28"
VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES_KEY = "io.modelcontextprotocol/clientCapabilities"
ENVELOPE: dict[str, Any] = {VERSION_KEY: MODERN, CAPABILITIES_KEY: {}}


def message(method: str, **params: Any) -> Message:
    raw: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params}
    if not method.startswith("notifications/"):
        raw["id"] = 1
    return parse_message(json.dumps(raw).encode())


def refusal(given: Message, headers: dict[str, str]) -> ErrorCode:
    with pytest.raises(GateError) as caught:
        check_headers(given, headers)
    return caught.value.code


def modern_headers(given: Message) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in upstream_headers(given, MODERN)}


@pytest.mark.parametrize("version", HANDSHAKE_VERSIONS)
def test_a_handshake_version_header_is_in_force(version: str) -> None:
    assert check_headers(message("tools/list"), {"mcp-protocol-version": version}) == version


def test_without_header_the_version_is_the_one_that_the_specification_assumes() -> None:
    assert check_headers(message("tools/list"), {}) == "2025-03-26"
    assert check_headers(Message(Kind.RESPONSE, 1, "", {}, {}), {}) == "2025-03-26"


@pytest.mark.parametrize(
    ("wanted", "version"), [*((v, v) for v in HANDSHAKE_VERSIONS), (MODERN, "2025-11-25"), ("1.0", "2025-11-25")]
)
def test_initialize_names_its_own_version_and_an_unknown_one_is_negotiated(wanted: str, version: str) -> None:
    assert check_headers(message("initialize", protocolVersion=wanted, capabilities={}), {}) == version


@pytest.mark.parametrize("params", [{}, {"protocolVersion": 5}, {"protocolVersion": "2025-11-25", "capabilities": [1]}])
def test_an_initialize_of_the_wrong_shape_is_refused(params: dict[str, Any]) -> None:
    assert refusal(message("initialize", **params), {}) is ErrorCode.INVALID_PARAMS


@pytest.mark.parametrize("method", ["tools/list", "initialize", "notifications/initialized"])
@pytest.mark.parametrize("version", ["", "2099-01-01", "2025-11-25 ", "2025-11-25, 2025-06-18"])
def test_an_unknown_version_header_is_refused_and_the_caller_told_the_known_ones(method: str, version: str) -> None:
    with pytest.raises(GateError) as caught:
        check_headers(message(method, protocolVersion="2025-11-25"), {"mcp-protocol-version": version})
    assert caught.value.code is ErrorCode.UNSUPPORTED_PROTOCOL_VERSION
    assert caught.value.data == {"supported": list(VERSIONS), "requested": version}


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("tools/call", {"name": "git_log"}),
        ("tools/call", {"name": " \u00fc=?base64?eA==?= "}),
        ("prompts/get", {"name": "review"}),
        ("resources/read", {"uri": "file:///\u00fc"}),
        ("tools/list", {}),
        ("server/discover", {}),
        ("tasks/get", {"taskId": "t1"}),
    ],
)
def test_what_we_send_upstream_passes_our_own_check_and_the_sdks(method: str, params: dict[str, Any]) -> None:
    given = message(method, **params, _meta=ENVELOPE)
    headers = modern_headers(given)
    assert check_headers(given, headers) == MODERN
    body = json.loads(encode_message(forwarded(given, MODERN, NOTHING)))
    assert isinstance(classify_inbound_request(body, headers=headers), InboundModernRoute)


def test_a_modern_notification_needs_the_version_header_only() -> None:
    assert check_headers(message("notifications/cancelled", requestId=1), {"mcp-protocol-version": MODERN}) == MODERN


def test_the_complete_header_set_of_each_era() -> None:
    call = message("tools/call", name="git_log")
    common = ((b"content-type", b"application/json"), (b"accept", b"application/json, text/event-stream"))
    assert upstream_headers(call, MODERN, "session", [(b"mcp-param-a", b"1")]) == (
        *common,
        (b"mcp-protocol-version", b"2026-07-28"),
        (b"mcp-method", b"tools/call"),
        (b"mcp-name", b"git_log"),
        (b"mcp-param-a", b"1"),
    )
    assert upstream_headers(call, "2025-11-25", "session") == (
        *common,
        (b"mcp-protocol-version", b"2025-11-25"),
        (b"mcp-session-id", b"session"),
    )
    assert upstream_headers(message("initialize", protocolVersion="2025-11-25"), "2025-11-25") == common
    assert upstream_headers(None, "2025-06-18", "session") == (
        (b"accept", b"text/event-stream"),
        (b"mcp-protocol-version", b"2025-06-18"),
        (b"mcp-session-id", b"session"),
    )


@pytest.mark.parametrize("session", ["", "a b", "a\r\nx: y", "\u00fc", "x" * 1025])
def test_an_upstream_session_id_that_is_no_header_value_is_refused(session: str) -> None:
    with pytest.raises(GateError) as caught:
        upstream_headers(message("tools/list"), "2025-11-25", session)
    assert caught.value.code is ErrorCode.UPSTREAM_INVALID


def test_meta_is_cut_to_the_allowlist() -> None:
    kept = {
        "progressToken": 1,
        "traceparent": "00-a",
        "tracestate": "b",
        "baggage": "c",
        VERSION_KEY: MODERN,
        "io.modelcontextprotocol/other": {"a": 1},
    }
    removed = {"dev.twogate/operation-token": "secret", "com.example/x": 1, "IO.modelcontextprotocol/other": 1, "x": 1}
    given = message("tools/call", name="t", arguments={"dev.twogate/x": 1}, _meta={**kept, **removed})
    assert forwarded(given, MODERN, NOTHING).params == {"name": "t", "arguments": {"dev.twogate/x": 1}, "_meta": kept}


def test_a_meta_of_nothing_but_ours_leaves_no_trace() -> None:
    assert forwarded(message("tools/list", _meta={"dev.twogate/x": 1}), MODERN, NOTHING).params == {}


def test_capabilities_that_let_a_server_ask_are_promised_only_where_it_may() -> None:
    declared = {
        "sampling": {},
        "elicitation": {"url": {}},
        "roots": {"listChanged": True},
        "tasks": {"list": {}},
        "Sampling": {},
        "experimental": {"x": {}},
        "extensions": {"io.modelcontextprotocol/tasks": {}, "io.modelcontextprotocol/ui": {"a": 1}},
    }
    nothing = {name: declared[name] for name in ("experimental", "extensions")}
    for asks, relayed in (
        (NOTHING, nothing),
        (frozenset({"sampling"}), {"sampling": {}, **nothing}),
        (frozenset({"elicitation", "roots"}), {**nothing, "elicitation": {"url": {}}, "roots": {"listChanged": True}}),
    ):
        start = message("initialize", protocolVersion="2025-11-25", capabilities=declared)
        assert forwarded(start, "2025-11-25", asks).params == {
            "protocolVersion": "2025-11-25",
            "capabilities": relayed,
        }
        call = message("tools/call", name="t", _meta={**ENVELOPE, CAPABILITIES_KEY: declared})
        assert forwarded(call, MODERN, asks).params["_meta"] == {**ENVELOPE, CAPABILITIES_KEY: relayed}
    start = message("initialize", protocolVersion="2025-11-25")
    assert forwarded(start, "2025-11-25", NOTHING).params["capabilities"] == {}


def test_a_call_becomes_a_task_only_in_the_version_whose_clients_ask_for_it() -> None:
    call = message("tools/call", name="t", task={"ttl": 1})
    assert forwarded(call, "2025-11-25", NOTHING).params == {"name": "t", "task": {"ttl": 1}}
    for version in ("2025-06-18", MODERN):
        assert forwarded(call, version, NOTHING).params == {"name": "t"}
    assert forwarded(message("prompts/get", name="p", task={}), "2025-11-25", NOTHING).params == {"name": "p"}


def test_the_message_that_was_decided_on_is_left_as_it_was() -> None:
    given = message("tools/call", name="t", task={}, _meta={**ENVELOPE, "x": 1, CAPABILITIES_KEY: {"roots": {}}})
    before = copy.deepcopy(given)
    forwarded(given, MODERN, NOTHING)
    assert given == before
