"""From the text of a token to what it says: the part of gate one that needs no caller (DESIGN decision 2; row R-01).

Steps 1 to 9 of `authenticate`, whose numbers stand beside the code. The authorization server's endpoints judge tokens
that are shown to them by the same steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.claims import flags_at, resolve_pointer, string_at, strings_at, time_at
from twogate.core.jose.jwt import SignedClaims, parse_jwt, verify_jwt
from twogate.core.jose.kind import media_type, require_access_token
from twogate.core.principal import Binding, Method, UserId
from twogate.flows.gateway.issuers import IntrospectedClaims, Issuers, TrustedIssuer

LEEWAY: Final = 5
"""Seconds of clock difference forgiven for `nbf` and `iat`; `exp` gets none."""

MAX_AUDIENCES: Final = 50
"""Audiences that one token may have."""

_JWT_DOTS: Final = 2


class VerifiedToken(msgspec.Struct, frozen=True):
    """What one good token says, after steps 1 to 9. Times are Unix seconds.

    `assigned` is the agent that our own server names where no binding does. `roles` are those that the issuer may
    assert and did. `audiences` are resources, by whatever name the issuer knows them. `revocable` are the kinds and
    names by which it can be revoked: empty for other issuers' tokens, whose names mean nothing here. `one_time` is its
    `jti` if it is good for one request, `posture` what it says of the caller's device.
    """

    tenant: str
    binding: Binding
    assigned: str | None
    user: UserId | None
    roles: tuple[str, ...]
    groups: tuple[str, ...]
    scopes: frozenset[str]
    audiences: frozenset[str]
    session_id: str | None
    not_before: int
    expires_at: int
    credential: str
    one_time: str | None = None
    revocable: frozenset[tuple[str, str]] = frozenset()
    posture: frozenset[str] = frozenset()


async def verify_signed(
    unverified_token: str, issuers: Issuers
) -> tuple[SignedClaims | IntrospectedClaims, TrustedIssuer]:
    """Steps 1 to 3: the claims of a token that a configured issuer signed or vouches for, and that issuer.

    An issuer whose tokens are checked by asking it is asked, after the signature where there is one.

    Raises:
        GateError: TOKEN_MALFORMED, TOKEN_HEADER_REFUSED, ISSUER_UNKNOWN, TOKEN_TYPE_REFUSED, TOKEN_ALGORITHM_REFUSED,
            KEY_UNKNOWN, SIGNATURE_INVALID, TOKEN_REVOKED, TOKEN_BINDING_REFUSED; KEYS_UNAVAILABLE,
            IDENTITY_PROVIDER_UNAVAILABLE.
    """
    # 1.
    if unverified_token.count(".") != _JWT_DOTS:
        issuer = issuers.opaque()
        return await issuers.ask(issuer, unverified_token), issuer
    jwt = parse_jwt(unverified_token)
    issuer = issuers.select(jwt.unverified_issuer)
    if not issuer.signed:
        return await issuers.ask(issuer, unverified_token), issuer
    # 2. RFC 8725 section 3.11.
    if media_type(jwt.unverified_type) not in issuer.types:
        raise GateError(ErrorCode.TOKEN_TYPE_REFUSED, "typ is not one of the issuer's")
    # 3. The algorithm first, so that a refused one costs the issuer no fetch of its keys.
    if jwt.unverified_algorithm not in issuer.algorithms:
        raise GateError(ErrorCode.TOKEN_ALGORITHM_REFUSED, "alg is not among the issuer's")
    signed = verify_jwt(jwt, await issuers.keys[issuer.issuer].keys(jwt.unverified_kid), issuer.algorithms)
    require_access_token(signed, issuer.pointers.agent)
    if issuer.asked:
        # Only whether it is still good: what it says is what was signed. But a binding that it did not sign, and tells
        # only here (RFC 8705 section 3.2, RFC 9449 section 6.2), must not be passed over.
        said = await issuers.ask(issuer, unverified_token)
        if "cnf" in said.claims and said.claims["cnf"] != signed.claims.get("cnf"):
            raise GateError(ErrorCode.TOKEN_BINDING_REFUSED, "the issuer says of another cnf than it signed")
    return signed, issuer


def verify_claims(
    signed: SignedClaims | IntrospectedClaims, issuer: TrustedIssuer, credential: str, now: int
) -> VerifiedToken:
    """Steps 4 to 9 for signed claims, but for the comparison of the audience. `cnf` and `act` are not judged.

    Raises:
        GateError: TOKEN_EXPIRED, TOKEN_NOT_YET_VALID, TOKEN_LIFETIME_EXCESSIVE, CLAIM_MISSING, CLAIM_INVALID,
            ISSUER_UNKNOWN, TENANT_REFUSED, ROLE_REFUSED.
    """
    claims, pointers = signed.claims, issuer.pointers
    # 4.
    expires_at, issued_at = time_at(claims, "exp"), time_at(claims, "iat")
    if expires_at is None or issued_at is None:
        raise GateError(ErrorCode.CLAIM_MISSING, "exp and iat are required")
    not_before = max(time_at(claims, "nbf") or 0, issued_at)
    check_times(not_before, expires_at, now)
    if expires_at - issued_at > issuer.max_lifetime:
        raise GateError(ErrorCode.TOKEN_LIFETIME_EXCESSIVE, f"lives {expires_at - issued_at} s")
    # 5.
    if claims.get("iss") != issuer.issuer:
        raise GateError(ErrorCode.ISSUER_UNKNOWN, "the verified iss is not the selected issuer")
    # 6. in part: the comparison itself is repeated for every request.
    audiences = _audiences(claims, issuer)
    # 7.
    scopes = frozenset(strings_at(claims, pointers.scope, spaced=True)) - {""}
    # 8.
    if string_at(claims, "/sub") is None:
        raise GateError(ErrorCode.CLAIM_MISSING, "sub is required")
    # 9.
    tenant = _tenant(string_at(claims, pointers.tenant), issuer)
    roles = _roles(claims, issuer)
    identifier = string_at(claims, pointers.agent)
    if identifier is None:
        raise GateError(ErrorCode.CLAIM_MISSING, f"the agent's claim {pointers.agent} is required")
    subject = string_at(claims, pointers.user)
    if subject is None and pointers.user is not None and not pointers.user_optional:
        # Leaving the claim out (by asking for fewer scopes) must not lift what the user's role forbids.
        raise GateError(ErrorCode.CLAIM_MISSING, f"the user's claim {pointers.user} is required")
    one_time = string_at(claims, "/jti") if issuer.one_time else None
    if issuer.one_time and one_time is None:
        # Its text would not do: one token can be written in several ways.
        raise GateError(ErrorCode.CLAIM_MISSING, "jti is required: without it nobody could tell a second use")
    return VerifiedToken(
        tenant=tenant,
        binding=Binding(Method.JWT, issuer.issuer, identifier),
        assigned=string_at(claims, pointers.assigned),
        user=None if subject is None else UserId(issuer.issuer, subject),
        roles=roles,
        groups=strings_at(claims, pointers.groups, spaced=False),
        scopes=scopes,
        audiences=audiences,
        session_id=string_at(claims, pointers.session),
        not_before=not_before,
        expires_at=expires_at,
        credential=credential,
        one_time=one_time,
        revocable=_revocable(claims, identifier, subject) if issuer.revocable else frozenset(),
        posture=flags_at(claims, pointers.device),
    )


def check_times(not_before: int, expires_at: int, now: int) -> None:
    """Step 4 in part: refuse what is not good at this moment; all are Unix seconds.

    Raises:
        GateError: TOKEN_EXPIRED, TOKEN_NOT_YET_VALID.
    """
    if now >= expires_at:
        raise GateError(ErrorCode.TOKEN_EXPIRED)
    if not_before > now + LEEWAY:
        raise GateError(ErrorCode.TOKEN_NOT_YET_VALID)


def _audiences(claims: Mapping[str, Any], issuer: TrustedIssuer) -> frozenset[str]:
    claimed = claims.get("aud")
    names = [claimed] if isinstance(claimed, str) else strings_at(claims, "/aud", spaced=False)
    if not names:
        raise GateError(ErrorCode.CLAIM_MISSING, "aud is required")
    if len(names) > MAX_AUDIENCES:
        raise GateError(ErrorCode.CLAIM_INVALID, f"aud holds more than {MAX_AUDIENCES} names")
    return frozenset(names).union(resource for resource, name in issuer.audiences.items() if name in names)


def _roles(claims: Mapping[str, Any], issuer: TrustedIssuer) -> tuple[str, ...]:
    """The roles that the issuer asserts and may assert.

    A list may hold names that mean something elsewhere (Keycloak's always does), so of a list only the issuer's `roles`
    count. A single string can only be meant for us, so another one is refused.
    """
    pointer = issuer.pointers.role
    if pointer is not None and isinstance(resolve_pointer(claims, pointer), list):
        return tuple(sorted(issuer.roles.intersection(strings_at(claims, pointer, spaced=False))))
    role = string_at(claims, pointer)
    if role is None:
        return ()
    if role not in issuer.roles:
        raise GateError(ErrorCode.ROLE_REFUSED, "the issuer may not assert this role")
    return (role,)


def _tenant(claimed: str | None, issuer: TrustedIssuer) -> str:
    if claimed is None:
        # Only an issuer of one tenant may leave the claim out; of several, nobody guesses.
        if issuer.pointers.tenant is None and len(issuer.tenants) == 1:
            return next(iter(issuer.tenants))
        raise GateError(ErrorCode.TENANT_REFUSED, "the tenant claim is missing")
    if claimed not in issuer.tenants:
        raise GateError(ErrorCode.TENANT_REFUSED, "the issuer may not assert this tenant")
    return claimed


def _revocable(claims: Mapping[str, Any], client_id: str, user: str | None) -> frozenset[tuple[str, str]]:
    """The names of `flows.authserver.revocations` by which a token of our own can be taken back."""
    jti, grant = string_at(claims, "/jti"), string_at(claims, "/grant_id")
    if jti is None:
        raise GateError(ErrorCode.CLAIM_MISSING, "jti is required: without it nobody could revoke the token")
    named = (("token", jti), ("grant", grant), ("client", client_id), ("user", user))
    return frozenset((kind, name) for kind, name in named if name is not None)
