"""Client ID metadata documents: what a stranger, or the owner of a document, may try (R-22)."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from attacks.test_ssrf import PUBLIC, Network, Resolver
from rawlab import Authority, Peer, RawServer, breaking_off, http_answer
from tokenlab import ISSUER, Lab, StepClock, open_lab, public_jwks
from twogate.adapters.fetch import GuardedFetch
from twogate.core.errors import ErrorCode
from twogate.core.oauth.cimd import MAX_DOCUMENT, DomainRule
from twogate.core.oauth.client_auth import ASSERTION_TYPE
from twogate.core.principal import AgentId, Binding, Method
from twogate.flows.authserver.cimd import AllowedDocuments, ClientDocuments, Owner
from twogate.flows.authserver.directory import ClientKeys, Directory
from twogate.flows.authserver.remote_documents import BUDGET_BURST, DEFAULT_AGE, RETRY_AFTER, FetchLimits
from twogate.flows.fetch import Fetched, Trust
from twogate.stores.sql.clients import SqlClientStore

HOST = "bot.example.com"
BOT = f"https://{HOST}/client.json"
ROBOT = AgentId("acme", "robot")
KEY = ec.generate_private_key(ec.SECP256R1())
GUEST = f"https://apps.{HOST}/guest.json"


def document(client_id: str = BOT, **changes: object) -> dict[str, Any]:
    members: dict[str, Any] = {
        "client_id": client_id,
        "client_name": "Bot",
        "grant_types": ["client_credentials"],
        "token_endpoint_auth_method": "private_key_jwt",
        "jwks": json.loads(public_jwks(KEY)),
        **changes,
    }
    return {name: value for name, value in members.items() if value is not None}


def answer(members: dict[str, Any], *more: bytes, content_type: bytes = b"application/json") -> bytes:
    return http_answer(json.dumps(members).encode(), b"content-type: " + content_type, *more)


class WithAuthority:
    """The guarded fetch, with a test's own certificate authority."""

    def __init__(self, fetch: GuardedFetch, ca_file: Path) -> None:
        self._fetch, self._ca_file = fetch, ca_file

    async def get(
        self,
        url: str,
        *,
        trust: Trust,
        max_bytes: int,
        ca_file: Path | None = None,
        accept: str = "application/json",
    ) -> Fetched:
        return await self._fetch.get(
            url, trust=trust, max_bytes=max_bytes, ca_file=ca_file or self._ca_file, accept=accept
        )


class Attack:
    """An authorization server, an Internet, and what its clients send."""

    def __init__(self, lab: Lab, network: Network, resolver: Resolver) -> None:
        self.lab, self.network, self.resolver = lab, network, resolver

    async def ask(self, client_id: str = BOT, key: ec.EllipticCurvePrivateKey = KEY) -> httpx2.Response:
        """A token for the client itself, by an assertion that this key signs."""
        assertion = self.lab.assertion(key=key, iss=client_id, sub=client_id)
        form = {"client_assertion": assertion, "client_assertion_type": ASSERTION_TYPE, "client_id": client_id}
        return await self.lab.post(form)

    @property
    def reason(self) -> str:
        return self.lab.audit.last.reason


@asynccontextmanager
async def attack(
    directory: Path, *answers: list[str], port: int = 0, ca_file: Path | None = None, seconds: float = 5.0
) -> AsyncGenerator[Attack]:
    """`answers` are the resolver's, in turn; `port` is where the Internet's one server is."""
    network, resolver = Network(port), Resolver(*(answers or ([PUBLIC],)))

    def directory_of(clients: SqlClientStore, clock: StepClock) -> Directory:
        guarded = GuardedFetch(clock, resolve=resolver, network=network, seconds=seconds)
        fetch = guarded if ca_file is None else WithAuthority(guarded, ca_file)
        allowed = AllowedDocuments(
            MappingProxyType({BOT: Owner("acme", ROBOT)}),
            MappingProxyType({DomainRule(HOST, below=True): Owner("acme")}),
        )
        limits = FetchLimits()
        return Directory(clients, {}, ClientDocuments(allowed, fetch, limits, clock), ClientKeys(fetch, limits, clock))

    bound = {Binding(Method.JWT, ISSUER, BOT): ROBOT}
    async with open_lab(directory, bound, directory_of) as lab:
        yield Attack(lab, network, resolver)


@asynccontextmanager
async def served(
    directory: Path, script: Callable[[Peer], Any], seconds: float = 5.0, host: str = HOST
) -> AsyncGenerator[tuple[Attack, RawServer]]:
    """The attack with a server on the Internet that follows a script."""
    authority = Authority(directory)
    async with (
        RawServer(script, tls=authority.server_context(host)) as server,
        attack(directory, port=server.port, ca_file=authority.ca_file, seconds=seconds) as lab,
    ):
        yield lab, server


async def test_an_agent_gets_a_token_by_the_key_in_its_document(tmp_path: Path) -> None:
    async with served(tmp_path, breaking_off(answer(document()))) as (lab, server):
        good = await lab.ask()
        assert good.status_code == 200, good.text
        # Kept: the second request fetches nothing.
        assert (await lab.ask()).status_code == 200
        assert len(server.requests) == 1
        assert lab.network.connected == [(PUBLIC, 443)]


async def test_another_key_than_the_documents_is_refused(tmp_path: Path) -> None:
    async with served(tmp_path, breaking_off(answer(document()))) as (lab, _):
        refused = await lab.ask(key=ec.generate_private_key(ec.SECP256R1()))
        assert (refused.status_code, refused.json()["error"]) == (401, "invalid_client")


@pytest.mark.parametrize(
    "client_id",
    [
        "https://evil.example.net/client.json",
        f"https://{HOST}.evil.example.net/client.json",
        f"https://{HOST}/other.json",
        f"https://{HOST}/a/../client.json",
        f"https://{HOST}/a/%2e%2e/client.json",
        f"https://{HOST}/client.json?",
        f"https://{HOST}/client.json#",
        f"https://{HOST}:8443/client.json",
        f"https://user@{HOST}/client.json",
        f"https://{HOST}\\@evil.example.net/client.json",
        "https://127.0.0.1/client.json",
        "https://169.254.169.254/latest/meta-data/iam",
        "https://2130706433/client.json",
        "https://0177.0.0.1/client.json",
        "https://[::ffff:127.0.0.1]/client.json",
        "http://bot.example.com/client.json",
    ],
)
async def test_a_client_that_nobody_let_in_is_unknown_without_any_lookup(tmp_path: Path, client_id: str) -> None:
    async with attack(tmp_path) as lab:
        refused = await lab.ask(client_id)
        assert (refused.status_code, refused.json()["error"]) == (401, "invalid_client")
        assert lab.reason == ErrorCode.CLIENT_INVALID.value
        assert (lab.resolver.asked, lab.network.connected) == ([], [])


INTERNAL = {
    "loopback": "127.0.0.1",
    "loopback, elsewhere": "127.8.8.8",
    "this host": "0.0.0.0",
    "private": "10.1.2.3",
    "private, 172": "172.20.0.1",
    "private, 192": "192.168.0.1",
    "link-local": "169.254.10.10",
    "metadata": "169.254.169.254",
    "metadata, Azure": "168.63.129.16",
    "IPv6 loopback": "::1",
    "IPv4-mapped": "::ffff:169.254.169.254",
    "NAT64": "64:ff9b::a9fe:a9fe",
    "6to4": "2002:7f00:1::",
    "Teredo": "2001:0:4136:e378:8000:63bf:80ff:fffe",
    "unique local": "fd00:ec2::254",
    "IPv6 link-local": "fe80::1",
    "multicast": "224.0.0.1",
}


@pytest.mark.parametrize("address", INTERNAL.values(), ids=INTERNAL.keys())
async def test_an_allowed_name_that_leads_inside_is_never_connected_to(tmp_path: Path, address: str) -> None:
    async with attack(tmp_path, [PUBLIC, address]) as lab:
        refused = await lab.ask()
        assert (refused.status_code, refused.json()["error"]) == (400, "invalid_client_metadata")
        assert lab.network.connected == []
        # Nobody learns where the name leads.
        assert address not in refused.text
        assert "may not be fetched from" in lab.lab.audit.last.detail


async def test_a_name_that_is_moved_inside_afterwards_is_judged_anew(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with (
        RawServer(breaking_off(answer(document())), tls=authority.server_context(HOST)) as server,
        attack(tmp_path, [PUBLIC], ["127.0.0.1"], port=server.port, ca_file=authority.ca_file) as lab,
    ):
        assert (await lab.ask()).status_code == 200
        lab.lab.clock.seconds += int(DEFAULT_AGE)
        assert (await lab.ask()).json()["error"] == "invalid_client_metadata"
        # The one connection went to the address that was judged; the changed answer led nowhere.
        assert lab.network.connected == [(PUBLIC, 443)]
        assert len(lab.resolver.asked) == 2


def slowly(head: bytes) -> Callable[[Peer], Any]:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(head)
        while True:
            await peer.send(b" ")
            await asyncio.sleep(0.02)

    return script


BODY = json.dumps(document()).encode()
JSON_TYPE = b"content-type: application/json"
SCRIPTS: dict[str, Callable[[Peer], Any]] = {
    "redirect": breaking_off(http_answer(b"", b"location: https://evil.example.net/", status=b"302 Found")),
    "permanent redirect": breaking_off(http_answer(b"", b"location: /other.json", status=b"308 Permanent")),
    "not found": breaking_off(http_answer(BODY, JSON_TYPE, status=b"404 Not Found")),
    "another success": breaking_off(http_answer(BODY, JSON_TYPE, status=b"203 Non-Authoritative")),
    "huge": breaking_off(http_answer(BODY.ljust(MAX_DOCUMENT + 1), JSON_TYPE)),
    "endless": slowly(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 4000\r\n\r\n"),
    "compressed": breaking_off(http_answer(gzip.compress(BODY), JSON_TYPE, b"content-encoding: gzip")),
    "HTML": breaking_off(answer(document(), content_type=b"text/html")),
    "no type": breaking_off(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY),
    "BOM": breaking_off(http_answer(b"\xef\xbb\xbf" + BODY, JSON_TYPE)),
    "repeated member": breaking_off(http_answer(BODY.replace(b"{", b'{"client_id":"https://evil/",', 1), JSON_TYPE)),
    "deep": breaking_off(http_answer(BODY[:-1] + b',"x":' + b"[" * 99 + b"]" * 99 + b"}", JSON_TYPE)),
    "another's document": breaking_off(answer(document("https://bot.example.com/other.json"))),
    "with a secret": breaking_off(answer(document(client_secret="s3cret"))),
    "with a private key": breaking_off(answer(document(jwks={"keys": [{"kty": "EC", "d": "x"}]}))),
    "with a shared-secret method": breaking_off(answer(document(token_endpoint_auth_method="client_secret_post"))),
    "without a name": breaking_off(answer(document(client_name=None))),
    "without keys": breaking_off(answer(document(jwks=None))),
    "public, although it is an agent": breaking_off(answer(document(token_endpoint_auth_method="none"))),
    "closed at once": breaking_off(b""),
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS.keys())
async def test_a_document_that_is_not_good_makes_nobody_a_client(tmp_path: Path, script: Callable[[Peer], Any]) -> None:
    async with served(tmp_path, script, seconds=0.5) as (lab, server):
        refused = await lab.ask()
        assert (refused.status_code, refused.json()["error"]) == (400, "invalid_client_metadata")
        # It says what is wrong, and repeats nothing of what the document holds.
        assert len(refused.json()["error_description"]) > 20
        assert "evil" not in refused.text
        assert "s3cret" not in refused.text
        assert server.connections == 1


async def test_a_certificate_for_another_name_makes_nobody_a_client(tmp_path: Path) -> None:
    async with served(tmp_path, breaking_off(answer(document())), host="evil.example.net") as (lab, server):
        assert (await lab.ask()).json()["error"] == "invalid_client_metadata"
        assert server.requests == []


async def test_a_broken_document_is_not_fetched_for_every_request(tmp_path: Path) -> None:
    async with served(tmp_path, breaking_off(http_answer(b"no", JSON_TYPE))) as (lab, server):
        for _ in range(10):
            assert (await lab.ask()).status_code == 400
        assert server.connections == 1
        lab.lab.clock.seconds += int(RETRY_AFTER)
        await lab.ask()
        assert server.connections == 2


async def test_made_up_ids_of_an_allowed_domain_cannot_make_us_hammer_it(tmp_path: Path) -> None:
    async with attack(tmp_path, ["127.0.0.1"]) as lab:
        codes = [(await lab.ask(f"https://x{n}.{HOST}/c")).status_code for n in range(BUDGET_BURST + 10)]
        assert codes == [400] * BUDGET_BURST + [429] * 10
        assert len(lab.resolver.asked) == BUDGET_BURST


async def test_a_document_of_a_domain_is_never_an_agent_whatever_it_says(tmp_path: Path) -> None:
    claimed = document(
        GUEST,
        redirect_uris=["https://apps.bot.example.com/cb"],
        grant_types=["authorization_code", "client_credentials"],
        agent="acme/robot",
        kind="agent",
        tenant="globex",
    )
    async with served(tmp_path, breaking_off(answer(claimed)), host=f"apps.{HOST}") as (lab, _):
        refused = await lab.ask(GUEST)
        assert (refused.status_code, refused.json()["error"]) == (400, "unauthorized_client")
        client = await lab.lab.directory.find(GUEST, lab.lab.clock.now())
        assert client is not None
        assert (str(client.agent), client.tenant) == ("acme/public-client", "acme")


@pytest.mark.parametrize(
    "jwks_uri", ["https://127.0.0.1/jwks", "https://169.254.169.254/jwks", "https://keys.bot.example.com:22/"]
)
async def test_keys_are_not_fetched_from_inside_either(tmp_path: Path, jwks_uri: str) -> None:
    async with served(tmp_path, breaking_off(answer(document(jwks=None, jwks_uri=jwks_uri)))) as (lab, server):
        refused = await lab.ask()
        assert refused.status_code == 503
        assert lab.reason == ErrorCode.KEYS_UNAVAILABLE.value
        # The document alone was asked for.
        assert lab.network.connected == [(PUBLIC, 443)]
        assert server.connections == 1


async def test_a_clients_own_document_cannot_pass_as_another_client(tmp_path: Path) -> None:
    async with served(tmp_path, breaking_off(answer(document()))) as (lab, _):
        # Signed by the document's key, for a client that somebody else registered.
        refused = await lab.ask("robot")
        assert refused.json()["error"] == "invalid_client"
