import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from twogate.cli.main import app
from twogate.flows.explain import STEPS, WAY

CONFIG = """\
public_url: http://localhost:8080
listen: 127.0.0.1:8080
store: sqlite:///./twogate.db
servers:
  git: {command: [git-server]}
  web: {url: https://web.internal/mcp}
tools:
  git.log: {class: read}
  git.commit: {class: write}
  git.push: {class: send}
  git.config: {class: configure}
  web.get: {class: fetch}
  git.resource:file:///src/**: {class: read}
  git.resource:file:///src/keys/*: {class: secrets}
  git.prompt:review: {class: read}
  git.tool:resource:x: {class: read}
tasks:
  report: {tools: [read]}
  change: {tools: [read, write, send, fetch, configure]}
  spare: {tools: [read]}
agents:
  acme/worker: {role: executor, tasks: [report, change], default_task: report,
                bindings: [{issuer: embedded, client_id: worker}]}
  acme/idle: {role: executor, tasks: [report], bindings: [{issuer: embedded, client_id: idle}]}
groups: {staff: {role: reader, scopes: [look]}}
scopes: {look: [read], alter: [git.commit, read]}
tenants: {acme: {servers: [git]}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "twogate.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def explain(config: Path) -> Callable[..., Any]:
    def run(tool: str, *args: str, agent: str = "acme/worker") -> Any:
        command = ["explain", "-c", str(config), "--agent", agent, "--tool", tool, "--json", *args]
        result = CliRunner().invoke(app, command)
        assert (result.exit_code, result.stderr) == (0, "")
        return json.loads(result.stdout)

    return run


Explain = Callable[..., Any]
SCOPES = ("--scope", "look", "--scope", "alter")


@pytest.mark.parametrize(
    ("tool", "args", "decision", "reason", "step"),
    [
        ("git.log", ("--task", "report", *SCOPES), "allow", None, None),
        ("git.log", SCOPES, "allow", None, None),
        ("git.commit", ("--task", "change", *SCOPES), "token", "operation_token_required", None),
        ("web.get", ("--task", "change", *SCOPES), "deny", "tenant_server_refused", "tenant"),
        ("git.none", ("--task", "change", *SCOPES), "deny", "target_unclassified", "class"),
        ("git.config", ("--task", "change", *SCOPES), "deny", "role_not_permitted", "role"),
        ("git.commit", ("--task", "change", "--group", "staff", *SCOPES), "deny", "user_not_permitted", "user"),
        ("git.log", ("--task", "change", "--user-role", "none", *SCOPES), "deny", "user_not_permitted", "user"),
        ("git.log", ("--task", "change", "--user-role", "none", "--user-role", "reader", *SCOPES), "allow", None, None),
        ("git.commit", ("--task", "report", *SCOPES), "deny", "task_not_permitted", "task"),
        ("git.log", ("--task", "spare", *SCOPES), "deny", "task_unknown", "session"),
        ("git.log", ("--task", "nonsense", *SCOPES), "deny", "task_unknown", "session"),
        ("git.log", (), "deny", "scope_insufficient", "scope"),
        ("git.push", ("--task", "change", *SCOPES), "deny", "role_not_permitted", "scope"),
        ("git.log", ("--group", "staff"), "allow", None, None),
        ("git.resource:file:///src/a/b.py", SCOPES, "allow", None, None),
        ("git.resource:file:///src/{+path}", SCOPES, "deny", "target_unclassified", "class"),
        ("git.resource:file:///src/keys/a", ("--task", "change", *SCOPES), "deny", "role_not_permitted", "role"),
        ("git.resource:file:///src/../a", SCOPES, "deny", "target_unclassified", "class"),
        ("git.prompt:review", SCOPES, "allow", None, None),
        ("git.tool:resource:x", SCOPES, "allow", None, None),
    ],
)
def test_it_gives_the_decision_its_reason_and_the_step_that_refused(
    explain: Explain, tool: str, args: tuple[str, ...], decision: str, reason: str | None, step: str | None
) -> None:
    document = explain(tool, *args)
    assert (document["decision"], document["reason"]) == (decision, reason)
    assert [item["step"] for item in document["steps"]] == list(WAY)
    assert [item["step"] for item in document["steps"] if item["result"] == "refused"] == ([step] if step else [])
    results = [item["result"] for item in document["steps"]]
    refused = results.index("refused") if step else len(STEPS)
    assert results[: len(STEPS)] == ["passed"] * refused + ["refused"] * (step is not None) + ["not reached"] * (
        len(STEPS) - refused - 1
    )
    token = "needed" if decision == "token" else "passed"
    after = ["not reached"] * 5 if step else ["counted", "passed", "passed", "passed", token]
    assert results[len(STEPS) :] == after


def test_it_says_which_pattern_classifies_a_resource_or_why_none_may(explain: Explain) -> None:
    def said(uri: str) -> str:
        return str(explain(f"git.resource:{uri}", *SCOPES)["steps"][2]["because"])

    assert said("file:///src/a.py").endswith("is classified read by git.resource:file:///src/**")
    assert said("file:///etc/passwd").endswith("is not classified")
    assert "no wildcard matches it: the URI has a segment that is a dot segment" in said("file:///src/../a")


def test_while_observing_it_says_what_would_be_denied(explain: Explain, config: Path) -> None:
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%dT00:00:00Z")
    config.write_text(f"{CONFIG}enforcement: observe\nobserve_until: {tomorrow}\n")
    document = explain("web.get", *SCOPES)
    assert (document["decision"], document["reason"]) == ("deny", "tenant_server_refused")
    document = explain("git.resource:file:///src/a.py", "--task", "none", *SCOPES)
    assert (document["decision"], document["reason"]) == ("observed", "task_unknown")
    assert document["text"].startswith(f"would be denied; observed until {tomorrow[:10]}T00:00:00+00:00: ")
    assert document["steps"][0]["result"] == "observed"
    document = explain("git.commit", "--task", "report", *SCOPES)
    assert (document["decision"], document["reason"]) == ("deny", "task_not_permitted")


def test_it_names_the_scopes_that_would_help(explain: Explain) -> None:
    document = explain("git.log")
    assert document["scopes"] == ["alter", "look"]
    assert "alter, look" in document["text"]


def test_without_any_task_a_session_is_required(explain: Explain) -> None:
    document = explain("git.log", *SCOPES, agent="acme/idle")
    assert document["reason"] == "session_required"
    assert document["steps"][0]["result"] == "refused"


def test_people_get_each_step_and_a_sentence(config: Path) -> None:
    command = ["explain", "-c", str(config), "--agent", "acme/worker", "--task", "report", "--tool", "git.commit"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "role passed role executor says token" in lines
    assert "task refused the tool is not among those of role and task" in lines
    assert lines[-1] == "deny: the tool is not among the task's (tasks)"


def test_an_unknown_agent_is_refused_and_a_malformed_one_is_wrong_use(config: Path) -> None:
    base = ["explain", "-c", str(config), "--tool", "git.log"]
    unknown = CliRunner().invoke(app, [*base, "--agent", "acme/nobody"])
    assert unknown.exit_code == 1
    assert "there is: acme/idle, acme/worker" in unknown.stderr
    malformed = CliRunner().invoke(app, [*base, "--agent", "nobody"])
    assert malformed.exit_code == 2
    assert "tenant/name" in malformed.stderr
    assert CliRunner().invoke(app, base).exit_code == 2
