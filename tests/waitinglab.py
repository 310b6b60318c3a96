"""A gateway whose calls of `files.change` wait for people, and the ways in which clients wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from harness.issuer import TestIssuer
from harness.stack import Stack, running
from harness.upstream import RecordingUpstream
from operationlab import operation_settings
from twogate.core.approval import Decision, Duty, State, Vote
from twogate.flows.approvals.parked import Parked
from twogate.flows.authserver.people import User
from twogate.flows.gateway.approval_wait import Pace
from twogate.stores.sql.approvals import SqlParkedStore
from twogate.stores.sql.operations import SqlOperationStore
from twogate.stores.sql.users import SqlUserStore

MODERN = "2026-07-28"
URL = "2025-11-25"
CHANGED = {"path": "/a", "text": "hello"}
DUTIES = (Duty.APPROVER, Duty.OPERATOR, Duty.ADMINISTRATOR)
PACE = Pace(hold=0.3, poll=0.02, word=0.1, most=3)
TASKS: dict[str, Any] = {"extensions": {"io.modelcontextprotocol/tasks": {}}}
URLS: dict[str, Any] = {"elicitation": {"url": {}}}
_PREFIX = "io.modelcontextprotocol/"


async def nothing(*_: object) -> None:
    """No event."""


def waiting_settings(
    directory: Path, upstream: RecordingUpstream, issuer: TestIssuer, approval: Any = None
) -> dict[str, Any]:
    """The settings of the lab."""
    settings = operation_settings(directory, {"files": {"url": upstream.url}}, issuer)
    settings["tools"]["files.change"]["approval"] = approval or {"by": ["approver"]}
    for name in ("prompt:p", "resource:file:///gated"):
        settings["tools"][f"files.{name}"]["approval"] = {"by": ["approver"]}
    settings["tenants"]["globex"] = {"servers": ["files"]}
    settings["agents"]["acme/twin"] = {
        "role": "executor", "tasks": ["edit"], "default_task": "edit",
        "bindings": [{"issuer": issuer.url, "subject": "twin"}],
    }  # fmt: skip
    return settings


@dataclass
class WaitingLab:
    """The gateway. Every call is the robot's, in its task `edit`, unless said otherwise."""

    stack: Stack
    upstream: RecordingUpstream
    issuer: TestIssuer
    settings: dict[str, Any]

    @property
    def store(self) -> SqlParkedStore:
        return SqlParkedStore(self.stack.state.engine)

    @property
    def runs(self) -> SqlOperationStore:
        return SqlOperationStore(self.stack.state.engine)

    @property
    def ran(self) -> list[str]:
        return self.upstream.calls

    def token(self, **claims: Any) -> str:
        return self.issuer.token(self.stack.resource(), **claims)

    async def send(self, body: Any, token: str | None = None, **headers: str) -> httpx2.Response:
        sent = {"mcp_protocol_version": URL, "twogate_task": "edit", **headers}
        return await self.stack.post(token or self.token(), body, **sent)

    async def change(
        self, arguments: Mapping[str, Any] = CHANGED, request_id: int | str = 1, token: str | None = None,
        meta: Any = None, **headers: str,
    ) -> httpx2.Response:  # fmt: skip
        """The call as a client of the old versions sends it."""
        params: dict[str, Any] = {"name": "change", "arguments": dict(arguments)}
        if meta is not None:
            params["_meta"] = meta
        message = {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}
        return await self.send(message, token, **headers)

    async def modern(
        self, method: str, params: Mapping[str, Any], capabilities: Any = URLS, token: str | None = None,
        request_id: int | str = 1, **headers: str,
    ) -> httpx2.Response:  # fmt: skip
        """A request of MCP 2026-07-28."""
        meta = {f"{_PREFIX}protocolVersion": MODERN, f"{_PREFIX}clientCapabilities": capabilities}
        message = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": {**params, "_meta": meta}}
        name = params.get("name") or params.get("uri") or params.get("taskId")
        if name is not None:
            headers["mcp_name"] = str(name)
        return await self.send(message, token, mcp_protocol_version=MODERN, mcp_method=method, **headers)

    async def modern_change(self, arguments: Any = CHANGED, **more: Any) -> httpx2.Response:
        known: dict[str, Any] = {
            str(name): more.pop(name) for name in ("inputResponses", "requestState") if name in more
        }
        return await self.modern("tools/call", {"name": "change", "arguments": arguments, **known}, **more)

    async def waiting(self) -> list[Parked]:
        return list(await self.store.waiting(100))

    async def only(self) -> Parked:
        (one,) = await self.waiting()
        return one

    async def decide(self, parked: Parked | None = None, decision: Decision = Decision.APPROVE) -> Parked:
        """Bob decides; how that is proven, the voting's tests show."""
        one = parked or await self.only()
        # Who approved is asked again when the call runs.
        await SqlUserStore(self.stack.state.engine).add(User(one.call.tenant, "bob", "bob", duties=DUTIES))
        vote = Vote("bob", decision, int(time.time()))
        voted = await self.store.vote(one.call.id, vote, "", nothing)
        assert voted is not None
        return voted

    async def state(self, parked: Parked) -> State:
        found = await self.store.get(parked.call.id)
        assert found is not None
        return found.state

    async def until_waiting(self, count: int = 1) -> None:
        """Until so many calls are parked."""
        async with asyncio.timeout(10):
            while len(await self.waiting()) < count:
                await asyncio.sleep(0.01)

    def last_refusal(self) -> dict[str, Any]:
        return [event for event in self.stack.events() if event.get("decision") == "deny"][-1]


def said(answer: httpx2.Response) -> Any:
    """The message of an answer, also if it is the last one of a stream."""
    if answer.headers["content-type"] != "text/event-stream":
        return answer.json()
    lines = [line for line in answer.text.split("\n") if line.startswith("data: ")]
    return msgspec.json.decode(lines[-1].removeprefix("data: "))


def reason(answer: httpx2.Response) -> str:
    """Why a call did not run: of a result or an error."""
    message = said(answer)
    if "error" in message:
        told: str = message["error"]["data"]["reason"]
        return told
    result = message["result"]
    assert result["isError"] is True
    code: str = result["_meta"]["dev.twogate/reason"]
    return code


@asynccontextmanager
async def open_waiting_lab(
    directory: Path, issuer: TestIssuer, upstream: RecordingUpstream, pace: Pace = PACE, **changes: Any
) -> AsyncGenerator[WaitingLab]:
    """Serve it; `changes` replace sections of the settings."""
    settings = {**waiting_settings(directory, upstream, issuer), **changes}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("twogate.approvals.PACE", pace)
        async with running(directory, settings) as stack:
            yield WaitingLab(stack, upstream, issuer, settings)
