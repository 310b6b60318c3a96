"""mcp-server-git, the reference server on the MCP SDK, through `StdioUpstream` in both eras."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from processlab import descendants, living
from stdio_servers.harness import ALICE, BOT, Client, StepClock, body, raw
from twogate.adapters.upstream.stdio import StdioLimits, StdioUpstream
from twogate.core.errors import ErrorCode, GateError
from twogate.core.principal import PrincipalKey

pytestmark = pytest.mark.peer

COMMAND = Path(sys.executable).parent / "mcp-server-git"
MODERN_META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    where = tmp_path / "repository"
    git = ["git", "-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run([*git, "init", "-q", str(where)], check=True)
    (where / "a.txt").write_text("one\n")
    subprocess.run([*git, "-C", str(where), "add", "a.txt"], check=True)
    subprocess.run([*git, "-C", str(where), "commit", "-q", "-m", "The first one"], check=True)
    (where / "b.txt").write_text("two\n")
    return where


@pytest.fixture
async def server(repository: Path) -> AsyncIterator[Client]:
    logged: list[tuple[str, str]] = []
    clock = StepClock()
    upstream = StdioUpstream(
        (COMMAND.name, "--repository", str(repository)),
        cwd=repository,
        environment={},
        limits=StdioLimits(),
        clock=clock,
        log=lambda name, line: logged.append((name, line)),
    )
    yield Client(upstream, clock, logged)
    await upstream.aclose()
    assert not upstream._lives


async def tool(server: Client, repository: Path, name: str, *, modern: bool, owner: PrincipalKey = BOT) -> str:
    params: dict[str, Any] = {"name": name, "arguments": {"repo_path": str(repository)}}
    if modern:
        params["_meta"] = MODERN_META
    answer = await body(await server.send("tools/call", params, modern=modern, owner=owner))
    assert not answer["result"].get("isError"), answer
    return json.dumps(answer["result"]["content"])


async def test_a_handshake_client_initializes_lists_and_calls(server: Client, repository: Path) -> None:
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
    welcome = await body(await server.send("initialize", hello, identifier="w"))
    assert welcome["id"] == "w"
    assert welcome["result"]["protocolVersion"] == "2025-06-18"
    assert (await server.send("notifications/initialized", {}, identifier=None)).status == 202
    listed = await body(await server.send("tools/list", {}))
    assert {"git_status", "git_log", "git_commit"} <= {entry["name"] for entry in listed["result"]["tools"]}
    assert "b.txt" in await tool(server, repository, "git_status", modern=False)
    assert "The first one" in await tool(server, repository, "git_log", modern=False)
    assert "result" in await body(await server.send("ping", {}))


async def test_a_modern_client_discovers_lists_and_calls(server: Client, repository: Path) -> None:
    found = await body(await server.send("server/discover", {"_meta": MODERN_META}, modern=True))
    assert "2026-07-28" in found["result"]["supportedVersions"]
    listed = await body(await server.send("tools/list", {"_meta": MODERN_META}, modern=True))
    assert "git_status" in {entry["name"] for entry in listed["result"]["tools"]}
    assert "b.txt" in await tool(server, repository, "git_status", modern=True)


async def test_both_eras_and_two_users_are_served_side_by_side(server: Client, repository: Path) -> None:
    for modern in (False, True, False):
        for owner in (BOT, ALICE):
            assert "b.txt" in await tool(server, repository, "git_status", modern=modern, owner=owner)
    assert len(server.upstream._lives) == 4


async def test_a_progress_token_changes_nothing_for_a_server_that_makes_none(server: Client, repository: Path) -> None:
    params = {"name": "git_status", "arguments": {"repo_path": str(repository)}, "_meta": {"progressToken": "p"}}
    answer = await body(await server.send("tools/call", params, identifier=4))
    assert answer["id"] == 4
    assert "b.txt" in json.dumps(answer["result"])


async def test_an_unknown_tool_is_the_servers_own_error(server: Client) -> None:
    answer = await body(await server.send("tools/call", {"name": "no_such_tool", "arguments": {}}, identifier=3))
    assert (answer["id"], answer["error"]["code"]) == (3, -32602)


async def test_closing_stdin_is_enough_to_end_it(server: Client, repository: Path) -> None:
    before = descendants(os.getpid())
    assert await raw(await server.send("ping", {}))
    started = descendants(os.getpid()) - before
    assert living(started)
    await server.upstream.aclose()
    assert not living(started)
    with pytest.raises(GateError) as caught:
        await server.send("ping", {})
    assert caught.value.code is ErrorCode.UPSTREAM_UNAVAILABLE
