"""R-34 on real PostgreSQL: calls that wait, are approved and run once, over two replicas on one database."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from harness.issuer import TestIssuer
from harness.postgres import Cluster
from harness.stack import free_port, running
from harness.upstream import RecordingUpstream
from twogate.core.approval import Decision, State
from twogate.core.operation import State as Run
from waitinglab import CHANGED, MODERN, TASKS, WaitingLab, open_waiting_lab, reason, said

pytestmark = pytest.mark.peer


@dataclass
class Replica:
    """The second replica of a lab, reached by its own address under the name of both."""

    lab: WaitingLab
    address: str

    async def post(self, message: Any, **headers: str) -> httpx2.Response:
        """The robot's request, in its task `edit`."""
        sent = {"authorization": f"Bearer {self.lab.token()}", "accept": "application/json, text/event-stream"}
        sent |= {"host": urlsplit(self.lab.stack.url).netloc, "twogate-task": "edit"}
        sent |= {"mcp-protocol-version": "2025-11-25", **headers}
        return await self.lab.stack.http.post(f"{self.address}/mcp/files", json=message, headers=sent)

    async def change(self, request_id: int = 1) -> httpx2.Response:
        params = {"name": "change", "arguments": CHANGED}
        return await self.post({"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params})

    async def task(self, task: str) -> Any:
        """How a task stands."""
        prefix = "io.modelcontextprotocol/"
        meta = {f"{prefix}protocolVersion": MODERN, f"{prefix}clientCapabilities": TASKS}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tasks/get", "params": {"taskId": task, "_meta": meta}}
        headers = {"mcp-protocol-version": MODERN, "mcp-method": "tasks/get", "mcp-name": task}
        return said(await self.post(message, **headers))["result"]


@pytest.fixture
async def lab(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream, cluster: Cluster
) -> AsyncIterator[WaitingLab]:
    (tmp_path / "one").mkdir()
    store = cluster.url(cluster.new_user())
    async with open_waiting_lab(tmp_path / "one", issuer, upstream, store=store) as made:
        yield made


@asynccontextmanager
async def second(lab: WaitingLab, directory: Path) -> AsyncGenerator[Replica]:
    """Another replica: the same configuration and keys, an address and a state directory of its own."""
    port = free_port()
    settings = {**lab.settings, "listen": f"127.0.0.1:{port}", "state": f"{directory}/state"}
    shutil.copytree(lab.stack.directory / "state" / "keys", directory / "state" / "keys")
    (directory / "state").chmod(0o700)
    async with running(directory, settings):
        yield Replica(lab, f"http://127.0.0.1:{port}")


async def test_of_twenty_at_once_over_two_replicas_one_runs_and_all_get_its_answer(
    lab: WaitingLab, tmp_path: Path
) -> None:
    assert reason(await lab.change()) == "approval_pending"
    async with second(lab, tmp_path / "two") as replica:
        # The other replica finds the same parked call.
        assert reason(await replica.change()) == "approval_pending"
        parked = await lab.only()
        await lab.decide(parked)
        calls = [one.change(request_id=number) for number in range(10) for one in (lab, replica)]
        answers = [said(answer) for answer in await asyncio.gather(*calls)]
        assert lab.ran == ["change"]
        assert {answer["result"]["content"][0]["text"] for answer in answers} == {"change done"}
        assert await lab.runs.state(parked.call.id, 0) is Run.FINISHED


async def test_what_was_parked_by_one_replica_is_asked_about_denied_and_run_at_the_other(
    lab: WaitingLab, tmp_path: Path
) -> None:
    results = [said(await lab.modern_change({"n": n}, capabilities=TASKS))["result"] for n in range(3)]
    made = [result["taskId"] for result in results]
    waiting = {parked.call.id: parked for parked in await lab.waiting()}
    told = "io.modelcontextprotocol/authorization"
    first, denied, cancelled = (waiting[result["_meta"][told]["authorizationContextId"]] for result in results)
    async with second(lab, tmp_path / "two") as replica:
        assert [(await replica.task(task))["status"] for task in made] == ["working"] * 3
        await lab.decide(first)
        await lab.decide(denied, Decision.DENY)
        await lab.modern("tasks/cancel", {"taskId": made[2]}, TASKS)
        assert await lab.state(cancelled) is State.CANCELLED
        assert [(await replica.task(task))["status"] for task in made] == ["completed", "failed", "cancelled"]
        assert said(await lab.modern("tasks/get", {"taskId": made[0]}, TASKS))["result"]["status"] == "completed"
    assert lab.ran == ["change"]
