"""The SDK's everything-server, which has something of all that MCP knows, alone and behind a gateway.

The gateway lets its one agent do everything, so that what a client misses through it was lost in it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp import Client

from harness.stack import free_port
from peers.peers import EVERYTHING_SERVER, require
from processlab import PATIENCE, Gateway, here_json, init, serving, until

SERVER = "everything"
CLIENT_REQUESTS = ["sampling", "elicitation", "roots"]
SOUGHT = (
    "confirm_delete", "failing_job", "greet", "multi_input", "protocol_error_job", "slow_compute", "test_tool_with_task",
)  # fmt: skip
"""Tools that the conformance suite calls and the server lacks: what comes of it is the server's to say."""


@dataclass
class Everything:
    """The server, a gateway in front of it, and the agent that may do all of it."""

    direct: str
    gateway: Gateway
    agent: dict[str, Any]

    def token(self) -> str:
        """A fresh access token for the server's endpoint."""
        return self.gateway.token(self.agent, SERVER)

    @property
    def url(self) -> str:
        """The server's endpoint at the gateway."""
        return f"{self.gateway.url}/mcp/{SERVER}"


@contextmanager
def everything_server() -> Iterator[str]:
    """Serve on a loopback port until the block ends; the URL."""
    where = Path(require(EVERYTHING_SERVER)).parent
    port = free_port()
    command = [sys.executable, "-m", EVERYTHING_SERVER.name, "--port", str(port), "--log-level", "CRITICAL"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    with subprocess.Popen(
        command, cwd=where, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            until(lambda: process.poll() is not None or listens(port), "the everything-server was not ready in time")
            assert process.poll() is None, "the everything-server ended at once"
            yield f"http://127.0.0.1:{port}/mcp"
        finally:
            process.terminate()
            process.wait(PATIENCE)


def listens(port: int) -> bool:
    """Whether somebody accepts connections on a loopback port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def targets(url: str) -> list[str]:
    """Everything that the server has to offer, in the words of the configuration."""
    async with Client(url, mode="legacy", read_timeout_seconds=PATIENCE) as client:
        found = [f"{SERVER}.{tool.name}" for tool in (await client.list_tools()).tools]
        found += [f"{SERVER}.prompt:{prompt.name}" for prompt in (await client.list_prompts()).prompts]
    return [*found, *(f"{SERVER}.{tool}" for tool in SOUGHT), f"{SERVER}.resource:test://**"]


@contextmanager
def everything_behind(directory: Path, url: str, *, tls: bool = True) -> Iterator[Everything]:
    """Serve a gateway in front of the server at `url` until the block ends."""
    settings = {
        "servers": {SERVER: {"url": url, "client_requests": CLIENT_REQUESTS}},
        "tools": {target: {"class": "read"} for target in asyncio.run(targets(url))},
        "tasks": {"all": {"tools": ["read"]}},
        "tenants": {"acme": {"servers": [SERVER]}},
    }
    init(directory, settings, port=free_port(), tls=tls)
    options = ("--role", "reader", "--task", "all", "--default-task", "all", "--auth", "client_secret")
    agent = here_json("agent", "add", "acme/all", *options, "--config", directory / "twogate.yaml")
    with serving(directory) as gateway:
        yield Everything(url, gateway, agent)
        gateway.verify_audit()
