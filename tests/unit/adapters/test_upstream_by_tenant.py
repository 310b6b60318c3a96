"""Connections of tenants: what one does with its own takes nothing of another's."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from rawlab import Peer, RawServer, answering, http_answer
from twogate.adapters.upstream.by_tenant import TenantConnections
from twogate.adapters.upstream.http import HttpUpstream, HttpUpstreamLimits
from twogate.core.errors import ErrorCode, GateError
from twogate.core.principal import PrincipalKey
from twogate.flows.gateway.upstream import Upstream, UpstreamAnswer, UpstreamRequest

OK = http_answer(b'{"jsonrpc":"2.0","id":1,"result":{}}')
ONE = HttpUpstreamLimits(connections=1, streams=1, sweep=0.02, idle=60.0)


def a_request(tenant: str, body: bytes = b"{}") -> UpstreamRequest:
    owner = PrincipalKey(tenant, "https://issuer.example", "reporter", None)
    headers = ((b"content-type", b"application/json"),)
    return UpstreamRequest(owner, "POST", headers, body, None, True, 10.0)


async def read(answer: UpstreamAnswer) -> bytes:
    try:
        return b"".join([chunk async for chunk in answer.chunks()])
    finally:
        await answer.aclose()


async def test_a_tenant_whose_connections_are_all_busy_holds_no_other_up() -> None:
    async def only_for_others(peer: Peer) -> None:
        while b"slow" not in await peer.request():
            await peer.send(OK)
        await asyncio.Event().wait()

    async with RawServer(only_for_others) as server:
        upstream: Upstream = TenantConnections(HttpUpstream(server.url, limits=ONE))
        busy = asyncio.create_task(upstream.send(a_request("acme", b'"slow"')))
        async with asyncio.timeout(20):
            while len(server.requests) < 1:
                await asyncio.sleep(0)
            for _ in range(3):
                assert b"result" in await read(await upstream.send(a_request("globex")))
        assert not busy.done()
        # The same connection for all of globex's calls, and not acme's.
        assert [number for number, _ in server.requests] == [1, 2, 2, 2]
        await upstream.aclose()
        with pytest.raises(GateError) as broken:
            await busy
        assert broken.value.code is ErrorCode.UPSTREAM_BROKEN


async def test_streams_of_one_tenant_leave_those_of_another() -> None:
    stream = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

    async with RawServer(answering(stream)) as server:
        upstream = TenantConnections(HttpUpstream(server.url, limits=ONE))
        listening = msgspec.structs.replace(a_request("acme"), stream=True)
        first = await upstream.send(listening)
        with pytest.raises(GateError, match="1 streams of this server are open"):
            await upstream.send(listening)
        second = await upstream.send(msgspec.structs.replace(a_request("globex"), stream=True))
        for answer in (first, second):
            await answer.aclose()
        await upstream.aclose()


async def test_after_the_end_nobody_gets_connections() -> None:
    async with RawServer(answering(OK)) as server:
        upstream = TenantConnections(HttpUpstream(server.url))
        await read(await upstream.send(a_request("acme")))
        await upstream.aclose()
        for tenant in ("acme", "globex"):
            with pytest.raises(GateError) as refused:
                await upstream.send(a_request(tenant))
            assert refused.value.code is ErrorCode.UPSTREAM_UNAVAILABLE
        assert server.connections == 1
