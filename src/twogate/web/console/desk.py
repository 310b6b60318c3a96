"""What every page of the console is made with: who comes, the frame around it, and the texts of strangers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twogate.core.principal import UserId
from twogate.core.shown import shown
from twogate.flows.approvals.voting import Approver
from twogate.flows.authserver.people import People
from twogate.web.authserver import OnlyMethods
from twogate.web.console.frame import ConsolePage, navigation
from twogate.web.console.visit import Answer, ConsoleVisits
from twogate.web.headers import security_headers
from twogate.web.pages import Browser, Pages
from twogate.web.visitors import shown_time

MAX_QUERY: Final = 256
"""Characters of one value in a page's address; more is cut."""

_DIGITS: Final = 5


class Desk:
    """Makes pages. `without` are those that this server does not have."""

    def __init__(
        self,
        pages: Pages,
        visits: ConsoleVisits,
        people: People,
        public_url: str,
        without: Collection[ConsolePage] = (),
    ) -> None:
        self.pages = pages
        self.visits = visits
        self.without = without
        self._people = people
        self._public_url = public_url

    def render(
        self,
        template: str,
        browser: Browser,
        visitor: Approver,
        current: ConsolePage,
        *,
        status: int = 200,
        live: bool = False,
        watches: bool = True,
        **context: object,
    ) -> Response:
        """A page. `live`: htmx keeps its region new and carries its forms; `watches`: by the stream of changes."""
        return self.pages.render(
            template,
            browser,
            status=status,
            form_targets=(),
            scripts=live,
            live=live,
            watches=watches,
            nav=navigation(visitor.duties, current, self.without),
            visitor=visitor,
            here=current.path,
            shown=shown,
            shown_time=shown_time,
            **context,
        )

    def shows(self, page: ConsolePage, visitor: Approver) -> bool:
        """Whether this person may open a page that there is."""
        return page not in self.without and not page.duties.isdisjoint(visitor.duties)

    async def user_label(self, tenant: str, user: UserId | None) -> str:
        """How people call the user behind an agent: by name if it is one of our own people; '' without one."""
        if user is None:
            return ""
        found = await self._people.user(tenant, user.subject) if user.issuer == self._public_url else None
        return shown(user.subject if found is None else found.label)

    def route(self, path: str, answer: Answer, page: ConsolePage, *methods: str) -> Route:
        """A route for people who have one of the page's duties."""
        return self.restricted(path, self.visits.page(answer, *page.duties), *methods)

    def restricted(self, path: str, respond: Callable[[Request], Awaitable[Response]], *methods: str) -> Route:
        """A route for an endpoint that looks itself who comes."""
        return Route(path, OnlyMethods(respond, security_headers(self._public_url), *methods))


def asked(request: Request, name: str) -> str:
    """A value of the page's address, without blanks around it; '' if there is none."""
    return request.query_params.get(name, "")[:MAX_QUERY].strip()


def page_number(given: Mapping[str, str]) -> int:
    """Which page of a list is asked for, by an address or a form; from 1."""
    text = given.get("page", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS and int(text) else 1


def same_page(page: ConsolePage, form: Mapping[str, str]) -> str:
    """The address of the page of a list on which a form was."""
    number = page_number(form)
    return link_to(page, page=number if number > 1 else "")


def link_to(page: ConsolePage, /, **query: str | int) -> str:
    """The address of a page with what is asked of it; empty values are left out."""
    given = {name: value for name, value in query.items() if value}
    return f"{page.path}?{urlencode(given)}" if given else page.path
