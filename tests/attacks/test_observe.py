"""Observing instead of enforcing: what it may let run, what it never does, and that it ends."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
from structlog.testing import capture_logs

from harness.issuer import TestIssuer
from harness.stack import Stack, free_port, running, settings_for
from harness.upstream import RecordingUpstream
from twogate.adapters.audit_files import verify_directory
from twogate.adapters.clock import SystemClock
from twogate.adapters.serving import Serving
from twogate.reload import Reloader

PERIOD = 200
"""Seconds that the tests observe for; tokens live longer."""


class MovedClock(SystemClock):
    """The system's clock, set forward by the test."""

    def __init__(self) -> None:
        self.ahead = 0

    def now(self) -> int:
        return super().now() + self.ahead

    def now_us(self) -> int:
        return super().now_us() + self.ahead * 1_000_000


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


def settings(directory: Path, upstream: RecordingUpstream, issuer: TestIssuer) -> dict[str, Any]:
    made = settings_for(
        directory, free_port(), {"files": {"url": upstream.url}, "notes": {"url": upstream.url}}, issuer
    )
    made["tenants"] = {"acme": {"servers": ["files"]}}
    made["enforcement"] = "observe"
    made["observe_until"] = datetime.fromtimestamp(int(time.time()) + PERIOD, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    made["agents"]["acme/idle"] = {
        "role": "analyst",
        "tasks": ["report"],
        "bindings": [{"issuer": issuer.url, "subject": "idle"}],
    }
    return made


@pytest.fixture
async def stack(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream, clock: MovedClock
) -> AsyncIterator[Stack]:
    async with running(tmp_path, settings(tmp_path, upstream, issuer), clock) as made:
        yield made


async def call(
    stack: Stack, issuer: TestIssuer, tool: str, agent: str = "robot", *, server: str = "files", **headers: str
) -> httpx2.Response:
    token = issuer.token(stack.resource(server), azp=agent, sub=agent)
    return await stack.call(token, tool, server, **headers)


@pytest.mark.parametrize(
    ("agent", "tool", "headers", "reason"),
    [
        ("robot", "find", {}, "task_not_permitted"),
        ("idle", "look", {}, "session_required"),
        ("idle", "find", {"twogate_task": "edit"}, "task_unknown"),
        ("other", "find", {}, "task_not_permitted"),
    ],
)
async def test_what_role_session_or_task_would_refuse_runs_and_is_written_down(
    stack: Stack,
    issuer: TestIssuer,
    upstream: RecordingUpstream,
    agent: str,
    tool: str,
    headers: dict[str, str],
    reason: str,
) -> None:
    assert (await call(stack, issuer, tool, agent, **headers)).status_code == 200
    assert upstream.calls == [tool]
    (intent,) = [event for event in stack.events() if event["kind"] == "call.intent"]
    assert (intent["decision"], intent["reason"]) == ("observed", reason)
    assert (intent["agent"], intent["target"]) == (agent, f"files.{tool}")


async def test_a_role_that_lacks_the_tool_is_observed(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    changed = settings(tmp_path, upstream, issuer)
    changed["roles"] = {"reader": {"allow": ["read"]}, "executor": {"allow": ["read"]}, "analyst": {"allow": ["read"]}}
    async with running(tmp_path, changed) as stack:
        assert (await call(stack, issuer, "find", "other")).status_code == 200
        (intent,) = [event for event in stack.events() if event["kind"] == "call.intent"]
    assert (intent["decision"], intent["reason"]) == ("observed", "role_not_permitted")


async def test_what_is_allowed_is_written_down_as_allowed(stack: Stack, issuer: TestIssuer) -> None:
    assert (await call(stack, issuer, "look")).status_code == 200
    (intent,) = [event for event in stack.events() if event["kind"] == "call.intent"]
    assert intent["decision"] == "allow"
    assert "reason" not in intent


async def test_every_event_says_that_it_was_written_while_observing(
    stack: Stack, issuer: TestIssuer, clock: MovedClock
) -> None:
    await call(stack, issuer, "look")
    await call(stack, issuer, "find")
    await call(stack, issuer, "wipe")
    await stack.call("no token", "look")
    events = stack.events()
    assert {"process.started", "session.opened", "call.intent", "call.outcome", "call.refused"} <= {
        event["kind"] for event in events
    }
    assert {event.get("enforcement") for event in events} == {"observe"}
    clock.ahead = PERIOD
    await call(stack, issuer, "look")
    assert {event.get("enforcement") for event in stack.events()[len(events) :]} == {None}
    assert verify_directory(stack.directory / "state" / "audit").ok


@pytest.mark.parametrize(
    ("agent", "tool", "headers", "reason"),
    [
        # `change` needs an operation token of an executor; a reader must not do it without one.
        ("other", "change", {}, "role_not_permitted"),
        ("robot", "change", {}, "task_not_permitted"),
        ("robot", "change", {"twogate_task": "edit"}, "operation_token_required"),
        ("idle", "change", {}, "session_required"),
        ("idle", "change", {"twogate_task": "edit"}, "task_unknown"),
        ("other", "wipe", {}, "role_not_permitted"),
        ("robot", "unlisted", {}, "target_unclassified"),
        ("idle", "unlisted", {}, "target_unclassified"),
        ("idle", "unlisted", {"twogate_task": "edit"}, "target_unclassified"),
        ("robot", "LOOK", {}, "target_unclassified"),
        ("robot", "look", {"twogate_session": "made-up"}, "session_unknown"),
        ("idle", "look", {"twogate_session": "made-up", "twogate_task": "edit"}, "session_unknown"),
    ],
)
async def test_what_is_not_a_matter_of_role_and_task_is_refused_as_ever(
    stack: Stack,
    issuer: TestIssuer,
    upstream: RecordingUpstream,
    agent: str,
    tool: str,
    headers: dict[str, str],
    reason: str,
) -> None:
    assert (await call(stack, issuer, tool, agent, **headers)).status_code == 403
    assert upstream.seen == []
    assert stack.reasons()[-1] == reason
    assert not [event for event in stack.events() if event.get("decision") == "observed"]


async def test_another_tenants_server_stays_out_of_reach(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    for agent, headers in (("robot", {}), ("idle", {}), ("idle", {"twogate_task": "edit"})):
        refused = await call(stack, issuer, "look", agent, server="notes", **headers)
        assert refused.status_code == 403
        assert stack.reasons()[-1] == "tenant_server_refused"
    assert upstream.seen == []


async def test_another_principals_ended_or_second_session_is_refused(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream, clock: MovedClock
) -> None:
    opened = await stack.http.post(
        f"{stack.url}/sessions",
        json={"task": "edit"},
        headers={"authorization": f"Bearer {issuer.token(f'{stack.url}/sessions')}"},
    )
    session = opened.json()["session"]
    assert (await call(stack, issuer, "look", "other", twogate_session=session)).status_code == 403
    assert stack.reasons() == ["session_mismatch"]
    assert (await call(stack, issuer, "look", twogate_task="report")).status_code == 403
    assert stack.reasons()[-1] == "task_limit"
    await stack.state.sessions.end(session, clock.now())
    assert (await call(stack, issuer, "look", twogate_session=session)).status_code == 403
    assert stack.reasons()[-1] == "session_ended"
    assert upstream.seen == []


async def test_scopes_and_gate_one_are_enforced(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    changed = settings(tmp_path, upstream, issuer)
    changed["scopes"] = {"reports": ["read", "search"]}
    async with running(tmp_path, changed) as stack:
        for tool, headers in (("look", {}), ("find", {}), ("find", {"twogate_task": "made-up"})):
            refused = await call(stack, issuer, tool, **headers)
            assert refused.status_code == 403
            assert 'error="insufficient_scope"' in refused.headers["www-authenticate"]
        strangers = (
            issuer.token(stack.resource("notes"), scope="reports"),
            issuer.token(stack.resource(), azp="nobody", sub="nobody", scope="reports"),
            issuer.token(stack.resource(), tenant="globex", scope="reports"),
            issuer.token(stack.resource(), exp=int(time.time()) - 60, scope="reports"),
        )
        for token in strangers:
            assert (await stack.call(token, "look")).status_code == 401
        assert upstream.seen == []
        granted = issuer.token(stack.resource(), scope="reports")
        assert (await stack.call(granted, "find")).status_code == 200
    assert upstream.calls == ["find"]


@pytest.mark.parametrize("method", ["tasks/list", "resources/read", "prompts/get", "completion/complete"])
async def test_closed_methods_and_unclassified_resources_stay_closed(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream, method: str
) -> None:
    ref = {"type": "ref/prompt", "name": "p"}
    params = {
        "resources/read": {"uri": "file:///etc/passwd"},
        "prompts/get": {"name": "p"},
        "completion/complete": {"ref": ref, "argument": {"name": "a", "value": "b"}},
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params.get(method, {})}
    for agent in ("robot", "idle"):
        token = issuer.token(stack.resource(), azp=agent, sub=agent)
        assert (await stack.post(token, body, mcp_protocol_version="2025-11-25")).status_code == 403
    assert upstream.seen == []


async def test_a_list_shows_what_would_run(stack: Stack, issuer: TestIssuer, clock: MovedClock) -> None:
    async def listed(agent: str) -> list[str]:
        token = issuer.token(stack.resource(), azp=agent, sub=agent)
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        answer = await stack.post(token, body, mcp_protocol_version="2025-11-25")
        return [tool["name"] for tool in answer.json()["result"]["tools"]]

    for agent in ("robot", "other", "idle"):
        assert await listed(agent) == ["look", "find"]
    clock.ahead = PERIOD
    assert [await listed(agent) for agent in ("robot", "other", "idle")] == [["look"], ["look"], []]


async def test_observing_ends_by_itself(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream, clock: MovedClock
) -> None:
    assert (await call(stack, issuer, "find")).status_code == 200
    assert (await call(stack, issuer, "look", "idle")).status_code == 200
    upstream.seen.clear()
    clock.ahead = PERIOD
    assert (await call(stack, issuer, "find")).status_code == 403
    assert (await call(stack, issuer, "look", "idle")).status_code == 403
    assert (await call(stack, issuer, "find", "idle", twogate_task="edit")).status_code == 403
    assert upstream.seen == []
    refused = [event["reason"] for event in stack.events() if event["kind"] == "call.refused"]
    assert refused == ["task_not_permitted", "session_required", "task_unknown"]
    assert (await call(stack, issuer, "look")).status_code == 200


async def test_a_reload_begins_and_ends_observing_at_once(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    observing = settings(tmp_path, upstream, issuer)
    enforcing = {key: value for key, value in observing.items() if key not in ("enforcement", "observe_until")}
    async with running(tmp_path, enforcing) as stack:
        serving = Serving(tmp_path / "state")
        reloader = Reloader(tmp_path / "twogate.yaml", stack.app, stack.state, None, serving, asyncio.Event())
        reloader.ready(os.getpid())

        async def reload(changed: dict[str, Any]) -> None:
            (tmp_path / "twogate.yaml").write_text(json.dumps(changed))
            await reloader.reload()

        try:
            assert (await call(stack, issuer, "find")).status_code == 403
            with capture_logs() as logged:
                await reload(observing)
            assert [entry["event"] for entry in logged if entry["log_level"] == "warning"] == ["observing"]
            assert (await call(stack, issuer, "find")).status_code == 200
            marked = len(stack.events())
            await reload({**observing, "observe_until": "2020-01-01"})
            assert stack.reasons()[-1] == "configuration_invalid"
            await reload(enforcing)
            assert (await call(stack, issuer, "find")).status_code == 403
        finally:
            serving.close()
        events = stack.events()
    assert [event["reason"] for event in events if event["kind"] == "call.refused"] == ["task_not_permitted"] * 2
    assert {event.get("enforcement") for event in events if event["kind"] in ("call.intent", "call.outcome")} == {
        "observe"
    }
    assert events[marked - 1]["enforcement"] == "observe"
    assert "enforcement" not in events[-1]
    assert upstream.calls == ["find"]


async def test_what_was_observed_gives_no_session_that_outlives_it(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream, clock: MovedClock
) -> None:
    await call(stack, issuer, "find")
    await call(stack, issuer, "find", "idle", twogate_task="edit")
    held = await stack.state.sessions.list_unexpired(clock.now())
    assert {session.task for session in held} == {"report"}
    assert {session.principal.agent for session in held} == {"robot"}
    assert all(session.targets == {"files.look", "notes.look"} for session in held)
