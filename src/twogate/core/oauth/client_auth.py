"""How a client authenticates at the token endpoint (RFC 6749 section 2.3, RFC 7521 section 4.2).

`parse_presented` finds the one method that a request uses; `verify_secret` judges a secret, `client_assertion` a JWT.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import b64decode
from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import Final
from urllib.parse import unquote_plus

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.jwt import UnverifiedJwt, parse_jwt

ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

MAX_AUTHORIZATION: Final = 2048
"""Characters that an `Authorization` header may have at most here."""

_CLIENT_ID: Final = re.compile(r"[ -~]{1,255}")
_SECRET: Final = re.compile(r"[ -~]{1,512}")
_BASIC: Final = re.compile(r"basic +([A-Za-z0-9+/]+={0,2}) *", re.IGNORECASE)
_PERCENT: Final = re.compile(r"(?:[^%]|%[0-9A-Fa-f]{2})*")

# What a secret is compared with when there is nothing to compare it with. No secret hashes to it that anyone knows.
_NO_DIGEST: Final = hashlib.sha256(b"twogate: a client that does not exist").digest()[::-1]


class AuthMethod(StrEnum):
    """The registered name of a client authentication method (RFC 7591 section 2, OpenID Connect Core section 9)."""

    NONE = "none"
    BASIC = "client_secret_basic"
    POST = "client_secret_post"
    PRIVATE_KEY_JWT = "private_key_jwt"


class PresentedSecret(msgspec.Struct, frozen=True):
    """A client id and secret, by header or body; nothing is verified."""

    method: AuthMethod
    unverified_client_id: str
    secret: str

    def __repr__(self) -> str:
        """Name the client, never the secret."""
        return f"PresentedSecret({self.method.value}, {self.unverified_client_id!r})"


class PresentedAssertion(msgspec.Struct, frozen=True):
    """A client assertion whose claimed issuer names the client; nothing is verified."""

    unverified_client_id: str
    assertion: UnverifiedJwt
    method: AuthMethod = AuthMethod.PRIVATE_KEY_JWT

    def __repr__(self) -> str:
        """Name the client, never the assertion."""
        return f"PresentedAssertion({self.unverified_client_id!r})"


class PresentedNothing(msgspec.Struct, frozen=True):
    """A client id alone, as public clients send it; it proves nothing (RFC 6749 section 3.2.1)."""

    unverified_client_id: str
    method: AuthMethod = AuthMethod.NONE


Presented = PresentedSecret | PresentedAssertion | PresentedNothing


def names_client(authorization: Sequence[str], form: Mapping[str, str]) -> bool:
    """Whether a request names or authenticates a client at all, well or badly."""
    members = ("client_id", "client_secret", "client_assertion", "client_assertion_type")
    return bool(authorization) or any(name in form for name in members)


def parse_presented(authorization: Sequence[str], form: Mapping[str, str]) -> Presented:
    """Find the one way in which a request authenticates its client. `authorization` are all such header values.

    "The client MUST NOT use more than one authentication method in each request." (RFC 6749 section 2.3)

    Raises:
        GateError: CLIENT_INVALID if there is none or it is broken, REQUEST_MALFORMED if there are several or they
            disagree, TOKEN_MALFORMED and TOKEN_HEADER_REFUSED for a broken assertion.
    """
    with_secret = "client_secret" in form
    with_assertion = "client_assertion" in form or "client_assertion_type" in form
    if len(authorization) + with_secret + with_assertion > 1:
        raise GateError(ErrorCode.REQUEST_MALFORMED, "more than one client authentication")
    named = form.get("client_id")
    if named is not None and _CLIENT_ID.fullmatch(named) is None:
        raise GateError(ErrorCode.CLIENT_INVALID, "client_id is not printable ASCII of a sensible length")
    if authorization:
        presented: Presented = _parse_basic(authorization[0])
    elif with_secret:
        presented = _secret(AuthMethod.POST, named or "", form["client_secret"])
    elif with_assertion:
        presented = _parse_assertion(form)
    elif named is not None:
        presented = PresentedNothing(named)
    else:
        raise GateError(ErrorCode.CLIENT_INVALID, "no client authentication")
    # RFC 7521 section 4.2: client_id beside an assertion "MUST identify the same client"; so beside Basic.
    if named is not None and named != presented.unverified_client_id:
        raise GateError(ErrorCode.REQUEST_MALFORMED, "client_id and the client authentication name two clients")
    return presented


def verify_secret(secret: str, digests: Collection[bytes]) -> None:
    """Check that a secret hashes (SHA-256) to one of the client's digests; none means an unknown client.

    A fast hash suffices because secrets are 256 random bits, never chosen by people. Every digest is compared, and an
    unknown client's secret is compared too, so that neither the time nor the answer tells them apart.

    Raises:
        GateError: CLIENT_INVALID.
    """
    presented = hashlib.sha256(secret.encode()).digest()
    found = [hmac.compare_digest(presented, digest) for digest in (digests or (_NO_DIGEST,))]
    if not any(found) or not digests:
        raise GateError(ErrorCode.CLIENT_INVALID, "unknown client, wrong secret or another method")


def _parse_basic(value: str) -> PresentedSecret:
    match = _BASIC.fullmatch(value) if len(value) <= MAX_AUTHORIZATION else None
    if match is None:
        raise GateError(ErrorCode.CLIENT_INVALID, "Authorization is not Basic within the size cap")
    try:
        name, colon, secret = b64decode(match[1], validate=True).decode("ascii").partition(":")
        if not colon:
            raise GateError(ErrorCode.CLIENT_INVALID, "Basic without a colon")
        # Identifier and secret are form-encoded before they are joined (RFC 6749 section 2.3.1, appendix B).
        return _secret(AuthMethod.BASIC, _decode(name), _decode(secret))
    except ValueError as error:
        raise GateError(ErrorCode.CLIENT_INVALID, "Basic is not base64 of form-encoded ASCII") from error


def _decode(part: str) -> str:
    if _PERCENT.fullmatch(part) is None:
        raise ValueError("a % that begins no octet")
    return unquote_plus(part, errors="strict")


def _secret(method: AuthMethod, client_id: str, secret: str) -> PresentedSecret:
    if _CLIENT_ID.fullmatch(client_id) is None or _SECRET.fullmatch(secret) is None:
        raise GateError(ErrorCode.CLIENT_INVALID, "client id or secret missing, too long or not printable ASCII")
    return PresentedSecret(method, client_id, secret)


def _parse_assertion(form: Mapping[str, str]) -> PresentedAssertion:
    assertion, kind = form.get("client_assertion"), form.get("client_assertion_type")
    if assertion is None or kind is None:
        raise GateError(ErrorCode.REQUEST_MALFORMED, "client_assertion and its type come together")
    if kind != ASSERTION_TYPE:
        raise GateError(ErrorCode.CLIENT_INVALID, "client_assertion_type is not jwt-bearer")
    jwt = parse_jwt(assertion)
    if jwt.unverified_issuer is None or _CLIENT_ID.fullmatch(jwt.unverified_issuer) is None:
        raise GateError(ErrorCode.CLAIM_INVALID, "iss of the assertion is no client id")
    return PresentedAssertion(jwt.unverified_issuer, jwt)
