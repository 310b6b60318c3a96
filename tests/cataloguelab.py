"""A scripted MCP server over HTTP for tests of the tool catalogue, and requests as it saw them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.upstream import Seen
from rawlab import Peer, RawServer, http_answer
from twogate.adapters.upstream.http import HttpUpstream, HttpUpstreamLimits

MODERN = "2026-07-28"
LATEST_HANDSHAKE = "2025-11-25"

Reply = bytes | asyncio.Event | None
"""Bytes to answer with; an event to wait for before the usual answer; None for the usual answer at once."""


def tool(name: str, **members: Any) -> dict[str, Any]:
    """A listed tool."""
    return {"name": name, "inputSchema": {"type": "object"}, **members}


def annotated(name: str, **tokens: str) -> dict[str, Any]:
    """A listed tool whose arguments are mirrored: `argument="Token"`, or `argument="Token:type"`."""
    properties = {}
    for argument, text in tokens.items():
        token, _, kind = text.partition(":")
        properties[argument] = {"type": kind or "string", "x-mcp-header": token}
    return tool(name, inputSchema={"type": "object", "properties": properties})


def result_of(seen: Seen, **result: Any) -> bytes:
    """A response with a result."""
    return http_answer(json.dumps({"jsonrpc": "2.0", "id": seen.message["id"], "result": result}).encode())


def error_of(seen: Seen, code: int, status: bytes = b"200 OK", **error: Any) -> bytes:
    """A response with an error."""
    error = {"code": code, "message": "no", **error}
    body = json.dumps({"jsonrpc": "2.0", "id": seen.message["id"], "error": error}).encode()
    return http_answer(body, status=status)


def status(line: bytes, body: bytes = b"", content_type: bytes = b"text/plain") -> bytes:
    """An answer that is no JSON-RPC."""
    return http_answer(body, status=line, content_type=content_type)


@dataclass
class ToolServer:
    """Lists tools as told. `override` may answer any request in its own way.

    `pages` are given one by one; `modern` says whether it knows `server/discover`; `session` is given at `initialize`.
    """

    pages: Sequence[Sequence[object]] = ((),)
    modern: bool = True
    session: str | None = None
    ttl_ms: object = None
    override: Callable[[Seen], Reply] = lambda seen: None
    seen: list[Seen] = field(default_factory=list)
    upstream: HttpUpstream = field(init=False)
    _server: RawServer = field(init=False)

    async def __aenter__(self) -> ToolServer:
        self._server = await RawServer(self._serve).__aenter__()
        self.upstream = HttpUpstream(self._server.url, limits=HttpUpstreamLimits(sweep=0.02, idle=60.0))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.upstream.aclose()
        await self._server.__aexit__(None, None, None)

    @property
    def url(self) -> str:
        """Its endpoint."""
        return self._server.url

    @property
    def timeout(self) -> float:
        """What `catalogue.Served` asks for."""
        return 10.0

    @property
    def methods(self) -> list[str]:
        """What it was asked, in order; HTTP methods where there was no message."""
        return [seen.message["method"] if seen.body else seen.method for seen in self.seen]

    @property
    def lists(self) -> int:
        """How often it was asked for the first page of its tools."""
        return sum(seen.body != b"" and _is_first_page(seen.message) for seen in self.seen)

    async def _serve(self, peer: Peer) -> None:
        while True:
            head, _, body = (await peer.request()).partition(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            seen = Seen(first.split(" ")[0], headers, body)
            self.seen.append(seen)
            answer = self.override(seen)
            if isinstance(answer, asyncio.Event):
                await answer.wait()
            await peer.send(answer if isinstance(answer, bytes) else self._usual(seen))

    def _usual(self, seen: Seen) -> bytes:
        if not seen.body:
            return status(b"200 OK")
        message = seen.message
        match message["method"]:
            case "server/discover" if self.modern:
                return result_of(seen, supportedVersions=[MODERN], capabilities={"tools": {}})
            case "initialize":
                session = [] if self.session is None else [b"mcp-session-id: " + self.session.encode()]
                result = {"protocolVersion": message["params"]["protocolVersion"], "capabilities": {}}
                body = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode()
                return http_answer(body, *session)
            case "notifications/initialized":
                return status(b"202 Accepted")
            case "tools/list":
                return result_of(seen, **self._page(message.get("params", {})))
            case _:
                return error_of(seen, -32601, b"404 Not Found")

    def _page(self, params: dict[str, Any]) -> dict[str, Any]:
        number = int(params.get("cursor", "0"))
        page: dict[str, Any] = {"tools": list(self.pages[number])}
        if number + 1 < len(self.pages):
            page["nextCursor"] = str(number + 1)
        return page if self.ttl_ms is None else {**page, "ttlMs": self.ttl_ms}


def _is_first_page(message: dict[str, Any]) -> bool:
    return message["method"] == "tools/list" and "cursor" not in message.get("params", {})
