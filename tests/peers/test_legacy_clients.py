"""Clients of the HTTP+SSE transport (MCP 2024-11-05), through a gateway to a server that does not speak it."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import mcp_types as types
import pytest
from mcp import ClientSession, MCPError
from mcp.client.sse import sse_client

from peers.sdk import leaves
from peers.servers import EVERYTHING, World, behind, everything_server, everything_targets
from processlab import PATIENCE
from twogate.core.errors import GATE_TWO

pytestmark = pytest.mark.peer


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with everything_server() as url:
        targets = [target for target in everything_targets(url) if target != "test_error_handling"]
        settings = {EVERYTHING: {"url": url}}
        with behind(tmp_path_factory.mktemp("twogate"), settings, {EVERYTHING: targets}) as made:
            yield made


class Person:
    """Answers what the server asks, and keeps what it tells."""

    def __init__(self) -> None:
        self.told: list[str] = []

    async def sample(self, context: Any, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
        return types.CreateMessageResult(
            role="assistant", content=types.TextContent(type="text", text="forty-two"), model="none"
        )

    async def elicit(self, context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
        return types.ElicitResult(action="accept", content={"response": "ada"})

    async def log(self, params: types.LoggingMessageNotificationParams) -> None:
        self.told.append(str(params.data))


@asynccontextmanager
async def connected(world: World, person: Person, **headers: str) -> AsyncIterator[ClientSession]:
    trust = ssl.create_default_context(cafile=world.ca)

    def client(
        headers: dict[str, str] | None = None, timeout: httpx2.Timeout | None = None, auth: httpx2.Auth | None = None
    ) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(headers=headers, timeout=timeout, auth=auth, verify=trust, trust_env=False)

    everything = {"authorization": f"Bearer {world.token(EVERYTHING)}", **headers}
    async with (
        sse_client(f"{world.url(EVERYTHING)}/sse", headers=everything, httpx_client_factory=client) as (read, write),
        ClientSession(
            read,
            write,
            sampling_callback=person.sample,
            elicitation_callback=person.elicit,
            logging_callback=person.log,
            read_timeout_seconds=PATIENCE,
        ) as session,
    ):
        await session.initialize()
        yield session


def text(result: types.CallToolResult) -> str:
    return "".join(item.text for item in result.content if isinstance(item, types.TextContent))


async def test_it_lists_calls_reads_and_is_told_and_asked_on_its_one_stream(world: World) -> None:
    person = Person()
    steps: list[float] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        steps.append(progress)

    async with connected(world, person) as session:
        names = {tool.name for tool in (await session.list_tools()).tools}
        assert "test_simple_text" in names
        assert "test_error_handling" not in names
        assert "simple text" in text(await session.call_tool("test_simple_text", {})).lower()
        assert (await session.list_prompts()).prompts
        assert (await session.read_resource("test://static-text")).contents
        assert "forty-two" in text(await session.call_tool("test_sampling", {"prompt": "What?"}))
        assert "ada" in text(await session.call_tool("test_elicitation", {"message": "Who?"}))
        await session.call_tool("test_tool_with_progress", {}, progress_callback=on_progress)
        await session.call_tool("test_tool_with_logging", {})
    assert steps == sorted(steps)
    assert len(steps) > 1
    assert person.told


async def test_a_refusal_is_told_on_the_stream_and_ends_nothing(world: World) -> None:
    async with connected(world, Person()) as session:
        for tool in ("test_error_handling", "no_such_tool"):
            with pytest.raises(MCPError) as refused:
                await session.call_tool(tool, {})
            assert (refused.value.code, refused.value.data["reason"]) == (GATE_TWO, "not_permitted")
        assert text(await session.call_tool("test_simple_text", {}))
    event = [event for event in world.gateway.events() if event["kind"] == "call.refused"][-1]
    assert (event["target"], event["reason"]) == (f"{EVERYTHING}.no_such_tool", "target_unclassified")


async def test_the_task_that_each_message_declares_is_in_force(world: World) -> None:
    with pytest.raises((MCPError, BaseExceptionGroup)) as failed:
        async with connected(world, Person(), **{"twogate-task": "nonsense"}):
            pass
    (error,) = leaves(failed.value)
    assert isinstance(error, MCPError)
    assert error.data["reason"] == "task_unknown"
