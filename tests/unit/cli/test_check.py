import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from twogate.cli import main
from twogate.cli.main import app
from twogate.cli.output import CommandError, printable
from twogate.core.errors import ErrorCode, GateError

CONFIG = """\
public_url: http://localhost:8080
listen: 127.0.0.1:8080
store: sqlite:///./twogate.db
servers:
  git: {url: https://git.internal/mcp}
  web: {url: http://web.internal/mcp}
tools:
  git.log: {class: read}
  git.commit: {class: write}
  git.push: {class: send}
  git.config: {class: configure}
tasks:
  report: {tools: [read]}
  change: {tools: [read, git.commit, git.push]}
agents:
  acme/worker: {role: executor, tasks: [report, change], bindings: [{issuer: embedded, client_id: worker}]}
  acme/reader: {role: reader, tasks: [change], bindings: [{issuer: embedded, client_id: reader}]}
  other/worker: {role: executor, tasks: [change], bindings: [{issuer: embedded, client_id: other}]}
scopes: {all: [read, write, send]}
tenants:
  acme: {servers: [git]}
  other: {}
"""


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    def run(text: str, *args: str) -> tuple[int, str, str]:
        (tmp_path / "twogate.yaml").write_text(text)
        result = CliRunner().invoke(app, ["check", "-c", str(tmp_path / "twogate.yaml"), *args])
        return result.exit_code, result.stdout, result.stderr

    return run


Check = Callable[..., tuple[int, str, str]]


def document(check: Check, text: str = CONFIG) -> Any:
    code, out, err = check(text, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def test_the_matrix_says_what_each_agent_may_do_within_each_task(check: Check) -> None:
    cells = {(cell["agent"], cell["task"], cell["tool"]): cell for cell in document(check)["matrix"]}
    effects = {
        place: (cell["effect"], cell["reason"])
        for place, cell in cells.items()
        if place[:2] == ("acme/worker", "change")
    }
    assert effects == {
        ("acme/worker", "change", "git.log"): ("allow", None),
        ("acme/worker", "change", "git.commit"): ("token", None),
        ("acme/worker", "change", "git.push"): ("token", None),
        ("acme/worker", "change", "git.config"): ("deny", "role_not_permitted"),
    }
    assert cells["acme/worker", "report", "git.commit"]["reason"] == "task_not_permitted"
    assert cells["acme/reader", "change", "git.commit"]["reason"] == "role_not_permitted"
    assert cells["acme/reader", "change", "git.log"]["effect"] == "allow"
    assert cells["other/worker", "change", "git.log"]["reason"] == "tenant_server_refused"
    assert len(cells) == 4 * 4


def test_the_matrix_has_resources_and_prompts_by_their_entries(check: Check) -> None:
    entries = (
        "  git.resource:file:///src/**: {class: read}\n  git.resource:file:///src/keys/*: {class: secrets}\n"
        "  git.resource:https://*.example.com/**: {class: read}\n  git.prompt:review: {class: read}\ntasks:\n"
    )
    cells = document(check, CONFIG.replace("tasks:\n", entries))["matrix"]
    found = {
        cell["tool"]: (cell["class"], cell["effect"], cell["reason"])
        for cell in cells
        if (cell["agent"], cell["task"]) == ("acme/worker", "report") and ":" in cell["tool"]
    }
    assert found == {
        "git.resource:file:///src/**": ("read", "allow", None),
        "git.resource:file:///src/keys/*": ("secrets", "deny", "role_not_permitted"),
        "git.resource:https://*.example.com/**": ("read", "allow", None),
        "git.prompt:review": ("read", "allow", None),
    }


def test_observing_is_said_first_and_shown_in_the_matrix(check: Check) -> None:
    until = (datetime.now(UTC) + timedelta(days=2)).strftime("%Y-%m-%d")
    text = f"{CONFIG}enforcement: observe\nobserve_until: {until}\n"
    made = document(check, text)
    assert (made["enforcement"], made["observe_until"]) == ("observe", f"{until}T00:00:00+00:00")
    cells = {(cell["agent"], cell["task"], cell["tool"]): (cell["effect"], cell["reason"]) for cell in made["matrix"]}
    # All that writes needs an executor's operation token here, so only reading is observed.
    assert cells["acme/worker", "report", "git.commit"] == ("deny", "task_not_permitted")
    assert cells["other/worker", "change", "git.log"] == ("deny", "tenant_server_refused")
    _, out, _ = check(text)
    assert out.splitlines()[1] == (
        f"OBSERVING until {until}T00:00:00+00:00: gate two records role and task refusals and lets the calls run."
    )
    enforced = document(check)
    assert (enforced["enforcement"], enforced["observe_until"]) == ("enforce", None)


def test_observing_warns_of_what_writes_without_a_token(check: Check) -> None:
    until = (datetime.now(UTC) + timedelta(days=2)).strftime("%Y-%m-%d")
    roles = "roles:\n  executor: {allow: [read, write]}\n  reader: {allow: [read], token: [git.push]}\n"
    text = f"{CONFIG}{roles}enforcement: observe\nobserve_until: {until}\n"
    notes = [note for note in document(check, text)["warnings"] if "while observing" in note]
    assert [note.split(":")[0] for note in notes] == ["tools.git.commit", "tools.git.config"]
    cells = {(cell["agent"], cell["task"], cell["tool"]): cell for cell in document(check, text)["matrix"]}
    assert cells["acme/reader", "change", "git.commit"]["effect"] == "observed"
    assert cells["acme/reader", "change", "git.commit"]["reason"] == "role_not_permitted"
    _, out, _ = check(text)
    rows = [" ".join(line.split()) for line in out.splitlines()]
    assert "acme/worker report 1 more observed the tool is not among the task's (tasks)" in rows
    assert "acme/reader change git.commit write observed the agent's role does not allow the tool (roles)" in rows


def test_warnings_name_what_is_probably_not_meant(check: Check) -> None:
    assert document(check)["warnings"] == [
        "servers.web: none of its tools is classified, so none can be called",
        "servers.web: no tenant may reach it",
        "servers.web: calls cross the network unencrypted; use https",
        "tools.git.config: in no task, so it cannot be called",
        "pins: tools that nobody approved can be called; see `twogate tool approve`, then set `pins: required`",
        "tenants.other: reaches no server",
        "agents.other/worker: its task change gives it no tools",
    ]


def test_many_tasks_and_unexpanded_variables_draw_warnings(check: Check) -> None:
    names = [f"t{number}" for number in range(6)]
    text = CONFIG.replace("tasks: [report, change]", f"tasks: [{', '.join(names)}]")
    text = text.replace("tasks:\n", "tasks:\n" + "".join(f"  {name}: {{tools: [read]}}\n" for name in names))
    text = text.replace("{url: https://git.internal/mcp}", '{command: [git-server, "${HOME}"]}')
    # Several tenants may not share a stdio server.
    text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith(("  other/", "  other:")))
    notes = document(check, text)["warnings"]
    assert any(note.startswith("agents.acme/worker: has 6 tasks") for note in notes)
    assert any(note.startswith("servers.git: ${NAME} is not expanded") for note in notes)


def test_what_replicas_share_is_said_without_asking_it(check: Check) -> None:
    assert document(check)["shared"] == "sql"
    told = CONFIG + "shared: rediss://valkey.invalid\n"
    assert document(check, told)["shared"] == "rediss://valkey.invalid:6379/0"
    code, out, _ = check(told)
    assert code == 0
    assert "shared by rediss://valkey.invalid:6379/0 (not asked now)." in out


def test_people_get_a_table_without_colours_when_it_is_no_terminal(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    code, out, _ = check(CONFIG)
    assert code == 0
    assert "\x1b" not in out
    rows = [" ".join(line.split()) for line in out.splitlines()]
    assert "acme/worker change git.commit write token role and task hold it, with an operation token" in rows
    assert "acme/worker report 2 more deny the tool is not among the task's (tasks)" in rows
    assert any(row.startswith("warning: servers.web: no tenant") for row in rows)


def test_an_invalid_file_is_refused_with_every_problem(check: Check, tmp_path: Path) -> None:
    text = CONFIG.replace("role: reader", "role: raeder").replace("listen: 127.0.0.1:8080", "listen: 0.0.0.0:8080")
    code, out, err = check(text)
    assert (code, out) == (1, "")
    file = tmp_path / "twogate.yaml"
    assert err.splitlines() == [
        f"twogate: {file}:2: listen: must be a loopback address while public_url is http",
        f"{file}:17: agents.acme/reader.role: unknown role 'raeder'; add it to roles (did you mean 'reader'?)",
    ]


def test_json_errors_are_one_object_on_stdout(check: Check, tmp_path: Path) -> None:
    code, out, err = check(CONFIG.replace("role: reader", "role: raeder"), "--json")
    assert (code, err) == (1, "")
    error = json.loads(out)["error"]
    assert error["code"] == "configuration_invalid"
    (problem,) = error["problems"]
    assert (problem["file"], problem["line"]) == (str(tmp_path / "twogate.yaml"), 17)
    assert problem["key"] == "agents.acme/reader.role"


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["check", "-c", str(tmp_path / "none.yaml")])
    assert result.exit_code == 1
    assert "twogate init" in result.stderr


def test_no_value_of_the_file_can_drive_the_terminal(check: Check) -> None:
    _, _, err = check(CONFIG + '"\\e]0;x\\a\\u202e": 1\n')
    assert "\x1b" not in err
    assert "\u202e" not in err
    assert "\\x1b]0;x\\x07\\u202e: is not a setting" in err
    assert printable("a\x9bb\r\nc") == "a\\x9bb\\r\nc"


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (CommandError("cannot do it", code="exists"), "exists", "cannot do it"),
        (GateError(ErrorCode.STORE_UNAVAILABLE, "the file is locked"), "store_unavailable", "the file is locked"),
        (GateError(ErrorCode.STORE_UNAVAILABLE), "store_unavailable", "nothing was run"),
        (FileNotFoundError(2, "No such file or directory", "x.db"), "system", "x.db: No such file or directory"),
        (RuntimeError("token=hunter2"), "internal", "internal error: RuntimeError at test_check.py:"),
    ],
)
def test_whatever_a_command_raises_becomes_one_message_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, error: Exception, code: str, shown: str
) -> None:
    other = typer.Typer(cls=main.Frame)

    @other.command("broken")
    def broken(as_json: bool = typer.Option(False, "--json")) -> None:
        raise error

    @other.command("fine")
    def fine() -> None: ...

    for args in (["broken"], ["broken", "--json"]):
        result = CliRunner().invoke(other, args)
        assert result.exit_code == 1
        assert shown in result.output
        assert "Traceback" not in result.output
        assert "hunter2" not in result.output
        if "--json" in args:
            assert json.loads(result.stdout)["error"]["code"] == code
            assert result.stderr == ""
        else:
            assert result.stdout == ""
