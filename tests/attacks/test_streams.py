"""Streams that outlive the right to listen: an agent that was cut off, a token that expired, a task that ended."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from harness.issuer import TestIssuer
from harness.stack import Stack, free_port, running, settings_for
from harness.upstream import RecordingUpstream
from rawlab import PATIENCE, Peer, RawServer
from twogate.core.principal import AgentId
from twogate.flows.gateway import streams

EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
CHANGED = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
MODERN = "2026-07-28"
META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
}
LISTEN = {
    "jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen",
    "params": {"notifications": {"toolsListChanged": True}, "_meta": META},
}  # fmt: skip

CALL = {
    "jsonrpc": "2.0", "id": 1, "method": "tools/call",
    "params": {"name": "look", "arguments": {}, "_meta": {"progressToken": 7}},
}  # fmt: skip
PROGRESS = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 7, "progress": 1}}
RESULT = {"jsonrpc": "2.0", "id": 1, "result": {"content": [{"type": "text", "text": "found"}]}}


class Feed:
    """An MCP server with one open stream, on which it says what it is told to say."""

    def __init__(self) -> None:
        self.peer: asyncio.Future[Peer] = asyncio.get_running_loop().create_future()
        self.closed = asyncio.Event()

    async def script(self, peer: Peer) -> None:
        await peer.request()
        await peer.send(EVENTS)
        self.peer.set_result(peer)
        await peer.gone()
        self.closed.set()

    async def say(self, message: Any) -> None:
        event = f"event: message\ndata: {json.dumps(message)}\n\n".encode()
        await (await self.peer).send(b"%x\r\n%b\r\n" % (len(event), event))


class Listener:
    """A client with an open stream, and what came on it."""

    def __init__(self) -> None:
        self.status = 0
        self.heard = asyncio.Queue[str]()
        self.ended = asyncio.Event()

    async def listen(self, stack: Stack, token: str, how: str, **headers: str) -> None:
        given = {"authorization": f"Bearer {token}", "accept": "application/json, text/event-stream", **headers}
        body: bytes | None = None
        if how == "POST":
            given |= {"mcp-protocol-version": MODERN, "mcp-method": "subscriptions/listen"}
            given["content-type"], body = "application/json", json.dumps(LISTEN).encode()
        if how == "CALL":
            given |= {"mcp-protocol-version": "2025-11-25", "content-type": "application/json"}
            how, body = "POST", json.dumps(CALL).encode()
        async with stack.http.stream(how, stack.resource(), headers=given, content=body) as answer:
            self.status = answer.status_code
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    self.heard.put_nowait(line[6:])
        self.ended.set()


@asynccontextmanager
async def listening(
    directory: Path, issuer: TestIssuer, how: str, **claims: Any
) -> AsyncIterator[tuple[Stack, Feed, Listener]]:
    """A gateway, a server's stream behind it, and a client that hears it."""
    feed, listener = Feed(), Listener()
    async with RawServer(feed.script) as server:
        settings = settings_for(directory, free_port(), {"files": {"url": server.url}}, issuer)
        async with running(directory, settings) as stack:
            token = issuer.token(stack.resource(), **claims)
            client = asyncio.create_task(listener.listen(stack, token, how))
            try:
                async with asyncio.timeout(PATIENCE):
                    first = PROGRESS if how == "CALL" else CHANGED
                    await feed.say(first)
                    assert json.loads(await listener.heard.get()) == first
                yield stack, feed, listener
            finally:
                client.cancel()
                await asyncio.gather(client, return_exceptions=True)


async def disable(stack: Stack) -> None:
    await stack.state.registry_store.disable_agent(AgentId("acme", "robot"), stack.state.clock.now())


async def unbind(stack: Stack) -> None:
    settings = json.loads((stack.directory / "twogate.yaml").read_text())
    del settings["agents"]["acme/robot"]
    stack.adopt(settings)


@pytest.mark.parametrize("how", ["GET", "POST"])
@pytest.mark.parametrize("cut_off", [disable, unbind], ids=["disabled", "unbound by a reload"])
async def test_a_listener_that_was_cut_off_hears_nothing_more(
    tmp_path: Path, issuer: TestIssuer, how: str, cut_off: Callable[[Stack], Awaitable[None]]
) -> None:
    async with listening(tmp_path, issuer, how) as (stack, feed, listener):
        await cut_off(stack)
        await feed.say(CHANGED)
        async with asyncio.timeout(PATIENCE):
            await listener.ended.wait()
            await feed.closed.wait()
        assert listener.heard.empty()


@pytest.mark.parametrize("last", [PROGRESS, RESULT], ids=["progress", "result"])
async def test_a_caller_that_was_cut_off_hears_nothing_more_of_a_long_answer(
    tmp_path: Path,
    issuer: TestIssuer,
    monkeypatch: pytest.MonkeyPatch,
    last: dict[str, Any],
) -> None:
    monkeypatch.setattr(streams, "TICK", 0.0)  # every event comes later than that
    async with listening(tmp_path, issuer, "CALL") as (stack, feed, listener):
        await disable(stack)
        await feed.say(last)
        async with asyncio.timeout(PATIENCE):
            told = json.loads(await listener.heard.get())
            await listener.ended.wait()
            await feed.closed.wait()
        assert (told["id"], "error" in told, "found" in str(told)) == (1, True, False)
        assert listener.heard.empty()
        (ended,) = [event for event in stack.events() if event["kind"] == "call.outcome"]
        assert (ended["outcome"], ended["reason"]) == ("failed", "agent_disabled")


async def test_a_long_answer_outlives_the_token_that_asked_for_it(
    tmp_path: Path, issuer: TestIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "TICK", 0.0)
    async with listening(tmp_path, issuer, "CALL") as (stack, feed, listener):
        later = stack.state.clock.now() + 7200
        monkeypatch.setattr(type(stack.state.clock), "now", lambda _: later)
        await feed.say(PROGRESS)
        await feed.say(RESULT)
        async with asyncio.timeout(PATIENCE):
            heard = [json.loads(await listener.heard.get()) for _ in range(2)]
            await listener.ended.wait()
        assert heard == [PROGRESS, RESULT]


@pytest.mark.parametrize("how", ["GET", "POST"])
async def test_a_silent_stream_ends_with_its_token(tmp_path: Path, issuer: TestIssuer, how: str) -> None:
    now = int(time.time())
    async with listening(tmp_path, issuer, how, iat=now, exp=now + 4) as (stack, feed, listener):
        async with asyncio.timeout(PATIENCE):
            await listener.ended.wait()
            await feed.closed.wait()
        assert stack.reasons()[-1] == "token_expired"


async def test_a_client_that_goes_away_is_gone_for_the_server_too(tmp_path: Path, issuer: TestIssuer) -> None:
    feed, listener = Feed(), Listener()
    async with RawServer(feed.script) as server:
        settings = settings_for(tmp_path, free_port(), {"files": {"url": server.url}}, issuer)
        async with running(tmp_path, settings) as stack:
            client = asyncio.create_task(listener.listen(stack, issuer.token(stack.resource()), "GET"))
            async with asyncio.timeout(PATIENCE):
                await feed.peer
                client.cancel()
                await feed.closed.wait()
            await asyncio.gather(client, return_exceptions=True)
            (ended,) = [event for event in stack.events() if event["kind"] == "call.outcome"]
            assert (ended["method"], ended["outcome"]) == ("GET", "aborted")


async def test_a_stream_of_one_principal_takes_no_place_of_its_calls(tmp_path: Path, issuer: TestIssuer) -> None:
    async def script(peer: Peer) -> None:
        request = await peer.request()
        if request.startswith(b"GET"):
            await peer.send(EVENTS)
            await peer.gone()
        else:
            body = b'{"jsonrpc":"2.0","id":1,"result":{"content":[]}}'
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            await peer.send(head % len(body) + body)

    async with RawServer(script) as server:
        settings = settings_for(tmp_path, free_port(), {"files": {"url": server.url}}, issuer)
        settings["limits"] = {"calls_per_agent": 1, "streams_per_agent": 2}
        async with running(tmp_path, settings) as stack:
            token = issuer.token(stack.resource())
            listeners = [Listener() for _ in range(3)]
            clients = [asyncio.create_task(listener.listen(stack, token, "GET")) for listener in listeners]
            try:
                async with asyncio.timeout(PATIENCE):
                    while sorted(listener.status for listener in listeners) != [200, 200, 429]:
                        await asyncio.sleep(0.01)
                assert (await stack.call(token, "look")).status_code == 200
            finally:
                for client in clients:
                    client.cancel()
                await asyncio.gather(*clients, return_exceptions=True)


async def test_an_old_stream_lives_as_long_as_its_client_shows_good_tokens(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    now = int(time.time())
    old, new = (issuer.token(stack.resource(), iat=now, exp=now + seconds) for seconds in (3, 60))
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    answers: asyncio.Queue[Any] = asyncio.Queue()
    ended = asyncio.Event()

    async def listen() -> None:
        headers = {"authorization": f"Bearer {old}", "accept": "text/event-stream"}
        async with stack.http.stream("GET", f"{stack.resource()}/sse", headers=headers) as stream:
            async for line in stream.aiter_lines():
                if line.startswith("data: ") and not address.done():
                    address.set_result(line[6:])
                elif line.startswith("data: "):
                    answers.put_nowait(json.loads(line[6:]))
        ended.set()

    async def post(request_id: int) -> Any:
        message = {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": {"name": "look"}}
        headers = {"authorization": f"Bearer {new}", "content-type": "application/json"}
        response = await stack.http.post(f"{stack.url}{await address}", content=json.dumps(message), headers=headers)
        assert response.status_code == 202
        return await answers.get()

    listening = asyncio.create_task(listen())
    try:
        async with asyncio.timeout(PATIENCE):
            assert "result" in await post(1)
            while time.time() < now + 4:  # until the token that opened the stream has expired
                await asyncio.sleep(0.1)
            assert "result" in await post(2)
            assert not ended.is_set()
            await disable(stack)
            await ended.wait()
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
