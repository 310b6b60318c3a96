"""R-34: what a waiting call stands on ends, and the call ends with it at once; limits keep people reading."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from approvallab import RULE, VotingLab, open_approval_lab
from harness.issuer import TestIssuer
from harness.upstream import RecordingUpstream
from peoplelab import Browser
from twogate.adapters.signers.agent_key import new_agent_key
from twogate.core.approval import Duty, State
from twogate.core.audit.record import EventKind
from twogate.core.errors import GateError
from twogate.core.principal import AgentId
from twogate.flows.agents import AgentAdmin
from twogate.flows.approvals.parked import MAX_ASKED, MAX_WAITING, Parked
from twogate.flows.approvals.voting import WINDOW
from twogate.flows.authserver.people import User
from twogate.flows.session_admin import SessionAdmin
from twogate.stores.sql.operations import SqlOperationStore
from twogate.stores.sql.registry import SqlRegistryStore
from twogate.stores.sql.users import SqlUserStore
from twogate.web.visitors import shown_time
from waitinglab import DUTIES, TASKS, WaitingLab, open_waiting_lab, reason, said

BOB = User("acme", "bob", "bob", duties=DUTIES)


@pytest.fixture
async def lab(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[WaitingLab]:
    """A gateway that looks often for what is over."""
    monkeypatch.setattr("twogate.notices.EVERY", 0.02)
    async with open_waiting_lab(tmp_path, issuer, upstream) as made:
        yield made


@pytest.fixture
async def unswept(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[WaitingLab]:
    """A gateway that does not look, so that what is judged is judged where the call runs."""
    monkeypatch.setattr("twogate.notices.EVERY", 3600.0)
    async with open_waiting_lab(tmp_path, issuer, upstream) as made:
        yield made


@pytest.fixture
async def votes(tmp_path: Path) -> AsyncGenerator[VotingLab]:
    async with open_approval_lab(tmp_path) as made:
        yield made


async def cut_off(lab: WaitingLab, way: str, parked: Parked) -> None:
    state, now = lab.stack.state, parked.call.created_at
    users = SqlUserStore(state.engine)
    match way:
        case "the session is ended":
            # What the console's button and the command do.
            await SessionAdmin(state.sessions, state.audit, state.clock).end(parked.call.session)
        case "the agent is paused":
            await _agents(lab).disable(AgentId("acme", "robot"))
        case "a reload drops the agent":
            del lab.settings["agents"]["acme/robot"], lab.settings["clients"]["gate"]
            lab.stack.adopt(lab.settings)
        case "the approver is disabled":
            await users.disable("acme", "bob", now, now)
        case _:
            await users.change(msgspec.structs.replace(BOB, duties=(Duty.VIEWER,)))


def _agents(lab: WaitingLab) -> AgentAdmin:
    state = lab.stack.state
    return AgentAdmin(
        registry=state.registry,
        store=state.registry_store,
        clients=state.clients,
        audit=state.audit,
        clock=state.clock,
        rng=state.rng,
        new_key=new_agent_key,
    )


WAYS = {
    "the session is ended": ("its session was ended", {"session_ended", "approval_cancelled"}),
    "the agent is paused": ("its agent was disabled", {"agent_disabled"}),
    "a reload drops the agent": ("its agent is not registered any more", {"agent_unbound"}),
    "the approver is disabled": ("acme/bob, who approved it, may not approve any more", {"approval_cancelled"}),
    "the approver loses the duty": ("acme/bob, who approved it, may not approve any more", {"approval_cancelled"}),
}
_OF_THE_APPROVER = frozenset({"the approver is disabled", "the approver loses the duty"})


@pytest.mark.parametrize(
    ("way", "granted"),
    [(way, granted) for way in WAYS for granted in (False, True) if granted or way not in _OF_THE_APPROVER],
)
async def test_whoever_is_cut_off_takes_the_waiting_call_along_before_anybody_asks_again(
    lab: WaitingLab, way: str, granted: bool
) -> None:
    await lab.change()
    parked = await lab.only()
    if granted:
        await lab.decide(parked)
    await cut_off(lab, way, parked)
    async with asyncio.timeout(10):
        # As the inbox reads it; nobody asks for the call.
        while [one.call.id for one in await lab.store.list("acme", frozenset({State.CANCELLED}), 10)] == []:
            await asyncio.sleep(0.01)
    why, refused = WAYS[way]
    (event,) = [event for event in lab.stack.events() if event["kind"] == "approval.cancelled"]
    assert (event["request"], event["detail"], event["session"]) == (parked.call.id, why, parked.call.session)
    answer = await lab.change(twogate_session=parked.call.session)
    assert (reason(answer) if answer.status_code != 401 else lab.last_refusal()["reason"]) in refused
    assert lab.ran == []
    assert await lab.state(parked) is State.CANCELLED


async def test_the_waiting_calls_of_others_go_on(lab: WaitingLab) -> None:
    await lab.change()
    await lab.change(token=lab.token(azp="twin", sub="twin"))
    twins = next(one for one in await lab.waiting() if one.call.agent == "twin")
    await cut_off(lab, "the agent is paused", twins)
    async with asyncio.timeout(10):
        while len(await lab.waiting()) > 1:
            await asyncio.sleep(0.01)
    assert (await lab.only()).call.id == twins.call.id
    await lab.decide(twins)
    assert said(await lab.change(token=lab.token(azp="twin", sub="twin")))["result"]["isError"] is False
    assert lab.ran == ["change"]


@pytest.mark.parametrize("way", sorted(_OF_THE_APPROVER))
@pytest.mark.parametrize("form", ["the same call", "a task"])
async def test_who_may_not_approve_any_more_has_not_approved_when_it_is_about_to_run(
    unswept: WaitingLab, way: str, form: str
) -> None:
    lab = unswept
    task: dict[str, Any] = {}
    if form == "a task":
        task["taskId"] = said(await lab.modern_change(capabilities=TASKS))["result"]["taskId"]
    else:
        await lab.change()
    parked = await lab.decide()
    await cut_off(lab, way, parked)
    if task:
        assert said(await lab.modern("tasks/get", task, TASKS))["result"]["status"] == "cancelled"
    assert reason(await lab.change()) == "approval_cancelled"
    assert lab.ran == []
    (event,) = [event for event in lab.stack.events() if event["kind"] == "approval.cancelled"]
    assert event["detail"] == WAYS[way][0]


async def test_who_is_disabled_while_the_call_starts_has_not_approved_either(
    unswept: WaitingLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, start = unswept, SqlOperationStore.start
    await lab.change()
    parked = await lab.decide()

    async def slow(self: SqlOperationStore, *arguments: Any) -> object:
        standing = await start(self, *arguments)
        await cut_off(lab, "the approver is disabled", parked)
        return standing

    monkeypatch.setattr(SqlOperationStore, "start", slow)
    assert reason(await lab.change()) == "approval_cancelled"
    assert lab.ran == []
    assert await lab.state(parked) is State.CANCELLED


# At the vote.


async def test_a_vote_does_not_count_whose_person_was_disabled_before_the_deciding_one(votes: VotingLab) -> None:
    parked = await votes.park(rule=msgspec.structs.replace(RULE, people=2))
    await votes.voting.approve(parked.call.id, votes.approver(), await votes.answer(parked), "")
    await votes.people.admin.disable(votes.bob)
    eve, _ = await votes.people.add("eve", duties=(Duty.APPROVER,))
    votes.key = await votes.people.with_passkey(eve)
    voted = await votes.voting.approve(parked.call.id, votes.approver(eve), await votes.answer(parked, user=eve), "")
    assert (voted.state, [vote.approver for vote in voted.votes]) == (State.PENDING, [eve.subject])
    (event,) = votes.events(EventKind.APPROVAL_WITHDRAWN)
    assert (event.request, event.client) == (parked.call.id, "acme/bob")


async def test_nobody_approves_for_an_agent_that_was_just_paused(votes: VotingLab) -> None:
    parked = await votes.park()
    browser = votes.people.browser()
    assert (await browser.log_in_by(votes.key)).status_code == 303
    await browser.get(f"/approvals/{parked.call.id}")
    credential = votes.key.get(browser.options)
    await SqlRegistryStore(votes.people.lab.engine).disable_agent(AgentId("acme", "reporter"), 1)
    answer = await browser.post(f"/approvals/{parked.call.id}/approve", credential=credential)
    assert (answer.status_code, "Cancelled. It does not run." in answer.text) == (409, True)
    (event,) = votes.events(EventKind.APPROVAL_CANCELLED)
    assert event.detail == "its agent was disabled"
    assert votes.events(EventKind.APPROVAL_VOTED) == []


# Limits against consent fatigue.


async def test_who_approved_too_many_reads_when_they_can_again_and_can_deny(
    votes: VotingLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twogate.flows.approvals.voting.MAX_APPROVALS", 1)
    bob: Browser = votes.people.browser()
    assert (await bob.log_in_by(votes.key)).status_code == 303
    first, second = await votes.park(), await votes.park("ef" * 32)
    await bob.get(f"/approvals/{first.call.id}")
    path = f"/approvals/{first.call.id}/approve"
    assert (await bob.post(path, credential=votes.key.get(bob.options))).status_code == 303
    again_at = votes.people.lab.clock.now() + WINDOW
    votes.people.lab.clock.seconds += 60
    await bob.get(f"/approvals/{second.call.id}")
    answer = await bob.post(f"/approvals/{second.call.id}/approve", credential=votes.key.get(bob.options))
    assert answer.status_code == 429
    # To the minute, and never too early.
    assert f"You can approve again from {shown_time(again_at + 59)}; denying is always possible." in answer.text
    assert (await bob.post(f"/approvals/{second.call.id}/deny")).status_code == 303
    current = await votes.parking.current(second.call.id)
    assert current is not None
    assert current.state is State.DENIED
    third = await votes.park("aa" * 32)
    votes.people.lab.clock.seconds += WINDOW - 60
    granted = await votes.voting.approve(third.call.id, votes.approver(), await votes.answer(third), "")
    assert granted.state is State.GRANTED


async def test_of_two_pages_that_approve_at_once_one_is_over_the_limit(
    votes: VotingLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twogate.flows.approvals.voting.MAX_APPROVALS", 1)
    parked = [await votes.park(f"{number:064x}") for number in range(4)]
    answers = [await votes.answer(one) for one in parked]

    async def approve(one: Parked, answer: str) -> str:
        try:
            return (await votes.voting.approve(one.call.id, votes.approver(), answer, "")).state.value
        except GateError as error:
            return error.code.value

    said = await asyncio.gather(*map(approve, parked, answers))
    # Of one passkey's answers that come in another order than they were made, some are refused for that.
    assert said.count("granted") == 1
    assert set(said) <= {"granted", "approvals_limited", "passkey_refused"}


async def test_an_agent_that_is_denied_asks_people_only_so_often(votes: VotingLab) -> None:
    for number in range(MAX_ASKED):
        parked = await votes.park(f"{number:064x}")
        if number % MAX_WAITING:
            await votes.voting.deny(parked.call.id, votes.approver(), "")
        else:
            # What it takes back itself was asked all the same.
            assert await votes.parking.cancel(parked, "the agent cancelled it")
        votes.people.lab.clock.seconds += 1
    with pytest.raises(GateError, match="rate_limited") as refused:
        await votes.park("ab" * 32)
    assert refused.value.data == {"retry_after": WINDOW - MAX_ASKED}
    votes.people.lab.clock.seconds += WINDOW - MAX_ASKED
    assert (await votes.park("ab" * 32)).state is State.PENDING


# Whoever has to hear of it, does.


async def test_after_the_escalation_others_decide_who_could_not_before_and_the_page_says_when(votes: VotingLab) -> None:
    rule = msgspec.structs.replace(
        RULE, remind_after=60, escalate_after=600, escalate_to=frozenset({Duty.OPERATOR, Duty.ADMINISTRATOR})
    )
    parked = await votes.park(rule=rule)
    path, clock = f"/approvals/{parked.call.id}", votes.people.lab.clock
    olga, _ = await votes.people.add("olga", duties=(Duty.OPERATOR,))
    key = await votes.people.with_passkey(olga)
    browser = votes.people.browser()
    assert (await browser.log_in_by(key)).status_code == 303
    page = await browser.get(path)
    later = f"approver; from {shown_time(clock.now() + 600)} on also administrator or operator"
    assert (later in page.text, "Your decision" in page.text) == (True, False)
    # An operator may pause the agent at any time.
    assert 'href="/console/agents"' in page.text
    await browser.get("/account")
    assert (await browser.post(f"{path}/deny")).status_code == 403
    clock.seconds += 600
    store = votes.store
    assert await store.note(parked.call.id, reminded_at=clock.now() - 540)
    assert await store.note(parked.call.id, escalated_at=clock.now())
    page = await browser.get(path)
    assert "<dd>administrator or approver or operator</dd>" in page.text
    assert f"<dt>Reminded</dt><dd>{shown_time(clock.now() - 540)}</dd>" in page.text
    assert f"<dt>Escalated</dt><dd>{shown_time(clock.now())}</dd>" in page.text
    answer = await browser.post(f"{path}/approve", credential=key.get(browser.options), comment="nobody else is here")
    assert answer.status_code == 303
    assert "nobody else is here" in (await browser.get(path)).text
    # What somebody granted after the escalation stays granted.
    current = await votes.parking.current(parked.call.id)
    assert current is not None
    assert current.state is State.GRANTED


async def test_an_approver_who_is_no_operator_is_not_sent_to_pause_agents(votes: VotingLab) -> None:
    parked = await votes.park()
    bob = votes.people.browser()
    assert (await bob.log_in_by(votes.key)).status_code == 303
    page = await bob.get(f"/approvals/{parked.call.id}")
    assert ("<dt>Who decides</dt><dd>approver</dd>" in page.text, "/console/agents" in page.text) == (True, False)


async def test_a_comment_is_read_by_the_next_and_brings_no_markup(votes: VotingLab) -> None:
    parked = await votes.park(rule=msgspec.structs.replace(RULE, people=2))
    said = "see <b>ticket</b> \u202e7" + "x" * 600
    await votes.voting.approve(parked.call.id, votes.approver(), await votes.answer(parked), said)
    eve, _ = await votes.people.add("eve", duties=(Duty.APPROVER,))
    key = await votes.people.with_passkey(eve)
    browser = votes.people.browser()
    assert (await browser.log_in_by(key)).status_code == 303
    page = await browser.get(f"/approvals/{parked.call.id}")
    assert "see &lt;b&gt;ticket&lt;/b&gt; [U+202E]7x" in page.text
    assert "x" * 500 not in page.text
    assert "Your decision" in page.text
