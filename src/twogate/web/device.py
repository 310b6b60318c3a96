"""The pages on which a person lets a device in: enter its code, log in, look, decide (RFC 8628 section 3.3)."""

from __future__ import annotations

import base64
import hmac
from typing import Final
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twogate.core.errors import FACES, ErrorCode, GateError
from twogate.core.oauth import device
from twogate.core.oauth.grant_type import GrantType
from twogate.core.shown import shown
from twogate.flows.authserver.consent_view import ConsentViews
from twogate.flows.authserver.device_decision import DeviceDecisions, Login, Logins, Waiting
from twogate.flows.authserver.people import People
from twogate.flows.environment import Clock
from twogate.web.authserver import OnlyMethods
from twogate.web.errors import http_status
from twogate.web.headers import security_headers
from twogate.web.pages import Browser, Pages
from twogate.web.peer import peer_address

ENTRY_COOKIE: Final = "device"
MAX_QUERY: Final = 256
"""Characters of a query that are looked at; the one that we give out has 20."""

_ENTRY: Final = b"twogate-device-entry-v1"
_DECISION: Final = b"twogate-device-decision-v1"
_MAX_ENTRY: Final = 128
_TELL: Final = frozenset({ErrorCode.DEVICE_CODE_EXPIRED, ErrorCode.RATE_LIMITED})
_WRONG: Final = {
    ErrorCode.DEVICE_CODE_EXPIRED: "This code is unknown, used or expired. Check it, or begin again on the device.",
    ErrorCode.RATE_LIMITED: "Too many wrong codes. Wait a few minutes and try again.",
}


class DevicePages:
    """Serves the pages. `secret` signs which code a browser has entered, so that nobody skips the entry's limit."""

    def __init__(
        self,
        pages: Pages,
        decisions: DeviceDecisions,
        logins: Logins,
        people: People,
        views: ConsentViews,
        clock: Clock,
        secret: bytes,
    ) -> None:
        self._pages = pages
        self._decisions = decisions
        self._logins = logins
        self._people = people
        self._views = views
        self._clock = clock
        self._secret = secret

    async def page(self, request: Request) -> Response:
        """GET shows the field for a code, or what the code that was entered asks for; POST enters a code."""
        browser = self._pages.browser(request)
        try:
            if request.method == "POST":
                return await self._enter(request, browser)
            return await self._show(request, browser)
        except GateError as error:
            return self._pages.error(error, browser)

    async def decide(self, request: Request) -> Response:
        """POST of the decision."""
        browser = self._pages.browser(request)
        try:
            return await self._decide(request, browser)
        except GateError as error:
            return self._pages.error(error, browser)

    async def _enter(self, request: Request, browser: Browser) -> Response:
        form = await self._pages.read_form(request, browser)
        try:
            waiting = await self._decisions.enter(form.get("user_code", ""), peer_address(request.scope))
        except GateError as error:
            if error.code not in _TELL:
                raise
            return self._entry_page(browser, form.get("user_code", ""), error.code)
        user_code = waiting.code.user_code
        login = await self._login(request, waiting)
        response = self._pages.redirect(device.PAGE_PATH if login else _login_path(waiting), browser)
        self._pages.set_cookie(response, ENTRY_COOKIE, self._sign(_ENTRY, browser, user_code), None)
        return response

    async def _show(self, request: Request, browser: Browser) -> Response:
        # A link with a code only fills in the field: it may come from anybody, and looking it up would be a try.
        query = request.url.query[:MAX_QUERY]
        entry = self._signed(_ENTRY, browser, request.cookies.get(self._pages.cookie_name(ENTRY_COOKIE), ""))
        if query or entry is None:
            code = device.parse_user_code(request.query_params.get("user_code", "")) if query else None
            return self._entry_page(browser, "" if code is None else device.show_user_code(code), None)
        waiting = await self._decisions.find(entry)
        if waiting is None:
            return self._entry_page(browser, "", None)
        login = await self._login(request, waiting)
        if login is None:
            return self._pages.redirect(_login_path(waiting), browser)
        user = await self._people.user(login.tenant, login.subject)
        if user is None or user.disabled:
            raise GateError(ErrorCode.LOGIN_REQUIRED, "the person is gone or disabled")
        asked = waiting.code.request
        view = self._views.view(
            waiting.client,
            waiting.agent,
            user,
            asked.resource,
            asked.scopes,
            asked.task,
            None,
            refresh=GrantType.REFRESH_TOKEN in waiting.client.grants,
            lasts=None if login.ends_at is None else login.ends_at - self._clock.now(),
        )
        return self._pages.render(
            "device_confirm.html",
            browser,
            view=view,
            user_code=device.show_user_code(entry),
            address=asked.address,
            decision=self._sign(_DECISION, browser, entry, login.subject),
            login_path=_login_path(waiting) + "&again=1",
        )

    async def _decide(self, request: Request, browser: Browser) -> Response:
        form = await self._pages.read_form(request, browser)
        chosen = form.get("choice")
        user_code = form.get("decision", "").partition(".")[0]
        if chosen not in ("allow", "deny"):
            raise GateError(ErrorCode.REQUEST_MALFORMED, "neither allow nor deny")
        if device.parse_user_code(user_code) != user_code:
            raise GateError(ErrorCode.FORM_REFUSED, "the form names no code")
        waiting = await self._decisions.find(user_code)
        if waiting is None:
            raise GateError(ErrorCode.INTERACTION_EXPIRED, "the device code does not wait any more")
        login = await self._login(request, waiting)
        if login is None:
            raise GateError(ErrorCode.LOGIN_REQUIRED, "nobody is logged in")
        # The value was made for this code, this browser and this person: a page that is still open in another tab
        # decides on what it shows, whatever was entered and whoever logged in since.
        if self._signed(_DECISION, browser, form.get("decision", ""), login.subject) != user_code:
            raise GateError(ErrorCode.FORM_REFUSED, "the decision is another browser's, person's or code's")
        await self._decisions.decide(waiting, login, allow=chosen == "allow", address=peer_address(request.scope))
        response = self._pages.render(
            "device.html", browser, outcome=chosen, client=shown(waiting.client.label), user_code="", wrong=None
        )
        self._pages.set_cookie(response, ENTRY_COOKIE, "", 0)
        return response

    async def _login(self, request: Request, waiting: Waiting) -> Login | None:
        cookie = request.cookies.get(self._pages.cookie_name("login"))
        return await self._logins.current(cookie, waiting.client.tenant, self._clock.now())

    def _entry_page(self, browser: Browser, user_code: str, wrong: ErrorCode | None) -> Response:
        return self._pages.render(
            "device.html",
            browser,
            status=200 if wrong is None else http_status(wrong),
            outcome=None,
            client="",
            user_code=user_code[:_MAX_ENTRY],
            wrong=None if wrong is None else _WRONG.get(wrong, FACES[wrong].text),
        )

    def _sign(self, purpose: bytes, browser: Browser, user_code: str, subject: str = "") -> str:
        # None of the three can hold the separator.
        text = f"{browser.cookie}\0{user_code}\0{subject}"
        mac = hmac.digest(self._secret, purpose + b"\0" + text.encode(), "sha256")
        return f"{user_code}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"

    def _signed(self, purpose: bytes, browser: Browser, value: str, subject: str = "") -> str | None:
        """The user code that `_sign` made this value for; None for any other value."""
        user_code = value.partition(".")[0]
        expected = self._sign(purpose, browser, user_code, subject)
        if len(value) > _MAX_ENTRY or browser.new or not hmac.compare_digest(value.encode(), expected.encode()):
            return None
        return user_code


def device_routes(served: DevicePages, public_url: str) -> list[Route]:
    """`/device` and the address that its decision goes to."""
    base = security_headers(public_url)
    return [
        Route(device.PAGE_PATH, OnlyMethods(served.page, base, "GET", "HEAD", "POST")),
        Route(device.DECISION_PATH, OnlyMethods(served.decide, base, "POST")),
    ]


def _login_path(waiting: Waiting) -> str:
    query = urlencode({"tenant": waiting.client.tenant, "to": device.PAGE_PATH}, quote_via=quote, safe="")
    return f"/login?{query}"
