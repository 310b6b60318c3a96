"""The login page and logging out (row R-24)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twogate.core.errors import ErrorCode, GateError
from twogate.core.user_name import MAX_NAME
from twogate.flows.authserver.logins import Logins
from twogate.flows.authserver.passkeys import Passkeys
from twogate.flows.authserver.sign_in import SignIn
from twogate.flows.environment import Clock
from twogate.web.authserver import OnlyMethods
from twogate.web.errors import http_status
from twogate.web.headers import security_headers
from twogate.web.pages import Browser, Pages
from twogate.web.visitors import (
    LOGIN_PATH,
    as_attribute,
    forget_login,
    login_path,
    page,
    sign_in_response,
    target_of,
    visitor_of,
    with_wait,
    words_of,
)

# As the configuration lets tenants be called, so that existing ones are not told apart.
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")

# What the person can do something about on the page itself.
_RETRIED = frozenset(
    {
        ErrorCode.LOGIN_REFUSED,
        ErrorCode.LOGIN_LOCKED,
        ErrorCode.PASSKEY_REFUSED,
        ErrorCode.INTERACTION_EXPIRED,
        ErrorCode.RATE_LIMITED,
    }
)


class _Asked(msgspec.Struct, frozen=True):
    """Whose login page this is, and where it leads."""

    tenant: str
    to: str
    again: bool


class LoginPages:
    """Serves the login page. `tenants` are those that exist, of which a single one need not be named.

    `passkeys` is None where the server's address cannot have any. `providers_of` gives the upstream providers of a
    tenant: the path of each, and its label.
    """

    def __init__(
        self,
        pages: Pages,
        sign_in: SignIn,
        logins: Logins,
        passkeys: Passkeys | None,
        providers_of: Callable[[str], Sequence[tuple[str, str]]],
        tenants: Sequence[str],
        clock: Clock,
    ) -> None:
        self._pages = pages
        self._sign_in = sign_in
        self._logins = logins
        self._passkeys = passkeys
        self._providers_of = providers_of
        self._only_tenant = tenants[0] if len(tenants) == 1 else ""
        self._clock = clock

    async def login(self, request: Request, browser: Browser) -> Response:
        """GET shows the page, POST is a login by password."""
        if request.method != "POST":
            query = request.query_params
            asked = self._asked(query.get("tenant"), query.get("to"), query.get("again"))
            visitor = visitor_of(self._pages, request, browser)
            login = await self._logins.current(visitor.login, asked.tenant or None, self._clock.now())
            if login is not None and not asked.again:
                return self._pages.redirect(asked.to, browser)
            return self._page(browser, asked)
        form = await self._pages.read_form(request, browser)
        asked = self._asked(form.get("tenant"), form.get("to"), form.get("again"))
        name = form.get("name", "")
        visitor = visitor_of(self._pages, request, browser)
        try:
            signed_in = await self._sign_in.with_password(asked.tenant, name, form.get("password", ""), visitor)
        except GateError as error:
            return self._again(browser, asked, error, name)
        return sign_in_response(self._pages, browser, signed_in, asked.to, self._logins.lifetime)

    async def passkey(self, request: Request, browser: Browser) -> Response:
        """POST is a login by passkey."""
        form = await self._pages.read_form(request, browser)
        asked = self._asked(form.get("tenant"), form.get("to"), form.get("again"))
        visitor = visitor_of(self._pages, request, browser)
        try:
            signed_in = await self._sign_in.with_passkey(asked.tenant, form.get("credential", ""), visitor)
        except GateError as error:
            return self._again(browser, asked, error, "")
        return sign_in_response(self._pages, browser, signed_in, asked.to, self._logins.lifetime)

    async def logout(self, request: Request, browser: Browser) -> Response:
        """POST ends the browser's login."""
        await self._pages.read_form(request, browser)
        await self._sign_in.log_out(visitor_of(self._pages, request, browser))
        response = self._pages.redirect(login_path(""), browser)
        forget_login(self._pages, response)
        return response

    def _asked(self, tenant: str | None, to: str | None, again: str | None) -> _Asked:
        # Any link can name one, and the page says it: what could be no tenant's name may be a sentence.
        named = tenant if tenant is not None and _TENANT.fullmatch(tenant) else self._only_tenant
        return _Asked(named, target_of(to), again == "1")

    def _again(self, browser: Browser, asked: _Asked, error: GateError, name: str) -> Response:
        if error.code not in _RETRIED:
            raise error
        return with_wait(self._page(browser, asked, name, error), error)

    def _page(self, browser: Browser, asked: _Asked, name: str = "", error: GateError | None = None) -> Response:
        options = None if self._passkeys is None else self._passkeys.login_options(browser.digest, self._clock.now())
        return self._pages.render(
            "login.html",
            browser,
            status=200 if error is None else http_status(error.code),
            scripts=options is not None,
            wrong=None if error is None else words_of(error),
            options=None if options is None else as_attribute(options),
            providers=self._providers_of(asked.tenant) if asked.tenant else (),
            tenant=asked.tenant,
            to=asked.to,
            again=asked.again,
            name=name[:MAX_NAME],
        )


def login_routes(served: LoginPages, pages: Pages, public_url: str) -> list[Route]:
    """`/login`, `/login/passkey` and `/logout`."""
    base = security_headers(public_url)
    return [
        Route(LOGIN_PATH, OnlyMethods(page(pages, served.login), base, "GET", "HEAD", "POST")),
        Route(f"{LOGIN_PATH}/passkey", OnlyMethods(page(pages, served.passkey), base, "POST")),
        Route("/logout", OnlyMethods(page(pages, served.logout), base, "POST")),
    ]
