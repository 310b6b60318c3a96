"""Tokens that a platform gives its workloads: SPIFFE JWT-SVIDs, Kubernetes service-account tokens, and plain JWTs.

A workload presents its token as a `jwt-bearer` assertion (RFC 7523 section 2.1) and may do so until the token expires.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.claims import string_at
from twogate.core.jose.jwt import UnverifiedJwt, verify_jwt
from twogate.core.jose.keys import FOR_SIGNATURES, Algorithm, VerificationKey
from twogate.core.jose.kind import media_type
from twogate.core.oauth.assertion import verify_audience, verify_times
from twogate.core.oauth.confirmation import verify_confirmation


class WorkloadKind(StrEnum):
    """Whose tokens they are."""

    SPIFFE = "spiffe"
    KUBERNETES = "kubernetes"
    JWT = "jwt"


# JWT-SVID section 2.3 allows "JWT" and "JOSE"; nobody else writes more than "JWT". Every other type is another token's.
_TYPES: Final[Mapping[WorkloadKind, frozenset[str | None]]] = MappingProxyType(
    {
        WorkloadKind.SPIFFE: frozenset({None, "jwt", "jose"}),
        WorkloadKind.KUBERNETES: frozenset({None, "jwt"}),
        WorkloadKind.JWT: frozenset({None, "jwt"}),
    }
)

# In a SPIFFE bundle the keys for JWT-SVIDs say so (SPIFFE Trust Domain and Bundle section 4.2.2), and those for X.509
# must not be used for anything else. A SPIRE server's OIDC discovery provider says "sig", or nothing.
_USES: Final = FOR_SIGNATURES | {"jwt-svid"}

# SPIFFE-ID section 2: a trust domain, then segments that are neither empty nor dots.
_TRUST_DOMAIN: Final = r"spiffe://[a-z0-9._-]{1,255}"
_SPIFFE_DOMAIN: Final = re.compile(_TRUST_DOMAIN)
_SPIFFE_ID: Final = re.compile(_TRUST_DOMAIN + r"(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._-]+)+")
# Names of namespaces are DNS labels, those of service accounts DNS subdomains.
_SERVICE_ACCOUNT: Final = re.compile(r"system:serviceaccount:([a-z0-9-]{1,63}):([a-z0-9.-]{1,253})")


class WorkloadIssuer(msgspec.Struct, frozen=True):
    """What an operator lets one platform say: of which tenants' agents its tokens may be. `max_lifetime` in seconds.

    `issuer` is the `iss` of its tokens; of a SPIFFE trust domain, whose tokens need none, `spiffe://` and its name.
    """

    issuer: str
    kind: WorkloadKind
    algorithms: frozenset[Algorithm]
    tenants: frozenset[str]
    max_lifetime: int

    def __post_init__(self) -> None:
        """Refuse an issuer without algorithms or tenants: an empty list must never come to mean "any"."""
        if not (self.issuer and self.algorithms and self.tenants and self.max_lifetime > 0):
            raise ValueError("a workload issuer needs a name, algorithms, tenants and a maximum lifetime")
        if (self.kind is WorkloadKind.SPIFFE) != is_trust_domain(self.issuer):
            raise ValueError("a SPIFFE trust domain, and nothing else, is written spiffe://name")


class VerifiedWorkload(msgspec.Struct, frozen=True):
    """Which workload a good token is of, and until when (Unix seconds)."""

    issuer: str
    subject: str
    expires_at: int


def is_trust_domain(name: str) -> bool:
    """Whether a name is that of a SPIFFE trust domain, as `spiffe://` and its name."""
    return _SPIFFE_DOMAIN.fullmatch(name) is not None


def trust_domain(unverified_subject: str | None) -> str | None:
    """The trust domain that a SPIFFE ID claims to be of; None if it is no SPIFFE ID of a workload."""
    if unverified_subject is None or _SPIFFE_ID.fullmatch(unverified_subject) is None:
        return None
    return "/".join(unverified_subject.split("/", 3)[:3])


def fits(kind: WorkloadKind, issuer: str, subject: str) -> bool:
    """Whether an issuer of this kind can give a token to this subject at all."""
    match kind:
        case WorkloadKind.SPIFFE:
            return trust_domain(subject) == issuer
        case WorkloadKind.KUBERNETES:
            return _SERVICE_ACCOUNT.fullmatch(subject) is not None
        case WorkloadKind.JWT:
            return True


def key_uses(kind: WorkloadKind) -> frozenset[str]:
    """The values of `use` that keys for tokens have in the key sets of this kind of issuer."""
    return _USES if kind is WorkloadKind.SPIFFE else FOR_SIGNATURES


def verify_workload_token(
    token: UnverifiedJwt,
    issuer: WorkloadIssuer,
    keys: Collection[VerificationKey],
    audiences: frozenset[str],
    proof: str | None,
    now: int,
) -> VerifiedWorkload:
    """Check a workload's token against its issuer's keys. `proof` is the key that the caller proved to hold.

    1. its type may be a workload token's; 2. one key of the issuer verifies it; 3. it is that issuer's, and `sub` is
    one that such an issuer can name; 4. `aud` is one of `audiences`, alone; 5. it lives no longer than it may; 6. what
    it is bound to was proven.

    Raises:
        GateError: TOKEN_TYPE_REFUSED, TOKEN_ALGORITHM_REFUSED, KEY_UNKNOWN, SIGNATURE_INVALID, ISSUER_UNKNOWN,
            CLAIM_MISSING, CLAIM_INVALID, AUDIENCE_MISMATCH, TOKEN_EXPIRED, TOKEN_NOT_YET_VALID,
            TOKEN_LIFETIME_EXCESSIVE, TOKEN_BINDING_REFUSED.
    """
    # 1. Client assertions, ID-JAGs and access tokens have types of their own.
    if media_type(token.unverified_type) not in _TYPES[issuer.kind]:
        raise GateError(ErrorCode.TOKEN_TYPE_REFUSED, "typ is not a workload token's")
    # 2.
    claims = verify_jwt(token, keys, issuer.algorithms).claims
    # 3.
    subject = _subject(claims, issuer)
    # 4. Never the platform's own API: whoever got such a token to check it could then act as the workload here.
    verify_audience(claims.get("aud"), audiences)
    # 5.
    expires_at = verify_times(claims, now, issuer.max_lifetime)
    # 6.
    verify_confirmation(claims, proof)
    return VerifiedWorkload(issuer.issuer, subject, expires_at)


def _subject(claims: Mapping[str, Any], issuer: WorkloadIssuer) -> str:
    # A JWT-SVID's trust domain is in `sub`; `iss` means nothing in it (JWT-SVID section 3).
    if issuer.kind is not WorkloadKind.SPIFFE and claims.get("iss") != issuer.issuer:
        raise GateError(ErrorCode.ISSUER_UNKNOWN, "the verified iss is not the selected issuer")
    subject = string_at(claims, "/sub")
    if subject is None:
        raise GateError(ErrorCode.CLAIM_MISSING, "sub")
    if not fits(issuer.kind, issuer.issuer, subject):
        raise GateError(ErrorCode.CLAIM_INVALID, f"sub is none that a {issuer.kind.value} issuer of this name gives")
    if issuer.kind is WorkloadKind.KUBERNETES:
        _verify_service_account(claims, subject)
    return subject


def _verify_service_account(claims: Mapping[str, Any], subject: str) -> None:
    # Bound tokens repeat who they are for; the old ones, which never expire, have no such claim.
    _, _, namespace, name = subject.split(":")
    bound = (
        string_at(claims, "/kubernetes.io/namespace"),
        string_at(claims, "/kubernetes.io/serviceaccount/name"),
    )
    if bound != (namespace, name):
        raise GateError(ErrorCode.CLAIM_INVALID, "kubernetes.io does not name the service account of sub")
