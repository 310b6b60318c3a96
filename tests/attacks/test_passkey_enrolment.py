"""Becoming somebody by a passkey of one's own: with a stolen password, link, page, answer or session."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import update

from peoplelab import PASSWORD, Browser, PeopleLab, open_people_lab
from softkey import AT, BE, BS, UP, UV, SoftKey, b64, unb64
from tokenlab import ISSUER
from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.authserver.account import FRESH_FOR
from twogate.flows.authserver.links import SETUP_LIFETIME, LinkPurpose
from twogate.flows.authserver.logins import Login
from twogate.flows.authserver.passkeys import CHALLENGE_LIFETIME
from twogate.stores.sql.tables import users


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncGenerator[PeopleLab]:
    async with open_people_lab(tmp_path) as made:
        yield made


async def passkeys_of(lab: PeopleLab, name: str = "alice") -> int:
    user = await lab.store.by_name("acme", name)
    assert user is not None
    return len(await lab.passkey_store.list(user.tenant, user.subject))


def last_refusal(lab: PeopleLab) -> tuple[str, str]:
    event = lab.events(EventKind.LOGIN_REFUSED)[-1]
    return event.reason, event.detail


async def enrol_options_of_another(lab: PeopleLab) -> dict[str, Any]:
    """What a person who may enrol is asked: mallory enrols their own."""
    _, link = await lab.add("mallory")
    browser = lab.browser("198.51.100.9")
    await browser.open_link(link)
    return browser.options


async def test_a_password_login_cannot_enrol(lab: PeopleLab) -> None:
    user = await lab.person()
    thief = lab.browser()
    assert (await thief.log_in()).status_code == 303
    page = await thief.get("/account/passkeys/new")
    assert (page.status_code, "data-options" in page.text) == (400, False)
    await thief.get("/account")
    options = await enrol_options_of_another(lab)
    answer = await thief.post("/account/passkeys/new", label="x", credential=lab.key().create(options))
    assert answer.status_code == 400
    assert "login_required" in answer.text
    assert await passkeys_of(lab) == 0
    assert [event for event in lab.events(EventKind.PASSKEY_ADDED) if event.user == user.subject] == []


async def test_an_upstream_login_cannot_enrol(lab: PeopleLab) -> None:
    user = await lab.person()
    now, browser = lab.lab.clock.now(), lab.browser()
    cookie = await lab.logins.begin(Login("acme", user.subject, "upstream", now, "some-grant"), now)
    browser.http.cookies.set("__Host-twogate-login", cookie, domain="mcp.example.com", path="/")
    assert (await browser.get("/account")).status_code == 200
    page = await browser.get("/account/passkeys/new")
    assert (page.status_code, "data-options" in page.text) == (400, False)


async def test_a_passkey_login_that_is_five_minutes_old_cannot_enrol_or_remove(lab: PeopleLab) -> None:
    user = await lab.person()
    key = await lab.with_passkey(user)
    browser = lab.browser()
    assert (await browser.log_in_by(key)).status_code == 303
    await browser.get("/account/passkeys/new")
    options = browser.options
    lab.lab.clock.seconds += FRESH_FOR
    late = await browser.post("/account/passkeys/new", label="x", credential=lab.key().create(options))
    assert (late.status_code, await passkeys_of(lab)) == (400, 1)
    await browser.get("/account")
    removed = await browser.post("/account/passkeys/remove", credential_id=b64(key.id))
    assert (removed.status_code, await passkeys_of(lab)) == (400, 1)


async def test_a_passkey_login_enrols_another_and_removes_the_first(lab: PeopleLab) -> None:
    user = await lab.person()
    key, second, browser = await lab.with_passkey(user), lab.key(), lab.browser()
    await browser.log_in_by(key)
    await browser.get("/account/passkeys/new")
    assert (await browser.enrol(second)).headers["location"] == "/account"
    await browser.get("/account")
    assert (await browser.post("/account/passkeys/remove", credential_id=b64(key.id))).status_code == 303
    assert (await lab.browser().log_in_by(key)).status_code == 401
    assert (await lab.browser().log_in_by(second)).status_code == 303
    assert [event.method for event in lab.events(EventKind.PASSKEY_ADDED)] == ["link", "passkey"]
    assert [event.detail for event in lab.events(EventKind.PASSKEY_REMOVED)] == [b64(key.id)]


async def test_nobody_removes_anothers_passkey(lab: PeopleLab) -> None:
    alices = await lab.with_passkey(await lab.person())
    mallorys = await lab.with_passkey(await lab.person("mallory"))
    browser = lab.browser()
    await browser.log_in_by(mallorys)
    await browser.get("/account")
    assert (await browser.post("/account/passkeys/remove", credential_id=b64(alices.id))).status_code == 303
    assert await passkeys_of(lab) == 1
    assert lab.events(EventKind.PASSKEY_REMOVED) == []


async def test_a_password_reset_by_link_does_not_allow_enrolling(lab: PeopleLab) -> None:
    user = await lab.person()
    link, _ = await lab.admin.link(user, LinkPurpose.PASSWORD)
    thief = lab.browser()
    await thief.open_link(link)
    assert thief.page is not None
    assert "data-options" not in thief.page.text
    options = await enrol_options_of_another(lab)
    answer = await thief.post("/setup/passkey", label="x", credential=lab.key().create(options))
    assert (answer.status_code, "link_invalid" in answer.text) == (400, True)
    assert await passkeys_of(lab) == 0


async def test_a_passkey_link_does_not_allow_a_password(lab: PeopleLab) -> None:
    user, _ = await lab.add()
    link, _ = await lab.admin.link(user, LinkPurpose.PASSKEY)
    browser = lab.browser()
    await browser.open_link(link)
    assert (await browser.set_password()).status_code == 400
    assert await lab.passwords.has_one(user) is False


async def test_a_link_enrols_one_passkey_and_no_more(lab: PeopleLab) -> None:
    _, link = await lab.add()
    browser = lab.browser()
    await browser.open_link(link)
    options = browser.options
    await browser.enrol(lab.key())
    again = await browser.post("/setup/passkey", label="x", credential=lab.key().create(options))
    assert (again.status_code, await passkeys_of(lab)) == (400, 1)


async def test_a_link_is_used_up_by_the_first_who_sends_it_and_looking_changes_nothing(lab: PeopleLab) -> None:
    _, link = await lab.add()
    preview = lab.browser("192.0.2.1")
    assert (await preview.get("/link")).status_code == 200
    first, second = lab.browser(), lab.browser("192.0.2.2")
    assert (await first.open_link(link)).status_code == 303
    refused = await second.open_link(link)
    assert (refused.status_code, "link_invalid" in refused.text) == (400, True)
    assert (await second.get("/setup")).status_code == 400
    assert last_refusal(lab) == ("link_invalid", "the link is unknown, used or expired")


async def test_the_setup_ends_with_its_quarter_of_an_hour(lab: PeopleLab) -> None:
    user, link = await lab.add()
    browser = lab.browser()
    await browser.open_link(link)
    lab.lab.clock.seconds += SETUP_LIFETIME
    assert (await browser.set_password()).status_code == 400
    assert await lab.passwords.has_one(user) is False


async def test_a_newer_link_voids_the_older_and_the_setup_begun_by_it(lab: PeopleLab) -> None:
    user, link = await lab.add()
    begun = lab.browser()
    await begun.open_link(link)
    older, _ = await lab.admin.link(user, LinkPurpose.WELCOME)
    assert (await begun.set_password()).status_code == 400
    newer, _ = await lab.admin.link(user, LinkPurpose.WELCOME)
    assert (await lab.browser().open_link(older)).status_code == 400
    assert (await lab.browser().open_link(newer)).status_code == 303


async def test_disabling_voids_links_and_setups(lab: PeopleLab) -> None:
    user, link = await lab.add()
    begun = lab.browser()
    await begun.open_link(link)
    await lab.admin.disable(user)
    assert (await begun.set_password()).status_code == 400
    await lab.admin.enable(user)
    await begun.get("/link")
    assert (await begun.set_password()).status_code == 400
    assert (await lab.browser().open_link(link)).status_code == 400


async def test_a_setup_is_no_login(lab: PeopleLab) -> None:
    _, link = await lab.add()
    browser = lab.browser()
    await browser.open_link(link)
    assert (await browser.get("/account")).headers["location"].startswith("/login")
    setup = browser.http.cookies["__Host-twogate-setup"]
    browser.http.cookies.set("__Host-twogate-login", setup, domain="mcp.example.com", path="/")
    assert (await browser.get("/account")).headers["location"].startswith("/login")


async def enrolling(lab: PeopleLab, name: str = "alice") -> Browser:
    """A browser that may enrol a passkey."""
    _, link = await lab.add(name)
    browser = lab.browser()
    await browser.open_link(link)
    return browser


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"origin": "https://evil.example"}, "the answer does not verify: InvalidRegistrationResponse"),
        ({"origin": f"{ISSUER}.evil.example"}, "the answer does not verify: InvalidRegistrationResponse"),
        ({"origin": "http://mcp.example.com"}, "the answer does not verify: InvalidRegistrationResponse"),
        ({"type": "webauthn.get"}, "the answer does not verify: InvalidRegistrationResponse"),
        ({"crossOrigin": True}, "the passkey was used inside another site's page"),
        ({"crossOrigin": "false"}, "the passkey was used inside another site's page"),
        ({"topOrigin": "https://evil.example"}, "the passkey was used inside another site's page"),
        ({"challenge": b64(bytes(56))}, "the challenge is not ours, or another browser's or ceremony's"),
        ({"challenge": ""}, "a member is not base64url"),
        ({"challenge": None}, "a member is not base64url"),
        ({"flags": UP | AT}, "the answer does not verify: InvalidRegistrationResponse"),
        ({"flags": UV | AT}, "the answer does not verify: InvalidRegistrationResponse"),
        ({"flags": UP | UV | AT | BS}, "the answer does not verify: InvalidBackupFlags"),
        ({"fmt": "fido-u2f"}, "an attestation that was not asked for"),
        (
            {"fmt": "packed", "statement": {"alg": -7, "sig": b"x"}},
            "the answer does not verify: InvalidRegistrationResponse",
        ),
    ],
)
async def test_an_answer_that_was_not_made_for_us_enrols_nothing(
    lab: PeopleLab, changes: dict[str, Any], why: str
) -> None:
    browser = await enrolling(lab)
    answer = await browser.enrol(lab.key(), **changes)
    assert answer.status_code == 401
    assert last_refusal(lab) == ("passkey_refused", why)
    assert await passkeys_of(lab) == 0
    # The person may try again, and then it works.
    assert (await browser.enrol(lab.key(), flags=UP | UV | AT | BE | BS)).status_code == 303


async def test_a_passkey_for_another_host_is_refused(lab: PeopleLab) -> None:
    browser = await enrolling(lab)
    assert (await browser.enrol(lab.key(rp_id="example.com"))).status_code == 401
    assert await passkeys_of(lab) == 0


async def test_a_challenge_is_good_for_one_browser(lab: PeopleLab) -> None:
    honest, thief = await enrolling(lab), await enrolling(lab, "mallory")
    # Mallory's page sends what alice's browser was asked: alice's passkey would become mallory's, or the other way.
    stolen = await thief.post("/setup/passkey", label="x", credential=lab.key().create(honest.options))
    assert stolen.status_code == 401
    assert (await passkeys_of(lab), await passkeys_of(lab, "mallory")) == (0, 0)


async def test_a_challenge_is_good_for_one_ceremony(lab: PeopleLab) -> None:
    key, browser = await lab.with_passkey(await lab.person()), lab.browser()
    await browser.log_in_by(key)
    await browser.get("/account/passkeys/new")
    enrol = browser.options
    await browser.get("/login?tenant=acme&again=1")
    login = browser.options
    answer = await browser.post("/login/passkey", tenant="acme", credential=key.get(enrol))
    assert answer.status_code == 401
    wrong = lab.key().create({**enrol, "challenge": login["challenge"]})
    await browser.get("/account/passkeys/new")
    assert (await browser.post("/account/passkeys/new", label="x", credential=wrong)).status_code == 401
    assert await passkeys_of(lab) == 1


async def test_a_challenge_is_good_for_five_minutes(lab: PeopleLab) -> None:
    browser = await enrolling(lab)
    options = browser.options
    lab.lab.clock.seconds += CHALLENGE_LIFETIME
    late = await browser.post("/setup/passkey", label="x", credential=lab.key().create(options))
    assert (late.status_code, await passkeys_of(lab)) == (400, 0)
    assert last_refusal(lab) == ("interaction_expired", "the challenge has expired")


async def test_a_passkey_of_one_person_cannot_be_enrolled_for_another(lab: PeopleLab) -> None:
    key = await lab.with_passkey(await lab.person())
    browser = await enrolling(lab, "mallory")
    twin = SoftKey(ISSUER, key.rp_id, id=key.id)
    assert (await browser.enrol(twin)).status_code == 401
    kept = await lab.passkey_store.get(b64(key.id))
    alice = await lab.store.by_name("acme", "alice")
    assert kept is not None
    assert alice is not None
    assert kept.subject == alice.subject
    assert (await lab.browser().log_in_by(key)).status_code == 303


async def test_an_answer_that_names_another_passkey_than_it_holds_is_refused(lab: PeopleLab) -> None:
    browser = await enrolling(lab)
    answer = json.loads(lab.key().create(browser.options))
    answer["id"] = answer["rawId"] = b64(b"another")
    assert (await browser.post("/setup/passkey", label="x", credential=json.dumps(answer))).status_code == 401
    assert last_refusal(lab) == ("passkey_refused", "the answer names another passkey than it holds")


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "null",
        "[]",
        "{}",
        '{"id": "AA"}',
        '{"id": "AA", "response": {}}',
        '{"id": "AA", "id": "AB", "response": {}}',
        '{"id": 7, "response": {"clientDataJSON": "e30"}}',
        '{"id": "A A", "response": {"clientDataJSON": "e30"}}',
        '{"id": "AA", "response": {"clientDataJSON": "e30"}}',
        '{"id": "AA", "response": {"clientDataJSON": "W10"}}',
        '{"id": "AA", "response": {"clientDataJSON": "eyJ0eXBlIjoiIn0="}}',
        "[" * 3000,
        '{"id": "' + "A" * 9000 + '", "response": {"clientDataJSON": "e30"}}',
    ],
)
async def test_rubbish_is_refused_as_rubbish(lab: PeopleLab, answer: str) -> None:
    browser = await enrolling(lab)
    for path in ("/setup/passkey", "/login/passkey"):
        refused = await browser.post(path, tenant="acme", label="x", credential=answer)
        assert refused.status_code == 401
        assert last_refusal(lab)[0] == ErrorCode.PASSKEY_REFUSED
        await browser.get("/setup")


@pytest.mark.parametrize("member", ["attestationObject", "clientDataJSON"])
async def test_every_cut_and_every_flipped_byte_of_an_answer_is_refused(lab: PeopleLab, member: str) -> None:
    browser = await enrolling(lab)
    good = json.loads(lab.key().create(browser.options))
    raw = unb64(good["response"][member])
    broken = [raw[:size] for size in range(0, len(raw), 7)]
    # Up to the flags: without an attestation nothing vouches for the count and the model of the device behind them.
    broken += [bytes([*raw[:at], raw[at] ^ 0xFF, *raw[at + 1 :]]) for at in range(0, 63, 2)]
    for one in broken:
        tried = {**good, "response": {**good["response"], member: b64(one)}}
        refused = await browser.post("/setup/passkey", label="x", credential=json.dumps(tried))
        assert refused.status_code == 401, one
    assert await passkeys_of(lab) == 0


async def test_a_person_of_a_provider_gets_no_link_for_a_password(lab: PeopleLab) -> None:
    user = await lab.users.upstream_user("https://idp.example", "1", "acme", "ida", "Ida", (), lab.lab.clock.now())
    for purpose in (LinkPurpose.PASSWORD, LinkPurpose.WELCOME):
        with pytest.raises(GateError) as refused:
            await lab.admin.link(user, purpose)
        assert refused.value.code is ErrorCode.REQUEST_MALFORMED


async def test_a_passkey_that_a_provider_took_over_logs_nobody_in(lab: PeopleLab) -> None:
    # Nothing makes a local person a provider's today; if something ever does, the passkey must not outlive it.
    user = await lab.person()
    key = await lab.with_passkey(user)
    async with lab.lab.engine.begin() as connection:
        await connection.execute(
            update(users).where(users.c.subject == user.subject).values(provider="https://idp.example")
        )
    assert (await lab.browser().log_in_by(key)).status_code == 401
    assert (await lab.browser().log_in(password=PASSWORD)).status_code == 401


async def test_enrolling_is_on_the_trail_before_it_happens(lab: PeopleLab) -> None:
    browser = await enrolling(lab)
    lab.lab.audit.broken = True
    assert (await browser.enrol(lab.key())).status_code == 503
    assert await passkeys_of(lab) == 0


async def test_no_secret_is_on_the_trail(lab: PeopleLab) -> None:
    user, link = await lab.add()
    browser, key = lab.browser(), lab.key()
    await browser.open_link(link)
    await browser.set_password()
    await browser.get("/setup")
    await browser.enrol(key)
    await browser.log_in_by(key)
    await browser.log_in(password="a wrong password")
    await lab.admin.disable(user)
    trail = msgspec.json.encode(lab.lab.audit.events).decode()
    cookies = [cookie for cookie in browser.http.cookies.values() if cookie]
    for secret in (link.partition("#")[2], PASSWORD, "a wrong password", *cookies):
        assert secret not in trail
