"""Access tokens pass; ID, refresh, logout and event tokens do not, whatever type they give themselves."""

from __future__ import annotations

from typing import Any

import pytest

from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.jwt import SignedClaims
from twogate.core.jose.keys import Algorithm
from twogate.core.jose.kind import media_type, require_access_token

RESOURCE = "https://mcp.example.com/mcp/files"
CLAIMS: dict[str, Any] = {"iss": "https://login.example.com", "sub": "u-1", "aud": RESOURCE, "azp": "robot"}


def check(typ: str | None, pointer: str = "/azp", /, **changes: Any) -> None:
    claims = {name: value for name, value in {**CLAIMS, **changes}.items() if value is not None}
    require_access_token(SignedClaims(claims, Algorithm.ES256, "k1", typ), pointer)


def refused(typ: str | None, pointer: str = "/azp", /, **changes: Any) -> bool:
    with pytest.raises(GateError) as refusal:
        check(typ, pointer, **changes)
    return refusal.value.code is ErrorCode.TOKEN_TYPE_REFUSED


@pytest.mark.parametrize(
    ("typ", "compared"),
    [(None, None), ("at+jwt", "at+jwt"), ("Application/AT+JWT", "at+jwt"), ("JWT", "jwt"), ("", "")],
)
def test_a_type_is_compared_as_a_media_type_and_none_is_not_an_empty_one(typ: str | None, compared: str | None) -> None:
    assert media_type(typ) == compared


@pytest.mark.parametrize("typ", ["at+jwt", "JWT", None])
def test_a_plain_access_token_passes(typ: str | None) -> None:
    check(typ)
    check(typ, aud=[RESOURCE, "account"])
    check(typ, typ="Bearer")
    check(typ, typ="DPoP")
    check(typ, token_use="access")


@pytest.mark.parametrize("typ", ["at+jwt", "application/at+jwt", "JWT", None])
@pytest.mark.parametrize(
    "claims",
    [
        {"typ": "ID"},
        {"typ": "Refresh"},
        {"typ": "Offline"},
        {"typ": "Logout"},
        {"typ": "Serialized-ID"},
        {"typ": "bearer"},
        {"typ": ""},
        {"typ": 5},
        {"typ": ["Bearer"]},
        {"typ": {"Bearer": 1}},
        {"token_use": "id"},
        {"typ": "Bearer", "token_use": "id"},
        {"typ": "ID", "token_use": "access"},
    ],
    ids=str,
)
def test_what_the_issuer_says_in_a_claim_must_be_an_access_token(typ: str | None, claims: dict[str, Any]) -> None:
    assert refused(typ, **claims)


@pytest.mark.parametrize("typ", ["JWT", None, "x+jwt"])
@pytest.mark.parametrize("claim", ["nonce", "at_hash", "c_hash", "s_hash", "events"])
def test_a_claim_of_other_tokens_is_refused_in_a_token_that_does_not_say_its_kind(typ: str | None, claim: str) -> None:
    assert refused(typ, **{claim: "x"})
    check("at+jwt", **{claim: "x"})
    check(typ, typ="Bearer", **{claim: "x"})


@pytest.mark.parametrize("typ", ["JWT", None])
@pytest.mark.parametrize(
    ("pointer", "claims"),
    [
        ("/azp", {"aud": "robot"}),
        ("/azp", {"aud": ["robot"]}),
        # Keycloak's ID token, with an audience mapper that was told to add to ID tokens too.
        ("/azp", {"aud": [RESOURCE, "robot"]}),
        ("/client/id", {"client": {"id": "other"}, "aud": [RESOURCE, "other"]}),
        ("/sub", {"aud": [RESOURCE, "robot"]}),
        ("/sub", {"azp": None, "client_id": "robot", "aud": [RESOURCE, "robot"]}),
    ],
)
def test_a_token_for_its_own_client_is_refused_unless_it_says_its_kind(
    typ: str | None, pointer: str, claims: dict[str, Any]
) -> None:
    assert refused(typ, pointer, **claims)
    check("at+jwt", pointer, **claims)
    check(typ, pointer, typ="Bearer", **claims)


@pytest.mark.parametrize("audience", [None, 5, {"robot": 1}, [5, ["robot"]], [{"robot": 1}]], ids=str)
def test_an_audience_of_another_type_is_left_to_the_audience_check(audience: object) -> None:
    check("JWT", aud=audience)


@pytest.mark.parametrize("client", [None, 5, ["robot"], {"robot": 1}], ids=str)
def test_a_client_of_another_type_is_left_to_the_agents_check(client: object) -> None:
    check("JWT", azp=client)
