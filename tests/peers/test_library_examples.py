"""The examples of library mode run as their pages say, and the official client calls them through both gates."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client

from harness.stack import free_port
from peers.sdk import ERAS, provider
from processlab import PATIENCE, here_json, until

EXAMPLES = Path(__file__).parents[2] / "examples"


@contextmanager
def example(name: str, directory: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """A copy of an example, served by uvicorn on a free port: its origin, and an agent's credential."""
    shutil.copytree(EXAMPLES / name, directory, dirs_exist_ok=True)
    port, config = free_port(), directory / "twogate.yaml"
    config.write_text(config.read_text().replace("8000", str(port)))
    agent = here_json("agent", "add", "acme/keeper", "--auth", "client_secret", "--config", config)
    command = [sys.executable, "-m", "uvicorn", "server:app", "--port", str(port), "--timeout-graceful-shutdown", "2"]
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log, env=dict(os.environ))
    url = f"http://localhost:{port}"

    def ready() -> bool:
        assert process.poll() is None, (directory / "log").read_text()
        try:
            return httpx2.get(f"{url}/readyz", trust_env=False).status_code == 200
        except httpx2.TransportError:
            return False

    try:
        until(ready, "the example is ready")
        yield url, agent
    finally:
        process.terminate()
        process.wait(PATIENCE)


@pytest.fixture(scope="module", params=["fastmcp_notes", "starlette_mcp"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    directory = tmp_path_factory.mktemp(request.param)
    with example(request.param, directory) as (url, agent):
        yield request.param, url, agent, directory


@pytest.mark.parametrize("mode", ERAS)
async def test_the_official_client_calls_an_example_through_both_gates(running: Any, mode: Any) -> None:
    name, url, agent, directory = running
    endpoint = f"{url}/mcp/notes"
    async with (
        httpx2.AsyncClient(auth=provider(agent, endpoint), timeout=PATIENCE, trust_env=False) as http,
        Client(streamable_http_client(endpoint, http_client=http), mode=mode) as client,
    ):
        assert client.protocol_version == ERAS[mode]
        tools = (await client.list_tools()).tools
        assert {tool.name for tool in tools} == {"list_notes", "add_note"}
        added = await client.call_tool("add_note", {"text": f"milk ({mode})"})
        assert added.is_error is not True
        listed = await client.call_tool("list_notes")
        assert f"milk ({mode}) (by acme/keeper)" in str(listed.content)
        with pytest.raises(MCPError):
            await client.call_tool("wipe_notes")
    async with httpx2.AsyncClient(timeout=PATIENCE, trust_env=False) as http:
        assert (await http.post(endpoint, json={})).status_code == 401
        for path in ("/mcp", "/mcp/", "/admin"):
            assert (await http.get(url + path)).status_code == 404
        assert (await http.get(f"{url}/about")).status_code == (200 if name == "starlette_mcp" else 404)
    lines = [line for file in (directory / "state" / "audit").glob("*.jsonl") for line in file.read_text().splitlines()]
    events = [json.loads(line) for line in lines]
    refused = [event["target"] for event in events if event["kind"] == "call.refused" and event.get("target")]
    assert "notes.wipe_notes" in refused
