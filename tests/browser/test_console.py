"""The console in a real Chromium: a passkey logs in, a call arrives live and is approved, a keyboard suffices."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from browser.chromium import chromium, find_chromium, person, trusting
from browser.conftest import Site
from browser.consolelab import enrol, log_in, park, serving_console, state_of, without_scripts
from twogate.core.approval import State

pytestmark = pytest.mark.peer

PAGES = (
    "/console",
    "/console/approvals",
    "/console/sessions",
    "/console/agents",
    "/console/tools",
    "/console/matrix",
    "/console/explain?agent=reporter&tool=tiny.die",
    "/console/audit",
)

# What an accessibility checker would look for, without one: names of controls, order of headings, width, language.
FAULTS = """() => {
  const faults = [];
  for (const control of document.querySelectorAll("input:not([type=hidden]), select, textarea")) {
    if (!control.labels || control.labels.length === 0) faults.push("no label: " + control.outerHTML);
  }
  for (const one of document.querySelectorAll("a, button, summary")) {
    if (!(one.getAttribute("aria-label") || one.textContent).trim()) faults.push("no name: " + one.outerHTML);
  }
  let last = 0;
  for (const heading of document.querySelectorAll("h1, h2, h3")) {
    const level = Number(heading.tagName[1]);
    if (level > last + 1) faults.push("a level is skipped: " + heading.textContent);
    last = level;
  }
  if (document.querySelectorAll("h1").length !== 1) faults.push("not one h1");
  if (document.querySelectorAll("main").length !== 1) faults.push("not one main");
  if (!document.documentElement.lang || !document.title) faults.push("no language or title");
  const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
  if (new Set(ids).size !== ids.length) faults.push("an id twice: " + ids);
  if (document.documentElement.scrollWidth > innerWidth) faults.push("wider than the window");
  return faults;
}"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    find_chromium()
    with serving_console(tmp_path_factory.mktemp("console")) as made:
        yield made


@pytest.fixture
async def browser(site: Site) -> AsyncGenerator[Browser]:
    async with chromium(trusting(site.gateway.directory / "server.pem")) as running:
        yield running


def watched(page: Page) -> list[str]:
    """What the page's console says: a script or style that the policy stopped, for one."""
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    return said


async def test_a_call_arrives_live_and_a_passkey_approves_it(site: Site, browser: Browser) -> None:
    async with person(browser) as bob:
        await enrol(site, bob, "bob", "approver")
        said = watched(bob.page)
        await log_in(site, bob.page)
        await bob.page.get_by_role("link", name="Approvals", exact=True).click()
        await expect(bob.page.get_by_text("Nothing waits.")).to_be_visible()
        approval = await asyncio.to_thread(park, site, "first")
        await bob.page.locator(f"a[href='/approvals/{approval}']").click(timeout=10_000)
        await expect(bob.page.get_by_role("heading", level=1)).to_have_text("tiny.die")
        assert await bob.page.evaluate(FAULTS) == []
        await bob.page.get_by_role("button", name="Approve with a passkey").click()
        await expect(bob.page.get_by_role("status").first).to_have_text(re.compile("Approved"))
        assert said == []
    assert await asyncio.to_thread(state_of, site, approval) is State.GRANTED


async def test_another_denies_without_javascript(site: Site, browser: Browser) -> None:
    approval = await asyncio.to_thread(park, site, "second")
    async with person(browser) as eve:
        await enrol(site, eve, "eve", "approver")
        await log_in(site, eve.page)
        page = await without_scripts(browser, eve)
        await page.goto(f"{site.url}/console/approvals")
        await page.locator(f"a[href='/approvals/{approval}']").click()
        await expect(page.get_by_role("button", name="Approve with a passkey")).to_be_hidden()
        await page.get_by_label("Why not").fill("not today")
        await page.get_by_role("button", name="Deny").click()
        await expect(page.get_by_text("not today")).to_be_visible()
    assert await asyncio.to_thread(state_of, site, approval) is State.DENIED


async def test_every_page_fits_a_phone_and_names_its_controls_and_runs_no_stray_script(
    site: Site, browser: Browser
) -> None:
    async with person(browser, viewport={"width": 390, "height": 844}) as olga:
        await enrol(site, olga, "olga", "operator")
        said = watched(olga.page)
        await log_in(site, olga.page)
        faults: dict[str, Any] = {}
        for path in PAGES:
            answer = await olga.page.goto(site.url + path)
            assert answer is not None
            assert answer.status == 200, path
            faults[path] = await olga.page.evaluate(FAULTS)
        assert faults == {path: [] for path in PAGES}
        assert said == []


async def test_a_keyboard_pauses_an_agent_and_the_page_of_another_shows_it_live(site: Site, browser: Browser) -> None:
    async with person(browser) as omar, person(browser) as vera:
        await enrol(site, omar, "omar", "operator")
        await enrol(site, vera, "vera", "viewer")
        await log_in(site, omar.page)
        await log_in(site, vera.page)
        await vera.page.goto(f"{site.url}/console/agents")
        await expect(vera.page.get_by_text("paused")).to_have_count(0)
        await omar.page.goto(f"{site.url}/console/agents")
        await omar.page.locator("summary", has_text="Pause").focus()
        await omar.page.keyboard.press("Enter")
        await omar.page.keyboard.press("Tab")
        await omar.page.keyboard.press("Enter")
        await expect(omar.page.get_by_role("button", name="Enable reporter")).to_be_visible()
        await expect(vera.page.get_by_text("paused")).to_be_visible(timeout=10_000)
        await expect(vera.page.get_by_role("button")).to_have_count(0)
        await omar.page.get_by_role("button", name="Enable reporter").click()
        await expect(vera.page.get_by_text("paused")).to_have_count(0, timeout=10_000)


async def test_a_tool_without_class_and_one_that_is_gone_are_marked(site: Site, browser: Browser) -> None:
    async with person(browser) as tina:
        await enrol(site, tina, "tina", "viewer")
        await log_in(site, tina.page)
        await tina.page.goto(f"{site.url}/console/tools")
        row = tina.page.get_by_role("row")
        await expect(row.filter(has_text="odd")).to_contain_text("unclassified")
        await expect(row.filter(has_text="gone")).to_contain_text("the server does not list it")
        await expect(row.filter(has_text="echo")).to_contain_text("read")
