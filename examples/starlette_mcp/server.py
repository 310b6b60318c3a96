"""A Starlette application that guards the MCP server in it: `uvicorn server:app --port 8000`."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from twogate.asgi import NotPermittedError, Twogate, current, require_auth

NOTES: list[str] = []
TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
TOOLS = [
    Tool(name="list_notes", description="All notes", input_schema={"type": "object"}),
    Tool(name="add_note", description="Keep a note", input_schema=TEXT),
    Tool(name="wipe_notes", description="Forget everything", input_schema={"type": "object"}),
]


def list_notes() -> str:
    """All notes."""
    return "\n".join(NOTES)


@require_auth(task="keep-notes")
def add_note(text: str) -> str:
    """Keep a note."""
    caller = current()
    NOTES.append(f"{text} (by {caller.tenant}/{caller.agent})")
    return f"{len(NOTES)} notes"


def wipe_notes() -> str:
    """Forget everything: in no agent's task, so nobody can call it."""
    NOTES.clear()
    return "gone"


FUNCTIONS: dict[str, Callable[..., str]] = {"list_notes": list_notes, "add_note": add_note, "wipe_notes": wipe_notes}


async def call_tool(_: ServerRequestContext, params: CallToolRequestParams) -> CallToolResult:
    """Run a tool."""
    try:
        said, failed = FUNCTIONS[params.name](**(params.arguments or {})), False
    except NotPermittedError:
        said, failed = "not permitted", True
    return CallToolResult(content=[TextContent(type="text", text=said)], is_error=failed)


async def list_tools(_: ServerRequestContext, __: PaginatedRequestParams | None) -> ListToolsResult:
    """All tools; Twogate shows each caller its own."""
    return ListToolsResult(tools=TOOLS)


async def about(_: Request) -> PlainTextResponse:
    """For everybody."""
    return PlainTextResponse("Notes, for agents.")


async def admin(_: Request) -> PlainTextResponse:
    """For nobody: it is not among the public paths."""
    return PlainTextResponse("not reached")


manager = StreamableHTTPSessionManager(Server("notes", on_list_tools=list_tools, on_call_tool=call_tool))


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    """Twogate runs it."""
    async with manager.run():
        yield


inner = Starlette(
    routes=[Route("/about", about), Route("/admin", admin), Mount("/mcp", manager.asgi_app)], lifespan=lifespan
)
app = Twogate(
    inner,
    server="notes",
    config=Path(__file__).with_name("twogate.yaml"),
    path="/mcp/",
    public_paths=["/about"],
)
