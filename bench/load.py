"""The load: a fixed number of keep-alive connections, each with one call under way at a time (no pipelining)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final, NamedTuple, cast

ROUND_TIMEOUT: Final = 60.0


class Caller(NamedTuple):
    """What one connection sends behind each head (the rest of the head, and the body), and the body it must get."""

    tail: bytes
    answer: bytes


class Load:
    """Connections to one subject, kept open between rounds. A wrong answer ends the run."""

    def __init__(self, port: int, callers: Sequence[Caller]) -> None:
        self._port = port
        self._callers = callers
        self._connections: list[_Connection] = []
        self.heads: Iterator[bytes] = iter(())
        self.unsent = 0
        self.unanswered = 0
        self.done: asyncio.Future[None]

    async def connect(self) -> None:
        """Open every connection."""
        loop = asyncio.get_running_loop()
        self.done = loop.create_future()
        for caller in self._callers:
            _, connection = await loop.create_connection(partial(_Connection, self, caller), "127.0.0.1", self._port)
            self._connections.append(connection)

    async def run(self, heads: Iterator[bytes], calls: int) -> float:
        """Make so many calls, each with the next head; the wall time in seconds.

        Raises:
            RuntimeError: an answer was not the right one, or a connection was lost.
            TimeoutError: the subject does not keep up at all.
        """
        self.heads, self.unsent, self.unanswered = heads, calls, calls
        self.done = asyncio.get_running_loop().create_future()
        begun = time.perf_counter()
        for connection in self._connections:
            connection.send()
        async with asyncio.timeout(ROUND_TIMEOUT):
            await self.done
        return time.perf_counter() - begun

    async def close(self) -> None:
        """Close every connection."""
        for connection in self._connections:
            connection.close()

    def fail(self, reason: str) -> None:
        """End the round with an error."""
        if not self.done.done():
            self.done.set_exception(RuntimeError(reason))


class _Connection(asyncio.Protocol):
    def __init__(self, load: Load, caller: Caller) -> None:
        self._load = load
        self._tail = caller.tail
        self._answer = caller.answer
        self._transport: asyncio.Transport
        self._received = b""
        self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def send(self) -> None:
        load = self._load
        if load.unsent:
            load.unsent -= 1
            self._transport.write(next(load.heads) + self._tail)

    def data_received(self, data: bytes) -> None:
        if self._received:
            data = self._received + data
        # The answer holds the connection's own id, so a mixed-up or doctored one does not pass.
        if not data.endswith(self._answer):
            self._received = data
            if len(data) > 2 * len(self._answer) + 1024 or not data.startswith(b"HTTP/1.1 200"[: len(data)]):
                self._load.fail(f"not the right answer: {data[:400]!r}")
            return
        self._received = b""
        if not data.startswith(b"HTTP/1.1 200 "):
            self._load.fail(f"not a success: {data[:400]!r}")
            return
        load = self._load
        load.unanswered -= 1
        if load.unsent:
            self.send()
        elif not load.unanswered and not load.done.done():
            load.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._closing:
            self._load.fail(f"the subject closed a connection: {exc}")

    def close(self) -> None:
        self._closing = True
        self._transport.close()
