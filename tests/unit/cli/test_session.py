"""`twogate session`: what is under way, and ending it."""

import asyncio
import json
import os
import pwd
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from twogate.adapters.audit_log import AuditLog
from twogate.adapters.clock import SystemClock
from twogate.adapters.rng import SystemRng
from twogate.cli.main import app
from twogate.config import load_settings
from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.principal import Agent, AgentId, PrincipalKey, UserId
from twogate.core.session import MAX_LIFETIME, Session
from twogate.state import open_state

CONFIG = """\
public_url: http://localhost:8080
listen: 127.0.0.1:8080
store: sqlite:///./state/twogate.db
state: state
tenants: {acme: {}, globex: {}}
"""
ISSUER = "https://idp.example"


class Lab:
    """A configuration with a store, and the command line over it."""

    def __init__(self, directory: Path) -> None:
        self.config = directory / "twogate.yaml"
        self.config.write_text(CONFIG)
        self.audit = directory / "state" / "audit"

    def open(self, *sessions: Session) -> None:
        """Put sessions into the store."""

        async def put() -> None:
            state = await open_state(load_settings(self.config))
            try:
                for session in sessions:
                    key = session.principal
                    agent = Agent(AgentId(key.tenant, key.agent), "reader", (session.task,))
                    await state.sessions.open(session, agent, session.created_at)
            finally:
                await state.close()

        asyncio.run(put())

    def refuse(self, tenant: str, session: str) -> None:
        """Write down that a call was refused."""

        async def write() -> None:
            log = AuditLog(self.audit, SystemClock(), SystemRng(), instance="test")
            event = AuditEvent(kind=EventKind.CALL_REFUSED, at=time.time_ns() // 1000, tenant=tenant, session=session)
            await log.append(event)
            await log.close()

        asyncio.run(write())

    def run(self, *args: str) -> Result:
        return CliRunner().invoke(app, ["session", *args, "--config", str(self.config)])

    def json(self, *args: str) -> Any:
        result = self.run(*args, "--json")
        assert (result.exit_code, result.stderr) == (0, "")
        return json.loads(result.stdout)

    def ended(self) -> list[dict[str, Any]]:
        """The `session.ended` events on the trail."""
        lines = [line for path in sorted(self.audit.iterdir()) for line in path.read_bytes().splitlines()]
        return [event for event in map(json.loads, lines) if event["kind"] == "session.ended"]


def session(name: str, *, tenant: str = "acme", age: int = 0, user: UserId | None = None) -> Session:
    now = int(time.time()) - age
    principal = PrincipalKey(tenant, ISSUER, f"agent-{name}", user)
    held = frozenset({"git.log", "git.diff", "!git.resource:x:/y"})
    return Session(name, principal, "report", held, now, now + MAX_LIFETIME)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_with_no_session_it_says_so(lab: Lab) -> None:
    assert lab.run("list").stdout == "No session is under way.\n"
    assert lab.json("list") == {"sessions": []}


def test_it_shows_sessions_before_their_deadline_by_tenant(lab: Lab) -> None:
    lab.open(
        session("one", age=60, user=UserId(ISSUER, "alice")),
        session("two", tenant="globex"),
        session("past", age=MAX_LIFETIME + 1),
    )
    first, second = lab.json("list")["sessions"]
    left = first.pop("seconds_left")
    assert MAX_LIFETIME - 120 < left <= MAX_LIFETIME - 60
    assert abs(first.pop("deadline") - time.time() - left) < 30
    assert first == {
        "session": "one", "agent": "acme/agent-one", "issuer": ISSUER, "user": f"alice ({ISSUER})", "task": "report",
        "targets": ["git.diff", "git.log"], "withheld": ["git.resource:x:/y"], "tools": 2, "refused": 0,
        "state": "live",
    }  # fmt: skip
    assert (second["session"], second["user"]) == ("two", None)
    assert [row["session"] for row in lab.json("list", "--tenant", "globex")["sessions"]] == ["two"]
    assert lab.json("list", "--tenant", "nobody") == {"sessions": []}
    heading, *lines = lab.run("list").stdout.splitlines()
    assert heading.split()[:4] == ["Session", "Agent", "User", "Task"]
    assert [line.split()[0] for line in lines] == ["one", "two"]
    assert lines[1].split()[2] == "-"


def test_ending_holds_from_now_on_and_is_written_down(lab: Lab) -> None:
    lab.open(session("one"), session("two"))
    result = lab.run("end", "one")
    assert (result.exit_code, result.stdout) == (0, "Session one is ended.\n")
    assert lab.json("end", "two") == {"session": "two", "state": "ended"}
    # It stays on the list until its deadline, because its task stays taken.
    assert {row["session"]: row["state"] for row in lab.json("list")["sessions"]} == {"one": "ended", "two": "ended"}
    assert [(event["session"], event["tenant"], event["agent"], event["task"]) for event in lab.ended()] == [
        ("one", "acme", "agent-one", "report"),
        ("two", "acme", "agent-two", "report"),
    ]
    assert lab.ended()[0]["detail"] == "ended by an operator"


def test_the_trail_says_whose_account_ended_it_whatever_the_environment_says(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "somebody-else")
    lab.open(session("one"))
    assert lab.run("end", "one").exit_code == 0
    assert lab.ended()[0]["client"] == f"operator:{pwd.getpwuid(os.getuid()).pw_name}"


def test_it_counts_the_calls_that_were_refused_to_each(lab: Lab) -> None:
    lab.open(session("one"), session("two", tenant="globex"))
    lab.refuse("acme", "one")
    lab.refuse("acme", "one")
    lab.refuse("acme", "two")  # of another tenant than the session
    assert {row["session"]: row["refused"] for row in lab.json("list")["sessions"]} == {"one": 2, "two": 0}


@pytest.mark.parametrize("name", ["none", "' OR 1=1 --", "\x1b]0;x\x07"])
def test_a_session_that_is_not_there_cannot_be_ended(lab: Lab, name: str) -> None:
    lab.open(session("one"))
    result = lab.run("end", name)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("twogate: there is no session ")
    assert "\x1b" not in result.stderr
    assert json.loads(lab.run("end", name, "--json").stdout)["error"]["code"] == "not_found"
    assert lab.ended() == []
    assert lab.json("list")["sessions"][0]["state"] == "live"


def test_without_its_argument_or_a_configuration_it_is_wrong_use_or_failed(lab: Lab, tmp_path: Path) -> None:
    assert lab.run("end").exit_code == 2
    assert lab.run("list", "--nonsense").exit_code == 2
    missing = CliRunner().invoke(app, ["session", "list", "--config", str(tmp_path / "none.yaml"), "--json"])
    assert missing.exit_code == 1
    assert json.loads(missing.stdout)["error"]["code"] == "configuration_invalid"
