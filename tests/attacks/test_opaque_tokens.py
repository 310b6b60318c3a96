"""Tokens that only their issuer can judge (RFC 7662): asked about each, believed in nothing else, and failing closed.

The issuer is a real HTTP server under the test's control; a refusal proves that the upstream saw nothing.
"""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from collections.abc import AsyncGenerator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from dpoplab import Prover
from harness.issuer import TestIssuer
from harness.stack import Stack, free_port, running, settings_for
from harness.upstream import RecordingUpstream
from twogate.config import ConfigError
from twogate.core.oauth.access_token import encode_base64url

TOKEN = "opaque-0123456789"
SECRET = "s3cret: with=odd&characters"


def configured(tmp_path: Path, port: int, upstream: RecordingUpstream, issuer: TestIssuer, how: str) -> dict[str, Any]:
    settings = settings_for(tmp_path, port, {"files": {"url": upstream.url}}, issuer)
    secret = tmp_path / "secret"
    secret.write_text(SECRET + "\n")
    secret.chmod(0o600)
    [entry] = settings["issuers"]
    entry |= {"validate": how, "introspection": {"client_id": "gateway", "client_secret_file": str(secret)}}
    if how == "introspect":
        del entry["algorithms"]
    return settings


@pytest.fixture
async def asking(tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream) -> AsyncGenerator[Stack]:
    """A gateway that asks the issuer about every token, and checks no signature."""
    async with running(tmp_path, configured(tmp_path, free_port(), upstream, issuer, "introspect")) as stack:
        yield stack


@pytest.fixture
async def careful(tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream) -> AsyncGenerator[Stack]:
    """A gateway that checks signatures and asks."""
    async with running(tmp_path, configured(tmp_path, free_port(), upstream, issuer, "both")) as stack:
        yield stack


def said(stack: Stack, issuer: TestIssuer, **changes: Any) -> dict[str, Any]:
    claims = {**issuer.claims(stack.resource()), "active": True, "token_type": "Bearer", **changes}
    return {name: value for name, value in claims.items() if value is not None}


async def assert_refused(stack: Stack, upstream: RecordingUpstream, reason: str, token: str = TOKEN) -> None:
    response = await stack.call(token, "look")
    assert response.status_code in (401, 503)
    assert upstream.seen == []
    assert stack.reasons()[-1] == reason


async def test_an_active_token_is_good_and_we_ask_as_ourselves(
    asking: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    issuer.introspection[TOKEN] = said(asking, issuer)
    for _ in range(3):
        assert (await asking.call(TOKEN, "look")).status_code == 200
    assert upstream.calls == ["look"] * 3
    # Its word is kept for some seconds, so three calls ask once.
    assert issuer.asked == [{"token": TOKEN, "token_type_hint": "access_token"}]
    pair = "gateway:s3cret%3A+with%3Dodd%26characters"
    assert issuer.asked_by == [f"Basic {b64encode(pair.encode()).decode()}"]
    assert TOKEN not in "".join(str(event) for event in asking.events())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"active": False}, "token_revoked"),
        ({"active": "true"}, "token_revoked"),
        ({"active": 1}, "token_revoked"),
        ({"active": None}, "token_revoked"),
        ({"token_type": None}, "token_type_refused"),
        ({"token_type": "refresh_token"}, "token_type_refused"),
        ({"token_type": ["Bearer"]}, "token_type_refused"),
        ({"exp": 1, "iat": 0}, "token_expired"),
        ({"exp": None}, "claim_missing"),
        ({"iat": None}, "claim_missing"),
        ({"aud": None}, "claim_missing"),
        ({"aud": "https://elsewhere.example/mcp"}, "audience_mismatch"),
        ({"iss": "https://elsewhere.example"}, "issuer_unknown"),
        ({"tenant": "globex"}, "tenant_refused"),
        ({"azp": "nobody"}, "agent_unbound"),
        ({"azp": ["robot"]}, "claim_invalid"),
        ({"exp": 4_000_000_000}, "token_lifetime_excessive"),
        ({"cnf": {"jkt": "x"}}, "token_binding_refused"),
        ({"cnf": {}}, "token_binding_refused"),
    ],
)
async def test_whatever_the_issuer_says_is_checked_as_a_tokens_claims_are(
    asking: Stack, issuer: TestIssuer, upstream: RecordingUpstream, changes: dict[str, Any], reason: str
) -> None:
    issuer.introspection[TOKEN] = said(asking, issuer, **changes)
    await assert_refused(asking, upstream, reason)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"active",
        b"[true]",
        b"true",
        b'{"active":true',
        b'{"active":true,"active":false}',
        b'{"active":false,"act\\u0069ve":true}',
        b"\xff",
        b'{"active":true,"pad":"' + b"x" * 70_000 + b'"}',
        b'{"a":' * 50 + b"1" + b"}" * 50,
    ],
)
async def test_an_answer_that_is_not_one_refuses_the_call(
    asking: Stack, issuer: TestIssuer, upstream: RecordingUpstream, answer: bytes
) -> None:
    issuer.introspection[TOKEN] = answer
    await assert_refused(asking, upstream, "identity_provider_unavailable")


@pytest.mark.parametrize(
    "status", [b"401 Unauthorized", b"403 Forbidden", b"400 Bad Request", b"500 Oops", b"302 Found"]
)
async def test_an_issuer_that_does_not_answer_us_refuses_the_call(
    asking: Stack, issuer: TestIssuer, upstream: RecordingUpstream, status: bytes
) -> None:
    issuer.introspection[TOKEN] = said(asking, issuer)
    issuer.introspection_status = status
    await assert_refused(asking, upstream, "identity_provider_unavailable")


async def test_nothing_is_believed_of_a_jwt_but_what_the_issuer_says(
    asking: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    # Good by its signature, which this issuer's tokens do not need; the issuer does not know it.
    await assert_refused(asking, upstream, "token_revoked", issuer.token(asking.resource()))
    # Forged claims change nothing: what counts is what the issuer says of the text.
    forged = issuer.token(asking.resource(), azp="other", tenant="globex")
    issuer.introspection[forged] = said(asking, issuer)
    assert (await asking.call(forged, "look")).status_code == 200
    [intent] = [event for event in asking.events() if event["kind"] == "call.intent"]
    assert (intent["agent"], intent["tenant"]) == ("robot", "acme")


async def test_with_both_a_token_needs_a_good_signature_and_the_issuers_word(
    careful: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    token = issuer.token(careful.resource())
    await assert_refused(careful, upstream, "token_revoked", token)
    other = issuer.token(careful.resource())
    head, body, signature = other.split(".")
    broken = f"{head}.{body}.{signature[::-1]}"
    issuer.introspection |= {other: said(careful, issuer), broken: said(careful, issuer)}
    asked = len(issuer.asked)
    response = await careful.call(broken, "look")
    # A broken signature is not even asked about.
    assert (response.status_code, len(issuer.asked), upstream.seen) == (401, asked, [])
    assert (await careful.call(other, "look")).status_code == 200
    # Tokens that are no JWTs are nobody's here.
    issuer.introspection[TOKEN] = said(careful, issuer)
    assert (await careful.call(TOKEN, "look")).status_code == 401
    assert careful.reasons()[-1] == "token_malformed"


async def test_made_up_tokens_do_not_make_us_a_burden_to_the_issuer(asking: Stack, issuer: TestIssuer) -> None:
    for _ in range(20):
        assert (await asking.call("made.up", "look")).status_code == 401
    assert len(issuer.asked) == 1
    answers = await asyncio.gather(*(asking.call(f"made-up-{number}", "look") for number in range(60)))
    assert {answer.status_code for answer in answers} == {401}


async def test_a_token_that_was_taken_back_at_the_issuer_is_refused_once_its_word_is_old(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    settings = configured(tmp_path, free_port(), upstream, issuer, "introspect")
    settings["issuers"][0]["introspection"]["cache"] = "1s"
    async with running(tmp_path, settings) as stack:
        issuer.introspection[TOKEN] = said(stack, issuer)
        assert (await stack.call(TOKEN, "look")).status_code == 200
        issuer.introspection[TOKEN] = {"active": False}
        deadline = time.monotonic() + 20
        while (await stack.call(TOKEN, "look")).status_code == 200:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        assert stack.reasons()[-1] == "token_revoked"


async def test_an_opaque_token_can_be_bound_to_a_key(
    asking: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    prover = Prover()
    issuer.introspection[TOKEN] = said(asking, issuer, cnf={"jkt": prover.thumbprint}, token_type="DPoP")
    await assert_refused(asking, upstream, "token_binding_refused")
    digest = encode_base64url(sha256(TOKEN.encode()).digest())
    nonce: str | None = None
    for expected in (401, 200):
        proof = prover.proof(int(time.time()), nonce, htu=asking.resource(), ath=digest)
        response = await asking.call(None, "look", authorization=f"DPoP {TOKEN}", dpop=proof)
        assert response.status_code == expected
        nonce = response.headers.get("dpop-nonce")
    assert upstream.calls == ["look"]


async def test_only_one_issuer_may_have_tokens_that_name_none(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    settings = configured(tmp_path, free_port(), upstream, issuer, "introspect")
    settings["issuers"].append({**settings["issuers"][0], "issuer": "https://second.example"})
    with pytest.raises(ConfigError, match="only one issuer's tokens can be opaque"):
        async with running(tmp_path, settings):
            pass
    assert issuer.asked == []


@pytest.mark.parametrize(
    "change",
    [
        {"validate": "jwt"},
        {"validate": "both"},
        {"validate": "none"},
        {"introspection": None},
        {"introspection": {"client_id": "gateway"}},
        {"algorithms": ["ES256"]},
    ],
)
async def test_settings_that_would_check_nothing_are_refused(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream, change: dict[str, Any]
) -> None:
    settings = configured(tmp_path, free_port(), upstream, issuer, "introspect")
    settings["issuers"][0] |= change
    settings["issuers"][0] = {name: value for name, value in settings["issuers"][0].items() if value is not None}
    with pytest.raises(ConfigError, match="issuers"):
        async with running(tmp_path, settings):
            pass
