"""A whole Twogate in this process, on a real loopback socket, wired by the real composition root."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2

from twogate.adapters.clock import SystemClock
from twogate.app import Application, build_app, edge_limits
from twogate.config.file import load_settings, parse_settings
from twogate.state import State, open_state
from twogate.web.listen import hosts_of, serve

from .issuer import TestIssuer

CLASSES = {"look": "read", "find": "search", "change": "write", "wipe": "configure"}


@dataclass
class Stack:
    """A running gateway and how tests talk to it."""

    url: str
    state: State
    directory: Path
    http: httpx2.AsyncClient
    app: Application

    def adopt(self, settings: Mapping[str, Any]) -> None:
        """Let another configuration answer from now on, as a reload does."""
        text, path = json.dumps(settings), self.directory / "twogate.yaml"
        self.app.adopt(self.app.build_next(parse_settings(text, path)))

    def resource(self, server: str = "files") -> str:
        """The audience of a server's endpoint."""
        return f"{self.url}/mcp/{server}"

    async def post(self, token: str | None, body: Any, server: str = "files", **headers: str) -> httpx2.Response:
        """POST a message (an object, or raw bytes) to a server's endpoint."""
        sent = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
        if token is not None:
            sent["authorization"] = f"Bearer {token}"
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.http.post(self.resource(server), content=content, headers=sent)

    async def call(self, token: str | None, tool: str, server: str = "files", **headers: str) -> httpx2.Response:
        """Call a tool as a 2025-11-25 client does."""
        return await self.post(token, tool_call(tool), server, **{"mcp_protocol_version": "2025-11-25", **headers})

    def events(self) -> list[dict[str, Any]]:
        """The audit trail so far, in the order of writing."""
        events = []
        for path in sorted((self.directory / "state" / "audit").glob("*.jsonl")):
            events += [json.loads(line) for line in path.read_bytes().splitlines()]
        return events

    def reasons(self) -> list[str]:
        """The reasons of every refusal on the audit trail."""
        return [event["reason"] for event in self.events() if event.get("reason")]


def tool_call(tool: str, arguments: Mapping[str, Any] | None = None, request_id: int | str = 1) -> dict[str, Any]:
    """A `tools/call` message."""
    return {
        "jsonrpc": "2.0", "id": request_id, "method": "tools/call",
        "params": {"name": tool, "arguments": dict(arguments or {})},
    }  # fmt: skip


def settings_for(directory: Path, port: int, servers: Mapping[str, Any], issuer: TestIssuer | None) -> dict[str, Any]:
    """A configuration with one tenant, two agents and two tasks; tests change it before it is written."""
    settings: dict[str, Any] = {
        "public_url": f"http://localhost:{port}",
        "listen": f"127.0.0.1:{port}",
        "store": f"sqlite:///{directory}/state/twogate.db",
        "state": f"{directory}/state",
        "servers": dict(servers),
        "tools": {f"{server}.{tool}": {"class": kind} for server in servers for tool, kind in CLASSES.items()},
        "tasks": {
            "report": {"tools": [f"{server}.look" for server in servers]},
            "edit": {"tools": [f"{server}.{tool}" for server in servers for tool in ("look", "find", "change")]},
        },
        "agents": {},
        "tenants": {"acme": {"servers": list(servers)}},
    }
    if issuer is not None:
        settings["issuers"] = [
            {
                "issuer": issuer.url, "algorithms": ["ES256"], "tenants": ["acme"],
                "jwks_uri": f"{issuer.url}/jwks",
                "claims": {"agent": "/azp", "tenant": "/tenant", "scope": "/scope"},
            }
        ]  # fmt: skip
        settings["agents"] = {
            "acme/robot": {
                "role": "executor", "tasks": ["report", "edit"], "default_task": "report",
                "bindings": [{"issuer": issuer.url, "subject": "robot"}],
            },
            "acme/other": {
                "role": "reader", "tasks": ["report"], "default_task": "report",
                "bindings": [{"issuer": issuer.url, "subject": "other"}],
            },
        }  # fmt: skip
    return settings


def free_port() -> int:
    """A port nobody listens on right now."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def running(
    directory: Path, settings: Mapping[str, Any], clock: SystemClock | None = None
) -> AsyncIterator[Stack]:
    """Write the configuration and serve it, by this clock if one is given, until the block ends."""
    path = directory / "twogate.yaml"
    path.write_text(json.dumps(settings))  # JSON is YAML
    loaded = load_settings(path)
    state = await open_state(loaded)
    if clock is not None:
        state = replace(state, clock=clock)
    stop, ready = asyncio.Event(), asyncio.Event()
    app = build_app(state)
    server = asyncio.create_task(
        serve(
            app,
            listen=loaded.listen,
            tls=None,
            limits=edge_limits(loaded),
            allowed_hosts=hosts_of(loaded.public_url),
            on_refusal=app.on_refusal,
            clock=SystemClock(),
            ready=lambda _: ready.set(),
            stop=stop,
        )
    )
    waiter = asyncio.create_task(ready.wait())
    await asyncio.wait({waiter, server}, return_when=asyncio.FIRST_COMPLETED, timeout=10)
    waiter.cancel()
    if server.done():
        server.result()
    try:
        async with httpx2.AsyncClient(timeout=20, trust_env=False) as http:
            yield Stack(loaded.public_url, state, directory, http, app)
    finally:
        stop.set()
        await server
        await state.close()
