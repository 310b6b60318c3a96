"""Who looks at a page of the console, and what they may do there: asked anew for every request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from starlette.requests import Request
from starlette.responses import Response

from twogate.core.approval import Duty
from twogate.core.errors import ErrorCode, GateError
from twogate.core.principal import UserId
from twogate.flows.approvals.voting import Approver, duties_of
from twogate.flows.authserver.account import is_fresh
from twogate.flows.authserver.logins import Logins
from twogate.flows.authserver.users import Users
from twogate.flows.environment import Clock
from twogate.web.pages import Browser, Pages
from twogate.web.visitors import login_path, page, visitor_of

Answer = Callable[[Request, Browser, Approver], Awaitable[Response]]


class ConsoleVisits:
    """Finds out who comes. A login alone lets nobody in: it takes a duty."""

    def __init__(
        self,
        pages: Pages,
        logins: Logins,
        confirmed: Logins,
        people: Users,
        clock: Clock,
        issuer: str,
        by_group: Mapping[str, Sequence[Duty]],
    ) -> None:
        """`by_group` are the duties that membership of a group brings; `issuer` is our own server's.

        `confirmed` ask the provider of who comes from one: whoever is gone there, or from a group there, is gone here
        too. `logins` do not, for the stream of a page that is left open. Whatever such a page then fetches by itself
        asks the provider all the same: no header of a browser can be trusted to say that nobody is there.
        """
        self._pages = pages
        self._logins = logins
        self._confirmed = confirmed
        self._people = people
        self._clock = clock
        self._issuer = issuer
        self._by_group = by_group

    async def visitor(self, request: Request, browser: Browser, *, idle: bool = False) -> Approver | None:
        """The person that the browser is logged in as; None if nobody is. `idle`: they did nothing just now.

        Raises:
            GateError: USER_DISABLED; IDENTITY_PROVIDER_UNAVAILABLE if theirs cannot tell; STORE_UNAVAILABLE,
                AUDIT_UNAVAILABLE.
        """
        cookie = visitor_of(self._pages, request, browser).login
        logins = self._logins if idle else self._confirmed
        login = await logins.current(cookie, None, self._clock.now())
        if login is None:
            return None
        user = await self._people.user(login.tenant, login.subject)
        if user is None or user.disabled:
            raise GateError(ErrorCode.USER_DISABLED, "the person is disabled or gone")
        known_as = frozenset(UserId(one.issuer, one.subject) for one in await self._people.identities(user))
        return Approver(user, self._issuer, duties_of(user, self._by_group), known_as)

    async def is_fresh(self, request: Request, browser: Browser) -> bool:
        """Whether the person has just proven by a passkey that they are there.

        Raises:
            GateError: as `visitor`.
        """
        cookie, now = visitor_of(self._pages, request, browser).login, self._clock.now()
        login = await self._logins.current(cookie, None, now)
        return login is not None and is_fresh(login, now)

    def page(self, answer: Answer, *duties: Duty) -> Callable[[Request], Awaitable[Response]]:
        """An endpoint for people who have any of these duties; others are sent to log in, or refused."""

        async def respond(request: Request, browser: Browser) -> Response:
            visitor = await self.visitor(request, browser)
            if visitor is None:
                return self._pages.redirect(login_path("", request.url.path), browser)
            if visitor.duties.isdisjoint(duties):
                raise GateError(ErrorCode.APPROVER_REFUSED, "no duty that this page is for")
            response = await answer(request, browser, visitor)
            # A site that opened this window must not steer or watch it while its person is about to click.
            response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
            return response

        return page(self._pages, respond)
