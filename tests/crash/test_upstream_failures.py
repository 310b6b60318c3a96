"""An MCP server that is down, slow, broken or talks rubbish, seen through both gates by a real client."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from harness.issuer import TestIssuer
from harness.stack import Stack, free_port, running, settings_for, tool_call
from processlab import PATIENCE, request_headers
from rawlab import Peer, RawServer, Script, answering, breaking_off, http_answer, silent_after, until
from stdio_servers.legacy import LegacyServer
from twogate.app import edge_limits
from twogate.config import Settings
from twogate.core.errors import TIMED_OUT, UPSTREAM
from twogate.web.edge_limits import EdgeLimits

EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
PROGRESS = b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"p","progress":1}}'
GOOD = http_answer(b'{"jsonrpc":"2.0","id":"mine","result":{"content":[],"isError":false}}')
STDIO = Path(__file__).parents[1] / "stdio_servers"


@dataclass
class Lab:
    """A gateway in front of one server, and an agent that calls it."""

    stack: Stack
    token: str

    async def call(self, tool: str = "look") -> httpx2.Response:
        message = tool_call(tool, request_id="mine")
        return await self.stack.post(self.token, message, mcp_protocol_version="2025-11-25")

    def ends(self) -> list[tuple[str, str]]:
        """Outcome and reason of every call, in the order of the intents; each intent has one outcome."""
        events = self.stack.events()
        intents = [event["request"] for event in events if event["kind"] == "call.intent"]
        outcomes = [event for event in events if event["kind"] == "call.outcome"]
        assert sorted(intents) == sorted(event["request"] for event in outcomes)
        found = {event["request"]: (event["outcome"], event.get("reason", "")) for event in outcomes}
        return [found[request] for request in intents]

    async def fails(self, status: int, code: int, reason: str, tool: str = "look") -> None:
        """One call, which must end like this, for its caller and on the audit trail."""
        answer = await self.call(tool)
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/json"
        body = answer.json()
        assert (body["jsonrpc"], body["id"]) == ("2.0", "mine")
        assert (body["error"]["code"], body["error"]["data"]) == (code, {"reason": reason})
        assert self.ends()[-1] == ("failed", reason)


@asynccontextmanager
async def lab(directory: Path, issuer: TestIssuer, server: dict[str, Any]) -> AsyncIterator[Lab]:
    settings = settings_for(directory, free_port(), {"files": server}, issuer)
    for tool in ("die", "close_stdout", "hold", "pid"):  # of the stdio server
        settings["tools"][f"files.{tool}"] = {"class": "read"}
    settings["tasks"]["report"]["tools"] = ["read"]
    async with running(directory, settings) as stack:
        yield Lab(stack, issuer.token(stack.resource()))


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(data: bytes) -> bytes:
    return chunk(b"event: message\ndata: " + data + b"\n\n")


async def test_a_server_that_is_down_is_502_and_when_it_is_back_calls_go_on(tmp_path: Path, issuer: TestIssuer) -> None:
    server = RawServer(answering(GOOD))
    server.port = free_port()
    async with lab(tmp_path, issuer, {"url": server.url}) as to:
        await to.fails(502, UPSTREAM, "upstream_unavailable")
        async with server:
            assert (await to.call()).status_code == 200
            assert to.ends()[-1] == ("answered", "")


async def test_a_slow_server_is_504_and_its_connection_is_given_up(tmp_path: Path, issuer: TestIssuer) -> None:
    async with (
        RawServer(silent_after(b"")) as server,
        lab(tmp_path, issuer, {"url": server.url, "timeout": "1s"}) as to,
    ):
        await to.fails(504, TIMED_OUT, "upstream_timeout")
        await until(lambda: server.closed == 1)
        # A call that may have run is never sent twice.
        assert len(server.requests) == 1


GARBAGE: dict[str, Script] = {
    "not HTTP": silent_after(b"\x00\x01\x02\x03" * 64),
    "not JSON": answering(http_answer(b"<html>")),
    "no JSON-RPC": answering(http_answer(b"[]")),
    "a web page": answering(http_answer(b"<html>", content_type=b"text/html")),
    "an internal error": answering(http_answer(b"{}", status=b"500 Internal Server Error")),
    "a redirect": answering(http_answer(b"", b"location: http://169.254.169.254/", status=b"307 Temporary Redirect")),
    "another call's answer": answering(http_answer(b'{"jsonrpc":"2.0","id":99,"result":{}}')),
    "a stream of rubbish": silent_after(EVENTS + chunk(b"data: {\n\n")),
    "a stream with another call's answer": silent_after(EVENTS + event(b'{"jsonrpc":"2.0","id":99,"result":{}}')),
}


async def test_a_server_that_talks_rubbish_is_502_and_none_of_it_reaches_the_client(
    tmp_path: Path, issuer: TestIssuer
) -> None:
    script: Script = answering(GOOD)

    async def serve(peer: Peer) -> None:
        await script(peer)

    async with RawServer(serve) as server, lab(tmp_path, issuer, {"url": server.url}) as to:
        for name, garbage in GARBAGE.items():
            script = garbage
            await to.fails(502, UPSTREAM, "upstream_invalid")
            # So that the next script serves a connection of its own.
            for task in list(server._tasks):
                task.cancel()
            await until(lambda: server.open == 0)
            assert len(server.requests) == len(to.ends()), name


async def test_a_server_that_dies_in_the_middle_of_an_answer_is_502(tmp_path: Path, issuer: TestIssuer) -> None:
    async with RawServer(breaking_off(GOOD[:-10])) as server, lab(tmp_path, issuer, {"url": server.url}) as to:
        await to.fails(502, UPSTREAM, "upstream_broken")
        assert len(server.requests) == 1


async def test_a_stream_whose_server_dies_ends_with_an_error_for_the_call(tmp_path: Path, issuer: TestIssuer) -> None:
    async def dies(peer: Peer) -> None:
        await peer.request()
        await peer.send(EVENTS + event(PROGRESS))
        peer.abort()

    async with RawServer(dies) as server, lab(tmp_path, issuer, {"url": server.url}) as to:
        answer = await to.call()
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream")
        first, last = (json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: "))
        assert first == json.loads(PROGRESS)
        assert last["id"] == "mine"
        assert (last["error"]["code"], last["error"]["data"]) == (UPSTREAM, {"reason": "upstream_broken"})
        assert to.ends() == [("failed", "upstream_broken")]


async def test_a_stream_that_falls_silent_ends_with_an_error_for_the_call(tmp_path: Path, issuer: TestIssuer) -> None:
    server = RawServer(silent_after(EVENTS + event(PROGRESS)))
    async with server, lab(tmp_path, issuer, {"url": server.url, "timeout": "1s"}) as to:
        answer = await to.call()
        last = json.loads(answer.text.splitlines()[-2].removeprefix("data: "))
        assert (last["id"], last["error"]["data"]) == ("mine", {"reason": "upstream_timeout"})
        assert to.ends() == [("failed", "upstream_timeout")]


async def test_a_client_that_goes_away_ends_its_call_at_the_server(tmp_path: Path, issuer: TestIssuer) -> None:
    server = RawServer(silent_after(b""))
    async with server, lab(tmp_path, issuer, {"url": server.url}) as to:
        call = asyncio.create_task(to.call())
        await until(lambda: len(server.requests) == 1)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await until(lambda: server.closed == 1)
        await until(lambda: [one["kind"] for one in to.stack.events()][-1] == "call.outcome")
        assert to.ends() == [("aborted", "")]


async def test_a_client_that_goes_away_while_it_reads_a_stream_ends_its_call_at_the_server(
    tmp_path: Path, issuer: TestIssuer
) -> None:
    server = RawServer(silent_after(EVENTS + event(PROGRESS)))
    async with server, lab(tmp_path, issuer, {"url": server.url}) as to:
        headers = request_headers(to.token)
        async with to.stack.http.stream(
            "POST", to.stack.resource(), json=tool_call("look", request_id="mine"), headers=headers
        ) as answer:
            assert (await anext(answer.aiter_lines())) == "event: message"
        await until(lambda: server.closed == 1)
        await until(lambda: [one["kind"] for one in to.stack.events()][-1] == "call.outcome")
        assert to.ends() == [("aborted", "")]


async def test_a_stdio_server_that_dies_or_falls_silent_fails_the_call_and_the_next_gets_a_new_one(
    tmp_path: Path, issuer: TestIssuer
) -> None:
    server = {"command": [sys.executable, "-I", str(STDIO / "tiny.py")], "timeout": "1s"}
    async with lab(tmp_path, issuer, server) as to:
        first = (await to.call("pid")).json()["result"]["pid"]
        await to.fails(504, TIMED_OUT, "upstream_timeout", "hold")
        await to.fails(502, UPSTREAM, "upstream_broken", "die")

        async def again() -> int:
            while (answer := await to.call("pid")).status_code == 502:  # it waits a moment before it starts anew
                assert answer.json()["error"]["data"] == {"reason": "upstream_unavailable"}
                await asyncio.sleep(0.05)
            pid: int = answer.json()["result"]["pid"]
            return pid

        async with asyncio.timeout(20):
            assert await again() != first


async def test_a_command_that_does_not_exist_is_502(tmp_path: Path, issuer: TestIssuer) -> None:
    async with lab(tmp_path, issuer, {"command": ["no-such-mcp-server"]}) as to:
        await to.fails(502, UPSTREAM, "upstream_unavailable")


async def sse_again(to: Lab) -> None:
    """Call until the gateway has connected to its server anew, which it waits a moment with."""
    async with asyncio.timeout(PATIENCE):
        while (answer := await to.call()).status_code == 502:
            assert answer.json()["error"]["data"] == {"reason": "upstream_unavailable"}
            await asyncio.sleep(0.05)
    assert answer.json()["result"] == {"echo": {}}


async def test_an_sse_server_that_is_down_is_502_and_when_it_is_back_calls_go_on(
    tmp_path: Path, issuer: TestIssuer
) -> None:
    server = LegacyServer()
    server.raw.port = free_port()
    async with lab(tmp_path, issuer, {"url": server.url, "transport": "sse"}) as to:
        await to.fails(502, UPSTREAM, "upstream_unavailable")
        async with server.raw:
            await sse_again(to)


async def test_an_sse_server_that_dies_or_falls_silent_fails_the_call_and_the_next_connects_anew(
    tmp_path: Path, issuer: TestIssuer
) -> None:
    server = LegacyServer()
    async with server.raw, lab(tmp_path, issuer, {"url": server.url, "transport": "sse", "timeout": "1s"}) as to:
        await sse_again(to)
        await to.fails(504, TIMED_OUT, "upstream_timeout", "hold")
        await until(lambda: server.methods()[-1] == "notifications/cancelled")
        await to.fails(502, UPSTREAM, "upstream_broken", "die")
        await sse_again(to)
        assert server.methods().count("initialize") == 2
        # A call that may have run is never sent twice.
        assert [message["params"]["name"] for _, message in server.received if message["method"] == "tools/call"] == [
            "look", "hold", "die", "look",
        ]  # fmt: skip


STREAMS: dict[str, dict[str, Any]] = {
    "stdio": {"command": [sys.executable, "-I", str(STDIO / "tiny.py")]},
    "sse": {"transport": "sse"},
}


@pytest.mark.parametrize("transport", STREAMS)
async def test_the_stream_of_a_server_that_dies_ends_and_the_next_one_goes_on(
    tmp_path: Path, issuer: TestIssuer, transport: str
) -> None:
    server = LegacyServer()
    async with server.raw:
        settings = STREAMS[transport] | ({"url": server.url} if transport == "sse" else {})
        async with lab(tmp_path, issuer, settings) as to:
            headers = {**request_headers(to.token), "mcp-protocol-version": "2025-11-25"}
            for _ in range(2):
                async with to.stack.http.stream("GET", to.stack.resource(), headers=headers) as stream:
                    assert (stream.status_code, stream.headers["content-type"]) == (200, "text/event-stream")
                    again = await to.stack.http.get(to.stack.resource(), headers=headers)
                    assert again.status_code == 409
                    async with asyncio.timeout(PATIENCE):
                        while (await to.call("die")).json()["error"]["data"] != {"reason": "upstream_broken"}:
                            await asyncio.sleep(0.05)
                        # Nothing but comments until the end, and an end in order.
                        assert not [line for line in await lines(stream) if line and not line.startswith(":")]
    assert not server.streams


async def lines(stream: httpx2.Response) -> list[str]:
    return [line async for line in stream.aiter_lines()]


async def test_a_call_that_outlasts_the_stop_is_told_so_and_its_outcome_is_written(
    tmp_path: Path, issuer: TestIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hurried(settings: Settings) -> EdgeLimits:
        return msgspec.structs.replace(edge_limits(settings), drain_seconds=1)

    monkeypatch.setattr("harness.stack.edge_limits", hurried)
    answers = [b"", EVENTS + event(PROGRESS)]

    async def silent(peer: Peer) -> None:
        await silent_after(answers.pop())(peer)

    async with RawServer(silent) as server, httpx2.AsyncClient(timeout=PATIENCE, trust_env=False) as http:
        async with lab(tmp_path, issuer, {"url": server.url}) as to:
            to.stack.http = http  # outlives the gateway
            streaming = asyncio.create_task(to.call())
            await until(lambda: len(server.requests) == 1)
            waiting = asyncio.create_task(to.call())
            await until(lambda: len(server.requests) == 2)
        streamed, plain = await streaming, await waiting
    assert plain.status_code == 504
    told = json.loads(streamed.text.splitlines()[-2].removeprefix("data: "))
    assert told == plain.json()
    # Not that nothing was run: nobody knows.
    assert (told["id"], told["error"]["data"]) == ("mine", {"reason": "upstream_timeout"})
    assert to.ends() == [("aborted", ""), ("aborted", "")]
    assert to.stack.events()[-1]["kind"] == "process.stopped"
