"""What a hostile review of the pages for people and of clients tried, and had not been tried before."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from urllib.parse import quote, urlencode

import httpx2
import pytest
from sqlalchemy import func, select

from authlab import answer, open_auth_lab
from harness.stack import free_port, running, settings_for
from harness.upstream import RecordingUpstream
from peoplelab import CHEAP, PASSWORD, PeopleLab, field_of, open_people_lab
from softkey import b64
from tokenlab import FILES, StepClock
from twogate.adapters.passwords import Argon2Hasher
from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.oauth.client_metadata import check_name
from twogate.core.shown import shown
from twogate.flows.authserver.begin_limit import BURST
from twogate.flows.authserver.user_admin import NewUser
from twogate.people import user_admin
from twogate.stores.sql.tables import authorize_requests
from twogate.stores.sql.users import SqlUserStore
from upstreamlab import TestProvider, open_upstream_lab, rules_for

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


def at_the_next(lab: PeopleLab, kind: EventKind, action: Callable[[], Awaitable[object]]) -> None:
    """Let something happen right after the next event of a kind was written, before what it announces."""
    append, left = lab.lab.audit.append, [action]

    async def interrupted(event: AuditEvent) -> None:
        await append(event)
        if event.kind is kind and left:
            await left.pop()()

    lab.lab.audit.append = interrupted  # type: ignore[method-assign] # the trail is where a request can be stopped


async def test_a_passkey_that_is_removed_in_the_middle_of_a_login_gives_none(lab: PeopleLab) -> None:
    alice = await lab.person()
    lost, kept = await lab.with_passkey(alice), await lab.with_passkey(alice)
    thief, owner = lab.browser(THIEF), lab.browser()
    await owner.log_in_by(kept)
    await owner.get("/account")
    at_the_next(
        lab,
        EventKind.LOGIN_SUCCEEDED,
        lambda: owner.post("/account/passkeys/remove", credential_id=b64(lost.id)),
    )
    assert (await thief.log_in_by(lost)).status_code == 401
    assert thief.login is None


async def test_a_passkey_that_is_removed_in_the_middle_of_enrolling_another_leaves_none(lab: PeopleLab) -> None:
    alice = await lab.person()
    lost, kept = await lab.with_passkey(alice), await lab.with_passkey(alice)
    thief, owner = lab.browser(THIEF), lab.browser()
    await thief.log_in_by(lost)
    await thief.get("/account/passkeys/new")
    await owner.log_in_by(kept)
    await owner.get("/account")
    at_the_next(
        lab,
        EventKind.PASSKEY_ADDED,
        lambda: owner.post("/account/passkeys/remove", credential_id=b64(lost.id)),
    )
    assert (await thief.enrol(lab.key())).status_code == 400
    assert [one.credential_id for one in await lab.passkey_store.list("acme", alice.subject)] == [b64(kept.id)]


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


async def test_a_person_of_another_tenant_is_not_logged_in_here_whatever_they_agreed_to(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    "tenant", ["Your account is locked. Call 555-0100", "acme\u202e", "<b>acme</b>", "a" * 64, " "]
)
async def test_a_link_to_the_login_page_cannot_make_it_say_anything(lab: PeopleLab, tenant: str) -> None:
    page = await lab.browser().get(f"/login?tenant={quote(tenant)}")
    assert "<h1>Log in</h1>" in page.text
    assert field_of(page, "tenant") == ""
    browser = lab.browser()
    await browser.get("/login")
    again = await browser.post("/login", tenant=tenant, name="alice", password=PASSWORD)
    assert (again.status_code, "<h1>Log in</h1>" in again.text) == (401, True)


async def test_a_registered_client_cannot_open_applications_before_anybody_agreed(tmp_path: Path) -> None:
    async with open_auth_lab(tmp_path) as lab:
        await lab.log_in(lab.alice)
        refused = await lab.authorize("app", resource="https://nowhere.example")
        assert refused.status_code == 400
        assert not {"location", "refresh"} & set(refused.headers)
        # A program that listens here gets its error at once, as before.
        assert answer(await lab.authorize("native", resource="https://nowhere.example"))["error"] == "invalid_target"
        page = await lab.consent(await lab.authorize("app"))
        assert answer(await lab.decide(page, "deny"))["error"] == "access_denied"


INVISIBLE = ("\u3164", "\u115f", "\u2800", "\u034f", "\ufe0f", "\U000e0101")


@pytest.mark.parametrize("char", INVISIBLE)
async def test_nobody_is_called_as_somebody_else_but_for_what_nobody_sees(lab: PeopleLab, char: str) -> None:
    alice, now = await lab.person(), lab.lab.clock.now()
    twin = await lab.users.upstream_user("https://idp.example", "7", "acme", f"alice{char}", "", (), now)
    assert twin.subject != alice.subject
    assert twin.name.startswith("alice~")
    assert (await lab.browser().log_in(name=f"alice{char}")).status_code == 401


@pytest.mark.parametrize("char", INVISIBLE)
def test_a_client_without_a_name_that_is_seen_has_none(char: str) -> None:
    with pytest.raises(ValueError, match="printable"):
        check_name(char * 5)
    assert shown(f"{char}Acme") == f"[U+{ord(char):04X}]Acme"


# Filling the store.


async def test_an_address_cannot_fill_the_store_with_requests_that_wait(tmp_path: Path) -> None:
    async with open_auth_lab(tmp_path) as lab:
        for _ in range(BURST):
            assert "/login?" in (await lab.authorize(state="x" * 1000)).headers["location"]
        refused = answer(await lab.authorize())
        assert refused["error"] == "temporarily_unavailable"
        # A public client's pushed requests are kept too, and anybody can be one.
        assert (await lab.push("spa")).status_code == 429
        assert (await lab.push("web")).status_code == 201
        async with lab.lab.engine.connect() as connection:
            kept = (await connection.execute(select(func.count()).select_from(authorize_requests))).scalar_one()
        assert kept == BURST + 1
        lab.lab.clock.seconds += 1
        assert "/login?" in (await lab.authorize()).headers["location"]
        # Who is asked nothing, keeps nothing.
        lab.lab.clock.seconds += BURST
        await lab.log_in(lab.alice)
        await lab.code()
        for _ in range(BURST + 1):
            assert "code" in answer(await lab.authorize())


async def test_an_address_cannot_fill_the_store_with_logins_at_a_provider(tmp_path: Path) -> None:
    clock = StepClock()
    async with TestProvider(clock) as idp, open_upstream_lab(tmp_path, clock, rules_for(idp)) as lab:
        assert [(await lab.begin()).status_code for _ in range(BURST + 1)] == [200] * BURST + [429]


# Equal ids.


async def test_nobody_has_agreed_to_the_next_client_of_an_id(tmp_path: Path) -> None:
    async with open_auth_lab(tmp_path) as lab:
        await lab.log_in(lab.alice)
        await lab.code()
        now = lab.lab.clock.now()
        client = await lab.lab.directory.find("web", now)
        assert client is not None
        assert await lab.lab.clients.remove("web", [])
        await lab.lab.clients.add(client, None, (), now)
        assert "/authorize/consent" in (await lab.authorize()).headers["location"]


# Anything at all.

WORDS = (
    *("", "\0", "a\0b", "\u202e", "\U0010ffff", "İß" * 100, "a" * 3000, "<b>", "{{7*7}}", "%s", "../..", "//evil", "1"),
    *("-1", "9" * 30, "null", "[]", '{"id":"AA","response":{"clientDataJSON":"e30"}}', "acme", "spa", "none", "code"),
    *("https://app.example/cb", "https://[", "com.example.app:/cb", "allow", "BCDF-GHJK", "A" * 43, "/account"),
    *(
        "login none",
        f"urn:ietf:params:oauth:request_uri:{'A' * 43}",
        f"/authorize/consent?request={'A' * 43}",
        "\r\nX: y",
    ),
)
NAMES = (
    "again authorization_details choice client_id code code_challenge code_challenge_method credential credential_id "
    "decision dpop_jkt error iss label max_age name old_password password password_again person prompt redirect_uri "
    "request request_uri resource response_mode response_type scope secret state tenant to user_code"
)
PAGES = {
    "/authorize": "GET POST",
    "/authorize/consent": "GET POST",
    "/login": "GET HEAD POST",
    "/login/passkey": "POST",
    "/login/upstream/x%00": "POST",
    "/login/callback/x%ff": "GET",
    "/logout": "POST",
    "/link": "GET POST",
    "/setup": "GET",
    "/setup/password": "POST",
    "/setup/passkey": "POST",
    "/account": "GET",
    "/account/password": "POST",
    "/account/passkeys/new": "GET POST",
    "/account/passkeys/remove": "POST",
    "/account/access/withdraw": "POST",
    "/account/logout-everywhere": "POST",
    "/device": "GET POST",
    "/device/decision": "POST",
    "/device_authorization": "POST",
    "/par": "POST",
    "/register": "POST",
    "/register/%00%ff": "GET PUT DELETE",
}
COOKIES = (
    *(
        "browser=é",
        'browser="\\000' + "A" * 40 + '"',
        f"browser={'A' * 43}",
        f"login={'A' * 43}",
        "login=\xff",
        ";;=;=",
    ),
    *(
        "setup=\xff",
        f'device="\\377.\\000"; twogate-browser={"B" * 43}',
        "device-known=\xe9",
        f"device-known={'A' * 43}",
    ),
)


async def test_no_request_whatsoever_makes_a_page_fail(tmp_path: Path, upstream: RecordingUpstream) -> None:
    """Every page with hostile fields, by a person who is logged in; what was drawn stays the same from run to run."""
    settings = settings_for(tmp_path, free_port(), {"files": {"url": upstream.url}}, None)
    settings["agents"] = {"acme/public-client": {"role": "reader", "tasks": ["report"]}}
    redirect_uris = ["https://app.example/cb"]
    settings["clients"] = {"spa": {"tenant": "acme", "kind": "public", "auth": "none", "redirect_uris": redirect_uris}}
    settings["registration"] = {"mode": "open", "tenant": "acme"}
    settings["limits"] = {"requests": 100_000, "burst": 100_000}
    async with running(tmp_path, settings) as stack:
        admin = user_admin(stack.state)
        user, _, _ = await admin.add(NewUser("acme", "alice"))
        await admin.set_password(user, PASSWORD)
        draw = random.Random(7)  # noqa: S311 - the same each time
        token, failed, answered = "", list[object](), Counter[int]()
        good = {
            "client_id": "spa",
            "redirect_uri": redirect_uris[0],
            "response_type": "code",
            "code_challenge": "A" * 43,
            "code_challenge_method": "S256",
            "resource": stack.resource(),
        }
        async with httpx2.AsyncClient(base_url=stack.url, trust_env=False, timeout=20) as browser:
            for number in range(600):
                if not number % 100:
                    page = await browser.get("/login?again=1")
                    token = field_of(page, "form_token")
                    form = {"form_token": token, "tenant": "acme", "name": "alice", "password": PASSWORD}
                    assert (await browser.post("/login", data=form)).status_code == 303
                path = draw.choice(list(PAGES))
                method = draw.choice(PAGES[path].split())
                fields = {draw.choice(NAMES.split()): draw.choice(WORDS) for _ in range(draw.randint(0, 6))}
                if draw.random() < 0.5:
                    fields = {**good, **dict(list(fields.items())[:2])}
                headers, body, query = dict[bytes, bytes](), b"", ""
                if method in ("GET", "HEAD"):
                    query = f"?{urlencode(fields)}"
                elif path.startswith("/register") and draw.random() < 0.8:
                    body, headers[b"content-type"] = json.dumps(fields).encode(), b"application/json"
                else:
                    body = urlencode({**fields, "form_token": token}).encode()
                    headers[b"content-type"] = b"application/x-www-form-urlencoded"
                if draw.random() < 0.1:
                    headers[b"cookie"] = f"twogate-{draw.choice(COOKIES)}".encode("latin-1")
                if path.startswith("/register/"):
                    headers[b"authorization"] = b"Bearer " + b"A" * 43
                response = await browser.request(method, path + query, content=body, headers=headers)
                answered[response.status_code // 100] += 1
                if response.status_code >= 500:
                    failed.append((method, path, fields, response.status_code))
        assert failed == []
        # Not all of them were turned away at the door.
        assert min(answered[2], answered[3], answered[4]) > 30
