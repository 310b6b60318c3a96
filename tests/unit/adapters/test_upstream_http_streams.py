"""Long-lived streams of the HTTP client: connections of their own, silence without end, and answers of any size."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path

import pytest
import uvloop

from rawlab import Peer, RawServer, Script, answering, breaking_off, http_answer, silent_after, until
from twogate.adapters.upstream.answer_head import READ_AHEAD
from twogate.adapters.upstream.http import HttpUpstream, HttpUpstreamLimits
from twogate.core.errors import ErrorCode, GateError
from twogate.core.principal import PrincipalKey
from twogate.flows.gateway.upstream import UpstreamAnswer, UpstreamRequest

OWNER = PrincipalKey("acme", "https://issuer.example", "reporter", None)
OK = http_answer(b'{"jsonrpc":"2.0","id":1,"result":{}}')
EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
FAST = HttpUpstreamLimits(sweep=0.02, idle=60.0)


def a_stream(*, method: str = "GET", timeout: float = 10.0) -> UpstreamRequest:
    body = b"{}" if method == "POST" else b""
    return UpstreamRequest(OWNER, method, ((b"accept", b"text/event-stream"),), body, None, False, timeout, stream=True)


def a_call() -> UpstreamRequest:
    return UpstreamRequest(OWNER, "POST", (), b"{}", None, False, 10.0)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@contextlib.asynccontextmanager
async def an_upstream(url: str, limits: HttpUpstreamLimits = FAST) -> AsyncIterator[HttpUpstream]:
    """An upstream that leaves no connection behind."""
    upstream = HttpUpstream(url, limits=limits)
    try:
        yield upstream
    finally:
        await upstream.aclose()
        assert upstream._pool._empty


async def read(answer: UpstreamAnswer) -> bytes:
    try:
        return b"".join([part async for part in answer.chunks()])
    finally:
        await answer.aclose()


async def refused(awaitable: Awaitable[object]) -> ErrorCode:
    with pytest.raises(GateError) as caught:
        await awaitable
    return caught.value.code


async def test_streams_take_no_connection_of_calls() -> None:
    async def script(peer: Peer) -> None:
        request = await peer.request()
        if request.startswith(b"GET"):
            await peer.send(EVENTS)
            await peer.gone()
        while True:
            await peer.send(OK)
            await peer.request()

    limits = HttpUpstreamLimits(sweep=0.02, idle=60.0, connections=1, queue_timeout=0.5)
    async with RawServer(script) as server, an_upstream(server.url, limits) as upstream:
        streams = [await upstream.send(a_stream()) for _ in range(3)]
        assert [(stream.status, stream.content_type) for stream in streams] == [(200, "text/event-stream")] * 3
        for _ in range(3):
            await read(await upstream.send(a_call()))
        assert server.connections == 4
        for stream in streams:
            await stream.aclose()
        await until(lambda: server.open == 1)


async def test_a_get_sends_neither_content_nor_its_length() -> None:
    async with RawServer(silent_after(EVENTS)) as server, an_upstream(server.url) as upstream:
        await upstream.send(a_stream())
        ((_, request),) = server.requests
        assert request == (
            b"GET /mcp HTTP/1.1\r\nhost: 127.0.0.1:%d\r\naccept-encoding: identity\r\naccept: text/event-stream\r\n\r\n"
            % server.port
        )


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_silence_is_no_failure_once_the_head_is_there(method: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(EVENTS)
        for n in range(2):
            await asyncio.sleep(1.0)
            await peer.send(chunk(b"data: %d\n\n" % n))
        await peer.gone()

    async with RawServer(script) as server, an_upstream(server.url) as upstream:
        answer = await upstream.send(a_stream(method=method, timeout=0.6))
        chunks = answer.chunks()
        assert [await anext(chunks), await anext(chunks)] == [b"data: 0\n\n", b"data: 1\n\n"]
        await answer.aclose()


async def test_a_stream_without_a_head_times_out() -> None:
    async with RawServer(silent_after(b"HTTP/1.1 200 OK\r\n")) as server, an_upstream(server.url) as upstream:
        assert await refused(upstream.send(a_stream(timeout=0.1))) is ErrorCode.UPSTREAM_TIMEOUT
        await until(lambda: server.closed == 1)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(b"{"),
        b"HTTP/1.1 500 Oops\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
    ],
)
async def test_an_answer_that_is_no_stream_must_come_in_time(head: bytes) -> None:
    async with RawServer(silent_after(head)) as server, an_upstream(server.url) as upstream:
        answer = await upstream.send(a_stream(method="POST", timeout=0.5))
        assert await refused(read(answer)) is ErrorCode.UPSTREAM_TIMEOUT
        await until(lambda: server.closed == 1)


async def test_a_refused_stream_is_told_as_it_is_and_its_connection_not_used_again() -> None:
    script = answering(http_answer(b"", status=b"405 Method Not Allowed"))
    async with RawServer(script) as server, an_upstream(server.url) as upstream:
        for _ in range(2):
            answer = await upstream.send(a_stream())
            assert (answer.status, await read(answer)) == (405, b"")
        await read(await upstream.send(a_call()))
        assert server.connections == 3
        await until(lambda: server.open == 1)


async def test_a_stream_that_ends_is_not_used_again_either() -> None:
    async with RawServer(answering(EVENTS + b"0\r\n\r\n")) as server, an_upstream(server.url) as upstream:
        for _ in range(2):
            assert await read(await upstream.send(a_stream())) == b""
        assert server.connections == 2
        await until(lambda: server.open == 0)


async def test_a_stream_that_breaks_off_says_so_after_what_arrived() -> None:
    async with RawServer(breaking_off(EVENTS + chunk(b"data: 1\n\n"))) as server, an_upstream(server.url) as upstream:
        answer = await upstream.send(a_stream())
        chunks = answer.chunks()
        assert await anext(chunks) == b"data: 1\n\n"
        assert await refused(anext(chunks)) is ErrorCode.UPSTREAM_BROKEN


async def test_closing_a_stream_closes_its_connection_at_once() -> None:
    async with RawServer(silent_after(EVENTS)) as server, an_upstream(server.url) as upstream:
        answer = await upstream.send(a_stream())
        await answer.aclose()
        await until(lambda: server.closed == 1)
        await until(lambda: upstream._pool._empty)


async def test_a_cancelled_wait_closes_the_connection() -> None:
    async with RawServer(silent_after(b"")) as server, an_upstream(server.url) as upstream:
        opening = asyncio.create_task(upstream.send(a_stream()))
        await until(lambda: len(server.requests) == 1)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        await until(lambda: server.closed == 1)


async def test_only_so_many_streams_are_open_at_once() -> None:
    limits = HttpUpstreamLimits(sweep=0.02, streams=2)
    async with RawServer(silent_after(EVENTS)) as server, an_upstream(server.url, limits) as upstream:
        first, _ = [await upstream.send(a_stream()) for _ in range(2)]
        assert await refused(upstream.send(a_stream())) is ErrorCode.UPSTREAM_UNAVAILABLE
        assert len(server.requests) == 2
        await first.aclose()
        await until(lambda: len(upstream._pool._streams) == 1)
        assert (await upstream.send(a_stream())).status == 200


async def test_streams_that_are_being_opened_count_too() -> None:
    limits = HttpUpstreamLimits(sweep=0.02, streams=3)
    async with RawServer(silent_after(EVENTS)) as server, an_upstream(server.url, limits) as upstream:
        opened = await asyncio.gather(*(upstream.send(a_stream()) for _ in range(10)), return_exceptions=True)
        assert sum(isinstance(answer, GateError) for answer in opened) == 7
        assert server.connections == 3


async def test_nobody_listening_takes_no_place() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        async with an_upstream(f"http://127.0.0.1:{free.getsockname()[1]}/", HttpUpstreamLimits(streams=1)) as upstream:
            for _ in range(3):
                assert await refused(upstream.send(a_stream())) is ErrorCode.UPSTREAM_UNAVAILABLE


async def test_closing_the_upstream_ends_its_streams_and_opens_no_more() -> None:
    async with RawServer(silent_after(EVENTS)) as server, an_upstream(server.url) as upstream:
        answer = await upstream.send(a_stream())
        reading = asyncio.create_task(read(answer))
        await asyncio.sleep(0)
        await upstream.aclose()
        assert await refused(reading) is ErrorCode.UPSTREAM_BROKEN
        assert await refused(upstream.send(a_stream())) is ErrorCode.UPSTREAM_UNAVAILABLE
        await until(lambda: server.closed == 1)


async def test_the_kernel_asks_whether_a_silent_server_still_exists() -> None:
    async with RawServer(silent_after(EVENTS)) as server, an_upstream(server.url) as upstream:
        await upstream.send(a_stream())
        (connection,) = upstream._pool._streams
        kept = connection._transport.get_extra_info("socket")
        assert kept.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if sys.platform == "linux":
            options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            idle, pause, times = (kept.getsockopt(socket.IPPROTO_TCP, option) for option in options)
            assert idle + pause * times <= 75


async def test_a_stream_that_nobody_reads_holds_the_server_back_and_fails_nobody() -> None:
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        peer.writer.transport.set_write_buffer_limits(high=64 * 1024)
        await peer.send(EVENTS)
        while sent < 50 * 1024 * 1024:
            await peer.send(chunk(b"x" * 65536))
            sent += 65536

    async with RawServer(script) as server, an_upstream(server.url) as upstream:
        answer = await upstream.send(a_stream(timeout=0.5))
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.4)
        assert sent < 50 * 1024 * 1024
        assert answer._buffered <= 2 * READ_AHEAD
        await answer.aclose()


SCENARIOS = [
    test_streams_take_no_connection_of_calls,
    test_a_refused_stream_is_told_as_it_is_and_its_connection_not_used_again,
    test_closing_a_stream_closes_its_connection_at_once,
    test_the_kernel_asks_whether_a_silent_server_still_exists,
    test_closing_the_upstream_ends_its_streams_and_opens_no_more,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_the_same_holds_on_uvloop(scenario: Callable[[], Coroutine[None, None, None]]) -> None:
    uvloop.run(scenario())


def of_a_hundred_megabytes(head: bytes, piece: bytes) -> Script:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.writer.transport.set_write_buffer_limits(high=64 * 1024)
        await peer.send(head)
        for _ in range(100 * 1024 * 1024 // 65536):
            await peer.send(piece)
        await peer.send(b"" if b"length" in head else b"0\r\n\r\n")
        await peer.gone()

    return script


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("form", ["length", "chunked", "stream"])
@pytest.mark.no_cover  # what it runs a million times others run once
async def test_a_hundred_megabytes_pass_through_a_slow_reader_in_flat_memory(form: str) -> None:
    if form == "length":
        length = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (
            100 * 1024 * 1024
        )
        script = of_a_hundred_megabytes(length, b"x" * 65536)
    else:
        script = of_a_hundred_megabytes(EVENTS, chunk(b"x" * 65536))
    async with RawServer(script) as server:
        reader = await asyncio.create_subprocess_exec(
            *(sys.executable, str(Path(__file__).with_name("slow_reader.py")), server.url, form),
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await reader.communicate()
    assert reader.returncode == 0
    received, grown = map(int, out.split())
    assert received == 100 * 1024 * 1024
    assert grown < 16 * 1024, "KiB more memory than before the answer"
