"""The ASGI cycle of one request: an answer's head and body leave together, and headers cannot break out of it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

import pytest
from uvicorn.protocols.http.flow_control import FlowControl

from twogate.web.answer import AnswerCycle, header_lines


class Wire:
    """A transport that notes what is written."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def cycle(wire: Wire, method: str = "POST", *, keep_alive: bool = True) -> AnswerCycle:
    transport = cast("asyncio.Transport", wire)
    logger = logging.getLogger("test")
    return AnswerCycle(
        scope=cast("Any", {"type": "http", "method": method}),
        transport=transport,
        flow=FlowControl(transport),
        logger=logger,
        access_logger=logger,
        access_log=False,
        default_headers=[(b"date", b"now")],
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=keep_alive,
        on_response=lambda: None,
    )


def start(status: int = 200, *headers: tuple[bytes, bytes]) -> Any:
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(data: bytes, *, more: bool = False) -> Any:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def test_head_and_body_leave_in_one_write() -> None:
    answer = cycle(wire := Wire())
    await answer.send(start(200, (b"Content-Length", b"2")))
    assert wire.writes == []
    await answer.send(body(b"ok"))
    assert wire.writes == [b"HTTP/1.1 200 OK\r\ndate: now\r\ncontent-length: 2\r\n\r\nok"]
    assert answer.response_complete
    assert not wire.closed


async def test_a_body_of_unknown_length_is_chunked() -> None:
    answer = cycle(wire := Wire())
    await answer.send(start())
    await answer.send(body(b"one", more=True))
    await answer.send(body(b"", more=True))
    await answer.send(body(b"last"))
    assert wire.writes[0] == b"HTTP/1.1 200 OK\r\ndate: now\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n"
    assert b"".join(wire.writes[1:]) == b"4\r\nlast\r\n0\r\n\r\n"


async def test_a_bodiless_status_has_no_framing() -> None:
    answer = cycle(wire := Wire())
    await answer.send(start(204))
    await answer.send(body(b""))
    assert wire.writes == [b"HTTP/1.1 204 No Content\r\ndate: now\r\n\r\n"]


async def test_the_answer_to_head_has_a_length_and_no_body() -> None:
    answer = cycle(wire := Wire(), "HEAD")
    await answer.send(start(200, (b"content-length", b"2")))
    await answer.send(body(b"ok"))
    assert wire.writes == [b"HTTP/1.1 200 OK\r\ndate: now\r\ncontent-length: 2\r\n\r\n"]


@pytest.mark.parametrize("keep_alive", [True, False])
async def test_the_connection_ends_when_either_side_says_so(keep_alive: bool) -> None:
    answer = cycle(wire := Wire(), keep_alive=keep_alive)
    asked = ((b"connection", b"Close"),) if keep_alive else ()
    await answer.send(start(200, (b"content-length", b"0"), *asked))
    await answer.send(body(b""))
    assert wire.writes[0].lower().count(b"connection: close\r\n") == 1
    assert wire.closed


@pytest.mark.parametrize(
    "header",
    [
        (b"x", b"a\r\nset-cookie: b"), (b"x", b"a\nb"), (b"x", b"a\rb"), (b"x", b"a\0"), (b"x", b"\x7f"),
        (b"x\r\ny", b"a"), (b"x y", b"a"), (b"", b"a"), (b"x:", b"a"), (b"transfer-encoding", b"chunked"),
    ],
)  # fmt: skip
async def test_a_header_that_could_break_out_is_not_written(header: tuple[bytes, bytes]) -> None:
    answer = cycle(wire := Wire())
    with pytest.raises(RuntimeError):
        await answer.send(start(200, header))
    assert not answer.response_started
    assert wire.writes == []


@pytest.mark.parametrize("data", [b"abc", b"a"])
async def test_a_body_of_another_length_than_stated_is_an_error(data: bytes) -> None:
    answer = cycle(Wire())
    await answer.send(start(200, (b"content-length", b"2")))
    with pytest.raises(RuntimeError):
        await answer.send(body(data))
    assert not answer.response_complete


async def test_nothing_is_written_for_a_client_that_went_away() -> None:
    answer = cycle(wire := Wire())
    answer.disconnected = True
    await answer.send(start())
    await answer.send(body(b"ok"))
    assert wire.writes == []
    answer.message_event.set()
    assert (await answer.receive())["type"] == "http.disconnect"


async def arriving(wire: Wire, data: bytes, *, more: bool = False) -> AnswerCycle:
    answer = cycle(wire)
    answer.body += data
    answer.more_body = more
    answer.message_event.set()
    return answer


async def test_a_body_that_is_all_here_is_taken_at_once_and_once() -> None:
    answer = await arriving(Wire(), b"{}")
    assert answer.take_body() == b"{}"
    assert answer.take_body() is None


@pytest.mark.parametrize("state", ["more_body", "waiting_for_100_continue", "disconnected", "response_complete"])
async def test_a_body_that_is_to_be_waited_for_is_not_taken(state: str) -> None:
    answer = await arriving(Wire(), b"{")
    setattr(answer, state, True)
    assert answer.take_body() is None
    assert bytes(answer.body) == b"{"


LINES = header_lines([(b"Cache-Control", b"no-store"), (b"content-type", b"text/plain")])


async def test_known_lines_and_body_leave_in_one_write() -> None:
    answer = cycle(wire := Wire())
    answer.start(200, LINES, 2)
    assert wire.writes == []
    await answer.write(b"ok", more=False)
    head = b"HTTP/1.1 200 OK\r\ndate: now\r\n" + LINES + b"content-length: 2\r\n\r\n"
    assert LINES == b"cache-control: no-store\r\ncontent-type: text/plain\r\n"
    assert wire.writes == [head + b"ok"]
    assert answer.response_complete


async def test_known_lines_before_a_stream_are_framed_and_end_the_connection_if_it_is_to_end() -> None:
    answer = cycle(wire := Wire(), keep_alive=False)
    answer.start(200, LINES, None)
    await answer.write(b"one", more=True)
    await answer.write(b"", more=False)
    head, _, rest = b"".join(wire.writes).partition(b"\r\n\r\n")
    assert head.endswith(b"text/plain\r\ntransfer-encoding: chunked\r\nconnection: close")
    assert rest == b"3\r\none\r\n0\r\n\r\n"
    assert wire.closed


async def test_nothing_of_known_lines_is_written_for_a_client_that_went_away() -> None:
    answer = cycle(wire := Wire())
    answer.disconnected = True
    answer.start(200, LINES, 2)
    await answer.write(b"ok", more=False)
    assert wire.writes == []


async def test_heads_and_bodies_out_of_turn_are_errors() -> None:
    answer = cycle(wire := Wire())
    with pytest.raises(RuntimeError):
        await answer.write(b"body first", more=False)
    answer.start(200, LINES, 2)
    with pytest.raises(RuntimeError):
        answer.start(200, LINES, 2)
    await answer.write(b"ok", more=False)
    with pytest.raises(RuntimeError):
        await answer.write(b"again", more=False)
    assert len(wire.writes) == 1


@pytest.mark.parametrize("header", [(b"x", b"a\r\nset-cookie: b"), (b"x", b"a\0"), (b"x y", b"a"), (b"", b"a")])
def test_lines_are_made_of_no_header_that_could_break_out(header: tuple[bytes, bytes]) -> None:
    with pytest.raises(RuntimeError):
        header_lines([(b"content-type", b"text/plain"), header])


async def test_an_application_does_not_frame_its_answer_even_beside_a_length() -> None:
    answer = cycle(wire := Wire())
    with pytest.raises(RuntimeError):
        await answer.send(start(200, (b"content-length", b"2"), (b"Transfer-Encoding", b"chunked")))
    assert wire.writes == []
