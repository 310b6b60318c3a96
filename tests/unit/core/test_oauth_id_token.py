"""ID tokens of an upstream provider: each thing that must hold, and every way in which it does not."""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64encode
from typing import Any

import pytest

from harness.issuer import PrivateKey, new_key, sign
from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.jwt import parse_jwt
from twogate.core.jose.keys import Algorithm, VerificationKey, parse_jwks
from twogate.core.oauth.id_token import (
    LEEWAY,
    MAX_AGE,
    IdToken,
    IdTokenRules,
    verify_id_token,
    verify_refreshed_id_token,
)

ISSUER = "https://login.example.com/realms/acme"
NOW = 1_800_000_000
NONCE = "n" * 43
ACCESS_TOKEN = "opaque-access-token"
RULES = IdTokenRules(ISSUER, "twogate", frozenset({Algorithm.ES256}))

KEYS: dict[str, PrivateKey] = {name: new_key(name) for name in ("ES256", "RS256", "PS256", "EdDSA", "Ed25519")}


def public(algorithm: str = "ES256") -> tuple[VerificationKey, ...]:
    jwk = {**KEYS[algorithm].as_dict(private=False), "kid": "k1", "alg": algorithm}
    return parse_jwks(json.dumps({"keys": [jwk]}).encode())


def token(header: dict[str, Any] | None = None, algorithm: str = "ES256", **changes: object) -> str:
    claims = {
        "iss": ISSUER, "aud": "twogate", "sub": "alice", "iat": NOW, "exp": NOW + 300, "nonce": NONCE, **changes
    }  # fmt: skip
    protected = {"alg": algorithm, "kid": "k1", **(header or {})}
    kept = {name: value for name, value in claims.items() if value is not None}
    return sign(protected, kept, KEYS[algorithm], algorithm)


def verify(
    text: str,
    *,
    rules: IdTokenRules = RULES,
    nonce: str = NONCE,
    access_token: str | None = ACCESS_TOKEN,
    now: int = NOW,
) -> IdToken:
    (algorithm,) = rules.algorithms
    return verify_id_token(
        parse_jwt(text), public(algorithm.value), rules, nonce=nonce, access_token=access_token, now=now
    )


def refusal(text: str, **options: Any) -> ErrorCode:
    with pytest.raises(GateError) as refused:
        verify(text, **options)
    return refused.value.code


def half_hash(name: str, text: str = ACCESS_TOKEN) -> str:
    digest = hashlib.new(name, text.encode()).digest()
    return urlsafe_b64encode(digest[: len(digest) // 2]).rstrip(b"=").decode()


def test_a_good_token_says_who_it_is() -> None:
    verified = verify(token(auth_time=NOW - 100, email="alice@example.com"))
    assert (verified.subject, verified.authenticated_at) == ("alice", NOW - 100)
    assert verified.claims["email"] == "alice@example.com"
    assert "alice" not in repr(verified)


@pytest.mark.parametrize("header", [{}, {"typ": "JWT"}, {"typ": "jwt"}, {"typ": "application/jwt"}])
def test_an_id_token_has_no_type_or_jwt(header: dict[str, Any]) -> None:
    assert verify(token(header)).subject == "alice"


@pytest.mark.parametrize("typ", ["at+jwt", "application/at+jwt", "AT+JWT", "logout+jwt", "dpop+jwt", "op+jwt", ""])
def test_every_other_type_is_something_else(typ: str) -> None:
    assert refusal(token({"typ": typ})) is ErrorCode.TOKEN_TYPE_REFUSED


@pytest.mark.parametrize(
    "claims",
    [{"typ": "Bearer"}, {"typ": "Refresh"}, {"typ": "Logout"}, {"token_use": "access"}, {"events": {"x": {}}}],
)
def test_a_token_that_says_that_it_is_no_id_token_is_none(claims: dict[str, Any]) -> None:
    assert refusal(token(**claims)) is ErrorCode.TOKEN_TYPE_REFUSED


@pytest.mark.parametrize("claims", [{"typ": "ID"}, {"token_use": "id"}])
def test_a_token_that_says_that_it_is_one_is(claims: dict[str, Any]) -> None:
    assert verify(token(**claims)).subject == "alice"


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "EdDSA", "Ed25519"])
def test_each_algorithm_verifies_where_it_is_configured_and_nowhere_else(algorithm: str) -> None:
    rules = IdTokenRules(ISSUER, "twogate", frozenset({Algorithm(algorithm)}))
    text = token(algorithm=algorithm)
    assert verify(text, rules=rules).subject == "alice"
    with pytest.raises(GateError) as refused:
        verify_id_token(parse_jwt(text), public(algorithm), RULES, nonce=NONCE, access_token=ACCESS_TOKEN, now=NOW)
    assert refused.value.code is ErrorCode.TOKEN_ALGORITHM_REFUSED


def test_a_changed_signature_is_refused() -> None:
    head, body, _ = token().split(".")
    other = token(sub="mallory").rpartition(".")[2]
    assert refusal(f"{head}.{body}.{other}") is ErrorCode.SIGNATURE_INVALID


def test_a_key_that_the_provider_does_not_have_is_refused() -> None:
    assert refusal(token({"kid": "k2"})) is ErrorCode.KEY_UNKNOWN


@pytest.mark.parametrize("issuer", [None, "", f"{ISSUER}/", ISSUER.upper(), "https://evil.example", [ISSUER]])
def test_the_issuer_is_compared_character_by_character(issuer: object) -> None:
    assert refusal(token(iss=issuer)) is ErrorCode.ISSUER_UNKNOWN


def test_an_audience_of_us_alone_may_be_a_list() -> None:
    assert verify(token(aud=["twogate"], azp="twogate")).subject == "alice"


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": None},
        {"aud": "other"},
        {"aud": []},
        {"aud": ["twogate", "other"]},
        {"aud": ["other", "twogate"]},
        {"aud": ["twogate", "twogate"]},
        {"aud": {"twogate": 1}},
        {"aud": "twogate "},
        {"azp": "other"},
        {"aud": ["twogate"], "azp": ""},
    ],
)
def test_a_token_of_another_client_too_is_refused(claims: dict[str, Any]) -> None:
    assert refusal(token(**claims)) is ErrorCode.AUDIENCE_MISMATCH


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"sub": None}, ErrorCode.CLAIM_MISSING),
        ({"sub": ""}, ErrorCode.CLAIM_INVALID),
        ({"sub": 7}, ErrorCode.CLAIM_INVALID),
        ({"sub": ["alice"]}, ErrorCode.CLAIM_INVALID),
        ({"sub": "a" * 256}, ErrorCode.CLAIM_MISSING),
        ({"sub": "a\u202eb"}, ErrorCode.CLAIM_INVALID),
        ({"exp": None}, ErrorCode.CLAIM_MISSING),
        ({"iat": None}, ErrorCode.CLAIM_MISSING),
        ({"exp": "soon"}, ErrorCode.CLAIM_INVALID),
        ({"exp": NOW - LEEWAY}, ErrorCode.TOKEN_EXPIRED),
        ({"iat": NOW + LEEWAY + 1}, ErrorCode.TOKEN_NOT_YET_VALID),
        ({"nbf": NOW + LEEWAY + 1}, ErrorCode.TOKEN_NOT_YET_VALID),
        ({"iat": NOW - MAX_AGE - LEEWAY - 1}, ErrorCode.TOKEN_EXPIRED),
        ({"auth_time": "yesterday"}, ErrorCode.CLAIM_INVALID),
    ],
)
def test_what_is_missing_of_another_type_or_out_of_time_is_refused(claims: dict[str, Any], code: ErrorCode) -> None:
    assert refusal(token(**claims)) is code


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": NOW - LEEWAY + 1},
        {"iat": NOW + LEEWAY},
        {"nbf": NOW + LEEWAY},
        {"iat": NOW - MAX_AGE - LEEWAY},
    ],
)
def test_clocks_may_differ_a_little(claims: dict[str, Any]) -> None:
    assert verify(token(**claims)).subject == "alice"


def test_a_login_that_the_provider_dates_ahead_counts_as_now() -> None:
    assert verify(token(auth_time=NOW + 20)).authenticated_at == NOW
    assert verify(token()).authenticated_at is None


@pytest.mark.parametrize("nonce", [None, "", "other", NONCE + "n", NONCE[:-1], 7, [NONCE]])
def test_a_token_of_another_login_is_refused(nonce: object) -> None:
    assert refusal(token(nonce=nonce)) is ErrorCode.CLAIM_INVALID


@pytest.mark.parametrize(
    ("algorithm", "name"), [("ES256", "sha256"), ("RS256", "sha256"), ("PS256", "sha256"), ("EdDSA", "sha512")]
)
def test_the_hash_of_the_access_token_is_checked_where_there_is_one(algorithm: str, name: str) -> None:
    rules = IdTokenRules(ISSUER, "twogate", frozenset({Algorithm(algorithm)}))
    good = token(algorithm=algorithm, at_hash=half_hash(name))
    assert verify(good, rules=rules).subject == "alice"
    assert refusal(good, rules=rules, access_token="another") is ErrorCode.CLAIM_INVALID
    assert refusal(good, rules=rules, access_token=None) is ErrorCode.CLAIM_INVALID
    for bad in (half_hash(name, "another"), half_hash(name)[:-1], "", 7):
        assert refusal(token(algorithm=algorithm, at_hash=bad), rules=rules) is ErrorCode.CLAIM_INVALID


def test_a_refreshed_token_needs_no_nonce_and_everything_else() -> None:
    def refreshed(text: str, now: int = NOW) -> IdToken:
        return verify_refreshed_id_token(parse_jwt(text), public(), RULES, access_token=ACCESS_TOKEN, now=now)

    assert refreshed(token(nonce=None)).subject == "alice"
    assert refreshed(token(nonce="of the first login")).subject == "alice"
    for claims, code in (
        ({"aud": "other"}, ErrorCode.AUDIENCE_MISMATCH),
        ({"iss": "https://evil.example"}, ErrorCode.ISSUER_UNKNOWN),
        ({"exp": NOW - LEEWAY}, ErrorCode.TOKEN_EXPIRED),
        ({"at_hash": half_hash("sha256", "x")}, ErrorCode.CLAIM_INVALID),
    ):
        with pytest.raises(GateError) as refused:
            refreshed(token(**claims))
        assert refused.value.code is code


@pytest.mark.parametrize(
    ("issuer", "client_id", "algorithms"),
    [("", "twogate", {Algorithm.ES256}), (ISSUER, "", {Algorithm.ES256}), (ISSUER, "twogate", set())],
)
def test_rules_that_would_let_anything_in_are_a_mistake_of_ours(
    issuer: str, client_id: str, algorithms: set[Algorithm]
) -> None:
    with pytest.raises(ValueError, match="ID token"):
        IdTokenRules(issuer, client_id, frozenset(algorithms))
