"""The policies in the guide hold together with its configuration, and each forbids what the guide says it does."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from policylab import asked, principal
from twogate.adapters.cedar import CedarConditions
from twogate.config.arguments import MAX_ARGUMENTS
from twogate.config.file import load_settings
from twogate.config.policy_files import MAX_BYTES, MAX_FILES
from twogate.core.conditions import MAX_ITEMS, MAX_MEMBERS, MAX_NAME, MAX_TEXT, SHAPE, ArgumentType, Asked
from twogate.core.principal import AgentId
from twogate.policies import check_policies, conditions_of, policies_of

DOCS = Path(__file__).parents[2] / "docs"
GUIDE = (DOCS / "howto" / "write-policies.md").read_text()
PAGE = (DOCS / "reference" / "policies.md").read_text()
YAML, CEDAR = (re.findall(rf"^```{kind}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL) for kind in ("yaml", "cedar"))
NINE = int(datetime(2026, 12, 1, 9, 0, tzinfo=UTC).timestamp())
REPORTS = "git.resource:file:///reports/**"


def call(target: str = "bank.transfer", arguments: dict[str, Any] | None = None, **changes: Any) -> Asked:
    """A call that every policy of the guide lets through, but for the changes."""
    agent = principal().agent
    clerk = type(agent)(AgentId("acme", "clerk"), "clerk", ("office",), "office")
    by = principal(**{"agent": clerk, "posture": frozenset({"managed"}), **changes.pop("caller", {})})
    given = {"amount": 12.5} if target == "bank.transfer" and arguments is None else arguments
    return asked(target, given, **{"by": by, "address": "10.1.2.3", "now": NINE, **changes})


@pytest.fixture(scope="module")
def conditions(tmp_path_factory: pytest.TempPathFactory) -> CedarConditions:
    directory = tmp_path_factory.mktemp("guide")
    (directory / "rules.cedar").write_text(CEDAR[0])
    path = directory / "twogate.yaml"
    path.write_text(YAML[0])
    settings = load_settings(path)
    check_policies(path, settings)
    made = conditions_of(settings)
    assert made is not None
    assert {policy.id for policy in policies_of(settings)} == {name for name, _ in EXAMPLES}
    return made


EXAMPLES = [
    ("large-transfers", call(arguments={"amount": 1000.01})),
    ("transfers-say-how-much", call(arguments={})),
    ("office-hours", call(now=NINE + 10 * 3600)),
    ("from-the-office", call("bank.statement", address="192.0.2.1")),
    ("managed-devices", call(caller={"posture": frozenset({"encrypted"})})),
    ("no-contractors", call("bank.statement", caller={"groups": ["contractors"]})),
    ("history-stays", call("git.git_commit", {"options": {"amend": True}})),
    ("commits-name-paths", call("git.git_commit", {"paths": ["src", "."]})),
    ("no-drafts", call("git.resource:file:///reports/drafts/a", entry=REPORTS)),
]


@pytest.mark.parametrize(("name", "forbidden"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_an_example_forbids_what_it_is_there_for(conditions: CedarConditions, name: str, forbidden: Asked) -> None:
    said = conditions.forbidden(forbidden)
    assert said is not None
    assert said.startswith(f"forbidden by policy {name} (rules.cedar:")


@pytest.mark.parametrize(
    "allowed",
    [
        call(),
        call(arguments={"amount": 1000}),
        call(now=NINE - 2 * 3600),
        call("bank.statement", now=NINE + 12 * 3600),
        call("git.git_commit", {"options": {"amend": False}, "paths": ["src"]}, address="192.0.2.1"),
        call("git.resource:file:///reports/final/a", entry=REPORTS),
    ],
)
def test_the_examples_let_the_rest_through(conditions: CedarConditions, allowed: Asked) -> None:
    assert conditions.forbidden(allowed) is None


def test_the_explanation_in_the_guide_is_what_the_policies_say(conditions: CedarConditions) -> None:
    said = conditions.forbidden(call(arguments={"amount": 5000}))
    assert f"deny: {said}" in GUIDE


def test_the_page_names_every_attribute_and_type() -> None:
    rows = set(re.findall(r"^\| `([^`]+)` \|", PAGE, re.MULTILINE))
    wanted = {name.removesuffix("?") for shape in SHAPE.values() for name in shape} - {"session"}
    assert wanted | {"session.task", "session.created", "arguments"} <= rows
    assert all(f"`{kind.value}`" in PAGE for kind in ArgumentType)


def test_the_page_names_every_cap() -> None:
    for cap in (MAX_FILES, MAX_BYTES // 1024, MAX_ITEMS, MAX_MEMBERS, MAX_NAME, MAX_TEXT):
        assert str(cap) in PAGE
    assert MAX_ARGUMENTS == 64
    assert "64 of them" in (DOCS / "reference" / "configuration.md").read_text()
