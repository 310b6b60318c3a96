"""A real `twogate serve` under load takes new configurations: what its callers see of it.

Tools named `probe…` tell generations apart: generation n denies all of them but `probe<n>`, which a session that was
opened before may still call, because generation 0 allowed them all.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from crash.holding import HoldingServer
from harness.issuer import TestIssuer
from harness.stack import free_port, settings_for, tool_call
from processlab import PATIENCE, Gateway, descendants, living, request_headers, until
from rawlab import Peer, RawServer
from twogate.adapters.audit_files import verify_directory
from twogate.adapters.serving import Reload, find_serving
from twogate.cli.reload import request_reload

RELOADS = 20
PROBES = [f"probe{number}" for number in range(RELOADS + 1)]
SERVERS = ("files", "work")


@dataclass
class World:
    """A gateway process, its configuration, and who calls it meanwhile."""

    gateway: Gateway
    upstream: HoldingServer
    server: RawServer
    directory: Path
    settings: dict[str, Any]
    token: Callable[[str], str]
    begun: int = 0
    """The newest generation that some reload may have brought into force."""
    returned: int = 0
    """The newest generation whose reload has returned."""
    calls: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def write(self, text: str) -> None:
        """Put a configuration in the place of the current one, whole, as an operator should."""
        new = self.gateway.config.with_suffix(".new")
        new.write_text(text)
        new.replace(self.gateway.config)

    async def reload(self) -> Reload:
        """As `twogate reload` does it."""
        _, outcome = await asyncio.to_thread(request_reload, self.gateway.directory / "state", self.gateway.config)
        return outcome

    async def turn(self, generation: int) -> None:
        """Bring a generation into force."""
        denied = [f"files.{probe}" for probe in PROBES if probe != f"probe{generation}"]
        self.settings["roles"] = {"worker": {"allow": ["read"], "deny": denied}}
        self.write(json.dumps(self.settings))
        self.begun = generation
        outcome = await self.reload()
        assert (outcome.code, outcome.message) == ("", "")
        self.returned = generation

    async def call(self, http: httpx2.AsyncClient, server: str, tool: str) -> httpx2.Response:
        """One call, whatever its answer."""
        return await http.post(
            f"{self.gateway.url}/mcp/{server}",
            json=tool_call(tool, request_id=tool),
            headers=request_headers(self.token(server)),
        )

    async def more_calls(self, number: int) -> None:
        """Wait for the end of so many more calls."""
        enough = len(self.calls) + number
        await asyncio.to_thread(until, lambda: len(self.calls) >= enough, "the callers stand still")

    async def steady(self, http: httpx2.AsyncClient, server: str, until_set: asyncio.Event) -> None:
        """Calls that every generation allows, one after the other: each must be answered."""
        while not until_set.is_set():
            answer = await self.call(http, server, "steady")
            if answer.status_code != 200 or answer.json()["result"]["content"][0]["text"] != "steady done":
                self.wrong.append(f"{server}: {answer.status_code} {answer.text}")
            self.calls.append(server)

    async def observe(self, http: httpx2.AsyncClient, until_set: asyncio.Event) -> None:
        """Calls that tell which generation answered: never an older one than that of the last reload that returned."""
        while not until_set.is_set():
            floor = self.returned
            current = (await self.call(http, "files", f"probe{floor}")).status_code
            if not (current == 200 or (current == 403 and self.begun > floor)):
                self.wrong.append(f"generation {floor} in force, its probe got {current}")
            self.calls.append("observer")
            floor = self.returned
            if floor:
                past = (await self.call(http, "files", f"probe{floor - 1}")).status_code
                if past != 403:
                    self.wrong.append(f"generation {floor} in force, the probe before it got {past}")


@asynccontextmanager
async def clients(*, connections: int = 1) -> AsyncIterator[httpx2.AsyncClient]:
    limits = httpx2.Limits(max_connections=connections)
    async with httpx2.AsyncClient(timeout=PATIENCE, trust_env=False, limits=limits) as http:
        yield http


async def feed(peer: Peer) -> None:
    """A server with one stream, on which it says one thing and never another."""
    await peer.request()
    event = b'data: {"jsonrpc":"2.0","method":"notifications/tools/list_changed"}\n\n'
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    await peer.send(head + b"%x\r\n%b\r\n" % (len(event), event))
    await peer.gone()


@pytest.fixture
async def world(tmp_path: Path, issuer: TestIssuer) -> AsyncIterator[World]:
    release = tmp_path / "worker"
    release.mkdir()
    worker = Path(__file__).parent / "worker.py"
    upstream = HoldingServer()
    async with RawServer(upstream.serve) as server, RawServer(feed) as feeding:
        servers = {
            "files": {"url": server.url},
            "feed": {"url": feeding.url},
            "work": {"command": [sys.executable, "-I", str(worker), str(release)]},
        }
        settings = settings_for(tmp_path, free_port(), servers, issuer)
        tools = [*(f"files.{tool}" for tool in ("steady", "hold", *PROBES)), "work.steady", "work.hold"]
        settings["tools"] = {tool: {"class": "read"} for tool in tools}
        settings["roles"] = {"worker": {"allow": ["read"]}}
        settings["tasks"] = {"report": {"tools": ["read"]}}
        settings["agents"] = {
            "acme/robot": {
                "role": "worker", "tasks": ["report"], "default_task": "report",
                "bindings": [{"issuer": issuer.url, "subject": "robot"}],
            }
        }  # fmt: skip
        settings["limits"] = {"requests": 100_000, "burst": 100_000}
        (tmp_path / "twogate.yaml").write_text(json.dumps(settings))
        gateway = Gateway(tmp_path)
        tokens = {name: issuer.token(f"{gateway.url}/mcp/{name}") for name in servers}
        try:
            await asyncio.to_thread(gateway.start)
            yield World(gateway, upstream, server, release, settings, tokens.__getitem__)
        finally:
            upstream.released.set()
            (release / "release").touch()
            await asyncio.to_thread(gateway.end)


@asynccontextmanager
async def load(world: World, *, observers: int = 2) -> AsyncIterator[None]:
    """Callers on connections of their own for as long as the block lasts; none of their calls may go wrong."""
    over = asyncio.Event()
    async with clients(connections=8) as http, asyncio.TaskGroup() as group:
        # Generation 0 opens the session, with every probe in it.
        assert (await world.call(http, "files", "probe0")).status_code == 200
        for server in SERVERS * 2:
            group.create_task(world.steady(http, server, over))
        for _ in range(observers):
            group.create_task(world.observe(http, over))
        try:
            yield
        finally:
            over.set()
    assert world.wrong == []
    assert {*SERVERS, *(["observer"] if observers else [])} <= set(world.calls)


async def test_reloads_under_load_drop_no_call_and_hold_for_every_request_after_them(world: World) -> None:
    async with load(world):
        for number in range(1, RELOADS + 1):
            await world.turn(number)
            if number % 5 == 0:
                # An invalid file changes nothing; the next turn replaces it.
                world.write("servers: [")
                assert (await world.reload()).code == "configuration_invalid"
            await world.more_calls(10)
    status = find_serving(world.gateway.directory / "state")
    assert status is not None
    assert (status.pid, status.begun) == (world.gateway.pid, RELOADS + RELOADS // 5)
    kinds = [event["kind"] for event in world.gateway.events()]
    assert kinds.count("configuration.reloaded") == RELOADS
    assert kinds.count("configuration.refused") == RELOADS // 5
    # One stdio process served through all of it, and the pool was not opened anew each time.
    assert len(descendants(world.gateway.pid)) == 3
    assert world.server.connections < RELOADS
    assert await asyncio.to_thread(world.gateway.stop) == 0
    assert verify_directory(world.gateway.audit).ok


async def test_a_storm_of_signals_drops_no_call_and_ends_with_the_file_as_it_is(world: World) -> None:
    async with load(world, observers=0):
        for number in range(100):
            world.settings["limits"]["calls_per_agent"] = 100 + number
            world.write(json.dumps(world.settings) if number % 3 else "{")
            os.kill(world.gateway.pid, signal.SIGHUP)
            if number % 10 == 0:
                await asyncio.sleep(0)
        world.write(json.dumps(world.settings))
        outcome = await world.reload()
        assert outcome.code == ""
    status = find_serving(world.gateway.directory / "state")
    assert status is not None
    assert status.generation == outcome.generation
    # Signals that come during an attempt are answered by one more.
    assert status.begun <= 101
    assert world.gateway.process is not None
    assert world.gateway.process.poll() is None


async def held(world: World, http: httpx2.AsyncClient) -> list[asyncio.Task[httpx2.Response]]:
    """A call to each server that is under way and stays so until released."""
    tasks = [asyncio.create_task(world.call(http, server, "hold")) for server in SERVERS]

    def arrived() -> bool:
        return world.upstream.held == 1 and len(list(world.directory.iterdir())) == 1

    await asyncio.to_thread(until, arrived, "the held calls did not arrive")
    return tasks


async def test_calls_under_way_end_as_they_began_though_their_servers_are_gone_from_the_file(world: World) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # so that nobody else gets the port, which nobody listens on
        await swap_servers_under_calls(world, nobody.getsockname()[1])


async def swap_servers_under_calls(world: World, dead_port: int) -> None:
    async with clients(connections=8) as http:
        calls = await held(world, http)
        before = descendants(world.gateway.pid)
        work = world.settings["servers"].pop("work")
        world.settings["servers"]["files"]["url"] = f"http://127.0.0.1:{dead_port}/mcp"
        world.settings["tools"] = {
            tool: kind for tool, kind in world.settings["tools"].items() if not tool.startswith("work.")
        }
        world.settings["tenants"]["acme"]["servers"] = ["files", "feed"]
        world.write(json.dumps(world.settings))
        assert (await world.reload()).code == ""
        # New requests are the new generation's: one server is unknown, the other cannot be reached.
        assert (await world.call(http, "work", "steady")).status_code == 404
        assert (await world.call(http, "files", "steady")).json()["error"]["data"]["reason"] == "upstream_unavailable"
        assert not [call for call in calls if call.done()]
        assert living(before) == before
        world.upstream.released.set()
        (world.directory / "release").touch()
        answers = await asyncio.gather(*calls)
        assert [answer.json()["result"]["content"][0]["text"] for answer in answers] == ["hold done"] * 2
        # After its last call the removed server's process is ended, and what it left behind with it.
        await asyncio.to_thread(until, lambda: not living(before), f"left behind: {before}")
        await asyncio.to_thread(until, lambda: world.server.open == 0, "the old pool is still open")
        # And back: a new process is started for it.
        (world.directory / "release").unlink()
        world.settings["servers"] |= {"work": work}
        world.settings["tools"]["work.steady"] = {"class": "read"}
        world.settings["tenants"]["acme"]["servers"] = [*SERVERS, "feed"]
        world.write(json.dumps(world.settings))
        assert (await world.reload()).code == ""
        # The session is as old as its first call and still knows the tool.
        assert (await world.call(http, "work", "steady")).status_code == 200


async def test_unchanged_servers_keep_their_processes(world: World) -> None:
    async with clients() as http:
        for server in SERVERS:
            assert (await world.call(http, server, "steady")).status_code == 200
        processes = descendants(world.gateway.pid)
        for timeout in ("50s", "51s", "52s"):
            for server in SERVERS:
                world.settings["servers"][server]["timeout"] = timeout
            world.write(json.dumps(world.settings))
            assert (await world.reload()).code == ""
            for server in SERVERS:
                assert (await world.call(http, server, "steady")).status_code == 200
        assert descendants(world.gateway.pid) == processes
        world.settings["servers"]["work"]["env"] = {"CHANGED": "yes"}
        world.write(json.dumps(world.settings))
        assert (await world.reload()).code == ""
        assert (await world.call(http, "work", "steady")).status_code == 200
        await asyncio.to_thread(until, lambda: not living(processes), "the changed server's process lives on")


async def test_while_draining_nothing_is_reloaded_and_what_is_under_way_is_answered(world: World) -> None:
    async with clients(connections=8) as http:
        calls = await held(world, http)
        os.kill(world.gateway.pid, signal.SIGTERM)
        world.settings["limits"]["calls_per_agent"] = 7
        world.write(json.dumps(world.settings))
        assert (await world.reload()).code == "stopping"
        for _ in range(20):
            os.kill(world.gateway.pid, signal.SIGHUP)
        world.upstream.released.set()
        (world.directory / "release").touch()
        assert [answer.status_code for answer in await asyncio.gather(*calls)] == [200, 200]
        assert await asyncio.to_thread(world.gateway.wait) == 0
    assert "configuration.reloaded" not in [event["kind"] for event in world.gateway.events()]
    assert world.gateway.events()[-1]["kind"] == "process.stopped"
    assert find_serving(world.gateway.directory / "state") is None


async def test_draining_is_unready_and_answers_what_comes_on_open_connections_before_it_closes_them(
    world: World,
) -> None:
    async with clients(connections=8) as http, clients() as probe:
        calls = await held(world, http)
        ready = await probe.get(f"{world.gateway.url}/readyz")
        os.kill(world.gateway.pid, signal.SIGTERM)
        # One connection, so each probe but the last found it open.
        while ready.status_code == 200:
            assert "connection" not in ready.headers
            ready = await probe.get(f"{world.gateway.url}/readyz")
        assert (ready.status_code, ready.json()) == (503, {"status": "unavailable", "reason": "draining"})
        assert ready.headers["connection"] == "close"
        world.upstream.released.set()
        (world.directory / "release").touch()
        answers = await asyncio.gather(*calls)
        assert [(answer.status_code, answer.headers.get("connection")) for answer in answers] == [(200, "close")] * 2
        assert await asyncio.to_thread(world.gateway.wait) == 0


async def test_long_lived_streams_end_in_order_at_a_reload_and_at_the_beginning_of_a_stop(world: World) -> None:
    async with clients() as http, clients(connections=8) as others:
        calls = await held(world, others)
        for stops in (False, True):
            url, headers = f"{world.gateway.url}/mcp/feed", request_headers(world.token("feed"))
            async with http.stream("GET", url, headers=headers) as stream:
                assert stream.status_code == 200
                lines = stream.aiter_lines()
                while not (await anext(lines)).startswith("data: "):
                    pass
                if stops:
                    os.kill(world.gateway.pid, signal.SIGTERM)
                else:
                    assert (await world.reload()).code == ""
                # An answer without its end would be an error here.
                assert "data: " not in "".join([line async for line in lines])
            # Not because the grace was over: it goes on for these.
            assert not [call for call in calls if call.done()]
        world.upstream.released.set()
        (world.directory / "release").touch()
        assert [answer.status_code for answer in await asyncio.gather(*calls)] == [200, 200]
    assert await asyncio.to_thread(world.gateway.wait) == 0


async def test_no_call_on_an_open_connection_is_lost_to_a_stop(world: World) -> None:
    async def call_until_closed(http: httpx2.AsyncClient) -> int:
        """How many calls were answered on one connection, before the one that says that it was the last."""
        count = 1
        while "connection" not in (answer := await world.call(http, "files", "steady")).headers:
            assert answer.status_code == 200
            count += 1
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        return count

    async with AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(clients()) for _ in range(6)]
        calls = [asyncio.create_task(call_until_closed(http)) for http in callers]
        await asyncio.to_thread(until, lambda: len(world.server.requests) >= 50, "the callers stand still")
        os.kill(world.gateway.pid, signal.SIGTERM)
        counts = await asyncio.gather(*calls)
    assert await asyncio.to_thread(world.gateway.wait) == 0
    assert len(world.server.requests) == sum(counts)
