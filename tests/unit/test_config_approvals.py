"""`approval:` of tools: rules in the core's terms, and what is wrong with them by line and place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from twogate.config import ConfigError, Settings, load_settings
from twogate.config.approval_rules import approval_rules
from twogate.core.approval import Duty, Rule
from twogate.core.approval_rules import ArgumentTest

CONFIG = """\
public_url: https://mcp.example.com
listen: unix:/run/twogate.sock
store: sqlite:///./state/twogate.db
servers: {git: {url: http://127.0.0.1:9001/mcp}}
tools:
  git.git_commit: {class: write, approval: APPROVAL}
  git.git_log: {class: read}
groups: {finance: {role: reader}}
duties: {finance: [approver]}
tenants:
  acme: {servers: [git]}
  globex: {servers: [git], tools: {git.git_push: {class: send, approval: {by: [operator]}}}}
"""
PLACE = "tools.git.git_commit.approval"

Load = Callable[[str], Settings]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def written(approval: str, change: Callable[[str], str] = lambda text: text) -> Settings:
        file = tmp_path / "twogate.yaml"
        file.write_text(change(CONFIG.replace("APPROVAL", approval)))
        return load_settings(file)

    return written


def test_one_rule_stands_for_itself(load: Load) -> None:
    rules = approval_rules(load("{by: [approver], signed: passkey}"))["acme"]
    assert set(rules) == {"git.git_commit"}
    (only,) = rules["git.git_commit"]
    assert only.rule == Rule(frozenset({Duty.APPROVER}), people=1, not_requester=True, within=3600)


def test_several_rules_keep_their_order_and_all_that_they_say(load: Load) -> None:
    settings = load(
        "[{by: [approver, operator], people: 2, not_requester: false, within: 10m, remind_after: 2m, "
        "escalate: {after: 5m, to: [administrator]}, when: {tenants: [acme], roles: [reader], "
        "arguments: [{at: /amount, over: 100}, {at: /to, none_of: [bob, 3, true]}]}}, {by: [approver]}]"
    )
    first, second = approval_rules(settings)["acme"]["git.git_commit"]
    assert first.rule == Rule(
        duties=frozenset({Duty.APPROVER, Duty.OPERATOR}),
        people=2,
        not_requester=False,
        within=600,
        remind_after=120,
        escalate_after=300,
        escalate_to=frozenset({Duty.ADMINISTRATOR}),
    )
    assert (first.when.tenants, first.when.roles) == (frozenset({"acme"}), frozenset({"reader"}))
    assert first.when.arguments == (ArgumentTest("/amount", over=100.0), ArgumentTest("/to", none_of=("bob", 3, True)))
    assert second.rule == Rule(frozenset({Duty.APPROVER}))


def test_a_tenants_own_tool_waits_for_that_tenant_alone(load: Load) -> None:
    rules = approval_rules(load("{by: [approver]}"))
    assert set(rules["acme"]) == {"git.git_commit"}
    assert set(rules["globex"]) == {"git.git_commit", "git.git_push"}


def test_duties_come_with_groups(load: Load) -> None:
    assert dict(load("{by: [approver]}").duties) == {"finance": (Duty.APPROVER,)}


@pytest.mark.parametrize(
    ("approval", "place", "words"),
    [
        ("{by: []}", ".by", "must not be empty"),
        ("{people: 2}", ".by", "is missing"),
        ("{by: [boss]}", ".by[0]", "must be one of"),
        ("{by: [viewer]}", "", "a viewer only looks"),
        ("{by: [approver], signed: word}", ".signed", "must be one of 'passkey'"),
        ("{by: [approver], people: 0}", ".people", "must be at least 1"),
        ("{by: [approver], people: 6}", ".people", "must be at most 5"),
        ("{by: [approver], within: 2h}", ".within", "must be at most 3600"),
        ("{by: [approver], within: 5m, remind_after: 5m}", "", "remind_after comes after"),
        ("{by: [approver], within: 5m, escalate: {after: 6m, to: [operator]}}", "", "escalate.after comes after"),
        ("{by: [approver], when: {roles: [nobody]}}", "[0].when.roles", "unknown role 'nobody'"),
        ("{by: [approver], when: {tenants: [initech]}}", "[0].when.tenants", "unknown tenant 'initech'"),
        ("{by: [approver], when: {arguments: [{at: amount, over: 1}]}}", ".when.arguments[0].at", "pattern"),
        ("{by: [approver], when: {arguments: [{at: /a}]}}", ".when.arguments[0]", "exactly one of"),
        ("{by: [approver], when: {arguments: [{at: /a, over: 1, under: 2}]}}", ".when.arguments[0]", "exactly one of"),
        ("{by: [approver], wen: {}}", ".wen", "did you mean 'when'"),
        ("[{by: [approver]}, {by: [boss]}]", "[1].by[0]", "must be one of"),
        ("7", "", "must be a mapping"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(load: Load, approval: str, place: str, words: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        load(approval)
    lines = str(wrong.value).splitlines()
    assert any(f":6: {PLACE}{place}: " in line and words in line for line in lines), lines


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("https://mcp.example.com", "https://192.0.2.7", "needs a name in public_url"),
        ("servers:", "embedded: {enabled: false}\nservers:", "needs the embedded authorization server"),
    ],
)
def test_where_nobody_could_approve_nothing_may_wait(
    load: Callable[..., Settings], old: str, new: str, words: str
) -> None:
    with pytest.raises(ConfigError) as wrong:
        load("{by: [approver]}", lambda text: text.replace(old, new, 1))
    assert words in str(wrong.value)
