"""A real `twogate serve` is killed while an approved call runs: nobody knows how it ended, and it never runs again."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from crash.holding import HoldingServer
from crash.test_operations import settings as operation_settings
from crash.test_operations import token
from harness.postgres import Cluster
from harness.stack import tool_call
from processlab import PATIENCE, Gateway, request_headers, until
from rawlab import RawServer
from twogate.config.file import load_settings
from twogate.core.approval import Decision, Duty, Vote
from twogate.flows.authserver.people import User
from twogate.state import open_state
from twogate.stores.sql.approvals import SqlParkedStore
from twogate.stores.sql.users import SqlUserStore


async def decide(directory: Path) -> None:
    """Bob approves what waits; how that is proven, the voting's tests show."""

    async def announce(_: object) -> None:
        """No event: the trail is the gateway's, which runs."""

    state = await open_state(load_settings(directory / "twogate.yaml"))
    try:
        store = SqlParkedStore(state.engine)
        (parked,) = await store.waiting(10)
        assert await SqlUserStore(state.engine).add(User(parked.call.tenant, "bob", "bob", duties=(Duty.APPROVER,)))
        assert await store.vote(parked.call.id, Vote("bob", Decision.APPROVE, int(time.time())), "", announce)
    finally:
        await state.close()


async def call(gateway: Gateway, *, at_once: bool = False) -> Any:
    """Call the tool; `at_once` in a batch, whose members are never held."""
    headers = request_headers(token(gateway, "worker", "/mcp/files"))
    message: Any = tool_call("hold", {"path": "/a"})
    if at_once:
        headers["mcp-protocol-version"], message = "2025-03-26", [message]
    async with httpx2.AsyncClient(timeout=PATIENCE, trust_env=False) as http:
        answer = (await http.post(f"{gateway.url}/mcp/files", json=message, headers=headers)).json()
    return (answer[0] if at_once else answer)["result"]


@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
async def test_an_approved_call_that_was_running_at_kill_9_never_runs_again(
    tmp_path: Path, store: str, request: pytest.FixtureRequest
) -> None:
    upstream = HoldingServer()
    async with RawServer(upstream.serve) as server:
        settings = operation_settings(tmp_path, server.url)
        settings["tools"]["files.hold"]["approval"] = {"by": ["approver"]}
        if store == "postgresql":
            cluster: Cluster = request.getfixturevalue("cluster")
            settings["store"] = cluster.url(cluster.new_user())
        (tmp_path / "twogate.yaml").write_text(json.dumps(settings))
        gateway = Gateway(tmp_path)
        try:
            await asyncio.to_thread(gateway.start)
            told = await call(gateway, at_once=True)
            assert told["_meta"]["dev.twogate/reason"] == "approval_pending"
            # Killed between parking and approval, too: it is still there.
            await asyncio.to_thread(gateway.kill)
            await decide(tmp_path)
            await asyncio.to_thread(gateway.start)
            running = asyncio.create_task(call(gateway))
            await asyncio.to_thread(until, lambda: upstream.calls == ["hold"], "the call did not arrive")
            await asyncio.to_thread(gateway.kill)
            with pytest.raises(httpx2.TransportError):
                await running
            upstream.released.set()
            await asyncio.to_thread(gateway.start)
            for _ in range(3):
                result = await call(gateway)
                assert result["isError"] is True
                assert result["_meta"]["dev.twogate/reason"] == "operation_outcome_unknown"
                assert "may have run" in result["content"][0]["text"]
            assert upstream.calls == ["hold"]
            events = await asyncio.to_thread(gateway.events)
            (lost,) = [event for event in events if event["kind"] == "operation.lost"]
            (intent,) = [event for event in events if event["kind"] == "call.intent"]
            assert intent["detail"].split()[1] == lost["detail"].split()[1].rstrip(":")
        finally:
            upstream.released.set()
            await asyncio.to_thread(gateway.end)
