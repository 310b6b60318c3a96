"""A hundred thousand calls over the HTTP client, good and bad ones, after which nothing may be left of them."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from rawlab import http_answer, until
from twogate.adapters.upstream.http import HttpUpstream, HttpUpstreamLimits
from twogate.core.errors import ErrorCode, GateError
from twogate.core.principal import PrincipalKey
from twogate.flows.gateway.upstream import UpstreamRequest

CALLS = 100_000
WORKERS = 20
OWNER = PrincipalKey("acme", "https://issuer.example", "reporter", None)
OK = http_answer(b'{"jsonrpc":"2.0","id":1,"result":{"content":[]}}', b"mcp-session-id: abc")
EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = b"9\r\ndata: x\n\n\r\n"
BROKEN = OK[:-10]
INVALID = b"HTTP/1.1 307 Elsewhere\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n"


class Server(asyncio.Protocol):
    """Does what the request's first header asks for; costs as little as Python allows."""

    open = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        Server.open += 1
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        Server.open -= 1

    def data_received(self, data: bytes) -> None:
        if b"do: break" in data:
            self._transport.write(BROKEN)
            self._transport.close()
        elif b"do: refuse" in data:
            self._transport.write(INVALID)
        elif b"do: stream" in data:
            self._transport.write(EVENTS + EVENT)
        elif b"do: events" in data:
            self._transport.write(EVENTS + EVENT * 3 + b"0\r\n\r\n")
        else:
            self._transport.write(OK)


@asynccontextmanager
async def serving() -> AsyncIterator[str]:
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp"
    finally:
        server.close()
        await server.wait_closed()


def a_request(what: bytes) -> UpstreamRequest:
    stream = what == b"stream"
    return UpstreamRequest(OWNER, "POST", ((b"do", what),), b"{}", None, False, 10.0, stream=stream)


PLAIN = {what: a_request(what) for what in (b"answer", b"events", b"stream", b"break", b"refuse")}


async def exhaust(upstream: HttpUpstream, what: bytes) -> None:
    async for _ in (await upstream.send(PLAIN[what])).chunks():
        pass


async def call(upstream: HttpUpstream, number: int) -> None:
    """Mostly an ordinary call; now and then a stream, one that is given up, a broken or an invalid answer."""
    if number % 1000 == 1:
        what, fails = (b"break", ErrorCode.UPSTREAM_BROKEN) if number % 2000 == 1 else (b"refuse", None)
        with pytest.raises(GateError) as caught:
            await exhaust(upstream, what)
        assert caught.value.code is (fails or ErrorCode.UPSTREAM_INVALID)
        return
    what = b"stream" if number % 500 == 2 else b"events" if number % 50 == 3 else b"answer"
    answer = await upstream.send(PLAIN[what])
    assert answer.status == 200
    async for _ in answer.chunks():
        if what == b"stream" or number % 250 == 3:
            break
    await answer.aclose()


async def calls(upstream: HttpUpstream, numbers: range) -> None:
    async def work(mine: range) -> None:
        for number in mine:
            await call(upstream, number)

    async with asyncio.TaskGroup() as workers:
        for first in range(WORKERS):
            workers.create_task(work(numbers[first::WORKERS]))


def resident() -> int:
    """KiB of memory that this process holds."""
    gc.collect()
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0])


@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.no_cover  # what it runs a million times others run once
async def test_a_hundred_thousand_calls_leave_nothing_behind() -> None:
    async with serving() as url:
        upstream = HttpUpstream(url, limits=HttpUpstreamLimits(connections=WORKERS, sweep=0.2))
        await calls(upstream, range(CALLS // 10))
        memory, objects, tasks = resident(), len(gc.get_objects()), len(asyncio.all_tasks())
        await calls(upstream, range(CALLS // 10, CALLS))
        grown, more = resident() - memory, len(gc.get_objects()) - objects
        assert len(asyncio.all_tasks()) == tasks
        assert len(upstream._pool._connections) <= WORKERS
        assert not upstream._pool._streams
        assert not upstream._pool._waiting
        await upstream.aclose()
        assert upstream._pool._empty
        await until(lambda: Server.open == 0)
    # A leak of a single small object for each call would show as 90,000 objects, or as megabytes.
    assert more < 2000
    assert grown < 8 * 1024
