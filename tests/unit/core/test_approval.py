"""What approvers sign, who may vote, and what votes amount to."""

from __future__ import annotations

import hashlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twogate.core.approval import (
    TRANSITIONS,
    Decision,
    Duty,
    ParkedCall,
    Rule,
    State,
    Step,
    Vote,
    after,
    challenge,
    may_vote,
    signed_form,
    tally,
)
from twogate.core.principal import UserId

NOW = 1_800_000_000
ALICE = UserId("https://mcp.example.com", "alice")
RULE = Rule(frozenset({Duty.APPROVER}))
CALL = ParkedCall(
    id="approval-1",
    nonce="nonce-1",
    tenant="acme",
    issuer="https://mcp.example.com",
    agent="reporter",
    user=ALICE,
    session="session-1",
    task="release",
    server="git",
    tool="git.git_commit",
    pin="ab" * 32,
    digest="cd" * 32,
    created_at=NOW,
    deadline=NOW + 3600,
    rule=RULE,
)
BOUND = ("id", "nonce", "tenant", "issuer", "agent", "session", "tool", "pin", "digest")


def test_the_signed_form_is_canonical_json_behind_its_name() -> None:
    head, _, body = signed_form(CALL, Decision.APPROVE, "bob").partition(b"\n")
    assert head == b"twogate-approval-v1"
    assert json.loads(body) == {
        "agent": "reporter",
        "approval": "approval-1",
        "approver": "bob",
        "deadline": NOW + 3600,
        "decision": "approve",
        "digest": "cd" * 32,
        "issuer": "https://mcp.example.com",
        "nonce": "nonce-1",
        "pin": "ab" * 32,
        "sid": "session-1",
        "tenant": "acme",
        "tool": "git.git_commit",
        "user": {"issuer": "https://mcp.example.com", "subject": "alice"},
    }
    assert body == json.dumps(json.loads(body), sort_keys=True, separators=(",", ":")).encode()
    assert challenge(CALL, Decision.APPROVE, "bob") == hashlib.sha256(head + b"\n" + body).digest()


def test_nothing_that_is_bound_can_be_another_under_the_same_signature() -> None:
    made = {challenge(CALL, Decision.APPROVE, "bob"), challenge(CALL, Decision.DENY, "bob")}
    made.add(challenge(CALL, Decision.APPROVE, "eve"))
    for name in BOUND:
        made.add(challenge(msgspec.structs.replace(CALL, **{name: "other"}), Decision.APPROVE, "bob"))
    for user in (None, UserId(ALICE.issuer, "bob"), UserId("https://idp.example", "alice")):
        made.add(challenge(msgspec.structs.replace(CALL, user=user), Decision.APPROVE, "bob"))
    made.add(challenge(msgspec.structs.replace(CALL, deadline=NOW + 1), Decision.APPROVE, "bob"))
    assert len(made) == 3 + len(BOUND) + 3 + 1


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("step", list(Step))
def test_nothing_leads_out_of_an_end_and_nothing_but_people_grants(state: State, step: Step) -> None:
    reached = after(state, step)
    assert reached == TRANSITIONS.get((state, step))
    if state in (State.DENIED, State.EXPIRED, State.CANCELLED):
        assert reached is None
    if reached is State.GRANTED:
        assert (state, step) == (State.PENDING, Step.GRANT)


def votes(*said: tuple[str, Decision]) -> list[Vote]:
    return [Vote(who, decision, NOW) for who, decision in said]


def test_as_many_different_people_as_the_rule_says_must_approve() -> None:
    two = msgspec.structs.replace(RULE, people=2)
    yes = Decision.APPROVE
    assert tally(two, []) is State.PENDING
    assert tally(two, votes(("bob", yes))) is State.PENDING
    assert tally(two, votes(("bob", yes), ("bob", yes))) is State.PENDING
    assert tally(two, votes(("bob", yes), ("eve", yes))) is State.GRANTED


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(Decision))), st.integers(1, 3))
def test_one_who_denied_first_ends_it_whoever_approves(said: list[tuple[str, Decision]], people: int) -> None:
    first: dict[str, Decision] = {}
    for who, decision in said:
        first.setdefault(who, decision)
    verdict = tally(msgspec.structs.replace(RULE, people=people), votes(*said))
    if Decision.DENY in first.values():
        assert verdict is State.DENIED
    else:
        assert (verdict is State.GRANTED) == (len(first) >= people)


def test_the_user_for_whom_the_agent_calls_has_no_vote_unless_the_rule_says_so() -> None:
    approver = frozenset({Duty.APPROVER})
    assert may_vote(CALL, UserId(ALICE.issuer, "bob"), approver, NOW) is True
    assert may_vote(CALL, ALICE, approver, NOW) is False
    lenient = msgspec.structs.replace(CALL, rule=msgspec.structs.replace(RULE, not_requester=False))
    assert may_vote(lenient, ALICE, approver, NOW) is True


def test_others_may_vote_once_it_was_escalated_and_not_before() -> None:
    rule = msgspec.structs.replace(RULE, escalate_after=600, escalate_to=frozenset({Duty.OPERATOR}))
    call, bob = msgspec.structs.replace(CALL, rule=rule), UserId(ALICE.issuer, "bob")
    operator = frozenset({Duty.OPERATOR})
    assert may_vote(call, bob, operator, NOW + 599) is False
    assert may_vote(call, bob, operator, NOW + 600) is True
    assert may_vote(call, bob, frozenset({Duty.VIEWER}), NOW + 600) is False
    assert may_vote(call, bob, frozenset(), NOW + 600) is False
