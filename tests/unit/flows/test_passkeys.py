"""Challenges, and what is asked of browsers."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from peoplelab import PeopleLab, open_people_lab
from softkey import b64, unb64
from tokenlab import ISSUER
from twogate.adapters.passkeys import relying_party
from twogate.adapters.rng import SystemRng
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.authserver.passkeys import CHALLENGE_LIFETIME, MAX_PASSKEYS, Ceremony, Challenges, user_handle
from twogate.stores.sql.replay import SqlReplayStore

NOW = 1_800_000_000
BROWSER = "ab" * 32


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncGenerator[PeopleLab]:
    async with open_people_lab(tmp_path) as made:
        yield made


@pytest.fixture
def challenges(lab: PeopleLab) -> Challenges:
    return Challenges(bytes(32), SqlReplayStore(lab.lab.engine), SystemRng(), ISSUER)


def refusal(
    challenges: Challenges, challenge: bytes, ceremony: Ceremony, browser: str, subject: str, now: int
) -> str | None:
    try:
        challenges.verify(challenge, ceremony, browser, subject, now)
    except GateError as error:
        return error.code.value
    return None


def test_a_challenge_is_known_again_for_what_it_was_made(challenges: Challenges) -> None:
    made = challenges.make("enrol", BROWSER, "acme/alice", NOW)
    assert len(made) >= 16  # WebAuthn Level 3, section 13.4.3
    assert made != challenges.make("enrol", BROWSER, "acme/alice", NOW)
    last = NOW + CHALLENGE_LIFETIME - 1
    assert refusal(challenges, made, "enrol", BROWSER, "acme/alice", last) is None
    assert refusal(challenges, made, "enrol", BROWSER, "acme/alice", last + 1) == "interaction_expired"
    refused = ErrorCode.PASSKEY_REFUSED.value
    assert refusal(challenges, made, "login", BROWSER, "acme/alice", NOW) == refused
    assert refusal(challenges, made, "enrol", "cd" * 32, "acme/alice", NOW) == refused
    assert refusal(challenges, made, "enrol", BROWSER, "acme/bob", NOW) == refused


def test_no_byte_of_a_challenge_can_be_changed(challenges: Challenges) -> None:
    made = challenges.make("login", BROWSER, "", NOW)
    for at in range(len(made)):
        changed = bytes([*made[:at], made[at] ^ 1, *made[at + 1 :]])
        assert refusal(challenges, changed, "login", BROWSER, "", NOW) == "passkey_refused"
    for cut in (made[:-1], made + b"\0", b""):
        assert refusal(challenges, cut, "login", BROWSER, "", NOW) == "passkey_refused"


def test_a_challenge_of_another_secret_is_none(challenges: Challenges, lab: PeopleLab) -> None:
    other = Challenges(bytes([1] * 32), SqlReplayStore(lab.lab.engine), SystemRng(), ISSUER)
    made = other.make("login", BROWSER, "", NOW)
    assert refusal(challenges, made, "login", BROWSER, "", NOW) == "passkey_refused"


async def test_a_challenge_is_used_up_once(challenges: Challenges) -> None:
    made = challenges.make("login", BROWSER, "", NOW)
    await challenges.redeem(made, NOW)
    with pytest.raises(GateError) as refused:
        await challenges.redeem(made, NOW)
    assert refused.value.code is ErrorCode.PASSKEY_REFUSED


async def test_a_login_asks_for_any_passkey_of_a_verified_user(lab: PeopleLab) -> None:
    browser = lab.browser()
    await browser.get("/login")
    options = browser.options
    assert (options["rpId"], options["userVerification"]) == ("mcp.example.com", "required")
    assert "allowCredentials" not in options


async def test_an_enrolment_asks_for_a_passkey_that_needs_no_name(lab: PeopleLab) -> None:
    user = await lab.person()
    key = await lab.with_passkey(user)
    browser = lab.browser()
    await browser.log_in_by(key)
    await browser.get("/account/passkeys/new")
    options = browser.options
    assert options["authenticatorSelection"]["residentKey"] == "required"
    assert options["authenticatorSelection"]["userVerification"] == "required"
    assert options["attestation"] == "none"
    assert options["excludeCredentials"] == [{"type": "public-key", "id": b64(key.id)}]
    assert unb64(options["user"]["id"]) == user_handle("acme", user.subject)
    assert user.subject.encode() not in unb64(options["user"]["id"])


async def test_a_person_has_so_many_passkeys_and_no_more(lab: PeopleLab) -> None:
    user = await lab.person()
    first = await lab.with_passkey(user)
    browser = lab.browser()
    await browser.log_in_by(first)
    statuses = []
    for number in range(MAX_PASSKEYS):
        await browser.get("/account/passkeys/new")
        statuses.append((await browser.enrol(lab.key(), f"key {number}")).status_code)
    assert statuses == [303] * (MAX_PASSKEYS - 1) + [401]
    assert len(await lab.passkey_store.list("acme", user.subject)) == MAX_PASSKEYS


@pytest.mark.parametrize(
    ("label", "kept"), [("  Phone ", "Phone"), ("\u202eenohP", "enohP"), ("x" * 500, "x" * 64), ("\x07", "Passkey")]
)
async def test_a_label_is_short_and_visible(lab: PeopleLab, label: str, kept: str) -> None:
    user, link = await lab.add()
    browser = lab.browser()
    await browser.open_link(link)
    await browser.enrol(lab.key(), label)
    assert [key.label for key in await lab.passkey_store.list("acme", user.subject)] == [kept]


@pytest.mark.parametrize(
    ("public_url", "rp_id"),
    [
        ("https://mcp.example.com", "mcp.example.com"),
        ("https://mcp.example.com:8443", "mcp.example.com"),
        ("http://localhost:8080", "localhost"),
        ("http://127.0.0.1:8080", None),
        ("https://[2001:db8::1]", None),
    ],
)
def test_an_address_has_no_passkeys(public_url: str, rp_id: str | None) -> None:
    assert relying_party(public_url) == rp_id
