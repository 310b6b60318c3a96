"""A server of the HTTP+SSE transport of 2024-11-05 on raw bytes, as honest or hostile as a test wants it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from rawlab import Peer, RawServer
from stdio_servers.harness import Client, StepClock
from twogate.adapters.upstream.sse import SseLimits, SseUpstream

EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
ACCEPTED = b"HTTP/1.1 202 Accepted\r\ncontent-length: 8\r\n\r\nAccepted"

Write = Callable[[bytes], Awaitable[None]]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def message_event(message: Any) -> bytes:
    return b"event: message\r\ndata: " + json.dumps(message).encode() + b"\r\n\r\n"


class LegacyServer:
    """Serves `/sse` and `/messages`; `tools/call` runs what `name` says, as the stdio server `tiny.py` does.

    Tests change `head`, `endpoint`, `opening` (sent after the endpoint), `receipt` (the answer to posts) and `late`
    (posts of calls are answered only when the call is).
    """

    def __init__(self) -> None:
        self.raw = RawServer(self._serve)
        self.head = EVENTS
        self.endpoint: bytes | None = b"event: endpoint\r\ndata: /messages/?session_id=%d\r\n\r\n"
        self.opening: Write | None = None
        self.receipt = ACCEPTED
        self.late = False
        self.streams: dict[int, Peer] = {}
        self.received: list[tuple[int, dict[str, Any]]] = []
        self._held: list[tuple[int, Any]] = []
        self._asking: dict[tuple[int, Any], Any] = {}
        self._done: dict[tuple[int, Any], asyncio.Event] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.raw.port}/sse"

    def methods(self, stream: int | None = None) -> list[str]:
        """What was received, on one stream or on all."""
        return [message.get("method", "") for number, message in self.received if stream in (None, number)]

    async def emit(self, stream: int, data: bytes) -> None:
        """Write bytes to a stream."""
        await self.streams[stream].send(chunk(data))

    async def send(self, stream: int, **message: Any) -> None:
        await self.emit(stream, message_event({"jsonrpc": "2.0", **message}))

    async def _serve(self, peer: Peer) -> None:
        while True:
            request = await peer.request()
            if request.startswith(b"GET "):
                await self._stream(peer)
                return
            head, _, body = request.partition(b"\r\n\r\n")
            stream = int(head.partition(b"session_id=")[2].split()[0])
            message = json.loads(body)
            self.received.append((stream, message))
            late = self.late and message.get("method") == "tools/call"
            if not late:
                await peer.send(self.receipt)
            await self._handle(stream, message)
            if late:
                done = self._done.setdefault((stream, message["id"]), asyncio.Event())
                await done.wait()
                await peer.send(self.receipt)

    async def _stream(self, peer: Peer) -> None:
        self.streams[peer.number] = peer
        try:
            await peer.send(self.head)
            if self.endpoint is not None:
                endpoint = self.endpoint % peer.number if b"%d" in self.endpoint else self.endpoint
                await peer.send(chunk(endpoint))
            if self.opening is not None:
                await self.opening(b"")
            await peer.gone()
        finally:
            del self.streams[peer.number]

    async def _answer(self, stream: int, identifier: Any, result: Any) -> None:
        await self.send(stream, id=identifier, result=result)
        self._done.setdefault((stream, identifier), asyncio.Event()).set()

    async def _handle(self, stream: int, message: dict[str, Any]) -> None:
        identifier, params = message.get("id"), message.get("params", {})
        match message.get("method"):
            case "initialize":
                result = {"protocolVersion": params["protocolVersion"], "capabilities": {}}
                await self._answer(stream, identifier, {**result, "serverInfo": {"name": "legacy", "version": "1"}})
            case "tools/call":
                await self._call(stream, identifier, params["name"], params.get("arguments", {}))
            case None if (stream, identifier) in self._asking:
                await self._answer(stream, self._asking.pop((stream, identifier)), {"answer": message})
            case _:
                pass

    async def _call(self, stream: int, identifier: Any, name: str, arguments: dict[str, Any]) -> None:
        match name:
            case "pid":
                await self._answer(stream, identifier, {"pid": stream})
            case "hold":
                self._held.append((stream, identifier))
            case "release":
                for other, held in self._held:
                    await self._answer(other, held, {"held": True})
                self._held.clear()
                await self._answer(stream, identifier, {})
            case "emit":
                for message in arguments["messages"]:
                    await self.send(stream, **message)
                await self._answer(stream, identifier, {})
            case "consult":
                self._asking[stream, arguments["id"]] = identifier
                await self.send(stream, id=arguments["id"], method=arguments["method"], params={})
            case "seen":
                seen = [
                    {"method": "", "params": {}, **message} for number, message in self.received if number == stream
                ]
                await self._answer(stream, identifier, {"seen": seen})
            case "die":
                self.streams[stream].abort()
            case _:
                await self._answer(stream, identifier, {"echo": arguments})


def client_of(server: LegacyServer, **limits: Any) -> Client:
    """A client of an upstream over this server."""
    clock = StepClock()
    logged: list[tuple[str, str]] = []
    upstream = SseUpstream(
        server.url,
        clock=clock,
        log=lambda name, line: logged.append((name, line)),
        limits=SseLimits(**limits),
        name="under-test",
    )
    return Client(upstream, clock, logged)


@asynccontextmanager
async def legacy(**limits: Any) -> AsyncIterator[tuple[LegacyServer, Client]]:
    """A server and a client of it, of which nothing may be left."""
    before = asyncio.all_tasks()
    server = LegacyServer()
    async with server.raw:
        made = client_of(server, **limits)
        try:
            yield server, made
        finally:
            await made.upstream.aclose()
            assert isinstance(made.upstream, SseUpstream)
            assert all(pool._empty for pool in made.upstream._pools.values())
            assert not made.upstream._lives
            servers = ("RawServer", "_accept_connection")
            left = asyncio.all_tasks() - before
            assert not [task for task in left if not any(name in repr(task) for name in servers)]
