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
9. tenant and role claims are ones that the issuer may assert; `jti` is there where tokens are good once
10. whoever acts for its subject (`act`) is the agent that it identifies, and it names the user
11. it is bound (`cnf`) to exactly what was proven: a key, the certificate of the connection, both, or nothing
12. if it is our own server's: neither it nor what it comes from was revoked, and its user is not disabled
13. its identity is bound to a registered agent of that tenant, and the agent is not disabled

The token cache holds what steps 1 to 11 established once and for all; time, audience and proofs are checked on every
request, cached or not. Steps 12 and 13 hold for one view of the registry, which is another one as soon as anything was
changed or revoked anywhere: they are repeated for each view, and cost a call nothing while nothing changes. A token
that is good for one request is used up afterwards, by `possession`.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Final

import msgspec

from twogate.core.audit.accessor import Accessors
from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.actor import verify_actor
from twogate.core.oauth.confirmation import NOTHING_PROVEN, UNBOUND, Confirmation, Proven, parse_confirmation
from twogate.core.principal import AgentId, Principal
from twogate.flows.gateway.credential import BearerToken
from twogate.flows.gateway.issuers import Issuers
from twogate.flows.gateway.verify_token import VerifiedToken, check_times, verify_claims, verify_signed
from twogate.flows.registry import RegistryView

CACHE_SECONDS: Final = 300
"""Seconds that a verified token is remembered at most."""

CACHE_ENTRIES: Final = 10_000


class _Entry(msgspec.Struct):
    token: VerifiedToken
    bound_to: Confirmation
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
        self, bearer: BearerToken, resource: str, view: RegistryView, now: int, proven: Proven = NOTHING_PROVEN
    ) -> Principal:
        """Prove who calls `resource` (its audience, compared exactly) at Unix time `now`.

        `proven` is what the caller proved besides: the key of a proof for this token, the connection's certificate. A
        token that is good for one request (`Principal.one_time`) is not used up by this.

        Raises:
            GateError: any code of gate one, KEYS_UNAVAILABLE.
        """
        digest = hashlib.sha256(bearer.unverified_token.encode()).digest()
        entry = self._cache.get(digest)
        if entry is None or now >= entry.forget_at:
            entry = await self._verify(bearer, digest, now)
            self._remember(digest, entry)
        token = entry.token
        # 4. again, for a cached token.
        check_times(token.not_before, token.expires_at, now)
        # 6.
        if resource not in token.audiences:
            raise GateError(ErrorCode.AUDIENCE_MISMATCH, f"aud does not hold {resource}")
        # 11. in part: what it is bound to is read once, and proven each time.
        if entry.bound_to is not UNBOUND or proven is not NOTHING_PROVEN:
            entry.bound_to.require(proven, now)
        # 12. and 13.
        if entry.principal is None or entry.view is not view:
            entry.principal = principal_of(token, view)
            entry.view = view
        return entry.principal

    def _remember(self, digest: bytes, entry: _Entry) -> None:
        self._cache[digest] = entry
        self._cache.move_to_end(digest)
        while len(self._cache) > CACHE_ENTRIES:
            self._cache.popitem(last=False)

    async def _verify(self, bearer: BearerToken, digest: bytes, now: int) -> _Entry:
        signed, issuer = await verify_signed(bearer.unverified_token, self._issuers)
        token = verify_claims(signed, issuer, self._accessors.of("token", digest), now)
        # 10.
        identifier, has_user = token.binding.identifier, token.user is not None
        verify_actor(signed.claims, issuer.issuer, issuer.pointers.agent, identifier, has_user=has_user)
        # 11. in part.
        bound_to = parse_confirmation(signed.claims)
        return _Entry(token, bound_to, min(now + self._issuers.fresh_for(issuer, CACHE_SECONDS), token.expires_at))


def require_unrevoked(token: VerifiedToken, view: RegistryView) -> None:
    """Step 12: refuse a token of our own that was taken back, or whose grant, client or user was.

    Raises:
        GateError: TOKEN_REVOKED, USER_DISABLED.
    """
    if not token.revocable.isdisjoint(view.revoked):
        kinds = {kind for kind, _ in token.revocable & view.revoked}
        if "user" in kinds:
            raise GateError(ErrorCode.USER_DISABLED, "the user is disabled")
        raise GateError(ErrorCode.TOKEN_REVOKED, f"revoked: {', '.join(sorted(kinds))}")


def principal_of(token: VerifiedToken, view: RegistryView) -> Principal:
    """Steps 12 and 13: the principal that a token makes as of one view of the registry.

    Raises:
        GateError: TOKEN_REVOKED, USER_DISABLED, AGENT_UNBOUND, AGENT_DISABLED, ROLE_REFUSED.
    """
    # 12.
    require_unrevoked(token, view)
    # 13.
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
        one_time=token.one_time,
        posture=token.posture,
    )
