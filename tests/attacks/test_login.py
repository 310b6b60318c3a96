"""Getting in as somebody else, keeping somebody out, and using the login page against its visitors."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from peoplelab import ADDRESS, CHEAP, LOGIN_LIFETIME, PASSWORD, Browser, PeopleLab, open_people_lab
from softkey import UP, UV, SoftKey
from tokenlab import ISSUER
from twogate.adapters.passwords import Argon2Hasher
from twogate.core.audit.record import EventKind
from twogate.flows.authserver.lockout import (
    ADDRESS_TRIES,
    ATTACKED_AFTER,
    FREE_TRIES,
    KNOWN_TRIES,
    LONGEST_WAIT,
)
from twogate.flows.authserver.passwords import Passwords

STRANGER = "198.51.100.66"
HANDLE = "A" * 43


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncGenerator[PeopleLab]:
    async with open_people_lab(tmp_path) as made:
        yield made


async def fail(browser: Browser, times: int, name: str = "alice", tenant: str = "acme") -> int:
    """Guess so many times; the last status."""
    status = 0
    await browser.get("/login?again=1")
    for number in range(times):
        status = (await browser.post("/login", tenant=tenant, name=name, password=f"guess number {number}")).status_code
    return status


def everything_in(directory: Path) -> bytes:
    """The database and its log."""
    return b"".join(path.read_bytes() for path in directory.glob("twogate.db*"))


def without_values(page: str) -> str:
    """A page without what differs for every visitor."""
    return re.sub(r'(name="form_token" value|name="name" value|data-options)="[^"]*"', r"\1", page)


# Who exists.


async def test_a_wrong_password_an_unknown_name_and_an_unknown_tenant_look_the_same(lab: PeopleLab) -> None:
    await lab.person()
    await lab.add("bob")  # has no password yet
    disabled = await lab.person("carol")
    await lab.admin.disable(disabled)
    await lab.users.upstream_user("https://idp.example", "1", "acme", "ida", "Ida", (), 0)
    pages = set()
    for tenant, name in (
        ("acme", "alice"),
        ("acme", "nobody"),
        ("acme", "bob"),
        ("acme", "carol"),
        ("acme", "ida"),
        ("acme", "no name at all"),
        ("globex", "alice"),
    ):
        answer = await lab.browser().log_in(name, "not the password", tenant)
        pages.add((answer.status_code, without_values(answer.text).replace("globex", "acme")))
    assert len(pages) == 1
    assert {status for status, _ in pages} == {401}
    answer = await lab.browser().log_in("alice", "not the password", "initech")
    assert (401, without_values(answer.text).replace("initech", "acme")) in pages


async def test_the_same_work_is_done_for_nobody_as_for_somebody(lab: PeopleLab) -> None:
    class Counting(Argon2Hasher):
        hashed = 0

        async def verify(self, known: str, password: str) -> bool:
            self.hashed += 1
            return await super().verify(known, password)

    user, hasher = await lab.person(), Counting(CHEAP)
    passwords = Passwords(lab.store, hasher)
    for number, (who, typed, right) in enumerate(
        ((user, PASSWORD, True), (user, "wrong", False), (None, PASSWORD, False)), start=1
    ):
        assert await passwords.verify(who, typed) is right
        assert hasher.hashed == number


async def test_no_password_is_nobodys_not_even_the_one_that_stands_for_nobody(lab: PeopleLab) -> None:
    user, _ = await lab.add()
    for typed in ("", "nobody", PASSWORD):
        assert await lab.passwords.verify(user, typed) is False
        assert await lab.passwords.verify(None, typed) is False


async def test_the_login_page_of_an_unknown_tenant_is_that_of_a_known_one(lab: PeopleLab) -> None:
    known, unknown = await lab.browser().get("/login?tenant=acme"), await lab.browser().get("/login?tenant=zzzz")
    assert without_values(unknown.text).replace("zzzz", "acme") == without_values(known.text)
    assert (known.status_code, unknown.status_code) == (200, 200)


# Guessing, and locking out.


async def test_guessing_costs_ever_more_time_up_to_a_cap(lab: PeopleLab) -> None:
    await lab.person()
    thief = lab.browser(STRANGER)
    assert await fail(thief, FREE_TRIES) == 401
    # The right password is not even looked at meanwhile.
    waits = []
    for _ in range(12):
        assert (await thief.log_in(password="guess after guess")).status_code == 401
        locked = await thief.log_in()
        assert locked.status_code == 429
        waits.append(int(locked.headers["retry-after"]))
        lab.lab.clock.seconds += waits[-1]
    assert waits[:4] == [2, 4, 8, 16]
    assert waits[-1] == LONGEST_WAIT
    assert (await thief.log_in()).status_code == 303


async def test_guesses_made_all_at_once_are_counted_one_by_one(lab: PeopleLab) -> None:
    await lab.person()
    browsers = [lab.browser(STRANGER) for _ in range(30)]
    answers = await asyncio.gather(*(browser.log_in(password="one of thirty") for browser in browsers))
    looked_at = [answer for answer in answers if answer.status_code == 401]
    # One more than are free, because the wait begins with the failure that exceeds them.
    assert len(looked_at) <= FREE_TRIES + 1


async def test_a_stranger_cannot_lock_the_owner_out_of_a_browser_that_knows_them(lab: PeopleLab) -> None:
    await lab.person()
    owner = lab.browser()
    assert (await owner.log_in()).status_code == 303
    # From the owner's own address, behind the same gateway, and from elsewhere.
    for address in (ADDRESS, STRANGER, "192.0.2.77"):
        assert await fail(lab.browser(address), KNOWN_TRIES + 8) == 429
    assert (await owner.log_in()).status_code == 303


async def test_a_stranger_elsewhere_cannot_lock_the_owner_out_of_any_browser(lab: PeopleLab) -> None:
    await lab.person()
    for number in range(30):
        await fail(lab.browser(f"198.51.100.{number}"), FREE_TRIES + 2)
    # A browser and an address that nobody has seen before: one try is always free.
    assert (await lab.browser("192.0.2.1").log_in()).status_code == 303
    assert (await lab.browser("192.0.2.1").log_in()).status_code == 303


async def test_while_a_person_is_attacked_from_everywhere_new_addresses_have_fewer_tries(lab: PeopleLab) -> None:
    await lab.person()
    assert FREE_TRIES > 1
    for number in range(ATTACKED_AFTER // FREE_TRIES):
        assert await fail(lab.browser(f"198.51.100.{number}"), FREE_TRIES) == 401
    newcomer = lab.browser("192.0.2.1")
    assert await fail(newcomer, 2) == 401
    assert (await newcomer.log_in()).status_code == 429


async def test_an_address_that_tries_one_password_on_many_people_must_wait(lab: PeopleLab) -> None:
    await lab.person()
    owner = lab.browser(STRANGER)
    await owner.log_in()
    thief = lab.browser(STRANGER)
    await thief.get("/login?again=1")
    for number in range(ADDRESS_TRIES + 1):
        await thief.post("/login", tenant="acme", name=f"person-{number}", password="Winter 2026 is near")
    answer = await thief.post("/login", tenant="acme", name="somebody-else", password="Winter 2026 is near")
    assert answer.status_code == 429
    assert (await owner.log_in()).status_code == 303


async def test_an_own_account_does_not_buy_guesses_at_anothers(lab: PeopleLab) -> None:
    await lab.person()
    await lab.person("mallory")
    thief = lab.browser(STRANGER)
    for _ in range(FREE_TRIES + 1):
        await fail(thief, 1)
        assert (await thief.log_in("mallory")).status_code == 303
    assert (await thief.log_in()).status_code == 429


@pytest.mark.parametrize("name", ["ALICE", " alice ", "ａｌｉｃｅ"])
async def test_another_spelling_of_a_name_has_no_tries_of_its_own(lab: PeopleLab, name: str) -> None:
    await lab.person()
    thief = lab.browser(STRANGER)
    assert await fail(thief, FREE_TRIES + 2) == 429
    assert await fail(thief, 1, name) == 429
    assert (await lab.browser().log_in(name)).status_code == 303


async def test_addresses_of_one_ipv6_network_are_one(lab: PeopleLab) -> None:
    await lab.person()
    for number in range(FREE_TRIES + 1):
        assert await fail(lab.browser(f"2001:db8:1:2::{number}"), 1) == 401
    assert (await lab.browser("2001:db8:1:2:ffff::1").log_in()).status_code == 429
    assert (await lab.browser("2001:db8:1:3::1").log_in()).status_code == 303


async def test_passkeys_are_never_locked(lab: PeopleLab) -> None:
    key = await lab.with_passkey(await lab.person())
    assert await fail(lab.browser(STRANGER), FREE_TRIES + 3) == 429
    assert (await lab.browser(STRANGER).log_in_by(key)).status_code == 303


async def test_a_made_up_device_cookie_gives_no_tries(lab: PeopleLab) -> None:
    await lab.person()
    thief = lab.browser(STRANGER)
    for number in range(FREE_TRIES + 1):
        made_up = f"{number:043d}"
        thief.http.cookies.set("__Host-twogate-device-known", made_up, domain="mcp.example.com", path="/")
        assert await fail(thief, 1) == 401
    assert await fail(thief, 1) == 429


async def test_the_old_password_of_a_stolen_session_is_not_guessed_for_long(lab: PeopleLab) -> None:
    await lab.person()
    thief = lab.browser()
    await thief.log_in()
    await thief.get("/account")
    new = {"password": "purple monkey dishwasher", "password_again": "purple monkey dishwasher"}
    statuses = [
        (await thief.post("/account/password", old_password=f"guess number {number}", **new)).status_code
        for number in range(FREE_TRIES + 2)
    ]
    assert statuses == [401] * (FREE_TRIES + 1) + [429]
    assert (await thief.post("/account/password", old_password=PASSWORD, **new)).status_code == 429


async def test_failures_and_waits_are_on_the_trail_without_what_was_typed(lab: PeopleLab) -> None:
    user = await lab.person()
    await fail(lab.browser(STRANGER), FREE_TRIES + 2)
    await fail(lab.browser(), 1, "my password is hunter2")
    refused = lab.events(EventKind.LOGIN_REFUSED)
    assert [event.reason for event in refused] == ["login_refused"] * 6 + ["login_locked", "login_refused"]
    assert {(event.tenant, event.user, event.address) for event in refused[:-1]} == {("acme", user.subject, STRANGER)}
    assert (refused[-1].user, refused[-1].detail) == ("", "unknown name")
    trail = msgspec.json.encode(lab.lab.audit.events).decode()
    assert "guess number" not in trail
    assert "hunter2" not in trail


# Sessions.


async def test_a_login_gets_a_new_cookie_and_the_one_before_stands_for_nothing(lab: PeopleLab) -> None:
    await lab.person()
    browser = lab.browser()
    browser.http.cookies.set("__Host-twogate-login", HANDLE, domain="mcp.example.com", path="/")
    await browser.log_in()
    first = browser.login
    assert first not in (None, HANDLE)
    await browser.log_in()
    now = lab.lab.clock.now()
    assert browser.login != first
    assert await lab.logins.current(first, "acme", now) is None
    assert await lab.logins.current(browser.login, "acme", now) is not None


async def test_the_store_has_digests_of_cookies_only(lab: PeopleLab, tmp_path: Path) -> None:
    await lab.person()
    browser = lab.browser()
    await browser.log_in()
    written = everything_in(tmp_path)
    cookies = list(browser.http.cookies.items())
    assert {name for name, _ in cookies} == {
        "__Host-twogate-browser",
        "__Host-twogate-login",
        "__Host-twogate-device-known",
    }
    assert [name for name, value in cookies if value.encode() in written] == []
    assert PASSWORD.encode() not in written


async def test_cookies_are_for_this_host_over_https_and_out_of_reach_of_scripts(lab: PeopleLab) -> None:
    await lab.person()
    answer = await lab.browser().log_in()
    set_cookies = answer.headers.get_list("set-cookie")
    assert len(set_cookies) == 2
    for cookie in set_cookies:
        assert cookie.startswith("__Host-")
        assert {"HttpOnly", "Secure", "SameSite=lax", "Path=/"} <= set(cookie.split("; "))
        assert "Domain" not in cookie


async def test_a_login_ends_by_itself_and_when_its_person_is_disabled(lab: PeopleLab) -> None:
    user = await lab.person()
    browser = lab.browser()
    await browser.log_in()
    lab.lab.clock.seconds += LOGIN_LIFETIME - 1
    assert (await browser.get("/account")).status_code == 200
    lab.lab.clock.seconds += 1
    assert (await browser.get("/account")).status_code == 303
    await browser.log_in()
    assert (await browser.get("/account")).status_code == 200
    await lab.admin.disable(user)
    assert (await browser.get("/account")).status_code == 303
    await lab.admin.enable(user)
    assert (await browser.get("/account")).status_code == 303


async def test_logging_out_ends_the_login_itself_and_not_only_the_cookie(lab: PeopleLab) -> None:
    await lab.person()
    browser = lab.browser()
    await browser.log_in()
    cookie = browser.login
    await browser.get("/account")
    assert (await browser.http.get("/logout")).status_code == 405
    assert (await browser.post("/logout")).status_code == 303
    assert await lab.logins.current(cookie, "acme", lab.lab.clock.now()) is None
    assert [event.method for event in lab.events(EventKind.LOGOUT)] == ["password"]


async def test_a_new_password_logs_other_browsers_out(lab: PeopleLab) -> None:
    await lab.person()
    one, other = lab.browser(), lab.browser()
    await one.log_in()
    await other.log_in()
    await one.get("/account")
    new = "purple monkey dishwasher"
    changed = await one.post("/account/password", old_password=PASSWORD, password=new, password_again=new)
    assert (changed.status_code, "is changed" in changed.text) == (200, True)
    assert (await one.get("/account")).status_code == 200
    assert (await other.get("/account")).status_code == 303
    assert (await lab.browser().log_in(password=PASSWORD)).status_code == 401
    assert (await lab.browser().log_in(password=new)).status_code == 303


async def test_logging_out_everywhere_leaves_no_login(lab: PeopleLab) -> None:
    await lab.person()
    browsers = [lab.browser() for _ in range(3)]
    for browser in browsers:
        await browser.log_in()
    await browsers[0].get("/account")
    assert (await browsers[0].post("/account/logout-everywhere")).status_code == 303
    for browser in browsers:
        assert (await browser.get("/account")).status_code == 303


# Other sites.


@pytest.mark.parametrize("path", ["/login", "/login/passkey", "/logout", "/link", "/setup/password", "/setup/passkey"])
@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({"Origin": "https://evil.example"}, True),
        ({"Origin": "null"}, True),
        ({"Origin": f"{ISSUER}:444"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, True),
        ({"Sec-Fetch-Site": "same-site"}, True),
        ({}, False),
    ],
)
async def test_a_form_of_another_site_does_nothing(
    lab: PeopleLab, path: str, headers: dict[str, str], token: bool
) -> None:
    await lab.person()
    browser = lab.browser()
    await browser.get("/login?tenant=acme")
    value = re.search(r'name="form_token" value="([^"]*)"', browser.page.text if browser.page else "")
    assert value is not None
    form = {"tenant": "acme", "name": "alice", "password": PASSWORD, "form_token": value[1] if token else "x"}
    answer = await browser.http.post(path, data=form, headers=headers)
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    assert lab.events(EventKind.LOGIN_SUCCEEDED, EventKind.LOGIN_REFUSED) == []


async def test_a_form_value_of_one_browser_is_worth_nothing_in_another(lab: PeopleLab) -> None:
    # Login CSRF: else a visitor could be logged in as the attacker without noticing.
    await lab.person("mallory")
    mallory, victim = lab.browser(STRANGER), lab.browser()
    await mallory.get("/login?tenant=acme")
    await victim.get("/login?tenant=acme")
    victim.page = mallory.page
    answer = await victim.post("/login", tenant="acme", name="mallory", password=PASSWORD)
    assert (answer.status_code, victim.login) == (403, None)


@pytest.mark.parametrize(
    "to",
    [
        "https://evil.example/",
        "//evil.example/account",
        "/\\evil.example",
        "/account/../authorize",
        "/account?x=1",
        "/account#x",
        "/account/password",
        "/account\r\nSet-Cookie: a=b",
        "account",
        "/",
        "javascript:alert(1)",
        "/authorize/consent",
        f"/authorize/consent?request={HANDLE}&x=1",
        f"/authorize/consent?request={HANDLE}A",
        "/authorize/consent?request=" + "A" * 42 + "\n",
        f"/device?request={HANDLE}",
    ],
)
async def test_a_login_leads_nowhere_but_to_our_own_pages(lab: PeopleLab, to: str) -> None:
    await lab.person()
    browser = lab.browser()
    answer = await browser.log_in(to=to)
    assert (answer.status_code, answer.headers["location"]) == (303, "/account")
    # Logged in already: the page itself must not lead away either.
    answer = await browser.http.get("/login", params={"tenant": "acme", "to": to})
    assert (answer.status_code, answer.headers["location"]) == (303, "/account")


@pytest.mark.parametrize("to", ["/account", "/device", f"/authorize/consent?request={HANDLE}"])
async def test_a_login_leads_where_our_pages_want_it(lab: PeopleLab, to: str) -> None:
    await lab.person()
    assert (await lab.browser().log_in(to=to)).headers["location"] == to


@pytest.mark.parametrize("path", ["/login?tenant=acme", "/link", "/setup", "/account"])
async def test_no_page_can_be_framed_cached_or_made_to_run_code(lab: PeopleLab, path: str) -> None:
    await lab.person()
    _, link = await lab.add("bob")
    browser = lab.browser()
    await browser.log_in()
    if path == "/setup":
        await browser.open_link(link)
    page = await browser.get(path if path != "/login?tenant=acme" else f"{path}&again=1")
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert {"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"} <= set(
        policy.split("; ")
    )
    assert "unsafe" not in policy
    assert page.headers["cache-control"] == "no-store"
    assert re.search(r"<script(?![^>]*src=\"/assets/)|\son\w+=|style=|javascript:", page.text) is None


@pytest.mark.parametrize("field", ["tenant", "to", "name"])
async def test_what_is_typed_is_shown_as_text(lab: PeopleLab, field: str) -> None:
    markup = '"><script>alert(1)</script>'
    browser = lab.browser()
    page = await browser.http.get("/login", params={field: markup})
    assert "<script>alert" not in page.text
    await browser.get("/login?tenant=acme")
    answer = await browser.post("/login", **{"tenant": "acme", "password": "x", "name": "y", field: markup})
    assert "<script>alert" not in answer.text


# Passkeys at the login page; enrolling has a file of its own.


async def test_an_answer_works_once(lab: PeopleLab) -> None:
    key = await lab.with_passkey(await lab.person(), counts=False)
    browser = lab.browser()
    await browser.get("/login?tenant=acme")
    answer = key.get(browser.options)
    assert (await browser.post("/login/passkey", tenant="acme", credential=answer)).status_code == 303
    replayed = await browser.post("/login/passkey", tenant="acme", credential=answer)
    assert replayed.status_code == 401
    assert lab.events(EventKind.LOGIN_REFUSED)[-1].detail == "the challenge was used before"


async def test_an_answer_sent_many_times_at_once_works_once(lab: PeopleLab) -> None:
    key = await lab.with_passkey(await lab.person(), counts=False)
    browser = lab.browser()
    await browser.get("/login?tenant=acme")
    answer = key.get(browser.options)
    sent = [browser.post("/login/passkey", tenant="acme", credential=answer) for _ in range(10)]
    statuses = [response.status_code for response in await asyncio.gather(*sent)]
    assert sorted(statuses) == [303] + [401] * 9


async def test_an_answer_of_one_browser_does_not_log_another_in(lab: PeopleLab) -> None:
    key = await lab.with_passkey(await lab.person())
    owner, thief = lab.browser(), lab.browser(STRANGER)
    await owner.get("/login?tenant=acme")
    await thief.get("/login?tenant=acme")
    stolen = key.get(owner.options)
    assert (await thief.post("/login/passkey", tenant="acme", credential=stolen)).status_code == 401
    assert (await owner.post("/login/passkey", tenant="acme", credential=stolen)).status_code == 303


@pytest.mark.parametrize(
    "changes",
    [
        {"flags": UP},
        {"flags": UV},
        {"crossOrigin": True},
        {"topOrigin": "https://evil.example"},
        {"type": "webauthn.create"},
        {"origin": "https://evil.example"},
        {"handle": bytes(32)},
        {"handle": b"x"},
    ],
)
async def test_an_answer_that_was_not_made_for_us_logs_nobody_in(lab: PeopleLab, changes: dict[str, Any]) -> None:
    key, browser = await lab.with_passkey(await lab.person()), lab.browser()
    assert (await browser.log_in_by(key, **changes)).status_code == 401
    assert browser.login is None
    assert (await browser.log_in_by(key)).status_code == 303


async def test_a_passkey_must_say_whose_it_is(lab: PeopleLab) -> None:
    key, browser = await lab.with_passkey(await lab.person()), lab.browser()
    key.handle = b""
    assert (await browser.log_in_by(key)).status_code == 401


async def test_another_key_under_the_same_id_logs_nobody_in(lab: PeopleLab) -> None:
    key, browser = await lab.with_passkey(await lab.person()), lab.browser()
    forged = SoftKey(ISSUER, key.rp_id, id=key.id, handle=key.handle, count=key.count)
    assert (await browser.log_in_by(forged)).status_code == 401
    refused = lab.events(EventKind.LOGIN_REFUSED)[-1]
    assert (refused.detail, refused.anomaly) == ("the answer does not verify: InvalidAuthenticationResponse", True)


async def test_a_count_that_goes_back_is_noticed(lab: PeopleLab) -> None:
    key, browser = await lab.with_passkey(await lab.person()), lab.browser()
    await browser.log_in_by(key)
    key.count -= 1
    assert (await browser.log_in_by(key)).status_code == 401
    assert lab.events(EventKind.LOGIN_REFUSED)[-1].detail == "the signature count did not grow"


async def test_a_passkey_that_never_counts_works_again_and_again(lab: PeopleLab) -> None:
    key, browser = await lab.with_passkey(await lab.person(), counts=False), lab.browser()
    for _ in range(3):
        assert (await browser.log_in_by(key)).status_code == 303


async def test_a_passkey_of_a_disabled_person_logs_nobody_in(lab: PeopleLab) -> None:
    user = await lab.person()
    key = await lab.with_passkey(user)
    await lab.admin.disable(user)
    assert (await lab.browser().log_in_by(key)).status_code == 401


# The trail, and bodies without end.


async def test_nobody_is_logged_in_whom_the_trail_does_not_have(lab: PeopleLab) -> None:
    await lab.person()
    browser = lab.browser()
    await browser.get("/login?tenant=acme")
    lab.lab.audit.broken = True
    answer = await browser.post("/login", tenant="acme", name="alice", password=PASSWORD)
    assert (answer.status_code, browser.login) == (503, None)


async def test_bodies_fields_and_names_without_end_are_cut_short(lab: PeopleLab) -> None:
    await lab.person()
    browser = lab.browser()
    await browser.get("/login?tenant=acme")
    assert (await browser.post("/login", tenant="acme", name="a", password="x" * 20_000)).status_code == 413
    await browser.get("/login?tenant=acme")
    answer = await browser.post("/login", tenant="a" * 5000, name="b" * 5000, password="c" * 5000)
    assert (answer.status_code, len(answer.text) < 6000) == (401, True)
    repeated = await browser.http.post("/login", content="name=a&name=b", headers={"Content-Type": "text/plain"})
    assert repeated.status_code == 400


async def test_one_address_does_not_take_every_turn(lab: PeopleLab) -> None:
    await lab.person()
    crowd = [lab.browser(STRANGER) for _ in range(60)]
    owner = lab.browser()
    await owner.get("/login?tenant=acme")
    for browser in crowd:
        await browser.get("/login?tenant=acme")
    tries = [browser.post("/login", tenant="acme", name=f"n{n}", password="x" * 12) for n, browser in enumerate(crowd)]
    *answers, owned = await asyncio.gather(*tries, owner.post("/login", tenant="acme", name="alice", password=PASSWORD))
    assert owned.status_code == 303
    assert {answer.status_code for answer in answers} <= {401, 429}
