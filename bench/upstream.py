"""The MCP server behind every subject: a raw HTTP/1.1 server that answers each `tools/call` at once.

It costs as little as Python allows, so that the subjects in front of it are the bottleneck. `python -m bench.upstream`
prints its port and serves until it is ended.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import httptools
import msgspec
import uvloop


class _Request(msgspec.Struct):
    id: int | str
    method: str


_decoder = msgspec.json.Decoder(_Request)
RESULT = msgspec.json.encode(
    {"content": [{"type": "text", "text": "row 1 of 1: " + "lorem ipsum dolor sit amet " * 8}], "isError": False}
)


# What a gateway asks before it passes on a call of a version whose headers repeat arguments.
_MODERN = {"resultType": "complete", "ttlMs": 300_000, "cacheScope": "private"}
_OTHERS = {
    "server/discover": {**_MODERN, "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}},
    "tools/list": {**_MODERN, "tools": [{"name": "look", "inputSchema": {"type": "object"}}]},
}


def answer_body(request_id: int) -> bytes:
    """The body of the answer to the call of this id, as compact JSON."""
    return b'{"jsonrpc":"2.0","id":%d,"result":%b}' % (request_id, RESULT)


def _body(request: _Request) -> bytes:
    if request.method == "tools/call" and isinstance(request.id, int):
        return answer_body(request.id)
    result = _OTHERS.get(request.method, {})
    return msgspec.json.encode({"jsonrpc": "2.0", "id": request.id, "result": result})


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._parser: Any = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._parts: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        body = _body(_decoder.decode(b"".join(self._parts)))
        self._parts.clear()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        self._transport.write(head + body)


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve())
