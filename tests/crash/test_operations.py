"""A real `twogate serve` is killed while a call with an operation token runs: it never runs again."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from crash.holding import HoldingServer
from harness.stack import free_port, settings_for, tool_call
from processlab import PATIENCE, Gateway, request_headers, until
from rawlab import RawServer

SECRET = "a-secret-of-a-client-that-is-random-enough"
ARGUMENTS = {"path": "/a"}


def settings(directory: Path, url: str) -> dict[str, Any]:
    made = settings_for(directory, free_port(), {"files": {"url": url}}, None)
    secret = directory / "client.secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    client = {"tenant": "acme", "auth": "client_secret", "secret_file": str(secret)}
    return made | {
        "tools": {"files.hold": {"class": "write"}},
        "tasks": {"edit": {"tools": ["write"]}},
        "agents": {
            "acme/worker": {
                "role": "executor", "tasks": ["edit"], "default_task": "edit",
                "bindings": [{"issuer": "embedded", "client_id": "worker"}],
            }
        },
        "clients": {
            "worker": {**client, "kind": "agent", "agent": "acme/worker"},
            "gate": {**client, "kind": "authorizer", "agents": ["acme/worker"], "tools": ["write"]},
        },
    }  # fmt: skip


def token(gateway: Gateway, client: str, resource: str) -> str:
    form = {"grant_type": "client_credentials", "resource": gateway.url + resource}
    answer = httpx2.post(f"{gateway.url}/token", data=form, auth=(client, SECRET), trust_env=False, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text
    given: str = answer.json()["access_token"]
    return given


def issued(gateway: Gateway, sid: str) -> str:
    answer = httpx2.post(
        f"{gateway.url}/operations/tokens",
        json={"sid": sid, "tool": "files.hold", "arguments": ARGUMENTS},
        headers={"authorization": f"Bearer {token(gateway, 'gate', '/operations')}"},
        trust_env=False,
        timeout=PATIENCE,
    )
    assert answer.status_code == 200, answer.text
    given: str = answer.json()["operation_token"]
    return given


async def call(gateway: Gateway, operation: str) -> httpx2.Response:
    headers = request_headers(token(gateway, "worker", "/mcp/files")) | {"twogate-operation-token": operation}
    async with httpx2.AsyncClient(timeout=PATIENCE, trust_env=False) as http:
        return await http.post(f"{gateway.url}/mcp/files", json=tool_call("hold", ARGUMENTS), headers=headers)


def sid_of(gateway: Gateway) -> str:
    answer = httpx2.post(
        f"{gateway.url}/sessions",
        json={"task": "edit"},
        headers={"authorization": f"Bearer {token(gateway, 'worker', '/sessions')}"},
        trust_env=False,
        timeout=PATIENCE,
    )
    session: str = answer.json()["session"]
    return session


async def test_a_call_that_was_running_at_kill_9_never_runs_again_and_the_agent_is_told(tmp_path: Path) -> None:
    upstream = HoldingServer()
    async with RawServer(upstream.serve) as server:
        (tmp_path / "twogate.yaml").write_text(json.dumps(settings(tmp_path, server.url)))
        gateway = Gateway(tmp_path)
        try:
            await asyncio.to_thread(gateway.start)
            sid = await asyncio.to_thread(sid_of, gateway)
            operation = await asyncio.to_thread(issued, gateway, sid)
            running = asyncio.create_task(call(gateway, operation))
            await asyncio.to_thread(until, lambda: upstream.held == 1, "the call did not arrive")
            await asyncio.to_thread(gateway.kill)
            with pytest.raises(httpx2.TransportError):
                await running
            upstream.released.set()

            await asyncio.to_thread(gateway.start)
            for _ in range(3):
                answer = await call(gateway, operation)
                assert answer.status_code == 403
                assert answer.json()["error"]["data"]["reason"] == "operation_outcome_unknown"
                assert "may have run" in answer.json()["error"]["message"]
            assert upstream.calls == ["hold"]
            events = await asyncio.to_thread(gateway.events)
            (lost,) = [event for event in events if event["kind"] == "operation.lost"]
            (intent,) = [event for event in events if event["kind"] == "call.intent"]
            assert intent["detail"].split()[1] == lost["detail"].split()[1].rstrip(":")
            assert [event["kind"] for event in events].count("call.outcome") == 0
            # Another token is another call.
            again = await asyncio.to_thread(issued, gateway, sid)
            assert (await call(gateway, again)).status_code == 200
            assert upstream.calls == ["hold", "hold"]
        finally:
            upstream.released.set()
            await asyncio.to_thread(gateway.end)
