"""Token exchange: a user's token and an agent's authentication in, one token out that names both (RFC 8693; row R-10).

The result never says more than the subject token and the user's consent together: no further scope, task or time.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar, Protocol

from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.jwt import parse_jwt
from twogate.core.oauth.exchange import ACCESS_TOKEN, narrow_scopes, narrow_task, next_actors, parse_exchange
from twogate.core.oauth.grant_type import GrantType
from twogate.core.oauth.token_request import parse_wanted, verify_wanted
from twogate.core.principal import Agent
from twogate.flows.authserver.access_tokens import AccessTokens
from twogate.flows.authserver.clients import Client, ClientAuth
from twogate.flows.authserver.form import ClientCall, JsonAnswer
from twogate.flows.authserver.grant import Authorization
from twogate.flows.authserver.presented import told_as
from twogate.flows.authserver.subject_tokens import SubjectToken, SubjectTokens
from twogate.flows.authserver.workloads import Workloads

_REFUSED = "The subject token, or the actor token, is not valid here."
_NO_CONSENT = "The user has not allowed this client to act for them here; ask them through the authorization endpoint."


class Consents(Protocol):
    """Knows what people have allowed."""

    async def given(
        self, client: Client, subject: str, resource: str, task: str | None, scopes: Collection[str]
    ) -> bool:
        """Whether the person has allowed all of this to the client as it is now.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...


class TokenExchange:
    """Implements `grant.Grant`."""

    type: ClassVar[GrantType] = GrantType.TOKEN_EXCHANGE
    anonymous: ClassVar[bool] = False

    def __init__(self, tokens: AccessTokens, subjects: SubjectTokens, consents: Consents, workloads: Workloads) -> None:
        self._tokens = tokens
        self._subjects = subjects
        self._consents = consents
        self._workloads = workloads

    async def issue(self, call: ClientCall) -> JsonAnswer:
        """A token of the subject token's user for the exchanger, without a refresh token.

        1. the exchanger authenticates and acts as an agent; 2. the subject token is good, and the exchanger's to
        exchange; 3. an actor token is of that agent too; 4. what is asked for is the client's to ask and no more than
        the subject token has; 5. the user has consented; 6. a subject token that is good once was not used before.

        Raises:
            GateError: CLIENT_UNAUTHORIZED, REQUEST_MALFORMED, RESOURCE_INVALID, SCOPE_INVALID, DETAILS_INVALID; any
                code of gate one, GRANT_INVALID and CONSENT_MISSING, told as REQUEST_MALFORMED; see
                `AccessTokens.issue`.
        """
        client, agent = call.client, call.agent
        # 1.
        if client is None or agent is None or client.auth is ClientAuth.NONE:
            raise GateError(ErrorCode.CLIENT_UNAUTHORIZED, "only a client that authenticates and acts as an agent")
        request, wanted = parse_exchange(call.form), parse_wanted(call.form)
        # "if either the subject_token or actor_token are invalid for any reason, or are unacceptable based on policy …
        # the value of the error parameter MUST be the invalid_request error code" (section 2.2.2).
        with told_as(ErrorCode.REQUEST_MALFORMED, _REFUSED):
            # 2.
            subject = await self._subjects.verify(request.unverified_subject, client, agent, call.proof, call.now)
            call.trace.user = subject.user
            # 3.
            if request.unverified_actor is not None:
                await self._verify_actor(request.unverified_actor, agent, call)
            actors = next_actors(client.client_id, subject.actors)
        # 4.
        settings = self._tokens.settings
        verify_wanted(wanted, settings.resources_of(client) - {settings.operations}, settings.scopes)
        authorization = Authorization(
            tenant=client.tenant,
            client_id=client.client_id,
            resource=wanted.resource,
            scopes=narrow_scopes(wanted.scopes, subject.scopes, settings.scopes),
            user=subject.user,
            task=narrow_task(wanted.task, subject.task),
            act=actors,
            authenticated_at=subject.authenticated_at,
        )
        # 5.
        with told_as(ErrorCode.REQUEST_MALFORMED, _NO_CONSENT):
            await self._verify_consent(authorization, client, subject)
        # 6.
        with told_as(ErrorCode.REQUEST_MALFORMED, _REFUSED):
            await self._subjects.redeem(subject, call.now)
        issued = await self._tokens.issue(
            authorization,
            client,
            agent,
            method=call.trace.method,
            address=call.address,
            proof=call.proof,
            # Whoever revokes the grant behind the subject token revokes this token with it.
            grant_id=subject.grant_id,
            not_after=subject.expires_at,
        )
        return JsonAnswer(issued.as_json(issued_token_type=ACCESS_TOKEN))

    async def _verify_actor(self, unverified_actor: str, agent: Agent, call: ClientCall) -> None:
        # The exchanger acts by its own authentication; a token can say the same once more, and nothing else.
        workload = await self._workloads.verify(parse_jwt(unverified_actor), call.proof, call.now)
        if workload.agent.id != agent.id:
            raise GateError(ErrorCode.AGENT_UNBOUND, "the actor token is another agent's than the client's")

    async def _verify_consent(self, authorization: Authorization, client: Client, subject: SubjectToken) -> None:
        if not await self._consents.given(
            client, subject.user, authorization.resource, authorization.task, authorization.scopes
        ):
            raise GateError(ErrorCode.CONSENT_MISSING, "the user has not consented to the exchanger")
