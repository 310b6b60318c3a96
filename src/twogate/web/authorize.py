"""The authorization endpoint and its consent page as Starlette routes: HTTP to flow and back, nothing decided here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twogate.core.errors import FACES, ErrorCode, GateError
from twogate.core.oauth.authorize_request import CONSENT_PATH, MAX_REQUEST
from twogate.core.oauth.authorize_response import code_response, error_response
from twogate.core.oauth.metadata import AUTHORIZE_PATH
from twogate.core.oauth.redirect_uri import parse_redirect_uri
from twogate.core.oauth.token_request import parse_pairs
from twogate.core.shown import shown
from twogate.flows.authserver.authorize import AuthorizeEndpoint
from twogate.flows.authserver.visit import Ask, ConsentPage, Granted, LogIn, Outcome, Refused, Visit
from twogate.web.authserver import OnlyMethods, read_capped
from twogate.web.errors import authorize_error, http_status
from twogate.web.headers import security_headers
from twogate.web.pages import Browser, Pages
from twogate.web.peer import peer_address

LOGIN_PATH: Final = "/login"
_LOGIN_COOKIE: Final = "login"
_MAX_TOLD: Final = 500
_DECISIONS: Final[Mapping[str, bool]] = MappingProxyType({"allow": True, "deny": False})

# What a person reads who cannot be sent back, where the caller of an API would be told something else.
_PAGE_TEXTS: Final[Mapping[ErrorCode, str]] = MappingProxyType(
    {
        ErrorCode.CLIENT_INVALID: "The application that sent you here is not registered with this server.",
        ErrorCode.REDIRECT_INVALID: "The application wants the answer at an address that is not registered for it.",
        ErrorCode.REQUEST_URI_INVALID: "This request was used before or has expired; begin again in the application.",
    }
)
_PAGE_STATUS: Final[Mapping[ErrorCode, int]] = MappingProxyType({ErrorCode.CLIENT_INVALID: 400})


def authorize_routes(endpoint: AuthorizeEndpoint, pages: Pages, public_url: str) -> list[Route]:
    """`/authorize` and the consent page."""
    base = security_headers(public_url)
    face = _AuthorizeFace(endpoint, pages, public_url)
    return [
        Route(AUTHORIZE_PATH, OnlyMethods(face.authorize, base, "GET", "POST")),
        Route(CONSENT_PATH, OnlyMethods(face.consent, base, "GET", "POST")),
    ]


class _AuthorizeFace:
    def __init__(self, endpoint: AuthorizeEndpoint, pages: Pages, public_url: str) -> None:
        self._endpoint = endpoint
        self._pages = pages
        self._public_url = public_url

    async def authorize(self, request: Request) -> Response:
        browser = self._pages.browser(request)
        try:
            if request.method == "POST":
                return await self._as_query(request, browser)
            step = await self._endpoint.begin(request.scope["query_string"], self._visit(request, browser))
        except GateError as error:
            return self._error(error, browser)
        if isinstance(step, Ask):
            return self._pages.redirect(self._public_url + _consent_url(step.handle), browser)
        return self._answer(step, browser, in_form=False)

    async def consent(self, request: Request) -> Response:
        browser = self._pages.browser(request)
        visit = self._visit(request, browser)
        try:
            if request.method == "POST":
                form = await self._pages.read_form(request, browser)
                allow = _DECISIONS.get(form.get("decision", ""))
                if allow is None:
                    raise GateError(ErrorCode.REQUEST_MALFORMED, "no decision")
                person = form.get("person", "")
                step = await self._endpoint.decide(form.get("request", ""), visit, allow=allow, person=person)
                # This page's policy names the client, so its form may lead there.
                return self._answer(step, browser, in_form=False)
            step = await self._endpoint.show(request.query_params.get("request", ""), visit)
        except GateError as error:
            return self._error(error, browser)
        return self._answer(step, browser, in_form=True)

    async def _as_query(self, request: Request, browser: Browser) -> Response:
        """Turn a form into a query: the browser sends no cookie along with another site's form, but with what follows.

        "The authorization server MUST support the use of the HTTP GET method …, and MAY support the use of the POST
        method" (RFC 6749 section 3.1).
        """
        media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media != "application/x-www-form-urlencoded" or request.url.query:
            raise GateError(ErrorCode.REQUEST_MALFORMED, "not a form, or a form beside a query")
        pairs = parse_pairs(await read_capped(request, MAX_REQUEST), MAX_REQUEST)
        return self._pages.redirect(f"{self._public_url}{AUTHORIZE_PATH}?{urlencode(pairs)}", browser)

    def _visit(self, request: Request, browser: Browser) -> Visit:
        login = request.cookies.get(self._pages.cookie_name(_LOGIN_COOKIE))
        return Visit(browser.digest, login, peer_address(request.scope))

    def _answer(self, step: Outcome, browser: Browser, *, in_form: bool) -> Response:
        match step:
            case LogIn():
                query = {"tenant": step.tenant, "to": _consent_url(step.handle)}
                if step.again:
                    query["again"] = "1"
                return self._pages.redirect(f"{self._public_url}{LOGIN_PATH}?{urlencode(query)}", browser)
            case ConsentPage():
                again = urlencode({"tenant": step.tenant, "to": _consent_url(step.handle), "again": "1"})
                return self._pages.render(
                    "consent.html",
                    browser,
                    form_targets=[step.form_target],
                    view=step.view,
                    handle=step.handle,
                    person=step.subject,
                    action=CONSENT_PATH,
                    switch_url=f"{LOGIN_PATH}?{again}",
                )
            case Granted():
                url = code_response(step.redirect_uri, self._public_url, step.code, step.state)
                return self._back(step.redirect_uri, url, browser, in_form=in_form)
            case Refused():
                error, description = authorize_error(step.code, step.description)
                url = error_response(step.redirect_uri, self._public_url, error, description, step.state)
                if not step.trusted:
                    return self._ask_first(step.redirect_uri, url, description, browser)
                return self._back(step.redirect_uri, url, browser, in_form=in_form)

    def _back(self, redirect_uri: str, url: str, browser: Browser, *, in_form: bool) -> Response:
        """Send the browser to the client; `in_form`: as an answer, perhaps, to a form of another page of ours.

        Browsers hold all redirects of a form's answer to the policy of the page that the form was on, and a login page
        names no client. So there a page of its own moves on.
        """
        if not in_form:
            return self._pages.redirect(url, browser)
        place = shown(parse_redirect_uri(redirect_uri).shown, _MAX_TOLD)
        response = self._pages.render("moving_on.html", browser, url=url, place=place)
        response.headers["Refresh"] = f"0; url={url}"
        return response

    def _ask_first(self, redirect_uri: str, url: str, description: str, browser: Browser) -> Response:
        place = shown(parse_redirect_uri(redirect_uri).shown, _MAX_TOLD)
        return self._pages.render("not_possible.html", browser, status=400, url=url, place=place, text=description)

    def _error(self, error: GateError, browser: Browser) -> Response:
        described = error.data.get("description") if error.data else None
        face = FACES[error.code]
        return self._pages.render(
            "authorize_error.html",
            browser,
            status=_PAGE_STATUS.get(error.code, http_status(error.code)),
            reason="invalid_request" if error.code is ErrorCode.CLIENT_INVALID else face.reason,
            text=_PAGE_TEXTS.get(error.code, face.text),
            told=shown(described, _MAX_TOLD) if isinstance(described, str) else "",
        )


def _consent_url(handle: str) -> str:
    return f"{CONSENT_PATH}?request={handle}"
