"""What a call that waits stands on, and why it falls."""

from __future__ import annotations

import msgspec
import pytest

from twogate.core.approval import Duty, Rule, State
from twogate.core.approval_grounds import Grounds, Voter, duties_now, named_voter, unable, why_over

NOW = 1_800_000_000
RULE = Rule(frozenset({Duty.APPROVER}), escalate_after=600, escalate_to=frozenset({Duty.OPERATOR}))
BOB = Voter("s-bob", "bob", True, (Duty.APPROVER,))
GRANTED = Grounds("a-1", "acme", "reporter", State.GRANTED, RULE, NOW, NOW + 3600, voters=(BOB,))
BY_GROUP = {"release": (Duty.APPROVER,), "audit": (Duty.VIEWER,)}


@pytest.mark.parametrize("state", [State.PENDING, State.GRANTED])
def test_a_call_stands_whose_session_agent_user_and_approvers_are_there(state: State) -> None:
    assert why_over(msgspec.structs.replace(GRANTED, state=state), {}, NOW) == ""


@pytest.mark.parametrize("state", [State.PENDING, State.GRANTED])
@pytest.mark.parametrize(
    ("lost", "why"),
    [
        ("session_ended", "its session was ended"),
        ("agent_disabled", "its agent was disabled"),
        ("user_disabled", "the person for whom it is made was disabled"),
    ],
)
def test_without_its_session_agent_or_user_it_is_over(state: State, lost: str, why: str) -> None:
    assert why_over(msgspec.structs.replace(GRANTED, state=state, **{lost: True}), {}, NOW) == why


@pytest.mark.parametrize(
    "voter",
    [
        msgspec.structs.replace(BOB, present=False),
        msgspec.structs.replace(BOB, duties=()),
        msgspec.structs.replace(BOB, duties=(Duty.VIEWER, Duty.OPERATOR)),
        msgspec.structs.replace(BOB, duties=(), groups=("audit", "nobody")),
        msgspec.structs.replace(BOB, present=False, duties=(), groups=("release",)),
    ],
    ids=["disabled", "no duty", "another duty", "a group without the duty", "disabled, in a group with it"],
)
def test_what_was_granted_rests_on_each_who_approved_and_what_waits_loses_the_vote(voter: Voter) -> None:
    eve = msgspec.structs.replace(BOB, subject="s-eve", name="eve")
    two = msgspec.structs.replace(GRANTED, voters=(eve, voter))
    assert why_over(two, BY_GROUP, NOW) == "acme/bob, who approved it, may not approve any more"
    waiting = msgspec.structs.replace(two, state=State.PENDING)
    assert (why_over(waiting, BY_GROUP, NOW), unable(waiting, BY_GROUP, NOW)) == ("", (voter,))


def test_a_duty_by_a_group_counts_as_well_as_an_own_one() -> None:
    by_group = msgspec.structs.replace(GRANTED, voters=(msgspec.structs.replace(BOB, duties=(), groups=("release",)),))
    assert unable(by_group, BY_GROUP, NOW) == ()
    assert unable(by_group, {}, NOW) == by_group.voters
    assert duties_now((Duty.VIEWER,), ("release", "x"), BY_GROUP) == {Duty.VIEWER, Duty.APPROVER}


def test_who_voted_after_the_escalation_still_may() -> None:
    late = msgspec.structs.replace(GRANTED, voters=(msgspec.structs.replace(BOB, duties=(Duty.OPERATOR,)),))
    assert unable(late, {}, NOW + 599) == late.voters
    assert unable(late, {}, NOW + 600) == ()


def test_somebody_who_is_not_known_here_is_nobody_who_may_approve() -> None:
    ghost = msgspec.structs.replace(GRANTED, voters=(Voter("s-ghost"),))
    assert named_voter(ghost, Voter("s-ghost")) == "s-ghost"
    assert why_over(ghost, {}, NOW) == "s-ghost, who approved it, may not approve any more"
