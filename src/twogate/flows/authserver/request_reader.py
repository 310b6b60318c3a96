"""What an authorization request must hold for its client, whether pushed or brought by a browser."""

from __future__ import annotations

from typing import Protocol

from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.authorize_request import AuthorizeRequest, Parameters, parse_request
from twogate.core.oauth.grant_type import GrantType
from twogate.core.oauth.token_request import verify_wanted
from twogate.core.principal import Agent
from twogate.flows.authserver.access_tokens import TokenSettings
from twogate.flows.authserver.clients import Client, ClientKind


class AgentOf(Protocol):
    """Finds whom a client acts as; implemented by `authenticate_client.ClientAuthenticator`."""

    async def agent_of(self, client: Client) -> Agent | None:
        """The enabled agent that a client acts as; None for an authorizer.

        Raises:
            GateError: AGENT_UNBOUND, AGENT_DISABLED, STORE_UNAVAILABLE.
        """
        ...


class RequestReader:
    """Reads requests and judges them by what their client may ask for now."""

    def __init__(self, settings: TokenSettings, agents: AgentOf) -> None:
        self._settings = settings
        self._agents = agents

    async def read(
        self, parameters: Parameters, client: Client, redirect_uri: str, *, given: bool
    ) -> tuple[AuthorizeRequest, Agent]:
        """A request of a client with one of its redirect URIs, and the agent that the client acts as.

        Raises:
            GateError: what `parse_request` and `verify` raise.
        """
        request = parse_request(parameters, client.client_id, redirect_uri, given=given)
        return request, await self.verify(request, client)

    async def verify(self, request: AuthorizeRequest, client: Client) -> Agent:
        """The agent that the client acts as, if the client may ask for this.

        Raises:
            GateError: CLIENT_UNAUTHORIZED, AGENT_UNBOUND, AGENT_DISABLED, RESOURCE_INVALID, SCOPE_INVALID,
                DETAILS_INVALID, STORE_UNAVAILABLE.
        """
        if GrantType.AUTHORIZATION_CODE not in client.grants or client.kind is ClientKind.AUTHORIZER:
            raise GateError(ErrorCode.CLIENT_UNAUTHORIZED, "the client may not use authorization_code")
        agent = await self._agents.agent_of(client)
        if agent is None:
            raise GateError(ErrorCode.CLIENT_UNAUTHORIZED, "the client acts as no agent")
        verify_wanted(request.wanted, self._settings.resources_of(client), self._settings.scopes)
        if request.task is not None and request.task not in agent.tasks:
            text = "the client has no such task"
            raise GateError(ErrorCode.DETAILS_INVALID, text, data={"description": text})
        return agent
