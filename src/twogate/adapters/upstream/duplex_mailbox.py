"""Answers made of single messages: what has arrived for one reader, bounded, and the answers that hand it on."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Final

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.sse import SseEvent, encode_event

# What an entry costs beside its bytes, roughly; else a flood of tiny messages would cost a multiple of the bound.
_OVERHEAD: Final = 128


class _Item(msgspec.Struct, frozen=True):
    data: bytes
    question: str | None


class Mailbox:
    """Messages for one reader: a call's caller, or a stream's.

    `waiting` is how many questions to the client are open on it: while there are any, silence is the client's.
    """

    def __init__(self, max_bytes: int, *, drop_oldest: bool = False) -> None:
        self.waiting = 0
        self.dropped = 0
        self._max = max_bytes
        self._drop_oldest = drop_oldest
        self._items: deque[_Item] = deque()
        self._bytes = 0
        self._ended = False
        self._failure: tuple[ErrorCode, str] | None = None
        self._changed = asyncio.Event()

    # What the server's side does.

    def put(self, data: bytes, question: str | None = None) -> bool:
        """Add a message unless there is no room, which is made by dropping old notifications where that is wanted."""
        if self._ended or self._failure is not None:
            return False
        size = len(data) + _OVERHEAD
        if self._bytes + size > self._max and self._drop_oldest and question is None and size <= self._max:
            self._make_room(size)
        if self._bytes + size > self._max:
            return False
        self._items.append(_Item(data, question))
        self._bytes += size
        self._changed.set()
        return True

    def _make_room(self, size: int) -> None:
        kept: list[_Item] = []
        while self._items and self._bytes + size > self._max:
            item = self._items.popleft()
            if item.question is None:
                self._bytes -= len(item.data) + _OVERHEAD
                self.dropped += 1
            else:
                kept.append(item)
        self._items.extendleft(reversed(kept))

    def end(self, last: bytes | None = None) -> None:
        """Nothing follows, or only this, which always has room."""
        if self._ended or self._failure is not None:
            return
        if last is not None:
            self._items.append(_Item(last, None))
            self._bytes += len(last) + _OVERHEAD
        self._ended = True
        self._changed.set()

    def fail(self, code: ErrorCode, why: str) -> None:
        """The server failed; what arrived before can still be read."""
        if not self._ended and self._failure is None:
            self._failure = (code, why)
            self._changed.set()

    def touch(self) -> None:
        """The silence is counted anew from here."""
        self._changed.set()

    # What the reader's side does.

    async def arrived(self) -> bytes | None:
        """Wait for the first message; it is returned if it is the last one too, and else stays.

        Raises:
            GateError: how the server failed.
        """
        while not self._items:
            if self._failure is not None:
                raise GateError(*self._failure)
            if self._ended:
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._items[0].data if self._ended and len(self._items) == 1 else None

    async def next(self, silence: float | None, patience: float) -> bytes | None:
        """The next message; None at the end. At most `silence` seconds are waited, or `patience` for the client.

        Raises:
            GateError: how the server failed, or UPSTREAM_TIMEOUT.
        """
        while not self._items:
            if self._failure is not None:
                raise GateError(*self._failure)
            if self._ended:
                return None
            self._changed.clear()
            limit = patience if self.waiting and silence is not None else silence
            try:
                async with asyncio.timeout(limit):
                    await self._changed.wait()
            except TimeoutError as error:
                raise GateError(ErrorCode.UPSTREAM_TIMEOUT, f"no event for {limit} s") from error
        item = self._items.popleft()
        self._bytes -= len(item.data) + _OVERHEAD
        return item.data

    def close(self) -> list[str]:
        """The reader has gone; returns the questions that it has not read."""
        self._ended = True
        unread = [item.question for item in self._items if item.question is not None]
        self._items.clear()
        self._changed.set()
        return unread


class FixedAnswer(msgspec.Struct, frozen=True):
    """An answer that is complete already; implements `UpstreamAnswer`."""

    status: int
    body: bytes = b""
    content_type: str = ""
    session_id: str | None = None

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body, if there is one."""
        if self.body:
            yield self.body

    async def aclose(self) -> None:
        """Nothing is held."""


class StreamAnswer:
    """A mailbox as server-sent events, one a chunk; implements `UpstreamAnswer`. `silence` None: it may last."""

    status = 200
    content_type = "text/event-stream"
    session_id: str | None = None

    def __init__(self, mailbox: Mailbox, *, silence: float | None, patience: float, close: Callable[[], None]) -> None:
        self._mailbox = mailbox
        self._silence = silence
        self._patience = patience
        self._close: Callable[[], None] | None = close

    async def chunks(self) -> AsyncIterator[bytes]:
        """Every message as it comes, until the mailbox ends.

        Raises:
            GateError: how the server failed, or UPSTREAM_TIMEOUT.
        """
        try:
            while (data := await self._mailbox.next(self._silence, self._patience)) is not None:
                yield encode_event(SseEvent(data, "message"))
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """The reader has gone."""
        close, self._close = self._close, None
        if close is not None:
            close()
