"""A person's own page: who they are, their password and passkeys, the access they gave (row R-24)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twogate.core.errors import ErrorCode, GateError
from twogate.core.password import MAX_PASSWORD, MIN_PASSWORD
from twogate.flows.authserver.account import Account
from twogate.flows.authserver.logins import DEFAULT_TARGET as ACCOUNT_PATH
from twogate.flows.authserver.logins import Login, Logins
from twogate.flows.authserver.sign_in import Visitor
from twogate.flows.environment import Clock
from twogate.web.authserver import OnlyMethods
from twogate.web.errors import http_status
from twogate.web.headers import security_headers
from twogate.web.pages import Browser, Pages
from twogate.web.visitors import (
    as_attribute,
    forget_login,
    login_path,
    page,
    shown_time,
    visitor_of,
    with_wait,
    words_of,
)

ENROL_PATH: Final = f"{ACCOUNT_PATH}/passkeys/new"
_BAD_PASSWORD: Final = 400

Do = Callable[[Login, Mapping[str, str], Visitor], Awaitable[None]]


class AccountPages:
    """Serves the page and what its buttons do."""

    def __init__(self, pages: Pages, account: Account, logins: Logins, clock: Clock, *, passkeys: bool) -> None:
        self._pages = pages
        self._account = account
        self._logins = logins
        self._clock = clock
        self._passkeys = passkeys

    async def show(self, request: Request, browser: Browser) -> Response:
        """GET shows the page."""
        login = await self._login(request, browser)
        return self._to_login(browser) if login is None else await self._page(browser, login)

    async def password(self, request: Request, browser: Browser) -> Response:
        """POST changes the password."""
        form = await self._pages.read_form(request, browser)
        login = await self._login(request, browser)
        if login is None:
            return self._to_login(browser)
        new, visitor = form.get("password", ""), visitor_of(self._pages, request, browser)
        if new != form.get("password_again", ""):
            return await self._page(browser, login, wrong="The two new passwords differ.")
        try:
            problem = await self._account.change_password(login, form.get("old_password", ""), new, visitor)
        except GateError as error:
            if error.code not in (ErrorCode.LOGIN_REFUSED, ErrorCode.LOGIN_LOCKED):
                raise
            locked = error.code is ErrorCode.LOGIN_LOCKED
            text = words_of(error) if locked else "The old password is wrong."
            return with_wait(await self._page(browser, login, wrong=text, status=http_status(error.code)), error)
        if problem is not None:
            return await self._page(browser, login, wrong=problem)
        return await self._page(browser, login, done="Your password is changed. Other browsers are logged out.")

    async def enrol(self, request: Request, browser: Browser) -> Response:
        """GET asks the browser for a new passkey, POST enrols it."""
        form = await self._pages.read_form(request, browser) if request.method == "POST" else None
        login = await self._login(request, browser)
        if login is None:
            return self._to_login(browser)
        wrong = None
        try:
            if form is not None:
                visitor = visitor_of(self._pages, request, browser)
                await self._account.enrol(login, form.get("credential", ""), form.get("label", ""), visitor)
                return self._pages.redirect(ACCOUNT_PATH, browser)
        except GateError as error:
            if error.code not in (ErrorCode.PASSKEY_REFUSED, ErrorCode.INTERACTION_EXPIRED):
                raise
            wrong = error
        options = await self._account.enrol_options(login, browser.digest)
        return self._pages.render(
            "passkey.html",
            browser,
            status=200 if wrong is None else http_status(wrong.code),
            scripts=True,
            options=as_attribute(options),
            wrong=None if wrong is None else words_of(wrong),
            action=ENROL_PATH,
        )

    async def remove_passkey(self, request: Request, browser: Browser) -> Response:
        """POST removes a passkey."""

        async def remove(login: Login, form: Mapping[str, str], visitor: Visitor) -> None:
            await self._account.remove_passkey(login, form.get("credential_id", ""), visitor)

        return await self._do(request, browser, remove)

    async def withdraw(self, request: Request, browser: Browser) -> Response:
        """POST takes an application's access back."""

        async def withdraw(login: Login, form: Mapping[str, str], visitor: Visitor) -> None:
            await self._account.withdraw(login, form.get("client_id", ""), visitor)

        return await self._do(request, browser, withdraw)

    async def log_out_everywhere(self, request: Request, browser: Browser) -> Response:
        """POST ends every login of the person."""

        async def end(login: Login, _: Mapping[str, str], visitor: Visitor) -> None:
            await self._account.log_out_everywhere(login, visitor)

        response = await self._do(request, browser, end)
        forget_login(self._pages, response)
        return response

    async def _do(self, request: Request, browser: Browser, do: Do) -> Response:
        form = await self._pages.read_form(request, browser)
        login = await self._login(request, browser)
        if login is None:
            return self._to_login(browser)
        await do(login, form, visitor_of(self._pages, request, browser))
        return self._pages.redirect(ACCOUNT_PATH, browser)

    async def _login(self, request: Request, browser: Browser) -> Login | None:
        cookie = visitor_of(self._pages, request, browser).login
        return await self._logins.current(cookie, None, self._clock.now())

    def _to_login(self, browser: Browser) -> Response:
        return self._pages.redirect(login_path(""), browser)

    async def _page(
        self, browser: Browser, login: Login, *, wrong: str | None = None, done: str | None = None, status: int = 0
    ) -> Response:
        overview = await self._account.overview(login)
        return self._pages.render(
            "account.html",
            browser,
            status=status or (200 if wrong is None else _BAD_PASSWORD),
            user=overview.user,
            login=overview.login,
            has_password=overview.has_password,
            has_passkeys=self._passkeys,
            passkeys=overview.passkeys,
            access=overview.access,
            fresh=overview.fresh,
            wrong=wrong,
            done=done,
            shown_time=shown_time,
            again_path=login_path(login.tenant, again=True),
            enrol_path=ENROL_PATH,
            shortest=MIN_PASSWORD,
            longest=MAX_PASSWORD,
        )


def account_routes(served: AccountPages, pages: Pages, public_url: str) -> list[Route]:
    """`/account` and what is below it."""
    base = security_headers(public_url)
    posts = {
        f"{ACCOUNT_PATH}/password": served.password,
        f"{ACCOUNT_PATH}/passkeys/remove": served.remove_passkey,
        f"{ACCOUNT_PATH}/access/withdraw": served.withdraw,
        f"{ACCOUNT_PATH}/logout-everywhere": served.log_out_everywhere,
    }
    return [
        Route(ACCOUNT_PATH, OnlyMethods(page(pages, served.show), base, "GET", "HEAD")),
        Route(ENROL_PATH, OnlyMethods(page(pages, served.enrol), base, "GET", "HEAD", "POST")),
        *(Route(path, OnlyMethods(page(pages, answer), base, "POST")) for path, answer in posts.items()),
    ]
