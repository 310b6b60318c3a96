"""Handles of somebody else: session, event, task, request and state ids, and event streams, stolen or invented.

Whatever a server names, the client gets sealed for itself; so who steals another agent's name of a thing has nothing,
and the server never hears of the attempt.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from harness.issuer import TestIssuer
from harness.stack import FRONTS, Stack, free_port, running, settings_for, tool_call
from harness.upstream import RecordingUpstream

pytestmark = pytest.mark.parametrize("front", FRONTS, indirect=True)

VERSION = {"mcp_protocol_version": "2025-11-25"}
MODERN = "2026-07-28"
ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {"sampling": {}, "elicitation": {}},
}
START = {
    "jsonrpc": "2.0", "id": 1, "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}  # fmt: skip
ASK = {"jsonrpc": "2.0", "id": "ask-1", "method": "sampling/createMessage", "params": {"maxTokens": 5}}


@pytest.fixture
async def asking(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream, other_upstream: RecordingUpstream
) -> AsyncIterator[Stack]:
    """Two servers that may ask for sampling, and two agents that may do the same."""
    upstream.sessions = other_upstream.sessions = True
    servers = {
        name: {"url": url, "client_requests": ["sampling", "elicitation"]}
        for name, url in (("files", upstream.url), ("notes", other_upstream.url))
    }
    async with running(tmp_path, settings_for(tmp_path, free_port(), servers, issuer)) as made:
        yield made


def events(*messages: Any, event_id: str = "") -> bytes:
    """An answer of the upstream as an event stream that ends."""
    named = f"id: {event_id}\n" if event_id else ""
    body = "".join(f"{named}event: message\ndata: {json.dumps(message)}\n\n" for message in messages).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def answered(result: dict[str, Any]) -> bytes:
    """An answer of the upstream as JSON."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}).encode()
    return f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def shown(response: httpx2.Response) -> list[Any]:
    """The messages of an event stream."""
    return [json.loads(line[6:]) for line in response.text.split("\n") if line.startswith("data: ")]


def altered(text: str) -> str:
    """Another text of the same form."""
    last = "A" if text[-6] != "A" else "B"
    return text[:-6] + last + text[-5:]


async def session(stack: Stack, token: str, server: str = "files") -> str:
    response = await stack.post(token, START, server, **VERSION)
    assert response.status_code == 200
    return str(response.headers["mcp-session-id"])


def tokens(stack: Stack, issuer: TestIssuer, server: str = "files") -> tuple[str, str]:
    """Of the agent that owns things, and of the one that steals them."""
    resource = stack.resource(server)
    return issuer.token(resource), issuer.token(resource, sub="other", azp="other")


async def refused(response: httpx2.Response, status: int, reason: str, upstream: RecordingUpstream, seen: int) -> None:
    assert (response.status_code, response.json()["error"]["data"]["reason"]) == (status, reason)
    assert len(upstream.seen) == seen


async def test_the_session_of_another_agent(asking: Stack, issuer: TestIssuer, upstream: RecordingUpstream) -> None:
    mine, theirs = tokens(asking, issuer)
    stolen = await session(asking, mine)
    for method in ("POST", "GET", "DELETE"):
        response = await asking.http.request(
            method,
            asking.resource(),
            headers={
                "authorization": f"Bearer {theirs}",
                "mcp-session-id": stolen,
                "content-type": "application/json",
                "accept": "application/json, text/event-stream",
            },
            content=json.dumps(tool_call("look")) if method == "POST" else b"",
        )
        await refused(response, 404, "mcp_session_unknown", upstream, 1)
    assert asking.reasons() == ["mcp_session_unknown"] * 3


async def test_the_session_of_another_server(
    asking: Stack, issuer: TestIssuer, other_upstream: RecordingUpstream
) -> None:
    mine, _ = tokens(asking, issuer)
    carried = await session(asking, mine)
    response = await asking.call(tokens(asking, issuer, "notes")[0], "look", "notes", mcp_session_id=carried)
    await refused(response, 404, "mcp_session_unknown", other_upstream, 0)


async def test_the_event_of_another_agents_stream(
    asking: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    mine, theirs = tokens(asking, issuer)
    upstream.raw_answer = events({"jsonrpc": "2.0", "id": 1, "result": {"content": []}}, event_id="upstream-7")
    response = await asking.call(mine, "look")
    (stolen,) = {line[4:] for line in response.text.split("\n") if line.startswith("id: ")}
    assert "upstream-7" not in response.text
    for token, last in ((theirs, stolen), (mine, "upstream-7"), (mine, altered(stolen))):
        response = await asking.http.get(
            asking.resource(),
            headers={"authorization": f"Bearer {token}", "accept": "text/event-stream", "last-event-id": last},
        )
        await refused(response, 400, "event_unknown", upstream, 1)


async def test_an_event_does_not_bring_more_than_its_call_may_now(
    asking: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    # The stream of a call by the one task, resumed when the token names no session and another task is in force.
    mine, _ = tokens(asking, issuer)
    upstream.raw_answer = events({"jsonrpc": "2.0", "id": 1, "result": {"content": []}}, event_id="7")
    response = await asking.call(mine, "find", twogate_task="edit")
    assert response.status_code == 200
    (last,) = {line[4:] for line in response.text.split("\n") if line.startswith("id: ")}
    response = await asking.http.get(
        asking.resource(),
        headers={
            "authorization": f"Bearer {mine}",
            "accept": "text/event-stream",
            "last-event-id": last,
            "twogate-task": "report",
        },
    )
    assert response.status_code == 403
    assert len(upstream.seen) == 1


async def test_an_answer_to_what_another_agent_was_asked(
    asking: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    mine, theirs = tokens(asking, issuer)
    upstream.raw_answer = events(ASK, {"jsonrpc": "2.0", "id": 1, "result": {"content": []}})
    asked, _ = shown(await asking.call(mine, "look"))
    assert asked["id"] != "ask-1"
    answer = {"jsonrpc": "2.0", "result": {"role": "assistant", "content": {"type": "text", "text": "x"}, "model": "m"}}
    for token, identifier in ((theirs, asked["id"]), (mine, "ask-1"), (mine, 1), (theirs, "ask-1")):
        response = await asking.post(token, {**answer, "id": identifier}, **VERSION)
        await refused(response, 400, "server_request_unknown", upstream, 1)
    assert {event["anomaly"] for event in asking.events() if event["kind"] == "call.refused"} == {True}


async def test_the_task_of_another_agent(asking: Stack, issuer: TestIssuer, upstream: RecordingUpstream) -> None:
    mine, theirs = tokens(asking, issuer)
    upstream.raw_answer = answered({"task": {"taskId": "upstream-task", "status": "working"}})
    created = (await asking.post(mine, {**tool_call("look"), "params": {"name": "look", "task": {}}}, **VERSION)).json()
    stolen = created["result"]["task"]["taskId"]
    assert stolen != "upstream-task"
    for token, identifier in ((theirs, stolen), (mine, "upstream-task"), (theirs, "upstream-task")):
        for method in ("tasks/get", "tasks/result", "tasks/cancel"):
            body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"taskId": identifier}}
            response = await asking.post(token, body, **VERSION)
            await refused(response, 400, "mcp_task_unknown", upstream, 1)
    listed = await asking.post(mine, {"jsonrpc": "2.0", "id": 1, "method": "tasks/list"}, **VERSION)
    await refused(listed, 403, "not_permitted", upstream, 1)
    upstream.raw_answer = answered({"taskId": "upstream-task", "status": "completed"})
    body = {"jsonrpc": "2.0", "id": 1, "method": "tasks/get", "params": {"taskId": stolen}}
    assert (await asking.post(mine, body, **VERSION)).json()["result"]["taskId"] == stolen
    assert upstream.seen[-1].message["params"] == {"taskId": "upstream-task"}


async def test_the_state_of_another_call(asking: Stack, issuer: TestIssuer, upstream: RecordingUpstream) -> None:
    mine, theirs = tokens(asking, issuer)
    modern = {"mcp_protocol_version": MODERN, "mcp_method": "tools/call"}
    elicit = {"method": "elicitation/create", "params": {"mode": "form", "message": "m", "requestedSchema": {}}}
    upstream.extra["tools/call"] = {
        "resultType": "input_required", "inputRequests": {"a": elicit}, "requestState": "upstream-state",
    }  # fmt: skip

    def call(tool: str, **params: Any) -> dict[str, Any]:
        message = tool_call(tool)
        return {**message, "params": {**message["params"], "_meta": ENVELOPE, **params}}

    first = await asking.post(mine, call("look"), mcp_name="look", **modern)
    state = first.json()["result"]["requestState"]
    assert state != "upstream-state"
    before = len(upstream.calls)
    for token, tool, given, task in (
        (theirs, "look", state, "report"),
        (mine, "look", "upstream-state", "report"),
    ):
        message = call(tool, requestState=given, inputResponses={"a": {"action": "accept"}})
        response = await asking.post(token, message, mcp_name=tool, twogate_task=task, **modern)
        assert response.json()["error"]["data"]["reason"] == "request_state_unknown"
    assert len(upstream.calls) == before
    message = call("look", requestState=state, inputResponses={"a": {"action": "accept"}})
    assert (await asking.post(mine, message, mcp_name="look", **modern)).status_code == 200
    assert upstream.seen[-1].message["params"]["requestState"] == "upstream-state"


@pytest.mark.parametrize("spelling", ["resource_subscriptions", "ResourceSubscriptions", "uris"])
async def test_a_subscription_under_another_spelling(
    asking: Stack, issuer: TestIssuer, upstream: RecordingUpstream, spelling: str
) -> None:
    mine, _ = tokens(asking, issuer)
    message = {
        "jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen",
        "params": {"notifications": {spelling: ["file:///etc/passwd"]}, "_meta": ENVELOPE},
    }  # fmt: skip
    response = await asking.post(mine, message, mcp_protocol_version=MODERN, mcp_method="subscriptions/listen")
    await refused(response, 400, "invalid_params", upstream, 0)


async def test_a_message_to_another_agents_event_stream(
    asking: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    mine, theirs = tokens(asking, issuer)
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def listen() -> None:
        headers = {"authorization": f"Bearer {mine}", "accept": "text/event-stream"}
        async with asking.http.stream("GET", f"{asking.resource()}/sse", headers=headers) as stream:
            async for line in stream.aiter_lines():
                if line.startswith("data: ") and not address.done():
                    address.set_result(line[6:])

    listening = asyncio.create_task(listen())
    try:
        path = await asyncio.wait_for(address, 10)

        async def post(to: str, token: str) -> httpx2.Response:
            headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
            return await asking.http.post(f"{asking.url}{to}", content=json.dumps(START), headers=headers)

        await refused(await post(path, theirs), 404, "mcp_session_unknown", upstream, 0)
        await refused(await post(altered(path), mine), 404, "mcp_session_unknown", upstream, 0)
        notes = path.replace("/files/", "/notes/")
        response = await post(notes, tokens(asking, issuer, "notes")[0])
        await refused(response, 404, "mcp_session_unknown", upstream, 0)
        headers = {"content-type": "application/json"}
        assert (await asking.http.post(f"{asking.url}{path}", content=b"{}", headers=headers)).status_code == 401
        assert (await post(path, mine)).status_code == 202
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
