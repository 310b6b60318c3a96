"""R-73, R-34: who comes from an identity provider decides with a passkey, and is gone here when they are gone there."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from attacks.test_console import Stream
from consolelab import ConsoleLab, open_console_lab
from peoplelab import RP_ID, Browser
from softkey import SoftKey
from tokenlab import ISSUER
from twogate.adapters.refusal_log import RefusalLog
from twogate.core.approval import Duty, State
from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.principal import AgentId
from twogate.flows.authserver.links import LinkPurpose
from twogate.flows.authserver.logins import Login
from twogate.flows.authserver.people import User
from twogate.flows.authserver.upstream_grants import UpstreamGrant, UpstreamGrants
from twogate.people import People, open_people
from twogate.stores.sql.approvals import SqlParkedStore
from twogate.stores.sql.upstream_grants import SqlUpstreamGrantStore

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROVIDER = "https://idp.example"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[ConsoleLab]:
    directory: Path = tmp_path_factory.mktemp("console-people")
    async with open_console_lab(directory) as made:
        yield made


def people_of(lab: ConsoleLab) -> People:
    return open_people(lab.state, lab.state.settings, RefusalLog(lab.state.audit, lab.state.clock))


async def from_provider(lab: ConsoleLab, name: str, *duties: Duty) -> User:
    people = people_of(lab)
    user = await people.users.upstream_user(PROVIDER, f"sub-{name}", "acme", name, "", (), lab.state.clock.now())
    return await lab.admin.change(user, duties=duties)


async def logged_in(lab: ConsoleLab, user: User, upstream: str | None = None) -> Browser:
    people, now = people_of(lab), lab.state.clock.now()
    cookie = await people.logins.begin(Login("acme", user.subject, "upstream", now, upstream), now)
    browser = lab.browser()
    browser.http.cookies.set("__Host-twogate-login", cookie, domain="mcp.example.com", path="/")
    return browser


async def state(lab: ConsoleLab, approval: str) -> State:
    parked = await SqlParkedStore(lab.state.engine).get(approval)
    assert parked is not None
    return parked.state


async def test_who_is_gone_at_their_provider_is_not_logged_in_to_the_console(lab: ConsoleLab) -> None:
    user, now = await from_provider(lab, "gone", Duty.OPERATOR, Duty.APPROVER), lab.state.clock.now()
    await SqlUpstreamGrantStore(lab.state.engine).add(
        UpstreamGrant("g-gone", "acme", user.subject, PROVIDER, "twogate", now, now + 3600), now
    )
    # That provider lets nobody in any more: it is not among the configured ones.
    browser = await logged_in(lab, user, "g-gone")
    for path in ("/console", "/console/audit", "/console/approvals", "/console/events"):
        answer = await browser.http.get(path)
        assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, "/login"), path
    await browser.get("/login?tenant=acme&again=1")
    answer = await browser.post("/console/agents/pause", agent="reporter")
    assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, "/login")
    agent = await lab.state.registry.agent(AgentId("acme", "reporter"))
    assert agent is not None
    assert not agent.disabled


async def test_a_person_of_a_provider_approves_by_a_passkey_that_logs_nobody_in(lab: ConsoleLab) -> None:
    user = await from_provider(lab, "carol", Duty.APPROVER)
    link, _ = await lab.admin.link(user, LinkPurpose.PASSKEY)
    key, setting_up = SoftKey(origin=ISSUER, rp_id=RP_ID), lab.browser()
    await setting_up.open_link(link)
    assert setting_up.page is not None
    assert "does not log you in" in setting_up.page.text
    assert setting_up.options["authenticatorSelection"]["residentKey"] == "discouraged"
    assert setting_up.options["authenticatorSelection"]["userVerification"] == "required"
    assert (await setting_up.enrol(key)).status_code == 303
    # It is no way around the provider.
    assert (await lab.browser().log_in_by(key)).status_code == 401
    # A call waits, and their login at the provider together with this passkey approves it.
    parked = await lab.park()
    browser = await logged_in(lab, user)
    page = await browser.get(f"/approvals/{parked.call.id}")
    assert "Approve with a passkey" in page.text
    answer = await browser.post(f"/approvals/{parked.call.id}/approve", credential=key.get(browser.options))
    assert answer.status_code == 303
    assert await state(lab, parked.call.id) is State.GRANTED
    # They neither add nor remove one by themselves.
    account = await browser.get("/account")
    assert "log nobody in" in account.text
    assert (await browser.http.get("/account/passkeys/new")).status_code == 400
    (passkey,) = await lab.admin.passkeys(user)
    removing = await browser.post("/account/passkeys/remove", credential_id=passkey.credential_id)
    assert (removing.status_code, len(await lab.admin.passkeys(user))) == (400, 1)


@pytest.mark.parametrize("purpose", [LinkPurpose.PASSWORD, LinkPurpose.WELCOME])
async def test_a_person_of_a_provider_never_gets_a_password_here(lab: ConsoleLab, purpose: LinkPurpose) -> None:
    user = await from_provider(lab, f"dora-{purpose.value}")
    with pytest.raises(GateError) as refused:
        await lab.admin.link(user, purpose)
    assert refused.value.code is ErrorCode.REQUEST_MALFORMED


async def test_an_operator_removes_a_lost_passkey_and_what_it_logged_in(lab: ConsoleLab) -> None:
    user = await lab.person("loser", Duty.APPROVER)
    browser = await lab.log_in(user)
    (passkey,) = await lab.admin.passkeys(user)
    with pytest.raises(GateError) as refused:
        await lab.admin.remove_passkey(user, "another")
    assert refused.value.code is ErrorCode.NOT_FOUND
    assert (await browser.get("/console")).status_code == 200
    await lab.admin.remove_passkey(user, passkey.credential_id)
    assert (await browser.get("/console")).status_code == 303
    assert list(await lab.admin.passkeys(user)) == []
    event: dict[str, Any] = lab.events(EventKind.PASSKEY_REMOVED)[-1]
    assert event["detail"] == f"{passkey.credential_id}, by an operator"


async def test_a_page_that_is_only_left_open_asks_no_provider(lab: ConsoleLab, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def confirm(_: object, upstream: str, now: int) -> None:
        asked.append(upstream)

    monkeypatch.setattr(UpstreamGrants, "confirm", confirm)
    user = await from_provider(lab, "idle", Duty.VIEWER)
    browser = await logged_in(lab, user, "g-idle")
    cookie = "; ".join(f"{name}={value}" for name, value in browser.http.cookies.items())
    stream = Stream(lab, cookie)
    try:
        assert (await stream.next())["status"] == 200
        asked.clear()
        # Each word on the stream is one look at who listens.
        assert (await stream.next())["body"] == b"retry: 3000\n\n"
        assert (await stream.next())["body"] == b"event: changed\ndata: 1\n\n"
        assert asked == []
        assert (await browser.get("/console")).status_code == 200
        assert asked == ["g-idle"]
    finally:
        await stream.end()
