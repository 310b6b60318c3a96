"""Control-plane downloads: what a fetched answer says, and what configured URLs may point at."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rawlab import Authority, Peer, RawServer, answering, breaking_off, http_answer, until
from twogate.adapters.fetch import GuardedFetch, resolve_with_system
from twogate.flows.fetch import Fetch, Fetched, FetchError, Posted, Trust

NOW = 1_700_000_000
BODY = b'{"keys":[]}'


class FixedClock:
    def now(self) -> int:
        return NOW

    def now_us(self) -> int:
        return NOW * 1_000_000

    def monotonic(self) -> float:
        return 0.0


async def get(url: str, fetch: Fetch | None = None, *, max_bytes: int = 1000, ca_file: Path | None = None) -> Fetched:
    fetch = fetch or GuardedFetch(FixedClock())
    return await fetch.get(url, trust=Trust.CONFIGURED, max_bytes=max_bytes, ca_file=ca_file)


async def failure(url: str, fetch: Fetch | None = None, *, max_bytes: int = 1000, ca_file: Path | None = None) -> str:
    with pytest.raises(FetchError) as caught:
        await get(url, fetch, max_bytes=max_bytes, ca_file=ca_file)
    return str(caught.value)


async def test_a_document_is_fetched_with_one_plain_request() -> None:
    async with RawServer(breaking_off(http_answer(BODY, content_type=b"Application/JWK-Set+JSON; a=b"))) as server:
        fetched = await get(f"http://127.0.0.1:{server.port}/keys?a=b")
        assert fetched == Fetched(body=BODY, content_type="application/jwk-set+json", cache_max_age=None)
        assert server.requests == [
            (
                1,
                b"GET /keys?a=b HTTP/1.1\r\nhost: 127.0.0.1:%d\r\naccept: application/json\r\n"
                b"accept-encoding: identity\r\nuser-agent: twogate\r\nconnection: close\r\n\r\n" % server.port,
            )
        ]


@pytest.mark.parametrize(
    ("headers", "age"),
    [
        ([], None),
        ([b"cache-control: max-age=300"], 300),
        ([b"Cache-Control: public, MAX-AGE=300, immutable"], 300),
        ([b'cache-control: max-age="60"'], 60),
        ([b"cache-control: max-age=300", b"age: 100"], 200),
        ([b"cache-control: max-age=300", b"age: 400"], 0),
        ([b"cache-control: no-store, max-age=300"], 0),
        ([b"cache-control: max-age=300", b"cache-control: no-cache"], 0),
        ([b'cache-control: no-cache="set-cookie", max-age=300'], 0),
        ([b"cache-control: max-age=300, max-age=600"], 0),
        ([b"cache-control: max-age=-1"], 0),
        ([b"cache-control: max-age=9999999999999999999999"], 0),
        ([b"cache-control: public"], None),
        ([b"date: Tue, 14 Nov 2023 22:13:20 GMT", b"expires: Tue, 14 Nov 2023 22:14:20 GMT"], 60),
        ([b"expires: Tue, 14 Nov 2023 22:14:00 GMT"], 40),
        ([b"expires: Tue, 14 Nov 2023 22:00:00 GMT"], 0),
        ([b"expires: 0"], 0),
        ([b"cache-control: max-age=5", b"expires: Tue, 14 Nov 2023 22:14:20 GMT"], 5),
    ],
)
async def test_the_freshness_of_an_answer_is_told(headers: list[bytes], age: int | None) -> None:
    async with RawServer(breaking_off(http_answer(BODY, *headers))) as server:
        assert (await get(server.url)).cache_max_age == age


async def test_chunked_answers_and_answers_until_close_are_read() -> None:
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    async with RawServer(breaking_off(chunked)) as server:
        assert (await get(server.url)).body == b"{}"

    async def closing(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\n{}")
        peer.writer.close()
        await peer.gone()

    async with RawServer(closing) as server:
        assert (await get(server.url)).body == b"{}"


@pytest.mark.parametrize("status", [b"201 Created", b"204 None", b"206 Partial", b"304 Same", b"404 No", b"500 Oops"])
async def test_only_200_counts(status: bytes) -> None:
    async with RawServer(breaking_off(http_answer(b"", status=status))) as server:
        assert f"status {status[:3].decode()}" in await failure(server.url)


async def test_an_encoded_answer_is_refused() -> None:
    async with RawServer(breaking_off(http_answer(b"x", b"content-encoding: gzip"))) as server:
        assert "encoded" in await failure(server.url)


async def test_a_body_cut_short_is_refused() -> None:
    async with RawServer(breaking_off(http_answer(BODY)[:-1])) as server:
        assert "127.0.0.1" in await failure(server.url)


async def test_as_many_bytes_as_allowed_are_read_and_not_one_more() -> None:
    async with RawServer(breaking_off(http_answer(b"x" * 100))) as server:
        assert len((await get(server.url, max_bytes=100)).body) == 100
        assert "larger than 99" in await failure(server.url, max_bytes=99)


async def test_the_connection_is_closed_whatever_happens() -> None:
    async with RawServer(answering(http_answer(BODY))) as server:
        await get(server.url)
        await failure(server.url, max_bytes=1)
        await until(lambda: server.open == 0)
        assert server.connections == 2


async def test_nobody_listening_is_a_fetch_error() -> None:
    async with RawServer(answering()) as server:
        url = server.url
    assert "ConnectError" in await failure(url)


async def test_a_name_that_does_not_resolve_is_a_fetch_error() -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        raise OSError("no such name")

    assert "no such name" in await failure("https://idp.example/", GuardedFetch(FixedClock(), resolve=resolve))


async def test_the_systems_resolver_finds_this_machine() -> None:
    assert set(await resolve_with_system("localhost", 80)) <= {"127.0.0.1", "::1"}


async def test_a_configured_host_may_be_this_machine_and_is_still_verified_by_name(tmp_path: Path) -> None:
    authority = Authority(tmp_path)

    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    fetch = GuardedFetch(FixedClock(), resolve=resolve)
    context = authority.server_context("idp.internal")
    async with RawServer(breaking_off(http_answer(BODY)), tls=context) as server:
        port = server.port
        assert (await get(f"https://idp.internal:{port}/", fetch, ca_file=authority.ca_file)).body == BODY
        assert b"host: idp.internal:%d\r\n" % port in server.requests[0][1]
        assert "certificate" in (await failure(f"https://idp.internal:{port}/", fetch)).lower()
        assert (
            "certificate"
            in (await failure(f"https://other.internal:{port}/", fetch, ca_file=authority.ca_file)).lower()
        )
        assert len(server.requests) == 1


async def test_the_second_address_is_tried_when_the_first_refuses(tmp_path: Path) -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.2", "127.0.0.1"]

    async with RawServer(breaking_off(http_answer(BODY))) as server:
        fetch = GuardedFetch(FixedClock(), resolve=resolve)
        assert (await get(f"http://idp.internal:{server.port}/", fetch)).body == BODY


async def test_plain_http_is_only_for_this_machine() -> None:
    for address in ("10.0.0.1", "93.184.215.14"):

        async def resolve(host: str, port: int, found: str = address) -> Sequence[str]:
            return ["127.0.0.1", found]

        reason = await failure("http://idp.internal/", GuardedFetch(FixedClock(), resolve=resolve))
        assert f"{address} may not be fetched from" in reason


async def test_a_ca_file_that_cannot_be_read_is_a_fetch_error(tmp_path: Path) -> None:
    assert "cannot be used" in await failure("https://127.0.0.1:1/", ca_file=tmp_path / "missing.pem")


async def test_one_tls_context_is_made_per_ca_file(tmp_path: Path) -> None:
    fetch = GuardedFetch(FixedClock())
    authority = Authority(tmp_path)
    context = authority.server_context("127.0.0.1")
    async with RawServer(breaking_off(http_answer(BODY)), tls=context) as server:
        url = f"https://127.0.0.1:{server.port}/"
        await asyncio.gather(*(get(url, fetch, ca_file=authority.ca_file) for _ in range(3)))
        made = fetch._contexts[authority.ca_file]
        await get(url, fetch, ca_file=authority.ca_file)
        assert fetch._contexts == {authority.ca_file: made}


async def test_cancelling_closes_the_connection() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    async with RawServer(script) as server:
        task = asyncio.create_task(get(server.url))
        await until(lambda: len(server.requests) == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: server.closed == 1)


# Forms


async def post(url: str, **options: Any) -> Posted:
    return await GuardedFetch(FixedClock()).post_form(
        url, {"code": "a b&c=d", "é": "%"}, trust=Trust.CONFIGURED, max_bytes=1000, **options
    )


async def test_a_form_is_posted_once_as_it_is() -> None:
    async with RawServer(breaking_off(http_answer(b"{}"))) as server:
        posted = await post(f"http://127.0.0.1:{server.port}/token?a=b", authorization="Basic eDp5")
        assert posted == Posted(status=200, body=b"{}")
        ((_, request),) = server.requests
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /token?a=b HTTP/1.1\r\n")
    for field in (
        b"content-type: application/x-www-form-urlencoded",
        b"authorization: Basic eDp5",
        b"content-length: %d" % len(body),
        b"accept-encoding: identity",
    ):
        assert field in head
    assert body == b"code=a+b%26c%3Dd&%C3%A9=%25"


@pytest.mark.parametrize("status", [b"400 Bad Request", b"401 Unauthorized", b"429 Too Many"])
async def test_a_refusal_of_a_form_is_an_answer(status: bytes) -> None:
    async with RawServer(breaking_off(http_answer(b'{"error":"x"}', status=status))) as server:
        posted = await post(f"http://127.0.0.1:{server.port}/")
        assert (posted.status, posted.body) == (int(status[:3]), b'{"error":"x"}')
        assert "error" not in repr(posted)


@pytest.mark.parametrize("status", [b"201 Created", b"204 No", b"302 Found", b"307 Temporary", b"500 Oops", b"503 No"])
async def test_any_other_answer_to_a_form_is_none(status: bytes) -> None:
    async with RawServer(breaking_off(http_answer(b"", b"location: http://127.0.0.1/x", status=status))) as server:
        with pytest.raises(FetchError, match=f"status {int(status[:3])}"):
            await post(f"http://127.0.0.1:{server.port}/")
        assert len(server.requests) == 1


async def test_a_large_or_encoded_answer_to_a_form_is_none() -> None:
    for answer, reason in (
        (http_answer(b"x" * 1001, status=b"400 Bad Request"), "larger than"),
        (http_answer(b"x", b"content-encoding: gzip"), "encoded"),
    ):
        async with RawServer(breaking_off(answer)) as server:
            with pytest.raises(FetchError, match=reason):
                await post(f"http://127.0.0.1:{server.port}/")


@pytest.mark.parametrize("url", ["https://127.0.0.1/token", "https://10.0.0.1/token", "http://idp.example/token"])
async def test_a_form_for_a_url_of_a_request_goes_to_public_addresses_only(url: str) -> None:
    with pytest.raises(FetchError):
        await GuardedFetch(FixedClock()).post_form(url, {}, trust=Trust.REQUESTED, max_bytes=10)
