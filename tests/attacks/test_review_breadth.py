"""What a hostile review of streams, handles, questions, lists and the old transport found. Each must stay closed."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from attacks.test_handles import ASK, START, VERSION, answered, asking, events, shown
from attacks.test_streams import EVENTS
from gatelab import FakeAnswer, response, sse
from harness.issuer import TestIssuer
from harness.stack import Stack, free_port, running, settings_for, tool_call
from harness.upstream import RecordingUpstream
from rawlab import PATIENCE, Peer, RawServer, http_answer, until
from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode
from twogate.core.message import MAX_ANSWER, MAX_MEMBERS
from twogate.flows.gateway import relay, streams
from twogate.flows.gateway.answers import MAX_ASKED, MAX_LISTED
from twogate.web.legacy import QUEUED_BYTES, _ListenExchange, _Stream
from unit.flows.test_relay import Lab

__all__ = ["asking"]


DONE = {"jsonrpc": "2.0", "id": 1, "result": {"content": []}}
SAMPLING = {"method": "sampling/createMessage", "params": {"maxTokens": 5}}


def outcomes(stack: Stack) -> list[tuple[str, str]]:
    return [(e.get("outcome", ""), e.get("reason", "")) for e in stack.events() if e["kind"] == "call.outcome"]


def questions(stack: Stack) -> list[tuple[str, str]]:
    return [(e["method"], e["decision"]) for e in stack.events() if e["kind"] == "server.request"]


# --- questions in disguise


@pytest.mark.parametrize(
    "hidden",
    [
        {"status": "input_required", "input_requests": {"a": SAMPLING}},
        {"status": "completed", "result": {"resultType": "input_required", "inputRequests": {"a": SAMPLING}}},
        {"status": "completed", "result": {"content": [], "input_requests": {"a": SAMPLING}}},
        {"status": "failed", "error": {"code": -32042, "message": "", "data": {"elicitations": []}}},
    ],
    ids=["by spelling", "in the result of a task", "there by spelling", "in the error of a task"],
)
@pytest.mark.parametrize("how", ["notification", "result"])
async def test_a_task_does_not_bring_a_question_that_is_not_allowed(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream, hidden: dict[str, Any], how: str
) -> None:
    task = {"taskId": "t-1", **hidden}
    if how == "notification":
        upstream.raw_answer = events({"jsonrpc": "2.0", "method": "notifications/tasks", "params": task}, DONE)
        response = await stack.call(issuer.token(stack.resource()), "look")
        assert shown(response) == [DONE]
    else:
        upstream.raw_answer = answered(task)
        response = await stack.call(issuer.token(stack.resource()), "look")
        assert response.json()["error"]["data"]["reason"] == "upstream_invalid"


async def test_an_allowed_question_does_not_hide_another_under_a_second_spelling(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    servers = {"files": {"url": upstream.url, "client_requests": ["roots"]}}
    async with running(tmp_path, settings_for(tmp_path, free_port(), servers, issuer)) as stack:
        asked = {"method": "roots/list", "Method": "sampling/createMessage", "params": {}}
        upstream.raw_answer = answered({"resultType": "input_required", "inputRequests": {"a": asked}})
        response = await stack.call(issuer.token(stack.resource()), "look")
        assert response.json()["error"]["data"]["reason"] == "upstream_invalid"


async def test_questions_inside_a_result_are_on_the_audit_trail(
    asking: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    token = issuer.token(asking.resource())
    upstream.raw_answer = answered({"resultType": "input_required", "inputRequests": {"a": SAMPLING}})
    assert (await asking.call(token, "look")).status_code == 200
    assert questions(asking) == [("sampling/createMessage", "allow")]
    kinds = [event["kind"] for event in asking.events()]
    assert kinds.index("server.request") < kinds.index("call.outcome")
    upstream.raw_answer = answered({"inputRequests": {"a": {"method": "roots/list"}}})
    assert (await asking.call(token, "look")).status_code == 502
    assert questions(asking)[1:] == [("roots/list", "deny")]


@pytest.mark.parametrize("allowed", [True, False])
async def test_an_error_that_sends_the_user_to_an_address_is_on_the_audit_trail(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream, allowed: bool
) -> None:
    servers = {"files": {"url": upstream.url, "client_requests": ["elicitation" if allowed else "roots"]}}
    async with running(tmp_path, settings_for(tmp_path, free_port(), servers, issuer)) as stack:
        error = {"code": -32042, "message": "", "data": {"elicitations": []}}
        upstream.raw_answer = events({"jsonrpc": "2.0", "id": 1, "error": error})
        await stack.call(issuer.token(stack.resource()), "look")
        assert questions(stack) == [("elicitation/create", "allow" if allowed else "deny")]


async def test_a_question_before_the_answer_to_initialize_is_refused_to_the_server(
    asking: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    # The client cannot be asked yet; to say nothing would leave the server waiting for an answer that never comes.
    result = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "s", "version": "1"}}
    ping = {"jsonrpc": "2.0", "id": "p", "method": "ping"}
    upstream.raw_answer = events(ping, ASK, {"jsonrpc": "2.0", "id": 1, "result": result})
    response = await asking.post(issuer.token(asking.resource()), START, **VERSION)
    assert [message.get("id") for message in shown(response)] == [1]
    assert questions(asking) == [("ping", "deny"), ("sampling/createMessage", "deny")]
    assert [seen.message["id"] for seen in upstream.seen[1:]] == ["p", "ask-1"]


async def test_a_server_does_not_fill_the_audit_trail_with_questions(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    upstream.raw_answer = events(*({**ASK, "id": n} for n in range(MAX_ASKED + 50)), DONE)
    response = await stack.call(issuer.token(stack.resource()), "look")
    assert response.json()["error"]["data"]["reason"] == "upstream_invalid"
    assert len(questions(stack)) == MAX_ASKED


# --- answers that make Twogate stumble, or work for nothing


@pytest.mark.parametrize("request_id", [[], {}, None, 1.5, True])
async def test_a_cancelled_request_of_no_possible_id_is_dropped(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream, request_id: object
) -> None:
    cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": request_id}}
    upstream.raw_answer = events(cancelled, DONE)
    response = await stack.call(issuer.token(stack.resource()), "look")
    assert shown(response) == [DONE]
    assert outcomes(stack) == [("answered", "")]


async def test_a_list_of_more_entries_than_a_server_may_have_is_refused_before_each_is_decided(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    body: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    for count, status in ((MAX_LISTED, 200), (MAX_LISTED + 1, 502)):
        upstream.raw_answer = answered({"tools": [{"name": "look"}] * count})
        response = await stack.post(issuer.token(stack.resource()), body, **VERSION)
        assert response.status_code == status
    assert stack.reasons() == ["upstream_invalid"]


@pytest.mark.parametrize("method", ["tools/call", "tools/list"])
async def test_a_result_of_too_many_members_is_refused(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream, method: str
) -> None:
    params = {"name": "look"} if method == "tools/call" else {}
    body: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    for count, status in ((MAX_MEMBERS - 1, 200), (MAX_MEMBERS, 502)):
        upstream.raw_answer = answered({"tools": [], **{f"m{n}": 0 for n in range(count)}})
        response = await stack.post(issuer.token(stack.resource()), body, **VERSION)
        assert response.status_code == status


async def test_many_small_events_leave_other_calls_their_turn() -> None:
    lab, turns = Lab(), 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    running_others = asyncio.create_task(others())
    try:
        await lab.run(FakeAnswer([b":\n" * 64 * 1000, sse(DONE)], content_type="text/event-stream"))
    finally:
        running_others.cancel()
        await asyncio.gather(running_others, return_exceptions=True)
    assert lab.outcome()[0] == "answered"
    assert turns >= 1000 - 8 * 1000 // 128  # one for 64 events, but for what is left of each piece


async def test_a_long_list_leaves_other_calls_their_turn() -> None:
    lab, turns = Lab(), 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    running_others = asyncio.create_task(others())
    try:
        listed = [{"uri": f"file:///{number}"} for number in range(MAX_LISTED)]
        await lab.run(FakeAnswer([response({"resources": listed})]), "resources/list")
    finally:
        running_others.cancel()
        await asyncio.gather(running_others, return_exceptions=True)
    assert lab.exchange.message()["result"]["resources"] == []
    assert turns >= MAX_LISTED // 16


async def test_a_batch_is_no_way_to_send_more_than_an_address_may(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    settings = settings_for(tmp_path, free_port(), {"files": {"url": upstream.url}}, issuer)
    settings["limits"] = {"requests": 1, "burst": 10}
    async with running(tmp_path, settings) as stack:
        members = [{**tool_call("look"), "id": n} for n in range(50)]
        token = issuer.token(stack.resource())
        response = await stack.post(token, json.dumps(members).encode(), mcp_protocol_version="2025-03-26")
        refused = [answer["error"]["data"]["reason"] for answer in response.json() if "error" in answer]
        assert set(refused) == {"rate_limited"}
        assert len(refused) + len(upstream.calls) == 50
        assert len(upstream.calls) < 20  # ten, and one for each second that this takes


async def test_no_question_passes_that_could_not_be_written_down() -> None:
    lab = Lab()
    lab.audit.refuses = frozenset({EventKind.SERVER_REQUEST})
    result = {"resultType": "input_required", "inputRequests": {"a": SAMPLING}}
    await lab.run(FakeAnswer([response(result)]), asks=frozenset({"sampling"}))
    assert lab.exchange.refused is ErrorCode.OUTCOME_UNRECORDED
    assert lab.exchange.sent == []


# --- handles that could never come back


async def test_a_state_too_long_to_come_back_is_not_given_out(
    asking: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    upstream.raw_answer = answered({"resultType": "input_required", "requestState": "s" * 100_000})
    response = await asking.call(issuer.token(asking.resource()), "look")
    assert response.json()["error"]["data"]["reason"] == "upstream_invalid"


@pytest.mark.parametrize("event_id", ["i" * 1025, "\u00e9", "\t1"])
async def test_an_event_id_that_no_header_can_bring_back_resumes_nothing(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream, event_id: str
) -> None:
    body = f"id: {event_id}\ndata: \n\n".encode()
    upstream.raw_answer = http_answer(body, content_type=b"text/event-stream")
    response = await stack.call(issuer.token(stack.resource()), "look")
    assert "id:" not in response.text.replace('"id":', "")
    assert outcomes(stack) == [("failed", "upstream_broken")]


async def test_an_answer_to_a_question_comes_back_however_long_the_servers_names_are(
    tmp_path: Path, issuer: TestIssuer
) -> None:
    session, identifier = "s" * 1024, "\u00e9" * 256
    result = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "s", "version": "1"}}
    got: list[Any] = []

    async def script(peer: Peer) -> None:
        while True:
            message = json.loads((await peer.request()).partition(b"\r\n\r\n")[2])
            if message.get("method") == "initialize":
                opened = {"jsonrpc": "2.0", "id": 1, "result": result}
                header = b"mcp-session-id: " + session.encode()
                await peer.send(http_answer(json.dumps(opened).encode(), header))
            elif "method" in message:
                await peer.send(events({**ASK, "id": identifier}, DONE))
            else:
                got.append(message["id"])
                await peer.send(http_answer(b"", status=b"202 Accepted"))

    async with RawServer(script) as server:
        servers = {"files": {"url": server.url, "client_requests": ["sampling"]}}
        async with running(tmp_path, settings_for(tmp_path, free_port(), servers, issuer)) as stack:
            token = issuer.token(stack.resource())
            opened = await stack.post(token, START, **VERSION)
            headers = {**VERSION, "mcp_session_id": opened.headers["mcp-session-id"]}
            asked, _ = shown(await stack.post(token, tool_call("look"), **headers))
            answer = {"jsonrpc": "2.0", "id": asked["id"], "result": {"role": "assistant", "model": "m"}}
            assert (await stack.post(token, answer, **headers)).status_code == 202
            assert got == [identifier]


async def test_a_task_whose_name_could_not_come_back_is_not_given_out(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    upstream.raw_answer = answered({"task": {"taskId": "t" * 1000, "status": "working"}})
    response = await stack.call(issuer.token(stack.resource()), "look")
    assert response.json()["error"]["data"]["reason"] == "upstream_invalid"


# --- resumed streams


def last_id(text: str) -> str:
    (found,) = {line[4:] for line in text.split("\n") if line.startswith("id: ")}
    return found


async def test_a_resumed_list_is_filtered_as_it_would_have_been(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    token = issuer.token(stack.resource())
    listing = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    upstream.raw_answer = http_answer(b"id: 7\ndata: \n\n", content_type=b"text/event-stream")
    broken = await stack.post(token, listing, **VERSION)
    tools: list[Any] = [{"name": name, "inputSchema": {}} for name in ("look", "find", "wipe")]
    upstream.raw_answer = events({"jsonrpc": "2.0", "id": 1, "result": {"tools": tools}})
    headers = {"authorization": f"Bearer {token}", "accept": "text/event-stream"}
    resumed = await stack.http.get(stack.resource(), headers={**headers, "last-event-id": last_id(broken.text)})
    (answer,) = shown(resumed)
    assert [tool["name"] for tool in answer["result"]["tools"]] == ["look"]


async def test_nothing_is_put_in_the_middle_of_a_large_event(
    tmp_path: Path, issuer: TestIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A comment there would end the event, and what the server sends next would begin a line of its own choice.
    monkeypatch.setattr(streams, "TICK", 0.01)
    monkeypatch.setattr(relay, "KEEP_ALIVE_TICKS", 1)
    ticks, tick = 0, relay.Relay._tick

    async def counted(self: relay.Relay) -> None:
        nonlocal ticks
        await tick(self)
        ticks += 1

    monkeypatch.setattr(relay.Relay, "_tick", counted)
    half = b"x" * (600 * 1024)
    first = b'data: {"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"' + half * 2
    second = half + b'"}]}}\n\n'

    async def script(peer: Peer) -> None:
        request = await peer.request()
        await peer.send(EVENTS)
        if request.startswith(b"POST"):
            await peer.send(b"e\r\nid: 7\ndata: \n\n\r\n0\r\n\r\n")
            return
        await peer.send(b"%x\r\n%b\r\n" % (len(first), first))
        seen = ticks
        await until(lambda: ticks > seen + 5)
        await peer.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(second), second))
        await peer.gone()

    async with RawServer(script) as server:
        settings = settings_for(tmp_path, free_port(), {"files": {"url": server.url}}, issuer)
        async with running(tmp_path, settings) as stack:
            token = issuer.token(stack.resource())
            broken = await stack.call(token, "look")
            headers = {"authorization": f"Bearer {token}", "accept": "text/event-stream"}
            headers["last-event-id"] = last_id(broken.text)
            resumed = await stack.http.get(stack.resource(), headers=headers)
            (answer,) = shown(resumed)
            assert len(answer["result"]["content"][0]["text"]) == len(half) * 3


# --- the old transport


@asynccontextmanager
async def old_client(stack: Stack, token: str) -> AsyncIterator[tuple[str, asyncio.Queue[str | None]]]:
    """The address to POST to, and what comes on the stream; None at its end."""
    heard: asyncio.Queue[str | None] = asyncio.Queue()

    async def listen() -> None:
        headers = {"authorization": f"Bearer {token}", "accept": "text/event-stream"}
        async with stack.http.stream("GET", f"{stack.resource()}/sse", headers=headers) as stream:
            async for line in stream.aiter_lines():
                if line.startswith("data: "):
                    heard.put_nowait(line[6:])
        heard.put_nowait(None)

    client = asyncio.create_task(listen())
    try:
        async with asyncio.timeout(PATIENCE):
            path = await heard.get()
        assert path is not None
        yield path, heard
    finally:
        client.cancel()
        await asyncio.gather(client, return_exceptions=True)


async def old_post(stack: Stack, token: str, path: str, body: Any) -> int:
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    return (await stack.http.post(f"{stack.url}{path}", content=json.dumps(body), headers=headers)).status_code


async def test_an_answer_too_large_for_the_old_transport_is_told_and_the_stream_goes_on(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    token = issuer.token(stack.resource())
    padding = MAX_ANSWER - len(json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"tools": list[str](), "p": ""}}))
    large = {"jsonrpc": "2.0", "id": 1, "result": {"tools": [], "p": "x" * padding}}
    async with old_client(stack, token) as (path, heard), asyncio.timeout(PATIENCE):
        upstream.raw_answer = events(large)
        assert await old_post(stack, token, path, {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}) == 202
        told = await heard.get()
        assert told is not None
        assert json.loads(told)["error"]["data"]["reason"] == "upstream_invalid"
        upstream.raw_answer = events(DONE)
        assert await old_post(stack, token, path, tool_call("look")) == 202
        assert json.loads(await heard.get() or "") == DONE


async def test_an_answer_in_many_pieces_costs_no_more_than_one_in_few() -> None:
    stream = _Stream("s", None, "files", None)  # type: ignore[arg-type] # nobody is asked for
    exchange = _ListenExchange(stream)
    await exchange.start(200, ((b"content-type", b"application/json"),), length=None)
    before = time.monotonic()
    for _ in range(100_000):
        await exchange.send(b"x" * 100, more=True)
    await exchange.send(b"", more=False)
    assert time.monotonic() - before < 20  # minutes if each piece copies all before it
    assert len((await stream.events.get()) or b"") > 10_000_000


async def test_large_events_wait_with_the_calls_that_bring_them_for_a_client_that_does_not_read() -> None:
    stream = _Stream("s", None, "files", None)  # type: ignore[arg-type] # nobody is asked for
    block = b"x" * (QUEUED_BYTES // 2 + 1)
    bringing = [asyncio.create_task(stream.show(block)) for _ in range(3)]
    for count in range(1, 4):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [task.done() for task in bringing].count(True) == count
        assert stream.events.qsize() == 1
        assert await stream.next() == block
    await asyncio.gather(*bringing)
    larger = b"x" * (QUEUED_BYTES + 1)
    await stream.show(larger)
    assert await stream.next() == larger


async def test_a_stream_at_a_server_of_another_tenant_does_not_open(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream, other_upstream: RecordingUpstream
) -> None:
    servers = {"files": {"url": upstream.url}, "notes": {"url": other_upstream.url}}
    settings = settings_for(tmp_path, free_port(), servers, issuer)
    settings["tenants"] = {"acme": {"servers": ["files"]}, "umbrella": {"servers": ["notes"]}}
    settings["tasks"] = {"report": {"tools": ["files.look"]}, "edit": {"tools": ["files.find"]}}
    async with running(tmp_path, settings) as stack:
        headers = {"authorization": f"Bearer {issuer.token(stack.resource('notes'))}"}
        answer = await stack.http.get(f"{stack.resource('notes')}/sse", headers=headers)
        assert answer.status_code == 403
        assert stack.reasons() == ["tenant_server_refused"]
        assert other_upstream.seen == []
