"""What a call that waits stands on, and why it falls: its session, its agent, and those who approved it (row R-34).

Pure. A call is decided by people who may decide, for an agent that may ask. Whatever of this ends before the call runs
ends the call, or takes back the vote that it rested on; what ran already stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from twogate.core.approval import Duty, Rule, State

SESSION_ENDED: Final = "its session was ended"
AGENT_DISABLED: Final = "its agent was disabled"
AGENT_DROPPED: Final = "its agent is not registered any more"
USER_DISABLED: Final = "the person for whom it is made was disabled"

DutiesOfGroups = Mapping[str, Sequence[Duty]]
"""The duties that membership of a group brings."""


class Voter(msgspec.Struct, frozen=True):
    """Somebody who approved, as of now. `present`: they are known here and not disabled.

    `duties` are their own; `groups` as their identity provider told at their last login, or an operator.
    """

    subject: str
    name: str = ""
    present: bool = False
    duties: tuple[Duty, ...] = ()
    groups: tuple[str, ...] = ()


class Grounds(msgspec.Struct, frozen=True):
    """What a parked call stands on, as of now. `ran`: it was started, or may have been. Times are Unix seconds."""

    approval: str
    tenant: str
    agent: str
    state: State
    rule: Rule
    created_at: int
    deadline: int
    ran: bool = False
    session_ended: bool = False
    agent_disabled: bool = False
    user_disabled: bool = False
    voters: tuple[Voter, ...] = ()


def unable(grounds: Grounds, by_group: DutiesOfGroups, now: int) -> tuple[Voter, ...]:
    """Those who approved and could not any more: disabled, gone, or without a duty that the rule asks for."""
    wanted = grounds.rule.voters(now - grounds.created_at)
    return tuple(
        voter
        for voter in grounds.voters
        if not voter.present or wanted.isdisjoint(duties_now(voter.duties, voter.groups, by_group))
    )


def why_over(grounds: Grounds, by_group: DutiesOfGroups, now: int) -> str:
    """Why a call that did not run must not run any more; '' if it stands. That its time is over is none of this.

    A call that still waits only loses the votes of those who could not approve any more; one that was granted rests on
    every one of them.
    """
    if grounds.session_ended:
        return SESSION_ENDED
    if grounds.agent_disabled:
        return AGENT_DISABLED
    if grounds.user_disabled:
        return USER_DISABLED
    if grounds.state is not State.GRANTED:
        return ""
    lost = unable(grounds, by_group, now)
    return f"{named_voter(grounds, lost[0])}, who approved it, may not approve any more" if lost else ""


def named_voter(grounds: Grounds, voter: Voter) -> str:
    """Who somebody is who voted, as the audit trail names people; the subject of one who is not known here."""
    return f"{grounds.tenant}/{voter.name}" if voter.name else voter.subject


def duties_now(own: Sequence[Duty], groups: Sequence[str], by_group: DutiesOfGroups) -> frozenset[Duty]:
    """What a person may do here: by their own duties, and those of their groups."""
    return frozenset(own).union(*(by_group.get(group, ()) for group in groups))
