"""The pooled HTTP client, against a server that speaks raw bytes and against uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import uvloop

from rawlab import Authority, Peer, RawServer, answering, breaking_off, http_answer, silent_after, until
from twogate.adapters.upstream.answer_head import READ_AHEAD
from twogate.adapters.upstream.http import HttpUpstream, HttpUpstreamLimits
from twogate.adapters.upstream.http_connection import HttpConnection
from twogate.core.errors import ErrorCode, GateError
from twogate.core.principal import PrincipalKey
from twogate.flows.gateway.upstream import Upstream, UpstreamAnswer, UpstreamRequest

OWNER = PrincipalKey("acme", "https://issuer.example", "reporter", None)
OK = http_answer(b'{"jsonrpc":"2.0","id":1,"result":{}}')
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
FAST = HttpUpstreamLimits(sweep=0.02, idle=60.0)


def a_request(body: bytes = b"{}", *, timeout: float = 10.0, method: str = "POST") -> UpstreamRequest:
    headers = ((b"content-type", b"application/json"), (b"mcp-method", b"tools/call"))
    return UpstreamRequest(OWNER, method, headers, body, None, True, timeout)


@contextlib.asynccontextmanager
async def an_upstream(url: str, limits: HttpUpstreamLimits = FAST, **more: Any) -> AsyncIterator[HttpUpstream]:
    """An upstream that leaves neither a connection nor a task behind."""
    before = asyncio.all_tasks()
    upstream = HttpUpstream(url, limits=limits, **more)
    try:
        yield upstream
    finally:
        await upstream.aclose()
        assert not upstream._pool._connections
        assert not upstream._pool._connecting
        assert not upstream._pool._idle
        assert not upstream._pool._waiting
        servers = ("RawServer", "_accept_connection")
        assert not [task for task in asyncio.all_tasks() - before if not any(name in repr(task) for name in servers)]


async def read(answer: UpstreamAnswer) -> bytes:
    try:
        return b"".join([chunk async for chunk in answer.chunks()])
    finally:
        await answer.aclose()


async def refused(awaitable: Awaitable[object]) -> ErrorCode:
    with pytest.raises(GateError) as caught:
        await awaitable
    return caught.value.code


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def test_it_is_an_upstream_and_sends_exactly_one_well_formed_request() -> None:
    async with RawServer(answering(OK)) as server:
        extra = ((b"authorization", b"Bearer upstream-secret"),)
        async with an_upstream(server.url + "?a=b", extra_headers=extra) as upstream:
            as_port: Upstream = upstream
            answer = await as_port.send(a_request(b'{"x":1}'))
            assert (answer.status, answer.content_type, answer.session_id) == (200, "application/json", None)
            assert json.loads(await read(answer))["id"] == 1
        assert [received for _, received in server.requests] == [
            b"POST /mcp?a=b HTTP/1.1\r\nhost: 127.0.0.1:%d\r\naccept-encoding: identity\r\n"
            b"authorization: Bearer upstream-secret\r\ncontent-type: application/json\r\nmcp-method: tools/call\r\n"
            b'content-length: 7\r\n\r\n{"x":1}' % server.port
        ]


async def test_a_get_without_a_body_says_no_length() -> None:
    async with RawServer(answering(OK)) as server, an_upstream(server.url) as upstream:
        await read(await upstream.send(a_request(b"", method="GET")))
        assert b"content-length" not in server.requests[0][1]


async def test_one_connection_serves_one_call_after_the_other() -> None:
    async with RawServer(answering(OK)) as server, an_upstream(server.url) as upstream:
        for _ in range(5):
            await read(await upstream.send(a_request()))
        assert [number for number, _ in server.requests] == [1] * 5


async def test_a_complete_answer_frees_its_connection_before_it_is_read() -> None:
    async with RawServer(answering(OK)) as server, an_upstream(server.url) as upstream:
        first = await upstream.send(a_request())
        second = await upstream.send(a_request())
        assert await read(first) == await read(second)
        assert server.connections == 1


async def test_a_small_answer_whose_body_comes_after_its_head_is_read_too() -> None:
    head, _, body = OK.partition(b"\r\n\r\n")

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(head + b"\r\n\r\n")
            await asyncio.sleep(0.02)
            await peer.send(body)

    async with RawServer(script) as server, an_upstream(server.url) as upstream:
        assert await read(await upstream.send(a_request())) == body
        assert await read(await upstream.send(a_request())) == body
        assert server.connections == 1


async def test_events_are_told_as_they_come() -> None:
    seen = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM + chunk(b"data: 1\n\n"))
        await seen.wait()
        await peer.send(chunk(b"data: 2\n\n") + b"0\r\n\r\n")
        await peer.gone()

    async with RawServer(script) as server, an_upstream(server.url) as upstream:
        answer = await upstream.send(a_request())
        assert answer.content_type == "text/event-stream"
        chunks = answer.chunks()
        assert await anext(chunks) == b"data: 1\n\n"
        seen.set()
        assert [part async for part in chunks] == [b"data: 2\n\n"]
        await answer.aclose()


async def test_the_session_id_and_a_media_type_with_parameters_are_exposed() -> None:
    made = http_answer(b"{}", b"Mcp-Session-Id: abc-123", content_type=b"Application/JSON ; charset=utf-8")
    async with RawServer(answering(made)) as server, an_upstream(server.url) as upstream:
        answer = await upstream.send(a_request())
        assert (answer.content_type, answer.session_id) == ("application/json", "abc-123")
        await answer.aclose()


@pytest.mark.parametrize(
    ("status", "code"), [(b"202 Accepted", 202), (b"404 Not Found", 404), (b"500 Oops", 500), (b"204 None", 204)]
)
async def test_every_final_status_is_told(status: bytes, code: int) -> None:
    made = b"HTTP/1.1 204 None\r\n\r\n" if code == 204 else http_answer(b"", status=status)
    async with RawServer(answering(made)) as server, an_upstream(server.url) as upstream:
        for _ in range(2):
            answer = await upstream.send(a_request())
            assert answer.status == code
            assert await read(answer) == b""
        assert server.connections == 1


async def test_interim_answers_are_skipped() -> None:
    made = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\ncontent-type: text/html\r\n\r\n" + OK
    async with RawServer(answering(made)) as server, an_upstream(server.url) as upstream:
        for _ in range(2):
            answer = await upstream.send(a_request())
            assert answer.content_type == "application/json"
            await read(answer)
        assert server.connections == 1


@pytest.mark.parametrize("close", [b"connection: close", b"Connection: Close"])
async def test_a_connection_that_the_server_ends_is_not_used_again(close: bytes) -> None:
    async with RawServer(answering(http_answer(b"{}", close))) as server, an_upstream(server.url) as upstream:
        for _ in range(2):
            assert await read(await upstream.send(a_request())) == b"{}"
        assert server.connections == 2


async def test_a_body_that_lasts_until_the_connection_closes_is_read_whole() -> None:
    made = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n" + b"x" * 100_000

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(made)
        peer.writer.close()
        await peer.gone()

    async with RawServer(script) as server, an_upstream(server.url) as upstream:
        for _ in range(2):
            assert len(await read(await upstream.send(a_request()))) == 100_000
        assert server.connections == 2


async def test_a_slow_reader_holds_the_server_back() -> None:
    total = 50 * 1024 * 1024
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        peer.writer.transport.set_write_buffer_limits(high=64 * 1024)
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total)
        piece = b"x" * 65536
        while sent < total:
            await peer.send(piece)
            sent += len(piece)
        await peer.gone()

    async with RawServer(script) as server, an_upstream(server.url) as upstream:
        answer = await upstream.send(a_request(timeout=0.2))
        chunks = answer.chunks()
        got = len(await anext(chunks))
        # The server stands still although nothing is wrong, and for longer than the timeout: the pause is ours.
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.3)
        assert sent < total
        most = 0
        async for part in chunks:
            got += len(part)
            most = max(most, answer._buffered, len(part))
        assert got == total
        assert most <= 3 * READ_AHEAD
        await answer.aclose()


async def test_a_connection_that_died_while_idle_is_replaced_without_an_error() -> None:
    async with RawServer(breaking_off(OK)) as server, an_upstream(server.url) as upstream:
        for _ in range(3):
            await read(await upstream.send(a_request()))
            await until(lambda: server.open == 0 and not upstream._pool._connections)
        assert server.connections == 3


async def test_a_close_that_the_loop_has_not_seen_yet_is_noticed_before_anything_is_written() -> None:
    async with RawServer(breaking_off(OK)) as server, an_upstream(server.url, HttpUpstreamLimits()) as upstream:
        await read(await upstream.send(a_request()))
        (connection,) = upstream._pool._connections
        connection._transport.pause_reading()  # From here on the loop does not see what the server does.
        await until(lambda: server.open == 0)
        connection.deadline -= 2.0  # It was idle for two seconds.
        await read(await upstream.send(a_request()))
        assert server.connections == 2
        assert len(server.requests) == 2


async def test_unsolicited_bytes_on_an_idle_connection_never_become_an_answer() -> None:
    poison = http_answer(b'{"poison":true}')

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        if peer.number == 1:
            await asyncio.sleep(0.02)
            await peer.send(poison)
        await peer.gone()

    async with RawServer(script) as server, an_upstream(server.url) as upstream:
        await read(await upstream.send(a_request()))
        await until(lambda: server.closed == 1)
        assert b"poison" not in await read(await upstream.send(a_request()))
        assert server.connections == 2


async def test_an_idle_connection_is_closed_after_its_time() -> None:
    limits = HttpUpstreamLimits(idle=0.05, sweep=0.02)
    async with RawServer(silent_after(OK)) as server, an_upstream(server.url, limits) as upstream:
        await read(await upstream.send(a_request()))
        await until(lambda: server.closed == 1)


async def test_a_connection_cut_after_the_request_was_written_is_broken_and_never_tried_again() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        if len(peer._server.requests) == 1:
            await peer.send(OK)
            await peer.request()
        peer.abort()

    async with RawServer(script) as server, an_upstream(server.url) as upstream:
        await read(await upstream.send(a_request(b'{"n":1}')))
        assert await refused(upstream.send(a_request(b'{"n":2}'))) is ErrorCode.UPSTREAM_BROKEN
        assert [received[-7:] for _, received in server.requests] == [b'{"n":1}', b'{"n":2}']


async def test_a_body_that_is_cut_short_is_broken_after_what_arrived() -> None:
    made = STREAM + chunk(b"data: 1\n\n")
    async with RawServer(breaking_off(made)) as server, an_upstream(server.url) as upstream:
        answer = await upstream.send(a_request())
        chunks = answer.chunks()
        assert await anext(chunks) == b"data: 1\n\n"
        assert await refused(anext(chunks)) is ErrorCode.UPSTREAM_BROKEN
        await answer.aclose()


async def test_a_small_body_that_is_cut_short_is_broken() -> None:
    async with RawServer(breaking_off(OK[:-3])) as server, an_upstream(server.url) as upstream:
        assert await refused(upstream.send(a_request())) is ErrorCode.UPSTREAM_BROKEN


async def test_nobody_listening_is_unavailable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # Bound and not listening: connecting is refused.
        async with an_upstream(f"http://127.0.0.1:{taken.getsockname()[1]}/mcp") as upstream:
            for _ in range(3):
                assert await refused(upstream.send(a_request())) is ErrorCode.UPSTREAM_UNAVAILABLE


async def test_a_connection_that_never_stands_is_unavailable() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        with contextlib.ExitStack() as stack:
            for _ in range(8):  # Fill its backlog, so that further SYNs go unanswered.
                filler = stack.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(address)
            limits = HttpUpstreamLimits(connect_timeout=0.1)
            async with an_upstream(f"http://127.0.0.1:{address[1]}/", limits) as upstream:
                assert await refused(upstream.send(a_request())) is ErrorCode.UPSTREAM_UNAVAILABLE


@pytest.mark.parametrize("partial", [b"", b"HTTP/1.1 200", b"HTTP/1.1 100 Continue\r\n\r\n", OK[:-1]])
async def test_a_slow_head_times_out_and_closes_the_connection(partial: bytes) -> None:
    async with RawServer(silent_after(partial)) as server, an_upstream(server.url) as upstream:
        assert await refused(upstream.send(a_request(timeout=0.1))) is ErrorCode.UPSTREAM_TIMEOUT
        await until(lambda: server.closed == 1)


async def test_a_body_that_stops_times_out_after_what_arrived() -> None:
    async with RawServer(silent_after(STREAM + chunk(b"one"))) as server, an_upstream(server.url) as upstream:
        answer = await upstream.send(a_request(timeout=0.1))
        chunks = answer.chunks()
        assert await anext(chunks) == b"one"
        assert await refused(anext(chunks)) is ErrorCode.UPSTREAM_TIMEOUT
        await until(lambda: server.closed == 1)
        await answer.aclose()


async def test_a_body_that_keeps_coming_may_take_longer_than_the_timeout() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM)
        for _ in range(6):
            await asyncio.sleep(0.1)
            await peer.send(chunk(b"tick"))
        await peer.send(b"0\r\n\r\n")
        await peer.gone()

    async with RawServer(script) as server, an_upstream(server.url) as upstream:
        assert await read(await upstream.send(a_request(timeout=0.4))) == b"tick" * 6


async def test_a_cancelled_wait_closes_the_connection() -> None:
    async with RawServer(silent_after(b"")) as server, an_upstream(server.url) as upstream:
        task = asyncio.create_task(upstream.send(a_request()))
        await until(lambda: len(server.requests) == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: server.closed == 1)


async def test_closing_an_answer_early_closes_the_connection() -> None:
    async with RawServer(silent_after(STREAM + chunk(b"one"))) as server, an_upstream(server.url) as upstream:
        answer = await upstream.send(a_request())
        await answer.aclose()
        await answer.aclose()
        await until(lambda: server.closed == 1)
        assert await refused(anext(answer.chunks())) is ErrorCode.UPSTREAM_BROKEN


async def test_a_thousand_calls_share_ten_connections() -> None:
    limits = HttpUpstreamLimits(connections=10)
    async with RawServer(answering(OK)) as server, an_upstream(server.url, limits) as upstream:

        async def call() -> bytes:
            return await read(await upstream.send(a_request()))

        answers = await asyncio.gather(*(call() for _ in range(1000)))
        assert len(answers) == 1000
        assert set(answers) == {OK.partition(b"\r\n\r\n")[2]}
        assert server.connections == 10
        assert len(server.requests) == 1000


async def test_calls_cancelled_while_waiting_lose_no_connection() -> None:
    limits = HttpUpstreamLimits(connections=2)
    async with RawServer(answering(OK)) as server, an_upstream(server.url, limits) as upstream:

        async def call() -> bytes:
            return await read(await upstream.send(a_request()))

        for turn in range(30):
            tasks = [asyncio.create_task(call()) for _ in range(10)]
            for _ in range(turn):
                await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(result, bytes) for result in results[1::2])
            assert len(upstream._pool._connections) + upstream._pool._connecting <= 2
            assert not upstream._pool._waiting


@pytest.mark.parametrize("lost", [False, True])
async def test_what_a_call_was_given_just_before_it_was_cancelled_goes_to_the_next_in_line(lost: bool) -> None:
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await go.wait()
        if not lost:
            await peer.send(OK)
            while True:
                await peer.request()
                await peer.send(OK)
        if peer.number > 1:
            await peer.send(OK)
        # Else the connection is lost, and its place, not the connection, is given away.

    limits = HttpUpstreamLimits(connections=1, idle=60.0)
    async with RawServer(script) as server, an_upstream(server.url, limits) as upstream:
        calls = [asyncio.create_task(upstream.send(a_request())) for _ in range(3)]
        await until(lambda: len(server.requests) == 1 and len(upstream._pool._waiting) == 2)
        (connection,) = upstream._pool._connections
        name = "_on_lost" if lost else "_on_idle"
        give = getattr(connection, name)

        def give_and_cancel(given: HttpConnection) -> None:
            give(given)
            calls[1].cancel()

        setattr(connection, name, give_and_cancel)
        go.set()
        first, second, third = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(first, GateError) if lost else not isinstance(first, BaseException)
        assert isinstance(second, asyncio.CancelledError)
        assert not isinstance(third, BaseException)
        assert server.connections == (2 if lost else 1)


async def test_a_connection_that_dies_while_it_is_given_away_is_replaced() -> None:
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await go.wait()
        await peer.send(OK)
        await peer.gone()

    limits = HttpUpstreamLimits(connections=1, idle=60.0)
    async with RawServer(script) as server, an_upstream(server.url, limits) as upstream:
        calls = [asyncio.create_task(upstream.send(a_request())) for _ in range(2)]
        await until(lambda: len(server.requests) == 1 and len(upstream._pool._waiting) == 1)
        (connection,) = upstream._pool._connections
        give = connection._on_idle

        def give_and_lose(given: HttpConnection) -> None:
            give(given)
            given._transport.abort()

        connection._on_idle = give_and_lose
        go.set()
        assert [answer.status for answer in await asyncio.gather(*calls)] == [200, 200]
        assert [number for number, _ in server.requests] == [1, 2]


async def test_a_call_that_gets_no_connection_in_time_is_unavailable() -> None:
    limits = HttpUpstreamLimits(connections=1, queue_timeout=0.05, waiting=1)
    async with RawServer(silent_after(STREAM)) as server, an_upstream(server.url, limits) as upstream:
        busy = await upstream.send(a_request())
        waiting = asyncio.create_task(upstream.send(a_request()))
        await until(lambda: len(upstream._pool._waiting) == 1)
        assert await refused(upstream.send(a_request())) is ErrorCode.UPSTREAM_UNAVAILABLE
        assert await refused(waiting) is ErrorCode.UPSTREAM_UNAVAILABLE
        await busy.aclose()
        assert len(server.requests) == 1


async def test_the_slot_of_a_lost_connection_goes_to_the_next_in_line() -> None:
    limits = HttpUpstreamLimits(connections=1)
    async with RawServer(breaking_off(STREAM)) as server, an_upstream(server.url, limits) as upstream:
        answers = await asyncio.gather(*(upstream.send(a_request()) for _ in range(3)))
        assert [answer.status for answer in answers] == [200] * 3
        assert server.connections == 3


async def test_closing_ends_running_and_waiting_calls() -> None:
    limits = HttpUpstreamLimits(connections=1)
    async with RawServer(silent_after(b"")) as server, an_upstream(server.url, limits) as upstream:
        running = asyncio.create_task(upstream.send(a_request()))
        await until(lambda: len(server.requests) == 1)
        waiting = asyncio.create_task(upstream.send(a_request()))
        await until(lambda: len(upstream._pool._waiting) == 1)
        await upstream.aclose()
        assert await refused(running) is ErrorCode.UPSTREAM_BROKEN
        assert await refused(waiting) is ErrorCode.UPSTREAM_UNAVAILABLE
        assert await refused(upstream.send(a_request())) is ErrorCode.UPSTREAM_UNAVAILABLE
        await until(lambda: server.closed == 1)


async def test_a_private_authority_is_trusted_and_an_unknown_one_is_not(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with RawServer(answering(OK), tls=authority.server_context("127.0.0.1")) as server:
        url = f"https://127.0.0.1:{server.port}/mcp"
        async with an_upstream(url, ca_file=authority.ca_file) as upstream:
            for _ in range(2):
                assert (await upstream.send(a_request())).status == 200
            assert server.connections == 1
        async with an_upstream(url) as upstream:
            assert await refused(upstream.send(a_request())) is ErrorCode.UPSTREAM_UNAVAILABLE
        assert len(server.requests) == 2


async def test_a_certificate_for_another_name_is_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with RawServer(answering(OK), tls=authority.server_context("other.example")) as server:
        async with an_upstream(f"https://127.0.0.1:{server.port}/", ca_file=authority.ca_file) as upstream:
            assert await refused(upstream.send(a_request())) is ErrorCode.UPSTREAM_UNAVAILABLE
        assert server.requests == []


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/",
        "http://",
        "http:///mcp",
        "http://user:pass@host/",
        "http://host/#x",
        "http://host:99999/",
        "http://ho st/",
        "http://host/\r\nx: y",
        "//host/",
        "http://höst/",
    ],
)
def test_a_wrong_url_is_a_value_error(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        HttpUpstream(url)


def test_a_ca_file_without_tls_is_a_value_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="https"):
        HttpUpstream("http://host/", ca_file=tmp_path / "ca.pem")


@pytest.mark.parametrize(
    "header", [(b"x", b"a\r\nb: c"), (b"x\r\ny", b"a"), (b"", b"a"), (b"Host", b"evil"), (b"content-length", b"1")]
)
def test_a_wrong_fixed_header_is_a_value_error(header: tuple[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match=r"header|set by Twogate"):
        HttpUpstream("http://host/", extra_headers=(header,))


@pytest.mark.parametrize("value", [b"a\r\nx-admin: 1", b"a\nx-admin: 1", b"a\rb"])
async def test_a_header_value_with_a_line_break_is_never_sent(value: bytes) -> None:
    async with RawServer(answering(OK)) as server, an_upstream(server.url) as upstream:
        request = UpstreamRequest(OWNER, "POST", ((b"mcp-name", value),), b"{}", None, True, 1.0)
        assert await refused(upstream.send(request)) is ErrorCode.INTERNAL
        assert server.connections == 0


async def test_uvicorn_answers_over_one_connection() -> None:
    clients: list[Any] = []

    async def app(
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        clients.append(scope["client"])
        body = b""
        more = True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        length = [] if b"stream" in body else [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": length})
        await send({"type": "http.response.body", "body": body, "more_body": not length})
        if not length:
            await send({"type": "http.response.body", "body": b"!"})

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, ws="none"))
        task = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            await until(lambda: server.started)
            async with an_upstream(f"http://127.0.0.1:{listening.getsockname()[1]}/") as upstream:
                for body in (b"{}", b"x" * 300_000, b"stream" * 1000, b"{}"):
                    received = await read(await upstream.send(a_request(body)))
                    assert received.removesuffix(b"!") == body
            assert len(set(clients)) == 1
            assert len(clients) == 4
        finally:
            server.should_exit = True
            await task


SCENARIOS: list[Callable[[], Awaitable[None]]] = [
    test_it_is_an_upstream_and_sends_exactly_one_well_formed_request,
    test_events_are_told_as_they_come,
    test_a_body_that_lasts_until_the_connection_closes_is_read_whole,
    test_a_slow_reader_holds_the_server_back,
    test_a_connection_that_died_while_idle_is_replaced_without_an_error,
    test_a_close_that_the_loop_has_not_seen_yet_is_noticed_before_anything_is_written,
    test_a_connection_cut_after_the_request_was_written_is_broken_and_never_tried_again,
    test_a_body_that_is_cut_short_is_broken_after_what_arrived,
    test_a_body_that_stops_times_out_after_what_arrived,
    test_a_cancelled_wait_closes_the_connection,
    test_a_thousand_calls_share_ten_connections,
    test_calls_cancelled_while_waiting_lose_no_connection,
    test_closing_ends_running_and_waiting_calls,
    test_nobody_listening_is_unavailable,
]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_same_holds_on_uvloop(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await scenario()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def test_tls_holds_on_uvloop(tmp_path: Path) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test_a_private_authority_is_trusted_and_an_unknown_one_is_not(tmp_path))
