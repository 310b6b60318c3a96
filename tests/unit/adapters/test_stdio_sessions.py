"""What a client settles by `initialize`, and the streams that it opens: which process it gets, and for how long."""

from __future__ import annotations

import asyncio
import json
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from typing import Any

import pytest

from stdio_servers.harness import ALICE, BOB, BOT, Client, Reader, client, exists, messages, until
from twogate.adapters.upstream.duplex_session import MAX_SESSION, parse_session, session_of
from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import Kind, Message

CHANGED = {"method": "notifications/tools/list_changed"}


@pytest.fixture
async def tiny() -> AsyncIterator[Client]:
    made = client("tiny.py")
    yield made
    await made.upstream.aclose()


def hello(**params: Any) -> Message:
    return Message(Kind.REQUEST, 1, "initialize", params)


def spelled(value: object) -> str:
    return urlsafe_b64encode(json.dumps(value, separators=(",", ":")).encode()).decode().rstrip("=")


# -- The session id


def test_a_session_id_holds_what_was_settled() -> None:
    made = session_of(hello(protocolVersion="2025-06-18", capabilities={"roots": {"listChanged": True}}))
    assert made.id.isascii()
    assert made.id.isprintable()
    assert " " not in made.id
    assert parse_session(made.id) == made
    assert (made.version, made.capabilities) == ("2025-06-18", {"roots": {"listChanged": True}})


def test_the_order_in_which_a_client_declares_makes_no_difference() -> None:
    one = session_of(hello(capabilities={"a": {"x": 1, "y": 2}, "b": {}}))
    other = session_of(hello(capabilities={"b": {}, "a": {"y": 2, "x": 1}}))
    assert one.id == other.id


def test_what_a_client_can_do_without_is_left_out_of_an_id_that_would_be_too_long() -> None:
    made = session_of(hello(capabilities={"sampling": {}, "experimental": {"x" * 1000: {}}, "extensions": {"y": {}}}))
    assert made.capabilities == {"sampling": {}}
    assert len(made.id) <= MAX_SESSION


def test_capabilities_that_no_id_can_hold_are_refused() -> None:
    with pytest.raises(GateError) as caught:
        session_of(hello(capabilities={"sampling": {"x" * 1000: {}}}))
    assert caught.value.code is ErrorCode.INVALID_PARAMS


@pytest.mark.parametrize(
    "text",
    [
        "",
        "=",
        "é",
        "not base64!",
        "abc",
        "x" * 2000,
        spelled(["2025-11-25"]),
        spelled(["2025-11-25", []]),
        spelled(["2025-11-25", {}, {}]),
        spelled(["2026-07-28", {}]),
        spelled([["2025-11-25"], {}]),
        spelled(["2025-11-25", {"b": 1, "a": 1}]),
        spelled(["2025-11-25", {}]) + "=",
        urlsafe_b64encode(b'["2025-11-25", {}]').decode().rstrip("="),
        urlsafe_b64encode(b'["2025-11-25",{"a":' + b"[" * 600).decode().rstrip("="),
        urlsafe_b64encode(b"\xff\xfe").decode().rstrip("="),
    ],
)
async def test_an_id_of_another_kind_or_spelling_is_unknown(text: str) -> None:
    made = client("tiny.py")
    for attempt in (made.call("pid", session=text), made.listen(text), made.end(text)):
        with pytest.raises(GateError) as caught:
            await attempt
        assert caught.value.code is ErrorCode.MCP_SESSION_UNKNOWN
    assert not made.upstream._lives


# -- Processes


async def test_clients_that_settled_different_things_have_processes_of_their_own(tiny: Client) -> None:
    sessions = [
        None,
        await tiny.initialize(),
        await tiny.initialize(version="2024-11-05"),
        await tiny.initialize(sampling={}),
        await tiny.initialize(sampling={}, roots={}),
    ]
    pids = [await tiny.pid(session=session) for session in sessions]
    assert len(set(pids)) == 5
    assert await tiny.initialize(roots={}, sampling={}) == sessions[-1]
    assert [await tiny.pid(session=session) for session in sessions] == pids


async def test_one_session_id_is_another_process_for_another_principal(tiny: Client) -> None:
    session = await tiny.initialize(sampling={})
    assert await tiny.pid(session=session) != await tiny.pid(session=session, owner=ALICE)


async def test_a_session_outlives_its_process(tiny: Client) -> None:
    session = await tiny.initialize(version="2025-03-26", elicitation={})
    first = await tiny.pid(session=session)
    tiny.clock.at += 300
    tiny.upstream.sweep()
    await until(lambda: not exists(first), "the idle process stayed")
    assert await tiny.pid(session=session) != first
    seen = (await tiny.call("seen", session=session))["seen"]
    assert seen[0]["params"]["protocolVersion"] == "2025-03-26"
    assert seen[0]["params"]["capabilities"] == {"elicitation": {}}


async def test_one_principal_takes_only_its_own_share_of_the_processes() -> None:
    made = client("tiny.py", links=8, links_per_owner=2)
    alice = await made.pid(owner=ALICE)
    sessions = [await made.initialize(experimental={"n": {str(n): {}}}) for n in range(5)]
    assert len(set(sessions)) == 5
    assert len(made.upstream._lives) <= 3
    assert await made.pid(owner=ALICE) == alice
    held = [await made.start_call("hold", meta={"progressToken": 1}, session=session) for session in sessions[:2]]
    with pytest.raises(GateError) as caught:
        await made.pid(session=sessions[2])
    assert caught.value.code is ErrorCode.UPSTREAM_UNAVAILABLE
    assert await made.pid(owner=BOB)
    for answer in held:
        await answer.aclose()
    assert await made.pid(session=sessions[2])
    await made.upstream.aclose()


# -- The end of a session


async def test_the_end_of_a_session_ends_its_process(tiny: Client) -> None:
    session = await tiny.initialize(sampling={})
    pid, other = await tiny.pid(session=session), await tiny.pid()
    assert (await tiny.end(session)).status == 200
    await until(lambda: not exists(pid), "the process stayed")
    assert await tiny.pid() == other
    # Whoever shares the session notices nothing.
    assert await tiny.pid(session=session) != pid


async def test_a_session_without_a_process_ends_too(tiny: Client) -> None:
    session = session_of(hello(capabilities={})).id
    assert (await tiny.end(session)).status == 200
    assert not tiny.upstream._lives


async def test_a_session_ends_only_its_own_principals_process(tiny: Client) -> None:
    session = await tiny.initialize()
    alice = await tiny.pid(owner=ALICE, session=session)
    await tiny.end(session)
    assert await tiny.pid(owner=ALICE, session=session) == alice


async def test_a_process_that_is_still_used_ends_with_its_last_use(tiny: Client) -> None:
    session = await tiny.initialize()
    pid = await tiny.pid(session=session)
    stream = await tiny.listen(session)
    call = await tiny.start_call("hold", meta={"progressToken": 1}, session=session)
    assert (await tiny.end(session)).status == 200
    await call.aclose()
    assert exists(pid)
    await stream.aclose()
    await until(lambda: not exists(pid), "the process stayed")


async def test_a_new_call_keeps_the_process_of_an_ended_session(tiny: Client) -> None:
    session = await tiny.initialize()
    stream = await tiny.listen(session)
    pid = await tiny.pid(session=session)
    await tiny.end(session)
    assert await tiny.pid(session=session) == pid
    await stream.aclose()
    assert await tiny.pid(session=session) == pid


async def test_the_end_of_a_session_ends_a_stream_that_waits_for_a_process(tiny: Client) -> None:
    session = session_of(hello(capabilities={})).id
    stream = Reader(await tiny.listen(session))
    await tiny.end(session)
    assert await stream.ended()
    assert not tiny.upstream._slots


# -- Streams


async def test_a_stream_starts_no_process_and_carries_what_the_next_one_says(tiny: Client) -> None:
    stream = Reader(await tiny.listen())
    assert not tiny.upstream._lives
    await tiny.call("emit", arguments={"messages": [CHANGED]})
    assert (await stream.next())["method"] == CHANGED["method"]


async def test_a_stream_that_is_opened_later_carries_what_is_said_from_then_on(tiny: Client) -> None:
    await tiny.call("emit", arguments={"messages": [CHANGED]})
    stream = Reader(await tiny.listen())
    await tiny.call("emit", arguments={"messages": [{**CHANGED, "params": {"n": 2}}]})
    assert (await stream.next())["params"] == {"n": 2}


async def test_there_is_one_stream_for_each_client(tiny: Client) -> None:
    session = await tiny.initialize()
    streams = [await tiny.listen(session), await tiny.listen(), await tiny.listen(session, owner=ALICE)]
    assert [stream.status for stream in streams] == [200] * 3
    assert (await tiny.listen(session)).status == 409
    await streams[0].aclose()
    assert (await tiny.listen(session)).status == 200


async def test_a_stream_hears_only_its_own_principals_process(tiny: Client) -> None:
    session = await tiny.initialize()
    stream = Reader(await tiny.listen(session))
    for how in ({"session": session, "owner": ALICE}, {"session": None}, {"modern": True}, {"session": session}):
        await tiny.call("emit", arguments={"messages": [{**CHANGED, "params": {"how": str(how)}}]}, **how)
    assert (await stream.next())["params"] == {"how": str({"session": session})}


@pytest.mark.parametrize("how", ["die", "close_stdout"])
async def test_a_stream_ends_with_its_process_and_another_can_be_opened(tiny: Client, how: str) -> None:
    stream = Reader(await tiny.listen())
    with pytest.raises(GateError):
        await tiny.call(how)
    assert await stream.ended()
    again = await tiny.listen()
    assert again.status == 200
    await stream.answer.aclose()
    # The old reader takes nothing from the new one.
    assert (await tiny.listen()).status == 409
    await again.aclose()


async def test_a_process_whose_stream_is_open_is_not_idle(tiny: Client) -> None:
    pid = await tiny.pid()
    stream = await tiny.listen()
    tiny.clock.at += 1000
    tiny.upstream.sweep()
    assert await tiny.pid() == pid
    tiny.clock.at += 1000
    await stream.aclose()
    tiny.upstream.sweep()
    assert await tiny.pid() == pid, "the idle time counts from the last use"


async def test_a_stream_gives_way_to_calls_that_need_its_place() -> None:
    made = client("tiny.py", links=1)
    await made.pid()
    stream = Reader(await made.listen())
    assert await made.pid(owner=ALICE)
    assert await stream.ended()
    await made.upstream.aclose()


async def test_a_principal_has_only_so_many_streams() -> None:
    made = client("tiny.py", links_per_owner=2)
    sessions = [session_of(hello(capabilities={"experimental": {str(n): {}}})).id for n in range(3)]
    streams = [await made.listen(session) for session in sessions[:2]]
    with pytest.raises(GateError) as caught:
        await made.listen(sessions[2])
    assert caught.value.code is ErrorCode.UPSTREAM_UNAVAILABLE
    assert (await made.listen(sessions[2], owner=ALICE)).status == 200
    await streams[0].aclose()
    assert (await made.listen(sessions[2])).status == 200
    await made.upstream.aclose()


async def test_closing_ends_every_stream_and_opens_no_new_one(tiny: Client) -> None:
    waiting, attached = Reader(await tiny.listen()), Reader(await tiny.listen(owner=ALICE))
    await tiny.pid(owner=ALICE)
    await tiny.upstream.aclose()
    assert await waiting.ended()
    assert await attached.ended()
    with pytest.raises(GateError) as caught:
        await tiny.listen()
    assert caught.value.code is ErrorCode.UPSTREAM_UNAVAILABLE


async def test_streams_leave_nothing_behind(tiny: Client) -> None:
    before = asyncio.all_tasks()
    for owner in (BOT, ALICE, BOB):
        await (await tiny.listen(owner=owner)).aclose()
    assert not tiny.upstream._slots
    assert asyncio.all_tasks() <= before


async def test_a_stream_that_nobody_reads_keeps_the_latest() -> None:
    made = client("tiny.py", queued_bytes=10_000)
    stream = await made.listen()
    for n in range(10):
        burst = [{**CHANGED, "params": {"n": n * 100 + m}} for m in range(100)]
        await made.call("emit", arguments={"messages": burst})
    await made.upstream.aclose()
    kept = [message["params"]["n"] for message in await messages(stream)]
    assert 10 < len(kept) < 100
    assert kept == list(range(1000 - len(kept), 1000))
    assert [line for _, line in made.logged] == [f"({1000 - len(kept)} messages of the server belonged to nobody)"]
