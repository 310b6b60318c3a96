"""Who posts to the authorization server: the one client that a request proves to be from."""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.keys import parse_jwks
from twogate.core.oauth.client_assertion import verify_client_assertion
from twogate.core.oauth.client_auth import (
    Presented,
    PresentedAssertion,
    PresentedNothing,
    PresentedSecret,
    verify_secret,
)
from twogate.core.oauth.metadata import token_endpoint
from twogate.core.principal import Agent, AgentId
from twogate.flows.authserver.clients import (
    Client,
    ClientAuth,
    ClientDirectory,
    ClientSource,
    ClientStore,
    ReplayStore,
)

REPLAY_KIND: Final = "client_assertion"

_WITHOUT_ROW: Final = (ClientSource.CONFIGURED, ClientSource.DOCUMENT)


class Agents(Protocol):
    """Tells the current state of agents."""

    async def agent(self, agent: AgentId) -> Agent | None:
        """An agent as of now, disabled or not.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...


class Trace(msgspec.Struct):
    """What is known of a caller so far, for the audit trail; names are claims until they are proven."""

    tenant: str = ""
    agent: str = ""
    client: str = ""
    user: str = ""
    method: str = ""


class ClientAuthenticator:
    """Authenticates clients, whatever the endpoint."""

    def __init__(
        self, issuer: str, directory: ClientDirectory, clients: ClientStore, replay: ReplayStore, agents: Agents
    ) -> None:
        self._issuer = issuer
        self._directory = directory
        self._clients = clients
        self._replay = replay
        self._agents = agents

    async def authenticate(self, presented: Presented, trace: Trace, now: int) -> tuple[Client, Agent | None]:
        """The client that a request proves to be from, and the agent that it acts as (None for an authorizer).

        A client must authenticate by its registered method and no other. Its agent must exist and be enabled.

        Raises:
            GateError: CLIENT_INVALID, ASSERTION_REPLAYED, AGENT_UNBOUND, AGENT_DISABLED, what
                `verify_client_assertion` and the directory raise; STORE_UNAVAILABLE.
        """
        trace.client, trace.method = presented.unverified_client_id, presented.method.value
        client = await self._directory.find(presented.unverified_client_id, now)
        if client is not None:
            trace.tenant = client.tenant
            trace.agent = "" if client.agent is None else client.agent.agent
        match presented:
            case PresentedSecret():
                # An unknown client, or one that has keys, is compared too: see verify_secret.
                verify_secret(presented.secret, _live_digests(client, now))
            case PresentedAssertion():
                await self._redeem_assertion(presented, client, now)
            case PresentedNothing():
                if client is None or client.auth is not ClientAuth.NONE:
                    raise GateError(ErrorCode.CLIENT_INVALID, "unknown client, or one that must authenticate")
        if client is None:
            raise GateError(ErrorCode.CLIENT_INVALID, "unknown client")
        # Asked after the credential was good, so that only its holder could learn anything from it.
        agent = await self.agent_of(client)
        if client.source not in _WITHOUT_ROW:
            await self._clients.touch(client.client_id, now)
        return client, agent

    async def agent_of(self, client: Client) -> Agent | None:
        """The enabled agent that a client acts as; None for an authorizer.

        Raises:
            GateError: AGENT_UNBOUND, AGENT_DISABLED, STORE_UNAVAILABLE.
        """
        if client.agent is None:
            return None
        agent = await self._agents.agent(client.agent)
        if agent is None:
            raise GateError(ErrorCode.AGENT_UNBOUND, "the client's agent does not exist")
        if agent.disabled:
            raise GateError(ErrorCode.AGENT_DISABLED, "the client's agent is disabled")
        return agent

    async def _redeem_assertion(self, presented: PresentedAssertion, client: Client | None, now: int) -> None:
        if client is None or client.auth is not ClientAuth.PRIVATE_KEY_JWT:
            raise GateError(ErrorCode.CLIENT_INVALID, "unknown client, or one registered with another method")
        jwks = await self._directory.jwks(client, presented.assertion.unverified_kid, now)
        if jwks is None:
            raise GateError(ErrorCode.CLIENT_INVALID, "the client has no keys")
        verified = verify_client_assertion(
            presented.assertion,
            client.client_id,
            parse_jwks(jwks.encode()),
            frozenset({self._issuer, token_endpoint(self._issuer)}),
            now,
        )
        # Last, so that nobody without the key can use up the client's identifiers (RFC 7523 section 3, point 7).
        if not await self._replay.redeem(REPLAY_KIND, verified.client_id, verified.jti, verified.replayable_until, now):
            raise GateError(ErrorCode.ASSERTION_REPLAYED, "jti was used before")


def _live_digests(client: Client | None, now: int) -> tuple[bytes, ...]:
    if client is None or client.auth is not ClientAuth.CLIENT_SECRET:
        return ()
    return tuple(
        bytes.fromhex(secret.digest)
        for secret in client.secret_digests
        if secret.expires_at is None or now < secret.expires_at
    )
