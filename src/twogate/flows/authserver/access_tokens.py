"""Issuing access tokens: the one place where what was granted becomes a signed token, whatever the grant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth import access_token
from twogate.core.oauth.access_token import AccessTokenGrant
from twogate.core.oauth.authorization_details import details_of
from twogate.core.oauth.resource import OPERATIONS_PATH
from twogate.core.principal import Agent, PrincipalKey, UserId
from twogate.flows.audit import AuditSink
from twogate.flows.authserver.clients import Client, ClientKind, ClientSource
from twogate.flows.authserver.grant import Authorization
from twogate.flows.authserver.people import People, User
from twogate.flows.environment import Clock, Rng
from twogate.flows.sessions import Grantee, Sessions
from twogate.flows.signer import Signer, sign_jwt

_BOUND_SOURCES: Final = (ClientSource.CONFIGURED, ClientSource.ADDED)


class TokenSettings(msgspec.Struct, frozen=True):
    """What the configuration says of tokens. `resources` maps a tenant to the resources its clients may name."""

    issuer: str
    resources: Mapping[str, frozenset[str]]
    scopes: frozenset[str]
    lifetime: int = access_token.DEFAULT_LIFETIME

    def __post_init__(self) -> None:
        """Refuse a lifetime that is not short."""
        if not 0 < self.lifetime <= access_token.MAX_LIFETIME:
            raise ValueError(f"an access token lives between 1 and {access_token.MAX_LIFETIME} seconds")

    @property
    def operations(self) -> str:
        """The resource of operation tokens."""
        return self.issuer + OPERATIONS_PATH

    def resources_of(self, client: Client) -> frozenset[str]:
        """The resources that a client may name, `/operations` only if it may mint operation tokens (decision 7)."""
        operations = frozenset({self.operations})
        if client.kind is ClientKind.AUTHORIZER:
            return operations
        resources = self.resources.get(client.tenant, frozenset())
        return resources | operations if client.kind is ClientKind.HOST else resources


class Issued(msgspec.Struct, frozen=True):
    """An access token as its client gets it; `expires_in` in seconds."""

    token: str
    expires_in: int
    scopes: tuple[str, ...]
    task: str | None
    bound: bool

    def __repr__(self) -> str:
        """Leave the token out."""
        return f"Issued(expires_in={self.expires_in}, scopes={self.scopes!r})"

    def as_json(self, **more: object) -> dict[str, object]:
        """The answer of the token endpoint (RFC 6749 section 5.1, RFC 9449 section 5, RFC 9396 section 7)."""
        body: dict[str, object] = {
            "access_token": self.token,
            "token_type": "DPoP" if self.bound else "Bearer",
            "expires_in": self.expires_in,
        }
        if self.scopes:
            body["scope"] = " ".join(self.scopes)
        if self.task is not None:
            body["authorization_details"] = details_of(self.task)
        return body | {name: value for name, value in more.items() if value is not None}


class AccessTokens:
    """Issues access tokens. `settings` may be replaced at any time; each request reads it once."""

    def __init__(
        self,
        settings: TokenSettings,
        people: People,
        sessions: Sessions,
        signer: Signer,
        audit: AuditSink,
        clock: Clock,
        rng: Rng,
    ) -> None:
        self.settings = settings
        self._people = people
        self._sessions = sessions
        self._signer = signer
        self._audit = audit
        self._clock = clock
        self._rng = rng

    async def issue(
        self,
        authorization: Authorization,
        client: Client,
        agent: Agent | None,
        *,
        method: str,
        address: str,
        proof: str | None = None,
        grant_id: str | None = None,
        not_after: int | None = None,
    ) -> Issued:
        """Issue a token for what was granted, after looking at client, resource, scopes, user and task anew.

        `proof` is the key that the token is bound to, `not_after` (Unix seconds) a moment that it must not outlive. A
        task is declared as by `POST /sessions`. The audit trail has the token first.

        Raises:
            GateError: GRANT_INVALID if what was granted does not hold any more; RESOURCE_INVALID, TASK_UNKNOWN,
                TASK_LIMIT, SESSION_ENDED; KEYS_UNAVAILABLE, STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        settings, now = self.settings, self._clock.now()
        if (authorization.tenant, authorization.client_id) != (client.tenant, client.client_id):
            raise GateError(ErrorCode.GRANT_INVALID, "granted to another client")
        if authorization.agent is not None and (agent is None or agent.id.agent != authorization.agent):
            # The person was shown what that agent may do, and the other one may do something else.
            raise GateError(ErrorCode.GRANT_INVALID, f"granted while the client was agent {authorization.agent!r}")
        if authorization.resource not in settings.resources_of(client):
            raise GateError(ErrorCode.RESOURCE_INVALID, "the resource is not the client's any more")
        ends = [now + settings.lifetime, authorization.ends_at, not_after]
        lifetime = min(end for end in ends if end is not None) - now
        if lifetime <= 0:
            raise GateError(ErrorCode.GRANT_INVALID, "what was granted has ended")
        user = None if authorization.user is None else await self._user(authorization.tenant, authorization.user)
        credential = "" if grant_id is None else f"grant {grant_id}"
        session_id = None
        if authorization.task is not None:
            session_id = await self._session(authorization.task, client, agent, user, address, credential)
        grant = AccessTokenGrant(
            issuer=settings.issuer,
            client_id=client.client_id,
            tenant=client.tenant,
            resource=authorization.resource,
            # What is no scope any more is not granted; the answer says what is.
            scopes=tuple(scope for scope in authorization.scopes if scope in settings.scopes),
            issued_at=now,
            lifetime=lifetime,
            jti=access_token.encode_base64url(self._rng.token(access_token.JTI_BYTES)),
            # A client that an operator bound to its agent is found by that binding, so that cutting it cuts the token.
            agent=None if agent is None or _is_bound(client) else agent.id.agent,
            user=None if user is None else user.subject,
            roles=() if user is None else user.roles,
            groups=() if user is None else user.groups,
            act=authorization.act,
            # A token without a person cannot be exchanged at all.
            may_act=None if user is None else client.may_act,
            session_id=session_id,
            task=authorization.task,
            proof_key=proof,
            grant_id=grant_id,
            authenticated_at=authorization.authenticated_at,
        )
        token = await sign_jwt(self._signer, grant.claims, access_token.TYPE)
        await self._audit.append(self._event(grant, agent, session_id, method, address))
        return Issued(token, lifetime, grant.scopes, authorization.task, proof is not None)

    async def _user(self, tenant: str, subject: str) -> User:
        user = await self._people.user(tenant, subject)
        if user is None or user.disabled:
            raise GateError(ErrorCode.GRANT_INVALID, "the user is disabled or gone")
        return user

    async def _session(
        self, task: str, client: Client, agent: Agent | None, user: User | None, address: str, credential: str
    ) -> str:
        if agent is None:
            raise GateError(ErrorCode.DETAILS_INVALID, "the client acts as no agent")
        issuer = self.settings.issuer
        key = PrincipalKey(
            client.tenant, issuer, agent.id.agent, None if user is None else UserId(issuer, user.subject)
        )
        session = await self._sessions.declare(task, Grantee(key, agent, credential), self._clock.now(), address)
        return session.id

    def _event(
        self, grant: AccessTokenGrant, agent: Agent | None, session_id: str | None, method: str, address: str
    ) -> AuditEvent:
        return AuditEvent(
            kind=EventKind.TOKEN_ISSUED,
            at=self._clock.now_us(),
            address=address,
            tenant=grant.tenant,
            issuer=grant.issuer,
            agent="" if agent is None else agent.id.agent,
            client=grant.client_id,
            user_issuer="" if grant.user is None else grant.issuer,
            user=grant.user or "",
            session=session_id or "",
            task=grant.task or "",
            method=method,
            credential="" if grant.grant_id is None else f"grant {grant.grant_id}",
            detail=f"jti {grant.jti} for {grant.resource} scope {' '.join(grant.scopes) or '(none)'}",
        )


def _is_bound(client: Client) -> bool:
    return client.kind is ClientKind.AGENT and client.source in _BOUND_SOURCES
