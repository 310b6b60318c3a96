"""The authorization endpoint: a browser brings a client's request, and takes the answer back (RFC 6749 section 4.1).

A request's way: parameters -> pushed request, if named -> client -> redirect URI -> what is asked for -> login ->
consent -> code. Until the redirect URI holds, a refusal is a page; from then on it goes back to the client. What waits
for a person is a row bound to the browser (ADR 0011), and everything is judged again when the browser comes back.
"""

from __future__ import annotations

from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.authorize_request import (
    AuthorizeRequest,
    Parameters,
    Prompt,
    find_redirect_uri,
    parse_client_id,
    parse_parameters,
    parse_request_uri,
)
from twogate.core.oauth.grant_type import GrantType
from twogate.core.oauth.redirect_uri import parse_redirect_uri, redirect_uri_matches
from twogate.core.principal import Agent
from twogate.flows.authserver.clients import Client, ClientDirectory
from twogate.flows.authserver.consent_view import ConsentViews
from twogate.flows.authserver.decision import Asked, Decisions
from twogate.flows.authserver.interaction import Interaction, Requests
from twogate.flows.authserver.request_reader import RequestReader
from twogate.flows.authserver.standing import Absent, Present, Standing
from twogate.flows.authserver.visit import Ask, ConsentPage, Granted, LogIn, Outcome, Refused, Visit, is_trusted
from twogate.flows.environment import Clock


class AuthorizeEndpoint:
    """Answers authorization requests."""

    def __init__(
        self,
        directory: ClientDirectory,
        reader: RequestReader,
        requests: Requests,
        standing: Standing,
        decisions: Decisions,
        views: ConsentViews,
        clock: Clock,
    ) -> None:
        self._directory = directory
        self._reader = reader
        self._requests = requests
        self._standing = standing
        self._decisions = decisions
        self._views = views
        self._clock = clock

    async def begin(self, encoded: bytes, visit: Visit) -> Granted | Refused | LogIn | Ask:
        """Take a request up. `encoded` are its parameters, as a query or a form holds them.

        Raises:
            GateError: what may be told to nobody but the person, as a page: REQUEST_MALFORMED, PARAMETER_REPEATED,
                TOO_LARGE, CLIENT_INVALID, CLIENT_METADATA_INVALID, REDIRECT_INVALID, REQUEST_URI_INVALID;
                STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        now, asked = self._clock.now(), Asked(visit.address)
        try:
            parameters, client, redirect_uri, given = await self._addressed(encoded, asked, now)
        except GateError as error:
            await self._decisions.record(error, asked)
            raise
        try:
            request, agent = await self._reader.read(parameters, client, redirect_uri, given=given)
            asked.request = request
            interaction = Interaction(request, now)
            step = await self._standing.of(interaction, client, visit, now)
            if isinstance(step, Present):
                asked.subject = step.user.subject
                if step.allowed:
                    return await self._decisions.grant(request, client, agent, step.login, asked, now, decided=False)
            if Prompt.NONE in request.prompts:
                code = ErrorCode.LOGIN_REQUIRED if isinstance(step, Absent) else ErrorCode.CONSENT_MISSING
                raise GateError(code, "prompt is none")
            handle = await self._requests.begin(interaction, visit.browser, visit.address, now)
            return LogIn(client.tenant, handle, step.again) if isinstance(step, Absent) else Ask(handle)
        except GateError as error:
            await self._decisions.record(error, asked)
            return _refused(error, client, redirect_uri, parameters.state)

    async def show(self, handle: str, visit: Visit) -> Outcome:
        """What a browser gets that comes back for a request: the question, or the answer if nothing is in question.

        Raises:
            GateError: as a page: INTERACTION_EXPIRED, REDIRECT_INVALID, CLIENT_INVALID; STORE_UNAVAILABLE,
                AUDIT_UNAVAILABLE.
        """
        return await self._resume(handle, visit, None, "")

    async def decide(self, handle: str, visit: Visit, *, allow: bool, person: str) -> Outcome:
        """What the person in this browser decided; `person` is the subject that the page was shown to.

        Raises:
            GateError: as `show`.
        """
        return await self._resume(handle, visit, allow, person)

    async def _resume(self, handle: str, visit: Visit, decision: bool | None, person: str) -> Outcome:
        now, asked, open_still = self._clock.now(), Asked(visit.address), True
        try:
            interaction = await self._requests.interaction(handle, visit.browser, now)
            request = asked.request = interaction.request
            client = await self._client(request.client_id, asked, now)
            if not redirect_uri_matches(client.redirect_uris, request.redirect_uri):
                raise GateError(ErrorCode.REDIRECT_INVALID, "the redirect URI is not the client's any more")
        except GateError as error:
            await self._decisions.record(error, asked)
            raise
        try:
            if decision is False:
                asked.subject = await self._standing.subject(client, visit, now)
                await self._requests.use_up(handle, interaction, visit.browser, now)
                open_still = False
                return await self._decisions.deny(request, asked)
            agent = await self._reader.verify(request, client)
            step = await self._standing.of(interaction, client, visit, now)
            if isinstance(step, Absent):
                return LogIn(client.tenant, handle, step.again)
            asked.subject = step.user.subject
            # Who pressed the button may have seen another's name on the page: they are shown their own first.
            decided = decision is True and step.user.subject == person
            if not decided and (decision is True or not step.allowed):
                return self._page(handle, request, client, agent, step, now)
            await self._requests.use_up(handle, interaction, visit.browser, now)
            open_still = False
            return await self._decisions.grant(request, client, agent, step.login, asked, now, decided=decided)
        except GateError as error:
            await self._decisions.record(error, asked)
            if error.code is ErrorCode.INTERACTION_EXPIRED:
                # It was answered already, and a client gets one answer.
                raise
            if open_still:
                await self._requests.use_up(handle, interaction, visit.browser, now)
            return _refused(error, client, request.redirect_uri, request.state)

    async def _addressed(self, encoded: bytes, asked: Asked, now: int) -> tuple[Parameters, Client, str, bool]:
        """The parameters, and whom to answer where. Nothing is told to the client before all of this holds."""
        parameters = parse_parameters(encoded)
        client_id = parse_client_id(parameters)
        handle = parse_request_uri(parameters)
        if handle is not None:
            # "MUST only use the parameters in the Request Object" (RFC 9101 section 5), here the pushed request.
            parameters = await self._requests.take_pushed(handle, client_id, now)
        client = await self._client(client_id, asked, now)
        redirect_uri, given = find_redirect_uri(parameters, client.redirect_uris)
        return parameters, client, redirect_uri, given

    async def _client(self, client_id: str, asked: Asked, now: int) -> Client:
        asked.client_id = client_id
        asked.client = await self._directory.find(client_id, now)
        if asked.client is None:
            raise GateError(ErrorCode.CLIENT_INVALID, "unknown client")
        return asked.client

    def _page(
        self, handle: str, request: AuthorizeRequest, client: Client, agent: Agent, step: Present, now: int
    ) -> ConsentPage:
        view = self._views.view(
            client,
            agent,
            step.user,
            request.resource,
            request.scopes,
            request.task,
            request.redirect_uri,
            refresh=GrantType.REFRESH_TOKEN in client.grants,
            lasts=None if step.login.ends_at is None else step.login.ends_at - now,
        )
        target = parse_redirect_uri(request.redirect_uri).form_target
        return ConsentPage(handle, step.user.subject, client.tenant, view, target)


def _refused(error: GateError, client: Client, redirect_uri: str, state: str | None) -> Refused:
    described = error.data.get("description") if error.data else None
    description = described if isinstance(described, str) else None
    return Refused(redirect_uri, state, error.code, description, trusted=is_trusted(client, redirect_uri))
