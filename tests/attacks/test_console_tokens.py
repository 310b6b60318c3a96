"""R-33: at the console only the session's own person signs for a call, and only with a passkey used just before."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from html import unescape
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from consolelab import AGENTS, ConsoleLab, open_console_lab
from operationlab import claims_of
from peoplelab import RP_ID, Browser, field_of
from softkey import SoftKey
from tokenlab import ISSUER
from twogate.adapters.refusal_log import RefusalLog
from twogate.core.approval import Duty
from twogate.core.audit.record import EventKind
from twogate.core.operation import digest_call
from twogate.core.principal import UserId
from twogate.core.session import Session
from twogate.flows.authserver.links import LinkPurpose
from twogate.flows.authserver.logins import Login
from twogate.flows.authserver.people import User
from twogate.flows.hypothetical import hypothetical_principal
from twogate.people import People, open_people

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATH = "/console/tokens"
CALL = {"tool": "files.read", "arguments": '{"path": "/a"}'}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[ConsoleLab]:
    directory: Path = tmp_path_factory.mktemp("console-tokens")
    async with open_console_lab(directory) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def alice(lab: ConsoleLab) -> User:
    user = await lab.person("alice", groups=("watchers",))
    await session(lab, "sid-alice", user)
    return user


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(lab: ConsoleLab, alice: User) -> Browser:
    return await lab.log_in(alice)


def people_of(lab: ConsoleLab) -> People:
    return open_people(lab.state, lab.state.settings, RefusalLog(lab.state.audit, lab.state.clock))


async def session(lab: ConsoleLab, sid: str, user: User | None, tenant: str = "acme") -> None:
    agent, now = AGENTS[tenant], lab.state.clock.now()
    owner = None if user is None else UserId(ISSUER, user.subject)
    principal = msgspec.structs.replace(hypothetical_principal(agent, {}, scopes=()).key, user=owner)
    held = frozenset({"files.read"})
    await lab.state.sessions.open(Session(sid, principal, "report", held, now, now + 3600), agent, now)


async def logged_in(lab: ConsoleLab, user: User, method: Any, age: int) -> Browser:
    people, now = people_of(lab), lab.state.clock.now()
    cookie = await people.logins.begin(Login(user.tenant, user.subject, method, now - age), now)
    made = lab.browser()
    made.http.cookies.set("__Host-twogate-login", cookie, domain="mcp.example.com", path="/")
    return made


def issued(lab: ConsoleLab) -> int:
    return len(lab.events(EventKind.OPERATION_ISSUED))


def token_of(text: str) -> str | None:
    found = re.search(r"eyJ[\w-]+\.[\w-]+\.[\w-]+", text)
    return None if found is None else found[0]


async def test_a_person_signs_for_exactly_one_call_of_their_own_session(
    lab: ConsoleLab, browser: Browser, alice: User
) -> None:
    page = await browser.get(PATH)
    assert 'value="sid-alice"' in page.text
    answer = await browser.post(PATH, session="sid-alice", **CALL)
    assert answer.status_code == 200
    token = token_of(answer.text)
    assert token is not None
    claims = claims_of(token)
    digest = digest_call("tools/call", "files.read", {"arguments": {"path": "/a"}}).digest
    assert {name: claims[name] for name in ("iss", "minter", "sid", "tool", "digest")} == {
        "iss": ISSUER, "minter": "acme/alice", "sid": "sid-alice", "tool": "files.read", "digest": digest,
    }  # fmt: skip
    assert claims["exp"] - claims["iat"] <= 120
    # What was signed for stands there as it will run.
    assert '"path": "/a"' in unescape(answer.text)
    assert answer.headers["cache-control"] == "no-store"
    event = lab.events(EventKind.OPERATION_ISSUED)[-1]
    assert (event["client"], event["user"], event["session"]) == ("acme/alice", alice.subject, "sid-alice")
    assert token not in str(event)
    assert "/a" not in event["arguments"]
    assert token_of((await browser.get(PATH)).text) is None


@pytest.mark.parametrize(
    ("method", "age"), [("password", 0), ("upstream", 0), ("passkey", 301), ("password", 301)], ids=str
)
async def test_a_login_without_a_passkey_used_just_before_signs_for_nothing(
    lab: ConsoleLab, alice: User, method: str, age: int
) -> None:
    before = issued(lab)
    thief = await logged_in(lab, alice, method, age)
    page = await thief.get(PATH)
    assert page.status_code == 200
    assert "<textarea" not in page.text
    assert "Log in with a passkey" in page.text
    await thief.get("/account")
    answer = await thief.post(PATH, session="sid-alice", **CALL)
    assert (answer.status_code, token_of(answer.text)) == (400, None)
    assert issued(lab) == before


async def test_nobody_signs_for_anothers_session_or_nobodys(lab: ConsoleLab, browser: Browser) -> None:
    before = issued(lab)
    eve = await lab.person("eve", Duty.ADMINISTRATOR, Duty.OPERATOR, groups=("watchers",))
    await session(lab, "sid-eve", eve)
    await session(lab, "sid-nobody", None)
    foreign = await lab.person("alice", tenant="globex", groups=("watchers",))
    await session(lab, "sid-globex-alice", foreign, "globex")
    proposed = re.findall(r'<option value="([^"]*)"', (await browser.get(PATH)).text)
    assert proposed == ["sid-alice"]
    for sid in ("sid-eve", "sid-nobody", "sid-globex-alice", "sid-none", "x" * 300):
        await browser.get(PATH)
        answer = await browser.post(PATH, session=sid, **CALL)
        assert (answer.status_code, token_of(answer.text)) == (403, None), sid
        refused = lab.events(EventKind.OPERATION_REFUSED)[-1]
        assert (refused["client"], refused["reason"], refused["anomaly"]) == ("acme/alice", "mint_refused", True)
    # Not an administrator for others either.
    theirs = await lab.log_in(eve)
    await theirs.get(PATH)
    assert (await theirs.post(PATH, session="sid-alice", **CALL)).status_code == 403
    assert issued(lab) == before


async def test_what_the_agent_may_not_do_no_person_lets_it_do(lab: ConsoleLab, browser: Browser) -> None:
    before = issued(lab)
    for tool in ("files.write", "vault.dig", "files.none", "nothing", ""):
        await browser.get(PATH)
        answer = await browser.post(PATH, session="sid-alice", tool=tool, arguments="{}")
        assert (answer.status_code, token_of(answer.text)) == (403, None), tool
    assert issued(lab) == before


@pytest.mark.parametrize(
    "arguments",
    [
        '{"a": 1, "a": 2}',
        '{"a": 1, "\\u0061": 2}',
        '{"a": 9007199254740993}',
        '{"a": "\\ud800"}',
        "[1]",
        "not json",
        '{"a": NaN}',
        '{"a": ' + "[" * 100 + "]" * 100 + "}",
        "</textarea><script>alert(1)</script>",
    ],
)
async def test_what_peers_read_differently_is_not_signed_for(lab: ConsoleLab, browser: Browser, arguments: str) -> None:
    before = issued(lab)
    await browser.get(PATH)
    answer = await browser.post(PATH, session="sid-alice", tool="files.read", arguments=arguments)
    assert 400 <= answer.status_code < 500
    assert token_of(answer.text) is None
    assert "<script>alert" not in answer.text
    assert issued(lab) == before


async def test_another_sites_form_and_a_login_without_a_duty_sign_for_nothing(
    lab: ConsoleLab, browser: Browser
) -> None:
    before = issued(lab)
    await browser.get(PATH)
    fields = {"session": "sid-alice", **CALL}
    token = field_of(browser.page, "form_token")
    for data, headers in (
        ({**fields, "form_token": token}, {"Origin": "https://evil.example"}),
        ({**fields, "form_token": token}, {"Origin": ISSUER, "Sec-Fetch-Site": "same-site"}),
        (fields, {"Origin": ISSUER}),
    ):
        answer = await browser.http.post(PATH, data=data, headers=headers)
        assert (answer.status_code, "form_refused" in answer.text) == (403, True)
    nobody = await lab.visitor("nobody")
    await nobody.get("/account")
    assert (await nobody.post(PATH, session="sid-alice", **CALL)).status_code == 403
    assert issued(lab) == before


async def test_a_person_of_a_provider_does_not_become_fresh_by_a_passkey(lab: ConsoleLab) -> None:
    people = people_of(lab)
    user = await people.users.upstream_user(
        "https://idp.example", "carol", "acme", "carol", "", ("watchers",), lab.state.clock.now()
    )
    link, _ = await lab.admin.link(user, LinkPurpose.PASSKEY)
    key, setting_up = SoftKey(origin=ISSUER, rp_id=RP_ID), lab.browser()
    await setting_up.open_link(link)
    assert (await setting_up.enrol(key)).status_code == 303
    browser = await logged_in(lab, user, "upstream", 0)
    assert "<textarea" not in (await browser.get(PATH)).text
