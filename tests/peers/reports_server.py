"""An MCP server on the official SDK, served over Streamable HTTP twice: with JSON answers, and with event streams.

Run as a script; the only argument is a file that gets one line for each tool that runs. Prints `{"json": URL, "sse":
URL}` once it listens.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from pathlib import Path

import uvicorn
from mcp.server.mcpserver import Context, MCPServer


def build(name: str, journal: Path) -> MCPServer:
    """The server with its five tools."""
    server = MCPServer(name)

    def note(what: str) -> None:
        with journal.open("a") as file:
            file.write(f"{name} {what}\n")

    @server.tool()
    async def read_report(quarter: str) -> str:
        """Read one report."""
        note("read_report")
        return f"revenue of {quarter}: 42"

    @server.tool()
    async def count_reports(ctx: Context) -> int:
        """Count the reports, telling how far it is."""
        note("count_reports")
        for step in range(1, 4):
            await ctx.report_progress(step, 3, f"step {step}")
        return 3

    @server.tool()
    async def search_reports(text: str) -> str:
        """Search the reports."""
        note("search_reports")
        return text

    @server.tool()
    async def write_report(text: str) -> str:
        """Write a report."""
        note("write_report")
        return text

    @server.tool()
    async def drop_reports() -> str:
        """Delete every report."""
        note("drop_reports")
        return "gone"

    return server


async def main(journal: Path) -> None:
    """Serve until the process is ended."""
    servers, urls = [], {}
    for name in ("json", "sse"):
        app = build(name, journal).streamable_http_app(json_response=name == "json")
        sock = socket.create_server(("127.0.0.1", 0))
        urls[name] = f"http://127.0.0.1:{sock.getsockname()[1]}/mcp"
        servers.append(uvicorn.Server(uvicorn.Config(app, log_level="error")).serve([sock]))
    sys.stdout.write(json.dumps(urls) + "\n")
    sys.stdout.flush()
    await asyncio.gather(*servers)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
