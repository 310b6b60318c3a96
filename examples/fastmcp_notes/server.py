"""A FastMCP server that guards itself: `uvicorn server:app --port 8000`."""

from pathlib import Path

from fastmcp import FastMCP

from twogate.asgi import Twogate, current, require_auth
from twogate.fastmcp import TwogateMiddleware

mcp = FastMCP("notes", middleware=[TwogateMiddleware()])
NOTES: list[str] = []


@mcp.tool
def list_notes() -> list[str]:
    """All notes."""
    return NOTES


@mcp.tool
@require_auth(task="keep-notes")
async def add_note(text: str) -> str:
    """Keep a note."""
    caller = current()
    NOTES.append(f"{text} (by {caller.tenant}/{caller.agent})")
    return f"{len(NOTES)} notes"


@mcp.tool
def wipe_notes() -> str:
    """Forget everything: in no agent's task, so nobody can call it."""
    NOTES.clear()
    return "gone"


app = Twogate(mcp.http_app(), server="notes", config=Path(__file__).with_name("twogate.yaml"))
