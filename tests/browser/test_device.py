"""The device flow in a real browser, without JavaScript: enter the code, log in, compare, decide, by keyboard alone."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import httpx2
import pytest
from playwright.async_api import Browser, Page, ViewportSize

from browser.chromium import chromium, find_chromium, trusting
from peers.oauthworld import NAME, PASSWORD, OAuthWorld, oauth_world

pytestmark = pytest.mark.peer

PHONE: ViewportSize = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OAuthWorld]:
    find_chromium()
    with oauth_world(tmp_path_factory.mktemp("twogate"), "http://127.0.0.1:1/mcp") as made:
        yield made


@pytest.fixture
async def browser(world: OAuthWorld) -> AsyncGenerator[Browser]:
    async with chromium(trusting(world.gateway.directory / "server.pem")) as running:
        yield running


@pytest.fixture
async def page(browser: Browser) -> AsyncGenerator[Page]:
    """A phone's page without JavaScript."""
    context = await browser.new_context(java_script_enabled=False, viewport=PHONE, color_scheme="dark")
    yield await context.new_page()
    await context.close()


def begin(world: OAuthWorld) -> dict[str, str]:
    """What a terminal is told."""
    with world.person() as somebody:
        form = {"client_id": "cli", "resource": world.resource, "scope": "reports"}
        answer: httpx2.Response = somebody.http.post("/device_authorization", data=form)
    begun: dict[str, str] = answer.json()
    return begun


def polled(world: OAuthWorld, begun: dict[str, str]) -> httpx2.Response:
    """What the terminal is answered."""
    with world.person() as somebody:
        return somebody.http.post(
            "/token",
            data={
                "grant_type": "urn:ietf:params:oauth:grant-type:device_code",
                "client_id": "cli",
                "device_code": begun["device_code"],
            },
        )


async def fits(page: Page) -> bool:
    """Whether nothing is wider than the phone."""
    box = await page.locator("main").bounding_box()
    assert box is not None
    return box["width"] <= PHONE["width"]


async def log_in_and_compare(page: Page, begun: dict[str, str], shots: Path) -> None:
    """From the field, which is focused, to the page with the code, by the keyboard."""
    await page.screenshot(path=shots / "entry.png", full_page=True)
    assert await fits(page)
    # Autofocus leaves the cursor in an empty field; one that a link has filled in is the first that Tab finds.
    await page.get_by_label("Code").focus()
    await page.keyboard.press("Enter")
    await page.get_by_label("Name").fill(NAME)
    await page.get_by_label("Password").fill(PASSWORD)
    await page.keyboard.press("Enter")
    await page.get_by_role("heading", name="Does your device show this code?").wait_for()
    await page.screenshot(path=shots / "confirm.png", full_page=True)
    assert await fits(page)
    assert begun["user_code"] in await page.locator("p.code").inner_text()


async def test_a_code_is_entered_compared_and_allowed(world: OAuthWorld, page: Page, tmp_path: Path) -> None:
    begun = begin(world)
    await page.goto(f"{world.url}/device")
    await page.get_by_label("Code").fill(begun["user_code"].lower())
    await log_in_and_compare(page, begun, tmp_path)
    await page.get_by_role("button", name="Allow").press("Enter")
    await page.get_by_role("heading", name="Allowed").wait_for()
    await page.screenshot(path=tmp_path / "done.png", full_page=True)
    assert polled(world, begun).status_code == 200


async def test_a_link_fills_in_the_code_and_the_person_denies(world: OAuthWorld, page: Page, tmp_path: Path) -> None:
    begun = begin(world)
    await page.goto(begun["verification_uri_complete"])
    assert await page.get_by_label("Code").input_value() == begun["user_code"]
    await log_in_and_compare(page, begun, tmp_path)
    await page.get_by_role("button", name="Deny").press("Enter")
    await page.get_by_role("heading", name="Denied").wait_for()
    assert polled(world, begun).json()["error"] == "access_denied"


async def test_a_wrong_code_is_told_beside_the_field(world: OAuthWorld, page: Page, tmp_path: Path) -> None:
    await page.goto(f"{world.url}/device")
    await page.get_by_label("Code").fill("BBBB-BBBB")
    await page.keyboard.press("Enter")
    alert = page.get_by_role("alert")
    assert re.search("unknown, used or expired", await alert.inner_text())
    assert await page.get_by_label("Code").input_value() == "BBBB-BBBB"
    await page.screenshot(path=tmp_path / "wrong.png", full_page=True)
