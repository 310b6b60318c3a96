"""The routes of a login through an upstream provider: out by a form of the login page, back by the provider's redirect.

The form is answered by a page that moves on by itself, not by a redirect: browsers hold every redirect of a form's
answer to the page's `form-action`, also those that a provider makes to providers of its own, which nobody here knows.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twogate.core.errors import GateError
from twogate.flows.authserver.upstream_login import UpstreamLogins
from twogate.flows.authserver.upstream_provider import CALLBACK_PATH, LOGIN_PATH
from twogate.web.authserver import OnlyMethods
from twogate.web.headers import security_headers
from twogate.web.pages import Pages
from twogate.web.peer import peer_address
from twogate.web.visitors import LOGIN_COOKIE


def upstream_login_routes(logins: UpstreamLogins, pages: Pages, public_url: str, lifetime: int) -> list[Route]:
    """Both routes. `lifetime` is how many seconds a browser keeps the login's cookie."""
    base = security_headers(public_url)

    async def begin(request: Request) -> Response:
        browser, name = pages.browser(request), _name(request)
        try:
            form = await pages.read_form(request, browser)
            url = await logins.begin(
                name,
                form.get("tenant", ""),
                form.get("to", ""),
                browser.digest,
                peer_address(request.scope),
                again=form.get("again") == "1",
            )
        except GateError as error:
            return pages.error(error, browser)
        return pages.render("upstream_login.html", browser, label=logins.label_of(name), url=url)

    async def finish(request: Request) -> Response:
        browser = pages.browser(request)
        query: bytes = request.scope["query_string"]
        try:
            finished = await logins.finish(
                _name(request),
                query,
                browser.digest,
                peer_address(request.scope),
                request.cookies.get(pages.cookie_name(LOGIN_COOKIE)),
            )
        except GateError as error:
            return pages.error(error, browser)
        response = pages.redirect(public_url + finished.to, browser)
        pages.set_cookie(response, LOGIN_COOKIE, finished.cookie, lifetime)
        return response

    return [
        Route(f"{LOGIN_PATH}/{{name}}", OnlyMethods(begin, base, "POST")),
        Route(f"{CALLBACK_PATH}/{{name}}", OnlyMethods(finish, base, "GET")),
    ]


def _name(request: Request) -> str:
    parameters: dict[str, Any] = request.path_params
    return str(parameters["name"])
