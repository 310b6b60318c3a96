"""`twogate explain` and `twogate check` with Cedar policies: they name the one that forbids."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cedarpy
import pytest
from typer.testing import CliRunner

from policylab import COMMIT, document, forbid
from twogate.cli.main import app
from twogate.flows.explain import WAY

RULES = (
    forbid(COMMIT, "context.arguments has amount && context.arguments.amount > 5", "amount")
    + forbid(COMMIT, "context.hour < 6", "night")
    + forbid('action == Twogate::Action::"git.push"', "context has address && context.address.isIpv4()", "v4")
    + forbid('action == Twogate::Action::"git.log"', '!context.device.contains("managed")', "device")
    + forbid('action in Twogate::Action::"secrets"', name="nothing")
)  # fmt: skip
POLICIES = WAY.index("policies")
NOON = ("--at", "2026-12-01T12:00:00Z")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "rules.cedar").write_text(RULES)
    path = tmp_path / "twogate.yaml"
    path.write_text(json.dumps(document("rules.cedar")))
    return path


@pytest.fixture
def explain(config: Path) -> Callable[..., Any]:
    def run(tool: str, *args: str) -> Any:
        command = ["explain", "-c", str(config), "--agent", "acme/robot", "--tool", tool, "--json", *args]
        result = CliRunner().invoke(app, command)
        assert (result.exit_code, result.stderr) == (0, "")
        return json.loads(result.stdout)

    return run


@pytest.mark.parametrize(
    ("tool", "args", "because"),
    [
        ("git.commit", (*NOON, "--arguments", '{"amount": 6}'), "forbidden by policy amount (rules.cedar:1)"),
        ("git.commit", (*NOON, "--arguments", '{"amount": "6"}'), "argument amount is not a long"),
        ("git.commit", ("--at", "2026-12-01T05:59:59Z"), "forbidden by policy night (rules.cedar:2)"),
        ("git.commit", ("--at", "2026-12-01T06:59:59+01:00"), "forbidden by policy night (rules.cedar:2)"),
        ("git.push", ("--address", "192.0.2.1"), "forbidden by policy v4 (rules.cedar:3)"),
        ("git.log", ("--device", "encrypted"), "forbidden by policy device (rules.cedar:4)"),
    ],
)
def test_a_denial_names_the_policy(explain: Any, tool: str, args: tuple[str, ...], because: str) -> None:
    said = explain(tool, *args)
    assert (said["decision"], said["reason"], said["text"]) == ("deny", "policy_denied", because)
    assert said["steps"][POLICIES] == {"step": "policies", "result": "refused", "because": because}
    assert {step["result"] for step in said["steps"][:POLICIES]} == {"passed"}
    assert {step["result"] for step in said["steps"][POLICIES + 1 :]} == {"not reached"}


@pytest.mark.parametrize(
    ("tool", "args", "because"),
    [
        ("git.commit", (*NOON, "--arguments", '{"amount": 5}'), "2 policies asked, none forbids it"),
        ("git.commit", NOON, "1 policy asked, none forbids it; not asked, for want of --arguments: amount"),
        ("git.push", (), "1 policy asked, none forbids it"),
        ("git.push", ("--address", "2001:db8::1"), "1 policy asked, none forbids it"),
        ("git.log", ("--device", "managed", "--device", "x"), "1 policy asked, none forbids it"),
        ("files.look", (), "0 policies asked, none forbids it"),
    ],
)
def test_what_no_policy_forbids_is_said_with_their_number(
    explain: Any, tool: str, args: tuple[str, ...], because: str
) -> None:
    said = explain(tool, *args)
    assert (said["decision"], said["reason"]) == ("allow", None)
    assert said["steps"][POLICIES] == {"step": "policies", "result": "passed", "because": because}


def test_what_is_denied_anyway_does_not_come_as_far(explain: Any) -> None:
    said = explain("git.nothing")
    assert said["reason"] == "target_unclassified"
    assert said["steps"][POLICIES] == {
        "step": "policies",
        "result": "not reached",
        "because": "the tool is not classified",
    }


def test_arguments_come_from_a_file_too(explain: Any, tmp_path: Path) -> None:
    (tmp_path / "arguments.json").write_text('{"amount": 9}')
    assert explain("git.commit", *NOON, "--arguments", f"@{tmp_path}/arguments.json")["decision"] == "deny"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--arguments", "[1]"), "must be a JSON object"),
        (("--arguments", "{"), "no acceptable JSON"),
        (("--arguments", '{"a": 1, "a": 2}'), "no acceptable JSON"),
        (("--arguments", "@/nowhere/at/all"), "No such file"),
        (("--at", "noon"), "must be a time"),
    ],
)
def test_what_cannot_be_read_is_a_mistake_of_usage(config: Path, args: tuple[str, ...], said: str) -> None:
    command = ["explain", "-c", str(config), "--agent", "acme/robot", "--tool", "git.commit", *args]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert said in result.stderr


def test_check_lists_the_policies_and_warns_of_one_that_covers_nothing(config: Path) -> None:
    result = CliRunner().invoke(app, ["check", "-c", str(config), "--json"])
    said = json.loads(result.stdout)
    assert said["policies"][0] == {"id": "amount", "file": "rules.cedar", "line": 1}
    assert [policy["id"] for policy in said["policies"]] == ["amount", "night", "v4", "device", "nothing"]
    warning = "policies: nothing (rules.cedar:5) covers no entry of tools, so it forbids nothing"
    assert [text for text in said["warnings"] if text.startswith("policies")] == [warning]
    people = CliRunner().invoke(app, ["check", "-c", str(config)]).stdout
    assert "rules.cedar:4" in people


def test_every_command_that_needs_them_refuses_policies_that_are_not_in_order(config: Path) -> None:
    (config.parent / "rules.cedar").write_text("permit(principal, action, resource);")
    for command in (["check"], ["serve"], ["explain", "--agent", "acme/robot", "--tool", "git.commit"]):
        result = CliRunner().invoke(app, [*command, "-c", str(config)])
        assert result.exit_code == 1
        assert "rules.cedar:1: policy rules.cedar:1 is a permit" in result.stderr


def test_check_prints_the_schema_as_cedar_reads_it(config: Path) -> None:
    text = CliRunner().invoke(app, ["check", "-c", str(config), "--schema"]).stdout
    assert 'action "git.commit" in [Action::"write"]' in text
    said = json.loads(CliRunner().invoke(app, ["check", "-c", str(config), "--schema", "--json"]).stdout)
    assert said == {"schema": text.removesuffix("\n")}
    cedarpy.Schema.from_str(said["schema"])
