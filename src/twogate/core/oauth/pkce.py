"""Proof Key for Code Exchange (RFC 7636), S256 only: `plain` would hand the verifier to whoever sees the request."""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Final

from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.access_token import encode_base64url

S256: Final = "S256"
"""The one challenge method there is here."""

# code-verifier = 43*128unreserved (RFC 7636 section 4.1).
_VERIFIER: Final = re.compile(r"[A-Za-z0-9._~-]{43,128}")

# The base64url of 32 bytes (section 4.2). 43 digits hold 258 bits, so the last two are zero: any other last digit is
# the encoding of nothing, and no verifier would ever fit it.
_CHALLENGE: Final = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]")


def parse_challenge(challenge: str | None, method: str | None) -> str:
    """The challenge of an authorization request (RFC 7636 section 4.3).

    The method must be named: left out it would be `plain`.

    Raises:
        GateError: REQUEST_MALFORMED.
    """
    if challenge is None or method is None:
        raise GateError(ErrorCode.REQUEST_MALFORMED, "code_challenge or code_challenge_method is missing")
    if method != S256:
        # "If the server … does not support the requested transformation, the authorization endpoint MUST return the
        # … error response with 'error' value set to 'invalid_request'." (section 4.4.1)
        raise GateError(ErrorCode.REQUEST_MALFORMED, "code_challenge_method is not S256")
    if _CHALLENGE.fullmatch(challenge) is None:
        raise GateError(ErrorCode.REQUEST_MALFORMED, "code_challenge is not the base64url of a SHA-256 digest")
    return challenge


def parse_verifier(verifier: str | None) -> str:
    """The verifier of a token request (RFC 7636 section 4.5).

    Raises:
        GateError: REQUEST_MALFORMED.
    """
    if verifier is None:
        raise GateError(ErrorCode.REQUEST_MALFORMED, "code_verifier is missing")
    if _VERIFIER.fullmatch(verifier) is None:
        raise GateError(ErrorCode.REQUEST_MALFORMED, "code_verifier is not 43 to 128 unreserved characters")
    return verifier


def verify_pkce(verifier: str, challenge: str) -> None:
    """Check that a verifier is the one that a challenge was made of (RFC 7636 section 4.6).

    Raises:
        GateError: GRANT_INVALID.
    """
    made = encode_base64url(hashlib.sha256(verifier.encode("ascii")).digest())
    # If they differ, the client MUST be told "invalid_grant" (the same section).
    if not hmac.compare_digest(made, challenge):
        raise GateError(ErrorCode.GRANT_INVALID, "the verifier does not fit the code's challenge")
