"""mcp-server-sqlite, a server on the SDK's first generation, through a real `twogate serve` and the official client.

It knows the handshake era only, announces no annotations, and tells its errors as text: all it takes to guard it is
its tools' classes in the configuration.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mcp import MCPError
from mcp_types import INVALID_PARAMS

from harness.stack import free_port
from peers.peers import MCP_SERVER_SQLITE, require
from peers.sdk import connected, refused, text
from processlab import Gateway, descendants, here_json, init, serving, until
from twogate.core.errors import GATE_TWO, TOKEN_NEEDED

pytestmark = pytest.mark.peer


def cmdline(pid: int) -> list[bytes]:
    """A process's command; empty if it has just ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return []


@dataclass
class World:
    """The gateway, an agent, and the database that the server works on."""

    gateway: Gateway
    agent: dict[str, Any]
    database: Path

    def servers(self) -> int:
        """How many processes of the server there are; a supervisor names the server too, but is a Python program."""
        program = MCP_SERVER_SQLITE.name.encode()
        commands = [cmdline(pid) for pid, _ in descendants(self.gateway.pid)]
        return sum(any(part.endswith(b"/" + program) for part in command[:2]) for command in commands)

    def rows(self) -> list[tuple[str, int]]:
        """What the database holds, read beside the server."""
        with closing(sqlite3.connect(self.database)) as connection:
            return connection.execute("SELECT * FROM revenue ORDER BY quarter").fetchall()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    database = tmp_path_factory.mktemp("sqlite") / "company.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE revenue (quarter TEXT, million INTEGER)")
        connection.execute("INSERT INTO revenue VALUES ('Q1', 41), ('Q2', 42)")
        connection.commit()
    directory = tmp_path_factory.mktemp("twogate")
    classes = {
        "read_query": "read", "list_tables": "read", "describe_table": "search", "write_query": "write",
        "create_table": "write", "append_insight": "send",
    }  # fmt: skip
    settings = {
        "servers": {"db": {"command": [require(MCP_SERVER_SQLITE), "--db-path", str(database)]}},
        "tools": {f"db.{tool}": {"class": kind} for tool, kind in classes.items()},
        "tasks": {"quarterly-report": {"tools": ["db.read_query", "db.list_tables", "db.write_query"]}},
        "agents": {
            "acme/reporter": {
                "role": "executor", "tasks": ["quarterly-report"], "default_task": "quarterly-report",
                "bindings": [{"issuer": "embedded", "client_id": "reporter"}],
            }
        },
        "tenants": {"acme": {"servers": ["db"]}},
    }  # fmt: skip
    init(directory, settings, port=free_port())
    agent = here_json("agent", "add", "acme/reporter", "--config", directory / "twogate.yaml")
    assert agent["client_id"] == "reporter"
    with serving(directory) as gateway:
        yield World(gateway, agent, database)
        gateway.verify_audit()


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_the_agent_reads_real_data_and_cannot_change_it(world: World, mode: str) -> None:
    before, running = world.rows(), world.servers()
    async with connected(world.gateway, world.agent, "db", mode) as client:
        # A negotiating client finds no modern server behind the gateway and falls back to the handshake.
        assert client.protocol_version == "2025-11-25"
        listed = await client.list_tools()
        assert {tool.name for tool in listed.tools} == {"read_query", "list_tables", "write_query"}
        assert "revenue" in text(await client.call_tool("list_tables"))
        query = {"query": "SELECT million FROM revenue WHERE quarter = 'Q2'"}
        assert text(await client.call_tool("read_query", query)) == "[{'million': 42}]"
        # Read as a query, a write is the server's own to refuse; the gate in front knows the tool's class only.
        assert "Only SELECT" in text(await client.call_tool("read_query", {"query": "DELETE FROM revenue"}))
        token_needed = (TOKEN_NEEDED, "operation_token_required")
        assert await refused(lambda: client.call_tool("write_query", {"query": "DELETE FROM revenue"})) == token_needed
        table = {"query": "CREATE TABLE mine (x)"}
        assert await refused(lambda: client.call_tool("create_table", table)) == (GATE_TWO, "not_permitted")
        # One process for the session; none is left of the probe, nor of a session that has ended.
        until(lambda: world.servers() == running + 1, "another process than the session's was left")
        described = {"table_name": "revenue"}
        assert await refused(lambda: client.call_tool("describe_table", described)) == (GATE_TWO, "not_permitted")
    until(lambda: world.servers() == running, "a process outlived the session")
    assert world.rows() == before == [("Q1", 41), ("Q2", 42)]
    outcomes = [event for event in world.gateway.events() if event["kind"] == "call.outcome"]
    assert {event["target"] for event in outcomes if "target" in event} == {"db.list_tables", "db.read_query"}


async def test_a_client_that_insists_on_the_newest_version_gets_the_servers_own_error(world: World) -> None:
    before = len(world.gateway.events())
    async with connected(world.gateway, world.agent, "db", "2026-07-28") as client:
        with pytest.raises(MCPError) as caught:
            await client.call_tool("list_tables")
    assert caught.value.code == INVALID_PARAMS
    calls = [event for event in world.gateway.events()[before:] if event.get("method") == "tools/call"]
    assert [event["outcome"] for event in calls if event["kind"] == "call.outcome"] == ["upstream_error"]
