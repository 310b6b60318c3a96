"""An HTTP answer between the connection that fills it and the pipeline that reads it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

from twogate.core.errors import ErrorCode, GateError


class Carrier(Protocol):
    """The connection, as far as an answer needs it."""

    def resume(self) -> None:
        """Read on: what had arrived was taken."""
        ...

    def abort(self, error: GateError) -> None:
        """Close now; the running exchange fails with `error`."""
        ...


class HttpAnswer:
    """An answer; implements `flows.gateway.upstream.UpstreamAnswer`."""

    __slots__ = (
        "_buffered",
        "_connection",
        "_ended",
        "_error",
        "_parts",
        "_ready",
        "_waiter",
        "content_type",
        "session_id",
        "status",
    )

    def __init__(self, connection: Carrier) -> None:
        self.status = 0
        self.content_type = ""
        self.session_id: str | None = None
        self._connection: Carrier | None = connection
        self._parts: list[bytes] = []
        self._buffered = 0
        self._ready = False
        self._ended = False
        self._error: GateError | None = None
        self._waiter: asyncio.Future[None] | None = None

    # What the connection tells it.

    def add(self, part: bytes) -> int:
        """Take body bytes; returns how many are waiting to be read. Does not wake the reader."""
        self._parts.append(part)
        self._buffered += len(part)
        return self._buffered

    def wake(self) -> None:
        """Let the reader look: the head may be told, and perhaps body bytes are there."""
        self._ready = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def end(self) -> None:
        """The body is complete, and the connection no longer belongs to this answer."""
        self._connection = None
        self._ended = True
        self.wake()

    def fail(self, error: GateError) -> None:
        """The exchange failed; what arrived before can still be read."""
        self._connection = None
        self._error = error
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # What the pipeline asks of it.

    async def head(self) -> None:
        """Wait for the head. A cancelled wait aborts the exchange.

        Raises:
            GateError: UPSTREAM_TIMEOUT, UPSTREAM_BROKEN, UPSTREAM_INVALID.
        """
        while not self._ready:
            if self._error is not None:
                raise self._error
            waiter = self._waiter = asyncio.get_running_loop().create_future()
            try:
                await waiter
            except asyncio.CancelledError:
                self._abort()
                raise
            finally:
                self._waiter = None

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives; reading from the socket stops while too much of it is unread.

        Raises:
            GateError: UPSTREAM_BROKEN, UPSTREAM_TIMEOUT, UPSTREAM_INVALID.
        """
        return self

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self._parts:
            if self._ended:
                raise StopAsyncIteration
            if self._error is not None:
                raise self._error
            waiter = self._waiter = asyncio.get_running_loop().create_future()
            try:
                await waiter
            finally:
                self._waiter = None
        parts, self._parts, self._buffered = self._parts, [], 0
        if self._connection is not None:
            self._connection.resume()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def aclose(self) -> None:
        """Release the exchange; closes the connection if the body was not complete."""
        self.abandon()

    def abandon(self) -> None:
        """The same at once."""
        self._parts = []
        self._abort()

    def _abort(self) -> None:
        if self._connection is not None:
            self._connection.abort(GateError(ErrorCode.UPSTREAM_BROKEN, "the exchange was given up by Twogate"))
