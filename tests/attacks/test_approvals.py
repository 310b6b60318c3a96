"""R-34: nobody but a person with a duty, their own passkey and our own page approves; and they see what will run."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from html import unescape
from pathlib import Path

import httpx2
import msgspec
import pytest
import rfc8785

from approvallab import VotingLab, open_approval_lab
from peoplelab import Browser, field_of
from tokenlab import ISSUER
from twogate.core.approval import Decision, Duty, State
from twogate.core.audit.record import EventKind
from twogate.core.principal import UserId
from twogate.flows.authserver.logins import Login
from twogate.web.console.approvals import MOST


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncGenerator[VotingLab]:
    async with open_approval_lab(tmp_path) as made:
        yield made


@pytest.fixture
async def bob(lab: VotingLab) -> Browser:
    browser = lab.people.browser()
    assert (await browser.log_in_by(lab.key)).status_code == 303
    return browser


async def state(lab: VotingLab, approval: str) -> State:
    parked = await lab.parking.current(approval)
    assert parked is not None
    return parked.state


async def test_a_person_reads_what_will_run_and_approves_it(lab: VotingLab, bob: Browser) -> None:
    parked = await lab.park()
    inbox = await bob.get("/console/approvals")
    assert f"/approvals/{parked.call.id}" in inbox.text
    page = await bob.get(f"/approvals/{parked.call.id}")
    assert page.status_code == 200
    assert '"message": "first"' in unescape(page.text)
    answer = await bob.post(f"/approvals/{parked.call.id}/approve", credential=lab.key.get(bob.options), comment="ok")
    assert answer.status_code == 303
    assert await state(lab, parked.call.id) is State.GRANTED
    after = await bob.get(f"/approvals/{parked.call.id}")
    assert "<form" not in after.text


async def test_a_person_denies_it_without_any_script(lab: VotingLab, bob: Browser) -> None:
    parked = await lab.park()
    await bob.get(f"/approvals/{parked.call.id}")
    assert (await bob.post(f"/approvals/{parked.call.id}/deny", comment="no")).status_code == 303
    assert await state(lab, parked.call.id) is State.DENIED


async def test_another_sites_form_neither_approves_nor_denies(lab: VotingLab, bob: Browser) -> None:
    parked = await lab.park()
    await bob.get(f"/approvals/{parked.call.id}")
    credential = lab.key.get(bob.options)
    token = field_of(bob.page, "form_token")
    for what in ("approve", "deny"):
        path, fields = f"/approvals/{parked.call.id}/{what}", {"credential": credential}
        for data, headers in (
            ({**fields, "form_token": token}, {"Origin": "https://evil.example"}),
            ({**fields, "form_token": token}, {"Origin": ISSUER, "Sec-Fetch-Site": "cross-site"}),
            ({**fields, "form_token": token}, {"Origin": "null"}),
            (fields, {"Origin": ISSUER}),
            ({**fields, "form_token": token[::-1]}, {"Origin": ISSUER}),
        ):
            answer = await bob.http.post(path, data=data, headers=headers)
            assert (answer.status_code, "form_refused" in answer.text) == (403, True)
        assert (await bob.http.get(path)).status_code == 405
    assert await state(lab, parked.call.id) is State.PENDING
    assert lab.events(EventKind.APPROVAL_VOTED) == []


async def test_nobody_decides_who_is_not_logged_in(lab: VotingLab) -> None:
    parked = await lab.park()
    stranger = lab.people.browser()
    for path in ("/console/approvals", f"/approvals/{parked.call.id}"):
        answer = await stranger.http.get(path)
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/login?")
    await stranger.get("/login?tenant=acme")
    answer = await stranger.post(f"/approvals/{parked.call.id}/deny")
    assert answer.headers["location"].startswith("/login?")
    assert await state(lab, parked.call.id) is State.PENDING


async def test_a_login_leads_back_to_the_call_and_nowhere_else(lab: VotingLab) -> None:
    parked = await lab.park()
    browser = lab.people.browser()
    sent = (await browser.http.get(f"/approvals/{parked.call.id}")).headers["location"]
    await browser.get(f"{sent}&tenant=acme")
    to = field_of(browser.page, "to")
    assert to == f"/approvals/{parked.call.id}"
    for target in ("/approvals/../admin", "//evil.example", f"/approvals/{parked.call.id}?x=1", "/console//evil"):
        answer = await browser.post("/login/passkey", tenant="acme", credential=lab.key.get(browser.options), to=target)
        assert answer.headers.get("location") in ("/account", None)
        await browser.get("/login?tenant=acme&again=1")


@pytest.mark.parametrize("duties", [(), (Duty.VIEWER,), (Duty.OPERATOR,), (Duty.ADMINISTRATOR,)])
async def test_a_login_without_the_duty_decides_nothing(lab: VotingLab, duties: tuple[Duty, ...]) -> None:
    parked = await lab.park()
    eve = await lab.people.person("eve")
    await lab.people.admin.change(eve, duties=duties)
    browser = lab.people.browser()
    await browser.log_in("eve")
    page = await browser.get(f"/approvals/{parked.call.id}")
    assert page.status_code == (200 if duties else 403)
    assert f'action="/approvals/{parked.call.id}' not in page.text
    await browser.get("/account")
    answer = await browser.post(f"/approvals/{parked.call.id}/deny")
    assert (answer.status_code, "approver_refused" in answer.text or "may not" in answer.text) == (403, True)
    assert await state(lab, parked.call.id) is State.PENDING


async def test_a_duty_taken_away_is_gone_at_the_next_click(lab: VotingLab, bob: Browser) -> None:
    parked = await lab.park()
    await bob.get(f"/approvals/{parked.call.id}")
    credential = lab.key.get(bob.options)
    await lab.people.admin.change(lab.bob, duties=())
    answer = await bob.post(f"/approvals/{parked.call.id}/approve", credential=credential)
    assert answer.status_code == 403
    await lab.people.admin.change(lab.bob, duties=(Duty.APPROVER,))
    await lab.people.admin.disable(lab.bob)
    assert (await bob.get(f"/approvals/{parked.call.id}")).status_code in (303, 401)
    assert await state(lab, parked.call.id) is State.PENDING


async def test_another_persons_passkey_does_not_approve_in_this_persons_browser(lab: VotingLab, bob: Browser) -> None:
    parked = await lab.park()
    eve, _ = await lab.people.add("eve", duties=(Duty.APPROVER,))
    key = await lab.people.with_passkey(eve)
    await bob.get(f"/approvals/{parked.call.id}")
    answer = await bob.post(f"/approvals/{parked.call.id}/approve", credential=key.get(bob.options))
    assert (answer.status_code, "passkey" in answer.text) == (401, True)
    assert await state(lab, parked.call.id) is State.PENDING


async def test_an_answer_for_one_call_or_decision_is_none_for_another(lab: VotingLab, bob: Browser) -> None:
    first, second = await lab.park(), await lab.park("ef" * 32)
    await bob.get(f"/approvals/{first.call.id}")
    answer = lab.key.get(bob.options)
    await bob.get(f"/approvals/{second.call.id}")
    assert (await bob.post(f"/approvals/{second.call.id}/approve", credential=answer)).status_code == 401
    denial = lab.key.get(await lab.voting.options(second, lab.approver(), Decision.DENY))
    assert (await bob.post(f"/approvals/{second.call.id}/approve", credential=denial)).status_code == 401
    login = lab.people.browser()
    await login.get("/login?tenant=acme")
    assert (
        await bob.post(f"/approvals/{second.call.id}/approve", credential=lab.key.get(login.options))
    ).status_code == 401
    assert await state(lab, second.call.id) is State.PENDING


async def test_nobody_approves_in_the_browser_what_their_identity_provider_vouched_for(lab: VotingLab) -> None:
    people, now = lab.people, lab.people.lab.clock.now()
    carol = await people.users.upstream_user("https://idp.example", "00u1", "acme", "carol", "", (), now)
    await people.admin.change(carol, duties=(Duty.APPROVER,))
    cookie = await people.logins.begin(Login("acme", carol.subject, "upstream", now), now)
    carols = people.browser()
    carols.http.cookies.set("__Host-twogate-login", cookie, domain="mcp.example.com", path="/")
    theirs = await lab.park(user=UserId("https://idp.example", "00u1"))
    response = await carols.get(f"/approvals/{theirs.call.id}")
    assert (response.status_code, "Your decision" in response.text) == (200, False)
    others = await lab.park(digest="ef" * 32, user=UserId("https://idp.example", "00u2"))
    assert "Your decision" in (await carols.get(f"/approvals/{others.call.id}")).text


async def test_another_tenants_call_is_not_there(lab: VotingLab) -> None:
    parked = await lab.park()
    await lab.people.add("eve", "globex", duties=(Duty.APPROVER, Duty.ADMINISTRATOR))
    eve = await lab.people.users.by_name("globex", "eve")
    assert eve is not None
    key = await lab.people.with_passkey(eve)
    browser = lab.people.browser()
    await browser.log_in_by(key, tenant="globex")
    assert (await browser.get(f"/approvals/{parked.call.id}")).status_code == 404
    inbox = await browser.get("/console/approvals")
    assert parked.call.id not in inbox.text
    await browser.get("/account")
    assert (await browser.post(f"/approvals/{parked.call.id}/deny")).status_code == 404
    assert await state(lab, parked.call.id) is State.PENDING


@pytest.mark.parametrize(
    "argument",
    [
        "pay \u202eeve\u202c",
        "pay\u200beve",
        "p\u0430y eve",
        "<script>alert(1)</script>",
        "</pre><form action=/x>",
        "a\nb",
    ],
)
async def test_an_argument_hides_nothing_and_brings_no_markup(lab: VotingLab, bob: Browser, argument: str) -> None:
    params = rfc8785.dumps({"arguments": {"message": argument, argument: 1}, "name": "git_commit"})
    parked = await lab.park(params=params)
    page = await bob.get(f"/approvals/{parked.call.id}")
    assert page.status_code == 200
    for hidden in ("\u202e", "\u202c", "\u200b", "<script>alert", "</pre><form"):
        assert hidden not in page.text
    assert json.dumps(argument, ensure_ascii=True)[1:-1] in unescape(page.text) or argument in unescape(page.text)
    assert ("outside plain ASCII" in page.text) == (not argument.isascii())
    assert "unsafe" not in page.headers["content-security-policy"]


@pytest.mark.parametrize("approval", ["x", "..", "a" * 200, "%00", "%E2%80%AE"])
async def test_an_id_that_is_none_is_not_found(bob: Browser, approval: str) -> None:
    answer: httpx2.Response = await bob.get(f"/approvals/{approval}")
    assert answer.status_code in (303, 404)


async def test_a_page_that_was_left_open_decides_nothing_once_it_is_decided(lab: VotingLab, bob: Browser) -> None:
    parked = await lab.park()
    await bob.get(f"/approvals/{parked.call.id}")
    credential = lab.key.get(bob.options)
    await lab.voting.deny(parked.call.id, lab.approver(), "")
    answer = await bob.post(f"/approvals/{parked.call.id}/approve", credential=credential)
    assert answer.status_code == 409
    assert await state(lab, parked.call.id) is State.DENIED


async def test_when_the_trail_cannot_be_written_nothing_is_decided(lab: VotingLab, bob: Browser) -> None:
    parked = await lab.park()
    await bob.get(f"/approvals/{parked.call.id}")
    credential = lab.key.get(bob.options)
    lab.people.lab.audit.broken = True
    answer = await bob.post(f"/approvals/{parked.call.id}/approve", credential=credential)
    assert answer.status_code == 503
    lab.people.lab.audit.broken = False
    assert await state(lab, parked.call.id) is State.PENDING


async def test_a_flood_of_calls_hides_no_older_one_without_saying_so(lab: VotingLab, bob: Browser) -> None:
    first = await lab.park()
    for number in range(MOST):
        made = msgspec.structs.replace(first.call, id=f"flood-{number:03}", created_at=first.call.created_at + 1)
        await lab.store.park(made, b"", f"{number:064x}", 1000, _nothing)
    page = await bob.get("/console/approvals")
    assert "flood-099" in page.text
    assert "More wait" in page.text
    await bob.get("/account")
    assert (await bob.get(f"/approvals/{first.call.id}")).status_code == 200
    assert (await bob.post(f"/approvals/{first.call.id}/deny")).status_code == 303
    assert "More wait" not in (await bob.get("/console/approvals")).text


async def test_a_name_that_is_cut_in_headings_stands_in_full_in_what_runs(lab: VotingLab, bob: Browser) -> None:
    # The pattern is the operator's, and the address beneath it the agent's.
    uri = "files.resource:file:///reports/" + "x" * 200 + "/secret"
    params = rfc8785.dumps({"form": "f", "method": "resources/read", "params": {}, "tool": uri})
    parked = await lab.park(params=params)
    assert f'"{uri}"' in unescape((await bob.get(f"/approvals/{parked.call.id}")).text)


async def _nothing() -> None:
    """Announce to nobody."""
