"""A JWT by which a client authenticates with its private key: `private_key_jwt` (RFC 7523 sections 2.2 and 3)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.claims import string_at, time_at
from twogate.core.jose.jwt import UnverifiedJwt, verify_jwt
from twogate.core.jose.keys import Algorithm, VerificationKey

MAX_LIFETIME: Final = 300
"""Seconds that an assertion may have left at most, and may be valid for in all if it says when it was issued."""

LEEWAY: Final = 30
"""Seconds that a client's clock may differ from ours."""

ALGORITHMS: Final = (Algorithm.ES256, Algorithm.RS256, Algorithm.PS256, Algorithm.EDDSA)
"""What a client may sign with, if its registered key is made for it."""

# RFC 7523 names no type; "client-authentication+jwt" is rfc7523bis's. An access token (at+jwt) must not pass as one.
_TYPES: Final = frozenset({None, "jwt", "client-authentication+jwt"})


class VerifiedAssertion(msgspec.Struct, frozen=True):
    """A good assertion, still to be redeemed once. From `replayable_until` (Unix seconds) on it is refused anyway."""

    client_id: str
    jti: str
    replayable_until: int


def verify_client_assertion(
    assertion: UnverifiedJwt,
    client_id: str,
    keys: Collection[VerificationKey],
    audiences: frozenset[str],
    now: int,
) -> VerifiedAssertion:
    """Check an assertion against the client's registered keys and this server's names.

    1. its type may be a client assertion; 2. one registered key verifies it by that key's own algorithm; 3. `iss` and
    `sub` are the client; 4. `aud` is one of `audiences`, alone; 5. `exp` is required and near, `nbf` and `iat` are
    sane; 6. `jti` is required. That `jti` is used once is for the caller to see to.

    Raises:
        GateError: TOKEN_TYPE_REFUSED, TOKEN_ALGORITHM_REFUSED, KEY_UNKNOWN, SIGNATURE_INVALID, CLAIM_MISSING,
            CLAIM_INVALID, AUDIENCE_MISMATCH, TOKEN_EXPIRED, TOKEN_NOT_YET_VALID, TOKEN_LIFETIME_EXCESSIVE.
        ValueError: `audiences` is empty, which would be a mistake of ours.
    """
    if not audiences:
        raise ValueError("an assertion must be for somebody")
    # 1.
    typ = assertion.unverified_type
    if (typ if typ is None else typ.lower()) not in _TYPES:
        raise GateError(ErrorCode.TOKEN_TYPE_REFUSED, "typ is not a client assertion's")
    # 2.
    claims = verify_jwt(assertion, keys, frozenset(ALGORITHMS)).claims
    # 3.
    if claims.get("iss") != client_id or claims.get("sub") != client_id:
        raise GateError(ErrorCode.CLAIM_INVALID, "iss and sub are not both the client")
    # 4.
    _verify_audience(claims.get("aud"), audiences)
    # 5.
    expires_at = _verify_times(claims, now)
    # 6.
    jti = string_at(claims, "/jti")
    if jti is None:
        raise GateError(ErrorCode.CLAIM_MISSING, "jti")
    return VerifiedAssertion(client_id, jti, expires_at + LEEWAY)


def _verify_audience(audience: object, audiences: frozenset[str]) -> None:
    # An assertion that is meant for someone else too could be replayed by them.
    match audience:
        case None:
            raise GateError(ErrorCode.CLAIM_MISSING, "aud")
        case str(name) | [str(name)] if name in audiences:
            return
        case _:
            raise GateError(ErrorCode.AUDIENCE_MISMATCH, "aud is not this server's issuer or token endpoint alone")


def _verify_times(claims: Mapping[str, Any], now: int) -> int:
    expires_at, not_before, issued_at = (time_at(claims, name) for name in ("exp", "nbf", "iat"))
    if expires_at is None:
        raise GateError(ErrorCode.CLAIM_MISSING, "exp")
    if now >= expires_at + LEEWAY:
        raise GateError(ErrorCode.TOKEN_EXPIRED, "exp has passed")
    if expires_at > now + MAX_LIFETIME + LEEWAY:
        raise GateError(ErrorCode.TOKEN_LIFETIME_EXCESSIVE, "exp is too far ahead")
    if not_before is not None and not_before > now + LEEWAY:
        raise GateError(ErrorCode.TOKEN_NOT_YET_VALID, "nbf")
    if issued_at is not None and issued_at > now + LEEWAY:
        raise GateError(ErrorCode.TOKEN_NOT_YET_VALID, "iat is in the future")
    if issued_at is not None and expires_at - issued_at > MAX_LIFETIME + LEEWAY:
        raise GateError(ErrorCode.TOKEN_LIFETIME_EXCESSIVE, "iat is too long before exp")
    return expires_at
