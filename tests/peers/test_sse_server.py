"""Servers on the SDK's first generation, over HTTP+SSE and over stdio, that ask and tell their client all they can.

In front of them is a real `twogate serve`, before it the official client of today.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp_types import (
    CreateMessageResult,
    ElicitResult,
    ListRootsResult,
    LoggingMessageNotificationParams,
    Root,
    TextContent,
    ToolListChangedNotification,
)
from pydantic import FileUrl

from harness.stack import free_port
from peers.peers import OLDER_PYTHON, require
from peers.sdk import leaves, provider, text
from processlab import PATIENCE, Gateway, descendants, here_json, init, living, serving, until

pytestmark = pytest.mark.peer

SERVER = str(Path(__file__).parent / "asking_server.py")
TOOLS = ["ask_folders", "ask_model", "ask_person", "change", "wait", "whose", "work"]
TRANSPORTS = ["sse", "stdio"]


class SseServer:
    """The server over HTTP+SSE, as a process that can be ended and started again at its address."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/sse"

    def start(self) -> None:
        command = [require(OLDER_PYTHON), SERVER, "sse", str(self.port)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
        self._process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        until(self._listens, "the server was not ready in time")

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "the server ended at once"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)


@dataclass
class World:
    """A gateway in front of both servers, and two agents that may use every tool."""

    gateway: Gateway
    agents: list[dict[str, Any]]
    server: SseServer


@dataclass
class Person:
    """Answers what a client is asked, and keeps what it is told."""

    asked: list[str] = field(default_factory=list)
    logged: list[object] = field(default_factory=list)
    changes: int = 0

    async def sample(self, context: Any, params: Any) -> CreateMessageResult:
        self.asked.append(params.messages[0].content.text)
        return CreateMessageResult(role="assistant", content=TextContent(text="forty-two"), model="none")

    async def elicit(self, context: Any, params: Any) -> ElicitResult:
        self.asked.append(params.message)
        return ElicitResult(action="accept", content={"name": "Ada"})

    async def list_roots(self, context: Any) -> ListRootsResult:
        self.asked.append("roots")
        return ListRootsResult(roots=[Root(uri=FileUrl("file:///home/ada"))])

    async def log(self, params: LoggingMessageNotificationParams) -> None:
        self.logged.append(params.data)

    async def notice(self, message: object) -> None:
        self.changes += isinstance(message, ToolListChangedNotification)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("twogate")
    server = SseServer()
    asks = ["sampling", "elicitation", "roots"]
    settings = {
        "servers": {
            "sse": {"url": server.url, "transport": "sse", "client_requests": asks},
            "stdio": {"command": [require(OLDER_PYTHON), SERVER, "stdio"], "client_requests": asks},
        },
        "tools": {f"{transport}.{tool}": {"class": "read"} for transport in TRANSPORTS for tool in TOOLS},
        "tasks": {"all": {"tools": ["read"]}},
        "tenants": {"acme": {"servers": TRANSPORTS}},
    }
    init(directory, settings, port=free_port())
    options = ("--role", "reader", "--task", "all", "--default-task", "all", "--config", directory / "twogate.yaml")
    agents = [here_json("agent", "add", f"acme/{name}", *options) for name in ("one", "two")]
    try:
        server.start()
        with serving(directory) as gateway:
            yield World(gateway, agents, server)
            running = descendants(gateway.pid)
            gateway.verify_audit()
        assert not living(running), "processes were left behind"
    finally:
        server.kill()


@asynccontextmanager
async def connected(
    world: World, transport: str, person: Person | None = None, *, agent: int = 0, mode: str = "legacy"
) -> AsyncIterator[Client]:
    url = f"{world.gateway.url}/mcp/{transport}"
    asking: dict[str, Any] = {}
    if person is not None:
        asking = {
            "sampling_callback": person.sample,
            "elicitation_callback": person.elicit,
            "list_roots_callback": person.list_roots,
            "logging_callback": person.log,
            "message_handler": person.notice,
        }
    async with (
        httpx2.AsyncClient(
            auth=provider(world.agents[agent], url), verify=world.gateway.trust(), timeout=PATIENCE, trust_env=False
        ) as http,
        Client(
            streamable_http_client(url, http_client=http), mode=mode, read_timeout_seconds=PATIENCE, **asking
        ) as client,
    ):
        yield client


@pytest.mark.parametrize("mode", ["legacy", "auto"])
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_the_client_of_today_uses_it_as_any_other_server(world: World, transport: str, mode: str) -> None:
    async with connected(world, transport, mode=mode) as client:
        assert client.protocol_version == "2025-11-25"
        assert client.server_info is not None
        assert client.server_info.name == "asking"
        assert sorted(tool.name for tool in (await client.list_tools()).tools) == TOOLS
        assert text(await client.call_tool("wait", {"seconds": 0})) == "waited"


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_it_asks_the_model_the_person_and_for_folders(world: World, transport: str) -> None:
    person = Person()
    async with connected(world, transport, person) as client:
        assert text(await client.call_tool("ask_model", {"prompt": "How much?"})) == "the model said: forty-two"
        assert text(await client.call_tool("ask_person", {"question": "Who?"})) == "accept: {'name': 'Ada'}"
        assert text(await client.call_tool("ask_folders")) == "file:///home/ada"
    assert person.asked == ["How much?", "Who?", "roots"]
    asked = [event for event in world.gateway.events() if event["kind"] == "server.request"]
    assert {event["method"] for event in asked} == {"sampling/createMessage", "elicitation/create", "roots/list"}


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_questions_of_calls_at_once_are_each_answered(world: World, transport: str) -> None:
    person = Person()
    async with connected(world, transport, person) as client:
        prompts = [f"question {n}" for n in range(5)]
        calls = [client.call_tool("ask_model", {"prompt": prompt}) for prompt in prompts]
        answers = await asyncio.gather(*calls, client.call_tool("wait", {"seconds": 0.5}))
    assert [text(answer) for answer in answers] == ["the model said: forty-two"] * 5 + ["waited"]
    assert sorted(person.asked) == prompts


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_who_cannot_be_asked_is_not_and_the_server_learns_it(world: World, transport: str) -> None:
    async with connected(world, transport) as client:
        result = await client.call_tool("ask_model", {"prompt": "How much?"})
        assert result.is_error


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_progress_and_logs_arrive(world: World, transport: str) -> None:
    person, told = Person(), list[tuple[float, float | None]]()

    async def progressed(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total))

    async with connected(world, transport, person) as client:
        assert text(await client.call_tool("work", {"steps": 3}, progress_callback=progressed)) == "done"
        await waiting_for(lambda: len(person.logged) == 3)
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert person.logged == ["step 1", "step 2", "step 3"]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_what_it_tells_on_its_own_reaches_the_clients_stream(world: World, transport: str) -> None:
    person = Person()
    async with connected(world, transport, person) as client:

        async def heard() -> bool:
            # The client opens its stream when it likes; what is told before is told to nobody.
            await client.call_tool("change")
            return person.changes > 0

        async with asyncio.timeout(PATIENCE):
            while not await heard():
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_principals_and_clients_of_another_kind_have_connections_of_their_own(
    world: World, transport: str
) -> None:
    person = Person()
    async with (
        connected(world, transport) as one,
        connected(world, transport) as again,
        connected(world, transport, person) as other_kind,
        connected(world, transport, agent=1) as two,
    ):
        whose = [text(await client.call_tool("whose")) for client in (one, again, one)]
        assert len(set(whose)) == 1
        # In processes of their own, equal numbers may stand for two connections.
        if transport == "sse":
            whose += [text(await client.call_tool("whose")) for client in (other_kind, two)]
            assert len(set(whose)) == 3


async def test_an_sse_server_that_is_killed_fails_its_calls_and_is_used_again_when_it_is_back(world: World) -> None:
    async with connected(world, "sse", Person()) as client:
        assert text(await client.call_tool("wait", {"seconds": 0})) == "waited"
        waiting = asyncio.create_task(client.call_tool("wait", {"seconds": 60}))
        await asyncio.sleep(0.2)
        world.server.kill()
        with pytest.raises((MCPError, BaseExceptionGroup)) as caught:
            await waiting
        errors = list(leaves(caught.value))
        assert {error.data["reason"] for error in errors if isinstance(error, MCPError)} == {"upstream_broken"}
        with pytest.raises((MCPError, BaseExceptionGroup)):
            await client.call_tool("wait", {"seconds": 0})
        await asyncio.to_thread(world.server.start)
        async with asyncio.timeout(PATIENCE):
            while not await works(client):
                await asyncio.sleep(0.1)
        assert text(await client.call_tool("ask_model", {"prompt": "Still there?"})) == "the model said: forty-two"


async def works(client: Client) -> bool:
    try:
        return text(await client.call_tool("wait", {"seconds": 0})) == "waited"
    except MCPError as error:
        if error.data["reason"] != "upstream_unavailable":
            raise
        return False  # it waits a moment before it connects anew


async def test_a_stdio_server_ends_with_its_clients_session(world: World) -> None:
    async with connected(world, "stdio", Person(), agent=1) as client:
        await client.call_tool("whose")
        running = descendants(world.gateway.pid)
    await waiting_for(lambda: len(living(running)) < len(running))


async def waiting_for(check: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        while not check():
            await asyncio.sleep(0.02)
