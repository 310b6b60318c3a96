from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from stdio_servers.harness import (
    ALICE,
    BOB,
    BOT,
    OTHER_AGENT,
    OTHER_ISSUER,
    OTHER_TENANT,
    Client,
    StepClock,
    body,
    client,
    event,
    exists,
    is_gone,
    of_proc,
    raw,
    supervisor_of,
    until,
)
from twogate.adapters.clock import SystemClock
from twogate.adapters.upstream.stdio import StdioLimits, StdioUpstream
from twogate.adapters.upstream.stdio_stderr import StderrLines
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.gateway.upstream import UpstreamRequest

INITIALIZE = {"protocolVersion": "2025-06-18", "capabilities": {"sampling": {}}, "clientInfo": {"name": "c"}}


@pytest.fixture
async def tiny() -> AsyncIterator[Client]:
    made = client("tiny.py")
    yield made
    await made.upstream.aclose()


# -- The handshake


async def test_initialize_is_answered_from_one_handshake_of_ours(tiny: Client) -> None:
    answers = [await tiny.send("initialize", INITIALIZE, identifier=identifier) for identifier in ("a", 7)]
    first, second = [await body(answer) for answer in answers]
    assert first["result"] == second["result"]
    assert first["result"]["serverInfo"] == {"name": "tiny", "version": "1"}
    assert (first["id"], second["id"]) == ("a", 7)
    session = answers[0].session_id
    assert session == answers[1].session_id
    seen = (await tiny.call("seen", session=session))["seen"]
    assert [message["method"] for message in seen[:-1]] == ["initialize", "notifications/initialized"]
    # The client's version and capabilities, since they are what the server may build on, and our own name.
    hello = seen[0]["params"]
    assert (hello["protocolVersion"], hello["capabilities"]) == ("2025-06-18", {"sampling": {}})
    assert hello["clientInfo"]["name"] == "twogate"


async def test_a_call_without_initialize_finds_the_latest_handshake_version_and_no_capabilities(tiny: Client) -> None:
    seen = (await tiny.call("seen"))["seen"]
    assert seen[0]["params"]["protocolVersion"] == "2025-11-25"
    assert seen[0]["params"]["capabilities"] == {}


async def test_a_version_that_is_no_handshake_version_is_not_passed_on(tiny: Client) -> None:
    answer = await tiny.send("initialize", {"protocolVersion": ["2025-06-18"]})
    seen = (await tiny.call("seen", session=answer.session_id))["seen"]
    assert seen[0]["params"]["protocolVersion"] == "2025-11-25"


async def test_initialized_of_a_client_is_accepted_and_kept_from_the_server(tiny: Client) -> None:
    session = await tiny.initialize()
    answer = await tiny.send("notifications/initialized", {}, identifier=None, session=session)
    assert (answer.status, answer.content_type, await raw(answer)) == (202, "", b"")
    seen = (await tiny.call("seen", session=session))["seen"]
    assert [message["method"] for message in seen].count("notifications/initialized") == 1


async def test_the_modern_era_has_no_handshake(tiny: Client) -> None:
    found = await body(await tiny.send("server/discover", {"_meta": {"x": 1}}, modern=True))
    assert found["result"] == {"method": "server/discover"}
    seen = (await tiny.call("seen", modern=True))["seen"]
    assert [message["method"] for message in seen] == ["server/discover", "tools/call"]


async def test_an_error_instead_of_a_handshake_makes_the_server_unavailable() -> None:
    made = client("hostile.py", "refuse")
    with pytest.raises(GateError) as caught:
        await made.call("x")
    assert caught.value.code is ErrorCode.UPSTREAM_UNAVAILABLE
    await made.upstream.aclose()


async def test_a_handshake_that_takes_too_long_makes_the_server_unavailable() -> None:
    made = client("hostile.py", "mute", handshake=0.1)
    with pytest.raises(GateError) as caught:
        await made.call("x")
    assert caught.value.code is ErrorCode.UPSTREAM_UNAVAILABLE
    await made.upstream.aclose()


# -- Ids, progress and cancellation


async def test_concurrent_calls_with_equal_ids_get_their_own_answers(tiny: Client) -> None:
    await tiny.pid()
    calls = [asyncio.create_task(tiny.call("hold", arguments={"n": n}, identifier=5)) for n in range(10)]
    await tiny.until_seen(lambda message: message["params"].get("arguments") == {"n": 9})
    await tiny.call("release", identifier=5)
    assert [(await call)["held"] for call in calls] == [{"n": n} for n in range(10)]


@pytest.mark.parametrize("identifier", [0, -3, 2**53 - 1, "", "5", "ü"])
async def test_the_clients_id_comes_back_and_ours_goes_out(tiny: Client, identifier: str | int) -> None:
    answer = await body(await tiny.start_call("echo", identifier=identifier))
    assert answer["id"] == identifier
    assert type(answer["id"]) is type(identifier)
    assert answer["result"]["id"] == 2  # after the handshake's


async def test_an_error_response_is_passed_on_as_it_is(tiny: Client) -> None:
    answer = await body(await tiny.start_call("error", identifier="e"))
    assert answer == {"jsonrpc": "2.0", "id": "e", "error": {"code": -32602, "message": "no", "data": {"x": 1}}}


async def test_progress_reaches_the_call_it_belongs_to_with_the_clients_token(tiny: Client) -> None:
    first = await tiny.start_call("hold", meta={"progressToken": "t", "other": 1}, arguments={"n": 1}, identifier=9)
    second = await tiny.start_call("hold", meta={"progressToken": "t"}, arguments={"n": 2}, identifier=9)
    assert (first.status, first.content_type, first.session_id) == (200, "text/event-stream", None)
    await tiny.call("release")
    for answer, n in ((first, 1), (second, 2)):
        *progress, last = [event(chunk) async for chunk in answer.chunks()]
        assert [message["params"] for message in progress] == [
            {"progressToken": "t", "progress": 1},
            {"progressToken": "t", "progress": 2},
        ]
        assert last == {"jsonrpc": "2.0", "id": 9, "result": {"held": {"n": n}}}


async def test_other_members_of_meta_are_passed_on(tiny: Client) -> None:
    assert (await tiny.call("echo", meta={"progressToken": "t", "other": 1}))["meta"] == {
        "progressToken": 2,
        "other": 1,
    }


async def test_a_call_is_answered_with_json_if_nothing_precedes_the_response(tiny: Client) -> None:
    answer = await tiny.start_call("echo", meta={"progressToken": "t"})
    assert (answer.status, answer.content_type, answer.session_id) == (200, "application/json", None)
    assert (await body(answer))["id"] == 1


async def test_a_progress_token_that_is_none_is_refused(tiny: Client) -> None:
    with pytest.raises(GateError) as caught:
        await tiny.start_call("echo", meta={"progressToken": {"a": 1}})
    assert caught.value.code is ErrorCode.INVALID_PARAMS


@pytest.mark.parametrize("modern", [False, True])
async def test_closing_an_open_stream_cancels_the_call_at_the_server(tiny: Client, modern: bool) -> None:
    answer = await tiny.start_call("hold", meta={"progressToken": 1}, modern=modern)
    async for chunk in answer.chunks():
        assert event(chunk)["params"]["progress"] == 1
        break
    await answer.aclose()
    await answer.aclose()
    cancelled = await tiny.until_seen(lambda message: message["method"] == "notifications/cancelled", modern=modern)
    # The released answer belongs to nobody now.
    assert cancelled["params"]["requestId"] == (1 if modern else 2)
    await tiny.call("release", modern=modern)
    assert (await tiny.call("echo", arguments={"a": 1}, modern=modern))["echo"] == {"a": 1}


async def test_a_finished_stream_cancels_nothing(tiny: Client) -> None:
    answer = await tiny.start_call("echo", meta={"progressToken": 1})
    await raw(answer)
    await answer.aclose()
    seen = (await tiny.call("seen"))["seen"]
    assert "notifications/cancelled" not in [message["method"] for message in seen]


async def test_an_abandoned_call_is_cancelled_at_the_server(tiny: Client) -> None:
    call = asyncio.create_task(tiny.call("hold", arguments={"n": 1}))
    await tiny.until_seen(lambda message: message["params"].get("arguments") == {"n": 1})
    call.cancel()
    await tiny.until_seen(lambda message: message["method"] == "notifications/cancelled")


async def test_a_call_without_answer_times_out_and_is_cancelled_at_the_server(tiny: Client) -> None:
    await tiny.pid()
    with pytest.raises(GateError) as caught:
        await tiny.call("hold", timeout=0.1)
    assert caught.value.code is ErrorCode.UPSTREAM_TIMEOUT
    await tiny.until_seen(lambda message: message["method"] == "notifications/cancelled")


async def test_a_stream_without_events_times_out(tiny: Client) -> None:
    await tiny.pid()
    answer = await tiny.start_call("hold", meta={"progressToken": 1}, timeout=1.0)
    with pytest.raises(GateError) as caught:
        await raw(answer)
    assert caught.value.code is ErrorCode.UPSTREAM_TIMEOUT
    await tiny.until_seen(lambda message: message["method"] == "notifications/cancelled")


async def test_a_clients_cancellation_names_the_servers_id(tiny: Client) -> None:
    call = asyncio.create_task(tiny.call("hold", arguments={"n": 1}, identifier="mine"))
    held = await tiny.until_seen(lambda message: message["params"].get("arguments") == {"n": 1})
    await tiny.send("notifications/cancelled", {"requestId": "mine"}, identifier=None)
    cancelled = await tiny.until_seen(lambda message: message["method"] == "notifications/cancelled")
    assert cancelled["params"] == {"requestId": held["id"]}
    await tiny.call("release")
    await call


@pytest.mark.parametrize("wanted", [5, 6, "5", True, None, [5]])
async def test_a_cancellation_that_does_not_name_exactly_one_call_cancels_none(tiny: Client, wanted: Any) -> None:
    calls = [asyncio.create_task(tiny.call("hold", arguments={"n": n}, identifier=5)) for n in (1, 2)]
    await tiny.until_seen(lambda message: message["params"].get("arguments") == {"n": 2})
    await tiny.send("notifications/cancelled", {"requestId": wanted}, identifier=None)
    seen = (await tiny.call("seen"))["seen"]
    assert "notifications/cancelled" not in [message["method"] for message in seen]
    await tiny.call("release")
    await asyncio.gather(*calls)


async def test_other_notifications_are_passed_on(tiny: Client) -> None:
    await tiny.pid()
    await tiny.send("notifications/roots/list_changed", {}, identifier=None)
    await tiny.until_seen(lambda message: message["method"] == "notifications/roots/list_changed")


async def test_a_notification_starts_no_process() -> None:
    made = client("tiny.py")
    assert (await made.send("notifications/roots/list_changed", {}, identifier=None)).status == 202
    assert not made.upstream._lives


@pytest.mark.parametrize(
    ("http_method", "modern"), [("GET", True), ("DELETE", True), ("DELETE", False), ("PUT", False)]
)
async def test_what_there_is_no_stream_or_session_for_is_not_allowed(http_method: str, modern: bool) -> None:
    made = client("tiny.py")
    answer = await made.upstream.send(UpstreamRequest(BOT, http_method, (), b"", None, modern=modern, timeout=1.0))
    assert (answer.status, await raw(answer)) == (405, b"")
    await answer.aclose()
    assert not made.upstream._lives


# -- Processes


async def test_every_principal_and_era_has_a_process_of_its_own(tiny: Client) -> None:
    owners = [BOT, OTHER_TENANT, OTHER_ISSUER, OTHER_AGENT, ALICE, BOB]
    pids = [await tiny.pid(owner=owner, modern=modern) for owner in owners for modern in (False, True)]
    again = [await tiny.pid(owner=owner, modern=modern) for owner in owners for modern in (False, True)]
    assert len(set(pids)) == 12
    assert again == pids


async def test_first_calls_at_once_share_one_process(tiny: Client) -> None:
    assert len(set(await asyncio.gather(*(tiny.pid(identifier=n) for n in range(8))))) == 1


async def test_an_idle_process_is_ended_and_started_again(tiny: Client) -> None:
    first = await tiny.pid()
    tiny.clock.at += 299
    tiny.upstream.sweep()
    assert await tiny.pid() == first
    tiny.clock.at += 300
    tiny.upstream.sweep()
    await until(lambda: not exists(first), "the idle process stayed")
    assert await tiny.pid() != first


async def refused_by(tiny: Client, code: int = -32602, **how: Any) -> int:
    """The process that refuses `server/discover` with this code."""
    answer = await body(await tiny.send("server/discover", {"refuse": code}, modern=True, **how))
    assert (answer["id"], answer["error"]["code"]) == (how.get("identifier", 1), code)
    pid: int = answer["error"]["data"]
    return pid


async def test_a_process_that_knows_no_stateless_era_ends_and_is_not_started_for_the_same_question(
    tiny: Client,
) -> None:
    first = await refused_by(tiny)
    await until(lambda: not tiny.upstream._lives, "the process stayed after its failed probe")
    assert not exists(first)
    assert await refused_by(tiny, identifier="again") == first
    assert not tiny.upstream._lives
    tiny.clock.at += 299
    tiny.upstream.sweep()
    assert await refused_by(tiny) == first
    tiny.clock.at += 1
    tiny.upstream.sweep()
    assert not tiny.upstream._slots
    assert await refused_by(tiny) != first


async def test_a_client_of_both_eras_has_one_process_after_its_handshake(tiny: Client) -> None:
    probed = await refused_by(tiny)
    session = await tiny.initialize()
    kept = await tiny.pid(session=session)
    await until(lambda: len(tiny.upstream._lives) == 1, "the probed process stayed")
    assert exists(kept)
    assert not exists(probed)


async def test_what_one_principals_process_refused_is_told_to_no_other(tiny: Client) -> None:
    pids = [await refused_by(tiny, owner=owner) for owner in (BOT, ALICE, BOB, OTHER_TENANT)]
    assert len(set(pids)) == 4


async def test_another_question_is_asked_of_the_server_itself(tiny: Client) -> None:
    first = await refused_by(tiny)
    assert await refused_by(tiny, -32601) != first
    found = await body(await tiny.send("server/discover", {}, modern=True))
    assert found["result"] == {"method": "server/discover"}


@pytest.mark.parametrize("code", [-32022, -32603, -31503])
async def test_a_refusal_of_this_version_or_for_now_keeps_the_process(tiny: Client, code: int) -> None:
    first = await refused_by(tiny, code)
    assert await refused_by(tiny, code) == first
    assert await tiny.pid(modern=True) == first


async def test_a_failed_probe_ends_no_process_that_is_used(tiny: Client) -> None:
    held = asyncio.create_task(tiny.call("hold", modern=True, arguments={"n": 1}))
    await tiny.until_seen(lambda message: message["method"] == "tools/call", modern=True)
    first = await tiny.pid(modern=True)
    assert await refused_by(tiny) == first
    await tiny.call("release", modern=True)
    assert (await held)["held"] == {"n": 1}


async def test_a_process_with_new_credentials_is_asked_anew(tiny: Client) -> None:
    first = await refused_by(tiny)
    tiny.upstream.renew(OTHER_TENANT.tenant)
    assert await refused_by(tiny) == first
    tiny.upstream.renew(BOT.tenant)
    assert await refused_by(tiny) != first


async def test_a_process_with_an_open_call_is_not_idle(tiny: Client) -> None:
    answer = await tiny.start_call("hold", meta={"progressToken": 1})
    tiny.clock.at += 1000
    tiny.upstream.sweep()
    await tiny.call("release")
    assert b'"held"' in await raw(answer)


async def test_the_sweep_runs_by_itself() -> None:
    made = client("tiny.py", sweep=0.01)
    pid = await made.pid()
    made.clock.at += 300
    await until(lambda: not exists(pid), "nothing swept")
    await made.upstream.aclose()


async def test_room_is_made_by_ending_the_longest_unused_process() -> None:
    made = client("tiny.py", links=2)
    bot = await made.pid(owner=BOT)
    made.clock.at += 1
    alice = await made.pid(owner=ALICE)
    made.clock.at += 1
    assert await made.pid(owner=BOT) == bot
    await made.pid(owner=BOB)
    assert not exists(alice)
    assert exists(bot)
    await made.upstream.aclose()


async def test_more_principals_than_processes_take_turns() -> None:
    made = client("tiny.py", links=1)
    pids = await asyncio.gather(*(made.pid(owner=owner) for owner in (BOT, ALICE)), return_exceptions=True)
    assert ErrorCode.UPSTREAM_UNAVAILABLE in [pid.code for pid in pids if isinstance(pid, GateError)]
    one = await made.pid(owner=ALICE)
    two = await made.pid(owner=BOT)
    assert one != two
    assert not exists(one)
    await made.upstream.aclose()


async def test_without_an_idle_process_there_is_no_room() -> None:
    made = client("tiny.py", links=1)
    answer = await made.start_call("hold", meta={"progressToken": 1})
    with pytest.raises(GateError) as caught:
        await made.pid(owner=ALICE)
    assert caught.value.code is ErrorCode.UPSTREAM_UNAVAILABLE
    await answer.aclose()
    assert await made.pid(owner=ALICE)
    await made.upstream.aclose()


async def test_a_principal_has_only_so_many_open_calls() -> None:
    made = client("tiny.py", pending=2)
    answers = [await made.start_call("hold", meta={"progressToken": 1}) for _ in range(2)]
    with pytest.raises(GateError) as caught:
        await made.pid()
    assert caught.value.code is ErrorCode.UPSTREAM_UNAVAILABLE
    assert await made.pid(owner=ALICE)
    for answer in answers:
        await answer.aclose()
    assert await made.pid()
    await made.upstream.aclose()


@pytest.mark.parametrize("command", ["no-such-command", "/etc/passwd", "with\0nul"])
async def test_a_command_that_cannot_run_makes_the_server_unavailable_and_is_named(command: str) -> None:
    upstream = StdioUpstream(
        (command,), cwd=None, environment={}, limits=StdioLimits(), clock=SystemClock(), log=lambda name, line: None
    )
    with pytest.raises(GateError) as caught:
        await Client(upstream, StepClock(), []).pid()
    assert caught.value.code is ErrorCode.UPSTREAM_UNAVAILABLE
    assert repr(command) in caught.value.debug
    await upstream.aclose()


async def test_a_directory_that_does_not_exist_makes_the_server_unavailable(tmp_path: Path) -> None:
    upstream = StdioUpstream(
        (sys.executable,),
        cwd=tmp_path / "missing",
        environment={},
        limits=StdioLimits(),
        clock=SystemClock(),
        log=lambda name, line: None,
    )
    with pytest.raises(GateError) as caught:
        await Client(upstream, StepClock(), []).pid()
    assert caught.value.code is ErrorCode.UPSTREAM_UNAVAILABLE
    assert "ENOENT" in caught.value.debug
    await upstream.aclose()


def test_an_empty_command_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="empty"):
        StdioUpstream(
            (), cwd=None, environment={}, limits=StdioLimits(), clock=SystemClock(), log=lambda name, line: None
        )


async def test_a_failing_server_is_started_again_after_a_delay_that_doubles() -> None:
    made = client("hostile.py", "exit", backoff=1.0, backoff_longest=4.0)
    for delay in (1.0, 2.0, 4.0, 4.0):
        with pytest.raises(GateError) as caught:
            await made.pid()
        assert caught.value.code is ErrorCode.UPSTREAM_UNAVAILABLE
        await until(lambda: not made.upstream._lives, "the failed process stayed")
        made.clock.at += delay - 0.01
        with pytest.raises(GateError) as caught:
            await made.pid()
        assert caught.value.code is ErrorCode.UPSTREAM_UNAVAILABLE
        assert not made.upstream._lives, "started during the back-off"
        made.clock.at += 0.01
    await made.upstream.aclose()


async def test_a_server_that_fails_after_a_healthy_time_is_started_again_at_once(tiny: Client) -> None:
    first = await tiny.pid()
    tiny.clock.at += 10
    with pytest.raises(GateError) as caught:
        await tiny.call("die")
    assert caught.value.code is ErrorCode.UPSTREAM_BROKEN
    assert await tiny.pid() != first


async def test_the_back_off_of_one_principal_does_not_hold_another(tiny: Client) -> None:
    with pytest.raises(GateError):
        await tiny.call("die")
    with pytest.raises(GateError) as caught:
        await tiny.pid()
    assert caught.value.code is ErrorCode.UPSTREAM_UNAVAILABLE
    assert await tiny.pid(owner=ALICE)


async def test_forgotten_principals_take_no_memory(tiny: Client) -> None:
    await tiny.pid()
    tiny.clock.at += 300
    tiny.upstream.sweep()
    tiny.clock.at += 300
    tiny.upstream.sweep()
    assert not tiny.upstream._slots


@pytest.mark.parametrize("how", ["die", "close_stdout"])
async def test_every_open_call_fails_when_the_process_breaks(tiny: Client, how: str) -> None:
    pid = await tiny.pid()
    stream = await tiny.start_call("hold", meta={"progressToken": 1})
    calls = [asyncio.create_task(tiny.call(name)) for name in ("hold", "hold", how)]
    for result in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(result, GateError)
        assert result.code is ErrorCode.UPSTREAM_BROKEN
    with pytest.raises(GateError) as caught:
        await raw(stream)
    assert caught.value.code is ErrorCode.UPSTREAM_BROKEN
    await until(lambda: not exists(pid), "the broken process stayed")


async def test_closing_ends_the_process_and_its_supervisor_and_removes_its_directory() -> None:
    made = client("tiny.py")
    pid = await made.pid()
    home = (await made.call("environment"))["HOME"]
    os.makedirs(f"{home}/a/b")  # noqa: PTH103 - Path is refused in async code
    supervisor = supervisor_of(pid)
    open_call = asyncio.create_task(made.call("hold"))
    await made.until_seen(lambda message: message["params"].get("name") == "hold")
    await made.upstream.aclose()
    assert not exists(pid)
    assert not exists(supervisor)
    assert is_gone(home)
    with pytest.raises(GateError) as caught:
        await open_call
    assert caught.value.code is ErrorCode.UPSTREAM_BROKEN
    with pytest.raises(GateError) as caught:
        await made.pid()
    assert caught.value.code is ErrorCode.UPSTREAM_UNAVAILABLE
    await made.upstream.aclose()


async def test_closing_while_a_process_starts_leaves_nothing() -> None:
    made = client("tiny.py")
    before = set(of_proc("self", f"task/{os.getpid()}/children").split())
    call = asyncio.create_task(made.pid())
    await until(lambda: bool(made.upstream._lives), "nothing started")
    await made.upstream.aclose()
    with pytest.raises(GateError) as caught:
        await call
    assert caught.value.code is ErrorCode.UPSTREAM_UNAVAILABLE
    assert set(of_proc("self", f"task/{os.getpid()}/children").split()) <= before


# -- stderr


def stderr(lines: int = 3) -> tuple[StderrLines, list[str], Any]:
    made = client("tiny.py")
    logged: list[str] = []
    limits = StdioLimits(stderr_line_bytes=10, stderr_lines_per_second=lines)
    return StderrLines("s", limits, made.clock, lambda name, line: logged.append(line)), logged, made.clock


def test_stderr_is_logged_by_lines_however_it_arrives() -> None:
    reader, logged, _ = stderr()
    for chunk in (b"on", b"e\r\ntw", b"o\n", b"three"):
        reader.feed(chunk)
    assert logged == ["one", "two"]


def test_a_long_stderr_line_is_cut() -> None:
    reader, logged, _ = stderr()
    for chunk in (b"123456", b"7890ab", b"cdef", b"\nnext\n"):
        reader.feed(chunk)
    assert logged == ["1234567890", "next"]


def test_stderr_cannot_forge_log_lines_or_colours() -> None:
    reader, logged, _ = stderr()
    reader.feed(b"\x1b[2Ja\rb\n\xe2\x80\xa8x\xff\n")
    assert logged == ["\\u001b[2Ja\\u000db", "\\u2028x\\xff"]


def test_stderr_beyond_the_rate_is_counted_only() -> None:
    reader, logged, clock = stderr()
    reader.feed(b"1\n2\n3\n4\n5")
    reader.feed(b"\n6\n7")
    assert logged == ["1", "2", "3"]
    clock.at += 1
    reader.feed(b"\n8\n")
    assert logged == ["1", "2", "3", "(3 more lines on stderr were dropped)", "7", "8"]


async def test_the_servers_stderr_reaches_the_log(tiny: Client) -> None:
    await tiny.call("say", arguments={"text": "hello\nunfinished"})
    await until(lambda: ("under-test", "hello") in tiny.logged, "not logged")
    await tiny.upstream.aclose()
    assert ("under-test", "unfinished") in tiny.logged
