"""What a hostile review of the pages for people and of clients tried, and had not been tried before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from urllib.parse import quote

import pytest

from authlab import AuthLab, answer, open_auth_lab
from peoplelab import CHEAP, PASSWORD, PeopleLab, field_of, open_people_lab
from softkey import b64
from tokenlab import FILES
from twogate.adapters.passwords import Argon2Hasher
from twogate.core.audit.record import EventKind
from twogate.stores.sql.users import SqlUserStore

THIEF = "198.51.100.66"
NEW_PASSWORD = "another fine password"


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncGenerator[PeopleLab]:
    async with open_people_lab(tmp_path) as made:
        yield made


class StoppingHasher(Argon2Hasher):
    """The real one, which stops after its first verification until it may go on."""

    def __init__(self) -> None:
        super().__init__(CHEAP)
        self._stops = True
        self.verified, self.goes_on = asyncio.Event(), asyncio.Event()

    async def verify(self, known: str, password: str) -> bool:
        right = await super().verify(known, password)
        if self._stops:
            self._stops = False
            self.verified.set()
            await self.goes_on.wait()
        return right


def stop_at_the_next_password(lab: PeopleLab) -> StoppingHasher:
    hasher = lab.passwords._hasher = StoppingHasher()
    return hasher


# A thief who has the password or a passkey, while the owner takes it away.


async def test_a_login_by_the_old_password_does_not_outlive_its_replacement(lab: PeopleLab) -> None:
    # Verified before it was replaced, and begun after every login had been ended.
    alice, thief = await lab.person(), lab.browser(THIEF)
    await thief.get("/login?tenant=acme")
    hasher = stop_at_the_next_password(lab)
    under_way = asyncio.create_task(thief.post("/login", tenant="acme", name="alice", password=PASSWORD))
    await hasher.verified.wait()
    await lab.admin.set_password(alice, NEW_PASSWORD)
    hasher.goes_on.set()
    assert (await under_way).status_code == 401
    assert thief.login is None
    assert (await lab.browser().log_in(password=NEW_PASSWORD)).status_code == 303


async def test_a_change_by_the_old_password_does_not_undo_its_replacement(lab: PeopleLab) -> None:
    alice, thief = await lab.person(), lab.browser(THIEF)
    await thief.log_in()
    await thief.get("/account")
    hasher = stop_at_the_next_password(lab)
    fields = {"old_password": PASSWORD, "password": "the thief's password", "password_again": "the thief's password"}
    under_way = asyncio.create_task(thief.post("/account/password", **fields))
    await hasher.verified.wait()
    await lab.admin.set_password(alice, NEW_PASSWORD)
    hasher.goes_on.set()
    await under_way
    assert await lab.passwords.verify(alice, "the thief's password") is False
    assert await lab.passwords.verify(alice, NEW_PASSWORD) is True


async def test_a_password_whose_hash_is_made_anew_at_the_login_still_logs_in(tmp_path: Path) -> None:
    async with open_people_lab(tmp_path) as lab:
        alice = await lab.person()
        before = await lab.store.password_hash("acme", alice.subject)
        lab.passwords._hasher = Argon2Hasher()
        browser = lab.browser()
        assert (await browser.log_in()).status_code == 303
        assert await lab.store.password_hash("acme", alice.subject) != before
        assert (await browser.get("/account")).status_code == 200


async def test_removing_a_passkey_ends_the_logins_that_its_thief_has(lab: PeopleLab) -> None:
    alice = await lab.person()
    lost, kept = await lab.with_passkey(alice), await lab.with_passkey(alice)
    thief, owner = lab.browser(THIEF), lab.browser()
    await thief.log_in_by(lost)
    await thief.get("/account/passkeys/new")
    await owner.log_in_by(kept)
    await owner.get("/account")
    assert (await owner.post("/account/passkeys/remove", credential_id=b64(lost.id))).status_code == 303
    # A login by passkey may enrol another for five minutes.
    assert (await thief.enrol(lab.key())).headers["location"].startswith("/login")
    assert [one.credential_id for one in await lab.passkey_store.list("acme", alice.subject)] == [b64(kept.id)]
    assert (await owner.get("/account")).status_code == 200


# What somebody agreed to once.


async def test_who_was_locked_out_is_asked_anew_when_let_in_again(tmp_path: Path) -> None:
    async with open_auth_lab(tmp_path) as lab:
        await lab.log_in(lab.alice)
        await lab.code()
        assert "code" in answer(await lab.authorize())
        store, now = SqlUserStore(lab.lab.engine), lab.lab.clock.now()
        await store.disable("acme", lab.alice.subject, now + 3600, now)
        await store.enable("acme", lab.alice.subject)
        await lab.log_in(lab.alice)
        page = await lab.consent(await lab.authorize())
        assert page.status_code == 200
        assert "Allow" in page.text


async def test_equal_names_in_two_tenants_share_nothing(tmp_path: Path) -> None:
    async with open_auth_lab(tmp_path) as lab:
        await lab.log_in(lab.carol)
        # Her browser is logged in, but not where the client is from.
        assert "/login?" in (await lab.authorize()).headers["location"]
        now = lab.lab.clock.now()
        client = await lab.lab.directory.find("web", now)
        assert client is not None
        await lab.consents.remember(client, lab.carol.subject, FILES, None, (), now)
        assert "/login?" in (await lab.authorize()).headers["location"]


async def test_taking_access_back_from_what_is_no_client_writes_nothing(lab: PeopleLab) -> None:
    await lab.person()
    browser = lab.browser()
    await browser.log_in()
    await browser.get("/account")
    before = len(lab.lab.audit.events)
    assert (await browser.post("/account/access/withdraw", client_id="words" * 1000)).status_code == 303
    assert len(lab.lab.audit.events) == before
    assert lab.events(EventKind.CONSENT_WITHDRAWN) == []


# Words of an attacker on our pages.


@pytest.mark.parametrize("tenant", ["Your account is locked. Call 555-0100", "acme\u202e", "<b>acme</b>", "a" * 64, " "])
async def test_a_link_to_the_login_page_cannot_make_it_say_anything(lab: PeopleLab, tenant: str) -> None:
    page = await lab.browser().get(f"/login?tenant={quote(tenant)}")
    assert "<h1>Log in</h1>" in page.text
    assert field_of(page, "tenant") == ""
    browser = lab.browser()
    await browser.get("/login")
    again = await browser.post("/login", tenant=tenant, name="alice", password=PASSWORD)
    assert (again.status_code, "<h1>Log in</h1>" in again.text) == (401, True)
