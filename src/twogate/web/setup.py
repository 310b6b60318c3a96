"""The pages behind an operator's link: open it, set a password, enrol a passkey (row R-24)."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twogate.core.errors import ErrorCode, GateError
from twogate.core.password import MAX_PASSWORD, MIN_PASSWORD
from twogate.flows.authserver.links import LINK_PATH, SETUP_LIFETIME
from twogate.flows.authserver.setup import SetUp
from twogate.web.authserver import OnlyMethods
from twogate.web.errors import http_status
from twogate.web.headers import security_headers
from twogate.web.pages import Browser, Pages
from twogate.web.peer import peer_address
from twogate.web.visitors import as_attribute, login_path, page, words_of

SETUP_PATH: Final = "/setup"
SETUP_COOKIE: Final = "setup"
_BAD_PASSWORD: Final = 400


class SetupPages:
    """Serves the pages. `passkeys`: whether the server's address can have any."""

    def __init__(self, pages: Pages, setup: SetUp, *, passkeys: bool) -> None:
        self._pages = pages
        self._setup = setup
        self._passkeys = passkeys

    async def link(self, request: Request, browser: Browser) -> Response:
        """GET shows a form, which the link's fragment fills in; POST uses the link up."""
        if request.method != "POST":
            return self._pages.render("link.html", browser, scripts=True)
        form = await self._pages.read_form(request, browser)
        cookie, _ = await self._setup.open(form.get("secret", "").strip(), peer_address(request.scope))
        response = self._pages.redirect(SETUP_PATH, browser)
        self._pages.set_cookie(response, SETUP_COOKIE, cookie, SETUP_LIFETIME)
        return response

    async def show(self, request: Request, browser: Browser) -> Response:
        """GET shows what the link allows."""
        return await self._page(request, browser)

    async def password(self, request: Request, browser: Browser) -> Response:
        """POST sets the password."""
        form = await self._pages.read_form(request, browser)
        new = form.get("password", "")
        if new != form.get("password_again", ""):
            return await self._page(request, browser, wrong="The two passwords differ.")
        address = peer_address(request.scope)
        problem = await self._setup.set_password(self._cookie(request), new, address)
        if problem is not None:
            return await self._page(request, browser, wrong=problem)
        return self._pages.redirect(SETUP_PATH, browser)

    async def passkey(self, request: Request, browser: Browser) -> Response:
        """POST enrols the passkey."""
        form = await self._pages.read_form(request, browser)
        answer, label, address = form.get("credential", ""), form.get("label", ""), peer_address(request.scope)
        try:
            await self._setup.enrol(self._cookie(request), answer, label, browser.digest, address)
        except GateError as error:
            if error.code not in (ErrorCode.PASSKEY_REFUSED, ErrorCode.INTERACTION_EXPIRED):
                raise
            return await self._page(request, browser, wrong_passkey=error)
        return self._pages.redirect(SETUP_PATH, browser)

    async def _page(
        self,
        request: Request,
        browser: Browser,
        *,
        wrong: str | None = None,
        wrong_passkey: GateError | None = None,
    ) -> Response:
        cookie = self._cookie(request)
        setup, user = await self._setup.current(cookie)
        options = None
        if setup.purpose.passkey and self._passkeys:
            options = await self._setup.enrol_options(cookie, browser.digest)
        status = 200 if wrong is None else _BAD_PASSWORD
        return self._pages.render(
            "setup.html",
            browser,
            status=status if wrong_passkey is None else http_status(wrong_passkey.code),
            scripts=options is not None,
            user=user,
            purpose=setup.purpose,
            options=None if options is None else as_attribute(options),
            passkeys=self._passkeys,
            wrong=wrong,
            wrong_passkey=None if wrong_passkey is None else words_of(wrong_passkey),
            login_path=login_path(user.tenant),
            shortest=MIN_PASSWORD,
            longest=MAX_PASSWORD,
        )

    def _cookie(self, request: Request) -> str | None:
        return request.cookies.get(self._pages.cookie_name(SETUP_COOKIE))


def setup_routes(served: SetupPages, pages: Pages, public_url: str) -> list[Route]:
    """`/link` and `/setup`."""
    base = security_headers(public_url)
    return [
        Route(LINK_PATH, OnlyMethods(page(pages, served.link), base, "GET", "HEAD", "POST")),
        Route(SETUP_PATH, OnlyMethods(page(pages, served.show), base, "GET", "HEAD")),
        Route(f"{SETUP_PATH}/password", OnlyMethods(page(pages, served.password), base, "POST")),
        Route(f"{SETUP_PATH}/passkey", OnlyMethods(page(pages, served.passkey), base, "POST")),
    ]
