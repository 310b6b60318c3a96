"""Gate one: from a bearer token to the principal it proves (DESIGN decisions 1 to 4; row R-01).

The steps run in this order and the first failure is the reason:

1. the token is well-formed, and its unverified `iss` selects a configured issuer
2. its `typ` is one of that issuer's
3. its signature is good by one of that issuer's keys and algorithms, and by its claims it is no other kind of token;
   where the issuer is to be asked, it says that the token is active, and of one that is no JWT also what it says
4. `exp`, `nbf`, `iat`, and a life no longer than the issuer's limit
5. the verified `iss` is that issuer
6. `aud` holds this very resource
7. `scope` is well-formed
8. `sub` is there
9. tenant and role claims are ones that the issuer may assert
10. it is bound to the key that was proven (`cnf`), or to none and none was
11. if it is our own server's: neither it nor what it comes from was revoked, and its user is not disabled
12. its identity is bound to a registered agent of that tenant, and the agent is not disabled

The token cache holds what steps 1 to 10 established once and for all; time and audience are checked on every request,
cached or not. Steps 11 and 12 hold for one view of the registry, which is another one as soon as anything was changed
or revoked anywhere: they are repeated for each view, and cost a call nothing while nothing changes.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from twogate.core.audit.accessor import Accessors
from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.claims import resolve_pointer, string_at, strings_at, time_at
from twogate.core.jose.jwt import SignedClaims, parse_jwt, verify_jwt
from twogate.core.jose.kind import media_type, require_access_token
from twogate.core.principal import AgentId, Binding, Method, Principal, UserId
from twogate.flows.gateway.credential import BearerToken
from twogate.flows.gateway.issuers import IntrospectedClaims, Issuers, TrustedIssuer
from twogate.flows.registry import RegistryView

LEEWAY: Final = 5
"""Seconds of clock difference forgiven for `nbf` and `iat`; `exp` gets none."""

CACHE_SECONDS: Final = 300
"""Seconds that a verified token is remembered at most."""

CACHE_ENTRIES: Final = 10_000

_JWT_DOTS: Final = 2

MAX_AUDIENCES: Final = 50
"""Audiences that one token may have."""


class VerifiedToken(msgspec.Struct, frozen=True):
    """What one good token says, after steps 1 to 10. Times are Unix seconds.

    `assigned` is the agent that our own server names where no binding does. `roles` are those that the issuer may
    assert and did. `audiences` are resources, by whatever name the issuer knows them. `revocable` are the kinds and
    names by which it can be revoked: empty for other issuers' tokens, whose names mean nothing here. `bound_to` is the
    thumbprint of the key that it is good with.
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
    bound_to: str | None = None
    revocable: frozenset[tuple[str, str]] = frozenset()


class _Entry(msgspec.Struct):
    token: VerifiedToken
    forget_at: int
    view: RegistryView | None = None
    principal: Principal | None = None


class Authenticator:
    """Gate one with its token cache. One per configuration generation."""

    def __init__(self, issuers: Issuers, accessors: Accessors) -> None:
        self._issuers = issuers
        self._accessors = accessors
        self._cache: OrderedDict[bytes, _Entry] = OrderedDict()

    async def authenticate(
        self, bearer: BearerToken, resource: str, view: RegistryView, now: int, proven_key: str | None = None
    ) -> Principal:
        """Prove who calls `resource` (its audience, compared exactly) at Unix time `now`.

        `proven_key` is the thumbprint of the key that the caller proved to hold, by a proof for this token.

        Raises:
            GateError: any code of gate one, KEYS_UNAVAILABLE.
        """
        digest = hashlib.sha256(bearer.unverified_token.encode()).digest()
        entry = self._cache.get(digest)
        if entry is None or now >= entry.forget_at:
            token, fresh_for = await self._verify(bearer, digest, now)
            entry = _Entry(token, min(now + fresh_for, token.expires_at))
            self._remember(digest, entry)
        token = entry.token
        # 4. again, for a cached token.
        _check_times(token.not_before, token.expires_at, now)
        # 6.
        if resource not in token.audiences:
            raise GateError(ErrorCode.AUDIENCE_MISMATCH, f"aud does not hold {resource}")
        # 10. Neither without the other: a bound token without its proof is what a thief has (RFC 7800 section 3.1),
        # and a proof beside an unbound one makes its client believe in a protection that is not there.
        if token.bound_to != proven_key:
            raise GateError(ErrorCode.TOKEN_BINDING_REFUSED, "the token is not bound to the key that was proven")
        # 11. and 12.
        if entry.principal is None or entry.view is not view:
            entry.principal = principal_of(token, view)
            entry.view = view
        return entry.principal

    def _remember(self, digest: bytes, entry: _Entry) -> None:
        self._cache[digest] = entry
        self._cache.move_to_end(digest)
        while len(self._cache) > CACHE_ENTRIES:
            self._cache.popitem(last=False)

    async def _verify(self, bearer: BearerToken, digest: bytes, now: int) -> tuple[VerifiedToken, int]:
        signed, issuer = await verify_signed(bearer.unverified_token, self._issuers)
        token = verify_claims(signed, issuer, self._accessors.of("token", digest), now)
        bound = msgspec.structs.replace(token, bound_to=_bound_to(signed.claims))
        return bound, self._issuers.fresh_for(issuer, CACHE_SECONDS)


async def verify_signed(
    unverified_token: str, issuers: Issuers
) -> tuple[SignedClaims | IntrospectedClaims, TrustedIssuer]:
    """Steps 1 to 3: the claims of a token that a configured issuer signed or vouches for, and that issuer.

    An issuer whose tokens are checked by asking it is asked, after the signature where there is one.

    Raises:
        GateError: TOKEN_MALFORMED, TOKEN_HEADER_REFUSED, ISSUER_UNKNOWN, TOKEN_TYPE_REFUSED, TOKEN_ALGORITHM_REFUSED,
            KEY_UNKNOWN, SIGNATURE_INVALID, TOKEN_REVOKED; KEYS_UNAVAILABLE, IDENTITY_PROVIDER_UNAVAILABLE.
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
        # Only whether it is still good: what it says is what was signed.
        await issuers.ask(issuer, unverified_token)
    return signed, issuer


def verify_claims(
    signed: SignedClaims | IntrospectedClaims, issuer: TrustedIssuer, credential: str, now: int
) -> VerifiedToken:
    """Steps 4 to 9 for signed claims, but for the comparison of the audience. Whether a `cnf` is met is not judged.

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
    _check_times(not_before, expires_at, now)
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
        revocable=_revocable(claims, identifier, subject) if issuer.revocable else frozenset(),
    )


def _bound_to(claims: Mapping[str, Any]) -> str | None:
    """Step 10: the thumbprint of the key that a token is bound to; None if it is bound to nothing."""
    if "cnf" not in claims:
        return None
    # Fail closed: a confirmation that is not understood is one that nobody proved.
    match claims["cnf"]:
        case {"jkt": str(thumbprint), **others} if thumbprint and not others:
            return thumbprint
        case _:
            raise GateError(ErrorCode.TOKEN_BINDING_REFUSED, "cnf is not one jkt alone")


def _check_times(not_before: int, expires_at: int, now: int) -> None:
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


def require_unrevoked(token: VerifiedToken, view: RegistryView) -> None:
    """Step 11: refuse a token of our own that was taken back, or whose grant, client or user was.

    Raises:
        GateError: TOKEN_REVOKED, USER_DISABLED.
    """
    if not token.revocable.isdisjoint(view.revoked):
        kinds = {kind for kind, _ in token.revocable & view.revoked}
        if "user" in kinds:
            raise GateError(ErrorCode.USER_DISABLED, "the user is disabled")
        raise GateError(ErrorCode.TOKEN_REVOKED, f"revoked: {', '.join(sorted(kinds))}")


def principal_of(token: VerifiedToken, view: RegistryView) -> Principal:
    """Steps 11 and 12: the principal that a token makes as of one view of the registry.

    Raises:
        GateError: TOKEN_REVOKED, USER_DISABLED, AGENT_UNBOUND, AGENT_DISABLED, ROLE_REFUSED.
    """
    # 11.
    require_unrevoked(token, view)
    # 12.
    agent_id = view.bindings.get(token.binding)
    if agent_id is None and token.assigned is not None:
        agent_id = AgentId(token.tenant, token.assigned)
    agent = None if agent_id is None else view.agents.get(agent_id)
    if agent is None or agent.id.tenant != token.tenant:
        raise GateError(ErrorCode.AGENT_UNBOUND, "the token's identity is bound to no agent of its tenant")
    if agent.disabled:
        raise GateError(ErrorCode.AGENT_DISABLED, f"agent {agent.id}")
    # Without a user the role claim can only repeat what the operator registered, if among other roles.
    if token.roles and token.user is None and agent.role not in token.roles:
        raise GateError(ErrorCode.ROLE_REFUSED, f"the token asserts other roles than that of {agent.id}")
    return Principal(
        tenant=token.tenant,
        issuer=token.binding.issuer,
        agent=agent,
        user=token.user,
        user_roles=token.roles if token.user is not None else (),
        groups=token.groups,
        scopes=token.scopes,
        method=token.binding.method,
        credential=token.credential,
        session_id=token.session_id,
        expires_at=token.expires_at,
    )
