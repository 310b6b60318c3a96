"""Servers that nobody here wrote and that have something of all that MCP knows, and a gateway in front of them.

Two are at hand: the everything-server of the Python SDK, which speaks both eras over HTTP, and the everything server of
the reference servers, on the TypeScript SDK, which asks and tells on streams of its own and knows three transports. The
gateway lets its one agent do all that is classified, so that what a client misses through it was lost in it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp import Client

from harness.stack import free_port
from peers.peers import EVERYTHING_SERVER, NODE, NODE_PEERS, REFERENCE_SERVER, require
from processlab import PATIENCE, Gateway, here_json, init, serving, until

EVERYTHING = "everything"
CLIENT_REQUESTS = ["sampling", "elicitation", "roots"]
REFERENCE_SERVERS = ("reference", "reference-sse", "reference-stdio")
"""The reference server over each of its transports."""
REFERENCE_TARGETS = (
    "echo", "get-sum", "trigger-long-running-operation", "trigger-sampling-request", "trigger-elicitation-request",
    "get-roots-list", "toggle-subscriber-updates", "prompt:args-prompt", "prompt:completable-prompt",
    "resource:demo://resource/**",
)  # fmt: skip
"""What may be used of the reference server. Some of it, such as `get-env`, may not."""


@dataclass
class World:
    """A gateway, and the agent that may do all that is classified."""

    gateway: Gateway
    agent: dict[str, Any]

    def token(self, server: str) -> str:
        """A fresh access token for a server's endpoint."""
        return self.gateway.token(self.agent, server)

    def url(self, server: str) -> str:
        """A server's endpoint at the gateway."""
        return f"{self.gateway.url}/mcp/{server}"

    @property
    def ca(self) -> str:
        """The file with the CA certificate to trust."""
        return str(self.gateway.directory / "ca.pem")


@contextmanager
def everything_server() -> Iterator[str]:
    """Serve the Python SDK's everything-server on a loopback port until the block ends; the URL."""
    where = Path(require(EVERYTHING_SERVER)).parent
    port = free_port()
    command = [sys.executable, "-m", EVERYTHING_SERVER.name, "--port", str(port), "--log-level", "CRITICAL"]
    with _listening(command, port, cwd=where):
        yield f"http://127.0.0.1:{port}/mcp"


@contextmanager
def reference_server(transport: str) -> Iterator[str]:
    """Serve the reference server on a loopback port, by `streamableHttp` or `sse`, until the block ends; the URL."""
    port = free_port()
    # By itself it would listen on every address of the machine.
    command = [require(NODE), "--import", str(NODE_PEERS / "loopback.mjs"), require(REFERENCE_SERVER), transport]
    with _listening(command, port, PORT=str(port)):
        yield f"http://127.0.0.1:{port}/{'sse' if transport == 'sse' else 'mcp'}"


def reference_command() -> list[str]:
    """The command of the reference server over stdio."""
    return [require(NODE), require(REFERENCE_SERVER), "stdio"]


@contextmanager
def _listening(command: Sequence[str], port: int, cwd: Path | None = None, **environment: str) -> Iterator[None]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    with subprocess.Popen(
        command, cwd=cwd, env=inherited | environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            until(lambda: process.poll() is not None or _accepts(port), f"{command} was not ready in time")
            assert process.poll() is None, f"{command} ended at once"
            yield
        finally:
            process.terminate()
            process.wait(PATIENCE)


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def _offered(url: str) -> tuple[list[str], list[str]]:
    async with Client(url, mode="legacy", read_timeout_seconds=PATIENCE) as client:
        tools = [tool.name for tool in (await client.list_tools()).tools]
        return tools, [prompt.name for prompt in (await client.list_prompts()).prompts]


def everything_targets(url: str) -> list[str]:
    """All that the everything-server offers, behind its name in the configuration."""
    tools, prompts = asyncio.run(_offered(url))
    return [*tools, *(f"prompt:{prompt}" for prompt in prompts), "resource:test://**"]


@contextmanager
def behind(
    directory: Path, servers: Mapping[str, Any], reads: Mapping[str, Iterable[str]], writes: Iterable[str] = ()
) -> Iterator[World]:
    """Serve a gateway over TLS until the block ends. The agent may use the targets in `reads` but not in `writes`."""
    tools = {f"{server}.{target}": {"class": "read"} for server, targets in reads.items() for target in targets}
    settings = {
        "servers": {name: {**server, "client_requests": CLIENT_REQUESTS} for name, server in servers.items()},
        "tools": tools | {target: {"class": "write"} for target in writes},
        "tasks": {"all": {"tools": ["read", "write"]}},
        "tenants": {"acme": {"servers": list(servers)}},
    }
    init(directory, settings, port=free_port())
    options = ("--role", "reader", "--task", "all", "--default-task", "all", "--auth", "client_secret")
    agent = here_json("agent", "add", "acme/all", *options, "--config", directory / "twogate.yaml")
    with serving(directory) as gateway:
        yield World(gateway, agent)
        gateway.verify_audit()
    events = gateway.events()
    calls = [event["request"] for event in events if event["kind"] == "call.intent"]
    assert sorted(calls) == sorted(event["request"] for event in events if event["kind"] == "call.outcome")
