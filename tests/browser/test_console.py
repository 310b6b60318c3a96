"""The console in a real Chromium: live, by keyboard, with and without scripts, and what a checker says of its pages."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Iterator

import pytest
from playwright.async_api import Browser, Page, expect

from browser.accessibility import WIDTHS, faults_of
from browser.chromium import Person, chromium, find_chromium, person, trusting
from browser.conftest import Site
from browser.consolelab import begin_session, enrol, log_in, park, serving_console, state_of, without_scripts
from processlab import here_json
from twogate.core.approval import State

pytestmark = pytest.mark.peer

SOON = 10_000
"""Milliseconds within which what is live must have arrived."""

CONSOLE = (
    "/console",
    "/console/approvals",
    "/console/tokens",
    "/console/sessions",
    "/console/agents",
    "/console/tools",
    "/console/matrix",
    "/console/explain",
    "/console/explain?agent=reporter&tool=tiny.die",
    "/console/explain?agent=nobody&tool=tiny.die",
    "/console/audit",
    "/console/audit?agent=nobody",
    "/console/tools?server=nobodys",
)
SIGNING = ("/console/tokens", "/console/explain", "/console/tools?server=nobodys")
"""Where one signs, and those that are not live."""
STRANGERS = ("/login", "/login?tenant=acme", "/device", "/link", "/setup")

# Stands as long as the page is not loaded anew.
MARK = "window.before = true"
MARKED = "window.before === true"
# Says in the console when the page was about to be fetched anew, and whether that was held back.
TELL = """document.body.addEventListener(
  "htmx:beforeRequest", (event) => console.log("held back: " + event.defaultPrevented), {once: true}
)"""


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


async def come(site: Site, who: Person, name: str, *duties: str) -> list[str]:
    """Make a person who logs in; what their page's console says from now on."""
    await enrol(site, who, name, *duties)
    said = watched(who.page)
    await log_in(site, who.page)
    return said


async def test_a_call_arrives_live_and_a_passkey_approves_it_by_the_keyboard_alone(
    site: Site, browser: Browser
) -> None:
    async with person(browser) as bob:
        said, page = await come(site, bob, "bob", "approver"), bob.page
        await page.get_by_role("link", name="Approvals", exact=True).press("Enter")
        await expect(page.get_by_text("Nothing waits.")).to_be_visible()
        await page.evaluate(MARK)
        approval = await asyncio.to_thread(park, site, "first")
        await expect(page.get_by_role("status")).to_have_text("1 call waits.", timeout=SOON)
        assert await page.evaluate(MARKED)
        # The first that Tab finds leads past the navigation.
        await page.keyboard.press("Tab")
        await expect(page.get_by_text("To the content")).to_be_focused()
        await page.keyboard.press("Enter")
        await page.keyboard.press("Tab")
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="Read and decide")).to_be_focused()
        await page.keyboard.press("Enter")
        await page.wait_for_url(f"**/approvals/{approval}")
        # Where people sign runs no script of others.
        assert await page.evaluate("typeof htmx") == "undefined"
        assert await page.evaluate("[...document.scripts].map(one => one.getAttribute('src'))") == [
            "/assets/passkey.js"
        ]
        for _ in range(40):
            await page.keyboard.press("Tab")
            if await page.evaluate("document.activeElement.textContent.includes('Approve with a passkey')"):
                break
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("status").first).to_have_text(re.compile("Approved"))
        assert said == []
    assert await asyncio.to_thread(state_of, site, approval) is State.GRANTED


async def test_an_inbox_denies_without_losing_the_place_and_tells_what_was_decided_meanwhile(
    site: Site, browser: Browser
) -> None:
    first, second = [await asyncio.to_thread(park, site, text) for text in ("one", "other")]
    async with person(browser) as ida:
        said, page = await come(site, ida, "ida", "approver"), ida.page
        await page.goto(f"{site.url}/console/approvals")
        await page.evaluate(MARK)
        card = page.locator(f"#approval-{first}")
        await card.locator("summary").click()
        await card.get_by_label("Why not").fill("not this one")
        await card.get_by_role("button", name="Deny").click()
        await expect(card).to_have_count(0)
        await expect(page.get_by_role("status")).to_have_text("1 call waits.")
        assert await page.evaluate(MARKED)
        assert await page.evaluate("document.activeElement.id") == "live"
        assert said == []
        # Another one denies it on the command line, while this page asks whether to.
        await page.locator(f"#approval-{second} summary").click()
        await asyncio.to_thread(here_json, "approval", "deny", second, "--config", site.gateway.config)
        await page.locator(f"#approval-{second}").get_by_role("button", name="Deny").click()
        await expect(page.get_by_role("status")).to_have_text(re.compile("decided already.*Load the page again"))
        assert await page.evaluate(MARKED)
        assert [text for text in said if "409" not in text] == []
    assert await asyncio.to_thread(state_of, site, first) is State.DENIED


async def test_without_scripts_people_deny_end_pause_filter_and_explain(site: Site, browser: Browser) -> None:
    approval, other = [await asyncio.to_thread(park, site, text) for text in ("second", "third")]
    await asyncio.to_thread(begin_session, site, "plain")
    async with person(browser) as eve:
        await come(site, eve, "eve", "approver", "operator")
        page = await without_scripts(browser, eve)
        await page.goto(f"{site.url}/console/approvals")
        await page.locator(f"h3 a[href='/approvals/{approval}']").click()
        await expect(page.get_by_role("button", name="Approve with a passkey")).to_be_hidden()
        await page.get_by_label("Why not").fill("not today")
        await page.get_by_role("button", name="Deny").click()
        await expect(page.get_by_text("not today")).to_be_visible()
        await page.goto(f"{site.url}/console/approvals")
        await page.locator(f"#approval-{other} summary").click()
        await page.locator(f"#approval-{other}").get_by_role("button", name="Deny").click()
        await page.wait_for_url("**/console/approvals")
        await expect(page.locator(f"#approval-{other}")).to_have_count(0)

        await page.goto(f"{site.url}/console/sessions")
        mine = page.locator("li", has=page.get_by_text("plain", exact=True))
        await mine.locator("summary", has_text="End").click()
        await mine.get_by_role("button", name="End this session").click()
        await expect(mine).to_have_count(0)

        await page.goto(f"{site.url}/console/agents")
        await page.locator("summary", has_text="Pause").click()
        await page.get_by_role("button", name="Pause reporter").click()
        await page.get_by_role("button", name="Enable reporter").click()
        await expect(page.get_by_text("paused")).to_have_count(0)

        await page.goto(f"{site.url}/console/audit")
        await page.get_by_label("Kind").select_option("agent.disabled")
        await page.get_by_label("Agent").fill("reporter")
        await page.get_by_role("button", name="Show").click()
        await expect(page.get_by_role("row").filter(has_text="agent.disabled")).not_to_have_count(0)
        await expect(page.get_by_role("row").filter(has_text="agent.enabled")).to_have_count(0)
        await page.get_by_role("link", name="Keep it new").click()
        await expect(page.get_by_text("Loaded again every 10 seconds")).to_be_visible()
        assert await page.locator("head noscript meta[http-equiv=refresh]").count() == 1

        await page.goto(f"{site.url}/console/explain")
        await page.get_by_label("Agent").fill("reporter")
        await page.get_by_label("Tool, resource or prompt").fill("tiny.echo")
        await page.get_by_role("button", name="Explain").click()
        await expect(page.get_by_role("heading", name="Step by step")).to_be_visible()
        await page.goto(f"{site.url}/console/matrix")
        await page.get_by_role("button", name="Show").click()
        await expect(page).to_have_url(re.compile(r"/console/matrix\?agent=reporter"))
    assert await asyncio.to_thread(state_of, site, approval) is State.DENIED


async def test_what_one_person_does_another_sees_but_never_under_their_hands_and_never_as_a_login_page(
    site: Site, browser: Browser
) -> None:
    await asyncio.to_thread(begin_session, site, "watched")
    async with person(browser) as omar, person(browser) as vera:
        said = await come(site, omar, "omar", "operator")
        seen = await come(site, vera, "vera", "viewer")
        await vera.page.goto(f"{site.url}/console/agents")
        await vera.page.evaluate(MARK)
        await omar.page.goto(f"{site.url}/console/agents")
        await omar.page.evaluate(MARK)
        paused = vera.page.get_by_text("paused", exact=True)
        await expect(paused).to_have_count(0)
        await omar.page.locator("summary", has_text="Pause").focus()
        await omar.page.keyboard.press("Enter")
        await omar.page.keyboard.press("Tab")
        await omar.page.keyboard.press("Enter")
        await expect(omar.page.get_by_role("button", name="Enable reporter")).to_be_visible()
        assert await omar.page.evaluate(MARKED)
        # Where the keyboard was is where it goes on.
        assert await omar.page.evaluate("document.activeElement.id") == "agent-reporter"
        await expect(paused).to_be_visible(timeout=SOON)
        await expect(vera.page.get_by_role("button")).to_have_count(0)
        # A link that has the focus keeps the page as it is.
        await vera.page.get_by_role("link", name="Access of reporter").focus()
        async with vera.page.expect_event("console", timeout=SOON):
            await vera.page.evaluate(TELL)
            await omar.page.get_by_role("button", name="Enable reporter").click()
        await expect(omar.page.locator("summary", has_text="Pause")).to_be_visible()
        await expect(paused).to_be_visible()
        await vera.page.evaluate("document.activeElement.blur()")
        await expect(paused).to_have_count(0, timeout=SOON)
        assert await vera.page.evaluate(MARKED)

        await omar.page.goto(f"{site.url}/console/sessions")
        await omar.page.evaluate(MARK)
        mine = omar.page.locator("li", has=omar.page.get_by_text("watched", exact=True))
        await mine.locator("summary", has_text="End").click()
        await mine.get_by_role("button", name="End this session").click()
        await expect(mine).to_have_count(0)
        assert await omar.page.evaluate(MARKED)
        assert (said, seen) == ([], ["held back: true"])

        # Logged out in another window: who only looks is told, who acts is led to the login.
        await vera.context.clear_cookies()
        await omar.page.goto(f"{site.url}/console/agents")
        await omar.page.locator("summary", has_text="Pause").click()
        await omar.page.get_by_role("button", name="Pause reporter").click()
        await expect(vera.page.get_by_role("status")).to_have_text(re.compile("not kept up to date"), timeout=SOON)
        await expect(vera.page.get_by_label("Password")).to_have_count(0)
        await expect(vera.page.get_by_role("heading", name="reporter")).to_be_visible()
        await omar.page.context.clear_cookies()
        await omar.page.get_by_role("button", name="Enable reporter").click()
        await omar.page.wait_for_url("**/login?*")
        await asyncio.to_thread(here_json, "agent", "enable", "acme/reporter", "--config", site.gateway.config)


async def test_the_audit_page_filters_without_loading_and_new_events_arrive(site: Site, browser: Browser) -> None:
    async with person(browser) as ada:
        said, page = await come(site, ada, "ada", "viewer"), ada.page
        await page.goto(f"{site.url}/console/audit")
        await page.evaluate(MARK)
        rows = page.locator("tbody tr")
        await expect(rows.filter(has_text="login.succeeded")).not_to_have_count(0)
        await page.get_by_label("Agent").press_sequentially("reporter")
        await expect(rows.filter(has_text="login.succeeded")).to_have_count(0)
        await page.get_by_label("Kind").select_option("agent.disabled")
        await expect(page).to_have_url(re.compile("kind=agent.disabled"))
        before = await rows.count()
        for command in ("disable", "enable"):
            await asyncio.to_thread(here_json, "agent", command, "acme/reporter", "--config", site.gateway.config)
        await expect(rows).to_have_count(before + 1, timeout=15_000)
        assert await page.evaluate(MARKED)
        await page.reload()
        await expect(page.get_by_label("Agent")).to_have_value("reporter")
        await expect(rows).to_have_count(before + 1)
        assert said == []


async def test_what_a_server_changed_is_shown_beside_what_was_approved(site: Site, browser: Browser) -> None:
    tools = site.gateway.directory / "tools.json"
    approved = tools.read_text()
    await asyncio.to_thread(here_json, "tool", "approve", "tiny", "--all", "--yes", "--config", site.gateway.config)
    async with person(browser) as tina:
        said, page = await come(site, tina, "tina", "viewer"), tina.page
        await page.goto(f"{site.url}/console/tools")
        row = page.get_by_role("row")
        await expect(row.filter(has_text="odd")).to_contain_text("unclassified")
        await expect(row.filter(has_text="gone")).to_contain_text("the server does not list it")
        await expect(row.filter(has_text="echo")).to_contain_text("as approved")
        shown = [tool for tool in json.loads(approved) if tool["name"] not in ("pid", "odd")]
        hostile = "echo, after \u202eterces eht\u202c <img src=/x onerror=alert(1)>"
        next(tool for tool in shown if tool["name"] == "echo").update(description=hostile, title="Echo")
        tools.write_text(json.dumps(shown))
        try:
            async with asyncio.timeout(SOON / 1000):
                # A server is asked at most once a second, and it was asked just now.
                while not await row.filter(has_text="changed").count():
                    await page.get_by_role("link", name="ask the server again").click()
            await expect(row.filter(has_text="echo")).to_contain_text("changed description, title")
            # Also one that nobody classified, and that nobody would see any more.
            for name in ("pid", "odd"):
                await expect(row.filter(has_text=name)).to_contain_text("approved, and not listed any more")
            faults = {scheme: await faults_of(page, scheme) for scheme in WIDTHS}
            await page.get_by_role("link", name="What differs of echo").click()
            await expect(page.get_by_role("heading", name="title")).to_contain_text("new")
            was, now = page.locator(".was").first, page.locator(".now").first
            await expect(was.locator("pre")).to_have_text('"echo"')
            await expect(now.locator("pre")).to_have_text(
                '"echo, after \\u202eterces eht\\u202c <img src=/x onerror=alert(1)>"'
            )
            assert await now.locator("mark").inner_text() != await now.locator("pre").inner_text()
            assert "\u202e" not in await page.content()
            assert await page.locator("main img").count() == 0
            faults |= {f"differs, {scheme}": await faults_of(page, scheme) for scheme in WIDTHS}
            await page.go_back()
            await page.get_by_role("link", name="What differs of pid").click()
            await expect(page.get_by_text("does not list it any more")).to_be_visible()
            await expect(page.locator(".was pre")).to_contain_text('"name": "pid"')
            assert faults == {path: [] for path in faults}
            assert said == []
        finally:
            tools.write_text(approved)


async def test_a_checker_finds_no_fault_with_any_page_in_light_and_dark(site: Site, browser: Browser) -> None:
    hostile = "pay \u202e000,1\u202c to \u200bAl\u0456ce " + "A" * 300 + " and" * 200
    waits, evil, denied = [await asyncio.to_thread(park, site, text) for text in ("wait", hostile, "no")]
    two = await asyncio.to_thread(park, site, "two", people=2)
    async with person(browser) as olga:
        page = olga.page
        found: dict[str, list[str]] = {}
        others: set[str] = set()

        async def check(path: str) -> None:
            said = watched(page)
            await page.goto(site.url + path)
            if await page.evaluate("typeof htmx") != "undefined":
                others.add(path)
            for scheme in WIDTHS:
                found[f"{path} {scheme}"] = await faults_of(page, scheme)
            # A page that is not found says so in the console too.
            found[path] = [text for text in said if "status of 4" not in text]

        for path in STRANGERS:
            await check(path)
        await come(site, olga, "olga", "operator", "approver")
        for path in ("/account", *CONSOLE):
            await check(path)
        await page.goto(f"{site.url}/approvals/{denied}")
        await page.get_by_role("button", name="Deny").click()
        await page.goto(f"{site.url}/approvals/{two}")
        await page.get_by_role("button", name="Approve with a passkey").click()
        await expect(page.get_by_text("Said so far")).to_be_visible()
        for approval in (waits, evil, denied, two):
            await check(f"/approvals/{approval}")
        await asyncio.to_thread(here_json, "agent", "disable", "acme/reporter", "--config", site.gateway.config)
        try:
            for path in ("/console/agents", "/console/matrix"):
                await page.goto(site.url + path)
                await page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
                found[f"{path}, paused"] = [*await faults_of(page, "light"), *await faults_of(page, "dark")]
        finally:
            await asyncio.to_thread(here_json, "agent", "enable", "acme/reporter", "--config", site.gateway.config)
    assert found == {path: [] for path in found}
    # Where people log in, sign and approve, no script of others runs.
    assert others == {path for path in CONSOLE if not path.startswith(SIGNING)}
