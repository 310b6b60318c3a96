"""`SharedStream`: what Twogate says on a stream stands between whole events of the server's, or nowhere."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from twogate.core.errors import ErrorCode, GateError
from twogate.core.sse import SseEvent, SseParser, encode_event
from twogate.flows.gateway.approval_exchange import SharedStream
from twogate.flows.gateway.exchange import EVENT_ANSWER, JSON_ANSWER, Header, Refusal

PART = 7
"""Bytes that the client reads at once."""


class SlowExchange:
    """A client that reads slowly: every piece is written in parts, with other work in between."""

    events = True

    def __init__(self) -> None:
        self.sent = b""
        self.ended = False
        self.refused: ErrorCode | None = None

    async def read_body(self, limit: int) -> bytes:
        raise AssertionError(limit)

    def forwarding(self) -> None:
        raise AssertionError

    async def refuse(self, refusal: Refusal) -> None:
        self.refused = refusal.error.code

    async def start(self, status: int, headers: tuple[Header, ...], *, length: int | None) -> None:
        await asyncio.sleep(0)

    async def send(self, chunk: bytes, *, more: bool) -> None:
        assert not self.ended
        for place in range(0, len(chunk), PART):
            self.sent += chunk[place : place + PART]
            await asyncio.sleep(0)
        self.ended = not more

    async def abort(self) -> None:
        self.ended = True


def said(number: int) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": "notifications/elicitation/complete", "params": {"elicitationId": str(number)}}


async def test_no_event_is_ever_broken_by_another() -> None:
    outer = SlowExchange()
    shared = SharedStream(outer)
    await shared.begin()

    async def relay() -> None:
        for number in range(50):
            await shared.send(encode_event(SseEvent(b'{"n":%d,"long":"%s"}' % (number, b"x" * 40))), more=True)

    async def tell() -> None:
        for number in range(50):
            assert await shared.tell(said(number))

    await asyncio.gather(relay(), tell(), tell())
    await shared.end(None)
    events = [event.data for event in SseParser().feed(outer.sent) if event.data]
    assert len(events) == 150
    assert sum(event.startswith(b'{"n":') and event.endswith(b'"}') for event in events) == 50
    assert sum(b"elicitation/complete" in event and event.endswith(b"}}") for event in events) == 100


async def test_nothing_is_said_before_the_stream_is_there_nor_after_it_ended() -> None:
    outer = SlowExchange()
    shared = SharedStream(outer)
    assert not await shared.tell(said(1))
    await shared.begin()
    assert await shared.tell(said(2))
    await shared.send(b"", more=False)
    assert not await shared.tell(said(3))
    assert outer.sent.count(b"elicitationId") == 1
    assert b'"2"' in outer.sent


@pytest.mark.parametrize(
    ("headers", "length"), [(JSON_ANSWER, 20), (JSON_ANSWER, None), (EVENT_ANSWER, 20)], ids=["json", "pieces", "whole"]
)
async def test_nothing_is_said_in_an_answer_that_is_no_stream(headers: tuple[Header, ...], length: int | None) -> None:
    outer = SlowExchange()
    shared = SharedStream(outer)
    await shared.start(200, headers, length=length)
    assert not await shared.tell(said(1))
    assert outer.sent == b""


async def test_nothing_is_said_after_a_refusal_or_where_it_was_broken_off() -> None:
    for end in ("refuse", "abort"):
        outer = SlowExchange()
        shared = SharedStream(outer)
        await shared.begin()
        if end == "refuse":
            await shared.refuse(Refusal(GateError(ErrorCode.METHOD_NOT_ALLOWED)))
            assert outer.refused is ErrorCode.METHOD_NOT_ALLOWED
        else:
            await shared.abort()
        assert not await shared.tell(said(1))
        assert outer.sent == b""


async def test_comments_are_nothing_that_was_heard() -> None:
    shared = SharedStream(SlowExchange())
    await shared.begin()
    await shared.keep_alive()
    assert not shared.heard
    await shared.send(encode_event(SseEvent(b"{}")), more=True)
    assert shared.heard
