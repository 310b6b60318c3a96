"""An MCP server on the official SDK's first generation whose tools ask and tell the client everything a server can.

Run by the Python of `.venv-sqlite`: `asking_server.py stdio`, or `asking_server.py sse PORT`.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from typing import Any

# By name, since another generation is installed where this file is checked.
fastmcp: Any = importlib.import_module("mcp.server.fastmcp")
types: Any = importlib.import_module("mcp.types")

SERVER: Any = fastmcp.FastMCP("asking", host="127.0.0.1", log_level="ERROR")


def session() -> Any:
    """The connection to the client."""
    return SERVER.get_context().request_context.session


async def ask_model(prompt: str) -> str:
    """Let the client's model answer."""
    message = types.SamplingMessage(role="user", content=types.TextContent(type="text", text=prompt))
    answer = await session().create_message([message], max_tokens=10)
    return f"the model said: {answer.content.text}"


async def ask_person(question: str) -> str:
    """Let the person at the client answer."""
    answer = await session().elicit(question, {"type": "object", "properties": {"name": {"type": "string"}}})
    return f"{answer.action}: {answer.content}"


async def ask_folders() -> str:
    """Where the client lets us work."""
    return ", ".join(str(root.uri) for root in (await session().list_roots()).roots)


async def work(steps: int) -> str:
    """Tell how far it is, and log."""
    context = SERVER.get_context()
    for step in range(steps):
        await context.report_progress(step + 1, steps)
        await context.info(f"step {step + 1}")
    return "done"


async def change() -> str:
    """Tell that the list of tools changed."""
    await session().send_tool_list_changed()
    return "changed"


async def whose() -> str:
    """Which connection this is."""
    return str(id(session()))


async def wait(seconds: float) -> str:
    """Take that long."""
    await asyncio.sleep(seconds)
    return "waited"


if __name__ == "__main__":
    for tool in (ask_model, ask_person, ask_folders, work, change, whose, wait):
        SERVER.add_tool(tool)
    if len(sys.argv) > 2:
        SERVER.settings.port = int(sys.argv[2])
    SERVER.run(transport=sys.argv[1])
