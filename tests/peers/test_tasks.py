"""Tasks of MCP 2025-11-25: the TypeScript client has the reference server run a tool as a task, through a gateway."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from peers.peers import NODE, NODE_PEERS, TYPESCRIPT_CLIENTS, require
from peers.servers import World, behind, reference_command, reference_server
from peers.tour import Stop, attempt

pytestmark = pytest.mark.peer

TOOL = "simulate-research-query"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with reference_server("streamableHttp") as url:
        servers = {"http": {"url": url}, "stdio": {"command": reference_command()}}
        with behind(tmp_path_factory.mktemp("twogate"), servers, dict.fromkeys(servers, (TOOL,))) as made:
            yield made


@pytest.mark.parametrize("server", ["http", "stdio"])
async def test_a_tool_runs_as_a_task_asks_on_its_way_and_gives_its_result(world: World, server: str) -> None:
    require(TYPESCRIPT_CLIENTS["1"])
    script = str(NODE_PEERS / "tasks.mjs")
    steps = [Stop((TOOL, {"topic": "python", "ambiguous": True}), None)]
    code, said, complained = await attempt(
        world, server, "2025-11-25", steps, require(NODE), script, NODE_EXTRA_CA_CERTS=world.ca
    )
    assert code == 0, complained
    met = json.loads(said)
    assert met["tools"] == [TOOL]
    kinds = [kind for kind, *_ in met["seen"]]
    assert kinds[0] == "created"
    assert kinds[-1] == "result", met["seen"]
    # One task, under the one name that the gateway gave it.
    (name,) = {task for _, task, _ in met["seen"] if task}
    assert len(name) > 60
    assert "python" in met["seen"][-1][2]
    assert met["asked"] == 1
    methods = {event["method"] for event in world.gateway.events() if event["kind"] == "call.intent"}
    assert {"tools/call", "tasks/get", "tasks/result", "answer:elicitation/create"} <= methods
    decided = [event for event in world.gateway.events() if event.get("method", "").startswith("tasks/")]
    assert {event["target"] for event in decided} <= {f"{name}.{TOOL}" for name in ("http", "stdio")}
