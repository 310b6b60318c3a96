"""Long-lived streams: what keeps coming is shown only to a caller who is still allowed to see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, Final

from twogate.flows.gateway.admit import Admitted

TICK: Final = 1.0
"""Seconds at most between two looks at whether the caller of a silent stream may still listen."""

KEEP_ALIVE_TICKS: Final = 15
"""Silent ticks after which something is sent, so that a client that is gone is noticed."""

Renew = Callable[[], Awaitable[Admitted]]
"""Proves the caller and decides its call anew; raises GateError when it may no longer listen, or see its answer."""


class Looks:
    """Decides a call anew while its answer is passed on piece by piece, once in a TICK at most.

    Made when the call has just been decided. What comes at once costs a look at the clock.
    """

    __slots__ = ("_at", "_loop", "_renew")

    def __init__(self, renew: Renew) -> None:
        self._renew = renew
        self._loop = asyncio.get_running_loop()
        self._at = self._loop.time()

    async def again(self) -> None:
        """Told before each piece is passed on.

        Raises:
            GateError: the caller may not see it any more; what `Renew` raises.
        """
        now = self._loop.time()
        if now - self._at >= TICK:
            self._at = now
            await self._renew()


async def paced(
    chunks: AsyncIterator[bytes], renew: Callable[[], Awaitable[None]], closing: tuple[asyncio.Event, ...]
) -> AsyncGenerator[bytes]:
    """The chunks, and an empty one for each tick without any; the end also when one of `closing` is set.

    `renew` is awaited before anything is given out.

    Raises:
        GateError: what `renew` and the chunks raise.
    """
    loop = asyncio.get_running_loop()
    stops = [loop.create_task(_wait(event)) for event in closing]
    reading: asyncio.Task[bytes | None] | None = None
    try:
        while True:
            reading = reading or loop.create_task(_next(chunks))
            await asyncio.wait({reading, *stops}, timeout=TICK, return_when=asyncio.FIRST_COMPLETED)
            if any(stop.done() for stop in stops):
                return
            await renew()
            chunk: bytes | None = b""
            if reading.done():
                chunk, reading = reading.result(), None
            if chunk is None:
                return
            yield chunk
    finally:
        waiting: list[asyncio.Task[Any]] = [*stops] if reading is None else [reading, *stops]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def _wait(closing: asyncio.Event) -> None:
    await closing.wait()


async def _next(chunks: AsyncIterator[bytes]) -> bytes | None:
    return await anext(chunks, None)
