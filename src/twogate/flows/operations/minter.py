"""Who may issue operation tokens: hosts for their own person, authorizers for what their registration lists.

Never an agent, whatever it holds (DESIGN decision 7). A person at the console is a minter too (`person_minter`). Of
tokens the steps run in this order and the first failure is the reason:

1. one token and its proof, as everywhere; 2. our own server signed it as an access token, and it is good now; 3. it is
for operations and for nothing else; 4. neither it nor what it comes from was revoked; 5. it is bound to exactly what
was proven; 6. nobody acts for its subject: no token from an exchange; 7. its client is a host or an authorizer, by an
operator's word, and no agent; 8. a host's person is not disabled, nor the agent that the host runs; an authorizer's
token names no person; 9. proof and token, if they are good once, were not used before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

import msgspec

from twogate.core.audit.accessor import Accessors
from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.confirmation import ClientCertificate, parse_confirmation
from twogate.core.principal import PUBLIC_CLIENT, AgentId, UserId
from twogate.flows.authserver.clients import (
    Client,
    ClientAuth,
    ClientDirectory,
    ClientKind,
    ClientSource,
    ReplayStore,
)
from twogate.flows.authserver.people import People, User
from twogate.flows.gateway.authenticate import require_unrevoked
from twogate.flows.gateway.credential import parse_credential
from twogate.flows.gateway.issuers import Issuers
from twogate.flows.gateway.possession import Possession, proven_by, redeem_token
from twogate.flows.gateway.verify_token import VerifiedToken, verify_claims, verify_signed
from twogate.flows.registry import Registry, RegistryView

_MINTING: Final = frozenset({ClientKind.HOST, ClientKind.AUTHORIZER})
_BY_AN_OPERATOR: Final = frozenset({ClientSource.CONFIGURED, ClientSource.ADDED})


class Minter(msgspec.Struct, frozen=True):
    """Who proved to be allowed to issue operation tokens. `user` is a host's person; an authorizer has none."""

    client: Client
    user: UserId | None
    credential: str


def person_minter(person: User, issuer: str) -> Minter:
    """A person who has just proven at our own console, by a passkey, to be there: a minter for their own sessions.

    As a host is for its person, and with no client in between. `issuer` is our own server.
    """
    client = Client(
        client_id=f"{person.tenant}/{person.name}",
        tenant=person.tenant,
        agent=AgentId(person.tenant, PUBLIC_CLIENT),
        auth=ClientAuth.NONE,
        kind=ClientKind.HOST,
        grants=frozenset(),
    )
    return Minter(client, UserId(issuer, person.subject), "")


class Minters:
    """Authenticates minters. `issuers` holds our own server alone, `operations` is the resource's name."""

    def __init__(
        self,
        operations: str,
        issuers: Issuers,
        possession: Possession,
        registry: Registry,
        clients: ClientDirectory,
        people: People,
        replay: ReplayStore,
        accessors: Accessors,
    ) -> None:
        self._operations = operations
        self._issuers = issuers
        self._possession = possession
        self._registry = registry
        self._clients = clients
        self._people = people
        self._replay = replay
        self._accessors = accessors

    async def authenticate(
        self, headers: Mapping[str, str], method: str, uri: str, certificate: ClientCertificate | None, now: int
    ) -> Minter:
        """The minter that a request by `method` to `uri` proves.

        Raises:
            GateError: any code of gate one, MINT_REFUSED; KEYS_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        # 1.
        bearer = parse_credential(headers)
        proof = self._possession.verify(bearer, method, uri, now)
        # 2. Other issuers' tokens are unknown here.
        signed, issuer = await verify_signed(bearer.unverified_token, self._issuers)
        digest = hashlib.sha256(bearer.unverified_token.encode()).digest()
        token = verify_claims(signed, issuer, self._accessors.of("token", digest), now)
        # 3.
        if token.audiences != frozenset({self._operations}):
            raise GateError(ErrorCode.AUDIENCE_MISMATCH, "aud is not the operations resource alone")
        # 4.
        view = await self._registry.view()
        require_unrevoked(token, view)
        # 5.
        parse_confirmation(signed.claims).require(proven_by(proof, certificate), now)
        # 6.
        if "act" in signed.claims:
            raise GateError(ErrorCode.MINT_REFUSED, "a token from an exchange")
        # 7.
        client = await self._client(token, view, now)
        # 8.
        await self._require_person(token, client, view)
        # 9.
        await self._possession.redeem_proof(proof, now)
        if token.one_time is not None:
            await redeem_token(self._replay, issuer.issuer, token.one_time, token.expires_at, now)
        return Minter(client, token.user, token.credential)

    async def _client(self, token: VerifiedToken, view: RegistryView, now: int) -> Client:
        client = await self._clients.find(token.binding.identifier, now)
        if client is None or client.tenant != token.tenant:
            raise GateError(ErrorCode.MINT_REFUSED, "the token's client is gone, or of another tenant")
        if client.kind not in _MINTING or client.source not in _BY_AN_OPERATOR:
            raise GateError(ErrorCode.MINT_REFUSED, f"a client of kind {client.kind.value} ({client.source.value})")
        if token.binding in view.bindings:
            # The gateway would take such a token for the agent's.
            raise GateError(ErrorCode.MINT_REFUSED, f"the client is bound to the agent {view.bindings[token.binding]}")
        return client

    async def _require_person(self, token: VerifiedToken, client: Client, view: RegistryView) -> None:
        if client.kind is ClientKind.AUTHORIZER:
            if token.user is not None or token.assigned is not None:
                raise GateError(ErrorCode.MINT_REFUSED, "an authorizer with a person, or an agent")
            return
        if token.user is None:
            raise GateError(ErrorCode.MINT_REFUSED, "a host without a person")
        person = await self._people.user(token.tenant, token.user.subject)
        if person is None or person.disabled:
            raise GateError(ErrorCode.USER_DISABLED, "the person is disabled or gone")
        agent = None if client.agent is None else view.agents.get(client.agent)
        if agent is None or agent.disabled:
            raise GateError(ErrorCode.AGENT_DISABLED, f"the host's agent {client.agent}")
