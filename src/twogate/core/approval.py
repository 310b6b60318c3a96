"""Approvals: a call that waits for people, what they sign, and the life of both (DESIGN decisions 8 and 9; row R-34).

Pure. `TRANSITIONS` is the one table of what may follow what; `tally` turns people's votes into a verdict; `signed_form`
is exactly what a passkey signs, so that anybody can verify an approval later, offline, from the audit trail.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import msgspec
import rfc8785

from twogate.core.principal import UserId

FORM: Final = b"twogate-approval-v1"
"""What the signed bytes begin with, so that a signature over anything else is never one over an approval."""

MAX_COMMENT: Final = 500
"""Characters that an approver may say."""


class Duty(StrEnum):
    """What a person may do here; apart from the roles by which agents act for them."""

    VIEWER = "viewer"
    APPROVER = "approver"
    OPERATOR = "operator"
    ADMINISTRATOR = "administrator"


class State(StrEnum):
    """Where the question stands whether a parked call may run. What becomes of the run is its operation's state."""

    PENDING = "pending"
    GRANTED = "granted"
    DENIED = "denied"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class Step(StrEnum):
    """What can happen to a parked call before it runs."""

    GRANT = "grant"
    DENY = "deny"
    EXPIRE = "expire"
    CANCEL = "cancel"


TRANSITIONS: Final[Mapping[tuple[State, Step], State]] = MappingProxyType(
    {
        (State.PENDING, Step.GRANT): State.GRANTED,
        (State.PENDING, Step.DENY): State.DENIED,
        (State.PENDING, Step.EXPIRE): State.EXPIRED,
        (State.PENDING, Step.CANCEL): State.CANCELLED,
        # Granted, and not run by its deadline, or not to be run any more.
        (State.GRANTED, Step.EXPIRE): State.EXPIRED,
        (State.GRANTED, Step.CANCEL): State.CANCELLED,
    }
)
"""Every other pair is refused: nothing leads out of the other states."""


def after(state: State, step: Step) -> State | None:
    """The state after a step; None if the step is not possible there."""
    return TRANSITIONS.get((state, step))


class Decision(StrEnum):
    """What an approver says."""

    APPROVE = "approve"
    DENY = "deny"


class Rule(msgspec.Struct, frozen=True):
    """Who must agree to a call, and within which time (seconds).

    Anybody with one of the `duties` may vote, `people` different ones must approve, and one who denies ends it.
    `not_requester`: the user on whose behalf the agent calls has no vote.
    """

    duties: frozenset[Duty]
    people: int = 1
    not_requester: bool = True
    within: int = 3600
    remind_after: int | None = None
    escalate_after: int | None = None
    escalate_to: frozenset[Duty] = frozenset()

    def voters(self, waited: int) -> frozenset[Duty]:
        """The duties that may vote after so many seconds of waiting: more of them once it was escalated."""
        if self.escalate_after is not None and waited >= self.escalate_after:
            return self.duties | self.escalate_to
        return self.duties


class ParkedCall(msgspec.Struct, frozen=True):
    """A call that waits. Times are Unix seconds; `digest` is the call digest in hex, `pin` the tool's, '' without one.

    `nonce` is random and never told to the agent, so what an approver signs cannot be made up ahead of time.
    """

    id: str
    nonce: str
    tenant: str
    issuer: str
    agent: str
    user: UserId | None
    session: str
    task: str
    server: str
    tool: str
    pin: str
    digest: str
    created_at: int
    deadline: int
    rule: Rule


class Vote(msgspec.Struct, frozen=True):
    """What one person said, and when (Unix seconds). `approver` is the person's subject within the call's tenant."""

    approver: str
    decision: Decision
    at: int
    comment: str = ""


def tally(rule: Rule, votes: Sequence[Vote]) -> State:
    """What the votes amount to: PENDING, GRANTED or DENIED. Of one person only the first vote counts."""
    first: dict[str, Decision] = {}
    for vote in votes:
        first.setdefault(vote.approver, vote.decision)
    if Decision.DENY in first.values():
        return State.DENIED
    return State.GRANTED if len(first) >= rule.people else State.PENDING


def may_vote(call: ParkedCall, approver: UserId, duties: frozenset[Duty], now: int) -> bool:
    """Whether a person of the call's tenant may vote on it at this time. `approver` is our own server's user."""
    if call.rule.not_requester and call.user == approver:
        return False
    return not duties.isdisjoint(call.rule.voters(now - call.created_at))


def signed_form(call: ParkedCall, decision: Decision, approver: str) -> bytes:
    """The bytes over which approvers sign: FORM, a line feed, and RFC 8785 JSON of what is decided (decision 8).

    The decision is in there, so a signature that denies can never be shown as one that approves; so is the approver,
    the whole identity of the caller, the tool's pin and the digest of the very call.
    """
    user = None if call.user is None else {"issuer": call.user.issuer, "subject": call.user.subject}
    return (
        FORM
        + b"\n"
        + rfc8785.dumps(
            {
                "agent": call.agent,
                "approval": call.id,
                "approver": approver,
                "deadline": call.deadline,
                "decision": decision.value,
                "digest": call.digest,
                "issuer": call.issuer,
                "nonce": call.nonce,
                "pin": call.pin,
                "sid": call.session,
                "tenant": call.tenant,
                "tool": call.tool,
                "user": user,
            }
        )
    )


def challenge(call: ParkedCall, decision: Decision, approver: str) -> bytes:
    """The WebAuthn challenge of a vote: SHA-256 over `signed_form`, 32 bytes."""
    return hashlib.sha256(signed_form(call, decision, approver)).digest()
