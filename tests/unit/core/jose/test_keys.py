"""Which keys of a JWK set come out: public signature keys, each for algorithms of its own type."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey, OctKey, OKPKey

from harness.issuer import new_key
from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.keys import MAX_DOCUMENT, MAX_KEYS, Algorithm, VerificationKey, parse_jwks
from vectors import rfc7515

EC = new_key().as_dict(private=False)
RSA = new_key("RS256").as_dict(private=False)
ED = new_key("EdDSA").as_dict(private=False)


def read(*entries: Any) -> tuple[VerificationKey, ...]:
    return parse_jwks(json.dumps({"keys": entries}).encode())


def unavailable(document: bytes) -> bool:
    with pytest.raises(GateError) as refusal:
        parse_jwks(document)
    return refusal.value.code is ErrorCode.KEYS_UNAVAILABLE


@pytest.mark.parametrize(
    ("entry", "able"),
    [
        (EC, {Algorithm.ES256}),
        (RSA, {Algorithm.RS256, Algorithm.PS256}),
        (ED, {Algorithm.EDDSA, Algorithm.ED25519}),
        ({**RSA, "alg": "PS256"}, {Algorithm.PS256}),
        ({**ED, "alg": "EdDSA"}, {Algorithm.EDDSA, Algorithm.ED25519}),
        ({**ED, "alg": "Ed25519"}, {Algorithm.EDDSA, Algorithm.ED25519}),
        ({**EC, "use": "sig", "key_ops": ["verify"], "kid": "k", "x5c": ["junk"], "x5u": 5}, {Algorithm.ES256}),
        (rfc7515.A2_KEY, {Algorithm.RS256, Algorithm.PS256}),
    ],
    ids=["EC", "RSA", "Ed25519", "RSA for one", "Ed25519, old name", "Ed25519, new name", "everything", "RFC 7515 A.2"],
)
def test_a_public_signature_key_is_good_for_the_algorithms_of_its_own_type(
    entry: dict[str, Any], able: set[Algorithm]
) -> None:
    (key,) = read(entry)
    assert key.algorithms == able
    assert key.kid == entry.get("kid")


SKIPPED: dict[str, Any] = {
    "symmetric": OctKey.generate_key(256).as_dict(),
    "symmetric in disguise": {**EC, "k": "AAAA"},
    "RFC 7515 A.1, symmetric": rfc7515.A1_KEY,
    "private EC": new_key().as_dict(private=True),
    "private RSA": new_key("RS256").as_dict(private=True),
    "private Ed25519": new_key("EdDSA").as_dict(private=True),
    "for encryption": {**RSA, "use": "enc"},
    "for an unknown use": {**EC, "use": "tls"},
    "use is no string": {**EC, "use": ["sig"]},
    "key_ops for encryption": {**RSA, "key_ops": ["encrypt", "wrapKey"]},
    "key_ops for signing": {**EC, "key_ops": ["sign"]},
    "key_ops is no list": {**EC, "key_ops": "verify"},
    "P-384": ECKey.generate_key("P-384").as_dict(private=False),
    "P-521": ECKey.generate_key("P-521").as_dict(private=False),
    "secp256k1": ECKey.generate_key("secp256k1").as_dict(private=False),
    "X25519": OKPKey.generate_key("X25519").as_dict(private=False),
    "Ed448": OKPKey.generate_key("Ed448").as_dict(private=False),
    "curve of another type": {**EC, "crv": "Ed25519"},
    "curve missing": {name: value for name, value in EC.items() if name != "crv"},
    "point not on the curve": {**EC, "y": EC["x"]},
    "coordinate of wrong length": {**EC, "x": "AAAA"},
    "coordinate missing": {name: value for name, value in EC.items() if name != "y"},
    "coordinate is a number": {**EC, "x": 5},
    "coordinate is no base64": {**EC, "x": "!!!"},
    "RSA of 1024 bits": {**RSA, "n": urlsafe_b64encode((2**1023 + 1).to_bytes(128, "big")).rstrip(b"=").decode()},
    "RSA with exponent 1": {**RSA, "e": "AQ"},
    "RSA without exponent": {name: value for name, value in RSA.items() if name != "e"},
    "point of small order": {**ED, "x": "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"},
    "point of wrong length": {**ED, "x": "AQAAAAAA"},
    "point missing": {name: value for name, value in ED.items() if name != "x"},
    "alg of another type": {**EC, "alg": "RS256"},
    "alg unknown": {**EC, "alg": "ES384"},
    "alg none": {**EC, "alg": "none"},
    "alg HMAC on an RSA key": {**RSA, "alg": "HS256"},
    "alg is no string": {**EC, "alg": 5},
    "kid is no string": {**EC, "kid": 5},
    "unknown type": {"kty": "AKP", "pub": "AAAA"},
    "type missing": {"crv": "P-256"},
    "no object": "key",
    "null": None,
}


@pytest.mark.filterwarnings("ignore:Key size should be")  # joserfc's, for the 1024 bits that we refuse
@pytest.mark.parametrize("name", SKIPPED)
def test_any_other_key_is_skipped_and_takes_no_good_key_with_it(name: str) -> None:
    assert [key.kid for key in read(SKIPPED[name], {**EC, "kid": "good"})] == ["good"]


# Edwards25519, as RFC 8032 section 5.1 writes it, so that the points of small order need not be believed.
PRIME = 2**255 - 19
D = -121665 * pow(121666, -1, PRIME) % PRIME
Point = tuple[int, int]


def added(p: Point, q: Point) -> Point:
    product = D * p[0] * q[0] * p[1] * q[1] % PRIME
    x = (p[0] * q[1] + q[0] * p[1]) * pow(1 + product, -1, PRIME)
    y = (p[1] * q[1] + p[0] * q[0]) * pow(1 - product, -1, PRIME)
    return x % PRIME, y % PRIME


def torsion() -> set[Point]:
    """The eight points whose order divides eight: order one and two, then those at y = 0 and at two more heights."""
    heights = (
        "05fc536d880238b13933c6d305acdfd5f098eff289f4c345b027b2c28f95e826",
        "7a03ac9277fdc74ec6cc392cfa53202a0f67100d760b3cba4fd84d3d706a17c7",
    )
    found = {(0, 1), (0, PRIME - 1)}
    for y in (0, *(int(height, 16) for height in heights)):
        # RFC 8032 section 5.1.3.
        square = (y * y - 1) * pow(D * y * y + 1, -1, PRIME) % PRIME
        x = pow(square, (PRIME + 3) // 8, PRIME)
        if x * x % PRIME != square:
            x = x * pow(2, (PRIME - 1) // 4, PRIME) % PRIME
        assert x * x % PRIME == square
        found |= {(x, y), (PRIME - x, y)}
    return found


def test_there_are_eight_points_of_small_order_and_each_is_skipped_in_every_spelling() -> None:
    points = torsion()
    assert len(points) == 8
    for point in points:
        doubled = added(point, point)
        fourfold = added(doubled, doubled)
        assert added(fourfold, fourfold) == (0, 1)
    for x, y in points:
        # y + p fits into 255 bits for y under 19: such a spelling is not canonical, but some verifiers take it.
        for spelled in (y, y + PRIME) if y + PRIME < 2**255 else (y,):
            for sign in (0, 1) if x == 0 else (x & 1,):
                raw = (spelled | sign << 255).to_bytes(32, "little")
                assert read({**ED, "x": urlsafe_b64encode(raw).rstrip(b"=").decode()}) == ()


@pytest.mark.parametrize(
    "document",
    [b"", b"{", b"[]", b"null", b"5", b"{}", b'{"keys":{}}', b'{"keys":null}', b"\xff", b"[" * 20_000],
)
def test_what_is_no_jwk_set_gives_no_keys_but_an_error(document: bytes) -> None:
    assert unavailable(document)


def test_an_empty_set_holds_no_key() -> None:
    assert read() == ()


def test_the_caps_hold_exactly() -> None:
    assert len(read(*[EC] * MAX_KEYS)) == MAX_KEYS
    assert unavailable(json.dumps({"keys": [EC] * (MAX_KEYS + 1)}).encode())
    document = json.dumps({"keys": [EC]}).encode()
    assert len(parse_jwks(document.ljust(MAX_DOCUMENT))) == 1
    assert unavailable(document.ljust(MAX_DOCUMENT + 1))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(st.sampled_from(["kty", "crv", "x", "y", "n", "e", "use", "alg", "kid", "key_ops"]), json_values)
)
def test_no_member_of_any_type_makes_reading_fail(changes: dict[str, Any]) -> None:
    for key in read({**EC, **changes}, {**RSA, **changes}, {**ED, **changes}):
        assert key.algorithms
        assert key.kid is None or isinstance(key.kid, str)
