"""Logins, what a person's page shows and does, and passwords as they are kept."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator
from pathlib import Path

import argon2
import pytest

from peoplelab import CHEAP, LOGIN_LIFETIME, PASSWORD, PeopleLab, open_people_lab
from tokenlab import FILES
from twogate.adapters.passwords import Argon2Hasher
from twogate.core.audit.record import EventKind
from twogate.core.principal import PUBLIC_CLIENT, AgentId
from twogate.flows.authserver.clients import Client, ClientAuth, ClientKind, ClientSource
from twogate.flows.authserver.families import Family
from twogate.flows.authserver.grant import Authorization
from twogate.flows.authserver.links import LinkPurpose
from twogate.flows.authserver.lockout import Counter, network_of
from twogate.flows.authserver.logins import Login, is_local_target
from twogate.flows.authserver.passwords import Passwords
from twogate.flows.authserver.people import User
from twogate.stores.sql.grants import SqlGrantStore


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncGenerator[PeopleLab]:
    async with open_people_lab(tmp_path) as made:
        yield made


async def test_a_login_is_one_of_its_tenant_and_found_by_its_cookie_alone(lab: PeopleLab) -> None:
    user, now = await lab.person(), lab.lab.clock.now()
    login = Login("acme", user.subject, "upstream", now, "grant", now + 60)
    cookie = await lab.logins.begin(login, now)
    assert await lab.logins.current(cookie, "acme", now) == login
    assert await lab.logins.current(cookie, None, now) == login
    assert await lab.logins.current(cookie, "globex", now) is None
    for other in (None, "", cookie[:-1], cookie + "A", "A" * 43, cookie.swapcase(), "ä" * 43):
        assert await lab.logins.current(other, "acme", now) is None


async def test_a_login_ends_with_what_it_came_from(lab: PeopleLab) -> None:
    user, now = await lab.person(), lab.lab.clock.now()
    short = await lab.logins.begin(Login("acme", user.subject, "upstream", now, "grant", now + 60), now)
    whole = await lab.logins.begin(Login("acme", user.subject, "upstream", now, "grant", now + 10**9), now)
    assert await lab.logins.current(short, "acme", now + 59) is not None
    assert await lab.logins.current(short, "acme", now + 60) is None
    assert await lab.logins.current(whole, "acme", now + LOGIN_LIFETIME - 1) is not None
    assert await lab.logins.current(whole, "acme", now + LOGIN_LIFETIME) is None


def test_only_our_own_pages_are_local_targets() -> None:
    handle = "A-_" + "b" * 40
    for good in ("/account", "/device", f"/authorize/consent?request={handle}"):
        assert is_local_target(good)
        for bad in (f"{good}\n", f" {good}", f"{good}/", f"/{good}", good.upper(), f"https://a.example{good}"):
            assert not is_local_target(bad)


async def test_logging_in_leads_to_the_page_and_again_asks_again(lab: PeopleLab) -> None:
    await lab.person()
    browser = lab.browser()
    await browser.log_in()
    assert (await browser.get("/login?tenant=acme&to=%2Fdevice")).headers["location"] == "/device"
    # Somebody of another tenant has to log in.
    assert (await browser.get("/login?tenant=globex&to=%2Fdevice")).status_code == 200
    page = await browser.get("/login?tenant=acme&to=%2Fdevice&again=1")
    assert 'name="again" value="1"' in page.text
    before = await lab.logins.current(browser.login, "acme", lab.lab.clock.now())
    lab.lab.clock.seconds += 5
    await browser.log_in()
    after = await lab.logins.current(browser.login, "acme", lab.lab.clock.now())
    assert before is not None
    assert after is not None
    assert after.authenticated_at == before.authenticated_at + 5


async def test_the_page_names_no_tenant_that_nobody_named(lab: PeopleLab) -> None:
    page = await lab.browser().get("/login")
    assert '<label for="tenant">' in page.text
    assert "acme" not in page.text


class TestHashes:
    async def test_a_hash_with_old_parameters_is_replaced_at_the_next_login(self, lab: PeopleLab) -> None:
        user = await lab.person()
        before = await lab.store.password_hash("acme", user.subject)
        stronger = dataclasses.replace(CHEAP, time_cost=2)
        passwords = Passwords(lab.store, Argon2Hasher(stronger))
        assert await passwords.verify(user, "wrong") is False
        assert await lab.store.password_hash("acme", user.subject) == before
        assert await passwords.verify(user, PASSWORD) is True
        after = await lab.store.password_hash("acme", user.subject)
        assert argon2.extract_parameters(after) == stronger
        assert await passwords.verify(user, PASSWORD) is True
        assert await lab.store.password_hash("acme", user.subject) == after

    async def test_only_a_good_password_is_kept(self, lab: PeopleLab) -> None:
        user = await lab.person()
        with pytest.raises(ValueError, match="at least 12"):
            await lab.passwords.set(user, "short")
        assert await lab.passwords.verify(user, PASSWORD) is True

    async def test_a_password_is_the_same_however_it_is_encoded(self, lab: PeopleLab) -> None:
        user = await lab.person(password="caf\u00e9 au lait, tous les jours")
        assert await lab.passwords.verify(user, "cafe\u0301 au lait, tous les jours") is True


async def give_access(lab: PeopleLab, user: User, client_id: str = "desk", *, consent: bool = True) -> str:
    """Let a client have a grant of the person, and perhaps a consent."""
    now = lab.lab.clock.now()
    client = await lab.lab.clients.get(client_id)
    if client is None:
        agent = AgentId("acme", PUBLIC_CLIENT)
        client = Client(
            client_id,
            "acme",
            agent,
            ClientAuth.NONE,
            kind=ClientKind.PUBLIC,
            name="Desk <b>",
            redirect_uris=("https://desk.example/cb",),
            source=ClientSource.ADDED if client_id == "desk" else ClientSource.REGISTERED,
        )
        await lab.lab.clients.add(client, None, (), now)
    authorization = Authorization("acme", client_id, FILES, ("reports",), user=user.subject, task="review")
    family = Family(f"{client_id}-{user.subject}", authorization, f"{client_id}{user.subject}", "", now, now, now + 600)
    await SqlGrantStore(lab.lab.engine).add(family, now)
    if consent:
        await lab.consents.remember(client, user.subject, FILES, "review", ("reports", "admin"), now)
    return family.id


async def test_the_account_page_shows_who_has_access_and_takes_it_back(lab: PeopleLab) -> None:
    alice, bob = await lab.person(), await lab.person("bob")
    grant, bobs = await give_access(lab, alice), await give_access(lab, bob)
    browser = lab.browser()
    await browser.log_in()
    page = (await browser.get("/account")).text
    assert "Desk &lt;b&gt;" in page
    assert FILES in page
    assert "review" in page
    assert "admin, reports" in page
    assert (await browser.post("/account/access/withdraw", client_id="desk")).status_code == 303
    assert "Desk" not in (await browser.get("/account")).text
    store, now = SqlGrantStore(lab.lab.engine), lab.lab.clock.now()
    families = [await store.get(one) for one in (grant, bobs)]
    assert [family is not None and family.is_alive(now) for family in families] == [False, True]
    assert await lab.consents.list_for_user("acme", alice.subject) == []
    assert len(await lab.consents.list_for_user("acme", bob.subject)) == 1
    withdrawn = lab.events(EventKind.CONSENT_WITHDRAWN, EventKind.GRANT_REVOKED)
    assert [event.user for event in withdrawn] == [alice.subject] * 2


async def test_a_consent_without_a_grant_is_shown_and_taken_back_too(lab: PeopleLab) -> None:
    alice = await lab.person()
    await give_access(lab, alice)
    lab.lab.clock.seconds += 600
    browser = lab.browser()
    await browser.log_in()
    assert "without asking" in (await browser.get("/account")).text
    await browser.post("/account/access/withdraw", client_id="desk")
    assert await lab.consents.list_for_user("acme", alice.subject) == []


async def test_a_client_that_registered_itself_is_not_known_by_its_name_alone(lab: PeopleLab) -> None:
    await give_access(lab, await lab.person(), "dcr-123")
    browser = lab.browser()
    await browser.log_in()
    assert "Desk &lt;b&gt; (dcr-123)" in (await browser.get("/account")).text


async def test_a_password_link_logs_every_browser_out(lab: PeopleLab) -> None:
    user = await lab.person()
    thief, owner = lab.browser(), lab.browser()
    await thief.log_in()
    link, _ = await lab.admin.link(user, LinkPurpose.PASSWORD)
    await owner.open_link(link)
    await owner.set_password("purple monkey dishwasher")
    assert (await thief.get("/account")).status_code == 303


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"password": "short", "password_again": "short"}, "at least 12"),
        ({"password": "purple monkey dishwasher", "password_again": "purple monkey"}, "differ"),
        ({"password": "my name is alice, hello", "password_again": "my name is alice, hello"}, "holds your name"),
    ],
)
async def test_what_is_wrong_with_a_new_password_is_told_and_the_old_one_stays(
    lab: PeopleLab, fields: dict[str, str], told: str
) -> None:
    await lab.person()
    browser = lab.browser()
    await browser.log_in()
    await browser.get("/account")
    answer = await browser.post("/account/password", old_password=PASSWORD, **fields)
    assert (answer.status_code, told in answer.text) == (400, True)
    _, link = await lab.add("hello")
    await browser.open_link(link)
    answer = await browser.post("/setup/password", **fields)
    assert (answer.status_code, told in answer.text) == (400, True)
    assert (await browser.log_in()).status_code == 303


def test_waits_double_up_to_their_cap() -> None:
    counter = Counter("x", 5, 300)
    assert [counter.wait_after(failures) for failures in (0, 5, 6, 7, 13, 14, 10**6)] == [0, 0, 2, 4, 256, 300, 300]
    assert Counter("x", 5, 0).wait_after(100) == 0


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unix", "unix"),
        ("", ""),
    ],
)
def test_failures_are_counted_by_network(address: str, network: str) -> None:
    assert network_of(address) == network
