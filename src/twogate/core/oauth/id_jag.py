"""Identity assertion authorization grants (ID-JAG): an identity provider says that a client may act for a person.

draft-ietf-oauth-identity-assertion-authz-grant, as MCP's enterprise-managed authorization uses it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.claims import string_at, strings_at, time_at
from twogate.core.jose.jwt import UnverifiedJwt, verify_jwt
from twogate.core.jose.keys import Algorithm, VerificationKey
from twogate.core.jose.kind import media_type
from twogate.core.oauth.assertion import LEEWAY, verify_audience, verify_times
from twogate.core.oauth.confirmation import verify_confirmation

TYPE: Final = "oauth-id-jag+jwt"
"""The `typ` of its header (section 6.1); nothing else has it."""

MAX_RESOURCES: Final = 16
"""Resources that one assertion may name."""


class IdJagIssuer(msgspec.Struct, frozen=True):
    """What an operator lets one identity provider say: who the people of `tenant` are. `max_lifetime` in seconds.

    `name` and `groups` point (RFC 6901) at what its assertions say of the person; None: nothing is taken from there.
    """

    issuer: str
    tenant: str
    algorithms: frozenset[Algorithm]
    max_lifetime: int
    name: str | None = None
    groups: str | None = None

    def __post_init__(self) -> None:
        """Refuse an issuer without algorithms: an empty list must never come to mean "any"."""
        if not (self.issuer and self.tenant and self.algorithms and self.max_lifetime > 0):
            raise ValueError("an identity provider needs a name, a tenant, algorithms and a maximum lifetime")


class VerifiedIdJag(msgspec.Struct, frozen=True):
    """A good assertion, still to be redeemed once. From `replayable_until` (Unix seconds) on it is refused anyway.

    `subject` is the person's name at the issuer. `resources` and `scopes` are all that the client may have of them.
    `groups` is None where the operator points at no such claim.
    """

    issuer: str
    subject: str
    jti: str
    replayable_until: int
    resources: tuple[str, ...]
    scopes: tuple[str, ...]
    name: str | None
    groups: tuple[str, ...] | None
    authenticated_at: int | None


def verify_id_jag(
    assertion: UnverifiedJwt,
    issuer: IdJagIssuer,
    client_id: str,
    keys: Collection[VerificationKey],
    audience: str,
    proof: str | None,
    now: int,
) -> VerifiedIdJag:
    """Check an assertion that the authenticated client `client_id` presents; `audience` is this server's issuer.

    1. its type; 2. one key of the issuer verifies it; 3. `iss` is that issuer; 4. `aud` is this server, alone; 5. it is
    for this client; 6. `exp` and `iat` are required and it lives no longer than it may; 7. what it is bound to was
    proven; 8. `sub`, `jti` and `resource` are required. That `jti` is used once is for the caller to see to.

    Raises:
        GateError: TOKEN_TYPE_REFUSED, TOKEN_ALGORITHM_REFUSED, KEY_UNKNOWN, SIGNATURE_INVALID, ISSUER_UNKNOWN,
            CLAIM_MISSING, CLAIM_INVALID, AUDIENCE_MISMATCH, TOKEN_EXPIRED, TOKEN_NOT_YET_VALID,
            TOKEN_LIFETIME_EXCESSIVE, TOKEN_BINDING_REFUSED; GRANT_INVALID if it is for another client.
    """
    # 1.
    if media_type(assertion.unverified_type) != TYPE:
        raise GateError(ErrorCode.TOKEN_TYPE_REFUSED, "typ is not an ID-JAG's")
    # 2.
    claims = verify_jwt(assertion, keys, issuer.algorithms).claims
    # 3.
    if claims.get("iss") != issuer.issuer:
        raise GateError(ErrorCode.ISSUER_UNKNOWN, "the verified iss is not the selected issuer")
    # 4. "MUST be the issuer identifier of the Resource Authorization Server": the token endpoint will not do.
    verify_audience(claims.get("aud"), frozenset({audience}))
    # 5.
    if claims.get("client_id") != client_id:
        raise GateError(ErrorCode.GRANT_INVALID, "the assertion is for another client")
    # 6.
    expires_at = verify_times(claims, now, issuer.max_lifetime)
    if claims.get("iat") is None:
        raise GateError(ErrorCode.CLAIM_MISSING, "iat")
    # 7.
    verify_confirmation(claims, proof)
    # 8.
    return VerifiedIdJag(
        issuer=issuer.issuer,
        subject=_required(claims, "sub"),
        jti=_required(claims, "jti"),
        replayable_until=expires_at + LEEWAY,
        resources=_resources(claims),
        scopes=tuple(dict.fromkeys(scope for scope in strings_at(claims, "/scope", spaced=True) if scope)),
        name=string_at(claims, issuer.name),
        groups=None if issuer.groups is None else strings_at(claims, issuer.groups, spaced=False),
        authenticated_at=time_at(claims, "auth_time"),
    )


def _required(claims: Mapping[str, Any], name: str) -> str:
    value = string_at(claims, f"/{name}")
    if value is None:
        raise GateError(ErrorCode.CLAIM_MISSING, name)
    return value


def _resources(claims: Mapping[str, Any]) -> tuple[str, ...]:
    claimed = claims.get("resource")
    names = (claimed,) if isinstance(claimed, str) else strings_at(claims, "/resource", spaced=False)
    # Without it the identity provider would have let the client in everywhere; that must be said, not left out.
    if not names:
        raise GateError(ErrorCode.CLAIM_MISSING, "resource")
    if len(names) > MAX_RESOURCES:
        raise GateError(ErrorCode.CLAIM_INVALID, f"resource holds more than {MAX_RESOURCES} names")
    return names
