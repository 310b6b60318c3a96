"""The calls: what a client of MCP 2025-11-25, or of 2026-07-28, sends to run one tool."""

from __future__ import annotations

from typing import Final

import msgspec

from bench.load import Caller
from bench.subjects import SERVER, TOOL
from bench.upstream import answer_body

HANDSHAKE: Final = "2025-11-25"
MODERN: Final = "2026-07-28"
PATH: Final = f"/mcp/{SERVER}"
_META: Final = "io.modelcontextprotocol/"


def head(port: int, version: str, token: str | None, tool: str = TOOL) -> bytes:
    """A request's head up to its last fixed line; a `Caller.tail` follows it."""
    lines = [
        f"POST {PATH} HTTP/1.1",
        f"host: 127.0.0.1:{port}",
        "user-agent: bench",
        "accept: application/json, text/event-stream",
        "content-type: application/json",
        f"mcp-protocol-version: {version}",
    ]
    if token is not None:
        lines.append(f"authorization: Bearer {token}")
    if version == MODERN:
        lines += ["mcp-method: tools/call", f"mcp-name: {tool}"]
    return "".join(f"{line}\r\n" for line in lines).encode()


def caller(number: int, version: str, tool: str = TOOL) -> Caller:
    """One connection's call; bodies are 0.3 to 1 KB, by the connection's number."""
    arguments = {
        "path": f"/srv/reports/2026/q3/{number}.csv",
        "columns": ["region", "product", "revenue"],
        "filter": {"region": ["emea", "apac"], "minimum": 1250.5, "closed": True, "owner": None},
        "note": "lorem ipsum dolor sit amet " * (1 + number * 7 % 26),
    }
    params: dict[str, object] = {"name": tool, "arguments": arguments}
    if version == MODERN:
        params["_meta"] = {
            f"{_META}protocolVersion": version,
            f"{_META}clientInfo": {"name": "bench", "version": "1"},
            f"{_META}clientCapabilities": {},
        }
    body = msgspec.json.encode({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params})
    return Caller(b"content-length: %d\r\n\r\n%b" % (len(body), body), answer_body(number))
