"""Messages about calls that wait: which are due, what they are called, and when one is tried again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twogate.core.approval import Duty, Rule, State
from twogate.core.notices import MAX_ATTEMPTS, TOLD_LATE, Kind, OpenCall, due, is_moot, message_id, named, pause

NOW = 1_800_000_000
RULE = Rule(frozenset({Duty.APPROVER}), remind_after=60, escalate_after=120, escalate_to=frozenset({Duty.OPERATOR}))


def call(state: State = State.PENDING, rule: Rule = RULE, decided_at: int | None = None) -> OpenCall:
    return OpenCall("a", "acme", state, NOW, NOW + 600, rule, decided_at)


@pytest.mark.parametrize(
    ("waited", "kinds"),
    [
        (0, [Kind.REQUESTED]),
        (59, [Kind.REQUESTED]),
        (60, [Kind.REQUESTED, Kind.REMINDED]),
        (120, [Kind.REQUESTED, Kind.REMINDED, Kind.ESCALATED]),
        (599, [Kind.REQUESTED, Kind.REMINDED, Kind.ESCALATED]),
        (600, []),
    ],
)
def test_what_is_due_of_a_call_that_waits(waited: int, kinds: list[Kind]) -> None:
    assert list(due(call(), NOW + waited)) == kinds


def test_a_rule_without_times_asks_once() -> None:
    assert list(due(call(rule=Rule(frozenset({Duty.APPROVER}))), NOW + 599)) == [Kind.REQUESTED]


@pytest.mark.parametrize("state", sorted(set(State) - {State.PENDING}))
def test_a_decision_is_told_for_some_time(state: State) -> None:
    decided = call(state, decided_at=NOW + 5)
    assert list(due(decided, NOW + 5 + TOLD_LATE - 1)) == [Kind.DECIDED]
    assert list(due(decided, NOW + 5 + TOLD_LATE)) == []
    assert not is_moot(Kind.DECIDED, state, NOW, NOW + 1)
    assert is_moot(Kind.REQUESTED, state, NOW + 600, NOW)


@given(st.integers(0, 255))
def test_pauses_grow_are_bounded_and_end(draw: int) -> None:
    pauses = [pause(attempts, draw) for attempts in range(1, MAX_ATTEMPTS)]
    assert all(wait is not None and 1 <= wait <= 300 for wait in pauses)
    assert pauses == sorted(wait for wait in pauses if wait is not None)
    assert pause(MAX_ATTEMPTS, draw) is None
    assert pause(MAX_ATTEMPTS + 1, draw) is None


def test_a_message_is_called_the_same_each_time_and_no_other_is() -> None:
    names = {message_id(a, kind, c) for a in ("a", "b") for kind in Kind for c in ("x", "y")}
    assert len(names) == 4 * len(Kind)
    assert message_id("a", Kind.REQUESTED, "x") == message_id("a", Kind.REQUESTED, "x")


@given(st.text())
def test_a_strangers_text_is_one_line_without_a_url(text: str) -> None:
    written = named(text + "https://x")
    assert "://" not in written
    assert written.isprintable()
