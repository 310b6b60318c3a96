"""Identity assertion authorization grants: what one says, and every way in which one is not good."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.issuer import new_key, sign
from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.jwt import parse_jwt
from twogate.core.jose.keys import Algorithm, parse_jwks
from twogate.core.oauth.id_jag import MAX_RESOURCES, IdJagIssuer, VerifiedIdJag, verify_id_jag

NOW = 1_800_000_000
US = "https://mcp.example.com"
FILES = f"{US}/mcp/files"
IDP = "https://idp.acme.example"
KEY = new_key()
KEYS = parse_jwks(json.dumps({"keys": [{**KEY.as_dict(private=False), "kid": "k1"}]}).encode())
ISSUER = IdJagIssuer(IDP, "acme", frozenset({Algorithm.ES256}), 300, "/email", "/groups")


def assertion(header: dict[str, Any] | None = None, **changes: Any) -> str:
    claims = {
        "iss": IDP,
        "sub": "U019488227",
        "aud": US,
        "client_id": "host",
        "jti": "9e43f81b64a33f20116179",
        "iat": NOW,
        "exp": NOW + 300,
        "resource": FILES,
        "scope": "reports admin reports",
        "email": "alice@acme.example",
        "groups": ["finance"],
        "auth_time": NOW - 100,
        **changes,
    }
    claims = {name: value for name, value in claims.items() if value is not None}
    return sign({"alg": "ES256", "kid": "k1", "typ": "oauth-id-jag+jwt", **(header or {})}, claims, KEY, "ES256")


def verify(text: str, issuer: IdJagIssuer = ISSUER, proof: str | None = None) -> VerifiedIdJag:
    return verify_id_jag(parse_jwt(text), issuer, "host", KEYS, US, proof, NOW)


def test_a_good_assertion_says_who_where_and_what() -> None:
    assert verify(assertion()) == VerifiedIdJag(
        issuer=IDP,
        subject="U019488227",
        jti="9e43f81b64a33f20116179",
        replayable_until=NOW + 330,
        resources=(FILES,),
        scopes=("reports", "admin"),
        name="alice@acme.example",
        groups=("finance",),
        authenticated_at=NOW - 100,
    )


def test_only_what_the_operator_points_at_is_taken_of_the_person() -> None:
    verified = verify(assertion(), IdJagIssuer(IDP, "acme", frozenset({Algorithm.ES256}), 300))
    assert (verified.name, verified.groups) == (None, None)


def test_groups_that_are_pointed_at_and_left_out_are_none() -> None:
    assert verify(assertion(groups=None)).groups == ()


def test_without_scopes_there_are_none() -> None:
    assert verify(assertion(scope=None)).scopes == ()


def test_several_resources_may_be_named() -> None:
    assert verify(assertion(resource=[FILES, f"{US}/mcp/git"])).resources == (FILES, f"{US}/mcp/git")


def test_a_bound_assertion_needs_the_proof_of_its_key() -> None:
    assert verify(assertion(cnf={"jkt": "thumb"}), proof="thumb").subject == "U019488227"
    with pytest.raises(GateError) as refusal:
        verify(assertion(cnf={"jkt": "thumb"}), proof="other")
    assert refusal.value.code is ErrorCode.TOKEN_BINDING_REFUSED


@pytest.mark.parametrize(
    "typ", [None, "JWT", "at+jwt", "client-authentication+jwt", "id-jag+jwt", "oauth-id-jag", "oauth-id-jag+jwt "]
)
def test_every_other_type_is_refused(typ: str | None) -> None:
    text = assertion({"typ": typ}) if typ is not None else sign({"alg": "ES256"}, {"iss": IDP}, KEY, "ES256")
    with pytest.raises(GateError) as refusal:
        verify(text)
    assert refusal.value.code is ErrorCode.TOKEN_TYPE_REFUSED


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"iss": "https://other.example"}, ErrorCode.ISSUER_UNKNOWN),
        ({"iss": None}, ErrorCode.ISSUER_UNKNOWN),
        ({"aud": None}, ErrorCode.CLAIM_MISSING),
        ({"aud": f"{US}/token"}, ErrorCode.AUDIENCE_MISMATCH),
        ({"aud": f"{US}/"}, ErrorCode.AUDIENCE_MISMATCH),
        ({"aud": FILES}, ErrorCode.AUDIENCE_MISMATCH),
        ({"aud": [US, "https://other.example"]}, ErrorCode.AUDIENCE_MISMATCH),
        ({"client_id": "other"}, ErrorCode.GRANT_INVALID),
        ({"client_id": None}, ErrorCode.GRANT_INVALID),
        ({"client_id": ["host"]}, ErrorCode.GRANT_INVALID),
        ({"exp": None}, ErrorCode.CLAIM_MISSING),
        ({"exp": NOW - 30}, ErrorCode.TOKEN_EXPIRED),
        ({"exp": NOW + 3600}, ErrorCode.TOKEN_LIFETIME_EXCESSIVE),
        ({"iat": None}, ErrorCode.CLAIM_MISSING),
        ({"iat": NOW - 3600}, ErrorCode.TOKEN_LIFETIME_EXCESSIVE),
        ({"nbf": NOW + 60}, ErrorCode.TOKEN_NOT_YET_VALID),
        ({"sub": None}, ErrorCode.CLAIM_MISSING),
        ({"sub": ""}, ErrorCode.CLAIM_INVALID),
        ({"sub": "a\nb"}, ErrorCode.CLAIM_INVALID),
        ({"jti": None}, ErrorCode.CLAIM_MISSING),
        ({"jti": 5}, ErrorCode.CLAIM_INVALID),
        ({"resource": None}, ErrorCode.CLAIM_MISSING),
        ({"resource": []}, ErrorCode.CLAIM_MISSING),
        ({"resource": {"a": 1}}, ErrorCode.CLAIM_INVALID),
        ({"resource": [f"{US}/{n}" for n in range(MAX_RESOURCES + 1)]}, ErrorCode.CLAIM_INVALID),
        ({"scope": 5}, ErrorCode.CLAIM_INVALID),
        ({"cnf": {"jkt": "x"}}, ErrorCode.TOKEN_BINDING_REFUSED),
        ({"cnf": {}}, ErrorCode.TOKEN_BINDING_REFUSED),
        ({"email": ["a"]}, ErrorCode.CLAIM_INVALID),
        ({"groups": "finance"}, ErrorCode.CLAIM_INVALID),
    ],
)
def test_a_claim_that_is_not_as_it_must_be_is_refused(changes: dict[str, Any], code: ErrorCode) -> None:
    with pytest.raises(GateError) as refusal:
        verify(assertion(**changes))
    assert refusal.value.code is code


def test_an_issuer_without_algorithms_is_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match="needs a name"):
        IdJagIssuer(IDP, "acme", frozenset(), 300)
