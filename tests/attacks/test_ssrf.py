"""Server-side request forgery: a URL from a request must not make Twogate talk to anything internal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address
from pathlib import Path

import httpcore2
import pytest

from rawlab import Authority, Peer, RawServer, breaking_off, http_answer, until
from twogate.adapters.addresses import is_globally_reachable, is_loopback, is_ordinary_host
from twogate.adapters.fetch import GuardedFetch
from twogate.flows.fetch import Fetched, FetchError, Trust

PUBLIC = "93.184.215.14"
BODY = b'{"client_id":"https://client.example/"}'


class FixedClock:
    def now(self) -> int:
        return 1_700_000_000

    def now_us(self) -> int:
        return 1_700_000_000_000_000

    def monotonic(self) -> float:
        return 0.0


class Network(httpcore2.AsyncNetworkBackend):
    """An Internet whose public addresses are all the one server on this machine; records every connection."""

    def __init__(self, port: int = 0) -> None:
        self._real = httpcore2.AnyIOBackend()
        self._port = port
        self.connected: list[tuple[str, int]] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore2's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        self.connected.append((host, port))
        stream: httpcore2.AsyncNetworkStream = await self._real.connect_tcp("127.0.0.1", self._port)
        return stream


class Resolver:
    """Answers each question with the next list of addresses, then with the last one for ever."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers = answers
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        return self._answers[min(len(self.asked), len(self._answers)) - 1]


async def requested(
    url: str,
    network: Network,
    *answers: Sequence[str],
    max_bytes: int = 5 * 1024,
    ca_file: Path | None = None,
    seconds: float = 5.0,
) -> Fetched:
    resolver = Resolver(*(answers or ([PUBLIC],)))
    fetch = GuardedFetch(FixedClock(), resolve=resolver, network=network, seconds=seconds)
    try:
        return await fetch.get(url, trust=Trust.REQUESTED, max_bytes=max_bytes, ca_file=ca_file)
    finally:
        assert len(resolver.asked) <= 1  # Asked twice, a name could change between judging and connecting.


async def refusal(url: str, *answers: Sequence[str]) -> str:
    """The reason of a refusal that let nothing onto the network."""
    network = Network()
    with pytest.raises(FetchError) as caught:
        await requested(url, network, *answers)
    assert network.connected == []
    return str(caught.value)


INTERNAL = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:7f00:1",
    "::ffff:169.254.169.254",
    "::ffff:10.0.0.1",
    "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::10.0.0.1",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:2::1",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "2002:5db8:d70e::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "2606:4700::1%eth0",
]


@pytest.mark.parametrize("address", INTERNAL)
async def test_a_name_that_resolves_to_an_internal_address_is_refused(address: str) -> None:
    assert "may not be fetched from" in await refusal("https://client.example/", [address])


@pytest.mark.parametrize("address", [address for address in INTERNAL if "%" not in address])
async def test_an_internal_address_in_the_url_is_refused(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    assert "may not be fetched from" in await refusal(f"https://{host}/")


@pytest.mark.parametrize("bad", ["127.0.0.1", "10.0.0.1", "::1", "::ffff:169.254.169.254"])
@pytest.mark.parametrize("order", [0, 1, 2])
async def test_one_internal_address_among_public_ones_refuses_all(bad: str, order: int) -> None:
    addresses = [PUBLIC, "2606:4700::1"]
    addresses.insert(order, bad)
    assert f"{ip_address(bad)} may not be fetched from" in await refusal("https://client.example/", addresses)


@pytest.mark.parametrize("addresses", [[], ["not an address"], [""], [PUBLIC] * 17, ["0x7f.0.0.1"], ["2130706433"]])
async def test_what_a_resolver_must_not_say_is_refused(addresses: list[str]) -> None:
    assert "address" in await refusal("https://client.example/", addresses)


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0x7F.0.0.1",
        "017700000001",
        "0177.0.0.1",
        "127.1",
        "127.0.1",
        "127.0.0.01",
        "127.0.0.1.",
        "127.0.0.0x1",
        "client.example.1",
        "client.0x",
        "localhost.",
        "client.example.",
        "client..example",
        ".example",
        "-client.example",
        "client-.example",
        "client_1.example",
        "%6c%6f%63alhost",
        "client.example%00.evil",
        "[127.0.0.1]",
        "[::1%25eth0]",
        "[fe80::1%eth0]",
        "[v1.x]",
        "[2606:4700::1]x",
        "x[2606:4700::1]",
        "client.example:",
        "client.example:0443",
        "[::1",
        "::1",
        "",
        "a" * 64 + ".example",
        ".".join(["a" * 60] * 5),
        "client*.example",
        "client,example",
    ],
)
async def test_a_host_that_is_neither_a_name_nor_a_canonical_address_is_refused(host: str) -> None:
    reason = await refusal(f"https://{host}/", ["127.0.0.1"])
    assert "host is neither" in reason or "usual form" in reason or "cannot be parsed" in reason


@pytest.mark.parametrize(
    "url",
    [
        "http://client.example/",
        "http://127.0.0.1/",
        "file:///etc/passwd",
        "ftp://client.example/",
        "gopher://client.example/",
        "//client.example/",
        "client.example",
        "https:client.example",
        "https:/client.example/",
        "https:///client.example/",
        "https://user@client.example/",
        "https://user:pass@client.example/",
        "https://client.example@127.0.0.1/",
        "https://@client.example/",
        "https://client.example/#fragment",
        "https://client.example#@127.0.0.1/",
        "https://client.example\\@127.0.0.1/",
        "https:\\\\client.example/",
        "https://client.example/a\\b",
        "https://client.example/\r\nhost: evil",
        "https://client.example/\tx",
        " https://client.example/",
        "https://client.example/ x",
        "https://client.example/\x00",
        "https://clıent.example/",
        "https://１２７.0.0.1/",
        "https://client.example/ä",
        "https://client.example:22/",
        "https://client.example:80/",
        "https://client.example:0/",
        "https://client.example:65536/",
        "https://client.example:-1/",
        "https://client.example:4_43/",
        "https://client.example/" + "a" * 2048,
        "",
    ],
)
async def test_a_url_that_could_be_read_in_two_ways_or_leads_elsewhere_is_refused(url: str) -> None:
    assert await refusal(url)


@pytest.mark.parametrize(("url", "port"), [("https://client.example/m", 443), ("https://client.example:8443/m", 8443)])
async def test_a_public_document_is_fetched_from_the_judged_address_under_its_name(
    tmp_path: Path, url: str, port: int
) -> None:
    authority = Authority(tmp_path)
    names: list[str | None] = []
    context = authority.server_context("client.example")
    context.sni_callback = lambda _object, name, _context: names.append(name)
    async with RawServer(breaking_off(http_answer(BODY)), tls=context) as server:
        network = Network(server.port)
        fetched = await requested(url, network, [PUBLIC], ca_file=authority.ca_file)
        assert fetched.body == BODY
        assert network.connected == [(PUBLIC, port)]
        assert names == ["client.example"]
        host = b"client.example" if port == 443 else b"client.example:%d" % port
        assert b"\r\nhost: " + host + b"\r\n" in server.requests[0][1]


async def test_a_name_that_changes_its_answer_leads_to_the_address_that_was_judged(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with RawServer(breaking_off(http_answer(BODY)), tls=authority.server_context("client.example")) as server:
        network = Network(server.port)
        await requested("https://client.example/", network, [PUBLIC], ["127.0.0.1"], ca_file=authority.ca_file)
        assert network.connected == [(PUBLIC, 443)]


async def test_a_connection_for_a_configured_url_never_serves_a_requested_one(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context = authority.server_context("idp.example")

    async def keeping(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(http_answer(BODY))

    async with RawServer(keeping, tls=context) as server:
        url = f"https://idp.example:{server.port}/"
        fetch = GuardedFetch(FixedClock(), resolve=Resolver(["127.0.0.1"]))
        await fetch.get(url, trust=Trust.CONFIGURED, max_bytes=1000, ca_file=authority.ca_file)
        with pytest.raises(FetchError, match="may not be fetched from"):
            await fetch.get(url, trust=Trust.REQUESTED, max_bytes=1000, ca_file=authority.ca_file)
        assert len(server.requests) == 1


async def test_a_certificate_for_another_name_is_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context = authority.server_context("other.example", PUBLIC)
    async with RawServer(breaking_off(http_answer(BODY)), tls=context) as server:
        with pytest.raises(FetchError, match="certificate"):
            await requested("https://client.example/", Network(server.port), ca_file=authority.ca_file)
        assert server.requests == []


@pytest.mark.parametrize("status", [b"301 Moved", b"302 Found", b"303 See", b"307 Temporary", b"308 Permanent"])
async def test_a_redirect_to_this_machine_is_not_followed(tmp_path: Path, status: bytes) -> None:
    async with RawServer(breaking_off(http_answer(b"secret"))) as inside:
        authority = Authority(tmp_path)
        answer = http_answer(b"", b"location: " + inside.url.encode(), status=status)
        async with RawServer(breaking_off(answer), tls=authority.server_context("client.example")) as server:
            with pytest.raises(FetchError, match="status 30"):
                await requested("https://client.example/", Network(server.port), ca_file=authority.ca_file)
        assert inside.connections == 0


def sending_for_ever(start: bytes, piece: bytes, pause: float = 0.0) -> Callable[[Peer], asyncio.Future[None]]:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(start)
        while True:
            await peer.send(piece)
            await asyncio.sleep(pause)

    return script  # type: ignore[return-value] # a coroutine function is what RawServer awaits


HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (HEAD, b"1000\r\n" + b"x" * 4096 + b"\r\n"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 4096),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 999999999999\r\n\r\n", b"x" * 4096),
        (b"HTTP/1.1 200 OK\r\nx: ", b"y" * 4096),
    ],
    ids=["chunked", "until close", "length", "header"],
)
async def test_an_endless_answer_is_cut_off(tmp_path: Path, start: bytes, piece: bytes) -> None:
    authority = Authority(tmp_path)
    context = authority.server_context("client.example")
    async with RawServer(sending_for_ever(start, piece), tls=context) as server:
        with pytest.raises(FetchError, match=r"larger than|RemoteProtocolError"):
            await requested("https://client.example/", Network(server.port), ca_file=authority.ca_file, seconds=30.0)
        await until(lambda: server.open == 0)


@pytest.mark.parametrize(
    ("start", "piece"),
    [(HEAD, b"1\r\nx\r\n"), (b"HTTP/1.1 200 OK\r\nx: ", b"y"), (b"", b"H"), (HEAD + b"1;", b"x")],
    ids=["body", "header", "status line", "chunk extension"],
)
async def test_a_dripping_answer_ends_at_the_total_limit(tmp_path: Path, start: bytes, piece: bytes) -> None:
    authority = Authority(tmp_path)
    context = authority.server_context("client.example")
    async with RawServer(sending_for_ever(start, piece, 0.02), tls=context) as server:
        with pytest.raises(FetchError, match=r"no complete answer within 0.5 s|RemoteProtocolError"):
            await requested("https://client.example/", Network(server.port), ca_file=authority.ca_file, seconds=0.5)
        await until(lambda: server.open == 0)


async def test_a_server_that_never_speaks_tls_ends_at_the_total_limit() -> None:
    async def script(peer: Peer) -> None:
        await peer.gone()

    async with RawServer(script) as server:
        with pytest.raises(FetchError, match="no complete answer"):
            await requested("https://client.example/", Network(server.port), seconds=0.2)
        await until(lambda: server.closed == 1)


async def test_a_slow_resolver_ends_at_the_total_limit() -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return [PUBLIC]

    fetch = GuardedFetch(FixedClock(), resolve=resolve, network=Network(), seconds=0.1)
    with pytest.raises(FetchError, match="no complete answer"):
        await fetch.get("https://client.example/", trust=Trust.REQUESTED, max_bytes=10)


async def test_proxies_in_the_environment_are_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path)
    async with RawServer(breaking_off(b"")) as proxy:
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        context = authority.server_context("client.example")
        async with RawServer(breaking_off(http_answer(BODY)), tls=context) as server:
            network = Network(server.port)
            assert (await requested("https://client.example/", network, ca_file=authority.ca_file)).body == BODY
        assert proxy.connections == 0


@pytest.mark.parametrize("address", [PUBLIC, "1.1.1.1", "2606:4700::1", "::ffff:1.1.1.1", "64:ff9b::101:101"])
def test_a_public_address_in_any_form_is_reachable(address: str) -> None:
    assert is_globally_reachable(ip_address(address))
    assert is_ordinary_host(ip_address(address))


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "10.1.2.3", "fd12::1", "100.64.0.1"])
def test_an_operator_may_name_an_internal_server(address: str) -> None:
    assert is_ordinary_host(ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "::",
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "100.100.100.200",
        "168.63.129.16",
        "fd00:ec2::254",
        "fe80::1",
        "224.0.0.1",
        "255.255.255.255",
        "ff02::1",
        "fd12::1%eth0",
    ],
)
def test_not_even_an_operator_may_name_an_address_that_no_server_has(address: str) -> None:
    assert not is_ordinary_host(ip_address(address))
    assert not is_loopback(ip_address(address))
