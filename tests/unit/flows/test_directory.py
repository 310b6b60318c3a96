"""Where clients are found, and what their keys are."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import MappingProxyType

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from gatelab import FakeClock
from tokenlab import REPORTER, Lab, digest, open_lab, public_jwks
from twogate.core.errors import ErrorCode, GateError
from twogate.core.principal import AgentId
from twogate.flows.authserver.cimd import AllowedDocuments, ClientDocuments, Owner
from twogate.flows.authserver.clients import Client, ClientAuth, ClientKind, ClientSource
from twogate.flows.authserver.directory import MAX_JWKS, ClientKeys, Directory, check_clients
from twogate.flows.authserver.remote_documents import DEFAULT_AGE, REFRESH_AFTER, FetchLimits
from twogate.flows.fetch import Fetched, FetchError, Trust

NOW = 1_800_000_000
WEB = Client(
    "web",
    "acme",
    AgentId("acme", "public-client"),
    ClientAuth.CLIENT_SECRET,
    (digest("x" * 43),),
    kind=ClientKind.PUBLIC,
    source=ClientSource.CONFIGURED,
)
KEYED = Client(
    "keyed",
    "acme",
    REPORTER,
    ClientAuth.PRIVATE_KEY_JWT,
    jwks_uri="https://inside.example/jwks",
    source=ClientSource.CONFIGURED,
)
DOCUMENT = "https://app.example.com/c.json"


class Web:
    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}
        self.fetched: list[tuple[str, Trust, int]] = []

    async def get(
        self,
        url: str,
        *,
        trust: Trust,
        max_bytes: int,
        ca_file: Path | None = None,
        accept: str = "application/json",
    ) -> Fetched:
        del ca_file, accept
        self.fetched.append((url, trust, max_bytes))
        if url not in self.bodies:
            raise FetchError("nothing there")
        return Fetched(body=self.bodies[url], content_type="application/json")


def jwks(*kids: str) -> bytes:
    (key,) = json.loads(public_jwks(ec.generate_private_key(ec.SECP256R1())))["keys"]
    return json.dumps({"keys": [{**key, "kid": kid} for kid in kids]}).encode()


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with open_lab(tmp_path) as opened:
        yield opened


async def test_the_configuration_comes_before_the_store(lab: Lab) -> None:
    shadow = msgspec.structs.replace(WEB, client_id="reporter")
    directory = Directory(lab.clients, {"web": WEB, "reporter": shadow})
    assert await directory.find("web", NOW) == WEB
    assert await directory.find("reporter", NOW) == shadow
    found = await directory.find("robot", NOW)
    assert found is not None
    assert found.source is ClientSource.ADDED
    assert await directory.find("nobody", NOW) is None


async def test_an_expired_client_is_none(lab: Lab) -> None:
    await lab.clients.add(
        msgspec.structs.replace(WEB, expires_at=NOW, source=ClientSource.REGISTERED), None, (), NOW - 10
    )
    directory = Directory(lab.clients)
    assert await directory.find("web", NOW - 1) is not None
    assert await directory.find("web", NOW) is None


async def test_a_url_is_never_looked_up_in_the_store(lab: Lab) -> None:
    await lab.clients.add(msgspec.structs.replace(WEB, client_id=DOCUMENT), None, (), NOW)
    assert await Directory(lab.clients).find(DOCUMENT, NOW) is None


async def test_a_document_is_found_where_documents_are_let_in(lab: Lab) -> None:
    web = Web()
    web.bodies[DOCUMENT] = json.dumps(
        {"client_id": DOCUMENT, "client_name": "App", "redirect_uris": ["https://app.example.com/cb"]}
    ).encode()
    allowed = AllowedDocuments(MappingProxyType({DOCUMENT: Owner("acme")}), {})
    documents = ClientDocuments(allowed, web, FetchLimits(), FakeClock())
    found = await Directory(lab.clients, documents=documents).find(DOCUMENT, NOW)
    assert found is not None
    assert found.name == "App"


async def test_configured_keys_may_be_inside_and_a_documents_never(lab: Lab) -> None:
    web, clock, limits = Web(), FakeClock(), FetchLimits()
    inside, outside = "https://inside.example/jwks", "https://keys.example.net/jwks"
    web.bodies |= {inside: jwks("a"), outside: jwks("b")}
    allowed = AllowedDocuments(MappingProxyType({DOCUMENT: Owner("acme")}), {})
    directory = Directory(
        lab.clients,
        {"keyed": KEYED},
        ClientDocuments(allowed, web, limits, clock),
        ClientKeys(web, limits, clock),
    )
    foreign = msgspec.structs.replace(KEYED, client_id=DOCUMENT, jwks_uri=outside, source=ClientSource.DOCUMENT)
    assert json.loads(await directory.jwks(KEYED, "a", NOW) or "") == json.loads(web.bodies[inside])
    assert await directory.jwks(foreign, "b", NOW)
    assert web.fetched == [(inside, Trust.CONFIGURED, MAX_JWKS), (outside, Trust.REQUESTED, MAX_JWKS)]


async def test_an_unknown_kid_fetches_again_at_a_limited_rate() -> None:
    web, clock = Web(), FakeClock()
    keys = ClientKeys(web, FetchLimits(), clock)
    url = "https://keys.example.net/jwks"
    web.bodies[url] = jwks("old")

    async def get(kid: str) -> str:
        return await keys.get(url, Trust.REQUESTED, "entry", kid)

    await get("old")
    web.bodies[url] = jwks("old", "new")
    assert "new" not in await get("new")
    assert len(web.fetched) == 1
    clock.advance(REFRESH_AFTER)
    assert "new" in await get("new")
    for _ in range(10):
        await get("made up")
    assert len(web.fetched) == 2
    clock.advance(DEFAULT_AGE)
    await get("new")
    assert len(web.fetched) == 3


async def test_a_made_up_kid_takes_good_keys_from_nobody() -> None:
    web, clock = Web(), FakeClock()
    keys = ClientKeys(web, FetchLimits(), clock)
    url = "https://keys.example.net/jwks"
    web.bodies[url] = jwks("old")
    good = await keys.get(url, Trust.REQUESTED, "entry", "old")
    del web.bodies[url]
    clock.advance(REFRESH_AFTER)
    assert await keys.get(url, Trust.REQUESTED, "entry", "made up") == good
    assert await keys.get(url, Trust.REQUESTED, "entry", "old") == good
    assert len(web.fetched) == 2
    clock.advance(DEFAULT_AGE)
    with pytest.raises(GateError):
        await keys.get(url, Trust.REQUESTED, "entry", "old")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"keys":[]}',
        b'{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}',
        b'{"keys":[],"keys":[]}',
        b"[" * 50,
        jwks("a").replace(b'"kid"', b'"d": "x", "kid"'),
        jwks("a").ljust(MAX_JWKS + 1),
    ],
)
async def test_what_is_no_set_of_public_keys_is_unavailable(body: bytes) -> None:
    web = Web()
    web.bodies["https://k.example/j"] = body
    keys = ClientKeys(web, FetchLimits(), FakeClock())
    with pytest.raises(GateError) as caught:
        await keys.get("https://k.example/j", Trust.REQUESTED, "entry", None)
    assert caught.value.code is ErrorCode.KEYS_UNAVAILABLE


async def test_keys_that_cannot_be_fetched_are_unavailable(lab: Lab) -> None:
    directory = Directory(lab.clients, keys=ClientKeys(Web(), FetchLimits(), FakeClock()))
    for searched in (directory, Directory(lab.clients)):
        with pytest.raises(GateError) as caught:
            await searched.jwks(KEYED, None, NOW)
        assert caught.value.code is ErrorCode.KEYS_UNAVAILABLE


async def test_a_client_in_both_places_is_a_mistake_that_names_it(lab: Lab) -> None:
    await check_clients(lab.clients, ["web", "other"])
    await check_clients(lab.clients, [])
    with pytest.raises(GateError) as caught:
        await check_clients(lab.clients, ["web", "reporter"])
    assert caught.value.code is ErrorCode.REQUEST_MALFORMED
    assert "reporter" in caught.value.debug
