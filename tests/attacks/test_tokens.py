"""Forged, altered, confused and outlived tokens: each is refused with its own reason, and the upstream sees nothing."""

from __future__ import annotations

import asyncio
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, hmac, serialization
from joserfc.jwk import RSAKey

from harness.issuer import TestIssuer, new_key, sign
from harness.stack import FRONTS, Stack
from harness.upstream import RecordingUpstream

Forge = Callable[[TestIssuer, str], str]


def _part(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _unsigned(issuer: TestIssuer, audience: str) -> str:
    header = {"alg": "none", "kid": "k1", "typ": "at+jwt"}
    return f"{_part(json.dumps(header).encode())}.{_part(json.dumps(issuer.claims(audience)).encode())}.AA"


def _hmac_with_public_key(issuer: TestIssuer, audience: str) -> str:
    key = new_key("RS256")
    assert isinstance(key, RSAKey)
    issuer.keys["rsa"] = ("RS256", key)
    pem = key.public_key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    header = {"alg": "HS256", "kid": "rsa", "typ": "at+jwt"}
    signing_input = f"{_part(json.dumps(header).encode())}.{_part(json.dumps(issuer.claims(audience)).encode())}"
    mac = hmac.HMAC(pem, hashes.SHA256())
    mac.update(signing_input.encode())
    return f"{signing_input}.{_part(mac.finalize())}"


def _with_header(**header: object) -> Forge:
    return lambda issuer, audience: issuer.token(audience, header=header)


def _with_claims(**claims: Any) -> Forge:
    return lambda issuer, audience: issuer.token(audience, **claims)


def _own_key(issuer: TestIssuer, audience: str) -> str:
    key = new_key()
    header = {"alg": "ES256", "typ": "at+jwt", "kid": "k1"}
    return sign(header, issuer.claims(audience), key, "ES256")


def _embedded_own_key(issuer: TestIssuer, audience: str) -> str:
    key = new_key()
    header = {"alg": "ES256", "typ": "at+jwt", "kid": "k1", "jwk": key.as_dict(private=False)}
    return sign(header, issuer.claims(audience), key, "ES256")


def _other_algorithm(issuer: TestIssuer, audience: str) -> str:
    issuer.keys["ed"] = ("EdDSA", new_key("EdDSA"))
    return issuer.token(audience, kid="ed")


def _altered(issuer: TestIssuer, audience: str) -> str:
    head, _, signature = issuer.token(audience).split(".")
    body = _part(json.dumps(issuer.claims(audience, azp="other", sub="other")).encode())
    return f"{head}.{body}.{signature}"


def _second_spelling(issuer: TestIssuer, audience: str) -> str:
    token = issuer.token(audience)
    # The last character of 64 bytes in base64url holds four unused bits: another spelling of the same signature.
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + alphabet[alphabet.index(token[-1]) ^ 1]


def _duplicate_claim(issuer: TestIssuer, audience: str) -> str:
    claims = json.dumps(issuer.claims(audience, azp="other")).encode()
    return sign(
        {"alg": "ES256", "kid": "k1", "typ": "at+jwt"}, claims[:-1] + b',"azp":"robot"}', issuer.keys["k1"][1], "ES256"
    )


NOW = int(time.time())

TRICKS: list[tuple[str, Forge, int, str]] = [
    ("fail/alg-none", _unsigned, 401, "token_algorithm_refused"),
    ("fail/hs256-with-the-rsa-public-key", _hmac_with_public_key, 401, "token_algorithm_refused"),
    ("fail/algorithm-not-the-issuers", _other_algorithm, 401, "token_algorithm_refused"),
    ("fail/alg-in-other-case", _with_header(alg="es256"), 401, "token_algorithm_refused"),
    ("fail/signed-by-another-key", _own_key, 401, "signature_invalid"),
    ("fail/claims-altered", _altered, 401, "signature_invalid"),
    ("fail/kid-unknown", _with_header(kid="nope"), 401, "key_unknown"),
    ("fail/kid-path", _with_header(kid="../../../../dev/null"), 401, "key_unknown"),
    ("fail/kid-sql", _with_header(kid="x' UNION SELECT 'key"), 401, "key_unknown"),
    ("fail/kid-number", _with_header(kid=1), 401, "token_header_refused"),
    ("fail/kid-huge", _with_header(kid="k" * 513), 401, "token_header_refused"),
    ("fail/jwk-in-header", _embedded_own_key, 401, "token_header_refused"),
    ("fail/jku-in-header", _with_header(jku="https://evil.example/jwks"), 401, "token_header_refused"),
    ("fail/x5u-in-header", _with_header(x5u="https://evil.example/c.pem"), 401, "token_header_refused"),
    ("fail/x5c-in-header", _with_header(x5c=["MIIB"]), 401, "token_header_refused"),
    ("fail/crit-in-header", _with_header(crit=["exp"]), 401, "token_header_refused"),
    ("fail/b64-in-header", _with_header(b64=False), 401, "token_header_refused"),
    ("fail/zip-in-header", _with_header(zip="DEF"), 401, "token_header_refused"),
    ("fail/typ-id-token", _with_header(typ="JWT"), 401, "token_type_refused"),
    ("fail/typ-missing", _with_header(typ=None), 401, "token_type_refused"),
    ("fail/typ-operation-token", _with_header(typ="op+jwt"), 401, "token_type_refused"),
    ("fail/duplicate-claim", _duplicate_claim, 401, "token_malformed"),
    ("fail/second-spelling-of-the-signature", _second_spelling, 401, "token_malformed"),
    ("fail/not-a-jwt", lambda *_: "opaque-token", 401, "token_malformed"),
    ("fail/encrypted-jwt-shape", lambda *_: "eyJh.a.b.c.d", 401, "token_malformed"),
    ("fail/huge-token", lambda *_: "e" * 15_000 + ".a.b", 401, "token_malformed"),
    ("fail/issuer-unknown", _with_claims(iss="https://evil.example"), 401, "issuer_unknown"),
    ("fail/issuer-with-slash", lambda i, a: i.token(a, iss=f"{i.url}/"), 401, "issuer_unknown"),
    ("fail/issuer-in-other-case", lambda i, a: i.token(a, iss=i.url.upper()), 401, "issuer_unknown"),
    ("fail/issuer-missing", _with_claims(iss=None), 401, "issuer_unknown"),
    ("fail/issuer-list", lambda i, a: i.token(a, iss=[i.url]), 401, "issuer_unknown"),
    ("fail/aud-other-server", lambda i, a: i.token(a.replace("files", "notes")), 401, "audience_mismatch"),
    ("fail/aud-prefix", lambda i, a: i.token(a.removesuffix("/files")), 401, "audience_mismatch"),
    ("fail/aud-longer", lambda i, a: i.token(f"{a}/"), 401, "audience_mismatch"),
    ("fail/aud-sessions", lambda i, a: i.token(a.replace("/mcp/files", "/sessions")), 401, "audience_mismatch"),
    ("fail/aud-list-without-ours", lambda i, a: i.token([f"{a}x", "https://b"]), 401, "audience_mismatch"),
    ("fail/aud-empty-list", lambda i, a: i.token([]), 401, "claim_missing"),
    ("fail/aud-missing", _with_claims(aud=None), 401, "claim_missing"),
    ("fail/aud-object", _with_claims(aud={"a": 1}), 401, "claim_invalid"),
    ("fail/expired", _with_claims(iat=NOW - 400, exp=NOW - 100), 401, "token_expired"),
    ("fail/exp-missing", _with_claims(exp=None), 401, "claim_missing"),
    ("fail/exp-string", _with_claims(exp=str(NOW + 100)), 401, "claim_invalid"),
    ("fail/exp-true", _with_claims(exp=True), 401, "claim_invalid"),
    ("fail/exp-infinite", _with_claims(exp=1e300), 401, "claim_invalid"),
    ("fail/nbf-future", _with_claims(nbf=NOW + 36_000), 401, "token_not_yet_valid"),
    ("fail/iat-future", _with_claims(iat=NOW + 36_000, exp=NOW + 36_100), 401, "token_not_yet_valid"),
    ("fail/iat-missing", _with_claims(iat=None), 401, "claim_missing"),
    ("fail/lives-too-long", _with_claims(exp=NOW + 90_000), 401, "token_lifetime_excessive"),
    ("fail/sub-missing", _with_claims(sub=None), 401, "claim_missing"),
    ("fail/sub-empty", _with_claims(sub=""), 401, "claim_invalid"),
    ("fail/agent-missing", _with_claims(azp=None), 401, "claim_missing"),
    ("fail/agent-list", _with_claims(azp=["robot"]), 401, "claim_invalid"),
    ("fail/agent-unbound", _with_claims(azp="nobody"), 401, "agent_unbound"),
    ("fail/agent-in-other-case", _with_claims(azp="Robot"), 401, "agent_unbound"),
    ("fail/tenant-not-the-issuers", _with_claims(tenant="globex"), 401, "tenant_refused"),
    ("fail/tenant-missing", _with_claims(tenant=None), 401, "tenant_refused"),
    ("fail/bound-to-a-key-nobody-showed", _with_claims(cnf={"jkt": "x"}), 401, "token_binding_refused"),
    ("fail/scope-number", _with_claims(scope=7), 401, "claim_invalid"),
]


@pytest.mark.parametrize(("forge", "status", "reason"), [trick[1:] for trick in TRICKS], ids=[t[0] for t in TRICKS])
async def test_a_bad_token_is_refused_and_the_upstream_sees_nothing(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream, forge: Forge, status: int, reason: str
) -> None:
    token = forge(issuer, stack.resource())
    response = await stack.call(token, "look")
    assert response.status_code == status
    assert upstream.seen == []
    assert stack.reasons() == [reason]
    challenge = response.headers["www-authenticate"]
    assert f'resource_metadata="{stack.url}/.well-known/oauth-protected-resource/mcp/files"' in challenge
    assert 'error="invalid_token"' in challenge
    assert token not in response.text


@pytest.mark.parametrize("front", ["library"], indirect=True)
async def test_every_bad_token_is_refused_by_a_server_that_guards_itself(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    for name, forge, status, _ in TRICKS:
        response = await stack.call(forge(issuer, stack.resource()), "look")
        assert (name, response.status_code) == (name, status)
        assert 'error="invalid_token"' in response.headers["www-authenticate"]
    assert upstream.seen == []
    # Many of one address are written together, so the trail may lack the last ones still.
    assert set(stack.reasons()) <= {trick[3] for trick in TRICKS}
    assert stack.reasons()[0] == TRICKS[0][3]


both = pytest.mark.parametrize("front", FRONTS, indirect=True)


@both
async def test_a_good_token_passes(stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream) -> None:
    response = await stack.call(issuer.token(stack.resource()), "look")
    assert response.status_code == 200
    assert upstream.calls == ["look"]


async def test_an_audience_list_with_ours_passes(stack: Stack, issuer: TestIssuer) -> None:
    response = await stack.call(issuer.token(["https://else.example", stack.resource()]), "look")
    assert response.status_code == 200


@both
async def test_a_token_for_one_server_fails_at_another_with_a_warm_cache(
    stack: Stack, issuer: TestIssuer, other_upstream: RecordingUpstream
) -> None:
    token = issuer.token(stack.resource("files"))
    assert (await stack.call(token, "look", "files")).status_code == 200
    refused = await stack.call(token, "look", "notes")
    assert refused.status_code == 401
    assert other_upstream.seen == []
    assert stack.reasons() == ["audience_mismatch"]


async def test_a_cached_token_is_refused_once_it_expired(stack: Stack, issuer: TestIssuer) -> None:
    now = int(time.time())
    token = issuer.token(stack.resource(), iat=now - 10, exp=now + 2)
    assert (await stack.call(token, "look")).status_code == 200
    while time.time() < now + 2:
        assert (await stack.call(token, "look")).status_code in (200, 401)
        await asyncio.sleep(0.02)  # slower than the address limit
    response = await stack.call(token, "look")
    assert response.status_code == 401
    assert "token_expired" in stack.reasons()


async def test_a_flood_of_unknown_key_ids_fetches_the_keys_once(stack: Stack, issuer: TestIssuer) -> None:
    assert (await stack.call(issuer.token(stack.resource()), "look")).status_code == 200
    before = issuer.fetches.count("/jwks")
    for number in range(30):
        response = await stack.call(issuer.token(stack.resource(), header={"kid": f"x{number}"}), "look")
        assert response.status_code == 401
    assert issuer.fetches.count("/jwks") <= before + 1


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"authorization": "Basic cm9ib3Q6eA=="}, "credential_ambiguous"),
        ({"authorization": "Bearer"}, "credential_ambiguous"),
        ({"authorization": "Bearer a b"}, "credential_ambiguous"),
        ({"dpop": "eyJ"}, "credential_missing"),
        ({"authorization": "Bearer abc", "dpop": "eyJ"}, "credential_ambiguous"),
        ({"authorization": "DPoP abc"}, "credential_ambiguous"),
        ({"signature": "sig1=:AA==:"}, "credential_ambiguous"),
        ({"x-forwarded-client-cert": "Hash=aa"}, "credential_ambiguous"),
        ({"x-api-key": "k"}, "credential_ambiguous"),
        ({"cookie": "token=abc"}, "credential_missing"),
        ({}, "credential_missing"),
    ],
)
async def test_other_credentials_are_refused_not_ignored(
    stack: Stack, upstream: RecordingUpstream, headers: dict[str, str], reason: str
) -> None:
    response = await stack.call(None, "look", **headers)
    assert response.status_code in (400, 401)
    assert stack.reasons() == [reason]
    assert upstream.seen == []


@both
async def test_a_token_in_the_query_is_refused(stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream) -> None:
    token = issuer.token(stack.resource())
    response = await stack.http.post(
        f"{stack.resource()}?access_token={token}", content=b"{}", headers={"content-type": "application/json"}
    )
    assert response.status_code == 400
    assert upstream.seen == []


@both
async def test_the_callers_token_never_goes_upstream(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    token = issuer.token(stack.resource())
    assert (await stack.call(token, "look")).status_code == 200
    (seen,) = upstream.seen
    assert token not in str(seen.headers)
    assert token.encode() not in seen.body
    assert seen.headers.keys() <= {
        "host", "content-type", "accept", "accept-encoding", "content-length", "mcp-protocol-version", "user-agent",
    }  # fmt: skip
