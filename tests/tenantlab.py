"""Two tenants of one gateway, each with a server, an agent, a role, a task, tools and a secret of its own.

`files` is acme's, `notes` is globex's, and both reach `common`; every server records what it sees.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2

from harness.issuer import TestIssuer
from harness.stack import Stack, free_port, running, settings_for, tool_call
from harness.upstream import RecordingUpstream, Seen
from tokenlab import basic
from twogate.adapters.rng import SystemRng
from twogate.adapters.secrets.sealed import SealedSecrets
from twogate.config import load_settings
from twogate.upstreams import local_envelope

ACME, GLOBEX = "acme", "globex"
SERVER: Final = {ACME: "files", GLOBEX: "notes"}
COMMON: Final = "common"
SECRETS: Final = {
    (ACME, "files"): "acme-files-0123456789",
    (GLOBEX, "notes"): "globex-notes-0123456789",
    (ACME, COMMON): "acme-common-0123456789",
    (GLOBEX, COMMON): "globex-common-0123456789",
}
CLIENT_SECRET: Final = {ACME: "a" * 40, GLOBEX: "g" * 40}
MODERN: Final = "2026-07-28"


def tenant_settings(directory: Path, port: int, servers: dict[str, str], issuer: TestIssuer) -> dict[str, Any]:
    """A configuration in which each tenant has something of its own of every kind."""
    wanted = {name: {"url": url, "credential": {}} for name, url in servers.items()}
    wanted["notes"]["credential"] = {"header": "Private-Token"}
    settings = settings_for(directory, port, wanted, issuer)
    settings["issuers"][0] |= {
        "tenants": [ACME, GLOBEX],
        "roles": ["filer", "noter"],
        "claims": {
            "agent": "/azp", "tenant": "/tenant", "user": "/user", "user_optional": True, "role": "/role",
            "scope": "/scope", "session": "/sid",
        },
    }  # fmt: skip
    settings["tools"] = {f"{name}.look": {"class": "read"} for name in servers}
    settings["tasks"] = {"report": {"tools": [f"{name}.look" for name in servers]}}
    settings["agents"], settings["clients"], settings["tenants"] = {}, {}, {}
    for tenant, role, task in ((ACME, "filer", "filing"), (GLOBEX, "noter", "noting")):
        server = SERVER[tenant]
        everything = ["read", f"{server}.find", f"{server}.resource:mem://own/**", f"{server}.prompt:p"]
        settings["tenants"][tenant] = {
            "servers": [server, COMMON],
            "tools": {
                f"{server}.find": {"class": "search"},
                f"{server}.resource:mem://own/**": {"class": "read"},
                f"{server}.prompt:p": {"class": "read"},
            },
            "roles": {role: {"allow": everything}},
            "tasks": {task: {"tools": everything}},
            "secrets": {server: f"local:{server}", COMMON: f"file:{tenant}-common"},
        }
        settings["agents"][f"{tenant}/robot"] = {
            "role": role, "tasks": [task, "report"], "default_task": task,
            "bindings": [
                {"issuer": issuer.url, "client_id": f"{tenant}-robot"},
                {"issuer": "embedded", "client_id": f"{tenant}.robot"},
            ],
        }  # fmt: skip
        settings["agents"][f"{tenant}/public-client"] = {"role": role, "tasks": [task]}
        settings["clients"][f"{tenant}.robot"] = {
            "tenant": tenant, "kind": "agent", "agent": f"{tenant}/robot", "auth": "client_secret",
            "secret_file": f"{tenant}-client",
        }  # fmt: skip
        settings["clients"][f"{tenant}.cli"] = {
            "tenant": tenant, "kind": "public", "auth": "none", "name": f"{tenant} desk",
            "redirect_uris": [f"https://{tenant}.example/cb"],
            "grants": ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"],
        }  # fmt: skip
    return settings


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may use, in place of what was there."""
    other = path.with_name(f"{path.name}.new")
    other.touch(mode=0o600)
    other.write_text(text)
    other.replace(path)


@dataclass
class TenantLab:
    """The gateway, the issuer of both tenants, and what the servers saw."""

    stack: Stack
    issuer: TestIssuer
    servers: dict[str, RecordingUpstream]

    def token(self, tenant: str, server: str, /, **claims: Any) -> str:
        """A token of the tenant's agent for a server's endpoint, whoever may use that."""
        given: dict[str, Any] = {"azp": f"{tenant}-robot", "sub": f"{tenant}-robot", "tenant": tenant, **claims}
        return self.issuer.token(self.stack.resource(server), **given)

    def user_token(self, tenant: str, server: str, user: str, /, **claims: Any) -> str:
        """The same with a person behind it, who has the tenant's own role."""
        role = "filer" if tenant == ACME else "noter"
        return self.token(tenant, server, **{"user": user, "role": role, **claims})

    def seen(self, server: str) -> list[Seen]:
        """What a server saw so far."""
        return self.servers[server].seen

    def quiet(self) -> dict[str, int]:
        """How many requests each server saw so far."""
        return {name: len(server.seen) for name, server in self.servers.items()}

    async def send(
        self, token: str, server: str, method: str, params: Any = None, version: str = MODERN, **headers: str
    ) -> httpx2.Response:
        """POST a message as a client of this version does."""
        params = dict(params or {})
        given = {"mcp_protocol_version": version, **headers}
        if version == MODERN:
            params["_meta"] = {
                "io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {},
            }  # fmt: skip
            given["mcp_method"] = method
            if name := params.get("name") or params.get("uri") or params.get("taskId"):
                given["mcp_name"] = name
        message = {"jsonrpc": "2.0", "method": method, "params": params}
        if not method.startswith("notifications/"):
            message["id"] = 1
        return await self.stack.post(token, message, server, **given)

    async def call(self, token: str, tool: str, server: str, **headers: str) -> httpx2.Response:
        """Call a tool as a 2025-11-25 client does."""
        return await self.stack.post(token, tool_call(tool), server, mcp_protocol_version="2025-11-25", **headers)

    async def form(self, path: str, tenant: str | None = None, /, **fields: str) -> httpx2.Response:
        """POST a form to the authorization server, as the tenant's confidential client if one is named."""
        headers = {} if tenant is None else basic(f"{tenant}.robot", CLIENT_SECRET[tenant])
        return await self.stack.http.post(f"{self.stack.url}{path}", data=fields, headers=headers)

    async def own_token(self, tenant: str) -> str:
        """A token that the authorization server gives the tenant's client for its own server."""
        answer = await self.form(
            "/token", tenant, grant_type="client_credentials", resource=self.stack.resource(SERVER[tenant])
        )
        assert answer.status_code == 200, answer.text
        token: str = answer.json()["access_token"]
        return token

    def everything_written(self) -> bytes:
        """All that lies below the state directory."""
        return b"".join(path.read_bytes() for path in (self.stack.directory / "state").rglob("*") if path.is_file())


def sealed(directory: Path) -> SealedSecrets:
    """The store of secrets of the configuration in a directory."""
    settings = load_settings(directory / "twogate.yaml")
    return SealedSecrets(settings.state_directory, local_envelope(settings, SystemRng()))


@asynccontextmanager
async def tenant_lab(directory: Path, issuer: TestIssuer) -> AsyncGenerator[TenantLab]:
    """Start it, with every secret in its place."""
    async with AsyncExitStack() as opened:
        servers = {
            name: await opened.enter_async_context(RecordingUpstream(sessions=True))
            for name in ("files", "notes", COMMON)
        }
        for tenant, secret in CLIENT_SECRET.items():
            write_private(directory / f"{tenant}-client", f"{secret}\n")
            write_private(directory / f"{tenant}-common", SECRETS[tenant, COMMON] + "\n")
        urls = {name: server.url for name, server in servers.items()}
        settings = tenant_settings(directory, free_port(), urls, issuer)
        (directory / "twogate.yaml").write_text(json.dumps(settings))
        store = sealed(directory)
        for tenant, server in SERVER.items():
            await store.put(tenant, server, SECRETS[tenant, server], 1_800_000_000)
        stack = await opened.enter_async_context(running(directory, settings))
        yield TenantLab(stack, issuer, servers)
