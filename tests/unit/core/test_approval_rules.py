"""Which calls wait for people; what cannot be judged waits too."""

from __future__ import annotations

import pytest

from twogate.core.approval import Duty, Rule
from twogate.core.approval_rules import ApprovalRule, ArgumentTest, When, rule_for

RULE = Rule(frozenset({Duty.APPROVER}))
TWO = Rule(frozenset({Duty.APPROVER}), people=2)
ARGUMENTS = {"amount": 1000, "to": "bob", "sure": True, "items": [{"n": 5}], "a/b": {"~": 1.5}, "nothing": None}


@pytest.mark.parametrize(
    ("test", "holds"),
    [
        (ArgumentTest("/amount", over=999), True),
        (ArgumentTest("/amount", over=1000), False),
        (ArgumentTest("/amount", under=1001), True),
        (ArgumentTest("/amount", under=1000), False),
        (ArgumentTest("/items/0/n", over=5), False),
        (ArgumentTest("/a~1b/~0", over=1), True),
        (ArgumentTest("/a~1b/~0", over=2), False),
        (ArgumentTest("/to", one_of=("bob", "eve")), True),
        (ArgumentTest("/to", one_of=("eve",)), False),
        (ArgumentTest("/to", none_of=("bob",)), False),
        (ArgumentTest("/to", none_of=("eve",)), True),
        (ArgumentTest("/sure", one_of=(True,)), True),
        (ArgumentTest("/sure", one_of=(False,)), False),
        (ArgumentTest("/to", one_of=(1, "eve")), False),
        (ArgumentTest("/amount", one_of=(1000.0,)), True),
    ],
)
def test_an_argument_is_judged_by_its_value(test: ArgumentTest, holds: bool) -> None:
    assert test.holds(ARGUMENTS) is holds


@pytest.mark.parametrize("at", ["/missing", "/amount/0", "/items/1", "/items/00", "/items/-", "/items/x", "/to/b"])
def test_an_argument_that_is_not_there_is_no_way_around_a_person(at: str) -> None:
    assert ArgumentTest(at, over=10**9).holds(ARGUMENTS)
    assert ArgumentTest(at, one_of=("x",)).holds(ARGUMENTS)
    assert ArgumentTest(at, none_of=("x",)).holds(None)


@pytest.mark.parametrize("value", ["1", True, None, [1], {"n": 1}])
def test_neither_is_one_of_another_type(value: object) -> None:
    assert ArgumentTest("/amount", over=10**9).holds({"amount": value})
    assert ArgumentTest("/amount", under=-(10**9)).holds({"amount": value})


@pytest.mark.parametrize(("value", "listed"), [("1", 1), (True, 1), (None, 1), (1, "1"), (None, "eve"), ("true", True)])
def test_what_a_server_may_take_for_a_listed_value_is_no_way_around_a_person(value: object, listed: str | int) -> None:
    assert ArgumentTest("/to", one_of=(listed,)).holds({"to": value})
    assert ArgumentTest("/to", none_of=(listed,)).holds({"to": value})


@pytest.mark.parametrize("value", [["bob"], {"bob": 1}])
def test_a_list_is_not_what_a_list_of_words_rules_out(value: object) -> None:
    assert ArgumentTest("/to", one_of=("eve",)).holds({"to": value})


def test_the_first_rule_whose_condition_holds_counts() -> None:
    rules = (
        ApprovalRule(TWO, When(arguments=(ArgumentTest("/amount", over=500),))),
        ApprovalRule(RULE, When(tenants=frozenset({"acme"}), roles=frozenset({"executor"}))),
    )
    assert rule_for(rules, "acme", "executor", {"amount": 501}) is TWO
    assert rule_for(rules, "acme", "executor", {}) is TWO
    assert rule_for(rules, "acme", "executor", {"amount": 1}) is RULE
    assert rule_for(rules, "acme", "admin", {"amount": 1}) is None
    assert rule_for(rules, "globex", "executor", {"amount": 1}) is None
    assert rule_for((), "acme", "executor", {}) is None
    assert rule_for((ApprovalRule(RULE),), "globex", "any", {"amount": 1}) is RULE
