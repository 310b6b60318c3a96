"""A JWT by which a client authenticates with its private key: `private_key_jwt` (RFC 7523 sections 2.2 and 3)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.claims import string_at
from twogate.core.jose.jwt import UnverifiedJwt, verify_jwt
from twogate.core.jose.keys import Algorithm, VerificationKey
from twogate.core.oauth.assertion import LEEWAY, verify_audience, verify_times

MAX_LIFETIME: Final = 300
"""Seconds that an assertion may have left at most, and may be valid for in all if it says when it was issued."""

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
    verify_audience(claims.get("aud"), audiences)
    # 5.
    expires_at = verify_times(claims, now, MAX_LIFETIME)
    # 6.
    jti = string_at(claims, "/jti")
    if jti is None:
        raise GateError(ErrorCode.CLAIM_MISSING, "jti")
    return VerifiedAssertion(client_id, jti, expires_at + LEEWAY)
