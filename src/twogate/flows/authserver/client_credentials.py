"""The client credentials grant: a client gets a token for itself (RFC 6749 section 4.4)."""

from __future__ import annotations

from typing import ClassVar

from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.grant_type import GrantType
from twogate.core.oauth.token_request import parse_wanted, verify_wanted
from twogate.flows.authserver.access_tokens import AccessTokens
from twogate.flows.authserver.clients import ClientAuth
from twogate.flows.authserver.form import ClientCall, JsonAnswer
from twogate.flows.authserver.grant import Authorization


class ClientCredentials:
    """Implements `grant.Grant`."""

    type: ClassVar[GrantType] = GrantType.CLIENT_CREDENTIALS
    anonymous: ClassVar[bool] = False

    def __init__(self, tokens: AccessTokens) -> None:
        self._tokens = tokens

    async def issue(self, call: ClientCall) -> JsonAnswer:
        """A token without a user, and no refresh token (RFC 6749 section 4.4.3).

        Raises:
            GateError: CLIENT_UNAUTHORIZED, RESOURCE_INVALID, SCOPE_INVALID, DETAILS_INVALID; see `AccessTokens.issue`.
        """
        client = call.client
        if client is None or client.auth is ClientAuth.NONE:
            # "MUST only be used by confidential clients" (RFC 6749 section 4.4).
            raise GateError(ErrorCode.CLIENT_UNAUTHORIZED, "only a client that authenticates")
        wanted = parse_wanted(call.form)
        verify_wanted(wanted, self._tokens.settings.resources_of(client), self._tokens.settings.scopes)
        authorization = Authorization(client.tenant, client.client_id, wanted.resource, wanted.scopes, task=wanted.task)
        issued = await self._tokens.issue(
            authorization, client, call.agent, method=call.trace.method, address=call.address, proof=call.proof
        )
        return JsonAnswer(issued.as_json())
