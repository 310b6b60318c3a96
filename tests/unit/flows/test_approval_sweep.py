"""Calls end on time, and with what they stand on, though nobody asks for them; once, however many look."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from gatelab import RecordingAudit
from noticelab import ALICE, NoticeLab, open_notice_lab
from twogate.adapters.envelope import LocalEnvelope
from twogate.adapters.rng import SystemRng
from twogate.core.approval import Decision, Duty, ParkedCall, Rule, State, Vote
from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.errors import GateError
from twogate.core.principal import AgentId
from twogate.flows.approvals.parked import Parking
from twogate.flows.approvals.sweep import Sweep
from twogate.flows.authserver.people import User
from twogate.flows.operations.store import Operation
from twogate.stores.sql.operations import SqlOperationStore
from twogate.stores.sql.registry import SqlRegistryStore
from twogate.stores.sql.users import SqlUserStore

ONE = Rule(frozenset({Duty.APPROVER}))
TWO = Rule(frozenset({Duty.APPROVER}), people=2)
AGENT = AgentId("acme", "reporter")


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[NoticeLab]:
    async with open_notice_lab(f"sqlite:///{tmp_path / 'twogate.db'}") as made:
        yield made


def parking(lab: NoticeLab) -> Parking:
    rng = SystemRng()
    by_group = {"release": (Duty.APPROVER,)}
    return Parking(lab.parked, LocalEnvelope(bytes(32), rng), lab.audit, lab.clock, rng, by_group)


def sweep(lab: NoticeLab) -> Sweep:
    """What a process has; another one is another replica."""
    return Sweep(parking(lab), lab.parked, lab.clock)


async def approve(lab: NoticeLab, call: ParkedCall, who: str, **person: object) -> State:
    user = msgspec.structs.replace(User("acme", who, who, duties=(Duty.APPROVER,)), **person)
    await SqlUserStore(lab.engine).add(user)

    async def nothing(_: State) -> None:
        """No event."""

    voted = await lab.parked.vote(call.id, Vote(who, Decision.APPROVE, lab.clock.now()), "", nothing)
    assert voted is not None
    return voted.state


async def state(lab: NoticeLab, call: ParkedCall) -> State:
    """As stored: whoever asked for it as of now would change it."""
    found = await lab.parked.get(call.id)
    assert found is not None
    return found.state


def told(lab: NoticeLab) -> list[tuple[EventKind, str, str]]:
    return [(event.kind, event.request, event.detail) for event in lab.audit.events]


async def test_what_waits_or_was_granted_expires_on_time_though_nobody_asks(lab: NoticeLab) -> None:
    waiting = await lab.park(rule=ONE)
    granted = await lab.park(rule=ONE)
    later = await lab.park(rule=ONE, deadline=lab.clock.now() + 7200)
    assert await approve(lab, granted, "bob") is State.GRANTED
    lab.clock.advance(3599)
    await sweep(lab).run()
    assert lab.audit.events == []
    lab.clock.advance(1)
    await asyncio.gather(*(sweep(lab).run() for _ in range(4)))
    assert [await state(lab, call) for call in (waiting, granted, later)] == [
        State.EXPIRED,
        State.EXPIRED,
        State.PENDING,
    ]
    expired = EventKind.APPROVAL_EXPIRED
    assert sorted(told(lab)) == [(expired, waiting.id, ""), (expired, granted.id, "")]
    assert [event.at for event in lab.audit.events] == [lab.clock.now_us()] * 2


async def test_of_many_replicas_one_cancels_and_says_why(lab: NoticeLab) -> None:
    call, granted, other = await lab.park(rule=ONE), await lab.park(rule=ONE), await lab.park(agent="tester")
    await approve(lab, granted, "bob")
    await SqlRegistryStore(lab.engine).disable_agent(AGENT, lab.clock.now())
    await asyncio.gather(*(sweep(lab).run() for _ in range(5)))
    assert [await state(lab, one) for one in (call, granted, other)] == [
        State.CANCELLED,
        State.CANCELLED,
        State.PENDING,
    ]
    why = (EventKind.APPROVAL_CANCELLED, "its agent was disabled")
    assert sorted((kind, detail) for kind, _, detail in told(lab)) == [why, why]
    # What was cancelled stays so when the agent is let in again.
    await SqlRegistryStore(lab.engine).enable_agent(AGENT)
    await sweep(lab).run()
    assert await state(lab, call) is State.CANCELLED


async def test_a_call_for_a_person_who_was_disabled_is_cancelled(lab: NoticeLab) -> None:
    users = SqlUserStore(lab.engine)
    await users.add(User("acme", ALICE.subject, "alice"))
    hers, agents = await lab.park(), await lab.park(user=None)
    await users.disable("acme", ALICE.subject, 0, lab.clock.now())
    await sweep(lab).run()
    assert (await state(lab, hers), await state(lab, agents)) == (State.CANCELLED, State.PENDING)
    assert told(lab) == [(EventKind.APPROVAL_CANCELLED, hers.id, "the person for whom it is made was disabled")]


async def test_agents_that_the_settings_took_away_leave_nothing_that_waits(lab: NoticeLab) -> None:
    call, granted, other = await lab.park(rule=ONE), await lab.park(rule=ONE), await lab.park(tenant="globex")
    await approve(lab, granted, "bob")
    await sweep(lab).run()
    assert lab.audit.events == []
    await sweep(lab).run([AGENT])
    await sweep(lab).run([AGENT])
    assert [await state(lab, one) for one in (call, granted, other)] == [
        State.CANCELLED,
        State.CANCELLED,
        State.PENDING,
    ]
    assert [detail for _, _, detail in told(lab)] == ["its agent is not registered any more"] * 2


@pytest.mark.parametrize("how", ["disabled", "no duty", "out of the group"])
async def test_what_was_granted_by_somebody_who_may_not_any_more_does_not_run(lab: NoticeLab, how: str) -> None:
    users, call = SqlUserStore(lab.engine), await lab.park(rule=TWO)
    await approve(lab, call, "eve")
    # Two duties by which he may, of which one is enough.
    assert await approve(lab, call, "bob", groups=("release",)) is State.GRANTED
    bob = User("acme", "bob", "bob", duties=(Duty.APPROVER,))
    await users.change(bob)
    await sweep(lab).run()
    await users.change(msgspec.structs.replace(bob, duties=(), groups=("release", "other")))
    await sweep(lab).run()
    assert await state(lab, call) is State.GRANTED
    if how == "disabled":
        await users.disable("acme", "bob", 0, lab.clock.now())
    elif how == "no duty":
        await users.change(msgspec.structs.replace(bob, duties=(Duty.VIEWER,)))
    else:
        await users.describe(msgspec.structs.replace(bob, groups=("other",)))
    await sweep(lab).run()
    assert await state(lab, call) is State.CANCELLED
    why = "acme/bob, who approved it, may not approve any more"
    assert told(lab) == [(EventKind.APPROVAL_CANCELLED, call.id, why)]


async def test_while_it_waits_a_call_loses_their_vote_and_others_decide(lab: NoticeLab) -> None:
    users, call = SqlUserStore(lab.engine), await lab.park(rule=TWO)
    await approve(lab, call, "bob")
    await users.disable("acme", "bob", 0, lab.clock.now())
    await asyncio.gather(*(sweep(lab).run() for _ in range(3)))
    (event,) = lab.audit.events
    assert (event.kind, event.request, event.client) == (EventKind.APPROVAL_WITHDRAWN, call.id, "acme/bob")
    # Let in again, his vote is not, and he can give it anew.
    await users.enable("acme", "bob")
    assert await approve(lab, call, "eve") is State.PENDING
    assert await approve(lab, call, "bob") is State.GRANTED


async def test_what_ran_stays_what_it_is(lab: NoticeLab) -> None:
    call = await lab.park(rule=ONE)
    await approve(lab, call, "bob")
    operations, now = SqlOperationStore(lab.engine), lab.clock.now()
    assert await operations.start(Operation(call.id, "acme", call.digest, call.deadline), "e", "me", now) is None
    await SqlUserStore(lab.engine).disable("acme", "bob", 0, now)
    await SqlRegistryStore(lab.engine).disable_agent(AGENT, now)
    await sweep(lab).run([AGENT])
    lab.clock.advance(3600)
    await sweep(lab).run([AGENT])
    assert (await state(lab, call), lab.audit.events) == (State.GRANTED, [])


async def test_what_cannot_be_written_down_is_not_done_and_is_done_later(lab: NoticeLab) -> None:
    class Refusing(RecordingAudit):
        refusing = True

        async def append(self, event: AuditEvent) -> None:
            self.refuses = frozenset(EventKind) if self.refusing else frozenset()
            await super().append(event)

    lab.audit = audit = Refusing()
    call = await lab.park(rule=TWO)
    await approve(lab, call, "bob")
    await SqlUserStore(lab.engine).disable("acme", "bob", 0, lab.clock.now())
    with pytest.raises(GateError, match="audit_unavailable"):
        await sweep(lab).run()
    kept = await lab.parked.get(call.id)
    assert kept is not None
    assert [vote.approver for vote in kept.votes] == ["bob"]
    await SqlRegistryStore(lab.engine).disable_agent(AGENT, lab.clock.now())
    with pytest.raises(GateError, match="audit_unavailable"):
        await sweep(lab).run()
    assert await state(lab, call) is State.PENDING
    audit.refusing = False
    await sweep(lab).run()
    assert await state(lab, call) is State.CANCELLED
