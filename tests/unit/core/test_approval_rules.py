"""Which calls wait for people; what cannot be judged waits too."""

from __future__ import annotations

import msgspec
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
    assert test.judge(ARGUMENTS) is holds


@pytest.mark.parametrize("at", ["/missing", "/amount/0", "/items/1", "/items/00", "/items/-", "/items/x", "/to/b"])
def test_an_argument_that_is_not_there_is_no_way_around_a_person(at: str) -> None:
    assert ArgumentTest(at, over=10**9).judge(ARGUMENTS) is None
    assert ArgumentTest(at, one_of=("x",)).judge(ARGUMENTS) is None
    assert ArgumentTest(at, none_of=("x",)).judge(None) is None


@pytest.mark.parametrize("value", ["1", True, None, [1], {"n": 1}])
def test_neither_is_one_of_another_type(value: object) -> None:
    assert ArgumentTest("/amount", over=10**9).judge({"amount": value}) is None
    assert ArgumentTest("/amount", under=-(10**9)).judge({"amount": value}) is None


@pytest.mark.parametrize(("value", "listed"), [("1", 1), (True, 1), (None, 1), (1, "1"), (None, "eve"), ("true", True)])
def test_what_a_server_may_take_for_a_listed_value_is_no_way_around_a_person(value: object, listed: str | int) -> None:
    assert ArgumentTest("/to", one_of=(listed,)).judge({"to": value}) is None
    assert ArgumentTest("/to", none_of=(listed,)).judge({"to": value}) is None


@pytest.mark.parametrize("value", [["bob"], {"bob": 1}])
def test_a_list_is_not_what_a_list_of_words_rules_out(value: object) -> None:
    assert ArgumentTest("/to", one_of=("eve",)).judge({"to": value}) is None


def test_the_first_rule_whose_condition_holds_counts() -> None:
    rules = (
        ApprovalRule(TWO, When(arguments=(ArgumentTest("/amount", over=500),))),
        ApprovalRule(RULE, When(tenants=frozenset({"acme"}), roles=frozenset({"executor"}))),
    )
    assert rule_for(rules, "acme", "executor", {"amount": 501}) is TWO
    assert rule_for(rules, "acme", "executor", {}) == TWO
    assert rule_for(rules, "acme", "executor", {"amount": 1}) is RULE
    assert rule_for(rules, "acme", "admin", {"amount": 1}) is None
    assert rule_for(rules, "globex", "executor", {"amount": 1}) is None
    assert rule_for((), "acme", "executor", {}) is None
    assert rule_for((ApprovalRule(RULE),), "globex", "any", {"amount": 1}) is RULE


@pytest.mark.parametrize("other", ["Amount", "a-mount", "AMOUNT", "\u1d43mount", "__proto__", "amount" + "_" * 300])
def test_an_argument_beside_one_that_reads_like_it_cannot_be_judged(other: str) -> None:
    test = ArgumentTest("/amount", over=100)
    assert test.judge({"amount": 7, "amounts": 700}) is False
    for arguments in ({"amount": 7, other: 700}, {other: 700, "amount": 7}):
        assert test.judge(arguments) is None
        assert ArgumentTest("/deep/0/amount", over=100).judge({"deep": [arguments]}) is None
    assert ArgumentTest("/deep/amount", over=100).judge({"deep": {"amount": 7}, "Deep": {"amount": 700}}) is None


def test_among_too_many_members_none_can_be_judged() -> None:
    many = {f"x{number}": 0 for number in range(255)}
    assert ArgumentTest("/amount", over=100).judge({"amount": 7, **many}) is False
    assert ArgumentTest("/amount", over=100).judge({"amount": 7, "more": 0, **many}) is None


def test_what_cannot_be_judged_is_as_strict_as_every_rule_that_may_count() -> None:
    small = ApprovalRule(
        Rule(frozenset({Duty.APPROVER}), people=3, not_requester=False, within=600),
        When(arguments=(ArgumentTest("/amount", under=100),)),
    )
    middle = ApprovalRule(
        Rule(frozenset({Duty.APPROVER, Duty.ADMINISTRATOR})), When(arguments=(ArgumentTest("/to", one_of=("bob",)),))
    )
    rest = ApprovalRule(Rule(frozenset({Duty.ADMINISTRATOR}), people=2, escalate_after=60))
    never = ApprovalRule(Rule(frozenset({Duty.OPERATOR}), people=5), When(roles=frozenset({"reader"})))
    rules = (never, small, middle, rest, ApprovalRule(Rule(frozenset({Duty.OPERATOR}), people=4)))
    # Without a doubt the first that holds counts, whatever comes after it.
    assert rule_for(rules, "acme", "executor", {"amount": 7, "to": "eve"}) is small.rule
    assert rule_for(rules, "acme", "executor", {"amount": 700, "to": "bob"}) is middle.rule
    assert rule_for(rules, "acme", "executor", {"amount": 700, "to": "eve"}) is rest.rule
    strictest = Rule(frozenset({Duty.ADMINISTRATOR}), people=3, within=600, escalate_after=60)
    assert rule_for(rules, "acme", "executor", {}) == strictest
    # What holds ends the list, and what surely does not is left out.
    assert rule_for(rules, "acme", "executor", {"amount": "7", "to": "bob"}) == Rule(
        frozenset({Duty.APPROVER}), people=3, within=600
    )
    assert rule_for(rules, "acme", "executor", {"amount": 700}) == Rule(
        frozenset({Duty.ADMINISTRATOR}), people=2, escalate_after=60
    )
    assert rule_for((small,), "acme", "executor", {}) is small.rule


def test_of_rules_that_may_count_none_is_softened_by_the_escalation_of_another() -> None:
    def found(*rules: Rule) -> Rule | None:
        doubtful = When(arguments=(ArgumentTest("/amount", under=100),))
        return rule_for([ApprovalRule(rule, doubtful) for rule in rules], "acme", "executor", {})

    high, middle = frozenset({Duty.ADMINISTRATOR}), frozenset({Duty.OPERATOR})
    low = frozenset({Duty.APPROVER})
    softened = Rule(high, escalate_after=60, escalate_to=middle | low)
    # By the other rule no approver ever decides.
    assert found(softened, Rule(middle)) == Rule(high, escalate_after=60, escalate_to=middle)
    assert found(softened, Rule(high)) == Rule(high, escalate_after=60)
    # Nor anybody sooner.
    later = msgspec.structs.replace(softened, escalate_after=600)
    assert found(softened, later) == found(later, softened) == later
    # What makes it stricter stays.
    raised = Rule(low, escalate_after=60, escalate_to=high)
    assert found(raised, Rule(low)) == raised
