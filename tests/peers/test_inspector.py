"""MCP Inspector's command line, a client that people have at hand, through a gateway with a bearer header."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from peers.peers import INSPECTOR, NODE, require
from peers.servers import EVERYTHING, World
from processlab import PATIENCE

pytestmark = pytest.mark.peer


async def inspect(world: World, server: str, home: Path, *arguments: str) -> tuple[int | None, str, str]:
    """Run one command of the Inspector against a server behind the gateway; its exit code and output."""
    header = f"Authorization: Bearer {world.token(server)}"
    command = [require(NODE), require(INSPECTOR), "--cli", world.url(server), "--transport", "http", *arguments]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, "--header", header, env={"HOME": str(home), "NODE_EXTRA_CA_CERTS": world.ca}, stdout=pipe, stderr=pipe
    )
    try:
        said, complained = await asyncio.wait_for(process.communicate(), PATIENCE)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, said.decode(), complained.decode()


async def inspected(world: World, server: str, home: Path, *arguments: str) -> Any:
    """What a command that must succeed prints."""
    code, said, complained = await inspect(world, server, home, *arguments)
    assert code == 0, (said, complained)
    return json.loads(said)


@pytest.mark.parametrize("server", [EVERYTHING, "reference", "reference-sse", "reference-stdio"])
async def test_it_lists_and_calls_tools(many: World, server: str, tmp_path: Path) -> None:
    tool, words = ("test_simple_text", "simple text response") if server == EVERYTHING else ("echo", "Echo: hello")
    listed = await inspected(many, server, tmp_path, "--method", "tools/list")
    names = {entry["name"] for entry in listed["tools"]}
    assert tool in names
    assert "get-env" not in names
    arguments = () if server == EVERYTHING else ("--tool-arg", "message=hello")
    called = await inspected(many, server, tmp_path, "--method", "tools/call", "--tool-name", tool, *arguments)
    assert words in called["content"][0]["text"]


async def test_it_reads_resources_and_prompts(many: World, tmp_path: Path) -> None:
    read = await inspected(many, EVERYTHING, tmp_path, "--method", "resources/read", "--uri", "test://static-text")
    assert read["contents"][0]["text"] == "This is the content of the static text resource."
    got = await inspected(many, EVERYTHING, tmp_path, "--method", "prompts/get", "--prompt-name", "test_simple_prompt")
    assert got["messages"][0]["content"]["text"] == "This is a simple prompt for testing."


async def test_it_does_not_find_what_the_agent_may_not_use(many: World, tmp_path: Path) -> None:
    code, _, complained = await inspect(many, "reference", tmp_path, "--method", "tools/call", "--tool-name", "get-env")
    assert code != 0
    assert "tool_not_found" in complained
