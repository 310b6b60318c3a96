"""An ASGI application as a server: streams with back-pressure, silence, callers that go away, and the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from twogate.adapters.upstream.answer_head import READ_AHEAD
from twogate.adapters.upstream.asgi import AsgiUpstream, AsgiUpstreamLimits
from twogate.adapters.upstream.stamp import SCOPE_KEY, current_stamp
from twogate.core.errors import ErrorCode, GateError
from twogate.core.principal import PrincipalKey
from twogate.flows.gateway.upstream import Upstream, UpstreamRequest

Send = Callable[[Any], Awaitable[None]]
Receive = Callable[[], Awaitable[Any]]
OWNER = PrincipalKey("acme", "https://issuer.example", "reporter", None)
EVENTS = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}


def upstream(app: Any, **limits: int) -> AsgiUpstream:
    return AsgiUpstream(
        app,
        name="files",
        path="/mcp",
        scheme="https",
        host="mcp.example.com",
        port=443,
        netloc="mcp.example.com",
        state={"shared": [1]},
        limits=AsgiUpstreamLimits(**limits),
    )


def request(method: str = "POST", *, timeout: float = 20, stream: bool = False) -> UpstreamRequest:
    return UpstreamRequest(
        owner=OWNER,
        http_method=method,
        headers=((b"accept", b"text/event-stream"),),
        body=b"{}" if method == "POST" else b"",
        message=None,
        modern=False,
        timeout=timeout,
        stream=stream,
    )


def body(data: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def test_the_application_sees_a_request_of_ours_alone() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        seen.append((scope, await receive(), current_stamp()))
        await send(EVENTS)
        await send(body(b"", more=False))

    server: Upstream = upstream(app)
    answer = await server.send(request())
    assert [piece async for piece in answer.chunks()] == []
    ((scope, event, stamp),) = seen
    assert (scope["method"], scope["path"], scope["scheme"]) == ("POST", "/mcp", "https")
    assert scope["headers"] == [
        (b"host", b"mcp.example.com"),
        (b"accept-encoding", b"identity"),
        (b"accept", b"text/event-stream"),
        (b"content-length", b"2"),
    ]
    assert event == {"type": "http.request", "body": b"{}", "more_body": False}
    assert scope["state"] == {"shared": [1]}
    assert stamp is scope[SCOPE_KEY]
    assert not stamp.live
    assert current_stamp() is None


async def test_the_head_comes_first_and_what_follows_as_it_is_sent() -> None:
    go = asyncio.Event()

    async def app(_: Any, receive: Receive, send: Send) -> None:
        del receive
        await send(EVENTS)
        await go.wait()
        await send(body(b"one"))
        await send(body(b"two", more=False))

    answer = await upstream(app).send(request("GET", stream=True))
    assert (answer.status, answer.content_type) == (200, "text/event-stream")
    go.set()
    assert b"".join([piece async for piece in answer.chunks()]) == b"onetwo"


async def test_an_application_waits_for_a_caller_that_does_not_read() -> None:
    sent = 0

    async def app(_: Any, receive: Receive, send: Send) -> None:
        nonlocal sent
        del receive
        await send(EVENTS)
        for _ in range(100):
            await send(body(b"x" * 65536))
            sent += 65536
        await send(body(b"", more=False))

    answer = await upstream(app).send(request(timeout=0.01))
    for _ in range(50):
        await asyncio.sleep(0)
    assert sent <= READ_AHEAD + 65536
    # Nor is it blamed for the silence that it did not choose.
    await asyncio.sleep(0.03)
    assert sum([len(piece) async for piece in answer.chunks()]) == 100 * 65536


@pytest.mark.parametrize("started", [False, True])
async def test_silence_has_its_limit(*, started: bool) -> None:
    gone = asyncio.Event()

    async def app(_: Any, receive: Receive, send: Send) -> None:
        await receive()
        if started:
            await send(EVENTS)
        assert (await receive())["type"] == "http.disconnect"
        gone.set()

    async def run() -> None:
        answer = await upstream(app).send(request(timeout=0.02))
        async for _ in answer.chunks():
            pass

    with pytest.raises(GateError) as caught:
        await run()
    assert caught.value.code is ErrorCode.UPSTREAM_TIMEOUT
    await asyncio.wait_for(gone.wait(), 5)


async def test_a_stream_of_events_may_be_silent_for_ever() -> None:
    go = asyncio.Event()

    async def app(_: Any, receive: Receive, send: Send) -> None:
        del receive
        await send(EVENTS)
        await go.wait()
        await send(body(b"late", more=False))

    answer = await upstream(app).send(request("GET", timeout=0.01, stream=True))
    await asyncio.sleep(0.03)
    go.set()
    assert [piece async for piece in answer.chunks()] == [b"late"]


async def test_an_application_sees_its_caller_go_and_may_still_finish() -> None:
    events: list[str] = []
    done = asyncio.Event()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send(EVENTS)
        events.append((await receive())["type"])
        await send(body(b"to nobody"))
        events.append(str(scope[SCOPE_KEY].live))
        done.set()

    answer = await upstream(app).send(request())
    await answer.aclose()
    await asyncio.wait_for(done.wait(), 5)
    assert events == ["http.disconnect", "False"]


async def test_giving_up_the_wait_for_the_head_is_a_caller_that_goes() -> None:
    called, gone = asyncio.Event(), asyncio.Event()

    async def app(_: Any, receive: Receive, send: Send) -> None:
        del send
        await receive()
        called.set()
        await receive()
        gone.set()

    waiting = asyncio.create_task(upstream(app).send(request()))
    await called.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.wait_for(gone.wait(), 5)


async def test_requests_that_do_not_end_take_their_places_until_they_do() -> None:
    go = asyncio.Event()
    called = 0

    async def app(_: Any, receive: Receive, send: Send) -> None:
        nonlocal called
        del receive
        called += 1
        await send(EVENTS)
        await go.wait()

    server = upstream(app, calls=2, streams=1)
    for _ in range(2):
        await (await server.send(request())).aclose()
    with pytest.raises(GateError) as caught:
        await server.send(request())
    assert (caught.value.code, called) == (ErrorCode.UPSTREAM_UNAVAILABLE, 2)
    # Streams have places of their own.
    await (await server.send(request("GET", stream=True))).aclose()
    go.set()
    while server._calls:
        await asyncio.sleep(0)
    await (await server.send(request())).aclose()
    assert called == 4


async def test_closing_ends_what_runs() -> None:
    ended = asyncio.Event()

    async def app(_: Any, receive: Receive, send: Send) -> None:
        del receive
        await send(EVENTS)
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    server = upstream(app)
    answer = await server.send(request())
    await server.aclose()
    assert ended.is_set()
    with pytest.raises(GateError) as caught:
        _ = [piece async for piece in answer.chunks()]
    assert caught.value.code is ErrorCode.UPSTREAM_BROKEN
    with pytest.raises(GateError) as caught:
        await server.send(request())
    assert caught.value.code is ErrorCode.UPSTREAM_UNAVAILABLE
