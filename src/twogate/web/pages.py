"""Pages for people: rendering, the browser's cookie, and forms that only our own pages can send.

Every page works without JavaScript. Nothing is inline, so the policy allows no inline code or style either.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twogate.core.errors import FACES, ErrorCode, GateError
from twogate.core.oauth.token_request import MAX_BODY, parse_form
from twogate.flows.environment import Rng
from twogate.web.authserver import OnlyMethods, read_capped
from twogate.web.errors import http_status
from twogate.web.headers import security_headers

CSRF_FIELD: Final = "form_token"
COOKIE_BYTES: Final = 32
_COOKIE_LENGTH: Final = 43

_HERE: Final = Path(__file__).parent
# One for all, because it keeps each template that it has compiled, from one configuration to the next.
_TEMPLATES: Final = Environment(
    loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined, auto_reload=False
)
_ASSETS: Final = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}


class Browser(msgspec.Struct, frozen=True):
    """One browser, known by a random cookie that says nothing else; `new` if it came without one.

    It gets the cookie with the answer then, if it is `lasting`: a form that comes without a cookie is another site's,
    and must not make the browser forget the one that it did not send along.
    """

    cookie: str
    new: bool
    lasting: bool = True

    @property
    def digest(self) -> str:
        """What is stored of it: the SHA-256 of the cookie, lower-case hex."""
        return hashlib.sha256(self.cookie.encode()).hexdigest()

    def __repr__(self) -> str:
        """Never the cookie."""
        return f"Browser(new={self.new})"


class Pages:
    """Renders templates. `secret` (32 random bytes) makes the values by which forms are known to be ours."""

    def __init__(self, public_url: str, secret: bytes, rng: Rng) -> None:
        self._public_url = public_url
        self._secret = secret
        self._rng = rng
        self._secure = public_url.startswith("https://")
        self._base = {**security_headers(public_url), "Cache-Control": "no-store"}

    def cookie_name(self, name: str) -> str:
        """A cookie's full name: `__Host-` keeps other hosts and plain HTTP from setting it (RFC 6265bis 4.1.3.2)."""
        return f"__Host-twogate-{name}" if self._secure else f"twogate-{name}"

    def browser(self, request: Request) -> Browser:
        """The browser that a request is from; a new one if it has no cookie of ours."""
        cookie = request.cookies.get(self.cookie_name("browser"), "")
        if len(cookie) == _COOKIE_LENGTH and cookie.isascii():
            return Browser(cookie, new=False)
        raw = self._rng.token(COOKIE_BYTES)
        lasting = request.method in ("GET", "HEAD")
        return Browser(base64.urlsafe_b64encode(raw).decode().rstrip("="), new=True, lasting=lasting)

    def render(
        self,
        template: str,
        browser: Browser,
        *,
        status: int = 200,
        form_targets: Collection[str] = (),
        scripts: bool = False,
        **context: object,
    ) -> Response:
        """A page. `form_targets` are origins or schemes that a form's answer may redirect to, besides our own.

        Browsers hold a form's redirects to the policy's `form-action` too, so a consent page must name its client's.
        """
        html = _TEMPLATES.get_template(template).render(
            form_token=self._form_token(browser), form_field=CSRF_FIELD, public_url=self._public_url, **context
        )
        headers = {
            **self._base,
            "Content-Security-Policy": _policy(form_targets, scripts=scripts),
            # Not `no-referrer`, with which browsers say `Origin: null` of our own forms (Fetch section 3.2).
            "Referrer-Policy": "same-origin",
        }
        response = Response(html, status, headers, "text/html; charset=utf-8")
        self.remember(response, browser)
        return response

    def error(self, error: GateError, browser: Browser) -> Response:
        """A refusal as a page: the code's public text, and no more."""
        face = FACES[error.code]
        return self.render("error.html", browser, status=http_status(error.code), reason=face.reason, text=face.text)

    def nothing_new(self, browser: Browser, headers: Mapping[str, str]) -> Response:
        """204 to a page that asks whether there is something newer than it has."""
        response = Response(status_code=204, headers={**self._base, **headers})
        self.remember(response, browser)
        return response

    def redirect(self, url: str, browser: Browser) -> Response:
        """303 to `url`, which must be one of ours or one that was registered: never one from a request."""
        response = Response(status_code=303, headers={**self._base, "Location": url})
        self.remember(response, browser)
        return response

    def remember(self, response: Response, browser: Browser) -> None:
        """Give the browser its cookie, if it is new and to have it."""
        if browser.new and browser.lasting:
            self.set_cookie(response, "browser", browser.cookie, None)

    def set_cookie(self, response: Response, name: str, value: str, max_age: int | None) -> None:
        """Set a cookie for this host alone, out of reach of scripts. `max_age` in seconds; None: until it is closed."""
        response.set_cookie(
            self.cookie_name(name), value, max_age=max_age, path="/", secure=self._secure, httponly=True, samesite="lax"
        )

    async def read_form(self, request: Request, browser: Browser) -> Mapping[str, str]:
        """The fields of a form that one of our pages in this very browser has sent.

        Raises:
            GateError: FORM_REFUSED; REQUEST_MALFORMED, TOO_LARGE, PARAMETER_REPEATED.
        """
        # Browsers send both with every form; whoever does not send them is held by the token below.
        origin = request.headers.get("origin")
        if origin is not None and origin != self._public_url:
            raise GateError(ErrorCode.FORM_REFUSED, "Origin is another")
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise GateError(ErrorCode.FORM_REFUSED, "Sec-Fetch-Site is another")
        media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media != "application/x-www-form-urlencoded":
            raise GateError(ErrorCode.REQUEST_MALFORMED, "Content-Type is not application/x-www-form-urlencoded")
        form = parse_form(await read_capped(request, MAX_BODY))
        expected = self._form_token(browser)
        if browser.new or not hmac.compare_digest(form.get(CSRF_FIELD, "").encode(), expected.encode()):
            raise GateError(ErrorCode.FORM_REFUSED, "the form's token is missing or another browser's")
        return form

    def _form_token(self, browser: Browser) -> str:
        mac = hmac.digest(self._secret, b"twogate-form-v1\0" + browser.cookie.encode(), "sha256")
        return base64.urlsafe_b64encode(mac).decode().rstrip("=")


def asset_routes(public_url: str) -> list[Route]:
    """The style sheet and the scripts, under `/assets/`."""
    headers = {**security_headers(public_url), "Cache-Control": "public, max-age=300"}
    files = {path.name: path for path in (_HERE / "static").iterdir() if path.suffix in _ASSETS}

    def route(name: str, path: Path) -> Route:
        content = path.read_bytes()

        async def asset(_: Request) -> Response:
            return Response(content, headers=headers, media_type=_ASSETS[path.suffix])

        return Route(f"/assets/{name}", OnlyMethods(asset, headers, "GET", "HEAD"))

    return [route(name, path) for name, path in sorted(files.items())]


def _policy(form_targets: Collection[str], *, scripts: bool) -> str:
    parts = [
        "default-src 'none'",
        "style-src 'self'",
        "img-src 'self'",
        "form-action " + " ".join(["'self'", *form_targets]),
        "frame-ancestors 'none'",
        "base-uri 'none'",
    ]
    if scripts:
        parts += ["script-src 'self'", "connect-src 'self'"]
    return "; ".join(parts)
