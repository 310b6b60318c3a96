"""What clients that nobody here wrote do through a gateway, told once for all of them.

A tour is a list of steps with what must come of them; each client has a script that reads the steps (with where to go,
as what, and what to answer when asked) and prints as JSON what it met: each step's result (a protocol error as its
code), what the server asked, which notifications came, and the progress.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, NamedTuple
from unittest.mock import ANY

from peers.servers import World
from processlab import PATIENCE
from twogate.core.errors import GATE_TWO

HANDSHAKE = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")


class Stop(NamedTuple):
    """A step, and its result."""

    step: tuple[Any, ...]
    result: Any = None


SAMPLED = "forty-two"
ROOT = "file:///home/ada"
CHANGED = "notifications/tools/list_changed"
UPDATED = "notifications/resources/updated"

# Of the Python SDK's everything-server, in both eras.
EVERYTHING_BOTH = (
    Stop(("call", "test_simple_text", {}), "This is a simple text response for testing."),
    Stop(
        ("call", "test_error_handling", {}),
        {"error": "Error executing tool test_error_handling: This tool intentionally returns an error for testing"},
    ),
    Stop(("call", "test_tool_with_progress", {}), ANY),
    Stop(("read", "test://static-text"), "This is the content of the static text resource."),
    Stop(("read", "test://template/7/data"), '{"id": "7", "templateTest": true, "data": "Data for ID: 7"}'),
    Stop(
        ("prompt", "test_prompt_with_arguments", {"arg1": "a", "arg2": "b"}),
        "Prompt with arguments: arg1='a', arg2='b'",
    ),
    Stop(("complete", "test_prompt_with_arguments", "arg1", "x"), []),
    Stop(("resources",), ["test://static-binary", "test://static-text", "test://watched-resource"]),
    Stop(("templates",), ["test://template/{id}/data"]),
)
EVERYTHING_HANDSHAKE = (
    *EVERYTHING_BOTH,
    Stop(("call", "test_tool_with_logging", {}), "Tool with logging executed successfully"),
    Stop(("call", "test_sampling", {"prompt": "How much?"}), f"LLM response: {SAMPLED}"),
    Stop(
        ("call", "test_elicitation", {"message": "Well?"}),
        'User response: action=accept, content={"response":"yes"}',
    ),
    Stop(("subscribe", "test://watched-resource")),
    Stop(("unsubscribe", "test://watched-resource")),
    Stop(("level", "info")),
    Stop(("ping",)),
)
EVERYTHING_MODERN = (
    *EVERYTHING_BOTH,
    Stop(("call", "test_input_required_result_elicitation", {}), "Hello, Ada!"),
    Stop(("call", "test_input_required_result_sampling", {}), f"Model said: {SAMPLED}"),
    Stop(("call", "test_input_required_result_list_roots", {}), "Client exposed 1 root(s)."),
    Stop(("call", "test_input_required_result_multi_round", {}), "Ada likes blue."),
    Stop(("listen", {"toolsListChanged": True}), {"toolsListChanged": True}),
    Stop(("call", "test_trigger_tool_change", {}), "tool list changed"),
    Stop(("notified", CHANGED)),
)

# Of the reference server, which knows the handshake era only.
REFERENCE = (
    Stop(("call", "echo", {"message": "hello"}), "Echo: hello"),
    Stop(("call", "get-sum", {"a": 2, "b": 3}), "The sum of 2 and 3 is 5."),
    Stop(
        ("call", "trigger-long-running-operation", {"duration": 0.1, "steps": 2}),
        "Long running operation completed. Duration: 0.1 seconds, Steps: 2.",
    ),
    Stop(("call", "trigger-sampling-request", {"prompt": "How much?"}), ANY),
    Stop(("call", "trigger-elicitation-request", {}), ANY),
    # Asked for on a stream of the server's own, since no call asks for it.
    Stop(("change_roots",)),
    Stop(("call", "get-roots-list", {}), ANY),
    Stop(("prompt", "args-prompt", {"city": "Bern"}), "What's weather in Bern?"),
    Stop(("complete", "completable-prompt", "department", "E"), ["Engineering"]),
    Stop(("read", "demo://resource/dynamic/text/1"), ANY),
    Stop(("subscribe", "demo://resource/dynamic/text/1")),
    Stop(("call", "toggle-subscriber-updates", {}), ANY),
    Stop(("notified", UPDATED)),
    Stop(("unsubscribe", "demo://resource/dynamic/text/1")),
    Stop(("prompts",), ["args-prompt", "completable-prompt"]),
    Stop(
        ("tools",),
        [
            "echo", "get-roots-list", "get-sum", "toggle-subscriber-updates", "trigger-elicitation-request",
            "trigger-long-running-operation", "trigger-sampling-request",
        ],
    ),
)  # fmt: skip

# What the gateway refuses: a tool that nobody classified, and one of a class that the role lacks.
REFUSED = (
    Stop(("call", "get-env", {}), {"code": GATE_TWO}),
    Stop(("call", "echo", {"message": "still here"}), "Echo: still here"),
)


async def walk(
    world: World, server: str, version: str, tour: Sequence[Stop], *command: str, **environment: str
) -> dict[str, Any]:
    """Let a client's script make the tour; what it met, which is what the tour says.

    With `/sse` behind the server's name the client takes the HTTP+SSE transport of 2024-11-05.
    """
    code, said, complained = await attempt(world, server, version, tour, *command, **environment)
    assert code == 0, complained
    met: dict[str, Any] = json.loads(said)
    made = list(zip((stop.step for stop in tour), met["results"], strict=True))
    assert made == [(stop.step, stop.result) for stop in tour]
    assert met["version"] == version
    return met


async def attempt(
    world: World, server: str, version: str, tour: Sequence[Stop], *command: str, **environment: str
) -> tuple[int | None, str, str]:
    """Let a client's script try the tour; its exit code and its output."""
    go = {
        "url": world.url(server),
        "token": world.token(server.removesuffix("/sse")),
        "ca": world.ca,
        "version": version,
        "patience": PATIENCE,
        "sampled": SAMPLED,
        "elicited": {"response": "yes", "name": "Ada", "color": "blue"},
        "roots": [ROOT],
        "steps": [stop.step for stop in tour],
    }
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe)
    try:
        said, complained = await asyncio.wait_for(process.communicate(json.dumps(go).encode()), 2 * PATIENCE)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, said.decode(), complained.decode()
