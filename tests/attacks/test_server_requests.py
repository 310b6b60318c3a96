"""Servers that ask the client for what they may not: sampling above all, with which a server could steer the agent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attacks.test_handles import ASK, ENVELOPE, MODERN, VERSION, answered, events, shown
from harness.issuer import TestIssuer
from harness.stack import Stack, free_port, running, settings_for
from harness.upstream import RecordingUpstream

DONE = {"jsonrpc": "2.0", "id": 1, "result": {"content": []}}
QUESTIONS = ["sampling/createMessage", "elicitation/create", "roots/list", "tools/call", "sampling/CreateMessage"]


@pytest.mark.parametrize("method", QUESTIONS)
async def test_a_question_that_the_settings_do_not_allow_is_refused_to_the_server(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream, method: str
) -> None:
    upstream.raw_answer = events({**ASK, "method": method}, DONE)
    response = await stack.call(issuer.token(stack.resource()), "look")
    assert shown(response) == [DONE]
    call, refusal = upstream.seen
    assert call.message["method"] == "tools/call"
    assert refusal.message["id"] == "ask-1"
    assert refusal.message["error"]["code"] == -32601
    (asked,) = [event for event in stack.events() if event["kind"] == "server.request"]
    assert (asked["method"], asked["decision"], asked["reason"]) == (method, "deny", "method_not_permitted")


async def test_what_is_allowed_of_one_server_is_not_of_another(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream, other_upstream: RecordingUpstream
) -> None:
    servers = {
        "files": {"url": upstream.url, "client_requests": ["sampling"]},
        "notes": {"url": other_upstream.url, "client_requests": ["roots"]},
    }
    async with running(tmp_path, settings_for(tmp_path, free_port(), servers, issuer)) as stack:
        for server, peer, passes in (("files", upstream, True), ("notes", other_upstream, False)):
            peer.raw_answer = events(ASK, DONE)
            response = await stack.call(issuer.token(stack.resource(server)), "look", server)
            assert [message.get("method") for message in shown(response)] == [ASK["method"]] * passes + [None]


@pytest.mark.parametrize("version", ["2025-11-25", MODERN])
async def test_capabilities_that_would_let_a_server_ask_do_not_reach_it(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream, version: str
) -> None:
    declared: dict[str, Any] = {"sampling": {}, "elicitation": {}, "roots": {}, "tasks": {}, "sampling ": {}}
    token = issuer.token(stack.resource())
    if version == MODERN:
        meta = {**ENVELOPE, "io.modelcontextprotocol/clientCapabilities": declared}
        body: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta}}
        await stack.post(token, body, mcp_protocol_version=version, mcp_method="tools/list")
        sent = upstream.seen[-1].message["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"]
    else:
        params = {"protocolVersion": version, "capabilities": declared, "clientInfo": {"name": "t", "version": "1"}}
        body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
        await stack.post(token, body, **VERSION)
        sent = upstream.seen[-1].message["params"]["capabilities"]
    assert sent == {}


@pytest.mark.parametrize(
    "result",
    [
        {"resultType": "input_required", "inputRequests": {"a": {"method": "sampling/createMessage", "params": {}}}},
        {"inputRequests": {"a": {"method": "elicitation/create", "params": {}}}},
        {"input_requests": {"a": {"method": "ping"}}},
    ],
    ids=["input required", "without its type", "another spelling"],
)
async def test_questions_inside_a_result_do_not_pass(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream, result: dict[str, Any]
) -> None:
    upstream.raw_answer = answered(result)
    response = await stack.call(issuer.token(stack.resource()), "look")
    assert (response.status_code, response.json()["error"]["data"]["reason"]) == (502, "upstream_invalid")


async def test_a_server_cannot_answer_itself_by_a_response_on_a_stream_of_notifications(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    upstream.raw_answer = events({"jsonrpc": "2.0", "id": 7, "result": {"content": "not asked for"}})
    headers = {"authorization": f"Bearer {issuer.token(stack.resource())}", "accept": "text/event-stream"}
    response = await stack.http.get(stack.resource(), headers=headers)
    assert "not asked for" not in response.text
    assert stack.reasons() == ["upstream_invalid"]


async def test_a_client_cannot_push_a_response_as_a_call(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    token = issuer.token(stack.resource())
    bodies: tuple[dict[str, Any], ...] = (
        {"jsonrpc": "2.0", "id": 1, "result": {}, "method": "tools/call", "params": {"name": "wipe"}},
        {"jsonrpc": "2.0", "id": 1, "result": {}, "error": {"code": 1, "message": ""}},
        {"jsonrpc": "2.0", "id": None, "result": {}},
    )
    for body in bodies:
        response = await stack.post(token, json.dumps(body).encode(), **VERSION)
        assert response.status_code == 400
    assert upstream.seen == []


async def test_a_cached_list_of_one_caller_is_not_for_another(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    # An upstream that says "public" must not make a cache between here and the agents share what one of them may see.
    body: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": ENVELOPE}}
    for session_task in ("report", None):
        headers = {} if session_task is None else {"twogate_task": session_task}
        response = await stack.post(
            issuer.token(stack.resource()), body, mcp_protocol_version=MODERN, mcp_method="tools/list", **headers
        )
        result = response.json()["result"]
        assert (result["cacheScope"], result["ttlMs"]) == ("private", 0)
        assert response.headers["cache-control"] == "no-store"
        assert [tool["name"] for tool in result["tools"]] == ["look"]


@pytest.mark.parametrize("scope", ["public", "PUBLIC", 1, None])
async def test_no_modern_result_is_shared(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream, scope: object
) -> None:
    upstream.extra["server/discover"] = {
        "resultType": "complete", "supportedVersions": [MODERN], "capabilities": {}, "ttlMs": 5, "cacheScope": scope,
    }  # fmt: skip
    body = {"jsonrpc": "2.0", "id": 1, "method": "server/discover", "params": {"_meta": ENVELOPE}}
    response = await stack.post(
        issuer.token(stack.resource()), body, mcp_protocol_version=MODERN, mcp_method="server/discover"
    )
    assert response.json()["result"]["cacheScope"] == "private"
