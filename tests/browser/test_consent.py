"""The consent page in a real browser, without JavaScript: its form, its policy, and where it leads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import uvicorn
from playwright.async_api import Page

from authlab import AuthLab, open_auth_lab
from browser.accessibility import WIDTHS, faults_of
from browser.chromium import chromium, find_chromium
from harness.tls_relay import make_certificate
from tokenlab import ISSUER
from twogate.core.oauth.authorize_request import CONSENT_PATH
from twogate.flows.authserver.logins import Login

NATIVE = "http://127.0.0.1:{port}/callback"

pytestmark = pytest.mark.peer


@dataclass
class Site:
    """A browser page, the server behind it, and what clients of other origins were sent."""

    lab: AuthLab
    page: Page
    port: int
    received: list[str]

    async def log_in(self) -> None:
        """Log alice in, as the login page would."""
        now = self.lab.lab.clock.now()
        cookie = await self.lab.logins.begin(Login("acme", self.lab.alice.subject, "password", now), now)
        name = self.lab.pages.cookie_name("login")
        await self.page.context.add_cookies([{"name": name, "value": cookie, "url": f"{ISSUER}/", "secure": True}])

    async def open(self, client_id: str, **changes: str | None) -> None:
        await self.page.goto(f"{ISSUER}/authorize?{urlencode(self.lab.parameters(client_id, **changes))}")

    async def press(self, decision: str) -> dict[str, list[str]]:
        """Press a button; the parameters of the address that the browser ends at."""
        await self.page.click(f"button[value={decision}]")
        await self.page.wait_for_load_state()
        return parse_qs(urlsplit(self.page.url).query)


@asynccontextmanager
async def listening(app: Any, certificate: Path | None) -> AsyncGenerator[int]:
    """Serve an ASGI application on a free port of this machine."""
    config = uvicorn.Config(app, port=0, log_level="warning", lifespan="off", ssl_certfile=certificate)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(20):
            while not server.started:
                await asyncio.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await serving


@pytest.fixture
async def site(tmp_path: Path) -> AsyncGenerator[Site]:
    """Every `.example` host is this machine: the issuer's is the lab, any other a client that notes what it gets."""
    find_chromium()
    received: list[str] = []
    _, certificate = make_certificate(tmp_path / "tls", "mcp.example.com")
    async with open_auth_lab(tmp_path) as lab:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            host = dict(scope["headers"]).get(b"host", b"").decode()
            if host == urlsplit(ISSUER).netloc and scope["path"] != "/login":
                await lab.lab.app(scope, receive, send)
                return
            if scope["path"] != "/favicon.ico":
                referrer = dict(scope["headers"]).get(b"referer", b"-").decode()
                received.append(f"{host}{scope['path']} referrer {referrer}")
            # A login page of a policy as strict as ours, whose form leads on to the question.
            to = parse_qs(scope["query_string"].decode()).get("to", [""])[0]
            body = f'<form action="{to.partition("?")[0]}"><input name="request" value="{to[-43:]}"><button value="in">'
            headers = [(b"content-type", b"text/html"), (b"content-security-policy", b"form-action 'self'")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body.encode()})

        async with listening(app, certificate) as port, listening(app, None) as plain:
            rules = f"--host-resolver-rules=MAP *.example:443 127.0.0.1:{port}, MAP *.example.com:443 127.0.0.1:{port}"
            async with chromium("--ignore-certificate-errors", rules) as browser:
                page = await browser.new_page(java_script_enabled=False, ignore_https_errors=True)
                yield Site(lab, page, plain, received)


async def test_allowing_leads_to_the_client_with_a_code_and_no_referrer(site: Site) -> None:
    await site.log_in()
    await site.open("web", scope="reports")
    back = await site.press("allow")
    assert back.keys() == {"code", "state", "iss"}
    assert site.received == ["app.example/callback referrer -"]
    token = await site.lab.redeem(back["code"][0])
    assert token.json()["scope"] == "reports"


async def test_denying_leads_there_too(site: Site) -> None:
    await site.log_in()
    await site.open("web")
    assert (await site.press("deny"))["error"] == ["access_denied"]


async def test_a_program_on_this_machine_gets_its_code_at_its_own_port(site: Site) -> None:
    await site.log_in()
    await site.open("native", redirect_uri=NATIVE.format(port=site.port))
    assert "code" in await site.press("allow")
    assert site.received == [f"127.0.0.1:{site.port}/callback referrer -"]


async def test_after_a_login_the_browser_moves_on_although_the_login_page_names_no_client(site: Site) -> None:
    await site.lab.log_in(site.lab.alice)
    await site.lab.code()
    await site.open("web")
    assert urlsplit(site.page.url).path == "/login"
    await site.log_in()
    await site.page.click("button")
    await site.page.wait_for_url("https://app.example/callback?*")
    assert site.received[-1] == "app.example/callback referrer -"


async def test_a_page_of_another_site_cannot_show_it_in_a_frame(site: Site) -> None:
    await site.log_in()
    await site.open("web")
    url = site.page.url
    assert urlsplit(url).path == CONSENT_PATH
    await site.page.goto("https://evil.example/")
    await site.page.set_content(f'<iframe src="{url}"></iframe>')
    await site.page.wait_for_load_state("networkidle")
    frames = [frame for frame in site.page.frames if frame is not site.page.main_frame]
    assert len(frames) == 1
    assert await frames[0].query_selector("main") is None


@pytest.mark.parametrize("width", [390, 1280])
async def test_nothing_is_wider_than_the_screen(site: Site, width: int) -> None:
    await site.log_in()
    await site.page.set_viewport_size({"width": width, "height": 800})
    await site.open("native")
    for selector in ("main", "h1", "dl", "form", "button[value=deny]"):
        box = await site.page.locator(selector).first.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width


async def test_a_checker_finds_no_fault_with_it_in_light_and_dark(site: Site) -> None:
    await site.log_in()
    browser = site.page.context.browser
    assert browser is not None
    page = await browser.new_page(ignore_https_errors=True)
    cookies: Any = await site.page.context.cookies()
    await page.context.add_cookies(cookies)
    site.page = page
    await site.open("native")
    await page.get_by_role("button", name="Allow").wait_for()
    assert {scheme: await faults_of(page, scheme) for scheme in WIDTHS} == {scheme: [] for scheme in WIDTHS}
