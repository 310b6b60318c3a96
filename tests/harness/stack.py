"""A whole Twogate in this process, on a real loopback socket, wired by the real composition root."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import uvicorn

from twogate.adapters.clock import SystemClock
from twogate.app import Application, build_app, edge_limits
from twogate.asgi import Twogate
from twogate.config.file import load_settings, parse_settings
from twogate.reload import tls_files
from twogate.state import State, open_state
from twogate.web.listen import hosts_of, serve
from twogate.web.tls import ServerTls

from .database import place_database
from .issuer import TestIssuer
from .upstream import BY_URL

FRONTS = ("gateway", "library")
front = "gateway"
"""What the stacks of the running test are: a gateway before an HTTP server, or one around an ASGI application."""

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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def in_library_mode(path: Path, settings: Mapping[str, Any]) -> AsyncIterator[Stack]:
    """The server `files` guarded within its process, which is served by plain uvicorn; the others as ever."""
    files = dict(settings["servers"]["files"])
    upstream = BY_URL[files.pop("url")]
    servers = {**settings["servers"], "files": {**files, "library": True}}
    path.write_text(json.dumps({**settings, "servers": servers}))  # noqa: ASYNC240 - as in `running`
    async with guarded(Twogate(upstream.asgi, config=path, server="files"), settings["public_url"]) as stack:
        yield stack


@cache
def any_tls() -> ssl.SSLContext:
    """One context for every client that calls no TLS: each would else load the system's authorities for itself."""
    return ssl.create_default_context()


@asynccontextmanager
async def guarded(app: Twogate, url: str) -> AsyncIterator[Stack]:
    """A guarded application served by plain uvicorn, with its lifespan, until the block ends."""
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="on")
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", urlsplit(url).port or 0))
        await server.startup(sockets=[sock])
        assert server.started
        assert app.application is not None
        state = app.application.state
        directory = state.settings.state_directory.parent
        try:
            async with httpx2.AsyncClient(timeout=20, trust_env=False, verify=any_tls()) as http:
                yield Stack(url, state, directory, http, app.application)
        finally:
            await server.shutdown(sockets=[sock])


@asynccontextmanager
async def running(
    directory: Path,
    settings: Mapping[str, Any],
    clock: SystemClock | None = None,
    client_tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Stack]:
    """Write the configuration and serve it, by this clock if one is given, until the block ends.

    `client_tls` is the TLS of the client `http`, for a configuration with TLS.
    """
    path = directory / "twogate.yaml"
    if front == "library":
        assert clock is None
        assert client_tls is None
        async with in_library_mode(path, settings) as stack:
            yield stack
        return
    path.write_text(json.dumps(settings))  # JSON is YAML
    loaded = load_settings(path)
    place_database(directory / "state" / "twogate.db")
    state = await open_state(loaded)
    if clock is not None:
        state = replace(state, clock=clock)
    stop, ready = asyncio.Event(), asyncio.Event()
    app = build_app(state)
    files = tls_files(loaded)
    server = asyncio.create_task(
        serve(
            app,
            listen=loaded.listen,
            tls=None if files is None else ServerTls(files),
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
        async with httpx2.AsyncClient(timeout=20, trust_env=False, verify=client_tls or any_tls()) as http:
            yield Stack(loaded.public_url, state, directory, http, app)
    finally:
        stop.set()
        await server
        await state.close()
