"""The tool catalogue and `Mcp-Param-*` against servers and clients that nobody here wrote."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from mcp.server.mcpserver import MCPServer

from harness.stack import free_port
from peers.peers import MCP_SERVER_GIT, MCP_SERVER_SQLITE, require
from peers.sdk import connected, text
from processlab import PATIENCE, Gateway, cli, here_json, init, serving
from twogate.adapters.clock import SystemClock
from twogate.adapters.upstream.sse import SseUpstream
from twogate.adapters.upstream.stdio import StdioLimits, StdioUpstream
from twogate.core.errors import HEADER_MISMATCH
from twogate.flows.gateway.catalogue_fetch import fetch_tools
from twogate.flows.gateway.tool_list import Era, ToolList

pytestmark = pytest.mark.peer

MODERN = "2026-07-28"
META = {"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}}


@dataclass
class World:
    """The gateway, its agent, and what the server did."""

    gateway: Gateway
    agent: dict[str, Any]
    journal: Path

    def ran(self) -> list[dict[str, Any]]:
        """Every call that the server ran, with the headers that came with it."""
        return [json.loads(line) for line in self.journal.read_text().splitlines()]

    def call(self, arguments: dict[str, Any], **headers: str) -> httpx2.Response:
        """A modern `tools/call` by hand."""
        params = {"name": "query", "arguments": arguments, "_meta": META}
        sent = {
            "authorization": f"Bearer {self.gateway.token(self.agent, 'regions')}",
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": MODERN,
            "mcp-method": "tools/call",
            "mcp-name": "query",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        return httpx2.post(
            f"{self.gateway.url}/mcp/regions",
            json={"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params},
            headers=sent,
            verify=self.gateway.trust(),
            trust_env=False,
            timeout=PATIENCE,
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    journal = tmp_path_factory.mktemp("regions") / "journal"
    journal.touch()
    command = [sys.executable, str(Path(__file__).parent / "regions_server.py"), str(journal)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            directory = tmp_path_factory.mktemp("twogate")
            settings = {
                "servers": {"regions": {"url": url}},
                "tools": {"regions.query": {"class": "read"}},
                "tasks": {"report": {"tools": ["read"]}},
                "tenants": {"acme": {"servers": ["regions"]}},
            }
            init(directory, settings, port=free_port())
            config = directory / "twogate.yaml"
            options = ("--role", "reader", "--task", "report", "--default-task", "report", "--config", config)
            agent = here_json("agent", "add", "acme/reader", "--auth", "client_secret", *options)
            with serving(directory) as gateway:
                yield World(gateway, agent, journal)
                gateway.verify_audit()
        finally:
            process.terminate()
            process.wait(PATIENCE)


@pytest.mark.parametrize("region", ["us-west1", "Zürich", " padded ", "=?base64?literal?="])
async def test_the_official_clients_headers_pass_and_the_official_server_takes_ours(world: World, region: str) -> None:
    before = len(world.ran())
    async with connected(world.gateway, world.agent, "regions", MODERN) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["query"]
        result = await client.call_tool("query", {"text": "x", "region": region, "limit": -3})
        assert text(result) == f"x in {region}"
    (ran,) = world.ran()[before:]
    assert ran["arguments"] == ["x", region, -3]
    assert set(ran["headers"]) == {"mcp-param-region", "mcp-param-row-limit"}
    assert ran["headers"]["mcp-param-row-limit"] == "-3"


async def test_a_client_of_an_older_version_needs_none(world: World) -> None:
    before = len(world.ran())
    async with connected(world.gateway, world.agent, "regions", "legacy") as client:
        result = await client.call_tool("query", {"text": "x", "region": "us", "limit": 1})
        assert text(result) == "x in us"
    assert world.ran()[before:] == [{"arguments": ["x", "us", 1], "headers": {}}]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"mcp_param_region": "us"},
        {"mcp_param_region": "eu", "mcp_param_row_limit": "1"},
        {"mcp_param_region": "us", "mcp_param_row_limit": "2"},
        {"mcp_param_region": "us", "mcp_param_row_limit": "1", "mcp_param_text": "x"},
    ],
)
def test_headers_that_mislead_are_refused_before_the_server(world: World, headers: dict[str, str]) -> None:
    before = len(world.ran())
    answer = world.call({"text": "x", "region": "us", "limit": 1}, **headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == HEADER_MISMATCH
    assert world.gateway.events()[-1]["reason"] == "header_mismatch"
    assert world.ran()[before:] == []


def test_the_command_lists_what_the_server_has(world: World) -> None:
    config = world.gateway.config
    document = here_json("tool", "list", "--config", config)
    assert {(row["target"], row["class"]) for row in document["tools"]} == {
        ("regions.query", "read"),
        ("regions.ping_region", None),
    }
    done = cli("tool", "classify", "regions", "--config", config)
    assert (done.returncode, done.stderr) == (0, "")
    assert "#   regions.ping_region: {class: }  # the server says: nothing" in done.stdout


async def listed_over_stdio(*command: str) -> tuple[ToolList, ToolList, int]:
    """What a stdio server says at first and when it is asked again, and how many of its processes that took."""
    upstream = StdioUpstream(
        command, cwd=None, environment={}, limits=StdioLimits(), clock=SystemClock(), log=lambda name, line: None
    )
    try:
        first = await fetch_tools(upstream, "acme", PATIENCE)
        second = await fetch_tools(upstream, "acme", PATIENCE, first.era)
        return first, second, len(upstream._lives)
    finally:
        await upstream.aclose()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    return tmp_path


async def test_git_is_asked_over_stdio_as_the_modern_server_that_it_is(repository: Path) -> None:
    first, second, processes = await listed_over_stdio(require(MCP_SERVER_GIT), "--repository", str(repository))
    assert first.era is Era.MODERN
    assert {"git_status", "git_log", "git_commit"} <= first.tools.keys()
    assert (first.tools["git_log"].claims.read_only, first.tools["git_commit"].claims.read_only) == (True, False)
    # The digests hold still while the server does.
    assert second.tools == first.tools
    assert processes == 1


async def test_a_server_of_the_first_generation_is_asked_by_the_handshake(tmp_path: Path) -> None:
    first, second, processes = await listed_over_stdio(
        require(MCP_SERVER_SQLITE), "--db-path", str(tmp_path / "company.db")
    )
    assert first.era is Era.HANDSHAKE
    assert {"read_query", "write_query", "list_tables"} <= first.tools.keys()
    assert second.tools == first.tools
    assert processes <= 2, "one that was probed, and one for the handshake"


@pytest.fixture
async def sse_url() -> AsyncIterator[str]:
    """The SDK's server over the HTTP+SSE transport."""
    server = MCPServer("old")

    @server.tool()
    async def look(at: str) -> str:
        """Look at something."""
        return at

    sock = socket.create_server(("127.0.0.1", 0))
    running = uvicorn.Server(uvicorn.Config(server.sse_app(), log_level="error", timeout_graceful_shutdown=1))
    serving = asyncio.create_task(running.serve([sock]))
    yield f"http://127.0.0.1:{sock.getsockname()[1]}/sse"
    running.should_exit = True
    await serving


async def test_a_server_of_the_oldest_transport_is_asked_by_the_handshake(sse_url: str) -> None:
    upstream = SseUpstream(sse_url, clock=SystemClock(), log=lambda name, line: None)
    try:
        listed = await fetch_tools(upstream, "acme", PATIENCE)
        again = await fetch_tools(upstream, "acme", PATIENCE, listed.era)
    finally:
        await upstream.aclose()
    assert (list(listed.tools), listed.era) == (["look"], Era.HANDSHAKE)
    assert again == listed
