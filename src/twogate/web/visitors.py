"""Who a request of a browser is from, and what the pages for people have in common."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import Response

from twogate.core.errors import FACES, ErrorCode, GateError
from twogate.flows.authserver.lockout import KNOWN_FOR
from twogate.flows.authserver.logins import DEFAULT_TARGET, is_local_target
from twogate.flows.authserver.sign_in import SignedIn, Visitor
from twogate.web.pages import Browser, Pages
from twogate.web.peer import peer_address

LOGIN_PATH: Final = "/login"
LOGIN_COOKIE: Final = "login"
DEVICE_COOKIE: Final = "device-known"

Answer = Callable[[Request, Browser], Awaitable[Response]]


def visitor_of(pages: Pages, request: Request, browser: Browser) -> Visitor:
    """Who comes, by cookies and address."""
    return Visitor(
        browser.digest,
        peer_address(request.scope),
        request.cookies.get(pages.cookie_name(LOGIN_COOKIE)),
        request.cookies.get(pages.cookie_name(DEVICE_COOKIE)),
    )


def page(pages: Pages, answer: Answer) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint that tells refusals as pages."""

    async def respond(request: Request) -> Response:
        browser = pages.browser(request)
        try:
            return await answer(request, browser)
        except GateError as error:
            return with_wait(pages.error(error, browser), error)

    return respond


def with_wait(response: Response, error: GateError) -> Response:
    """Tell how long to wait, if that is what the refusal says."""
    wait = (error.data or {}).get("wait")
    if wait is not None:
        response.headers["Retry-After"] = str(wait)
    return response


def words_of(error: GateError) -> str:
    """A refusal in words for the page on which it happened."""
    wait = (error.data or {}).get("wait")
    if error.code is ErrorCode.LOGIN_LOCKED and isinstance(wait, int):
        return f"Too many failed attempts. Wait {wait} seconds and try again, or use a passkey."
    again = (error.data or {}).get("again_at")
    if error.code is ErrorCode.APPROVALS_LIMITED and isinstance(again, int):
        return (
            "You approved so many calls within an hour that nobody could have read them all. "
            f"You can approve again from {shown_time(again + 59)}; denying is always possible."
        )
    return FACES[error.code].text


def sign_in_response(pages: Pages, browser: Browser, signed_in: SignedIn, to: str, lifetime: int) -> Response:
    """Send a browser that has just logged in on its way, with its cookies."""
    response = pages.redirect(target_of(to), browser)
    pages.set_cookie(response, LOGIN_COOKIE, signed_in.login, lifetime)
    if signed_in.device is not None:
        pages.set_cookie(response, DEVICE_COOKIE, signed_in.device, KNOWN_FOR)
    return response


def forget_login(pages: Pages, response: Response) -> None:
    """Let the browser forget its login, and the pages that it may go back to (Clear Site Data, section 2.1)."""
    pages.set_cookie(response, LOGIN_COOKIE, "", 0)
    response.headers["Clear-Site-Data"] = '"cache"'


def target_of(to: str | None) -> str:
    """Where a login leads: where it was asked to, if that is one of ours."""
    return to if to is not None and is_local_target(to) else DEFAULT_TARGET


def login_path(tenant: str, to: str = DEFAULT_TARGET, *, again: bool = False) -> str:
    """The login page that leads to `to`; `again`: even if the browser is logged in."""
    query = {"tenant": tenant, "to": to} if tenant else {"to": to}
    if again:
        query["again"] = "1"
    return f"{LOGIN_PATH}?{urlencode(query, quote_via=quote, safe='')}"


def as_attribute(options: dict[str, object]) -> str:
    """Options of a passkey ceremony as the page's script reads them."""
    return json.dumps(options, separators=(",", ":"))


def shown_time(at: int) -> str:
    """A moment for people, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
