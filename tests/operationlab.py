"""A gateway whose calls of `files.change` need operation tokens, and everybody who may and may not issue them."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
import msgspec

from harness.issuer import TestIssuer
from harness.stack import Stack, free_port, running, settings_for
from harness.upstream import RecordingUpstream
from twogate.adapters.clock import SystemClock
from twogate.adapters.signers.local import LocalSigner
from twogate.core.oauth.access_token import TYPE, AccessTokenGrant
from twogate.core.operation import TYPE as OPERATION
from twogate.flows.authserver.people import User
from twogate.flows.signer import sign_jwt
from twogate.stores.sql.users import SqlUserStore

SECRET = "authorizer-secret-authorizer-secret-1"
ARGUMENTS = {"path": "/a", "text": "hello"}


def operation_settings(directory: Path, servers: Mapping[str, Any], issuer: TestIssuer | None) -> dict[str, Any]:
    """A host (`desk`), an authorizer (`gate`), an agent with a secret (`worker`), and clients that are none of them."""
    settings = settings_for(directory, free_port(), servers, issuer)
    for name in ("gate", "worker"):
        secret = directory / f"{name}.secret"
        secret.write_text(SECRET)
        secret.chmod(0o600)
    agent: dict[str, Any] = {"role": "executor", "tasks": ["report", "edit", "again"], "default_task": "edit"}
    settings["agents"] |= {
        "acme/helper": {**agent, "concurrent_tasks": 2},
        "acme/public-client": agent,
        "acme/worker": {**agent, "bindings": [{"issuer": "embedded", "client_id": "worker"}]},
        "globex/public-client": agent,
    }
    settings["agents"].setdefault("acme/robot", agent)["default_task"] = "edit"
    settings["agents"]["acme/robot"]["concurrent_tasks"] = 2
    uri = ["http://127.0.0.1/cb"]
    secret_auth = {"auth": "client_secret", "secret_file": str(directory / "gate.secret")}
    settings["clients"] = {
        "desk": {"tenant": "acme", "kind": "host", "auth": "none", "agent": "acme/helper", "redirect_uris": uri},
        "foreign": {"tenant": "globex", "kind": "host", "auth": "none", "redirect_uris": uri},
        "app": {"tenant": "acme", "kind": "public", "auth": "none", "redirect_uris": uri},
        "worker": {
            "tenant": "acme", "kind": "agent", "auth": "client_secret", "agent": "acme/worker",
            "secret_file": str(directory / "worker.secret"),
        },
        "gate": {
            "tenant": "acme", "kind": "authorizer", **secret_auth,
            "agents": ["acme/robot"], "tools": ["files.change"],
        },
    }  # fmt: skip
    settings["tenants"]["globex"] = {"servers": list(servers)}
    settings["tools"]["files.change"]["token_lifetime"] = "60s"
    settings["tools"]["files.prompt:p"] = {"class": "write"}
    settings["tools"]["files.resource:file:///gated"] = {"class": "write"}
    settings["tasks"]["edit"]["tools"] += ["files.prompt:p", "files.resource:file:///gated"]
    settings["tasks"]["again"] = settings["tasks"]["edit"]
    return settings


@dataclass
class OperationLab:
    """The gateway, whose own key tests may sign with: only ever as it would itself."""

    stack: Stack
    upstream: RecordingUpstream
    issuer: TestIssuer
    signer: LocalSigner
    alice: User
    bob: User
    numbers: Iterator[int] = field(default_factory=count)

    @property
    def url(self) -> str:
        return self.stack.url

    async def person(self, name: str, tenant: str = "acme", role: str = "executor") -> User:
        """Another person."""
        return await add_person(self.stack, name, tenant, role)

    async def access(
        self, client: str, user: User | None = None, *, resource: str = "/operations", agent: str | None = None,
        tenant: str = "acme", **changes: Any,
    ) -> str:  # fmt: skip
        """An access token as this server gives one; `changes` of its claims, None takes one away."""
        now = SystemClock().now()
        grant = AccessTokenGrant(
            issuer=self.url,
            client_id=client,
            tenant=tenant,
            resource=self.url + resource,
            scopes=(),
            issued_at=now,
            lifetime=300,
            jti=f"{client}-{next(self.numbers)}",
            agent=agent,
            user=None if user is None else user.subject,
            roles=() if user is None else user.roles,
        )
        claims = {name: value for name, value in {**grant.claims, **changes}.items() if value is not None}
        return await sign_jwt(self.signer, claims, TYPE)

    async def host(self, user: User | None = None, **changes: Any) -> str:
        """The host's token for operations."""
        return await self.access("desk", user or self.alice, agent="helper", **changes)

    async def helper(self, user: User | None = None, server: str = "files") -> str:
        """What the host's agent calls with."""
        return await self.access("desk", user or self.alice, agent="helper", resource=f"/mcp/{server}")

    async def authorizer(self) -> str:
        """The authorizer's token, from the token endpoint."""
        answer = await self.stack.http.post(
            f"{self.url}/token",
            data={"grant_type": "client_credentials", "resource": f"{self.url}/operations"},
            auth=("gate", SECRET),
        )
        assert answer.status_code == 200, answer.text
        token: str = answer.json()["access_token"]
        return token

    def robot(self, **changes: Any) -> str:
        """What the agent of the other issuer calls with."""
        return self.issuer.token(self.stack.resource(), **changes)

    async def sid(self, token: str, task: str = "edit") -> str:
        """The session that an agent's call opens."""
        before = await self.stack.call(token, "look", twogate_task=task)
        assert before.status_code == 200, before.text
        self.upstream.seen.clear()
        opened = [event for event in self.stack.events() if event["kind"] == "call.intent"]
        sid: str = opened[-1]["session"]
        return sid

    async def ask(self, token: str | None, sid: str, tool: str = "files.change", **body: Any) -> httpx2.Response:
        """A request for an operation token."""
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        body.setdefault("arguments", ARGUMENTS)
        return await self.stack.http.post(
            f"{self.url}/operations/tokens", json={"sid": sid, "tool": tool, **body}, headers=headers
        )

    async def mint(self, token: str, sid: str, tool: str = "files.change", **body: Any) -> str:
        """An operation token, by whom that is allowed."""
        answer = await self.ask(token, sid, tool, **body)
        assert answer.status_code == 200, answer.text
        minted: str = answer.json()["operation_token"]
        return minted

    async def signed(self, claims: Mapping[str, object], typ: str = OPERATION) -> str:
        """Any claims under this server's own key."""
        return await sign_jwt(self.signer, claims, typ)

    async def change(
        self, token: str, operation: str | None, arguments: Any = ARGUMENTS, *, tool: str = "change",
        where: str = "meta", raw: bytes | None = None, task: str = "edit", **headers: str,
    ) -> httpx2.Response:  # fmt: skip
        """A call that brings an operation token, in `meta` or `header`."""
        params: dict[str, Any] = {"name": tool, "arguments": arguments}
        if operation is not None and where == "header":
            headers["twogate_operation_token"] = operation
        elif operation is not None:
            params["_meta"] = {"dev.twogate/operation-token": operation}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        return await self.stack.post(
            token, raw or message, mcp_protocol_version="2025-11-25", twogate_task=task, **headers
        )

    @property
    def ran(self) -> list[str]:
        """The tools that the server was called for."""
        return self.upstream.calls

    def last_refusal(self) -> dict[str, Any]:
        """The last refusal on the audit trail."""
        return [event for event in self.stack.events() if event.get("decision") == "deny"][-1]


async def add_person(stack: Stack, name: str, tenant: str = "acme", role: str = "executor") -> User:
    """A person of a tenant who may do what this role may."""
    user = User(tenant, hashlib.sha256(f"{tenant}/{name}".encode()).hexdigest()[:24], name, roles=(role,))
    assert await SqlUserStore(stack.state.engine).add(user)
    return user


@asynccontextmanager
async def open_operation_lab(
    directory: Path, issuer: TestIssuer, upstream: RecordingUpstream, *, one_tenant: bool = False, **changes: Any
) -> AsyncIterator[OperationLab]:
    """Serve it; `changes` replace sections of the settings."""
    settings = {**operation_settings(directory, {"files": {"url": upstream.url}}, issuer), **changes}
    if one_tenant:
        del settings["tenants"]["globex"], settings["agents"]["globex/public-client"], settings["clients"]["foreign"]
    async with running(directory, settings) as stack:
        signer = LocalSigner.open(stack.state.settings.state_directory / "keys")
        alice, bob = await add_person(stack, "alice"), await add_person(stack, "bob")
        yield OperationLab(stack, upstream, issuer, signer, alice, bob)


def refusal(answer: httpx2.Response) -> str:
    """The public reason of a refusal."""
    assert answer.status_code in {400, 401, 403, 413, 429, 503}, answer.text
    reason: str = answer.json()["error"]["data"]["reason"]
    return reason


def claims_of(token: str) -> dict[str, Any]:
    """What a token says, unverified."""
    part = token.split(".")[1]
    claims: dict[str, Any] = msgspec.json.decode(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return claims
