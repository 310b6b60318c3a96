"""A real `twogate serve` under load is killed, or told to stop: what it leaves behind.

Each call has a tool of its own, so that the audit trail can be held against what the callers saw, call by call.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest

from crash.holding import HoldingServer
from harness.issuer import TestIssuer
from harness.stack import free_port, settings_for, tool_call
from processlab import PATIENCE, Gateway, Identity, descendants, living, request_headers, until
from rawlab import RawServer
from twogate.adapters.audit_files import verify_directory

CALLS = 3000
CALLERS = 16
ENOUGH = {"files": 250, "work": 25}
"""Answered calls of each server before anything happens to the process."""
HELD = {"files": 6, "work": 3}


@dataclass
class World:
    """A gateway process over one HTTP and one stdio server, and what its callers saw."""

    gateway: Gateway
    upstream: HoldingServer
    directory: Path
    token: Callable[[str], str]
    answered: set[str] = field(default_factory=set)
    lost: list[str] = field(default_factory=list)
    enough: asyncio.Event = field(default_factory=asyncio.Event)

    async def call(self, http: httpx2.AsyncClient, server: str, tool: str) -> None:
        """One call; notes its target as answered if the whole answer came."""
        answer = await http.post(
            f"{self.gateway.url}/mcp/{server}",
            json=tool_call(tool, request_id=f"{server}.{tool}"),
            headers=request_headers(self.token(server)),
        )
        assert answer.status_code == 200, answer.text
        message = answer.json()
        assert message["id"] == f"{server}.{tool}"
        assert message["result"]["content"][0]["text"] == f"{tool} done"
        self.answered.add(f"{server}.{tool}")

    async def load(self, http: httpx2.AsyncClient, todo: Iterator[tuple[str, str]]) -> None:
        """Call after call until the gateway is gone."""
        for server, tool in todo:
            try:
                await self.call(http, server, tool)
            except httpx2.TransportError:
                self.lost.append(f"{server}.{tool}")
                return
            counts = Counter(target.partition(".")[0] for target in self.answered)
            if all(counts[name] >= number for name, number in ENOUGH.items()):
                self.enough.set()
        pytest.fail("the gateway outlived the load")

    def outcomes(self) -> dict[str, str]:
        """The outcome of each target on the trail; there must never be two."""
        events = [event for event in self.gateway.events() if event["kind"] == "call.outcome"]
        assert len({event["target"] for event in events}) == len(events)
        return {event["target"]: event["outcome"] for event in events}

    def intents(self) -> set[str]:
        """The targets with an intent on the trail."""
        return {event["target"] for event in self.gateway.events() if event["kind"] == "call.intent"}


def targets() -> Iterator[tuple[str, str]]:
    """A server and a tool of its own for each call; one in ten is for the stdio server."""
    for number in range(CALLS):
        yield ("work" if number % 10 == 0 else "files"), f"t{number}"


@pytest.fixture
async def world(tmp_path: Path, issuer: TestIssuer) -> AsyncIterator[World]:
    release = tmp_path / "worker"
    release.mkdir()
    worker = Path(__file__).parent / "worker.py"
    upstream = HoldingServer()
    async with RawServer(upstream.serve) as server:
        servers = {
            "files": {"url": server.url},
            "work": {"command": [sys.executable, "-I", str(worker), str(release)]},
        }
        settings = settings_for(tmp_path, free_port(), servers, issuer)
        names = [
            *targets(),
            ("files", "flood"),
            *((server, f"hold{number}") for server in HELD for number in range(HELD[server])),
        ]
        settings["tools"] = {f"{server}.{tool}": {"class": "read"} for server, tool in names}
        settings["tasks"] = {"report": {"tools": ["read"]}}
        settings["agents"]["acme/robot"]["tasks"] = ["report"]
        settings["limits"] = {"requests": 100_000, "burst": 100_000}
        (tmp_path / "twogate.yaml").write_text(json.dumps(settings))
        gateway = Gateway(tmp_path)
        tokens = {server: issuer.token(f"{gateway.url}/mcp/{server}") for server in servers}
        try:
            await asyncio.to_thread(gateway.start)
            yield World(gateway, upstream, release, tokens.__getitem__)
        finally:
            upstream.released.set()
            (release / "release").touch()
            await asyncio.to_thread(gateway.end)


def client() -> httpx2.AsyncClient:
    limits = httpx2.Limits(max_connections=CALLERS + 16)
    return httpx2.AsyncClient(timeout=PATIENCE, trust_env=False, limits=limits)


async def all_gone(processes: set[Identity]) -> None:
    await asyncio.to_thread(until, lambda: not living(processes), f"left behind: {processes}")


def homes(processes: set[Identity]) -> set[Path]:
    """The private directories of the stdio servers among the processes."""
    variables = [Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid, _ in processes]
    found = {Path(item.removeprefix(b"HOME=").decode()) for some in variables for item in some if item[:5] == b"HOME="}
    return found - {Path.home()}


async def test_after_kill_9_under_load_the_trail_holds_every_answered_call_and_no_process_is_left(
    world: World,
) -> None:
    todo = targets()
    async with client() as http:
        callers = [asyncio.create_task(world.load(http, todo)) for _ in range(CALLERS)]
        await asyncio.wait({asyncio.create_task(world.enough.wait()), *callers}, return_when="FIRST_COMPLETED")
        below = descendants(world.gateway.pid)
        private = homes(below)
        await asyncio.to_thread(world.gateway.kill)
        await asyncio.gather(*callers)
    assert len(world.lost) == CALLERS
    # The supervisor, the stdio server and its daemon.
    assert len(below) >= 3
    await all_gone(below)
    assert private
    assert not [home for home in private if home.exists()]
    outcomes = world.outcomes()
    assert {target: outcomes.get(target) for target in world.answered} == dict.fromkeys(world.answered, "answered")
    # No call ran unseen either: what reached the upstream has its intent on the trail.
    assert {f"files.{tool}" for tool in world.upstream.calls} | world.answered <= world.intents()
    await asyncio.to_thread(world.gateway.verify_audit)
    # What is left is enough to go on with, and the new process's segment attests the end of the killed one's.
    await asyncio.to_thread(world.gateway.start)
    async with client() as http:
        await world.call(http, *next(todo))
    assert await asyncio.to_thread(world.gateway.stop) == 0
    report = verify_directory(world.gateway.audit)
    assert (report.ok, report.segments) == (True, 2)


async def hold(world: World, http: httpx2.AsyncClient) -> list[asyncio.Task[None]]:
    """Calls of both servers that are under way and stay so until released."""
    names = [(server, f"hold{number}") for server in HELD for number in range(HELD[server])]
    tasks = [asyncio.create_task(world.call(http, server, tool)) for server, tool in names]

    def held() -> bool:
        return world.upstream.held == HELD["files"] and len(list(world.directory.iterdir())) == HELD["work"]

    await asyncio.to_thread(until, held, "the held calls did not arrive")
    return tasks


def refuses_connections(gateway: Gateway) -> bool:
    try:
        httpx2.get(f"{gateway.url}/healthz", trust_env=False, timeout=PATIENCE)
    except httpx2.TransportError:
        return True
    return False


async def test_sigterm_under_load_answers_what_is_under_way_and_ends_with_code_0(world: World) -> None:
    async with client() as http:
        held = await hold(world, http)
        todo = targets()
        callers = [asyncio.create_task(world.load(http, todo)) for _ in range(CALLERS)]
        await asyncio.wait({asyncio.create_task(world.enough.wait()), *callers}, return_when="FIRST_COMPLETED")
        below = descendants(world.gateway.pid)
        os.kill(world.gateway.pid, signal.SIGTERM)
        await asyncio.to_thread(until, lambda: refuses_connections(world.gateway), "it still listens")
        await asyncio.gather(*callers)
        assert not [task for task in held if task.done()]
        world.upstream.released.set()
        (world.directory / "release").touch()
        await asyncio.gather(*held)
        assert await asyncio.to_thread(world.gateway.wait) == 0
    assert len(below) >= 3
    await all_gone(below)
    # Exactly the calls that ran were answered.
    outcomes = world.outcomes()
    assert outcomes == dict.fromkeys(world.answered, "answered")
    assert world.intents() == world.answered
    assert {f"files.{tool}" for tool in world.upstream.calls} == {t for t in world.answered if t.startswith("files.")}
    assert world.gateway.events()[-1]["kind"] == "process.stopped"
    assert verify_directory(world.gateway.audit).ok


async def unread_stream(world: World, http: httpx2.AsyncClient, reading: AsyncExitStack) -> None:
    """A stream whose client reads nothing; returns when every buffer on the way is full."""
    url, message = f"{world.gateway.url}/mcp/files", tool_call("flood")
    stream = http.stream("POST", url, json=message, headers=request_headers(world.token("files")))
    assert (await reading.enter_async_context(stream)).status_code == 200
    before = -1
    while before != world.upstream.flooded:
        before = world.upstream.flooded
        await asyncio.sleep(0.3)


async def test_a_second_signal_ends_at_once_and_the_calls_it_cuts_off_have_their_outcome(world: World) -> None:
    async with client() as http, AsyncExitStack() as reading:
        held = await hold(world, http)
        await unread_stream(world, http, reading)
        below = descendants(world.gateway.pid)
        os.kill(world.gateway.pid, signal.SIGTERM)
        await asyncio.to_thread(until, lambda: refuses_connections(world.gateway), "it still listens")
        os.kill(world.gateway.pid, signal.SIGTERM)
        # Much longer than it takes, much shorter than a client may leave an answer unread.
        async with asyncio.timeout(15):
            assert await asyncio.to_thread(world.gateway.wait) == 0
        ends = await asyncio.gather(*held, return_exceptions=True)
    # Cut off, or told that Twogate stops; nobody has a result.
    assert all(isinstance(end, BaseException) for end in ends)
    assert not world.answered
    await all_gone(below)
    assert len(world.intents()) == sum(HELD.values()) + 1
    assert world.outcomes() == dict.fromkeys(world.intents(), "aborted")
    assert world.gateway.events()[-1]["kind"] == "process.stopped"
    assert verify_directory(world.gateway.audit).ok
