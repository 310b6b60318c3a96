"""A small MCP server over HTTP that records every request it sees: the proof that a refusal reached nothing."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

TOOLS = ["look", "find", "change", "wipe", "unlisted"]


@dataclass
class Seen:
    """One request as it arrived."""

    method: str
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> dict[str, Any]:
        """The JSON-RPC message."""
        message: dict[str, Any] = json.loads(self.body)
        return message


BY_URL: dict[str, RecordingUpstream] = {}
"""Those that run."""


@dataclass
class RecordingUpstream:
    """Answers initialize, discover, lists and calls; `sse` makes every answer an event stream."""

    sse: bool = False
    sessions: bool = False
    seen: list[Seen] = field(default_factory=list)
    url: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    raw_answer: bytes | None = None
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def __aenter__(self) -> RecordingUpstream:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/mcp"
        BY_URL[self.url] = self
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        BY_URL.pop(self.url, None)
        self._server.close()
        for writer in list(self._writers):
            writer.close()
        await self._server.wait_closed()

    @property
    def calls(self) -> list[str]:
        """The names of the tools that were called."""
        return [s.message["params"]["name"] for s in self.seen if s.body and s.message["method"] == "tools/call"]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head.decode("latin-1").split("\r\n")
                headers = {}
                for line in lines[1:]:
                    if line:
                        name, _, value = line.partition(":")
                        headers[name.lower()] = value.strip()
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                seen = Seen(lines[0].split(" ")[0], headers, body)
                self.seen.append(seen)
                writer.write(self._answer(seen))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        """The same server as an ASGI application, for a gateway in its process."""
        assert scope["type"] == "http", "it has no lifespan"
        assert scope["path"] == "/mcp"
        body = (await receive())["body"]
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        seen = Seen(scope["method"], headers, body)
        self.seen.append(seen)
        head, _, answer = self._answer(seen).partition(b"\r\n\r\n")
        line, *fields = head.split(b"\r\n")
        pairs = [(name.lower(), value.strip()) for name, _, value in (field.partition(b":") for field in fields)]
        await send({"type": "http.response.start", "status": int(line.split(b" ")[1]), "headers": pairs})
        await send({"type": "http.response.body", "body": answer})

    def _answer(self, seen: Seen) -> bytes:
        if self.raw_answer is not None:
            return self.raw_answer
        if seen.method == "DELETE":
            return b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"
        message = seen.message
        if "id" not in message:
            return b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
        answer = {"jsonrpc": "2.0", "id": message["id"], "result": self._result(message)}
        body = json.dumps(answer).encode()
        session = "Mcp-Session-Id: upstream-1\r\n" if self.sessions and message["method"] == "initialize" else ""
        if self.sse:
            body = b"event: message\ndata: " + body + b"\n\n"
        media = "text/event-stream" if self.sse else "application/json"
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {media}\r\n{session}Content-Length: {len(body)}\r\n\r\n"
        return head.encode() + body

    def _result(self, message: dict[str, Any]) -> dict[str, Any]:
        method, params = message["method"], message.get("params", {})
        if method in self.extra:
            result: dict[str, Any] = self.extra[method]
            return result
        if method == "initialize":
            return {
                "protocolVersion": params["protocolVersion"],
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "recorder", "version": "1"},
            }
        if method == "server/discover":
            return {
                "resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}},
                "serverInfo": {"name": "recorder", "version": "1"}, "ttlMs": 0, "cacheScope": "private",
            }  # fmt: skip
        if method == "tools/list":
            tools = [{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS]
            return {"resultType": "complete", "tools": tools, "ttlMs": 1000, "cacheScope": "public"}
        if method == "tools/call":
            text = f"{params['name']} done"
            return {"resultType": "complete", "content": [{"type": "text", "text": text}], "isError": False}
        return {}
