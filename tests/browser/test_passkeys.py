"""Passkeys from end to end: a real Chromium with a virtual authenticator, a real `twogate serve`, no stand-ins."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from browser.chromium import add_authenticator, person
from browser.conftest import Site
from processlab import read_events

PASSWORD = "correct horse battery"

pytestmark = pytest.mark.peer


async def open_link(page: Page, link: str) -> None:
    """Open an operator's link and continue to the setup."""
    await page.goto(link)
    # The secret does not stay in the address bar.
    await expect(page).to_have_url(re.compile(r"/link$"))
    async with page.expect_event("load"):
        await page.get_by_role("button", name="Continue").click()


async def set_password(page: Page, password: str = PASSWORD) -> None:
    await page.get_by_label("New password").fill(password)
    await page.get_by_label("The same once more").fill(password)
    async with page.expect_event("load"):
        await page.get_by_role("button", name="Set the password").click()


async def ask_for_passkey(page: Page, label: str = "Laptop") -> None:
    await page.get_by_label("What to call it").fill(label)
    await page.get_by_role("button", name="Create a passkey").click()


async def create_passkey(page: Page, label: str = "Laptop") -> None:
    # What comes next must not overtake the form that the script sends.
    async with page.expect_event("load"):
        await ask_for_passkey(page, label)


async def log_in_by_passkey(page: Page, site: Site, query: str = "tenant=acme") -> None:
    await page.goto(f"{site.url}/login?{query}")
    await page.get_by_role("button", name="Log in with a passkey").click()


async def log_in_by_password(page: Page, site: Site, name: str, password: str = PASSWORD) -> None:
    await page.goto(f"{site.url}/login?tenant=acme")
    await page.get_by_label("Name").fill(name)
    await page.get_by_label("Password").fill(password)
    await page.get_by_role("button", name="Log in with a password").click()


def events_of(site: Site, name: str) -> list[dict[str, Any]]:
    """What the audit trail has of a person."""
    (subject,) = [user["subject"] for user in site.user("list")["users"] if user["user"] == f"acme/{name}"]
    return [event for event in read_events(site.gateway.audit) if event.get("user") == subject]


def kinds(site: Site, name: str) -> list[str]:
    return [event["kind"] for event in events_of(site, name)]


async def test_a_new_person_sets_a_password_and_a_passkey_and_logs_in_without_a_name(
    site: Site, browser: Browser
) -> None:
    link = site.link("add", "acme/alice0", "--role", "analyst", "--display-name", "Alice Example")
    async with person(browser) as alice:
        await open_link(alice.page, link)
        await set_password(alice.page)
        await create_passkey(alice.page)
        await expect(alice.page.get_by_role("status")).to_have_text("All done.")
        (credential,) = await alice.device.credentials()
        assert (credential["isResidentCredential"], credential["rpId"]) == (True, "localhost")
        await log_in_by_passkey(alice.page, site)
        await expect(alice.page).to_have_url(f"{site.url}/account")
        await expect(alice.page.get_by_role("heading", level=1)).to_have_text("Alice Example")
        await expect(alice.page.get_by_text("by passkey")).to_be_visible()
    (listed,) = [user for user in site.user("list")["users"] if user["user"] == "acme/alice0"]
    assert (listed["password"], listed["passkeys"], listed["last_login_at"] is not None) == (True, 1, True)
    assert [kind for kind in kinds(site, "alice0") if kind in ("passkey.added", "login.succeeded")] == [
        "passkey.added",
        "login.succeeded",
    ]


async def test_a_second_passkey_is_added_and_the_first_removed_after_a_login_by_passkey(
    site: Site, browser: Browser
) -> None:
    link = site.link("add", "acme/alice1")
    async with person(browser) as alice:
        await open_link(alice.page, link)
        await create_passkey(alice.page, "Old laptop")
        await log_in_by_passkey(alice.page, site)
        # Another device, as a second phone would be: the first holds a passkey already, and says so.
        await alice.page.get_by_role("link", name="Add a passkey").click()
        await ask_for_passkey(alice.page, "Twice")
        await expect(alice.page.get_by_role("status")).to_have_text(re.compile("already holds a passkey"))
        first = alice.device
        await first.session.send("WebAuthn.removeVirtualAuthenticator", {"authenticatorId": first.id})
        phone = await add_authenticator(alice.page)
        await create_passkey(alice.page, "New phone")
        await expect(alice.page.get_by_text("New phone")).to_be_visible()
        await alice.page.get_by_role("button", name="Remove Old laptop").click()
        await expect(alice.page.get_by_text("Old laptop")).to_have_count(0)
        await alice.page.get_by_role("button", name="Log out", exact=True).click()
        await log_in_by_passkey(alice.page, site)
        await expect(alice.page).to_have_url(f"{site.url}/account")
        assert len(await phone.credentials()) == 1
    assert kinds(site, "alice1").count("passkey.added") == 2
    assert kinds(site, "alice1").count("passkey.removed") == 1


async def test_a_stolen_password_leads_to_no_passkey(site: Site, browser: Browser) -> None:
    link = site.link("add", "acme/alice2")
    async with AsyncExitStack() as stack:
        alice = await stack.enter_async_context(person(browser))
        await open_link(alice.page, link)
        await set_password(alice.page)
        await create_passkey(alice.page)
        thief = await stack.enter_async_context(person(browser))
        await log_in_by_password(thief.page, site, "alice2")
        await expect(thief.page).to_have_url(f"{site.url}/account")
        await expect(thief.page.get_by_role("link", name="Add a passkey")).to_have_count(0)
        await expect(thief.page.get_by_role("button", name=re.compile("Remove"))).to_have_count(0)
        await thief.page.goto(f"{site.url}/account/passkeys/new")
        await expect(thief.page.get_by_text("login_required")).to_be_visible()
    assert kinds(site, "alice2").count("passkey.added") == 1


async def test_a_device_whose_user_is_not_verified_logs_nobody_in(site: Site, browser: Browser) -> None:
    link = site.link("add", "acme/alice3")
    async with person(browser) as alice:
        await open_link(alice.page, link)
        await create_passkey(alice.page)
        await alice.device.verifies(False)
        await log_in_by_passkey(alice.page, site)
        await expect(alice.page.get_by_role("status")).to_have_text(re.compile("was not used"))
        await alice.device.verifies(True)
        await alice.page.get_by_role("button", name="Log in with a passkey").click()
        await expect(alice.page).to_have_url(f"{site.url}/account")


async def test_a_copied_passkey_is_noticed_by_its_count(site: Site, browser: Browser) -> None:
    link = site.link("add", "acme/alice4")
    async with AsyncExitStack() as stack:
        alice = await stack.enter_async_context(person(browser))
        await open_link(alice.page, link)
        await create_passkey(alice.page)
        (copied,) = await alice.device.credentials()
        for _ in range(2):
            await log_in_by_passkey(alice.page, site, "tenant=acme&again=1")
            await expect(alice.page).to_have_url(f"{site.url}/account")
        thief = await stack.enter_async_context(person(browser))
        await thief.device.put(copied)
        await log_in_by_passkey(thief.page, site)
        await expect(thief.page.get_by_role("alert")).to_have_text("The passkey could not be verified.")
    (refused,) = [event for event in events_of(site, "alice4") if event["kind"] == "login.refused"]
    assert (refused["reason"], refused["detail"]) == ("passkey_refused", "the signature count did not grow")


async def test_a_passkey_of_one_tenant_does_not_log_in_at_another(site: Site, browser: Browser) -> None:
    link = site.link("add", "acme/alice5")
    async with person(browser) as alice:
        await open_link(alice.page, link)
        await create_passkey(alice.page)
        await log_in_by_passkey(alice.page, site, "tenant=globex")
        await expect(alice.page.get_by_role("alert")).to_have_text("The passkey could not be verified.")
        await log_in_by_passkey(alice.page, site, "")
        await expect(alice.page).to_have_url(f"{site.url}/account")


async def test_disabling_a_person_ends_their_login_at_the_next_request(site: Site, browser: Browser) -> None:
    link = site.link("add", "acme/alice6")
    async with person(browser) as alice:
        await open_link(alice.page, link)
        await create_passkey(alice.page)
        await log_in_by_passkey(alice.page, site)
        await expect(alice.page).to_have_url(f"{site.url}/account")
        site.user("disable", "acme/alice6")
        await alice.page.reload()
        await expect(alice.page).to_have_url(re.compile(r"/login\?to="))
        await log_in_by_passkey(alice.page, site)
        await expect(alice.page.get_by_role("alert")).to_be_visible()


@pytest.mark.parametrize("javascript", [True, False])
async def test_a_password_needs_no_javascript(site: Site, browser: Browser, javascript: bool) -> None:
    name = f"script-{javascript}"
    link = site.link("add", f"acme/{name}")
    context = await browser.new_context(java_script_enabled=javascript)
    page = await context.new_page()
    await page.goto(link)
    if not javascript:
        await page.get_by_label("Code from your link").fill(link.partition("#")[2])
    await page.get_by_role("button", name="Continue").click()
    await set_password(page)
    await log_in_by_password(page, site, name)
    await expect(page).to_have_url(f"{site.url}/account")
    await page.get_by_role("button", name="Log out", exact=True).click()
    await expect(page).to_have_url(re.compile(r"/login\?to="))


async def test_a_link_works_once_and_looking_at_it_does_not_use_it_up(site: Site, browser: Browser) -> None:
    link = site.link("add", "acme/alice9")
    async with person(browser) as alice:
        for page in ("about:blank", f"{site.url}/link"):
            await alice.page.goto(page)
            await alice.page.goto(link)
            await expect(alice.page).to_have_url(f"{site.url}/link")
        await alice.page.get_by_role("button", name="Continue").click()
        await expect(alice.page).to_have_url(f"{site.url}/setup")
        await open_link(alice.page, link)
        await expect(alice.page.get_by_text("link_invalid")).to_be_visible()
    secret = link.partition("#")[2]
    everywhere = "".join(site.gateway.log) + "".join(path.read_text() for path in site.gateway.audit.glob("*.jsonl"))
    assert secret not in everywhere
