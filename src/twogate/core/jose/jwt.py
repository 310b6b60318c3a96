"""JSON Web Tokens: text to `UnverifiedJwt`, and with the right key to `SignedClaims` (RFC 7515, RFC 7519, RFC 8725).

`UnverifiedJwt` shows only what selects a key: algorithm, key id, type, and the claimed issuer and subject, each named
unverified.
Claims come out of `verify_jwt` alone.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Collection, Mapping
from typing import Any, Final, cast

import jiter
import msgspec
from joserfc.errors import JoseError
from joserfc.jws import JWSRegistry

from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.keys import Algorithm, VerificationKey

MAX_TOKEN: Final = 16 * 1024
"""Characters that a token may have at most."""

_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]{1,800}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{1,1400}")

# Header parameters that name or carry a key (jwk, jku, x5u, x5c, …), extensions (crit, b64) and compression (zip) are
# refused by not being here: the key comes from configuration only (RFC 8725 section 3.10).
_HEADER_MEMBERS: Final = frozenset({"alg", "kid", "typ", "x5t", "x5t#S256"})
_MAX_KID: Final = 512

# joserfc's algorithms by themselves: its registry would parse the header a second time and warn that the name "EdDSA"
# is deprecated (RFC 9864), although issuers still use it.
_MODELS: Final = {algorithm: JWSRegistry.algorithms[algorithm.value] for algorithm in Algorithm}


class UnverifiedJwt(msgspec.Struct, frozen=True):
    """A well-formed compact JWS whose signature nobody checked yet."""

    token: str
    unverified_algorithm: str
    unverified_kid: str | None
    unverified_type: str | None
    unverified_issuer: str | None
    # SPIFFE's tokens have no issuer: their subject says from which trust domain they are.
    unverified_subject: str | None = None


class SignedClaims(msgspec.Struct, frozen=True):
    """Claims under a good signature of a trusted key. Nothing of their meaning is checked yet."""

    claims: Mapping[str, Any]
    algorithm: Algorithm
    kid: str | None
    type: str | None


def parse_jwt(token: str) -> UnverifiedJwt:
    """Read a compact JWT's header and claimed issuer.

    Raises:
        GateError: TOKEN_MALFORMED, TOKEN_HEADER_REFUSED.
    """
    if len(token) > MAX_TOKEN or _COMPACT.fullmatch(token) is None:
        raise GateError(ErrorCode.TOKEN_MALFORMED, "not three base64url parts within the size caps")
    head, body, _ = token.split(".")
    header = decode_object(head)
    if unknown := header.keys() - _HEADER_MEMBERS:
        raise GateError(ErrorCode.TOKEN_HEADER_REFUSED, f"header parameters refused: {len(unknown)}")
    algorithm, kid, typ = header.get("alg"), header.get("kid"), header.get("typ")
    if not isinstance(algorithm, str):
        raise GateError(ErrorCode.TOKEN_HEADER_REFUSED, "alg is missing or not a string")
    if kid is not None and (not isinstance(kid, str) or not 0 < len(kid) <= _MAX_KID):
        raise GateError(ErrorCode.TOKEN_HEADER_REFUSED, "kid is not a string of a sensible length")
    if typ is not None and not isinstance(typ, str):
        raise GateError(ErrorCode.TOKEN_HEADER_REFUSED, "typ is not a string")
    claims = decode_object(body)
    issuer, subject = (claims.get(name) for name in ("iss", "sub"))
    return UnverifiedJwt(
        token,
        algorithm,
        kid,
        typ,
        issuer if isinstance(issuer, str) else None,
        subject if isinstance(subject, str) else None,
    )


def verify_jwt(jwt: UnverifiedJwt, keys: Collection[VerificationKey], algorithms: frozenset[Algorithm]) -> SignedClaims:
    """Check the signature with the one key that the token names, among `keys`, by an allowed algorithm.

    1. the algorithm is one that the caller allows; 2. a key of this `kid` (or, without `kid`, the only key that fits)
    is known and made for that algorithm; 3. the signature is good.

    Raises:
        GateError: TOKEN_ALGORITHM_REFUSED, KEY_UNKNOWN, SIGNATURE_INVALID.
        ValueError: `algorithms` is empty, which would be a mistake of ours.
    """
    if not algorithms:
        raise ValueError("an empty algorithm list allows nothing and must not reach a verification")
    # 1.
    algorithm = next((known for known in algorithms if known.value == jwt.unverified_algorithm), None)
    if algorithm is None:
        raise GateError(ErrorCode.TOKEN_ALGORITHM_REFUSED, "alg is not among the issuer's")
    # 2.
    fitting = [key for key in keys if algorithm in key.algorithms and jwt.unverified_kid in (None, key.kid)]
    if len(fitting) != 1:
        raise GateError(ErrorCode.KEY_UNKNOWN, f"{len(fitting)} keys of the issuer fit the token's kid and alg")
    # 3.
    claims = verify_signature(jwt.token, algorithm, fitting[0])
    return SignedClaims(claims, algorithm, jwt.unverified_kid, jwt.unverified_type)


def verify_signature(token: str, algorithm: Algorithm, key: VerificationKey) -> dict[str, Any]:
    """The claims of a well-formed compact JWT that this very key signed by this algorithm.

    Raises:
        GateError: SIGNATURE_INVALID, TOKEN_MALFORMED.
        ValueError: the key is not made for the algorithm, which would be a mistake of ours.
    """
    if algorithm not in key.algorithms:
        raise ValueError("a key verifies by its own algorithms only")
    signing_input, _, signature = token.rpartition(".")
    model = _MODELS[algorithm]
    try:
        model.check_key(key.key)
        good = model.verify(signing_input.encode(), _decode_part(signature), key.key)
    except (JoseError, ValueError, KeyError, TypeError) as error:
        raise GateError(ErrorCode.SIGNATURE_INVALID, type(error).__name__) from error
    if not good:
        raise GateError(ErrorCode.SIGNATURE_INVALID)
    return decode_object(signing_input.partition(".")[2])


def _decode_part(part: str) -> bytes:
    raw = urlsafe_b64decode(part + "=" * (-len(part) % 4)) if len(part) % 4 != 1 else b""
    # Python's decoder forgives stray trailing bits; two spellings of one token would be two cache keys and two `jti`s.
    if urlsafe_b64encode(raw).rstrip(b"=") != part.encode():
        raise GateError(ErrorCode.TOKEN_MALFORMED, "not canonical base64url")
    return raw


def decode_object(part: str) -> dict[str, Any]:
    """The JSON object of one part of a compact JWT; no member may be named twice, at any depth.

    Raises:
        GateError: TOKEN_MALFORMED.
    """
    try:
        decoded: object = jiter.from_json(_decode_part(part), catch_duplicate_keys=True, allow_inf_nan=False)
    except ValueError as error:
        raise GateError(ErrorCode.TOKEN_MALFORMED, "not JSON, or a member is named twice") from error
    if not isinstance(decoded, dict):
        raise GateError(ErrorCode.TOKEN_MALFORMED, "not a JSON object")
    return cast("dict[str, Any]", decoded)
