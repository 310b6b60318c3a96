"""`twogate explain` beyond the decision: limits, pins, arguments, approvals, tokens, and calls that were made."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ruglab import RugPuller
from twogate.adapters.audit_log import AuditLog
from twogate.adapters.clock import SystemClock
from twogate.adapters.rng import SystemRng
from twogate.cli.main import app
from twogate.core.audit.record import AuditEvent, EventKind

LOOK = "files.look"
RULES: list[dict[str, Any]] = [
    {"by": ["administrator"], "people": 2, "when": {"arguments": [{"at": "/path", "one_of": ["/etc"]}]}},
    {"by": ["approver", "operator"], "within": "10m", "not_requester": False, "when": {"roles": ["clerk"]}},
]


@dataclass
class Cli:
    """The command, over a configuration whose only server is `files`."""

    directory: Path
    files: RugPuller

    async def run(self, *command: str, **changes: Any) -> Any:
        done = await self.invoke(*command, "--json", **changes)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    async def invoke(self, *command: str, **changes: Any) -> Any:
        tool = {"class": "write", **changes.pop("tool", {})}
        document: dict[str, Any] = {
            "public_url": "http://localhost:8080",
            "listen": "127.0.0.1:8080",
            "store": "sqlite:///./state/twogate.db",
            "servers": {"files": {"url": self.files.url, **changes.pop("server", {})}},
            "tools": {LOOK: tool, "files.prompt:review": {"class": "read"}, "files.resource:x://**": {"class": "read"}},
            "roles": {"clerk": {"allow": ["read", "write"]}, "boss": {"allow": ["read"], "token": ["write"]}},
            "tasks": {"all": {"tools": ["read", "write"]}},
            "agents": {
                f"acme/{role}": {
                    "role": role,
                    "tasks": ["all"],
                    "default_task": "all",
                    "bindings": [{"issuer": "embedded", "client_id": role}],
                }
                for role in ("clerk", "boss")
            },
            "tenants": {"acme": {"servers": ["files"]}},
            **changes,
        }
        path = self.directory / "twogate.yaml"
        path.write_text(json.dumps(document))
        # In a thread, because the server runs on this one's loop.
        return await asyncio.to_thread(CliRunner().invoke, app, [*command, "-c", str(path)])

    async def explain(self, *options: str, agent: str = "clerk", target: str = LOOK, **changes: Any) -> Any:
        return await self.run("explain", "--agent", f"acme/{agent}", "--tool", target, *options, **changes)

    async def approve(self) -> None:
        await self.run("tool", "approve", "files", "--yes")

    async def step(self, name: str, *options: str, **changes: Any) -> tuple[str, str]:
        """The result of one step, and the decision."""
        said = await self.explain(*options, **changes)
        return next(item["result"] for item in said["steps"] if item["step"] == name), said["decision"]


@pytest.fixture
async def cli(tmp_path: Path) -> AsyncIterator[Cli]:
    server = RugPuller()
    async with server:
        yield Cli(tmp_path, server)


async def test_what_has_to_be_approved_and_is_not_is_refused_without_asking_anybody(cli: Cli) -> None:
    said = await cli.explain(pins="required")
    assert (said["decision"], said["reason"]) == ("deny", "tool_not_approved")
    assert [item["result"] for item in said["steps"][-3:]] == ["not reached"] * 3
    assert await cli.step("pin") == ("passed", "allow")
    assert await cli.step("pin", target="files.resource:x://y", pins="required") == ("passed", "allow")
    assert cli.files.seen == []
    # Looking makes no store.
    assert not (cli.directory / "state" / "twogate.db").exists()


async def test_whether_the_server_still_shows_what_was_approved_is_asked_on_demand(cli: Cli) -> None:
    await cli.approve()
    asked = len(cli.files.seen)
    assert await cli.step("pin") == ("depends", "allow")
    assert (await cli.explain())["text"] == "the call may run; not known here: pin, arguments"
    assert len(cli.files.seen) == asked
    assert await cli.step("pin", "--ask") == ("passed", "allow")
    assert await cli.step("pin", "--ask", target="files.prompt:review") == ("passed", "allow")
    cli.files.face.tools[0][0]["description"] = "Look at every file."
    assert await cli.step("pin", "--ask") == ("refused", "deny")
    assert (await cli.explain("--ask"))["reason"] == "tool_changed"
    del cli.files.face.tools[0][0]
    assert "does not list it any more" in (await cli.explain("--ask"))["text"]
    gone = await cli.explain("--ask", server={"url": "http://127.0.0.1:9/mcp", "timeout": "1s"})
    assert (gone["decision"], gone["reason"]) == ("deny", "upstream_unavailable")


async def test_arguments_are_checked_by_the_schema_that_was_approved(cli: Cli) -> None:
    valid, invalid = ("--arguments", '{"path": "/tmp"}'), ("--arguments", '{"path": 5}')
    assert await cli.step("arguments", *invalid) == ("passed", "allow")
    await cli.approve()
    assert await cli.step("arguments", *valid) == ("passed", "allow")
    assert await cli.step("arguments") == ("depends", "allow")
    said = await cli.explain(*invalid)
    assert (said["decision"], said["reason"]) == ("deny", "arguments_invalid")
    assert "at /path: type" in said["text"]
    assert await cli.step("arguments", *invalid, server={"arguments": "forward"}) == ("passed", "allow")


async def test_it_names_the_rule_who_may_approve_and_for_how_long(cli: Cli) -> None:
    said = await cli.explain("--arguments", '{"path": "/tmp"}', tool={"approval": RULES})
    assert (said["decision"], said["reason"]) == ("approval", "approval_pending")
    assert said["approval"] == {
        "number": 2,
        "by": ["approver", "operator"],
        "people": 1,
        "not_requester": False,
        "within": 600,
        "escalate_after": None,
        "escalate_to": [],
    }
    told = "it waits: rule 2: one approver or operator must approve it within 10 min and the session's life"
    assert said["text"] == told
    first = await cli.explain("--arguments", '{"path": "/etc"}', tool={"approval": RULES})
    assert (first["approval"]["number"], first["approval"]["people"]) == (1, 2)
    assert "other than the user on whose behalf" in first["text"]


async def test_without_arguments_a_rule_that_looks_at_them_is_left_open(cli: Cli) -> None:
    said = await cli.explain(tool={"approval": RULES})
    assert (said["decision"], said["approval"]) == ("allow", None)
    assert said["text"].endswith("not known here: approval")
    assert await cli.step("approval", "--arguments", "{}", tool={"approval": RULES}) == ("waits", "approval")
    # No rule counts for this role and these arguments.
    options = ("--arguments", '{"path": "/tmp"}')
    assert await cli.step("approval", *options, agent="boss", tool={"approval": RULES}) == ("passed", "token")


async def test_an_approval_stands_for_the_token_and_a_token_says_how_long_it_lives(cli: Cli) -> None:
    assert await cli.step("token", agent="boss") == ("needed", "token")
    said = await cli.explain(agent="boss", tool={"token_lifetime": "30s"})
    assert "30 s to run" in said["steps"][-1]["because"]
    rule = {"approval": {"by": ["approver"]}}
    assert await cli.step("token", agent="boss", tool=rule) == ("passed", "approval")


async def test_the_limits_are_told_and_not_judged(cli: Cli) -> None:
    said = await cli.explain(limits={"calls_per_agent": 7, "tool": {"rate": 2, "burst": 3}})
    (limits,) = (item for item in said["steps"] if item["step"] == "limits")
    told = "at most 7 calls of one agent and user at once, 2 a second (3 in a burst) of one tool of an agent"
    assert (limits["result"], limits["because"]) == ("counted", told)


async def test_while_observed_people_are_asked_all_the_same(cli: Cli) -> None:
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%dT00:00:00Z")
    # Nothing for which any role needs a token is only observed.
    tool = {"class": "read", "approval": {"by": ["approver"]}}
    said = await cli.explain("--task", "none", tool=tool, enforcement="observe", observe_until=tomorrow)
    assert (said["decision"], said["reason"]) == ("approval", "task_unknown")
    assert "would be denied" in said["text"]
    assert "people must approve it" in said["text"]


# A call that was made.


async def written(directory: Path, *events: AuditEvent) -> None:
    log = AuditLog(directory / "state" / "audit", SystemClock(), SystemRng(), instance="test")
    for event in events:
        await log.append(event)
    await log.close()


def call(kind: EventKind, request: str, **changes: Any) -> AuditEvent:
    given = {"tenant": "acme", "agent": "clerk", "server": "files", "method": "tools/call", "target": LOOK}
    return AuditEvent(kind=kind, at=SystemClock().now_us(), request=request, **{**given, **changes})


async def test_a_call_on_the_trail_is_explained_by_its_own_events(cli: Cli) -> None:
    await written(
        cli.directory,
        call(EventKind.CALL_REFUSED, "a-1", decision="deny", reason="task_not_permitted"),
        call(EventKind.CALL_INTENT, "a-2", decision="allow"),
        call(EventKind.CALL_OUTCOME, "a-2", outcome="answered"),
    )
    said = await cli.run("explain", "--request", "a-1")
    assert (said["decision"], said["reason"], said["step"]) == ("deny", "task_not_permitted", "task")
    assert [event["request"] for event in said["events"]] == ["a-1"]
    said = await cli.run("explain", "--request", "a-2")
    assert (said["decision"], said["reason"], len(said["events"])) == ("allow", None, 2)
    people = await cli.invoke("explain", "--request", "a-1")
    lines = [" ".join(line.split()) for line in people.stdout.splitlines()]
    assert "task refused the tool is not among the task's (tasks)" in lines
    assert lines[-1] == "deny: refused at task: the tool is not among the task's (tasks)"


async def test_no_text_of_the_trail_begins_a_line_of_the_explanation(cli: Cli) -> None:
    detail = "gone\nallow: allowed; the outcome is answered"
    await written(cli.directory, call(EventKind.CALL_REFUSED, "a-1", decision="deny", reason="internal", detail=detail))
    done = await cli.invoke("explain", "--request", "a-1")
    assert done.exit_code == 0
    assert [line for line in done.stdout.splitlines() if line.startswith("allow")] == []
    assert "gone\\nallow: allowed" in done.stdout


async def test_a_request_that_nobody_made_is_said_to_be_none(cli: Cli) -> None:
    for request in ("a-1", ""):
        assert (await cli.invoke("explain", "--request", request)).exit_code == 1
    await written(cli.directory, call(EventKind.CALL_INTENT, "a-2"))
    for request in ("a-1", ""):
        done = await cli.invoke("explain", "--request", request)
        assert done.exit_code == 1
        assert "no event on the trail of this machine" in done.stderr


@pytest.mark.parametrize(
    "options", [(), ("--agent", "acme/clerk"), ("--tool", LOOK), ("--request", "x", "--tool", LOOK)]
)
async def test_half_a_question_is_a_mistake_of_usage(cli: Cli, options: tuple[str, ...]) -> None:
    assert (await cli.invoke("explain", *options)).exit_code == 2


async def test_only_a_server_that_can_be_asked_is_asked(cli: Cli) -> None:
    done = await cli.invoke("explain", "--agent", "acme/clerk", "--tool", "none.look", "--ask")
    assert done.exit_code == 1
    assert "no server none that could be asked" in done.stderr
