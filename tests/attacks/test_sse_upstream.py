"""A hostile server of the HTTP+SSE transport: it chooses where we post, and writes whatever it likes, for ever."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from harness.issuer import TestIssuer
from harness.stack import free_port, running, settings_for
from rawlab import Peer, RawServer, answering, http_answer, until
from stdio_servers.harness import ALICE, Client, Reader, messages
from stdio_servers.legacy import LegacyServer, chunk, legacy, message_event
from twogate.adapters.upstream.http_origin import HttpOrigin
from twogate.adapters.upstream.sse_endpoint import endpoint_target
from twogate.core.errors import UPSTREAM, ErrorCode, GateError

SAMPLING = "sampling/createMessage"


async def fails(made: Client, name: str = "x", **how: Any) -> ErrorCode:
    with pytest.raises(GateError) as caught:
        await made.call(name, **how)
    return caught.value.code


# -- Where we post

ELSEWHERE = [
    b"http://169.254.169.254/latest/meta-data",
    b"http://127.0.0.1:{canary}/messages",
    b"//127.0.0.1:{canary}/messages",
    b"http://localhost:{own}/messages",
    b"https://127.0.0.1:{own}/messages",
    b"ftp://127.0.0.1:{own}/messages",
    b"file:///etc/passwd",
    b"http://user@127.0.0.1:{own}/messages",
    b"http://user:word@127.0.0.1:{own}/messages",
    b"http://@127.0.0.1:{own}/messages",
    b"http://127.0.0.1:{own}@127.0.0.1:{canary}/messages",
    b"http://127.0.0.1:{own}\\@127.0.0.1:{canary}/messages",
    b"\\\\127.0.0.1:{canary}/messages",
    b"/\\127.0.0.1:{canary}/messages",
    b"http:\\\\127.0.0.1:{canary}/messages",
    b"http:/messages",
    b"http:messages",
    b"http:///messages",
    b"http:////127.0.0.1:{canary}/messages",
    b"http://127.0.0.1:{own}.evil.example/messages",
    b"http://127.0.0.1.:{own}/messages",
    b"http://127.1:{own}/messages",
    b"http://2130706433:{own}/messages",
    b"http://[::ffff:127.0.0.1]:{own}/messages",
    b"http://[127.0.0.1/messages",
    b"http://127.0.0.1:{own}0/messages",
    b"http://127.0.0.1:/messages",
    b"http://127.0.0.1:x/messages",
    b"http://127.0.0.1/messages",
    b"/messages#fragment",
    b"/messages HTTP/1.1",
    b"/messages\tx",
    b"/m\xc3\xbc",
    b"/messages\x00",
    b"javascript:alert(1)",
    b"/" + b"x" * 5000,
    b"",
]


@pytest.mark.parametrize("reference", ELSEWHERE)
async def test_an_endpoint_elsewhere_is_refused_and_nobody_is_called(reference: bytes) -> None:
    async with RawServer(answering(http_answer(b""))) as canary, legacy() as (server, made):
        named = reference.replace(b"{canary}", b"%d" % canary.port).replace(b"{own}", b"%d" % server.raw.port)
        server.endpoint = b"event: endpoint\ndata: " + named + b"\n\n"
        assert await fails(made) is ErrorCode.UPSTREAM_INVALID
        assert canary.connections == 0
        assert not server.received
        await until(lambda: not server.streams)


@pytest.mark.parametrize("reference", [b"/a\r\nx: y", b"/a\nevent: endpoint\ndata: /b", b"/a\rb"])
def test_no_endpoint_can_add_a_line_to_a_request(reference: bytes) -> None:
    with pytest.raises(GateError) as caught:
        endpoint_target(HttpOrigin("http://tools.example/sse"), reference)
    assert caught.value.code is ErrorCode.UPSTREAM_INVALID


async def test_a_redirect_of_the_stream_is_not_followed() -> None:
    async with RawServer(answering(http_answer(b""))) as canary, legacy() as (server, made):
        server.head = b"HTTP/1.1 307 Elsewhere\r\nlocation: %b\r\ncontent-length: 0\r\n\r\n" % canary.url.encode()
        server.endpoint = None
        assert await fails(made) is ErrorCode.UPSTREAM_INVALID
        assert canary.connections == 0


@pytest.mark.parametrize("status", [b"301", b"302", b"303", b"307", b"308"])
async def test_a_redirect_of_a_message_is_not_followed(status: bytes) -> None:
    async with RawServer(answering(http_answer(b""))) as canary, legacy() as (server, made):
        await made.pid()
        location = b" Elsewhere\r\nlocation: %b\r\ncontent-length: 0\r\n\r\n" % canary.url.encode()
        server.receipt = b"HTTP/1.1 " + status + location
        assert await fails(made, "hold") is ErrorCode.UPSTREAM_INVALID
        assert canary.connections == 0


async def test_an_endpoint_cannot_be_changed_later() -> None:
    async with legacy() as (server, made):
        await made.pid()
        held = asyncio.create_task(made.call("hold"))
        await until(lambda: server.methods().count("tools/call") == 2)
        await server.emit(1, b"event: endpoint\ndata: /admin\n\n")
        with pytest.raises(GateError) as caught:
            await held
        assert caught.value.code is ErrorCode.UPSTREAM_INVALID
        assert all(request.startswith((b"GET /sse ", b"POST /messages/")) for _, request in server.raw.requests)


async def test_through_both_gates_the_caller_learns_nothing_of_it(tmp_path: Path, issuer: TestIssuer) -> None:
    server = LegacyServer()
    async with RawServer(answering(http_answer(b""))) as canary, server.raw:
        server.endpoint = b"event: endpoint\ndata: http://127.0.0.1:%d/secret\n\n" % canary.port
        settings = settings_for(tmp_path, free_port(), {"files": {"url": server.url, "transport": "sse"}}, issuer)
        async with running(tmp_path, settings) as stack:
            answer = await stack.call(issuer.token(stack.resource()), "look")
        assert answer.status_code == 502
        assert answer.json()["error"]["code"] == UPSTREAM
        assert "secret" not in answer.text
        assert canary.connections == 0
        assert all(b"authorization" not in request.lower() for _, request in server.raw.requests)


# -- What it writes


@pytest.mark.parametrize(
    "garbage",
    [
        b"data: {\n\n",
        b"data: []\n\n",
        b"data: null\n\n",
        b"data: \xff\n\n",
        b'data: {"jsonrpc":"2.0","id":1}\n\n',
        b'data: {"jsonrpc":"1.0","id":1,"result":{}}\n\n',
        b"data: " + b"[" * 100_000 + b"\n\n",
    ],
)
async def test_an_event_that_is_no_message_fails_every_call_and_closes_the_connection(garbage: bytes) -> None:
    async with legacy() as (server, made):
        await made.pid()
        held = [asyncio.create_task(made.call("hold", identifier=n)) for n in range(3)]
        await until(lambda: server.methods().count("tools/call") == 4)
        await server.emit(1, garbage)
        for call in held:
            with pytest.raises(GateError) as caught:
                await call
            assert caught.value.code is ErrorCode.UPSTREAM_INVALID
        await until(lambda: not server.streams)
        assert await fails(made) is ErrorCode.UPSTREAM_UNAVAILABLE, "no back-off"


@pytest.mark.parametrize("line", [b"data: " + b"x" * 65536, b"data: x\n" * 8192, b"id: " + b"x" * 65536, b"x" * 65536])
async def test_an_event_without_end_is_cut_off(line: bytes) -> None:
    sent = 0

    async with legacy(message_bytes=1024 * 1024) as (server, made):
        await made.pid()
        held = asyncio.create_task(made.call("hold"))
        await until(lambda: server.methods().count("tools/call") == 2)
        with suppress(ConnectionError):
            while sent < 100 * 1024 * 1024 and 1 in server.streams:
                await server.emit(1, line)
                await asyncio.sleep(0)  # so that the server sees that nobody is left
                sent += len(line)
        with pytest.raises(GateError) as caught:
            await held
        assert caught.value.code is ErrorCode.UPSTREAM_INVALID
        assert sent < 20 * 1024 * 1024


async def test_a_large_message_passes_and_one_beyond_the_bound_does_not() -> None:
    async with legacy(message_bytes=2 * 1024 * 1024) as (server, made):
        await made.pid()
        held = asyncio.create_task(made.call("hold"))
        await until(lambda: server.methods().count("tools/call") == 2)
        identifier = server.received[-1][1]["id"]
        await server.send(1, id=identifier, result={"x": "x" * 1024 * 1024})
        assert len((await held)["x"]) == 1024 * 1024


@pytest.mark.parametrize("with_stream", [True, False])
async def test_a_flood_of_events_holds_neither_calls_nor_memory(with_stream: bool) -> None:
    async with legacy(queued_bytes=64 * 1024) as (server, made):
        session = await made.initialize(sampling={})
        stream = await made.listen(session) if with_stream else None
        note = {"method": "notifications/tools/list_changed", "jsonrpc": "2.0", "params": {"x": "x" * 100}}
        log = {"method": "notifications/message", "jsonrpc": "2.0", "params": {"level": "info", "data": "x" * 100}}
        ask = {"method": SAMPLING, "jsonrpc": "2.0"}
        stop = asyncio.Event()

        async def flood() -> None:
            n = 0
            while not stop.is_set():
                burst = [message_event(note), message_event(log), message_event({**ask, "id": n}), b": ping\n\n"]
                await server.emit(1, b"".join(burst * 50))
                n += 1

        flooding = asyncio.create_task(flood())
        async with asyncio.timeout(30):
            for n in range(2):
                assert await made.call("echo", arguments={"n": n}, session=session) == {"echo": {"n": n}}
        stop.set()
        await flooding
        if stream is not None:
            await made.upstream.aclose()
            kept = await messages(stream)
            assert 0 < sum(len(json.dumps(message)) for message in kept) <= 64 * 1024


async def test_an_answer_on_one_principals_stream_never_reaches_another() -> None:
    async with legacy() as (server, made):
        bot, alice = await made.pid(), await made.pid(owner=ALICE)
        mine = asyncio.create_task(made.call("hold"))
        theirs = asyncio.create_task(made.call("hold", owner=ALICE))
        await until(lambda: server.methods().count("tools/call") == 4)
        ids = {stream: message.get("id") for stream, message in server.received}
        assert isinstance(ids[bot], int)
        assert ids[bot] == ids[alice]
        await server.send(bot, id=ids[bot], result={"for": "bot"})
        assert await mine == {"for": "bot"}
        await made.pid()
        assert not theirs.done()
        await server.send(alice, id=ids[alice], result={"for": "alice"})
        assert await theirs == {"for": "alice"}


async def test_an_answer_to_no_open_call_is_dropped() -> None:
    async with legacy() as (server, made):
        session = await made.initialize()
        stream = Reader(await made.listen(session))
        for identifier in (0, 1, 99, "2", -1, 2**53 - 1, None):
            if identifier is None:
                await server.send(1, id=None, error={"code": -32700, "message": "?"})
            else:
                await server.send(1, id=identifier, result={"forged": True})
        assert await made.call("echo", session=session) == {"echo": {}}
        await server.send(1, method="notifications/tools/list_changed")
        assert (await stream.next())["method"] == "notifications/tools/list_changed"


async def test_posts_that_are_never_answered_fail_their_calls_and_leave_nothing() -> None:
    async with legacy() as (server, made):
        await made.pid()
        server.receipt = b""
        calls = [made.call("hold", identifier=n, timeout=0.3) for n in range(20)]
        for result in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(result, GateError)
            assert result.code is ErrorCode.UPSTREAM_TIMEOUT


async def test_a_server_that_closes_at_once_is_not_called_in_a_circle() -> None:
    async def slam(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        await peer.send(chunk(b"event: endpoint\ndata: /m\n\n"))

    async with legacy(backoff=1.0, backoff_longest=4.0) as (server, made):
        server.raw._script = slam
        for delay in (1.0, 2.0, 4.0, 4.0):
            assert await fails(made) is ErrorCode.UPSTREAM_UNAVAILABLE
            await until(lambda: not made.upstream._lives)
            connections = server.raw.connections
            made.clock.at += delay - 0.01
            assert await fails(made) is ErrorCode.UPSTREAM_UNAVAILABLE
            assert server.raw.connections == connections, "called again during the back-off"
            made.clock.at += 0.01
