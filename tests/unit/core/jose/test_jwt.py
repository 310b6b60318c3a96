"""JWS verification: the RFC's own examples, every trick with the header, and the one spelling that a token has."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.issuer import PrivateKey, new_key, sign
from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.jwt import MAX_TOKEN, parse_jwt, verify_jwt
from twogate.core.jose.keys import Algorithm, VerificationKey, parse_jwks
from vectors import rfc7515

ES256 = frozenset({Algorithm.ES256})
EVERY = frozenset(Algorithm)
KEY = new_key()
RSA = new_key("RS256")
ED = new_key("EdDSA")
CLAIMS = {"iss": "https://login.example.com", "sub": "robot"}
HEADER = {"alg": "ES256", "kid": "k1", "typ": "at+jwt"}


def keys_of(*private: PrivateKey, **members: Any) -> tuple[VerificationKey, ...]:
    entries = [{**key.as_dict(private=False), "kid": f"k{n}", **members} for n, key in enumerate(private, 1)]
    return parse_jwks(json.dumps({"keys": entries}).encode())


def token(header: dict[str, Any] | None = None, claims: dict[str, Any] | bytes | None = None) -> str:
    return sign(HEADER if header is None else header, CLAIMS if claims is None else claims, KEY, "ES256")


def parsed_code(text: str) -> ErrorCode:
    with pytest.raises(GateError) as refusal:
        parse_jwt(text)
    return refusal.value.code


def verified_code(
    text: str, keys: tuple[VerificationKey, ...] = keys_of(KEY), algorithms: frozenset[Algorithm] = ES256
) -> ErrorCode:
    with pytest.raises(GateError) as refusal:
        verify_jwt(parse_jwt(text), keys, algorithms)
    return refusal.value.code


def part(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


# The RFC's examples.


@pytest.mark.parametrize(
    ("text", "key", "algorithm"),
    [
        (rfc7515.A2_TOKEN, rfc7515.A2_KEY, Algorithm.RS256),
        (rfc7515.A3_TOKEN, rfc7515.A3_KEY, Algorithm.ES256),
    ],
    ids=["A.2 RS256", "A.3 ES256"],
)
def test_the_examples_of_rfc_7515_verify(text: str, key: dict[str, str], algorithm: Algorithm) -> None:
    signed = verify_jwt(parse_jwt(text), parse_jwks(json.dumps({"keys": [key]}).encode()), EVERY)
    assert signed.claims == rfc7515.CLAIMS
    assert (signed.algorithm, signed.kid, signed.type) == (algorithm, None, None)


def test_the_examples_of_rfc_7515_without_a_public_key_signature_are_refused() -> None:
    keys = json.dumps({"keys": [rfc7515.A1_KEY, rfc7515.A2_KEY, rfc7515.A3_KEY]}).encode()
    assert verified_code(rfc7515.A1_TOKEN, parse_jwks(keys), EVERY) is ErrorCode.TOKEN_ALGORITHM_REFUSED
    assert parsed_code(rfc7515.A5_TOKEN) is ErrorCode.TOKEN_MALFORMED


@pytest.mark.parametrize("text", [rfc7515.A2_TOKEN, rfc7515.A3_TOKEN], ids=["A.2", "A.3"])
def test_no_single_changed_character_of_an_example_verifies(text: str) -> None:
    keys = parse_jwks(json.dumps({"keys": [rfc7515.A2_KEY, rfc7515.A3_KEY]}).encode())
    refused = {ErrorCode.TOKEN_MALFORMED, ErrorCode.TOKEN_HEADER_REFUSED, ErrorCode.SIGNATURE_INVALID}
    refused |= {ErrorCode.TOKEN_ALGORITHM_REFUSED, ErrorCode.KEY_UNKNOWN}
    for index, character in enumerate(text):
        changed = text[:index] + ("A" if character != "A" else "B") + text[index + 1 :]
        with pytest.raises(GateError) as refusal:
            verify_jwt(parse_jwt(changed), keys, EVERY)
        assert refusal.value.code in refused


# What only selects a key, and what comes out.


def test_before_verification_only_what_selects_a_key_can_be_seen() -> None:
    jwt = parse_jwt(token())
    assert (jwt.unverified_algorithm, jwt.unverified_kid, jwt.unverified_type) == ("ES256", "k1", "at+jwt")
    assert jwt.unverified_issuer == "https://login.example.com"
    assert set(jwt.__struct_fields__) == {
        "token", "unverified_algorithm", "unverified_kid", "unverified_type", "unverified_issuer",
        "unverified_subject",
    }  # fmt: skip


@pytest.mark.parametrize("issuer", [None, 5, ["https://login.example.com"], {"a": 1}, True])
def test_an_issuer_that_is_no_string_selects_nothing(issuer: object) -> None:
    assert parse_jwt(token(claims={"iss": issuer})).unverified_issuer is None


@pytest.mark.parametrize(("kind", "key"), [("ES256", KEY), ("RS256", RSA), ("PS256", RSA), ("EdDSA", ED)])
def test_each_algorithm_verifies_with_its_own_key_alone(kind: str, key: PrivateKey) -> None:
    text = sign({"alg": kind}, CLAIMS, key, kind)
    assert verify_jwt(parse_jwt(text), keys_of(KEY, RSA, ED), EVERY).algorithm == kind
    assert verified_code(text, tuple(k for k in keys_of(KEY, RSA, ED) if kind not in k.algorithms), EVERY) is (
        ErrorCode.KEY_UNKNOWN
    )
    assert verified_code(text, keys_of(KEY, RSA, ED), EVERY - {Algorithm(kind)}) is ErrorCode.TOKEN_ALGORITHM_REFUSED


@pytest.mark.parametrize("kind", ["ES256", "RS256", "EdDSA"])
def test_another_key_of_the_same_kind_does_not_verify(kind: str) -> None:
    text = sign({"alg": kind}, CLAIMS, new_key(kind), kind)
    assert verified_code(text, keys_of(new_key(kind)), EVERY) is ErrorCode.SIGNATURE_INVALID


def test_an_empty_set_of_algorithms_is_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match="empty algorithm list"):
        verify_jwt(parse_jwt(token()), keys_of(KEY), frozenset())


# Which key.


def test_a_kid_that_no_key_has_is_unknown_even_if_a_key_would_verify() -> None:
    assert verified_code(token({**HEADER, "kid": "k2"})) is ErrorCode.KEY_UNKNOWN
    assert verified_code(token(), ()) is ErrorCode.KEY_UNKNOWN


def test_two_keys_with_one_kid_are_no_key() -> None:
    assert verified_code(token(), keys_of(KEY, new_key(), kid="k1")) is ErrorCode.KEY_UNKNOWN


def test_two_keys_with_one_kid_but_different_kinds_are_told_apart_by_the_algorithm() -> None:
    assert verify_jwt(parse_jwt(token()), keys_of(KEY, RSA, kid="k1"), EVERY).kid == "k1"


def test_without_kid_the_only_key_that_fits_is_meant_and_several_are_none() -> None:
    text = token({"alg": "ES256"})
    assert verify_jwt(parse_jwt(text), keys_of(KEY), ES256).kid is None
    assert verified_code(text, keys_of(KEY, new_key())) is ErrorCode.KEY_UNKNOWN


def test_a_key_without_kid_is_not_meant_by_a_token_that_names_one() -> None:
    assert verified_code(token(), parse_jwks(json.dumps({"keys": [KEY.as_dict(private=False)]}).encode())) is (
        ErrorCode.KEY_UNKNOWN
    )


# Tricks with the header.


@pytest.mark.parametrize(
    "added",
    [
        pytest.param({"jwk": KEY.as_dict(private=False)}, id="jwk"),
        {"jku": "https://evil.example/jwks"},
        {"x5u": "https://evil.example/x5u"},
        {"x5c": ["MIIB"]},
        {"crit": []},
        {"crit": ["exp"], "exp": 1},
        {"b64": False, "crit": ["b64"]},
        {"zip": "DEF"},
        {"cty": "JWT"},
        {"enc": "A256GCM"},
        {"epk": {}},
        {"Alg": "none"},
        {"url": "https://x"},
        {"nonce": "x"},
        {"": ""},
    ],
    ids=str,
)
def test_a_header_parameter_that_is_not_on_the_list_is_refused(added: dict[str, Any]) -> None:
    # RFC 8725 sections 3.1 and 3.10.
    assert parsed_code(token({**HEADER, **added})) is ErrorCode.TOKEN_HEADER_REFUSED


@pytest.mark.parametrize(
    "changed",
    [
        {"alg": None},
        {"alg": 5},
        {"alg": ["ES256"]},
        {"kid": 7},
        {"kid": ""},
        {"kid": "k" * 513},
        {"kid": {}},
        {"typ": 5},
        {"typ": ["at+jwt"]},
    ],
    ids=str,
)
def test_a_header_parameter_of_a_wrong_type_is_refused(changed: dict[str, Any]) -> None:
    assert parsed_code(token({**HEADER, **changed})) is ErrorCode.TOKEN_HEADER_REFUSED


def test_a_header_without_alg_is_refused() -> None:
    assert parsed_code(token({"kid": "k1"})) is ErrorCode.TOKEN_HEADER_REFUSED


@pytest.mark.parametrize(
    "name", ["none", "None", "NONE", "nOnE", "", "HS256", "HS512", "es256", "ES384", "RS1", "ES256 "]
)
def test_algorithms_that_do_not_exist_here_are_refused(name: str) -> None:
    text = f"{part({'alg': name, 'kid': 'k1'})}.{part(CLAIMS)}.AAAA"
    assert verified_code(text, keys_of(KEY), EVERY) is ErrorCode.TOKEN_ALGORITHM_REFUSED


def test_an_hmac_keyed_with_the_public_key_is_refused() -> None:
    import hashlib
    import hmac

    pem = RSA.as_pem(private=False)
    signing_input = f"{part({'alg': 'HS256', 'kid': 'k1'})}.{part(CLAIMS)}"
    mac = part(hmac.digest(pem, signing_input.encode(), hashlib.sha256))
    assert verified_code(f"{signing_input}.{mac}", keys_of(RSA), EVERY) is ErrorCode.TOKEN_ALGORITHM_REFUSED


def test_an_rsa_signature_announced_as_another_algorithm_is_refused() -> None:
    assert verified_code(sign({"alg": "PS256"}, CLAIMS, RSA, "RS256"), keys_of(RSA), EVERY) is (
        ErrorCode.SIGNATURE_INVALID
    )
    assert verified_code(sign({"alg": "ES256"}, CLAIMS, RSA, "RS256"), keys_of(RSA), EVERY) is ErrorCode.KEY_UNKNOWN


@pytest.mark.parametrize("signature", [b"", b"\0", bytes(64), bytes(63), bytes(65), b"\xff" * 64], ids=len)
def test_a_signature_of_zeros_or_of_another_length_is_refused(signature: bytes) -> None:
    # All zeros is CVE-2022-21449.
    head, body, _ = token().split(".")
    text = f"{head}.{body}.{part(signature)}"
    expected = ErrorCode.SIGNATURE_INVALID if signature else ErrorCode.TOKEN_MALFORMED
    with pytest.raises(GateError) as refusal:
        verify_jwt(parse_jwt(text), keys_of(KEY), ES256)
    assert refusal.value.code is expected


def test_a_der_signature_is_refused() -> None:
    # RFC 7518 section 3.4: r and s as 64 bytes, not ASN.1.
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    head, body, _ = token().split(".")
    private = KEY.private_key
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    der = private.sign(f"{head}.{body}".encode(), ec.ECDSA(hashes.SHA256()))
    assert verified_code(f"{head}.{body}.{part(der)}") is ErrorCode.SIGNATURE_INVALID


# One spelling.


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "a.b",
        "a.b.c.d",
        "a.b.c.d.e",
        "{}.{}.{}",
        f"{part(HEADER)}..AAAA",
        f".{part(CLAIMS)}.AAAA",
        f"{part(HEADER)}.{part(CLAIMS)}.",
        f"{part(HEADER)}=.{part(CLAIMS)}.AAAA",
        f" {part(HEADER)}.{part(CLAIMS)}.AAAA",
        f"{part(HEADER)}.{part(CLAIMS)}.AAAA\n",
        f"{part(HEADER)}.{part(CLAIMS)}.AA+A",
        f"{part(HEADER)}.{part(CLAIMS)}.AA/A",
        f"{part(HEADER)}.{part(CLAIMS)}.ÄAAA",
        f"{part([])}.{part(CLAIMS)}.AAAA",
        f"{part('text')}.{part(CLAIMS)}.AAAA",
        f"{part(HEADER)}.{part([CLAIMS])}.AAAA",
        f"{part(HEADER)}.{part(b'not json')}.AAAA",
        f"{part(HEADER)}.{part(b'{}{}')}.AAAA",
        f"{part(b'x' * 601)}.{part(CLAIMS)}.AAAA",
        f"{part(HEADER)}.{part(CLAIMS)}.{'A' * 1404}",
        f"{part(HEADER)}.{part(b' ' * MAX_TOKEN)}.AAAA",
        f"{part(HEADER)}.{part(b'[' * 5000)}.AAAA",
    ],
    ids=range(25),
)
def test_what_is_no_compact_jws_of_objects_is_malformed(text: str) -> None:
    assert parsed_code(text) is ErrorCode.TOKEN_MALFORMED


def test_a_member_named_twice_is_refused_in_header_and_claims() -> None:
    twice = b'{"alg":"none","alg":"ES256"}'
    assert parsed_code(f"{part(twice)}.{part(CLAIMS)}.AAAA") is ErrorCode.TOKEN_MALFORMED
    assert parsed_code(token(claims=b'{"iss":"a","iss":"b"}')) is ErrorCode.TOKEN_MALFORMED
    assert parsed_code(token(claims=b'{"iss":"a","a":{"b":1,"\\u0062":2}}')) is ErrorCode.TOKEN_MALFORMED


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity"])
def test_numbers_that_json_lacks_are_refused(number: bytes) -> None:
    assert parsed_code(token(claims=b'{"iss":"a","exp":%b}' % number)) is ErrorCode.TOKEN_MALFORMED


def test_a_second_spelling_of_the_same_signature_is_refused() -> None:
    # The last character of 64 bytes in base64url has four bits that decode to nothing.
    good = token()
    assert verify_jwt(parse_jwt(good), keys_of(KEY), ES256).claims == CLAIMS
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet.index(good[-1])
    for stray in range(1, 16):
        respelled = good[:-1] + alphabet[last | stray]
        assert verified_code(respelled) is ErrorCode.TOKEN_MALFORMED


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused_and_never_quoted(text: str) -> None:
    refused = refusal_of(text)
    if refused is not None:
        assert refused.code in {ErrorCode.TOKEN_MALFORMED, ErrorCode.TOKEN_HEADER_REFUSED}
        assert refused.debug in {
            "not three base64url parts within the size caps",
            "not canonical base64url",
            "not JSON, or a member is named twice",
            "not a JSON object",
            "alg is missing or not a string",
        }


def refusal_of(text: str) -> GateError | None:
    try:
        parse_jwt(text)
    except GateError as error:
        return error
    return None
