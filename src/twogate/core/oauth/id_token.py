"""ID tokens of an upstream provider, where we are the client (OpenID Connect Core sections 2, 3.1.3.7 and 12.2)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Mapping
from typing import Any, Final, cast

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.claims import string_at, time_at
from twogate.core.jose.jwt import UnverifiedJwt, verify_jwt
from twogate.core.jose.keys import Algorithm, VerificationKey
from twogate.core.jose.kind import media_type
from twogate.core.oauth.access_token import encode_base64url

LEEWAY: Final = 30
"""Seconds that the provider's clock and ours may differ."""

MAX_AGE: Final = 600
"""Seconds for which an ID token may have existed: it comes straight from the provider, which may round `iat` down."""

MAX_SUBJECT: Final = 255

# ID tokens have no type of their own; every type that there is marks something else (RFC 8725 section 3.11).
_TYPES: Final = frozenset({None, "jwt"})

# How the providers that say in a claim what a token is call everything else: Keycloak's `typ` and Amazon's `token_use`.
_OTHER_KINDS: Final = frozenset({"bearer", "dpop", "refresh", "offline", "logout", "access"})

_ED25519: Final = frozenset({Algorithm.EDDSA, Algorithm.ED25519})


class IdTokenRules(msgspec.Struct, frozen=True):
    """Whose ID tokens are taken, and as whom we are known there."""

    issuer: str
    client_id: str
    algorithms: frozenset[Algorithm]

    def __post_init__(self) -> None:
        """Refuse rules that would let anything in."""
        if not (self.issuer and self.client_id and self.algorithms):
            raise ValueError("an ID token is checked against an issuer, a client and algorithms")


class IdToken(msgspec.Struct, frozen=True):
    """A verified ID token: who it is, and everything else that the provider says. Times are Unix seconds."""

    subject: str
    authenticated_at: int | None
    claims: Mapping[str, Any]

    def __repr__(self) -> str:
        """Leave out what describes a person."""
        return f"IdToken({len(self.claims)} claims)"


def verify_id_token(
    token: UnverifiedJwt,
    keys: Collection[VerificationKey],
    rules: IdTokenRules,
    *,
    nonce: str,
    access_token: str | None,
    now: int,
) -> IdToken:
    """Verify the ID token that came with an authorization code.

    1. type; 2. signature, by a configured algorithm; 3. issuer and audience; 4. times; 5. the hash of the access token
    that came along; 6. the nonce of this very login, which no other login's token has.

    Raises:
        GateError: TOKEN_TYPE_REFUSED, what `verify_jwt` raises, ISSUER_UNKNOWN, AUDIENCE_MISMATCH, TOKEN_EXPIRED,
            TOKEN_NOT_YET_VALID, CLAIM_MISSING, CLAIM_INVALID.
    """
    verified = _verify(token, keys, rules, access_token, now)
    # 6. "The nonce Claim Value MUST be checked to verify that it is the same value as the one that was sent".
    found = verified.claims.get("nonce")
    if not isinstance(found, str) or not hmac.compare_digest(found.encode(), nonce.encode()):
        raise GateError(ErrorCode.CLAIM_INVALID, "nonce is missing or another login's")
    return verified


def verify_refreshed_id_token(
    token: UnverifiedJwt,
    keys: Collection[VerificationKey],
    rules: IdTokenRules,
    *,
    access_token: str | None,
    now: int,
) -> IdToken:
    """Verify an ID token that came with a refresh: as above, without a nonce, which only a login has (section 12.2).

    The caller compares the subject: "its sub Claim Value MUST be the same as in the ID Token issued when the original
    authentication occurred".

    Raises:
        GateError: as `verify_id_token`.
    """
    return _verify(token, keys, rules, access_token, now)


def _verify(
    token: UnverifiedJwt,
    keys: Collection[VerificationKey],
    rules: IdTokenRules,
    access_token: str | None,
    now: int,
) -> IdToken:
    # 1.
    if media_type(token.unverified_type) not in _TYPES:
        raise GateError(ErrorCode.TOKEN_TYPE_REFUSED, "typ is not an ID token's")
    # 2.
    signed = verify_jwt(token, keys, rules.algorithms)
    claims = signed.claims
    for name in ("typ", "token_use"):
        kind = claims.get(name)
        if isinstance(kind, str) and kind.lower() in _OTHER_KINDS:
            raise GateError(ErrorCode.TOKEN_TYPE_REFUSED, f"claim {name} says that it is no ID token")
    if "events" in claims:
        raise GateError(ErrorCode.TOKEN_TYPE_REFUSED, "a logout or security event token")
    # 3.
    if claims.get("iss") != rules.issuer:
        raise GateError(ErrorCode.ISSUER_UNKNOWN, "iss is not this provider")
    _verify_audience(claims, rules.client_id)
    subject = string_at(claims, "/sub")
    if subject is None or len(subject) > MAX_SUBJECT:
        raise GateError(ErrorCode.CLAIM_MISSING, "sub is missing or too long")
    # 4.
    _verify_times(claims, now)
    # 5.
    _verify_hash(claims.get("at_hash"), access_token, signed.algorithm)
    authenticated_at = time_at(claims, "auth_time")
    return IdToken(subject, None if authenticated_at is None else min(authenticated_at, now), claims)


def _verify_audience(claims: Mapping[str, Any], client_id: str) -> None:
    audience: object = claims.get("aud")
    names = cast("list[object]", audience) if isinstance(audience, list) else [audience]
    # "The ID Token MUST be rejected if the ID Token […] contains additional audiences not trusted by the Client", and
    # none is.
    if names != [client_id]:
        raise GateError(ErrorCode.AUDIENCE_MISMATCH, "aud is not exactly this client")
    if claims.get("azp", client_id) != client_id:
        raise GateError(ErrorCode.AUDIENCE_MISMATCH, "azp is another client")


def _verify_times(claims: Mapping[str, Any], now: int) -> None:
    expires_at, issued_at, not_before = (time_at(claims, name) for name in ("exp", "iat", "nbf"))
    if expires_at is None or issued_at is None:
        raise GateError(ErrorCode.CLAIM_MISSING, "exp or iat is missing")
    if now >= expires_at + LEEWAY:
        raise GateError(ErrorCode.TOKEN_EXPIRED, "exp has passed")
    if issued_at > now + LEEWAY or (not_before is not None and not_before > now + LEEWAY):
        raise GateError(ErrorCode.TOKEN_NOT_YET_VALID, "iat or nbf lies ahead: compare the clocks")
    if issued_at < now - MAX_AGE - LEEWAY:
        raise GateError(ErrorCode.TOKEN_EXPIRED, "iat is long ago: an old token, or the clocks differ")


def _verify_hash(at_hash: object, access_token: str | None, algorithm: Algorithm) -> None:
    """The left half of the access token's hash (section 3.1.3.6); for Ed25519, which signs with SHA-512, by that."""
    if at_hash is None:
        return
    if access_token is None or not isinstance(at_hash, str):
        raise GateError(ErrorCode.CLAIM_INVALID, "at_hash without an access token, or no string")
    name = "sha512" if algorithm in _ED25519 else "sha256"
    digest = hashlib.new(name, access_token.encode()).digest()
    expected = encode_base64url(digest[: len(digest) // 2])
    if not hmac.compare_digest(at_hash.encode(), expected.encode()):
        raise GateError(ErrorCode.CLAIM_INVALID, "at_hash is another access token's")
