"""An MCP server on the official SDK, one of whose tools has its arguments mirrored into headers.

Run as a script; the only argument is a file that gets one JSON line for each call that runs: the arguments, and the
`Mcp-Param-*` headers that came with them. Prints its URL once it listens.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from pydantic import Field

Region = Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]
Limit = Annotated[int, Field(json_schema_extra={"x-mcp-header": "Row-Limit"})]


def build(journal: Path) -> MCPServer:
    """The server."""
    server = MCPServer("regions")

    @server.tool()
    async def query(text: str, region: Region, limit: Limit, ctx: Context) -> str:
        """Run a query in a region."""
        request: Any = ctx.request_context.request
        mirrored = {name: value for name, value in request.headers.items() if name.startswith("mcp-param-")}
        with journal.open("a") as file:
            file.write(json.dumps({"arguments": [text, region, limit], "headers": mirrored}) + "\n")
        return f"{text} in {region}"

    @server.tool()
    async def ping_region(text: str) -> str:
        """Say it back."""
        return text

    return server


async def main(journal: Path) -> None:
    """Serve until the process is ended."""
    sock = socket.create_server(("127.0.0.1", 0))
    app = build(journal).streamable_http_app(json_response=True)
    sys.stdout.write(f"http://127.0.0.1:{sock.getsockname()[1]}/mcp\n")
    sys.stdout.flush()
    await uvicorn.Server(uvicorn.Config(app, log_level="error")).serve([sock])


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
