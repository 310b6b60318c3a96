"""Servers that nobody here wrote, approved by the command and used by the official client; and one that turns."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mcp import MCPError

from harness.stack import free_port
from peers.peers import MCP_SERVER_GIT, NODE, REFERENCE_SERVER, require
from peers.sdk import connected, text
from processlab import PATIENCE, Gateway, here, here_json, init, serving

pytestmark = pytest.mark.peer

TOOLS = {
    "git": ["git_status", "git_log", "git_diff_unstaged", "git_show"],
    "reference": ["echo", "get-sum", "get-structured-content", "prompt:args-prompt", "prompt:simple-prompt"],
    "turning": ["echo", "add", "prompt:greet"],
}


@dataclass
class World:
    """A gateway that requires approvals, in front of three servers."""

    gateway: Gateway
    agent: dict[str, Any]
    repository: Path
    flag: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("twogate")
    repository, flag = directory / "repository", directory / "turned"
    subprocess.run(["git", "init", "-q", str(repository)], check=True)
    (repository / "a.txt").write_text("one\n")
    command = [sys.executable, str(Path(__file__).parent / "turning_server.py"), str(flag)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            settings = {
                "servers": {
                    "git": {"command": [require(MCP_SERVER_GIT), "--repository", str(repository)]},
                    "reference": {"command": [require(NODE), require(REFERENCE_SERVER), "stdio"]},
                    "turning": {"url": url},
                },
                "pins": "required",
                "tools": {f"{server}.{tool}": {"class": "read"} for server, tools in TOOLS.items() for tool in tools},
                "tasks": {"report": {"tools": ["read"]}},
                "tenants": {"acme": {"servers": list(TOOLS)}},
            }
            init(directory, settings, port=free_port())
            config = directory / "twogate.yaml"
            options = ("--role", "reader", "--task", "report", "--default-task", "report", "--config", config)
            agent = here_json("agent", "add", "acme/reader", "--auth", "client_secret", *options)
            with serving(directory) as gateway:
                yield World(gateway, agent, repository, flag)
                gateway.verify_audit()
        finally:
            process.terminate()
            process.wait(PATIENCE)


def approve(world: World, server: str) -> set[str]:
    """Approve what the server shows; the targets that were new or changed."""
    document = asked("tool", "approve", server, "--yes", "--config", world.gateway.config)
    assert document["refused"] == []
    return {item["target"] for item in document["approved"]}


def asked(*arguments: str | Path) -> Any:
    """What a command that must succeed prints; on a busy machine it may also say what it waits for."""
    done = here(*arguments, "--json")
    assert done.returncode == 0, done
    return json.loads(done.stdout)


CALLS: dict[str, dict[str, dict[str, Any]]] = {
    "git": {"git_status": {}, "git_diff_unstaged": {}},
    "reference": {"echo": {"message": "hello"}, "get-sum": {"a": 2, "b": 3}},
}
WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "git": ("git_status", {"repo_path": 5}, "/repo_path"),
    "reference": ("get-sum", {"a": "2", "b": 3}, "/a"),
}


@pytest.mark.parametrize("server", CALLS)
async def test_every_tool_of_a_real_server_is_approved_and_called(world: World, server: str) -> None:
    async with connected(world.gateway, world.agent, server, "legacy") as client:
        assert (await client.list_tools()).tools == []
    approve(world, server)
    # The reference server is of the SDK's first generation.
    for mode in ("legacy", "2026-07-28") if server == "git" else ("legacy",):
        async with connected(world.gateway, world.agent, server, mode) as client:
            listed = {tool.name for tool in (await client.list_tools()).tools}
            assert listed == {tool for tool in TOOLS[server] if not tool.startswith("prompt:")}
            for tool, arguments in CALLS[server].items():
                given = arguments or {"repo_path": str(world.repository)}
                assert not (await client.call_tool(tool, given)).is_error
            name, arguments, path = WRONG[server]
            with pytest.raises(MCPError) as refused:
                await client.call_tool(name, arguments)
            assert refused.value.error.data["path"] == path
            if server == "reference":
                assert {item.name for item in (await client.list_prompts()).prompts} == {"args-prompt", "simple-prompt"}
                assert "Oslo" in str((await client.get_prompt("args-prompt", {"city": "Oslo"})).messages)
    pins = asked("tool", "pins", server, "--config", world.gateway.config)
    assert {row["state"] for row in pins["pins"]} == {"approved"}


async def test_a_server_that_changes_a_tool_is_held_back_for_the_official_client(world: World) -> None:
    assert approve(world, "turning") == {
        "turning.echo", "turning.add", "turning.prompt:greet", "turning.instructions:",
    }  # fmt: skip
    config = world.gateway.config
    async with connected(world.gateway, world.agent, "turning", "legacy") as client:
        assert client.instructions == "Echo what you are given."
        assert {tool.name for tool in (await client.list_tools()).tools} == {"echo", "add"}
        assert text(await client.call_tool("echo", {"text": "a", "times": 3})) == "aaa"
        world.flag.touch()
        listed = await client.list_tools()
        assert {tool.name for tool in listed.tools} == {"add"}
        assert ".ssh" not in str(listed)
        assert (await client.list_prompts()).prompts == []
    (changed,) = [
        row for row in asked("tool", "pins", "turning", "--config", config)["pins"] if row["target"] == "turning.echo"
    ]
    assert changed["state"] == "changed"
    assert changed["differences"][0]["path"] == ["description"]
    alerts = [event for event in world.gateway.events() if event["kind"] == "tool.changed"]
    assert {(event["target"], event["detail"]) for event in alerts} >= {
        ("turning.echo", "other than approved: description"),
        ("turning.prompt:greet", "other than approved: description"),
    }
    async with connected(world.gateway, world.agent, "turning", "legacy") as client:
        with pytest.raises(MCPError) as refused:
            await client.get_prompt("greet", {"name": "Ada"})
        assert refused.value.error.data["reason"] == "tool_withheld"
        assert text(await client.call_tool("add", {"one": 1, "other": 2})) == "3"
    # Somebody read it and finds it good.
    assert approve(world, "turning") == {"turning.echo", "turning.prompt:greet"}
    async with connected(world.gateway, world.agent, "turning", "legacy") as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == {"echo", "add"}
