"""`GET /sessions`: the live sessions that a caller may know of (DESIGN decision 7).

An agent sees its own. A host sees those of its person, whichever agent they are for: it may issue operation tokens for
them, and must know their ids to do so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from twogate.core.errors import GateError
from twogate.core.jose.claims import string_at
from twogate.core.oauth.confirmation import ClientCertificate
from twogate.core.principal import Principal, PrincipalKey, UserId
from twogate.core.session import Session
from twogate.flows.audit import Refusals
from twogate.flows.authserver.clients import ClientDirectory, ClientKind
from twogate.flows.environment import Clock
from twogate.flows.gateway.authenticate import Authenticator
from twogate.flows.gateway.credential import BearerToken, parse_credential
from twogate.flows.gateway.issuers import Issuers
from twogate.flows.gateway.possession import Possession, proven_by
from twogate.flows.gateway.record import refused_event
from twogate.flows.gateway.verify_token import verify_signed
from twogate.flows.registry import Registry

MAX_LISTED: Final = 200
"""Sessions that one answer names; the newest."""


class LiveSessions(Protocol):
    """Finds live sessions."""

    async def live(self, now: int, tenant: str, whose: PrincipalKey | UserId, most: int) -> Sequence[Session]:
        """A tenant's live sessions of this very principal, or of this user with whichever agent; newest first.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...


class Hosts:
    """Tells the tokens of hosts. `issuers` holds our own server alone."""

    def __init__(self, issuers: Issuers, clients: ClientDirectory) -> None:
        self._issuers = issuers
        self._clients = clients

    async def is_host(self, principal: Principal, bearer: BearerToken, now: int) -> bool:
        """Whether a token, which gate one found good, is one that we gave a host for a person."""
        if principal.issuer not in self._issuers.trusted or principal.user is None:
            return False
        # Gate one proved it; what is read here is the client, which principals do not name.
        signed, issuer = await verify_signed(bearer.unverified_token, self._issuers)
        client_id = string_at(signed.claims, issuer.pointers.agent)
        client = None if client_id is None else await self._clients.find(client_id, now)
        return client is not None and client.kind is ClientKind.HOST and client.tenant == principal.tenant


class ListSessions:
    """Lists sessions for callers that prove who they are with a token for the sessions resource."""

    def __init__(
        self,
        *,
        resource: str,
        authenticator: Authenticator,
        possession: Possession,
        registry: Registry,
        sessions: LiveSessions,
        hosts: Hosts | None,
        refusals: Refusals,
        clock: Clock,
    ) -> None:
        """`hosts` is None where there can be none: without the embedded server."""
        self._resource = resource
        self._authenticator = authenticator
        self._possession = possession
        self._registry = registry
        self._sessions = sessions
        self._hosts = hosts
        self._refusals = refusals
        self._clock = clock

    async def respond(
        self, headers: Mapping[str, str], address: str, certificate: ClientCertificate | None = None
    ) -> Sequence[Session]:
        """The sessions, newest first.

        Raises:
            GateError: any code of gate one, which is recorded; STORE_UNAVAILABLE.
        """
        now = self._clock.now()
        try:
            bearer = parse_credential(headers)
            proof = self._possession.verify(bearer, "GET", self._resource, now)
            view = await self._registry.view()
            proven = proven_by(proof, certificate)
            principal = await self._authenticator.authenticate(bearer, self._resource, view, now, proven)
            await self._possession.redeem(proof, principal, now)
        except GateError as error:
            at = self._clock.now_us()
            await self._refusals.record(refused_event(error, at=at, address=address, detail=f"sessions: {error.debug}"))
            raise
        whose: PrincipalKey | UserId = principal.key
        if principal.user is not None and self._hosts is not None and await self._hosts.is_host(principal, bearer, now):
            whose = principal.user
        return await self._sessions.live(now, principal.tenant, whose, MAX_LISTED)
