"""Subject tokens of token exchange: from a presented access token to the user that it may be exchanged for (RFC 8693).

The steps run in this order and the first failure is the reason:

1. our own server, or a configured issuer that may give subject tokens, signed it as an access token
2. it is good as such at this very moment, and of the exchanger's tenant
3. it names the exchanger: others get nothing for a captured token
4. it names a user; what a client got for itself has nobody whom another could act for
5. what it is bound to was proven
6. it is not for operations, its own agent is not disabled, and if it is ours, gate one would let it in
7. the user is one of ours
8. it was not used before, if its issuer's tokens are good for one request: an exchange is one (`redeem`)
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.claims import string_at, time_at
from twogate.core.oauth.confirmation import verify_confirmation
from twogate.core.oauth.exchange import parse_actors, require_named, task_of
from twogate.core.oauth.resource import OPERATIONS_PATH
from twogate.core.principal import Agent, UserId
from twogate.flows.authserver.clients import Client, ReplayStore
from twogate.flows.authserver.people import User
from twogate.flows.gateway.authenticate import principal_of
from twogate.flows.gateway.issuers import Issuers
from twogate.flows.gateway.possession import redeem_token
from twogate.flows.gateway.verify_token import VerifiedToken, verify_claims, verify_signed
from twogate.flows.registry import RegistryView


class Agents(Protocol):
    """Tells what is bound to agents, and what was revoked."""

    async def view(self) -> RegistryView:
        """Both as of now.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...


class Identities(Protocol):
    """Finds people by what an issuer calls them."""

    async def by_identity(self, issuer: str, provider_subject: str, tenant: str) -> User | None:
        """The person linked to an issuer's subject; None if nobody is.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...


class SubjectToken(msgspec.Struct, frozen=True):
    """What a good subject token lets its exchanger do. `expires_at` is Unix seconds.

    `user` is our own subject of the person. `actors` are those who act for that person already, as an `act` claim has
    them. `task` and `grant_id` are those of a token of ours. `one_time` is its issuer and `jti` if it is good once.
    """

    user: str
    scopes: tuple[str, ...]
    expires_at: int
    actors: dict[str, Any] | None
    task: str | None
    grant_id: str | None
    authenticated_at: int | None
    one_time: tuple[str, str] | None


class SubjectTokens:
    """Verifies subject tokens. `issuers` are our own, named `issuer`, and those that may give subject tokens."""

    def __init__(
        self, issuer: str, issuers: Issuers, agents: Agents, identities: Identities, replay: ReplayStore
    ) -> None:
        """`replay` knows the tokens that were good once."""
        self._issuer = issuer
        self._issuers = issuers
        self._agents = agents
        self._identities = identities
        self._replay = replay

    async def verify(
        self, unverified_token: str, client: Client, agent: Agent, proof: str | None, now: int
    ) -> SubjectToken:
        """What the authenticated client, acting as this agent, may exchange a token for.

        Raises:
            GateError: any code of gate one, GRANT_INVALID; KEYS_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        # 1.
        signed, issuer = await verify_signed(unverified_token, self._issuers)
        claims, ours = signed.claims, issuer.issuer == self._issuer
        # 2.
        token = verify_claims(signed, issuer, "", now)
        if token.tenant != client.tenant:
            raise GateError(ErrorCode.TENANT_REFUSED, "the subject token is of another tenant than the client")
        # 3. At another issuer the exchanger has the names that its agent is bound by there; ours mean nothing.
        view = await self._agents.view()
        names = {client.client_id} if ours else _names_at(issuer.issuer, agent, view)
        require_named(claims, issuer.issuer, issuer.pointers.agent, names, (self._issuer, client.client_id))
        # 4.
        if token.user is None:
            raise GateError(ErrorCode.GRANT_INVALID, "the subject token names no user")
        # 5.
        verify_confirmation(claims, proof)
        # 6.
        self._verify_usable(token, view, ours=ours)
        # 7.
        user = token.user.subject if ours else await self._local(token.user, client.tenant)
        return SubjectToken(
            user=user,
            scopes=tuple(sorted(token.scopes)),
            expires_at=token.expires_at,
            actors=parse_actors(claims, None if ours else issuer.issuer),
            task=task_of(claims) if ours else None,
            grant_id=string_at(claims, "/grant_id") if ours else None,
            authenticated_at=time_at(claims, "auth_time"),
            one_time=None if token.one_time is None else (issuer.issuer, token.one_time),
        )

    async def redeem(self, subject: SubjectToken, now: int) -> None:
        """Step 8: use the token up if it is good once; not before nothing else stands against the exchange.

        Raises:
            GateError: TOKEN_USED, STORE_UNAVAILABLE.
        """
        if subject.one_time is not None:
            issuer, jti = subject.one_time
            await redeem_token(self._replay, issuer, jti, subject.expires_at, now)

    def _verify_usable(self, token: VerifiedToken, view: RegistryView, *, ours: bool) -> None:
        if self._issuer + OPERATIONS_PATH in token.audiences:
            raise GateError(ErrorCode.AUDIENCE_MISMATCH, "the subject token is for operations, and for nothing else")
        # Whoever took the token's client its agent or its rights meant the token too, in whatever hands it is.
        if ours:
            principal_of(token, view)
            return
        # Another issuer's token may be an application's that is nobody here.
        agent_id = view.bindings.get(token.binding)
        if agent_id is not None and ((agent := view.agents.get(agent_id)) is None or agent.disabled):
            raise GateError(ErrorCode.AGENT_DISABLED, f"agent {agent_id}")

    async def _local(self, user: UserId, tenant: str) -> str:
        known = await self._identities.by_identity(user.issuer, user.subject, tenant)
        if known is None:
            raise GateError(ErrorCode.GRANT_INVALID, "the subject token's user is linked to nobody here")
        return known.subject


def _names_at(issuer: str, agent: Agent, view: RegistryView) -> frozenset[str]:
    return frozenset(
        binding.identifier
        for binding, agent_id in view.bindings.items()
        if agent_id == agent.id and binding.issuer == issuer
    )


def exchangeable(issuers: Issuers, allowed: Collection[str]) -> Issuers:
    """Those of the issuers that may give subject tokens."""
    may = {name: issuer for name, issuer in issuers.trusted.items() if name in allowed}
    return msgspec.structs.replace(issuers, trusted=may)
