"""DPoP proofs: a JWT by which a client shows that it holds a key (RFC 9449 section 4). Pure.

What needs state is for the caller: that the nonce is one of ours, and that each `jti` is used once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Final, cast

import msgspec
from joserfc.jwk import ECKey, OKPKey, RSAKey

from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.claims import string_at, time_at
from twogate.core.jose.jwt import decode_object, verify_signature
from twogate.core.jose.keys import Algorithm, PublicKey, VerificationKey, parse_jwks
from twogate.core.oauth.access_token import encode_base64url

TYPE: Final = "dpop+jwt"

ALGORITHMS: Final = (Algorithm.ES256, Algorithm.ED25519, Algorithm.EDDSA, Algorithm.RS256, Algorithm.PS256)
"""What a proof may be signed with; each is asymmetric (RFC 9449 section 4.3, point 5)."""

MAX_PROOF: Final = 8 * 1024
"""Characters that a proof may have at most."""

MAX_AGE: Final = 300
"""Seconds that `iat` may differ from our clock, either way."""

MAX_JTI: Final = 256

RSA_MODULUS_CHARACTERS: Final = range(342, 683 + 1)
"""Characters of an RSA modulus in base64url: of 2048 to 4096 bits. Anybody may send a key, and checking a signature
costs the more the longer it is."""

MAX_RSA_EXPONENT_CHARACTERS: Final = 6
"""The same of the exponent: 32 bits."""

_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]{1,2500}\.[A-Za-z0-9_-]{1,4000}\.[A-Za-z0-9_-]{1,700}")

# Everything else is refused: what names another key (jku, x5u, x5c, …), extensions (crit, b64) and compression (zip).
_HEADER_MEMBERS: Final = frozenset({"typ", "alg", "jwk", "kid"})

# The members of a JWK that hold private or symmetric keys (RFC 7518 section 6).
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})

# What is read of a JWK: the key, and what it is meant for.
_MEMBERS: Final = frozenset({"kty", "crv", "x", "y", "n", "e", "use", "alg"})

# The members that a thumbprint is made of, in its order (RFC 7638 section 3.2, RFC 8037 section 2).
_REQUIRED: Final = {"EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x"), "RSA": ("e", "kty", "n")}


class VerifiedProof(msgspec.Struct, frozen=True):
    """A proof whose signature and claims are good. Its nonce is not judged, and it may have been used before.

    `thumbprint` is that of the key (RFC 7638), as `cnf.jkt` names it. `issued_at` is Unix seconds by the client's
    clock. `access_token_digest` is its `ath`, if it has one.
    """

    thumbprint: str
    jti: str
    issued_at: int
    nonce: str | None
    access_token_digest: str | None


def verify_proof(proof: str, method: str, uri: str, now: int) -> VerifiedProof:
    """Check a proof for a request by `method` to `uri`, which has no query and no fragment (RFC 9449 section 4.3).

    1. it is a well-formed JWT within the caps, no member named twice; 2. `typ` is `dpop+jwt`; 3. `alg` is one of
    ALGORITHMS; 4. `jwk` is a public key made for it; 5. that key signed it; 6. `htm` and `htu` are this request's;
    7. `iat` is near; 8. `jti` is there, and `nonce` and `ath` are strings if they are there.

    Raises:
        GateError: DPOP_INVALID, saying which step failed.
    """
    try:
        return _verify(proof, method, uri, now)
    except GateError as error:
        if error.code is ErrorCode.DPOP_INVALID:
            raise
        raise GateError(ErrorCode.DPOP_INVALID, str(error)) from error


def _verify(proof: str, method: str, uri: str, now: int) -> VerifiedProof:
    # 1.
    if len(proof) > MAX_PROOF or _COMPACT.fullmatch(proof) is None:
        raise _refused("not three base64url parts within the size caps")
    header = decode_object(proof.partition(".")[0])
    if unknown := header.keys() - _HEADER_MEMBERS:
        raise _refused(f"header parameters refused: {len(unknown)}")
    # 2.
    if header.get("typ") != TYPE:
        raise _refused(f"typ is not {TYPE}")
    # 3.
    algorithm = next((known for known in ALGORITHMS if known.value == header.get("alg")), None)
    if algorithm is None:
        raise _refused("alg is not accepted")
    # 4.
    jwk, key = _public_key(header.get("jwk"), algorithm)
    # 5.
    claims = verify_signature(proof, algorithm, key)
    # 6. "ignoring any query and fragment parts" (RFC 9449 section 4.3, point 9).
    target = claims.get("htu")
    if claims.get("htm") != method:
        raise _refused("htm is another method")
    if not isinstance(target, str) or re.split(r"[?#]", target, maxsplit=1)[0] != uri:
        raise _refused("htu is another address")
    # 7.
    issued_at = time_at(claims, "iat")
    if issued_at is None or abs(now - issued_at) > MAX_AGE:
        raise _refused("iat is missing or not near")
    # 8.
    jti, nonce, digest = (string_at(claims, pointer) for pointer in ("/jti", "/nonce", "/ath"))
    if jti is None or len(jti) > MAX_JTI:
        raise _refused("jti is missing or too long")
    return VerifiedProof(_thumbprint(jwk), jti, issued_at, nonce, digest)


def _public_key(jwk: object, algorithm: Algorithm) -> tuple[Mapping[str, str], VerificationKey]:
    if not isinstance(jwk, dict):
        raise _refused("jwk is missing")
    given = cast("dict[str, object]", jwk)
    # "does not contain a private key" (RFC 9449 section 4.3, point 7)
    if given.keys() & _PRIVATE:
        raise _refused("jwk holds a private key")
    members = {name: value for name, value in given.items() if name in _MEMBERS and isinstance(value, str)}
    if members.get("kty") == "RSA" and (
        len(members.get("n", "")) not in RSA_MODULUS_CHARACTERS
        or len(members.get("e", "")) > MAX_RSA_EXPONENT_CHARACTERS
    ):
        raise _refused("jwk is an RSA key beyond the size caps")
    keys = parse_jwks(msgspec.json.encode({"keys": [members]}))
    if len(keys) != 1 or algorithm not in keys[0].algorithms:
        raise _refused("jwk is no public key for this alg")
    # One key has one spelling, so that it has one thumbprint.
    spelled = _spelled(keys[0].key)
    if any(members[name] != spelled[name] for name in _REQUIRED[members["kty"]]):
        raise _refused("jwk is not spelled canonically")
    return members, keys[0]


def _spelled(key: PublicKey) -> Mapping[str, object]:
    match key:
        case ECKey():
            return ECKey.import_key(key.public_key).as_dict(private=False)
        case RSAKey():
            return RSAKey.import_key(key.public_key).as_dict(private=False)
        case OKPKey():
            return OKPKey.import_key(key.public_key).as_dict(private=False)


def _thumbprint(jwk: Mapping[str, str]) -> str:
    """RFC 7638 section 3: SHA-256 over the required members, in their order, without white space."""
    required = {name: jwk[name] for name in _REQUIRED[jwk["kty"]]}
    return encode_base64url(hashlib.sha256(msgspec.json.encode(required)).digest())


def _refused(why: str) -> GateError:
    return GateError(ErrorCode.DPOP_INVALID, why)
