"""Issuers' keys: how long they are kept, when they are fetched again, and from where."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gatelab import FakeClock
from harness.issuer import new_key
from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.keys import MAX_DOCUMENT
from twogate.flows.fetch import Fetched, FetchError, Trust
from twogate.flows.gateway.issuers import (
    DEFAULT_MAX_AGE,
    MAX_AGE,
    MIN_AGE,
    REFETCH_INTERVAL,
    RETRY_INTERVAL,
    FixedKeys,
    Issuers,
    RemoteKeys,
)

ISSUER = "https://login.example.com/realms/acme"
JWKS = "https://login.example.com/keys"
RFC_8414 = "https://login.example.com/.well-known/oauth-authorization-server/realms/acme"
OIDC = "https://login.example.com/realms/acme/.well-known/openid-configuration"
PUBLIC = new_key().as_dict(private=False)


def jwks(*kids: str) -> bytes:
    return json.dumps({"keys": [{**PUBLIC, "kid": kid} for kid in kids]}).encode()


class RecordingFetch:
    """Serves what it is given, or fails; `hold` makes every download wait."""

    def __init__(self) -> None:
        self.documents: dict[str, bytes] = {JWKS: jwks("k1")}
        self.max_age: int | None = None
        self.fetched: list[tuple[str, Trust]] = []
        self.max_bytes: set[int] = set()
        self.ca_files: set[Path | None] = set()
        self.started = asyncio.Event()
        self.hold: asyncio.Event | None = None
        self.while_fetching: Callable[[], None] = lambda: None

    async def get(
        self,
        url: str,
        *,
        trust: Trust,
        max_bytes: int,
        ca_file: Path | None = None,
        accept: str = "application/json",
    ) -> Fetched:
        self.fetched.append((url, trust))
        self.max_bytes.add(max_bytes)
        self.ca_files.add(ca_file)
        self.started.set()
        if self.hold is not None:
            await self.hold.wait()
        self.while_fetching()
        if url not in self.documents:
            raise FetchError("404")
        return Fetched(body=self.documents[url], content_type="application/json", cache_max_age=self.max_age)

    @property
    def count(self) -> int:
        return len(self.fetched)


class Lab:
    def __init__(self, jwks_uri: str | None = JWKS) -> None:
        self.clock = FakeClock(1000.0)
        self.fetch = RecordingFetch()
        self.source = RemoteKeys(ISSUER, jwks_uri, Path("ca.pem"), self.fetch, self.clock)

    async def kids(self, kid: str | None = "k1") -> list[str | None]:
        return [key.kid for key in await self.source.keys(kid)]

    async def refuses(self, kid: str | None = "k1") -> bool:
        with pytest.raises(GateError) as refusal:
            await self.source.keys(kid)
        return refusal.value.code is ErrorCode.KEYS_UNAVAILABLE


@pytest.fixture
def lab() -> Lab:
    return Lab()


# How long they are kept.


@pytest.mark.parametrize(
    ("max_age", "kept"),
    [(None, DEFAULT_MAX_AGE), (0, MIN_AGE), (5, MIN_AGE), (30, 30), (600, 600), (3600, MAX_AGE), (10**9, MAX_AGE)],
    ids=["no header", "no-store", "too short", "shortest", "as told", "longest", "too long"],
)
async def test_keys_are_kept_as_long_as_the_answer_says_within_bounds(
    lab: Lab, max_age: int | None, kept: float
) -> None:
    lab.fetch.max_age = max_age
    assert await lab.kids() == ["k1"]
    lab.clock.advance(kept - 0.001)
    await lab.kids()
    assert lab.fetch.count == 1
    lab.clock.advance(0.001)
    await lab.kids()
    assert lab.fetch.count == 2


def test_the_bounds_are_half_a_minute_and_an_hour() -> None:
    assert (MIN_AGE, MAX_AGE, REFETCH_INTERVAL, RETRY_INTERVAL) == (30.0, 3600.0, 30.0, 1.0)


async def test_the_age_counts_from_before_the_download(lab: Lab) -> None:
    lab.fetch.max_age = 60
    lab.fetch.while_fetching = lambda: lab.clock.advance(10)
    await lab.kids()
    lab.clock.advance(50)
    await lab.kids()
    assert lab.fetch.count == 2


# Unknown key ids.


async def test_an_unknown_kid_fetches_the_keys_at_once_but_not_twice_in_half_a_minute(lab: Lab) -> None:
    await lab.kids()
    lab.clock.advance(REFETCH_INTERVAL)
    lab.fetch.documents[JWKS] = jwks("k1", "k2")
    assert await lab.kids("k2") == ["k1", "k2"]
    assert lab.fetch.count == 2
    for number in range(100):
        assert await lab.kids(f"stranger{number}") == ["k1", "k2"]
    lab.clock.advance(REFETCH_INTERVAL - 0.001)
    await lab.kids("stranger")
    assert lab.fetch.count == 2
    lab.clock.advance(0.001)
    await lab.kids("stranger")
    assert lab.fetch.count == 3


async def test_a_token_without_kid_causes_no_refetch(lab: Lab) -> None:
    await lab.kids()
    lab.clock.advance(REFETCH_INTERVAL)
    await lab.kids(None)
    assert lab.fetch.count == 1


async def test_a_known_kid_is_served_while_strangers_are_limited(lab: Lab) -> None:
    await lab.kids("stranger")
    assert await lab.kids("k1") == ["k1"]
    assert lab.fetch.count == 1


# Failures.


async def test_a_failed_fetch_refuses_and_is_tried_again_after_a_second(lab: Lab) -> None:
    del lab.fetch.documents[JWKS]
    assert await lab.refuses()
    assert await lab.refuses()
    assert lab.fetch.count == 1
    lab.clock.advance(RETRY_INTERVAL)
    lab.fetch.documents[JWKS] = jwks("k1")
    assert await lab.kids() == ["k1"]
    assert lab.fetch.count == 2


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"keys":5}', b"\xff"])
async def test_an_answer_that_is_no_jwk_set_is_a_failed_fetch(lab: Lab, body: bytes) -> None:
    lab.fetch.documents[JWKS] = body
    assert await lab.refuses()


async def test_expired_keys_are_never_used(lab: Lab) -> None:
    await lab.kids()
    del lab.fetch.documents[JWKS]
    lab.clock.advance(DEFAULT_MAX_AGE)
    assert await lab.refuses()
    assert await lab.refuses()


async def test_a_failed_refetch_leaves_the_fresh_keys_in_use(lab: Lab) -> None:
    await lab.kids()
    lab.clock.advance(REFETCH_INTERVAL)
    del lab.fetch.documents[JWKS]
    assert await lab.refuses("stranger")
    assert await lab.kids() == ["k1"]


async def test_a_failure_that_a_stranger_caused_does_not_put_off_the_fetch_that_is_due(lab: Lab) -> None:
    await lab.kids()
    lab.clock.advance(DEFAULT_MAX_AGE - RETRY_INTERVAL)
    document = lab.fetch.documents.pop(JWKS)
    assert await lab.refuses("stranger")
    lab.fetch.documents[JWKS] = document
    lab.clock.advance(RETRY_INTERVAL)
    assert await lab.kids() == ["k1"]


async def test_a_withdrawn_key_is_gone_with_the_next_fetch(lab: Lab) -> None:
    await lab.kids()
    lab.fetch.documents[JWKS] = jwks("k2")
    lab.clock.advance(DEFAULT_MAX_AGE)
    assert await lab.kids("k1") == ["k2"]


# Many at once.


async def test_fifty_callers_at_once_cause_one_fetch(lab: Lab) -> None:
    lab.fetch.hold = asyncio.Event()
    callers = [asyncio.create_task(lab.kids(kid)) for kid in ["k1", "stranger", None] * 17]
    await lab.fetch.started.wait()
    lab.fetch.hold.set()
    assert await asyncio.gather(*callers) == [["k1"]] * 51
    assert lab.fetch.count == 1


async def test_fifty_callers_at_once_share_one_slow_failure(lab: Lab) -> None:
    lab.fetch.documents.clear()
    lab.fetch.while_fetching = lambda: lab.clock.advance(10)
    results = await asyncio.gather(*(lab.source.keys("k1") for _ in range(50)), return_exceptions=True)
    assert {error.code for error in results if isinstance(error, GateError)} == {ErrorCode.KEYS_UNAVAILABLE}
    assert lab.fetch.count == 1


async def test_a_caller_that_goes_away_during_the_fetch_does_not_stop_the_others(lab: Lab) -> None:
    lab.fetch.hold = asyncio.Event()
    first, second = asyncio.create_task(lab.kids()), asyncio.create_task(lab.kids())
    await lab.fetch.started.wait()
    first.cancel()
    lab.fetch.hold.set()
    assert await second == ["k1"]


# From where.


async def test_a_configured_address_is_used_as_it_is_and_trusted_as_configured(lab: Lab) -> None:
    await lab.kids()
    assert lab.fetch.fetched == [(JWKS, Trust.CONFIGURED)]
    assert lab.fetch.max_bytes == {MAX_DOCUMENT}
    assert lab.fetch.ca_files == {Path("ca.pem")}


def metadata(**changes: Any) -> bytes:
    return json.dumps({"issuer": ISSUER, "jwks_uri": JWKS, **changes}).encode()


async def test_the_address_is_discovered_by_rfc_8414_first() -> None:
    lab = Lab(None)
    lab.fetch.documents |= {RFC_8414: metadata(), OIDC: metadata(jwks_uri="https://login.example.com/never")}
    assert await lab.kids() == ["k1"]
    assert lab.fetch.fetched == [(RFC_8414, Trust.CONFIGURED), (JWKS, Trust.CONFIGURED)]


@pytest.mark.parametrize(
    "first",
    [
        None,
        b"<html>",
        b"\xff",
        b"[]",
        b"{}",
        metadata(issuer="https://login.example.com"),
        metadata(issuer=ISSUER + "/"),
        metadata(issuer=None),
        metadata(jwks_uri=5),
        metadata(jwks_uri=None),
    ],
    ids=["missing", "html", "not utf-8", "list", "empty", "other issuer", "slash", "no issuer", "number", "no uri"],
)
async def test_then_by_openid_connect_if_the_first_does_not_name_this_very_issuer(first: bytes | None) -> None:
    # RFC 8414 section 3.3: the issuer "MUST be identical".
    lab = Lab(None)
    lab.fetch.documents[OIDC] = metadata()
    if first is not None:
        lab.fetch.documents[RFC_8414] = first
    assert await lab.kids() == ["k1"]
    assert [url for url, _ in lab.fetch.fetched] == [RFC_8414, OIDC, JWKS]


async def test_without_metadata_of_this_very_issuer_there_are_no_keys() -> None:
    lab = Lab(None)
    lab.fetch.documents |= {RFC_8414: metadata(issuer="https://evil.example"), OIDC: b"{}"}
    assert await lab.refuses()
    assert JWKS not in [url for url, _ in lab.fetch.fetched]


@pytest.mark.parametrize(
    ("uri", "trust"),
    [
        ("https://login.example.com/elsewhere", Trust.CONFIGURED),
        ("https://login.example.com:8443/keys", Trust.REQUESTED),
        ("http://login.example.com/keys", Trust.REQUESTED),
        ("https://keys.example.com/keys", Trust.REQUESTED),
        ("https://login.example.com@evil.example/keys", Trust.REQUESTED),
        ("http://169.254.169.254/latest", Trust.REQUESTED),
    ],
)
async def test_an_address_that_metadata_names_on_another_origin_is_not_trusted_like_the_configuration(
    uri: str, trust: Trust
) -> None:
    lab = Lab(None)
    lab.fetch.documents |= {RFC_8414: metadata(jwks_uri=uri), uri: jwks("k1")}
    assert await lab.kids() == ["k1"]
    assert lab.fetch.fetched[-1] == (uri, trust)


# Selecting.


async def test_only_a_configured_issuer_can_be_selected() -> None:
    for claimed in (None, "", "https://unknown.example.com"):
        with pytest.raises(GateError) as refusal:
            Issuers({}, {}).select(claimed)
        assert refusal.value.code is ErrorCode.ISSUER_UNKNOWN


async def test_the_embedded_servers_keys_are_given_as_they_are() -> None:
    assert await FixedKeys(()).keys("any") == ()
