"""Answers of any size through a real gateway process: large ones in flat memory, lists whole, events however cut."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from harness.stack import free_port, tool_call
from processlab import PATIENCE, Gateway, here_json, init, request_headers, serving

MIB = 1024 * 1024
SIZE = 100 * MIB
MOST_GROWTH = 48 * MIB
"""What a gateway may grow by while 100 MiB pass: its read-ahead, and not the answer."""

Answer = Callable[[dict[str, Any]], Iterator[bytes]]


class Server:
    """An MCP server that answers each message as it is told to."""

    def __init__(self) -> None:
        self.answer: Answer = lambda message: iter(())
        self.media = "application/json"
        self.url = ""
        self._stop = asyncio.Event()

    @contextmanager
    def listening(self) -> Iterator[Server]:
        """Serve in a thread of its own until the block ends."""
        loop = asyncio.new_event_loop()
        ready = threading.Event()

        async def serve() -> None:
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp"
            ready.set()
            async with server:
                await self._stop.wait()

        thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
        thread.start()
        try:
            assert ready.wait(PATIENCE)
            yield self
        finally:
            loop.call_soon_threadsafe(self._stop.set)
            thread.join(PATIENCE)
            loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            message = json.loads(await reader.readexactly(int(length[1]))) if length else {}
            writer.write(
                f"HTTP/1.1 200 OK\r\nContent-Type: {self.media}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
            )
            for piece in self.answer(message):
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                await writer.drain()
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


class World:
    def __init__(self, gateway: Gateway, agent: dict[str, Any], server: Server) -> None:
        self.gateway = gateway
        self.server = server
        self._agent = agent
        self.url = f"{gateway.url}/mcp/files"

    @property
    def headers(self) -> dict[str, str]:
        """Those of a client with a fresh token."""
        return request_headers(self.gateway.token(self._agent, "files"))

    def memory(self) -> int:
        """The most memory that the gateway's process ever had, in bytes."""
        status = Path(f"/proc/{self.gateway.pid}/status").read_text()
        peak = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert peak is not None
        return int(peak[1]) * 1024


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("twogate")
    with Server().listening() as server:
        settings = {
            "servers": {"files": {"url": server.url}},
            "tools": {f"files.{name}": {"class": "read"} for name in ("look", *(f"t{n}" for n in range(0, 10_000, 2)))},
            "tasks": {"report": {"tools": ["read"]}},
            "tenants": {"acme": {"servers": ["files"]}},
            "limits": {"requests": 1000, "burst": 1000},
        }
        init(directory, settings, port=free_port(), tls=False)
        options = ("--role", "reader", "--task", "report", "--default-task", "report", "--auth", "client_secret")
        agent = here_json("agent", "add", "acme/robot", *options, "--config", directory / "twogate.yaml")
        with serving(directory) as gateway:
            yield World(gateway, agent, server)


def as_json(message: dict[str, Any]) -> Iterator[bytes]:
    """A response with one text of 100 MiB."""
    yield b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"' % message["id"]
    for _ in range(SIZE // MIB):
        yield b"abcdefgh" * (MIB // 8)
    yield b'"}],"isError":false}}'


def as_event(message: dict[str, Any]) -> Iterator[bytes]:
    """The same as one event."""
    yield b"event: message\ndata: "
    yield from as_json(message)
    yield b"\n\n"


def as_many(message: dict[str, Any]) -> Iterator[bytes]:
    """A response of many small values."""
    yield b'{"result":{"content":[],"structuredContent":{"rows":['
    row = b'{"a":1,"b":[true,null],"c":"x"},' * 1000
    for _ in range(8 * MIB // len(row)):
        yield row
    yield b'{}]}},"id":%d,"jsonrpc":"2.0"}' % message["id"]


async def passed(world: World, message: dict[str, Any]) -> tuple[int, bytes, bytes]:
    """How many bytes of the answer came, the first and the last of them."""
    size, first, last = 0, b"", b""
    async with (
        httpx2.AsyncClient(timeout=4 * PATIENCE, trust_env=False) as http,
        http.stream("POST", world.url, json=message, headers=world.headers) as answer,
    ):
        assert answer.status_code == 200
        async for chunk in answer.aiter_raw():
            size += len(chunk)
            first = (first + chunk)[:64]
            last = (last + chunk)[-64:]
    return size, first, last


@pytest.mark.parametrize("make", [as_json, as_event], ids=["JSON", "one event"])
async def test_a_hundred_mebibytes_pass_in_flat_memory(world: World, make: Answer) -> None:
    world.server.media = "text/event-stream" if make is as_event else "application/json"
    world.server.answer = lambda message: iter(
        [json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": {}}).encode()]
    )
    if make is as_json:  # so that what a first call costs is not counted
        await passed(world, tool_call("look"))
    before = world.memory()
    world.server.answer = make
    size, first, last = await passed(world, tool_call("look", request_id=7))
    assert size >= SIZE
    assert b'{"jsonrpc":"2.0","id":7,"result":{' in first
    assert b'"}],"isError":false}}' in last
    assert world.memory() - before < MOST_GROWTH
    outcome = [event for event in world.gateway.events() if event["kind"] == "call.outcome"][-1]
    assert (outcome["outcome"], outcome["answer_bytes"] >= SIZE) == ("answered", True)


async def test_many_small_values_are_checked_while_they_pass_and_others_are_served_meanwhile(world: World) -> None:
    world.server.media, world.server.answer = "application/json", as_many
    large = asyncio.create_task(passed(world, tool_call("look", request_id=7)))
    served = 0
    async with httpx2.AsyncClient(timeout=PATIENCE, trust_env=False) as http:
        while not large.done():
            assert (await http.get(f"{world.gateway.url}/healthz")).status_code == 200
            served += 1
    size, first, _ = await large
    assert size > 7 * MIB
    assert first.startswith(b'{"jsonrpc":"2.0","id":7,"result":{"content":[]')
    assert served > 3


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        (b'{"jsonrpc":"2.0","id":%d,"result":{"t":"', b'"},"method":"sampling/createMessage"}'),
        (b'{"jsonrpc":"2.0","result":{"t":"', b'"},"id":8}'),
        (b'{"jsonrpc":"2.0","id":%d,"result":{"t":"', b'"},"result":{}}'),
        (b'{"jsonrpc":"2.0","id":%d,"result":{"t":"', b'","inputRequests":{}}}'),
        (b'{"jsonrpc":"2.0","id":%d,"result":{"t":"', b'"}} {}'),
        (b'{"jsonrpc":"2.0","id":%d,"result":{"t":"', b'"}'),
        (b'{"jsonrpc":"2.0","id":%d,"result":{"t":"', b'\xff"}}'),
    ],
    ids=["a request too", "another id", "a second result", "asks for input", "more after it", "cut off", "not UTF-8"],
)
async def test_a_large_answer_that_turns_out_wrong_never_looks_complete(world: World, begin: bytes, end: bytes) -> None:
    def wrong(message: dict[str, Any]) -> Iterator[bytes]:
        yield begin % message["id"] if b"%d" in begin else begin
        for _ in range(4):
            yield b"abcdefgh" * (MIB // 8)
        yield end

    world.server.media, world.server.answer = "application/json", wrong
    with pytest.raises(httpx2.RemoteProtocolError):
        await passed(world, tool_call("look", request_id=7))
    outcome = [event for event in world.gateway.events() if event["kind"] == "call.outcome"][-1]
    assert (outcome["outcome"], outcome["reason"]) == ("failed", "upstream_invalid")


def tools(message: dict[str, Any]) -> bytes:
    cursor = message.get("params", {}).get("cursor")
    listed = [{"name": f"t{n}", "description": "x" * 400, "inputSchema": {"type": "object"}} for n in range(10_000)]
    result: dict[str, Any] = {"tools": listed[:9_000] if cursor is None else listed[9_000:]}
    if cursor is None:
        result["nextCursor"] = "page 2"
    return json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode()


def in_pieces(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest.mark.parametrize(
    ("media", "make"),
    [
        ("application/json", lambda message: in_pieces(tools(message), 50_000)),
        ("text/event-stream", lambda message: in_pieces(b"data: " + tools(message) + b"\n\n", 7_919)),
        (
            "text/event-stream",
            lambda message: in_pieces(
                b": hi\r\n\r\ndata: " + tools(message).replace(b', "', b',\r\ndata: "') + b"\r\n\r\n", 9_973
            ),
        ),
    ],
    ids=["JSON", "an event in pieces", "an event of many lines"],
)
async def test_ten_thousand_tools_are_filtered_page_by_page(world: World, media: str, make: Answer) -> None:
    world.server.media, world.server.answer = media, make
    names: list[str] = []
    headers = world.headers
    async with httpx2.AsyncClient(timeout=PATIENCE, trust_env=False) as http:
        cursor: str | None = None
        while True:
            params = {} if cursor is None else {"cursor": cursor}
            message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": params}
            answer = await http.post(world.url, json=message, headers=headers)
            body = answer.text.split("data: ", 1)[1] if media == "text/event-stream" else answer.text
            result = json.loads(body)["result"]
            names += [tool["name"] for tool in result["tools"]]
            cursor = result.get("nextCursor")
            if cursor is None:
                break
    assert names == [f"t{n}" for n in range(0, 10_000, 2)]
