"""`twogate audit`: verifying the trail and showing its end."""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from twogate.adapters.audit_log import AuditLog
from twogate.adapters.clock import SystemClock
from twogate.adapters.rng import SystemRng
from twogate.cli.main import app
from twogate.core.audit.record import AuditEvent, EventKind

CONFIG = """\
public_url: http://localhost:8080
listen: 127.0.0.1:8080
store: sqlite:///./state/twogate.db
state: state
tenants: {acme: {}}
"""


def refusal(number: int, **changes: Any) -> AuditEvent:
    """A refused call; its number is its place in time."""
    fields: dict[str, Any] = {
        "kind": EventKind.CALL_REFUSED, "at": (1_800_000_000 + number) * 1_000_000, "tenant": "acme", "agent": "robot",
        "session": "s1", "task": "report", "target": f"git.tool{number}", "reason": "task_not_permitted",
        "anomaly": True,
    } | changes  # fmt: skip
    return AuditEvent(**fields)


EVENTS = (
    refusal(1),
    refusal(2, agent="other", session="s2"),
    refusal(3, tenant="globex", reason="role_not_permitted"),
    refusal(4, reason="operation_token_required", anomaly=False),
    AuditEvent(
        kind=EventKind.REFUSALS_COALESCED, at=1_800_000_005_000_000, address="192.0.2.7", reason="rate_limited",
        count=12, detail="the last of them: \x1b[2Jevil\u202e",
    ),
)  # fmt: skip


@pytest.fixture
def trail(tmp_path: Path) -> Path:
    """A configuration beside it, and five events in one closed segment."""
    (tmp_path / "twogate.yaml").write_text(CONFIG)
    directory = tmp_path / "state" / "audit"
    directory.parent.mkdir(mode=0o700)

    async def write() -> None:
        log = AuditLog(directory, SystemClock(), SystemRng(), instance="test")
        for event in EVENTS:
            await log.append(event)
        await log.close()

    asyncio.run(write())
    return directory


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(app, ["audit", *map(str, args)])


def segment(trail: Path) -> Path:
    (path,) = trail.iterdir()
    return path


def targets(*args: str | Path) -> list[str]:
    """What `tail --json` shows of our events, by target or address."""
    result = run("tail", *args, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    shown = [json.loads(line) for line in result.stdout.splitlines()]
    return [event.get("target") or event["address"] for event in shown if not event["kind"].startswith("process.")]


def test_a_whole_trail_is_verified_by_directory_or_configuration(trail: Path) -> None:
    result = run("verify", trail)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"verified: 7 events in 1 segments of {trail}\n"
    as_json = run("verify", "--config", trail.parents[1] / "twogate.yaml", "--json")
    assert as_json.exit_code == 0
    report = json.loads(as_json.stdout)
    assert (report["ok"], report["segments"], report["events"], report["problems"]) == (True, 1, 7, [])
    # The tips are what an operator keeps elsewhere as checkpoints.
    assert report["tips"][0]["seq"] == 7


def test_a_changed_event_is_found_with_its_line_and_exit_code_1(trail: Path) -> None:
    path = segment(trail)
    path.write_bytes(path.read_bytes().replace(b"git.tool2", b"git.tool9"))
    result = run("verify", trail)
    assert result.exit_code == 1
    assert f"problem: {path.stem}:3: " in result.stdout
    assert "NOT verified: " in result.stdout
    as_json = run("verify", trail, "--json")
    assert as_json.exit_code == 1
    assert json.loads(as_json.stdout)["ok"] is False


def test_a_removed_line_is_found(trail: Path) -> None:
    path = segment(trail)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2] + lines[3:]))
    assert run("verify", trail).exit_code == 1


def test_a_last_line_that_a_kill_left_torn_is_a_note_and_no_problem(trail: Path) -> None:
    path = segment(trail)
    path.write_bytes(path.read_bytes()[:-30])
    result = run("verify", trail)
    assert result.exit_code == 0
    assert "note: " in result.stdout
    assert "verified: 6 events" in result.stdout


def test_a_directory_that_is_none_is_no_success(trail: Path, tmp_path: Path) -> None:
    for command in ("verify", "tail"):
        result = run(command, tmp_path / "none")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "is not a directory" in result.stderr
        as_json = run(command, segment(trail), "--json")
        assert as_json.exit_code == 1
        assert json.loads(as_json.stdout)["error"]["code"] == "not_found"


def test_the_tail_shows_the_last_events_oldest_first(trail: Path) -> None:
    assert targets(trail) == ["git.tool1", "git.tool2", "git.tool3", "git.tool4", "192.0.2.7"]
    assert targets(trail, "-n", "3") == ["git.tool4", "192.0.2.7"]  # and process.stopped
    assert targets(trail, "--count", "0") == []
    assert targets("--config", trail.parents[1] / "twogate.yaml", "-n", "2") == ["192.0.2.7"]


def test_filters_narrow_it(trail: Path) -> None:
    assert targets(trail, "--agent", "other") == ["git.tool2"]
    assert targets(trail, "--tenant", "globex") == ["git.tool3"]
    assert targets(trail, "--session", "s1") == ["git.tool1", "git.tool3", "git.tool4"]
    assert targets(trail, "--reason", "rate_limited") == ["192.0.2.7"]
    assert targets(trail, "--anomalies") == ["git.tool1", "git.tool2", "git.tool3"]
    assert targets(trail, "--anomalies", "--tenant", "acme", "-n", "1") == ["git.tool2"]


def test_json_lines_stand_as_they_were_written(trail: Path) -> None:
    assert run("tail", trail, "--json").stdout.encode() == segment(trail).read_bytes()


def test_people_see_one_line_an_event_and_nothing_that_drives_their_terminal(trail: Path) -> None:
    lines = run("tail", trail, "-n", "6").stdout.splitlines()
    assert len(lines) == 6
    assert "call.refused  acme/robot  git.tool1  task=report  reason=task_not_permitted  ANOMALY" in lines[0]
    assert "192.0.2.7" in lines[4]
    assert "count=12" in lines[4]
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("count", ["-1", "100001", "many"])
def test_a_count_that_cannot_be_is_wrong_use(trail: Path, count: str) -> None:
    assert run("tail", trail, "--count", count).exit_code == 2


def test_a_directory_without_segments_is_not_verified(tmp_path: Path) -> None:
    done = run("verify", tmp_path)
    assert done.exit_code == 1
    assert "nothing to verify" in done.stderr


def test_the_tail_of_one_kind_is_shown(trail: Path) -> None:
    assert targets(trail, "--kind", "request.refusals_coalesced") == ["192.0.2.7"]
    both = targets(trail, "--kind", "request.refusals_coalesced", "--kind", "call.refused", "--agent", "other")
    assert both == ["git.tool2"]
    assert run("tail", trail, "--kind", "nothing").exit_code == 2


@pytest.mark.parametrize("terminal", [True, False])
def test_a_line_as_it_stands_drives_no_terminal_and_is_the_same_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    hostile = "\x9b2Jgone\u202e\u2066"

    async def write() -> None:
        log = AuditLog(tmp_path / "audit", SystemClock(), SystemRng(), instance="test")
        await log.append(refusal(1, agent=hostile))
        await log.close()

    asyncio.run(write())
    monkeypatch.setattr("twogate.cli.audit.sys", SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: terminal)))
    (line,) = [one for one in run("tail", tmp_path / "audit", "--json").stdout.splitlines() if "git.tool1" in one]
    assert json.loads(line)["agent"] == hostile
    # Another program gets the bytes that were hashed.
    assert ("\x9b" in line) is not terminal
    assert ("\u202e" in line) is not terminal
