"""What stands between a request and its code: a login, or a person's consent."""

from __future__ import annotations

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.authorize_request import Prompt
from twogate.flows.authserver.clients import Client
from twogate.flows.authserver.consent import Consents, must_ask
from twogate.flows.authserver.interaction import Interaction
from twogate.flows.authserver.logins import Login, Logins
from twogate.flows.authserver.people import People, User
from twogate.flows.authserver.visit import Visit


class Absent(msgspec.Struct, frozen=True):
    """Somebody must log in first; `again`: somebody has, but too long ago for this request."""

    again: bool = False


class Present(msgspec.Struct, frozen=True):
    """Somebody is logged in; `allowed`: they need not be asked."""

    login: Login
    user: User
    allowed: bool


class Standing:
    """Tells whether a person is there, and whether they have to be asked."""

    def __init__(self, logins: Logins, people: People, consents: Consents) -> None:
        self._logins = logins
        self._people = people
        self._consents = consents

    async def subject(self, client: Client, visit: Visit, now: int) -> str:
        """Who is logged in, however long ago; empty if nobody is.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        login = await self._logins.current(visit.login, client.tenant, now)
        return "" if login is None else login.subject

    async def of(self, interaction: Interaction, client: Client, visit: Visit, now: int) -> Absent | Present:
        """How a request stands at this moment.

        Raises:
            GateError: USER_DISABLED, STORE_UNAVAILABLE.
        """
        request = interaction.request
        login = await self._logins.current(visit.login, client.tenant, now)
        if login is None:
            return Absent()
        fresh_since = request.fresh_since(interaction.begun_at)
        if fresh_since is not None and login.authenticated_at < fresh_since:
            return Absent(again=True)
        user = await self._people.user(client.tenant, login.subject)
        if user is None or user.disabled:
            raise GateError(ErrorCode.USER_DISABLED, "the user is disabled or gone")
        must = Prompt.CONSENT in request.prompts or must_ask(client, https=request.redirect_uri.startswith("https:"))
        allowed = not must and await self._consents.given(
            client, user.subject, request.resource, request.task, request.scopes
        )
        return Present(login, user, allowed)
