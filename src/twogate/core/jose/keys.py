"""JWK sets: bytes to verification keys (RFC 7517). Only public signature keys come out; everything else is left out."""

from __future__ import annotations

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


class Algorithm(StrEnum):
    """The signature algorithms that exist here (RFC 7518, RFC 8037). There is neither `none` nor any HMAC."""

    RS256 = "RS256"
    PS256 = "PS256"
    ES256 = "ES256"
    EDDSA = "EdDSA"


PublicKey = ECKey | RSAKey | OKPKey


class VerificationKey(msgspec.Struct, frozen=True):
    """A public signature key and the algorithms it may be used with; never one of another key type."""

    kid: str | None
    algorithms: frozenset[Algorithm]
    key: PublicKey


def parse_jwks(document: bytes) -> tuple[VerificationKey, ...]:
    """Read the usable signature keys of a JWK set.

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
    keys = (
        _parse_jwk(cast("dict[str, Any]", entry)) for entry in cast("list[object]", entries) if isinstance(entry, dict)
    )
    return tuple(key for key in keys if key is not None)


def _parse_jwk(jwk: Mapping[str, Any]) -> VerificationKey | None:
    if jwk.get("use", "sig") != "sig" or "d" in jwk or "k" in jwk:
        return None
    operations = jwk.get("key_ops")
    if operations is not None and (not isinstance(operations, list) or "verify" not in operations):
        return None
    kid, named = jwk.get("kid"), jwk.get("alg")
    if kid is not None and not isinstance(kid, str):
        return None
    # Only the members that make up the key itself: embedded certificates and URLs (x5c, x5u) decide nothing here.
    members = {name: jwk[name] for name in ("kty", "crv", "x", "y", "n", "e") if isinstance(jwk.get(name), str)}
    try:
        match members.get("kty"), members.get("crv"):
            case "EC", "P-256":
                key: PublicKey = ECKey.import_key(members)
                able = {Algorithm.ES256}
            case "OKP", "Ed25519":
                key = OKPKey.import_key(members)
                able = {Algorithm.EDDSA}
            case "RSA", _:
                key = RSAKey.import_key(members)
                able = {Algorithm.RS256, Algorithm.PS256}
                if key.public_key.key_size < MIN_RSA_BITS:
                    return None
            case _:
                return None
    except (JoseError, ValueError, KeyError, TypeError):
        return None
    if named is not None:
        able &= {algorithm for algorithm in Algorithm if algorithm.value == named}
    return VerificationKey(kid, frozenset(able), key) if able else None
