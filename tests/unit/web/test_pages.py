"""Pages for people: cookies, forms that only our pages can send, policies, and the templates themselves."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from authlab import AuthLab, hidden_fields, open_auth_lab
from tokenlab import ISSUER
from twogate.adapters.rng import SystemRng
from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.token_request import MAX_BODY
from twogate.web import pages as pages_module
from twogate.web.pages import CSRF_FIELD, Browser, Pages, asset_routes

TEMPLATES = Path(pages_module.__file__).parent / "templates"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def make_app(public_url: str) -> Starlette:
    """A form and what it posts to, over the real pages."""
    pages = Pages(public_url, bytes(32), SystemRng())

    async def form(request: Request) -> Response:
        return pages.error(GateError(ErrorCode.NOT_FOUND), pages.browser(request))

    async def post(request: Request) -> Response:
        browser = pages.browser(request)
        try:
            return JSONResponse(dict(await pages.read_form(request, browser)))
        except GateError as error:
            return pages.error(error, browser)

    return Starlette(routes=[Route("/form", form), Route("/post", post, methods=["POST"]), *asset_routes(public_url)])


@pytest.fixture(params=[ISSUER, "http://127.0.0.1:8000"])
async def http(request: pytest.FixtureRequest) -> AsyncGenerator[httpx2.AsyncClient]:
    url: str = request.param
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=make_app(url)), base_url=url) as client:
        yield client


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncGenerator[AuthLab]:
    async with open_auth_lab(tmp_path) as running:
        await running.log_in(running.alice)
        yield running


class TestCookies:
    async def test_a_new_browser_gets_one_that_only_this_host_can_set_and_no_script_read(
        self, http: httpx2.AsyncClient
    ) -> None:
        response = await http.get("/form")
        secure = str(http.base_url).startswith("https")
        cookie = response.headers["set-cookie"]
        assert cookie.startswith("__Host-twogate-browser=" if secure else "twogate-browser=")
        attributes = {part.strip().lower() for part in cookie.split(";")[1:]}
        assert attributes == {"httponly", "path=/", "samesite=lax"} | ({"secure"} if secure else set())
        assert "set-cookie" not in (await http.get("/form")).headers

    @pytest.mark.parametrize("value", ["", "short", "x" * 44])
    async def test_a_cookie_that_is_none_of_ours_is_replaced(self, value: str) -> None:
        app = make_app(ISSUER)
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url=ISSUER) as client:
            response = await client.get("/form", headers={"Cookie": f"__Host-twogate-browser={value}"})
            assert "set-cookie" in response.headers

    def test_a_browser_shows_neither_its_cookie_nor_its_digest(self) -> None:
        browser = Browser("c" * 43, new=True)
        assert "ccc" not in repr(browser)
        assert browser.digest not in repr(browser)
        assert re.fullmatch(r"[0-9a-f]{64}", browser.digest)


class TestForms:
    async def test_a_form_of_this_browsers_page_is_read(self, lab: AuthLab) -> None:
        page = await lab.consent(await lab.authorize())
        assert (await lab.decide(page, "deny")).status_code == 303

    @pytest.mark.parametrize(
        "headers",
        [
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://mcp.example.com"},
            {"Origin": f"{ISSUER}:8443"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
        ],
    )
    async def test_a_form_of_another_site_is_refused(self, lab: AuthLab, headers: dict[str, str]) -> None:
        fields = hidden_fields((await lab.consent(await lab.authorize())).text)
        response = await lab.http.post("/authorize/consent", data={**fields, "decision": "deny"}, headers=headers)
        assert response.status_code == 403
        assert "form_refused" in response.text

    async def test_a_form_without_the_browsers_cookie_is_refused_and_sets_none(self, http: httpx2.AsyncClient) -> None:
        response = await http.post("/post", data={CSRF_FIELD: "x" * 43})
        assert response.status_code == 403
        assert "set-cookie" not in response.headers

    @pytest.mark.parametrize(
        ("content", "headers", "status"),
        [
            (b"a=b", {"Content-Type": "application/json"}, 400),
            (b"a=b", {}, 400),
            (b"a=%zz", FORM, 400),
            (b"a=1&a=2", FORM, 400),
            (b"a=" + b"x" * MAX_BODY, FORM, 413),
        ],
    )
    async def test_what_is_no_form_is_refused(
        self, http: httpx2.AsyncClient, content: bytes, headers: dict[str, str], status: int
    ) -> None:
        await http.get("/form")
        assert (await http.post("/post", content=content, headers=headers)).status_code == status

    async def test_another_servers_secret_gives_another_token(self, lab: AuthLab) -> None:
        page = await lab.consent(await lab.authorize())
        other = Pages(ISSUER, b"\x01" * 32, SystemRng())
        cookie = lab.http.cookies[other.cookie_name("browser")]
        token = other._form_token(Browser(cookie, new=False))  # pyright: ignore[reportPrivateUsage]
        assert (await lab.decide(page, "deny", form_token=token)).status_code == 403


class TestAnswers:
    async def test_every_page_forbids_framing_scripts_and_caching(self, http: httpx2.AsyncClient) -> None:
        response = await http.get("/form")
        assert response.status_code == 404
        assert response.headers["content-security-policy"] == (
            "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; "
            "base-uri 'none'"
        )
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        secure = str(http.base_url).startswith("https")
        assert ("strict-transport-security" in response.headers) is secure

    def test_scripts_are_allowed_only_where_asked_and_only_our_own(self) -> None:
        pages = Pages(ISSUER, bytes(32), SystemRng())
        page = pages.render("error.html", Browser("c" * 43, new=False), scripts=True, reason="", text="")
        policy = page.headers["content-security-policy"].split("; ")
        assert "script-src 'self'" in policy
        assert "connect-src 'self'" in policy

    def test_text_is_text(self) -> None:
        pages = Pages(ISSUER, bytes(32), SystemRng())
        page = pages.render("error.html", Browser("c" * 43, new=False), reason="<b>", text='"><script>')
        assert b"<script>" not in bytes(page.body)
        assert b"<b>" not in bytes(page.body)

    async def test_the_style_sheet_is_served_and_nothing_else(self, http: httpx2.AsyncClient) -> None:
        style = await http.get("/assets/style.css")
        assert (style.status_code, style.headers["content-type"]) == (200, "text/css; charset=utf-8")
        assert style.headers["cache-control"] == "public, max-age=300"
        for path in ("/assets/", "/assets/base.html", "/assets/..%2ftemplates%2fbase.html", "/assets/none.css"):
            assert (await http.get(path)).status_code == 404
        assert (await http.post("/assets/style.css")).status_code == 405


def expanded(source: str) -> str:
    """A template with its own macros in the place of their calls."""
    macros = dict(re.findall(r"{% macro (\w+)\(.*?\) -?%}(.*?){%-? endmacro %}", source, re.DOTALL))
    for _ in macros:
        for name, body in macros.items():
            source = re.sub(r"{{ " + name + r"\(.*?\) }}", body.replace("\\", "\\\\"), source)
    return source


class TestTemplates:
    @pytest.mark.parametrize("template", sorted(path.name for path in TEMPLATES.iterdir()))
    def test_no_template_holds_anything_inline_or_foreign_or_turns_escaping_off(self, template: str) -> None:
        source = (TEMPLATES / template).read_text()
        for forbidden in ("<style", "style=", "javascript:", "|safe", "| safe", "autoescape", "http://", "https://"):
            assert forbidden not in source
        assert not re.search(r"\son[a-z]+=", source)
        assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", source))

    @pytest.mark.parametrize("template", sorted(path.name for path in TEMPLATES.iterdir()))
    def test_every_form_that_posts_holds_the_token(self, template: str) -> None:
        for form in re.findall(r"<form.*?</form>", expanded((TEMPLATES / template).read_text()), re.DOTALL):
            if 'method="post"' in form:
                assert 'name="{{ form_field }}" value="{{ form_token }}"' in form


class TestConsentPage:
    async def test_it_says_in_words_who_asks_for_what_where_and_how_long(self, lab: AuthLab) -> None:
        details = '[{"type":"mcp_session","task":"review"}]'
        page = await lab.consent(
            await lab.authorize("native", scope="reports", authorization_details=details, redirect_uri=None)
        )
        text = " ".join(re.sub(r"<[^>]+>", " ", page.text).split())
        for words in (
            "Allow Acme Code to act for you?",
            "Leads back to 127.0.0.1 , a program on this device",
            "Alice Example ( alice ) at acme",
            "The MCP server files (https://mcp.example.com/mcp/files)",
            "5 minutes; it may renew this without asking you for up to 90 days",
            "No administrator has checked this application",
            "any program here could pose as this application",
            "you are asked each time",
            "for one task: review read_file read resource:file:///reports/** read",
            "reports covers read",
            "Allow Deny",
            "Log in as somebody else",
        ):
            assert words in text, words

    async def test_it_says_what_needs_an_approval_of_its_own_and_what_any_task_may_do(self, lab: AuthLab) -> None:
        page = await lab.consent(await lab.authorize())
        text = " ".join(re.sub(r"<[^>]+>", " ", page.text).split())
        assert "It names no task, so it may begin any of these: review read_file read" in text
        assert "write_file write, only with an approval of its own each time" in text
        assert "No administrator" not in text

    async def test_it_works_with_a_keyboard_and_without_scripts(self, lab: AuthLab) -> None:
        page = await lab.consent(await lab.authorize())
        assert re.findall(r'<button[^>]*name="decision" value="(\w+)"', page.text) == ["allow", "deny"]
        assert "<script" not in page.text
        assert '<html lang="en">' in page.text
