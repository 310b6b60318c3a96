"""Servers of the HTTP+SSE transport of 2024-11-05, over a server that speaks raw bytes."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest

from rawlab import Authority, RawServer, silent_after, until
from stdio_servers.harness import ALICE, BOT, OTHER_TENANT, Client, Reader, StepClock, body, raw
from stdio_servers.legacy import EVENTS, LegacyServer, chunk, legacy, message_event
from twogate.adapters.upstream.http_origin import HttpOrigin
from twogate.adapters.upstream.sse import SseUpstream
from twogate.adapters.upstream.sse_endpoint import endpoint_target
from twogate.core.errors import METHOD_NOT_FOUND, UNSUPPORTED_PROTOCOL_VERSION, ErrorCode, GateError
from twogate.core.protocol import HANDSHAKE_VERSIONS
from twogate.flows.gateway.upstream import Upstream

SAMPLING = "sampling/createMessage"


async def fails(made: Client, name: str = "x", **how: Any) -> ErrorCode:
    with pytest.raises(GateError) as caught:
        await made.call(name, **how)
    return caught.value.code


# -- The transport


async def test_what_goes_over_the_wire() -> None:
    async with legacy() as (server, made):
        upstream: Upstream = made.upstream
        assert upstream is made.upstream
        assert await made.call("echo", arguments={"x": 1}) == {"echo": {"x": 1}}
        host = b"host: 127.0.0.1:%d\r\naccept-encoding: identity\r\n" % server.raw.port
        (_, stream), (_, hello), (_, initialized), (_, call) = server.raw.requests
        assert (
            stream == b"GET /sse HTTP/1.1\r\n" + host + b"accept: text/event-stream\r\ncache-control: no-store\r\n\r\n"
        )
        for post in (hello, initialized, call):
            head, _, posted = post.partition(b"\r\n\r\n")
            assert head == (
                b"POST /messages/?session_id=1 HTTP/1.1\r\n" + host + b"content-type: application/json\r\n"
                b"content-length: %d" % len(posted)
            )
        assert json.loads(hello.partition(b"\r\n\r\n")[2])["params"]["capabilities"] == {}
        assert server.methods() == ["initialize", "notifications/initialized", "tools/call"]
        assert json.loads(call.partition(b"\r\n\r\n")[2])["params"] == {"name": "echo", "arguments": {"x": 1}}


async def test_no_connection_serves_two_tenants() -> None:
    async with legacy() as (server, made):
        # Agents of one tenant take turns on the connections for posts; another tenant's has its own.
        for owner in (BOT, ALICE, OTHER_TENANT):
            await made.pid(owner=owner)
        used: dict[bytes, set[int]] = {}
        for connection, request in server.raw.requests:
            if request.startswith(b"POST"):
                used.setdefault(request.split(b" ")[1], set()).add(connection)
        first, second, abroad = used.values()
        assert first & second
        assert abroad.isdisjoint(first | second)


async def test_fixed_headers_go_with_every_request() -> None:
    server = LegacyServer()
    async with server.raw:
        extra = ((b"authorization", b"Bearer upstream-secret"),)
        upstream = SseUpstream(server.url, clock=StepClock(), log=lambda name, line: None, extra_headers=extra)
        await Client(upstream, StepClock(), []).pid()
        await upstream.aclose()
    assert all(b"authorization: Bearer upstream-secret\r\n" in request for _, request in server.raw.requests)


async def test_tls_trusts_the_configured_authority_only(tmp_path: Any) -> None:
    authority = Authority(tmp_path)
    server = LegacyServer()
    server.raw = RawServer(server._serve, tls=authority.server_context("localhost"))
    async with server.raw:
        url = f"https://localhost:{server.raw.port}/sse"
        for ca_file in (authority.ca_file, None):
            upstream = SseUpstream(url, clock=StepClock(), log=lambda name, line: None, ca_file=ca_file)
            made = Client(upstream, StepClock(), [])
            if ca_file is not None:
                assert await made.pid()
            else:
                assert await fails(made) is ErrorCode.UPSTREAM_UNAVAILABLE
            await upstream.aclose()


@pytest.mark.parametrize(
    ("reference", "target"),
    [
        (b"/messages/?session_id=1", "/messages/?session_id=1"),
        (b"messages?a=b&c=d%20e", "/base/messages?a=b&c=d%20e"),
        (b"?session_id=1", "/base/sse?session_id=1"),
        (b"../up", "/up"),
        (b"/", "/"),
        (b"http://tools.example:8080/m", "/m"),
        (b"HTTP://TOOLS.example:8080/m", "/m"),
        (b"http://tools.example:8080", "/"),
        (b"//tools.example:8080/m", "/m"),
        (b"/a;b=c/d?e", "/a;b=c/d?e"),
    ],
)
def test_endpoints_of_the_same_origin(reference: bytes, target: str) -> None:
    assert endpoint_target(HttpOrigin("http://tools.example:8080/base/sse"), reference) == target


@pytest.mark.parametrize(
    ("url", "reference"),
    [
        ("http://tools.example/sse", b"http://tools.example:80/m"),
        ("http://tools.example:80/sse", b"http://tools.example/m"),
        ("https://tools.example/sse", b"https://tools.example:443/m"),
        ("http://[::1]:8080/sse", b"http://[::1]:8080/m"),
    ],
)
def test_a_default_port_may_be_written_or_left_out(url: str, reference: bytes) -> None:
    assert endpoint_target(HttpOrigin(url), reference) == "/m"


async def test_events_are_read_however_they_are_cut() -> None:
    async with legacy() as (server, made):
        await made.pid()
        call = asyncio.create_task(made.call("hold"))
        await until(lambda: server.methods().count("tools/call") == 2)
        identifier = server.received[-1][1]["id"]
        response = b': ping\r\n\r\nevent: other\ndata: not for us\n\nid: 7\ndata: {"jsonrpc":"2.0",\n'
        response += b'data:"id":%d,"result":{"cut":"\xc3\xbc"}}\r\r' % identifier
        for n in range(len(response)):
            await server.emit(1, response[n : n + 1])
        assert await call == {"cut": "ü"}


async def test_silence_is_no_failure() -> None:
    async with legacy() as (server, made):
        first = await made.pid(timeout=1.0)
        await asyncio.sleep(2.0)
        assert await made.pid(timeout=5.0) == first
        assert len(server.streams) == 1


async def test_a_post_may_be_answered_as_late_as_its_call() -> None:
    # As servers do that handle a message before they answer its post.
    async with legacy() as (server, made):
        server.late = True
        session = await made.initialize(sampling={})
        call = Reader(
            await made.start_call("consult", arguments={"id": 1, "method": SAMPLING}, session=session, timeout=5.0)
        )
        question = await call.next()
        await made.respond(question["id"], {"text": "yes"}, session=session)
        assert (await call.next())["result"]["answer"]["result"] == {"text": "yes"}
        assert await made.call("echo", session=session) == {"echo": {}}


@pytest.mark.parametrize(
    "receipt",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 202 Accepted\r\ntransfer-encoding: chunked\r\n\r\n8\r\nAccepted\r\n0\r\n\r\n",
        b"HTTP/1.1 202 Accepted\r\ncontent-length: 200000\r\n\r\n" + b"x" * 200_000,
    ],
)
async def test_every_success_accepts_a_message(receipt: bytes) -> None:
    async with legacy() as (server, made):
        server.receipt = receipt
        for _ in range(3):
            assert await made.call("echo") == {"echo": {}}


@pytest.mark.parametrize("status", [b"400 Bad Request", b"404 Not Found", b"500 Oops"])
async def test_a_message_that_the_server_refuses_fails_its_call_alone(status: bytes) -> None:
    async with legacy() as (server, made):
        held = asyncio.create_task(made.call("hold"))
        await until(lambda: "tools/call" in server.methods())
        server.receipt, good = b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\n\r\n", server.receipt
        assert await fails(made, "hold") is ErrorCode.UPSTREAM_INVALID
        server.receipt = good
        await made.call("release")
        assert await held == {"held": True}
        assert len(server.streams) == 1


async def test_an_abandoned_call_is_cancelled_at_the_server() -> None:
    async with legacy() as (server, made):
        call = asyncio.create_task(made.call("hold"))
        await until(lambda: "tools/call" in server.methods())
        call.cancel()
        await until(lambda: "notifications/cancelled" in server.methods())
        assert server.received[-1][1]["params"] == {"requestId": server.received[-2][1]["id"]}


async def test_a_call_without_answer_times_out() -> None:
    async with legacy() as (_, made):
        await made.pid()
        assert await fails(made, "hold", timeout=0.2) is ErrorCode.UPSTREAM_TIMEOUT
        assert await made.pid()


# -- Connections


async def test_every_principal_and_session_has_a_connection_of_its_own() -> None:
    async with legacy() as (server, made):
        session = await made.initialize(sampling={})
        how: list[dict[str, Any]] = [{}, {"session": session}, {"owner": ALICE}, {"owner": ALICE, "session": session}]
        streams = [await made.pid(**one) for one in how]
        assert [await made.pid(**one) for one in how] == streams
        assert len(set(streams)) == 4
        assert len(server.streams) == 4


async def test_an_idle_connection_is_closed_and_opened_again() -> None:
    async with legacy() as (server, made):
        session = await made.initialize(sampling={})
        first = await made.pid(session=session)
        made.clock.at += 300
        made.upstream.sweep()
        await until(lambda: not server.streams)
        second = await made.pid(session=session)
        assert second != first
        hello = next(message for stream, message in server.received if stream == second)
        assert hello["params"]["capabilities"] == {"sampling": {}}


async def test_a_connection_that_breaks_fails_its_calls_and_comes_back_after_a_delay() -> None:
    async with legacy(backoff=1.0) as (server, made):
        first = await made.pid()
        stream = Reader(await made.listen())
        held = asyncio.create_task(made.call("hold"))
        await until(lambda: server.methods().count("tools/call") == 2)
        server.streams[first].abort()
        with pytest.raises(GateError) as caught:
            await held
        assert caught.value.code is ErrorCode.UPSTREAM_BROKEN
        assert await stream.ended()
        assert await fails(made) is ErrorCode.UPSTREAM_UNAVAILABLE
        assert not server.streams
        made.clock.at += 1.0
        assert await made.pid() != first


async def test_a_stream_that_ends_in_order_is_a_broken_connection_too() -> None:
    async with legacy() as (server, made):
        first = await made.pid()
        made.clock.at += 100
        held = asyncio.create_task(made.call("hold"))
        await until(lambda: server.methods().count("tools/call") == 2)
        await server.streams[first].send(b"0\r\n\r\n")
        with pytest.raises(GateError) as caught:
            await held
        assert caught.value.code is ErrorCode.UPSTREAM_BROKEN
        assert await made.pid() != first


async def test_the_end_of_a_session_closes_its_connection() -> None:
    async with legacy() as (server, made):
        session = await made.initialize()
        assert (await made.end(session)).status == 200
        await until(lambda: not server.streams)


async def test_closing_ends_every_connection_and_call() -> None:
    async with legacy() as (server, made):
        held = asyncio.create_task(made.call("hold"))
        await made.pid(owner=ALICE)
        await until(lambda: len(server.streams) == 2)
        await made.upstream.aclose()
        with pytest.raises(GateError) as caught:
            await held
        assert caught.value.code is ErrorCode.UPSTREAM_BROKEN
        await until(lambda: not server.streams)
        assert await fails(made) is ErrorCode.UPSTREAM_UNAVAILABLE


async def test_closing_while_connecting_leaves_nothing() -> None:
    async with legacy() as (server, made):
        server.endpoint = None
        call = asyncio.create_task(made.pid())
        await until(lambda: bool(server.streams))
        async with asyncio.timeout(5):
            await made.upstream.aclose()
        with pytest.raises(GateError) as caught:
            await call
        assert caught.value.code is ErrorCode.UPSTREAM_UNAVAILABLE


async def test_only_so_many_connections_exist() -> None:
    async with legacy(links=1) as (server, made):
        first = await made.pid()
        made.clock.at += 1
        assert await made.pid(owner=ALICE) != first
        await until(lambda: len(server.streams) == 1)


# -- Servers that cannot be reached, or are something else


async def test_nobody_listening_is_unavailable() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/sse"
        upstream = SseUpstream(url, clock=StepClock(), log=lambda name, line: None)
        assert await fails(Client(upstream, StepClock(), [])) is ErrorCode.UPSTREAM_UNAVAILABLE
        await upstream.aclose()


@pytest.mark.parametrize(
    ("head", "code"),
    [
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", ErrorCode.UPSTREAM_UNAVAILABLE),
        (b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", ErrorCode.UPSTREAM_UNAVAILABLE),
        (
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
            ErrorCode.UPSTREAM_INVALID,
        ),
        (EVENTS + b"0\r\n\r\n", ErrorCode.UPSTREAM_UNAVAILABLE),
        (EVENTS + chunk(b"data: {}\n\n"), ErrorCode.UPSTREAM_INVALID),
        (EVENTS + chunk(message_event({})), ErrorCode.UPSTREAM_INVALID),
    ],
)
async def test_a_server_of_another_kind_is_not_called(head: bytes, code: ErrorCode) -> None:
    async with legacy() as (server, made):
        server.head, server.endpoint = head, None
        assert await fails(made) is code
        assert not server.received


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200", EVENTS, EVENTS + chunk(b": ping\n\n" * 10)])
async def test_an_endpoint_that_does_not_come_in_time_is_unavailable(head: bytes) -> None:
    async with legacy(start=0.2) as (server, made):
        server.head, server.endpoint = head, None
        assert await fails(made) is ErrorCode.UPSTREAM_UNAVAILABLE
        await until(lambda: not server.streams)


async def test_a_handshake_that_is_not_answered_is_unavailable() -> None:
    server = RawServer(silent_after(EVENTS + chunk(b"event: endpoint\ndata: /m\n\n")))
    async with server:
        upstream = SseUpstream(server.url, clock=StepClock(), log=lambda name, line: None)
        upstream._limits = type(upstream._limits)(handshake=0.2)
        assert await fails(Client(upstream, StepClock(), [])) is ErrorCode.UPSTREAM_UNAVAILABLE
        await upstream.aclose()


# -- What it shares with stdio servers


async def test_questions_and_news_reach_the_client() -> None:
    async with legacy() as (server, made):
        session = await made.initialize(sampling={})
        stream = Reader(await made.listen(session))
        await made.call(
            "emit", arguments={"messages": [{"method": "notifications/tools/list_changed"}]}, session=session
        )
        assert (await stream.next())["method"] == "notifications/tools/list_changed"
        await server.send(1, id="q", method=SAMPLING, params={})
        question = await stream.next()
        assert question["method"] == SAMPLING
        assert (await made.respond(question["id"], {"text": "yes"}, session=session)).status == 202
        assert server.received[-1] == (1, {"jsonrpc": "2.0", "id": "q", "result": {"text": "yes"}})


async def test_what_nobody_can_answer_is_refused_to_the_server() -> None:
    async with legacy() as (server, made):
        result = await made.call("consult", arguments={"id": 1, "method": SAMPLING})
        assert result["answer"]["error"]["code"] == METHOD_NOT_FOUND
        assert server.methods()[-1] == ""


async def test_the_stateless_era_does_not_exist_and_is_told_what_does() -> None:
    async with legacy() as (server, made):
        answer = await made.send("server/discover", {}, modern=True, identifier="d")
        assert answer.status == 400
        refusal = await body_of(answer)
        assert refusal["id"] == "d"
        assert refusal["error"]["code"] == UNSUPPORTED_PROTOCOL_VERSION
        assert refusal["error"]["data"]["supported"] == list(HANDSHAKE_VERSIONS)
        assert (await made.send("notifications/x", {}, modern=True, identifier=None)).status == 202
        assert (await made.listen(modern=True)).status == 405
        assert not server.raw.requests


async def body_of(answer: Any) -> dict[str, Any]:
    assert answer.content_type == "application/json"
    parsed = json.loads(await raw(answer))
    assert isinstance(parsed, dict)
    return parsed


async def test_initialize_tells_what_the_server_said() -> None:
    async with legacy() as (_, made):
        answer = await made.send("initialize", {"protocolVersion": "2024-11-05", "capabilities": {}}, identifier="i")
        assert answer.session_id is not None
        told = await body(answer)
        assert (told["id"], told["result"]["serverInfo"]["name"]) == ("i", "legacy")
        assert told["result"]["protocolVersion"] == "2024-11-05"


async def test_a_server_that_takes_no_messages_does_not_make_them_pile_up() -> None:
    async with legacy(receipt=30.0) as (server, made):
        session = await made.initialize(sampling={})
        server.receipt = b""
        for n in range(2000):
            await made.send(
                "notifications/roots/list_changed", {"x": "x" * 100, "n": n}, identifier=None, session=session
            )
        link = made.upstream._slots[BOT, False, session].link
        assert link is not None
        assert link._channel is not None
        assert link._channel._offered_bytes <= 64 * 1024  # type: ignore[attr-defined]  # of this kind of channel


def test_a_wrong_url_is_a_value_error() -> None:
    for url in ("ftp://x/", "http://a@b/", "http://x/#y", "http://"):
        with pytest.raises(ValueError, match="URL"):
            SseUpstream(url, clock=StepClock(), log=lambda name, line: None)
