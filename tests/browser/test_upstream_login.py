"""A login through a real OpenID provider in a real browser, without JavaScript: where the pages' policies let it go."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.async_api import expect

from browser.chromium import chromium, find_chromium, trusting
from peers.oidcprovider import OidcProvider
from peers.test_upstream_login import CALLBACK, configuration, key, opened, provider

__all__ = ["key", "provider"]  # fixtures

pytestmark = pytest.mark.peer


@pytest.mark.parametrize("width", [390, 1280])
async def test_a_person_logs_in_with_the_provider_and_lets_an_application_act(
    tmp_path: Path, provider: OidcProvider, width: int
) -> None:
    find_chromium()
    provider.start()
    async with (
        opened(tmp_path, provider, configuration(tmp_path, provider)) as world,
        chromium(trusting(tmp_path / "provider" / "server.pem")) as browser,
    ):
        page = await browser.new_page(java_script_enabled=False, viewport={"width": width, "height": 800})
        console: list[str] = []
        page.on("console", lambda message: console.append(message.text))
        await page.goto(world.authorization_url())
        assert urlsplit(page.url).path == "/login"
        button = page.get_by_role("button", name="Continue with Acme account")
        box = await button.bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= width
        await page.screenshot(path=tmp_path / "login.png")
        await button.press("Enter")
        # Out to the provider, where everything is agreed to at once, and back.
        await page.wait_for_url("**/authorize/consent?*")
        await expect(page.get_by_role("heading", level=1)).to_contain_text("Acme Desk")
        cookies = {cookie["name"]: cookie for cookie in await page.context.cookies(world.stack.url)}
        login = cookies["twogate-login"]
        assert (login["httpOnly"], login["sameSite"]) == (True, "Lax")
        # Nobody listens at the application's address; what the browser asks it for is enough.
        async with page.expect_request(lambda request: request.url.startswith(CALLBACK)) as asked:
            await page.get_by_role("button", name="Allow").click()
        (code,) = parse_qs(urlsplit((await asked.value).url).query)["code"]
        assert (await world.redeem(code))["access_token"]
        assert [text for text in console if "Content Security Policy" in text] == []


async def test_who_the_provider_sends_back_in_another_browser_is_told_so(
    tmp_path: Path, provider: OidcProvider
) -> None:
    find_chromium()
    provider.start()
    async with (
        opened(tmp_path, provider, configuration(tmp_path, provider)) as world,
        chromium(trusting(tmp_path / "provider" / "server.pem")) as browser,
    ):
        # The first browser stops at the provider's redirect back; the attacker sends that to somebody else.
        url = await world.returning()
        context = await browser.new_context()
        other = await context.new_page()
        answer = await other.goto(url)
        assert answer is not None
        assert answer.status == 400
        await expect(other.get_by_role("alert")).to_contain_text("This page has expired")
        assert not [cookie for cookie in await context.cookies() if cookie["name"] == "twogate-login"]
