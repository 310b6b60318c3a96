"""JWK sets: bytes to verification keys (RFC 7517). Only public signature keys come out; everything else is left out."""

from __future__ import annotations

from base64 import urlsafe_b64decode
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, cast

import msgspec
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from twogate.core.errors import ErrorCode, GateError

MAX_DOCUMENT: Final = 512 * 1024
"""Bytes that a JWK set may have at most."""

MAX_KEYS: Final = 200
"""Keys that a JWK set may have at most."""

MIN_RSA_BITS: Final = 2048

FOR_SIGNATURES: Final = frozenset({"sig"})
"""The `use` of a key for signatures (RFC 7517 section 4.2)."""

# The points of Ed25519 whose order divides eight, with the sign bit cleared (RFC 7748 section 6.1 and RFC 8032 section
# 8.9 explain them), among them the two that are not spelled canonically. One signature can be good for such a "key"
# whatever was signed.
_SMALL_ORDER: Final = frozenset(
    bytes.fromhex(point)
    for point in (
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
)


class Algorithm(StrEnum):
    """The signature algorithms that exist here (RFC 7518, RFC 8037). There is neither `none` nor any HMAC.

    `Ed25519` is the name that RFC 9864 gives to what `EdDSA` means with that curve.
    """

    RS256 = "RS256"
    PS256 = "PS256"
    ES256 = "ES256"
    EDDSA = "EdDSA"
    ED25519 = "Ed25519"


_BOTH_NAMES: Final = frozenset({Algorithm.EDDSA, Algorithm.ED25519})

PublicKey = ECKey | RSAKey | OKPKey


class VerificationKey(msgspec.Struct, frozen=True):
    """A public signature key and the algorithms it may be used with; never one of another key type."""

    kid: str | None
    algorithms: frozenset[Algorithm]
    key: PublicKey


def parse_jwks(document: bytes, uses: frozenset[str] = FOR_SIGNATURES) -> tuple[VerificationKey, ...]:
    """Read the usable signature keys of a JWK set. A key may leave out its `use`, else it is one of `uses`.

    Keys of unknown types, for encryption, symmetric, private or broken are skipped (RFC 7517 section 5: "should be
    ignored"), so that one odd key does not take an issuer down.

    Raises:
        GateError: KEYS_UNAVAILABLE if the document itself is not a JWK set or exceeds the caps.
    """
    if len(document) > MAX_DOCUMENT:
        raise GateError(ErrorCode.KEYS_UNAVAILABLE, "the JWK set is too large")
    try:
        decoded: object = msgspec.json.decode(document)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise GateError(ErrorCode.KEYS_UNAVAILABLE, "the JWK set is not JSON") from error
    entries = cast("dict[str, object]", decoded).get("keys") if isinstance(decoded, dict) else None
    if not isinstance(entries, list) or len(cast("list[object]", entries)) > MAX_KEYS:
        raise GateError(ErrorCode.KEYS_UNAVAILABLE, "the JWK set has no list of keys, or too many")
    found = [cast("dict[str, Any]", entry) for entry in cast("list[object]", entries) if isinstance(entry, dict)]
    keys = (_parse_jwk(entry, uses) for entry in found)
    return tuple(key for key in keys if key is not None)


def _parse_jwk(jwk: Mapping[str, Any], uses: frozenset[str]) -> VerificationKey | None:
    kid, named = jwk.get("kid"), jwk.get("alg")
    if not _is_for_signatures(jwk, uses) or not isinstance(kid, str | None):
        return None
    # Only the members that make up the key itself: embedded certificates and URLs (x5c, x5u) decide nothing here.
    members = {name: jwk[name] for name in ("kty", "crv", "x", "y", "n", "e") if isinstance(jwk.get(name), str)}
    try:
        key, able = _import_key(members)
    except (JoseError, ValueError, KeyError, TypeError):
        return None
    if named is not None:
        meant = {algorithm for algorithm in Algorithm if algorithm.value == named}
        able &= _BOTH_NAMES if meant & _BOTH_NAMES else meant
    return VerificationKey(kid, able, key) if able else None


def _is_for_signatures(jwk: Mapping[str, Any], uses: frozenset[str]) -> bool:
    operations = jwk.get("key_ops")
    if operations is not None and (not isinstance(operations, list) or "verify" not in operations):
        return False
    use = jwk.get("use")
    if "use" in jwk and not (isinstance(use, str) and use in uses):
        return False
    return "d" not in jwk and "k" not in jwk


def _import_key(members: dict[str, Any]) -> tuple[PublicKey, frozenset[Algorithm]]:
    match members.get("kty"), members.get("crv"):
        case "EC", "P-256":
            return ECKey.import_key(members), frozenset({Algorithm.ES256})
        case "OKP", "Ed25519":
            if _is_of_small_order(members["x"]):
                raise ValueError("a point of small order")
            return OKPKey.import_key(members), _BOTH_NAMES
        case "RSA", _:
            key = RSAKey.import_key(members)
            if key.public_key.key_size < MIN_RSA_BITS:
                raise ValueError("too few bits")
            return key, frozenset({Algorithm.RS256, Algorithm.PS256})
        case _:
            raise ValueError("not a type of key that is used here")


def _is_of_small_order(x: str) -> bool:
    point = urlsafe_b64decode(x + "=" * (-len(x) % 4))
    return point[:-1] + bytes([point[-1] & 0x7F]) in _SMALL_ORDER if point else False
