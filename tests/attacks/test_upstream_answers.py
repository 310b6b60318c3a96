"""A hostile MCP server answers: nothing it sends may be mistaken for an answer, exhaust us, or reach another caller."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rawlab import Authority, Peer, RawServer, Script, answering, http_answer, silent_after, until
from twogate.adapters.upstream.answer_head import MAX_HEAD, MAX_HEADERS, MAX_SESSION_ID
from twogate.adapters.upstream.http import HttpUpstream, HttpUpstreamLimits
from twogate.core.errors import ErrorCode, GateError
from twogate.core.principal import PrincipalKey
from twogate.flows.gateway.upstream import UpstreamRequest

OWNER = PrincipalKey("acme", "https://issuer.example", "reporter", None)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
GOOD = http_answer(b'{"good":true}')


def a_request(timeout: float = 10.0) -> UpstreamRequest:
    return UpstreamRequest(OWNER, "POST", ((b"content-type", b"application/json"),), b"{}", None, True, timeout)


@contextlib.asynccontextmanager
async def an_upstream(url: str, ca_file: Path | None = None) -> AsyncIterator[HttpUpstream]:
    upstream = HttpUpstream(url, ca_file=ca_file, limits=HttpUpstreamLimits(sweep=0.02, idle=60.0))
    try:
        yield upstream
    finally:
        await upstream.aclose()


async def exchange(upstream: HttpUpstream, patience: float = 10.0) -> bytes:
    answer = await upstream.send(a_request(patience))
    try:
        return b"".join([chunk async for chunk in answer.chunks()])
    finally:
        await answer.aclose()


async def refusal(script: Script, patience: float = 10.0) -> ErrorCode:
    """What comes of one call to a server; its connection must be closed, and the call never repeated."""
    async with RawServer(script) as server, an_upstream(server.url) as upstream:
        with pytest.raises(GateError) as caught:
            await exchange(upstream, patience)
        await until(lambda: server.open == 0)
        assert server.connections == 1
        assert len(server.requests) == 1
        return caught.value.code


HOSTILE = {
    "garbage": b"\x00\x01\x02\x03" * 64,
    "not HTTP": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "a request": b"POST / HTTP/1.1\r\nhost: x\r\n\r\n",
    "no status": b"HTTP/1.1\r\n\r\n",
    "a four-digit status": b"HTTP/1.1 2000 OK\r\n\r\n",
    "status 099": b"HTTP/1.1 099 OK\r\ncontent-length: 0\r\n\r\n",
    "status 999": b"HTTP/1.1 999 OK\r\ncontent-length: 0\r\n\r\n",
    "bare line feeds": b"HTTP/1.1 200 OK\ncontent-length: 2\n\n{}",
    "obsolete folding": HEAD + b"x: a\r\n b: c\r\ncontent-length: 2\r\n\r\n{}",
    "a space before the colon": HEAD + b"content-length : 2\r\n\r\n{}",
    "NUL in a value": HEAD + b"x: a\x00b\r\ncontent-length: 2\r\n\r\n{}",
    "two lengths": HEAD + b"content-length: 2\r\ncontent-length: 2\r\n\r\n{}",
    "two different lengths": HEAD + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{} ",
    "a list of lengths": HEAD + b"content-length: 2, 2\r\n\r\n{}",
    "a negative length": HEAD + b"content-length: -2\r\n\r\n{}",
    "a signed length": HEAD + b"content-length: +2\r\n\r\n{}",
    "a length beyond 64 bits": HEAD + b"content-length: 99999999999999999999999\r\n\r\n{}",
    "length and chunked": HEAD + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": HEAD + b"transfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n0\r\n\r\n",
    "gzip, chunked": HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "transfer-encoding gzip": HEAD + b"transfer-encoding: gzip\r\n\r\nx",
    "chunked twice": HEAD + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a bad chunk size": CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n",
    "a negative chunk size": CHUNKED + b"-2\r\n{}\r\n0\r\n\r\n",
    "a huge chunk size": CHUNKED + b"fffffffffffffffff\r\n{}\r\n0\r\n\r\n",
    "a chunk longer than it says": CHUNKED + b"1\r\n{}\r\n0\r\n\r\n",
    "trailers": CHUNKED + b"2\r\n{}\r\n0\r\nmcp-session-id: evil\r\n\r\n",
    "gzip": http_answer(b"\x1f\x8b", b"content-encoding: gzip"),
    "two encodings": http_answer(b"{}", b"content-encoding: identity", b"content-encoding: br"),
    "101": b"HTTP/1.1 101 Switching\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    "101 without upgrade": b"HTTP/1.1 101 Switching\r\n\r\n" + GOOD,
    "a redirect": http_answer(b"", b"location: http://169.254.169.254/", status=b"302 Found"),
    "a permanent redirect": http_answer(b"", b"location: /other", status=b"308 Moved"),
    "not modified": b"HTTP/1.1 304 Not Modified\r\n\r\n",
    "two content types": http_answer(b"{}", b"content-type: text/event-stream"),
    "a content type that is none": http_answer(b"{}", content_type=b"application"),
    "two session ids": http_answer(b"{}", b"mcp-session-id: a", b"mcp-session-id: b"),
    "an empty session id": http_answer(b"{}", b"mcp-session-id:"),
    "a session id with a space": http_answer(b"{}", b"mcp-session-id: a b"),
    "a session id in Latin-1": http_answer(b"{}", b"mcp-session-id: \xe4"),
    "a session id too long": http_answer(b"{}", b"mcp-session-id: " + b"a" * (MAX_SESSION_ID + 1)),
    "one header too many": http_answer(b"{}", *[b"x-%d: y" % i for i in range(MAX_HEADERS - 1)]),
    "one huge header": http_answer(b"{}", b"x: " + b"y" * MAX_HEAD),
    "a huge reason": b"HTTP/1.1 200 " + b"O" * MAX_HEAD + b"\r\n\r\n",
    "interim answers without end": b"HTTP/1.1 100 Continue\r\n\r\n" * 4000 + GOOD,
    "interim answers with many headers": (b"HTTP/1.1 103 E\r\n" + b"x: y\r\n" * 60 + b"\r\n") * 2 + GOOD,
}


@pytest.mark.parametrize("sent", HOSTILE.values(), ids=HOSTILE)
async def test_an_answer_that_breaks_a_rule_is_invalid(sent: bytes) -> None:
    assert await refusal(silent_after(sent)) is ErrorCode.UPSTREAM_INVALID


@pytest.mark.parametrize("sent", [HOSTILE["a bad chunk size"], HOSTILE["gzip"], HOSTILE["trailers"]])
async def test_byte_by_byte_it_is_invalid_too(sent: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        for i in range(len(sent)):
            await peer.send(sent[i : i + 1])
        await peer.gone()

    assert await refusal(script) is ErrorCode.UPSTREAM_INVALID


@pytest.mark.parametrize(
    ("start", "endless"),
    [
        (b"HTTP/1.1 200 OK\r\nx: ", b"y" * 4096),
        (b"HTTP/1.1 200 ", b"O" * 4096),
        (b"", b"\r\n" * 2048),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
        (CHUNKED + b"1;", b"extension" * 400),
        (CHUNKED + b"0\r\nx: ", b"y" * 4096),
    ],
    ids=["header", "reason", "blank lines", "interim answers", "chunk extension", "trailer"],
)
async def test_bytes_without_end_that_are_no_body_are_cut_off(start: bytes, endless: bytes) -> None:
    written = 0

    async def script(peer: Peer) -> None:
        nonlocal written
        await peer.request()
        await peer.send(start)
        while True:
            await peer.send(endless)
            written += len(endless)

    assert await refusal(script) is ErrorCode.UPSTREAM_INVALID
    assert written < 32 * 1024 * 1024


async def test_dripping_framing_does_not_extend_the_patience() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + b"2;")
        while True:
            await asyncio.sleep(0.02)
            await peer.send(b"x")

    assert await refusal(script, patience=0.2) is ErrorCode.UPSTREAM_TIMEOUT


async def test_dripping_a_head_does_not_extend_the_patience() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD + b"x: ")
        while True:
            await asyncio.sleep(0.02)
            await peer.send(b"x")

    assert await refusal(script, patience=0.2) is ErrorCode.UPSTREAM_TIMEOUT


@pytest.mark.parametrize(
    "rest", [GOOD, b"HTTP/1.1 200 OK\r\nx: ", b"H", b"garbage"], ids=["answer", "head", "byte", "garbage"]
)
async def test_a_second_answer_behind_the_first_reaches_nobody(rest: bytes) -> None:
    first = http_answer(b'{"first":true}')

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(first + rest if peer.number == 1 else http_answer(b'{"second":true}'))
        await peer.gone()

    async with RawServer(script) as server, an_upstream(server.url) as upstream:
        assert await exchange(upstream) == b'{"first":true}'
        assert await exchange(upstream) == b'{"second":true}'
        assert server.connections == 2


async def test_a_body_behind_a_204_reaches_nobody() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        body = GOOD
        await peer.send(b"HTTP/1.1 204 None\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        await peer.gone()

    async with RawServer(script) as server, an_upstream(server.url) as upstream:
        assert await exchange(upstream) == b""
        await until(lambda: server.closed == 1)


async def test_the_rest_of_a_given_up_answer_never_reaches_the_next_caller() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        if peer.number == 1:
            await peer.send(CHUNKED + b"6\r\nsecret\r\n")
            with contextlib.suppress(ConnectionError):
                while True:
                    await peer.send(b"6\r\nsecret\r\n")
        await peer.send(GOOD)
        await peer.gone()

    async with RawServer(script) as server, an_upstream(server.url) as upstream:
        answer = await upstream.send(a_request())
        assert (await anext(answer.chunks())).startswith(b"secret")
        await answer.aclose()
        assert await exchange(upstream) == b'{"good":true}'
        assert server.connections == 2


async def test_an_answer_to_a_request_that_was_not_read_ends_the_connection() -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(GOOD)
        peer.reader._transport.pause_reading()  # type: ignore[attr-defined] # leaves the body in the kernel
        await asyncio.Event().wait()

    async with RawServer(script) as server, an_upstream(server.url) as upstream:
        big = UpstreamRequest(OWNER, "POST", (), b"x" * 64 * 1024 * 1024, None, True, 10.0)
        answer = await upstream.send(big)
        assert answer.status == 200
        await answer.aclose()
        await until(lambda: not upstream._pool._connections)
        assert server.connections == 1


async def test_with_tls_a_body_that_lasts_until_the_close_is_invalid_because_a_cut_would_not_show(
    tmp_path: Path,
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD + b'\r\n{"cut":')
        peer.abort()  # Closes TCP without TLS's goodbye, as somebody between the two could.

    authority = Authority(tmp_path)
    async with (
        RawServer(script, tls=authority.server_context("127.0.0.1")) as server,
        an_upstream(f"https://127.0.0.1:{server.port}/", authority.ca_file) as upstream,
    ):
        with pytest.raises(GateError) as caught:
            await exchange(upstream)
        assert caught.value.code is ErrorCode.UPSTREAM_INVALID


async def test_headers_nobody_asked_for_change_nothing() -> None:
    made = http_answer(b"{}", b"set-cookie: a=b", b"location: http://evil/", b"upgrade: h2c", b"alt-svc: h3=evil:1")
    async with RawServer(answering(made)) as server, an_upstream(server.url) as upstream:
        for _ in range(2):
            assert await exchange(upstream) == b"{}"
        assert len({received for _, received in server.requests}) == 1
        assert server.connections == 1
