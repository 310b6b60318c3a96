"""Reading the body of an upstream's answer: whole where it is small, in steps where it is large."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.json_stream import STEP, ResponseScanner
from twogate.flows.gateway.upstream import UpstreamAnswer

MAX_ERROR: Final = 64 * 1024
"""Bytes that the body of an answer other than 200 may have."""
FEED: Final = 16 * 1024
"""Bytes of an event stream to be read at once, and"""
EVENTS_IN_A_ROW: Final = 64
"""events to be passed on, before other calls get their turn: both can be many, and small."""


class Body(msgspec.Struct, frozen=True):
    """A body, or its beginning."""

    data: bytes
    complete: bool


async def collect(chunks: AsyncIterator[bytes], limit: int) -> Body:
    """The body, or its beginning once it has more than `limit` bytes; the chunks can be read on then."""
    pieces: list[bytes] = []
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        pieces.append(chunk)
        if size > limit:
            return Body(b"".join(pieces), complete=False)
    return Body(pieces[0] if len(pieces) == 1 else b"".join(pieces), complete=True)


async def collect_small(answer: UpstreamAnswer) -> bytes:
    """The body of an answer that has no reason to be long.

    Raises:
        GateError: UPSTREAM_INVALID past `MAX_ERROR` bytes; what the chunks raise.
    """
    begun = await collect(answer.chunks(), MAX_ERROR)
    if not begun.complete:
        raise GateError(ErrorCode.UPSTREAM_INVALID, f"more than {MAX_ERROR} bytes with status {answer.status}")
    return begun.data


async def scan(scanner: ResponseScanner, data: bytes) -> bytes:
    """What may pass of these bytes of a response. Other calls get their turn between two steps.

    Raises:
        GateError: UPSTREAM_INVALID.
    """
    if len(data) <= STEP:
        return scanner.feed(data)
    passed: list[bytes] = []
    for start in range(0, len(data), STEP):
        passed.append(scanner.feed(data[start : start + STEP]))
        await asyncio.sleep(0)
    return b"".join(passed)
