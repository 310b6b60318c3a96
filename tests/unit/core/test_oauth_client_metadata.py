"""Client metadata (RFC 7591 section 2): what registers, and what its developer is told otherwise."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey, OctKey

from tokenlab import public_jwks
from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.client_auth import AuthMethod
from twogate.core.oauth.client_metadata import (
    MAX_KEYS,
    MAX_NAME,
    MAX_REDIRECT_URIS,
    MetadataRules,
    parse_metadata,
)
from twogate.core.oauth.grant_type import GrantType

PEOPLE = frozenset({GrantType.AUTHORIZATION_CODE, GrantType.REFRESH_TOKEN, GrantType.DEVICE_CODE})
RULES = MetadataRules(frozenset(AuthMethod), AuthMethod.BASIC, PEOPLE, jwks_uri=False)
WITH_URI = MetadataRules(
    frozenset({AuthMethod.NONE, AuthMethod.PRIVATE_KEY_JWT}), AuthMethod.NONE, PEOPLE, jwks_uri=True
)
KEYS: dict[str, Any] = json.loads(public_jwks(ec.generate_private_key(ec.SECP256R1())))
CALLBACK = ["https://app.example/cb"]


def refused(members: dict[str, object], rules: MetadataRules = RULES) -> tuple[ErrorCode, str]:
    with pytest.raises(GateError) as caught:
        parse_metadata({"redirect_uris": CALLBACK, **members}, rules)
    assert caught.value.data is not None
    return caught.value.code, str(caught.value.data["description"])


def test_the_defaults_are_those_of_the_rfc() -> None:
    metadata = parse_metadata({"redirect_uris": CALLBACK}, RULES)
    assert metadata.method is AuthMethod.BASIC
    assert metadata.grants == {GrantType.AUTHORIZATION_CODE}
    assert metadata.redirect_uris == tuple(CALLBACK)
    assert metadata.name == ""


def test_what_a_real_client_sends_registers() -> None:
    metadata = parse_metadata(
        {
            "client_name": "Visual Studio Code",
            "client_uri": "https://code.visualstudio.com",
            "grant_types": ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"],
            "response_types": ["code"],
            "redirect_uris": ["https://vscode.dev/redirect", "http://localhost/", "http://127.0.0.1:33418/"],
            "token_endpoint_auth_method": "none",
            "application_type": "native",
            "scope": "reports",
        },
        RULES,
    )
    assert (metadata.name, metadata.method, metadata.grants) == ("Visual Studio Code", AuthMethod.NONE, PEOPLE)
    assert metadata.application_type == "native"


def test_grants_that_are_not_for_such_clients_are_left_out() -> None:
    asked = ["authorization_code", "client_credentials", "implicit", "urn:ietf:params:oauth:grant-type:token-exchange"]
    metadata = parse_metadata({"redirect_uris": CALLBACK, "grant_types": asked}, RULES)
    assert metadata.grants == {GrantType.AUTHORIZATION_CODE}


@pytest.mark.parametrize("asked", [[], ["client_credentials"], ["refresh_token"], ["implicit", "password"]])
def test_a_client_that_asks_for_no_grant_it_may_have_is_told_which_there_are(asked: list[str]) -> None:
    code, description = refused({"grant_types": asked})
    assert code is ErrorCode.CLIENT_METADATA_INVALID
    assert "authorization_code" in description


def test_a_device_client_needs_no_redirect_uri() -> None:
    metadata = parse_metadata({"grant_types": [GrantType.DEVICE_CODE.value], "response_types": []}, RULES)
    assert metadata.redirect_uris == ()


@pytest.mark.parametrize(
    "uris",
    [
        None,
        [],
        "https://app.example/cb",
        {"0": "https://app.example/cb"},
        [1],
        [None],
        ["http://app.example/cb"],
        ["https://app.example/cb", "javascript:alert(1)"],
        [f"https://app.example/{n}" for n in range(MAX_REDIRECT_URIS + 1)],
    ],
)
def test_bad_redirect_uris_are_refused_as_such(uris: object) -> None:
    code, description = refused({"redirect_uris": uris})
    assert code is ErrorCode.REDIRECT_INVALID
    assert "redirect" in description


def test_a_refusal_names_the_place_and_quotes_nothing() -> None:
    _, description = refused({"redirect_uris": [*CALLBACK, "myapp://evil"]})
    assert description.startswith("redirect_uris[1]: ")
    assert "evil" not in description


def test_a_redirect_uri_that_is_given_twice_counts_once() -> None:
    assert parse_metadata({"redirect_uris": CALLBACK * 2}, RULES).redirect_uris == tuple(CALLBACK)


@pytest.mark.parametrize(
    ("member", "value", "hint"),
    [
        ("token_endpoint_auth_method", "client_secret_jwt", "must be one of"),
        ("token_endpoint_auth_method", "tls_client_auth", "must be one of"),
        ("token_endpoint_auth_method", ["none"], "must be one of"),
        ("token_endpoint_auth_method", 1, "must be one of"),
        ("grant_types", "authorization_code", "list"),
        ("grant_types", ["authorization_code", 7], "list"),
        ("grant_types", ["x"] * 51, "at most 50"),
        ("response_types", ["token"], "must have code"),
        ("response_types", "code", "list"),
        ("application_type", "desktop", "native or web"),
        ("application_type", 1, "native or web"),
        ("client_name", 1, "text"),
        ("client_name", "", "printable"),
        ("client_name", " x", "blanks"),
        ("client_name", "a\nb", "printable"),
        ("client_name", "safe\u202egnp.exe", "printable"),
        ("client_name", "zero\u200bwidth", "printable"),
        ("client_name", "x" * (MAX_NAME + 1), "100"),
    ],
)
def test_a_wrong_member_is_refused_by_its_name(member: str, value: object, hint: str) -> None:
    code, description = refused({member: value})
    assert code is ErrorCode.CLIENT_METADATA_INVALID
    assert description.startswith(member)
    assert hint in description


def test_names_in_any_script_are_good() -> None:
    for name in ("日本語アプリ", "Büro & Söhne <GmbH>", "x" * MAX_NAME):
        assert parse_metadata({"redirect_uris": CALLBACK, "client_name": name}, RULES).name == name


def private(key: dict[str, Any]) -> dict[str, Any]:
    return {"keys": [key]}


@pytest.mark.parametrize(
    ("rules", "members"),
    [
        (RULES, {}),
        (RULES, {"jwks_uri": "https://app.example/jwks"}),
        (RULES, {"jwks_uri": "https://app.example/jwks", "jwks": KEYS}),
        (WITH_URI, {}),
        (WITH_URI, {"jwks_uri": "https://app.example/jwks", "jwks": KEYS}),
        (WITH_URI, {"jwks_uri": "http://app.example/jwks"}),
        (WITH_URI, {"jwks_uri": 1}),
        (RULES, {"jwks": "https://app.example/jwks"}),
        (RULES, {"jwks": {"keys": []}}),
        (RULES, {"jwks": {"keys": KEYS["keys"] * (MAX_KEYS + 1)}}),
        (RULES, {"jwks": {"keys": ["x"]}}),
        (RULES, {"jwks": {"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}}),
        (RULES, {"jwks": private(ECKey.generate_key("P-256").as_dict(private=True))}),
        (RULES, {"jwks": private(OctKey.generate_key(256).as_dict(private=True))}),
        (RULES, {"jwks": {"keys": [*KEYS["keys"], {"kty": "oct", "k": "c2VjcmV0"}]}}),
    ],
)
def test_a_client_with_a_key_registers_public_keys_and_nothing_else(
    rules: MetadataRules, members: dict[str, object]
) -> None:
    code, description = refused({"token_endpoint_auth_method": "private_key_jwt", **members}, rules)
    assert code is ErrorCode.CLIENT_METADATA_INVALID
    assert "jwks" in description


def test_keys_are_kept_for_a_client_that_uses_them_and_for_no_other() -> None:
    members: dict[str, object] = {"redirect_uris": CALLBACK, "jwks": KEYS}
    kept = parse_metadata({**members, "token_endpoint_auth_method": "private_key_jwt"}, RULES).jwks
    assert kept is not None
    assert json.loads(kept) == KEYS
    assert parse_metadata({**members, "token_endpoint_auth_method": "none"}, RULES).jwks is None


def test_a_jwks_uri_is_kept_where_it_may_be_read() -> None:
    members: dict[str, object] = {
        "redirect_uris": CALLBACK,
        "token_endpoint_auth_method": "private_key_jwt",
        "jwks_uri": "https://app.example/jwks",
    }
    assert parse_metadata(members, WITH_URI).jwks_uri == "https://app.example/jwks"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
MEMBERS = st.sampled_from(
    ["redirect_uris", "grant_types", "response_types", "client_name", "jwks", "jwks_uri", "application_type"]
)


@given(st.dictionaries(MEMBERS, JSON), st.sampled_from([RULES, WITH_URI]), st.sampled_from(AuthMethod))
def test_any_json_is_judged_without_another_error(
    members: dict[str, object], rules: MetadataRules, method: AuthMethod
) -> None:
    try:
        outcome: object = parse_metadata({**members, "token_endpoint_auth_method": method.value}, rules).grants
    except GateError as error:
        outcome = error.data if error.code in (ErrorCode.CLIENT_METADATA_INVALID, ErrorCode.REDIRECT_INVALID) else None
    assert outcome
