"""The official Python client, through a real `twogate serve` over TLS, to real servers over HTTP and stdio.

One gateway for the whole file; each test connects anew.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from mcp.client.auth.exceptions import OAuthTokenError

from harness.stack import free_port
from peers.peers import MCP_SERVER_GIT, require
from peers.sdk import ERAS, connected, leaves, refused, text
from processlab import PATIENCE, Gateway, cli_json, here_json, init, serving
from twogate.core.errors import GATE_TWO, TOKEN_NEEDED

pytestmark = pytest.mark.peer

GIT = ("git", "-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main")


@dataclass
class World:
    """The gateway, two agents, and what stands behind it."""

    gateway: Gateway
    by_key: dict[str, Any]
    by_secret: dict[str, Any]
    repository: Path
    journal: Path

    def ran(self) -> list[str]:
        """Each tool of the reports server that ran, as `server tool`."""
        return self.journal.read_text().splitlines()

    def snapshot(self) -> tuple[str, str]:
        """Every ref and the working tree of the repository."""
        show = [(*GIT, "-C", str(self.repository), *what) for what in (("show-ref", "--head"), ("status", "-s"))]
        first, second = (subprocess.run(command, capture_output=True, text=True, check=True).stdout for command in show)
        return first, second


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("git") / "repository"
    subprocess.run([*GIT, "init", "-q", str(where)], check=True)
    (where / "a.txt").write_text("one\n")
    subprocess.run([*GIT, "-C", str(where), "add", "a.txt"], check=True)
    subprocess.run([*GIT, "-C", str(where), "commit", "-q", "-m", "The first one"], check=True)
    (where / "b.txt").write_text("two\n")
    return where


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reports") / "journal"
    path.touch()
    return path


@pytest.fixture(scope="module")
def reports(journal: Path) -> Iterator[dict[str, str]]:
    """The URLs of the SDK's server, by the form of its answers."""
    command = [sys.executable, str(Path(__file__).parent / "reports_server.py"), str(journal)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()
            process.wait(PATIENCE)


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, reports: dict[str, str], repository: Path, journal: Path
) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("twogate")
    report_tools = {
        "read_report": "read", "count_reports": "read", "search_reports": "search", "write_report": "write",
        "drop_reports": "configure",
    }  # fmt: skip
    tools = {f"{server}.{tool}": kind for server in ("json", "sse") for tool, kind in report_tools.items()}
    tools |= {"git.git_status": "read", "git.git_log": "read", "git.git_diff": "search", "git.git_commit": "write"}
    tools |= {"git.git_add": "write"}
    settings = {
        "servers": {
            "json": {"url": reports["json"]},
            "sse": {"url": reports["sse"]},
            "git": {"command": [require(MCP_SERVER_GIT), "--repository", str(repository)]},
        },
        "tools": {target: {"class": kind} for target, kind in tools.items()},
        # Every class of its role's except search, so that role and task can be told apart.
        "tasks": {"report": {"tools": ["read", "write", "configure"]}},
        "tenants": {"acme": {"servers": ["json", "sse", "git"]}},
    }
    init(directory, settings, port=free_port())
    config = directory / "twogate.yaml"
    options = ("--role", "executor", "--task", "report", "--default-task", "report", "--config", config)
    by_key = cli_json("agent", "add", "acme/keyed", *options)
    by_secret = here_json("agent", "add", "acme/secretive", "--auth", "client_secret", *options)
    with serving(directory) as gateway:
        yield World(gateway, by_key, by_secret, repository, journal)
        gateway.verify_audit()
    stopped = gateway.events()[-1]
    assert stopped["kind"] == "process.stopped"
    calls = [event["request"] for event in gateway.events() if event["kind"] == "call.intent"]
    outcomes = [event["request"] for event in gateway.events() if event["kind"] == "call.outcome"]
    assert sorted(calls) == sorted(outcomes)


@pytest.fixture(params=ERAS)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("server", ["json", "sse"])
async def test_it_sees_and_calls_what_role_and_task_hold_and_nothing_else(
    world: World, mode: str, server: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = len(world.ran())
    async with connected(world.gateway, world.by_key, server, mode) as client:
        assert client.protocol_version == ERAS[mode]
        listed = await client.list_tools()
        # What an operation token would open is shown; what role or task refuse for good is not.
        assert {tool.name for tool in listed.tools} == {"read_report", "count_reports", "write_report"}
        assert text(await client.call_tool("read_report", {"quarter": "Q3"})) == "revenue of Q3: 42"
        assert await refused(lambda: client.call_tool("search_reports", {"text": "x"})) == (GATE_TWO, "not_permitted")
        assert await refused(lambda: client.call_tool("drop_reports")) == (GATE_TWO, "not_permitted")
        assert await refused(lambda: client.call_tool("no_such_tool")) == (GATE_TWO, "not_permitted")
        token_needed = (TOKEN_NEEDED, "operation_token_required")
        assert await refused(lambda: client.call_tool("write_report", {"text": "x"})) == token_needed
        # A refusal ends nothing: the same connection goes on.
        assert text(await client.call_tool("read_report", {"quarter": "Q4"})) == "revenue of Q4: 42"
    assert world.ran()[before:] == [f"{server} read_report"] * 2
    # The SDK has nothing to complain of, the end of the session included.
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_progress_reaches_the_client_through_the_gateway(world: World, mode: str) -> None:
    seen: list[tuple[float, float | None, str | None]] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, total, message))

    async with connected(world.gateway, world.by_key, "sse", mode) as client:
        result = await client.call_tool("count_reports", progress_callback=on_progress)
        assert text(result) == "3"
    assert seen == [(1, 3, "step 1"), (2, 3, "step 2"), (3, 3, "step 3")]


async def test_the_reason_of_a_refusal_is_exact_in_the_audit_trail_only(world: World, mode: str) -> None:
    before = len(world.gateway.events())
    async with connected(world.gateway, world.by_key, "json", mode) as client:
        for tool in ("search_reports", "drop_reports", "no_such_tool", "write_report"):
            await refused(partial(client.call_tool, tool))
    since = world.gateway.events()[before:]
    refusals = [event for event in since if event["kind"] == "call.refused" and "target" in event]
    assert [(event["target"], event["reason"], event.get("anomaly", False)) for event in refusals] == [
        ("json.search_reports", "task_not_permitted", True),
        ("json.drop_reports", "role_not_permitted", True),
        ("json.no_such_tool", "target_unclassified", True),
        ("json.write_report", "operation_token_required", False),
    ]
    assert {(event["tenant"], event["agent"], event["task"]) for event in refusals} == {("acme", "keyed", "report")}


async def test_a_client_secret_serves_too(world: World, mode: str) -> None:
    async with connected(world.gateway, world.by_secret, "json", mode) as client:
        assert text(await client.call_tool("read_report", {"quarter": "Q1"})) == "revenue of Q1: 42"


async def test_a_client_that_negotiates_settles_on_the_newest_version(world: World) -> None:
    for server in ("json", "git"):
        async with connected(world.gateway, world.by_key, server, "auto") as client:
            assert client.protocol_version == "2026-07-28"
            assert (await client.list_tools()).tools


async def test_an_undeclared_task_lets_nothing_through(world: World, mode: str) -> None:
    before = len(world.ran())

    async def read() -> None:
        async with connected(world.gateway, world.by_key, "json", mode, **{"twogate-task": "nonsense"}) as client:
            await client.call_tool("read_report", {"quarter": "Q1"})

    assert await refused(read) == (GATE_TWO, "task_unknown")
    assert world.ran()[before:] == []


async def test_git_reads_through_the_gateway_and_a_write_leaves_the_repository_as_it_was(
    world: World, mode: str
) -> None:
    before = world.snapshot()
    where = {"repo_path": str(world.repository)}
    async with connected(world.gateway, world.by_key, "git", mode) as client:
        assert client.protocol_version == ERAS[mode]
        listed = await client.list_tools()
        assert {tool.name for tool in listed.tools} == {"git_status", "git_log", "git_add", "git_commit"}
        assert "b.txt" in text(await client.call_tool("git_status", where))
        assert "The first one" in text(await client.call_tool("git_log", where))
        token_needed = (TOKEN_NEEDED, "operation_token_required")
        assert await refused(lambda: client.call_tool("git_add", {**where, "files": ["b.txt"]})) == token_needed
        assert await refused(lambda: client.call_tool("git_commit", {**where, "message": "mine"})) == token_needed
        # Of the task's denial and of a tool that nobody classified the client learns the same.
        for tool in ("git_diff", "git_reset"):
            assert await refused(partial(client.call_tool, tool, where)) == (GATE_TWO, "not_permitted")
        # The server still works, so it is not silence that left the repository alone.
        assert "b.txt" in text(await client.call_tool("git_status", where))
    assert world.snapshot() == before
    assert "?? b.txt" in before[1]


async def test_no_token_means_no_connection(world: World, mode: str) -> None:
    stranger = {**world.by_secret, "client_secret": "x" * 43}
    before = len(world.ran()), len(world.gateway.events())
    with pytest.raises(BaseExceptionGroup) as caught:
        async with connected(world.gateway, stranger, "json", mode) as client:
            await client.call_tool("read_report", {"quarter": "Q1"})
    (failure,) = leaves(caught.value)
    assert isinstance(failure, OAuthTokenError)
    assert "invalid_client" in str(failure)
    assert len(world.ran()) == before[0]
    events = world.gateway.events()
    assert "call.intent" not in [event["kind"] for event in events[before[1] :]]
    # Of the refusals of one address the first is written at once, more are counted.
    assert "token.refused" in [event["kind"] for event in events]
