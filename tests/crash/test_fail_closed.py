"""A running `twogate serve` loses its store or cannot write its audit trail: nothing is let through any more."""

from __future__ import annotations

import asyncio
import json
import resource
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from crash.holding import HoldingServer
from harness.issuer import TestIssuer
from harness.stack import free_port, settings_for, tool_call
from processlab import PATIENCE, Gateway, cli, request_headers
from rawlab import RawServer, until
from twogate.adapters.audit_files import verify_directory
from twogate.core.errors import UNAVAILABLE

UNLIMITED = resource.RLIM_INFINITY


@dataclass
class World:
    """A gateway process, its upstream, and an agent with a token."""

    gateway: Gateway
    upstream: HoldingServer
    token: str
    other: str
    http: httpx2.AsyncClient

    async def call(self, tool: str = "look", token: str | None = None) -> httpx2.Response:
        headers = request_headers(self.token if token is None else token)
        return await self.http.post(f"{self.gateway.url}/mcp/files", json=tool_call(tool), headers=headers)

    async def refused(self, tool: str = "look", token: str | None = None) -> None:
        """A call must be refused, say so truthfully, and reach nothing."""
        before = len(self.upstream.calls)
        answer = await self.call(tool, token)
        assert answer.status_code == 503, answer.text
        assert answer.json()["error"]["code"] == UNAVAILABLE
        assert answer.json()["error"]["data"] == {"reason": "unavailable"}
        assert len(self.upstream.calls) == before

    async def ready(self) -> tuple[int, dict[str, str]]:
        answer = await self.http.get(f"{self.gateway.url}/readyz")
        return answer.status_code, answer.json()

    def may_write(self, size: int) -> None:
        """From now on no file that the process writes may be larger: what a full disk is, for one process alone."""
        resource.prlimit(self.gateway.pid, resource.RLIMIT_FSIZE, (size, UNLIMITED))


@pytest.fixture
async def world(tmp_path: Path, issuer: TestIssuer) -> AsyncIterator[World]:
    upstream = HoldingServer()
    async with RawServer(upstream.serve) as server:
        settings = settings_for(tmp_path, free_port(), {"files": {"url": server.url}}, issuer)
        settings["tools"]["files.hold"] = {"class": "read"}
        settings["tasks"]["report"]["tools"].append("files.hold")
        (tmp_path / "twogate.yaml").write_text(json.dumps(settings))
        gateway = Gateway(tmp_path)
        try:
            await asyncio.to_thread(gateway.start)
            async with httpx2.AsyncClient(timeout=PATIENCE, trust_env=False) as http:
                audience = f"{gateway.url}/mcp/files"
                other = issuer.token(audience, sub="other", azp="other")
                world = World(gateway, upstream, issuer.token(audience), other, http)
                # Warm: token, session and registry are in memory, so a refusal is not just a cache that was empty.
                assert (await world.call()).status_code == 200
                yield world
        finally:
            await asyncio.to_thread(gateway.end)


async def test_when_the_audit_trail_cannot_be_written_nothing_passes_until_it_can(world: World) -> None:
    held = asyncio.create_task(world.call("hold"))
    await until(lambda: world.upstream.held == 1)
    world.may_write(1)
    await world.refused()
    await world.refused("change")  # one that the task refuses
    await world.refused(token="stranger")
    assert await world.ready() == (503, {"status": "unavailable", "reason": "audit_unavailable"})
    # The answer of a call that runs already is withheld, but nobody is told that nothing was run.
    world.upstream.released.set()
    withheld = await held
    assert withheld.status_code == 503
    assert withheld.json()["error"]["data"] == {"reason": "outcome_unrecorded"}
    world.may_write(UNLIMITED)
    async with asyncio.timeout(PATIENCE):
        while (await world.call()).status_code != 200:
            await asyncio.sleep(0.05)
    assert (await world.ready())[0] == 200
    assert await asyncio.to_thread(world.gateway.stop) == 0
    report = verify_directory(world.gateway.audit)
    assert report.ok
    assert report.segments == 2
    events = world.gateway.events()
    # Each call that reached the server has its intent on the trail; the withheld one has no outcome.
    intents = {event["request"]: event["target"] for event in events if event["kind"] == "call.intent"}
    outcomes = {event["request"] for event in events if event["kind"] == "call.outcome"}
    assert list(intents.values()) == [f"files.{tool}" for tool in world.upstream.calls]
    assert [target for request, target in intents.items() if request not in outcomes] == ["files.hold"]


@pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
async def test_when_its_store_is_another_file_or_none_nothing_passes(world: World, replaced: bool) -> None:
    store = world.gateway.directory / "state" / "twogate.db"
    with closing(sqlite3.connect(store)) as connection:
        copy = connection.serialize()
    for path in store.parent.iterdir():
        if path.name.startswith(store.name):
            path.unlink()
    if replaced:
        # As after an operator put a backup in its place: who is cut off there must not go on by the old file.
        store.touch(mode=0o600)
        store.write_bytes(copy)
        done = await asyncio.to_thread(cli, "agent", "disable", "acme/robot", "--config", world.gateway.config)
        assert done.returncode == 0
    await world.refused()
    assert await world.ready() == (503, {"status": "unavailable", "reason": "store_unavailable"})


async def test_when_its_store_is_corrupt_no_change_seems_to_be_made_and_nothing_starts_on_it(world: World) -> None:
    store = world.gateway.directory / "state" / "twogate.db"
    for path in store.parent.iterdir():
        if path.name.startswith(store.name) and not path.name.endswith("-shm"):
            path.write_bytes(b"\xff" * path.stat().st_size)
    # The running process may go by what it has in memory, which stays true as long as nobody can change the store ...
    for command in (("agent", "disable", "acme/robot"), ("session", "list"), ("agent", "list")):
        done = await asyncio.to_thread(cli, *command, "--config", world.gateway.config)
        assert done.returncode == 1, command
        assert "disabled" not in done.stdout
    # ... and nothing begins to serve from it.
    await asyncio.to_thread(world.gateway.stop)
    done = await asyncio.to_thread(cli, "serve", "--config", world.gateway.config)
    assert done.returncode == 1
    assert "not a database" in done.stderr
