"""What JWT assertions have in common, whoever makes them and whatever for (RFC 7523 section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.claims import time_at

LEEWAY: Final = 30
"""Seconds that the clock of whoever made an assertion may differ from ours."""


def verify_audience(audience: object, audiences: frozenset[str]) -> None:
    """Check that an assertion is for one of `audiences`, and for nobody else: they could replay it (point 3).

    Raises:
        GateError: CLAIM_MISSING, AUDIENCE_MISMATCH.
        ValueError: `audiences` is empty, which would be a mistake of ours.
    """
    if not audiences:
        raise ValueError("an assertion must be for somebody")
    match audience:
        case None:
            raise GateError(ErrorCode.CLAIM_MISSING, "aud")
        case str(name) | [str(name)] if name in audiences:
            return
        case _:
            raise GateError(ErrorCode.AUDIENCE_MISMATCH, "aud is not one of this server's names alone")


def verify_times(claims: Mapping[str, Any], now: int, max_lifetime: int) -> int:
    """Check `exp`, `nbf` and `iat` at Unix time `now` and give `exp` (points 4 to 6).

    `max_lifetime` is how many seconds an assertion may have left, and may be valid for in all if it says since when.

    Raises:
        GateError: CLAIM_MISSING, CLAIM_INVALID, TOKEN_EXPIRED, TOKEN_NOT_YET_VALID, TOKEN_LIFETIME_EXCESSIVE.
    """
    expires_at, not_before, issued_at = (time_at(claims, name) for name in ("exp", "nbf", "iat"))
    if expires_at is None:
        raise GateError(ErrorCode.CLAIM_MISSING, "exp")
    if now >= expires_at + LEEWAY:
        raise GateError(ErrorCode.TOKEN_EXPIRED, "exp has passed")
    if expires_at > now + max_lifetime + LEEWAY:
        raise GateError(ErrorCode.TOKEN_LIFETIME_EXCESSIVE, "exp is too far ahead")
    if not_before is not None and not_before > now + LEEWAY:
        raise GateError(ErrorCode.TOKEN_NOT_YET_VALID, "nbf")
    if issued_at is not None and issued_at > now + LEEWAY:
        raise GateError(ErrorCode.TOKEN_NOT_YET_VALID, "iat is in the future")
    if issued_at is not None and expires_at - issued_at > max_lifetime + LEEWAY:
        raise GateError(ErrorCode.TOKEN_LIFETIME_EXCESSIVE, "iat is too long before exp")
    return expires_at
