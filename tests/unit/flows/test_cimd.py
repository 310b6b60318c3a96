"""Clients by metadata document: who is let in, what is fetched and how long it is kept."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import MappingProxyType

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from gatelab import FakeClock
from tokenlab import public_jwks
from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.cimd import MAX_DOCUMENT, DomainRule
from twogate.core.oauth.grant_type import GrantType
from twogate.core.principal import AgentId
from twogate.flows.authserver.cimd import AllowedDocuments, ClientDocuments, Owner
from twogate.flows.authserver.clients import Client, ClientAuth, ClientKind, ClientSource
from twogate.flows.authserver.remote_documents import (
    BUDGET_BURST,
    DEFAULT_AGE,
    MAX_AGE,
    MAX_AT_ONCE,
    MIN_AGE,
    RETRY_AFTER,
    FetchLimits,
)
from twogate.flows.fetch import Fetched, FetchError, Trust

URL = "https://bot.example.com/client.json"
OTHER = "https://apps.example.org/one.json"
BOT = AgentId("acme", "bot")
KEYS = json.loads(public_jwks(ec.generate_private_key(ec.SECP256R1())))
ALLOWED = AllowedDocuments(
    MappingProxyType({URL: Owner("acme", BOT)}),
    MappingProxyType({DomainRule("example.org", below=True): Owner("globex")}),
)


def document(url: str, **changes: object) -> bytes:
    members: dict[str, object] = {
        "client_id": url,
        "client_name": "One",
        "redirect_uris": ["https://apps.example.org/cb"],
        **changes,
    }
    return json.dumps(members).encode()


def of_agent(**changes: object) -> bytes:
    asked = ["client_credentials", "authorization_code"]
    return document(URL, token_endpoint_auth_method="private_key_jwt", jwks=KEYS, grant_types=asked, **changes)


class Web:
    """Serves documents from memory and counts; what is not there cannot be fetched. `hold` makes fetches wait."""

    def __init__(self, **documents: bytes) -> None:
        self.documents = {OTHER: document(OTHER), URL: of_agent()}
        self.max_age: int | None = None
        self.fetched: list[str] = []
        self.asked: set[tuple[Trust, int]] = set()
        self.hold: asyncio.Event | None = None

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
        self.fetched.append(url)
        self.asked.add((trust, max_bytes))
        if self.hold is not None:
            await self.hold.wait()
        if url not in self.documents:
            raise FetchError("10.0.0.7 may not be fetched from")
        return Fetched(body=self.documents[url], content_type="application/json", cache_max_age=self.max_age)


class Lab:
    def __init__(self, allowed: AllowedDocuments = ALLOWED) -> None:
        self.web, self.clock, self.limits = Web(), FakeClock(), FetchLimits()
        self.documents = ClientDocuments(allowed, self.web, self.limits, self.clock)

    async def find(self, client_id: str = OTHER) -> Client:
        client = await self.documents.find(client_id)
        assert client is not None
        return client

    async def refused(self, client_id: str = OTHER) -> GateError:
        with pytest.raises(GateError) as caught:
            await self.documents.find(client_id)
        return caught.value


async def test_a_document_of_an_allowed_domain_is_a_public_client_of_its_tenant() -> None:
    lab = Lab()
    assert await lab.find() == Client(
        client_id=OTHER,
        tenant="globex",
        agent=AgentId("globex", "public-client"),
        auth=ClientAuth.NONE,
        kind=ClientKind.PUBLIC,
        grants=frozenset({GrantType.AUTHORIZATION_CODE}),
        name="One",
        redirect_uris=("https://apps.example.org/cb",),
        source=ClientSource.DOCUMENT,
    )
    assert lab.web.asked == {(Trust.REQUESTED, MAX_DOCUMENT)}


async def test_a_bound_document_with_keys_is_its_agent() -> None:
    client = await Lab().find(URL)
    assert (client.kind, client.agent, client.auth) == (ClientKind.AGENT, BOT, ClientAuth.PRIVATE_KEY_JWT)
    assert client.grants == {GrantType.CLIENT_CREDENTIALS, GrantType.AUTHORIZATION_CODE}
    assert json.loads(client.jwks or "") == KEYS


async def test_keys_alone_make_nobody_an_agent() -> None:
    lab = Lab()
    lab.web.documents[OTHER] = document(
        OTHER,
        token_endpoint_auth_method="private_key_jwt",
        jwks=KEYS,
        grant_types=["authorization_code", "refresh_token", "client_credentials", GrantType.TOKEN_EXCHANGE.value],
    )
    client = await lab.find()
    assert (client.kind, client.auth) == (ClientKind.PUBLIC, ClientAuth.PRIVATE_KEY_JWT)
    assert client.grants == {GrantType.AUTHORIZATION_CODE, GrantType.REFRESH_TOKEN}


async def test_an_agents_document_must_have_keys() -> None:
    lab = Lab()
    lab.web.documents[URL] = document(URL)
    refused = await lab.refused(URL)
    assert refused.code is ErrorCode.CLIENT_METADATA_INVALID
    assert "private_key_jwt" in str(refused.data)


@pytest.mark.parametrize(
    "client_id",
    [
        "https://example.org/one.json",
        "https://apps.example.org.evil.net/one.json",
        "https://apps.example.org:8443/one.json",
        "https://bot.example.com/other.json",
        "https://bot.example.com/client.json/",
        "https://bot.example.com/client.json?x",
        "https://bot.example.com/a/../client.json",
        "https://BOT.example.com/client.json",
        "https://user@apps.example.org/one.json",
        "https://127.0.0.1/one.json",
        "https://",
    ],
)
async def test_what_nobody_let_in_is_unknown_and_never_fetched(client_id: str) -> None:
    lab = Lab()
    assert await lab.documents.find(client_id) is None
    assert lab.web.fetched == []


async def test_an_empty_allowlist_lets_nobody_in() -> None:
    lab = Lab(AllowedDocuments({}, {}))
    assert await lab.documents.find(OTHER) is None
    assert lab.web.fetched == []


@pytest.mark.parametrize(
    ("max_age", "kept"),
    [(None, DEFAULT_AGE), (0, MIN_AGE), (5, MIN_AGE), (600, 600.0), (10**9, MAX_AGE)],
)
async def test_a_document_is_kept_as_its_headers_say_within_limits(max_age: int | None, kept: float) -> None:
    lab = Lab()
    lab.web.max_age = max_age
    await lab.find()
    lab.clock.advance(kept - 1)
    await lab.find()
    assert lab.web.fetched == [OTHER]
    lab.clock.advance(1)
    await lab.find()
    assert lab.web.fetched == [OTHER] * 2


async def test_a_changed_document_holds_when_the_old_one_is_no_longer_fresh() -> None:
    lab = Lab()
    await lab.find()
    lab.web.documents[OTHER] = document(OTHER, client_name="Two")
    assert (await lab.find()).name == "One"
    lab.clock.advance(DEFAULT_AGE)
    assert (await lab.find()).name == "Two"


@pytest.mark.parametrize("gone", ["cannot be fetched", "became wrong"])
async def test_a_document_that_is_gone_or_wrong_is_not_used_any_further(gone: str) -> None:
    lab = Lab()
    await lab.find()
    lab.clock.advance(DEFAULT_AGE)
    if gone == "became wrong":
        lab.web.documents[OTHER] = document(OTHER, client_id=URL)
    else:
        del lab.web.documents[OTHER]
    assert (await lab.refused()).code is ErrorCode.CLIENT_METADATA_INVALID


async def test_a_failure_is_kept_for_a_moment_only_and_told_the_same_way() -> None:
    lab = Lab()
    good = lab.web.documents.pop(OTHER)
    first = await lab.refused()
    lab.web.documents[OTHER] = good
    lab.clock.advance(RETRY_AFTER - 1)
    again = await lab.refused()
    assert (again.code, again.data) == (first.code, first.data)
    assert lab.web.fetched == [OTHER]
    lab.clock.advance(1)
    assert (await lab.find()).name == "One"


async def test_why_it_could_not_be_fetched_is_for_the_operator_only() -> None:
    lab = Lab()
    del lab.web.documents[OTHER]
    refused = await lab.refused()
    assert "10.0.0.7" in refused.debug
    assert "10.0.0.7" not in str(refused.data)


async def test_many_who_wait_for_one_document_fetch_it_once() -> None:
    lab = Lab()
    lab.web.hold = asyncio.Event()
    waiting = [asyncio.create_task(lab.find()) for _ in range(50)]
    while not lab.web.fetched:
        await asyncio.sleep(0)
    lab.web.hold.set()
    assert {client.client_id for client in await asyncio.gather(*waiting)} == {OTHER}
    assert lab.web.fetched == [OTHER]


async def test_who_goes_away_takes_nothing_from_the_others() -> None:
    lab = Lab()
    lab.web.hold = asyncio.Event()
    first, second = asyncio.create_task(lab.find()), asyncio.create_task(lab.find())
    while not lab.web.fetched:
        await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    lab.web.hold.set()
    assert (await second).client_id == OTHER
    assert lab.limits.under_way == 0


async def test_only_so_many_documents_are_fetched_at_once() -> None:
    lab = Lab()
    lab.web.hold = asyncio.Event()
    urls = [f"https://h{n}.example.org/c" for n in range(MAX_AT_ONCE + 5)]
    waiting = [asyncio.create_task(lab.documents.find(url)) for url in urls]
    while len(lab.web.fetched) < MAX_AT_ONCE:
        await asyncio.sleep(0)
    lab.web.hold.set()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    codes = [outcome.code for outcome in outcomes if isinstance(outcome, GateError)]
    assert codes.count(ErrorCode.RATE_LIMITED) == 5
    assert len(lab.web.fetched) == MAX_AT_ONCE
    assert lab.limits.under_way == 0


async def test_an_allowlist_entry_has_a_budget_whatever_urls_strangers_make_up() -> None:
    lab = Lab()
    codes = [(await lab.refused(f"https://h{n}.example.org/{n}")).code for n in range(BUDGET_BURST + 20)]
    assert codes.count(ErrorCode.RATE_LIMITED) == 20
    assert len(lab.web.fetched) == BUDGET_BURST
    # Another entry is not held up, and neither is what is known already.
    assert (await lab.find(URL)).client_id == URL
    lab.clock.advance(1)
    assert (await lab.refused("https://new.example.org/x")).code is ErrorCode.CLIENT_METADATA_INVALID
    assert (await lab.refused("https://newer.example.org/x")).code is ErrorCode.RATE_LIMITED


async def test_memory_is_bounded_whatever_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twogate.flows.authserver.remote_documents.MAX_KEPT", 3)
    lab = Lab()
    urls = [f"https://h{n}.example.org/c" for n in range(5)]
    lab.web.documents |= {url: document(url) for url in urls}
    for url in urls:
        await lab.find(url)
    lab.web.fetched.clear()
    for url in urls[2:]:
        await lab.find(url)
    assert lab.web.fetched == []
    await lab.find(urls[0])
    assert lab.web.fetched == [urls[0]]
