"""Stdio servers that flood, lie, look around, ask for what they must not have, or refuse to die."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stdio_servers.harness import (
    ALICE,
    BOB,
    BOT,
    HERE,
    OTHER_TENANT,
    Client,
    alive,
    client,
    event,
    exists,
    forked,
    is_gone,
    messages,
    of_proc,
    raw,
    supervisor_of,
    until,
)
from twogate.adapters.upstream.duplex_channel import DuplexLimits
from twogate.adapters.upstream.stdio_process import as_line
from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import Kind, Message, encode_message

BY_REQUEST = ("notifications/cancelled", "notifications/progress")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
async def tiny() -> AsyncIterator[Client]:
    made = client("tiny.py", environment={"CONFIGURED": "yes"})
    yield made
    await made.upstream.aclose()


# -- What the server sees of us


async def test_the_environment_holds_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CANARY", "PYTHONPATH", "LD_LIBRARY_PATH", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "canary")
    made = client("tiny.py", environment={"CONFIGURED": "yes"})
    environment = await made.call("environment")
    pid = await made.pid()
    supervisor = of_proc(supervisor_of(pid), "environ")
    await made.upstream.aclose()
    assert set(environment) == {"PATH", "LANG", "HOME", "TMPDIR", "CONFIGURED"}
    assert "canary" not in str(environment)
    # A process of the same user can read the supervisor's environment too.
    assert "canary" not in supervisor


@linux
async def test_the_server_inherits_no_descriptor(tmp_path: Path) -> None:
    with (tmp_path / "secret").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)
        made = client("tiny.py")
        descriptors = await made.call("descriptors")
        await made.upstream.aclose()
    assert set(descriptors) == {"0", "1", "2"}
    assert len(set(descriptors.values())) == 3
    assert all(link.startswith("pipe:") for link in descriptors.values())


@linux
async def test_the_server_has_a_session_of_its_own_no_core_dumps_and_no_new_privileges(tiny: Client) -> None:
    pid = await tiny.pid()
    assert os.getsid(pid) == os.getpgid(pid) == pid
    assert "NoNewPrivs:\t1" in of_proc(pid, "status")
    limits = of_proc(pid, "limits").splitlines()
    assert next(line for line in limits if "core" in line).split()[4:6] == ["0", "0"]


async def test_the_server_cannot_ask_a_client_that_declared_nothing(tiny: Client) -> None:
    answer = await tiny.start_call("ask", meta={"progressToken": 1})
    assert await messages(answer) == [{"jsonrpc": "2.0", "id": 1, "result": {}}]
    ping = await tiny.until_seen(lambda message: message.get("id") == "a")
    sampling = await tiny.until_seen(lambda message: message.get("id") == "b")
    assert ping["result"] == {}
    assert sampling["error"]["code"] == -32601


async def test_what_belongs_to_no_call_reaches_nobody(tiny: Client) -> None:
    # Modern, so that the held call is number 1, which a progress token of `true` must not name.
    held = await tiny.start_call("hold", meta={"progressToken": "h"}, modern=True)
    stray = await tiny.start_call("stray", meta={"progressToken": "s"}, modern=True)
    # A log message is the latest call's, since nothing says whose it is.
    chunks = [event(chunk) async for chunk in stray.chunks()]
    assert [message.get("method") for message in chunks] == ["notifications/progress", "notifications/message", None]
    assert chunks[-1]["result"] == {"id": 2}
    assert await tiny.call("stray", modern=True) == {"id": 3}
    await tiny.call("release", modern=True)
    chunks = [event(chunk) async for chunk in held.chunks()]
    assert [message.get("params") for message in chunks] == [
        {"progressToken": "h", "progress": 1},
        {"progressToken": "h", "progress": 2},
        None,
    ]


async def test_an_argument_cannot_become_a_line_of_its_own(tiny: Client) -> None:
    text = 'a\nb\r\u2028{"jsonrpc":"2.0"}\u2029\x85\x0b\x0c\x1c'
    await tiny.pid()
    assert (await tiny.call("echo", arguments={"x": text}))["echo"] == {"x": text}
    seen = (await tiny.call("seen"))["seen"]
    assert len(seen) == 5


def test_no_line_that_is_written_splits_as_unicode_does() -> None:
    text = "".join(map(chr, range(0x3000)))
    line = as_line(encode_message(Message(Kind.REQUEST, 1, "x", {text: text}))).decode()
    assert len(line.splitlines()) == 1


# -- What the server writes


@pytest.mark.parametrize("mode", ["garbage", "blank", "batch", "long_line", "endless_line"])
async def test_a_line_that_is_no_message_fails_every_call_and_ends_the_process(mode: str) -> None:
    made = client("hostile.py", mode)
    await made.send("ping", {})
    (life,) = made.upstream._lives
    results = await asyncio.gather(*(made.call("x", identifier=n) for n in range(3)), return_exceptions=True)
    for result in results:
        assert isinstance(result, GateError)
        assert result.code is ErrorCode.UPSTREAM_INVALID
    await asyncio.wait([life], timeout=20)
    assert life.done()
    with pytest.raises(GateError) as caught:
        await made.call("x")
    assert caught.value.code is ErrorCode.UPSTREAM_UNAVAILABLE, "no back-off"
    await made.upstream.aclose()


async def test_a_greeting_before_the_handshake_is_no_message_either() -> None:
    made = client("hostile.py", "garbage_at_start")
    with pytest.raises(GateError) as caught:
        await made.call("x")
    assert caught.value.code is ErrorCode.UPSTREAM_INVALID
    await made.upstream.aclose()


async def test_a_flood_on_stderr_neither_blocks_the_server_nor_fills_the_log() -> None:
    made = client("hostile.py", "flood_stderr", stderr_lines_per_second=5)
    for _ in range(20):
        assert (await made.call("x"))["pid"]
    await until(lambda: len(made.logged) >= 5, "nothing logged")
    await made.upstream.aclose()
    # The test's clock stood still: five lines, the count of the others, and perhaps a cut last line.
    assert [line for _, line in made.logged[:5]] == ["all work and no play"] * 5
    assert len(made.logged) <= 7


async def test_a_flood_on_stdout_holds_neither_calls_nor_the_event_loop() -> None:
    made = client("hostile.py", "flood_stdout")
    await made.call("x")
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    ticking = asyncio.create_task(tick())
    for _ in range(5):
        await made.call("x")
    ticking.cancel()
    assert ticks > 5
    await made.upstream.aclose()


@pytest.mark.parametrize("reader", ["stream", "call", "nobody"])
async def test_a_flood_of_questions_holds_neither_calls_nor_memory(reader: str) -> None:
    before = asyncio.all_tasks()
    made = client("hostile.py", "flood_requests", questions=5)
    session = await made.initialize(sampling={})
    stream = await made.listen(session) if reader == "stream" else None
    held = [await made.start_call("x", session=session)] if reader == "call" else []
    for n in range(3):
        (*asked, answer) = await messages(await made.start_call("x", session=session, identifier=n))
        assert answer["id"] == n
        assert len(asked) <= 5
    link = made.upstream._slots[BOT, False, session].link
    assert link is not None
    assert len(link._conversation._questions) <= 5
    for open_answer in [*held, *([stream] if stream is not None else [])]:
        await open_answer.aclose()
    await made.upstream.aclose()
    assert asyncio.all_tasks() <= before


async def test_a_message_of_a_megabyte_passes_whole(tiny: Client) -> None:
    text = "x" * 1024 * 1024
    assert (await tiny.call("echo", arguments={"x": text}))["echo"] == {"x": text}


async def test_one_call_cannot_be_answered_in_anothers_name_by_a_client_or_a_late_server(tiny: Client) -> None:
    session = await tiny.initialize(sampling={})
    first = asyncio.create_task(tiny.call("hold", arguments={"n": 1}, session=session, identifier="first"))
    held = await tiny.until_seen(lambda message: message["params"].get("arguments") == {"n": 1}, session=session)
    # A client that guesses the number on the line answers nothing with it: only questions are answered.
    for guess in (held["id"], str(held["id"]), 1, "1"):
        assert (await tiny.respond(guess, {"forged": True}, session=session)).status == 202
    await tiny.call("release", session=session)
    assert await first == {"held": {"n": 1}}
    seen = (await tiny.call("seen", session=session))["seen"]
    assert not [message for message in seen if "forged" in str(message)]


async def test_what_a_client_declares_cannot_reach_the_command_or_another_process(tiny: Client) -> None:
    session = await tiny.initialize(experimental={"x\n{}": {"__proto__": [], "constructor": "\u2028"}})
    seen = (await tiny.call("seen", session=session))["seen"]
    assert [message["method"] for message in seen] == ["initialize", "notifications/initialized", "tools/call"]
    assert seen[0]["params"]["capabilities"] == {"experimental": {"x\n{}": {"__proto__": [], "constructor": "\u2028"}}}


async def test_unread_progress_is_bounded_and_the_response_still_arrives() -> None:
    made = client("tiny.py", queued_bytes=1000)
    answer = await made.start_call("flood_progress", meta={"progressToken": "t"}, arguments={"count": 5000})
    await made.pid()
    chunks = [event(chunk) async for chunk in answer.chunks()]
    assert chunks[-1]["result"] == {"done": True}
    assert 0 < len(chunks) < 20
    await made.upstream.aclose()


async def test_a_server_that_does_not_read_times_out_and_is_ended() -> None:
    made = client("hostile.py", "deaf")
    await made.send("ping", {})
    (life,) = made.upstream._lives
    for size in (1, 1_000_000, 1_000_000):
        with pytest.raises(GateError) as caught:
            await made.call("x", arguments={"x": "x" * size}, timeout=0.2)
        assert caught.value.code is ErrorCode.UPSTREAM_TIMEOUT
    await made.upstream.aclose()
    assert life.done()


# -- Servers that do not want to die


@linux
@pytest.mark.parametrize("mode", ["stubborn", "leaver"])
async def test_closing_ends_servers_that_ignore_sigterm_and_all_they_forked(mode: str, tmp_path: Path) -> None:
    made = client("hostile.py", mode, str(tmp_path))
    pid = await made.pid()
    everybody = [pid, supervisor_of(pid), *forked(tmp_path).values()]
    assert len(everybody) == 5
    assert all(map(alive, everybody))
    await made.upstream.aclose()
    assert not [one for one in everybody if exists(one)]


@linux
async def test_killing_the_gateway_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [sys.executable, str(HERE / "owner.py"), sys.executable, "-I", str(HERE / "hostile.py"), "stubborn"]
    gateway = subprocess.Popen([*command, str(tmp_path)], stdout=subprocess.PIPE)  # noqa: ASYNC220 - starts at once
    assert gateway.stdout is not None
    try:
        line = await asyncio.to_thread(gateway.stdout.readline)
        assert b'"pid"' in line
        server = int(line.rpartition(b'"pid":')[2].split(b"}")[0])
        home = dict(line.split("=", 1) for line in of_proc(server, "environ").split("\0") if line)["HOME"]
        everybody = [server, supervisor_of(server), *forked(tmp_path).values()]
        assert len(everybody) == 5
        assert all(map(alive, everybody))
    finally:
        gateway.kill()
        gateway.wait()
        gateway.stdout.close()
    await until(lambda: not any(map(alive, everybody)), "orphans")
    await until(lambda: is_gone(home), "the directory stayed")


@linux
async def test_a_server_that_kills_its_supervisor_dies_with_its_group(tmp_path: Path) -> None:
    made = client("hostile.py", "parricide", str(tmp_path))
    await made.send("ping", {})
    (life,) = made.upstream._lives
    pids = forked(tmp_path)
    try:
        with pytest.raises(GateError) as caught:
            await made.call("x")
        assert caught.value.code is ErrorCode.UPSTREAM_BROKEN
        await asyncio.wait([life], timeout=20)
        assert life.done()
        assert not alive(pids["child"])
    finally:
        # Sessions of their own escape then: the limit that the supervisor's docstring names.
        for pid in pids.values():
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        await made.upstream.aclose()


@linux
async def test_a_server_dies_with_its_supervisor_even_if_the_gateway_does_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # With both killed nobody is left to remove the server's directory.
    homes, children = tmp_path / "homes", tmp_path / "children"
    homes.mkdir()
    children.mkdir()
    monkeypatch.setenv("TMPDIR", str(homes))
    command = [sys.executable, str(HERE / "owner.py"), sys.executable, "-I", str(HERE / "hostile.py"), "stubborn"]
    gateway = subprocess.Popen([*command, str(children)], stdout=subprocess.PIPE)  # noqa: ASYNC220 - starts at once
    assert gateway.stdout is not None
    try:
        line = await asyncio.to_thread(gateway.stdout.readline)
        server = int(line.rpartition(b'"pid":')[2].split(b"}")[0])
        gateway.send_signal(signal.SIGSTOP)
        os.kill(supervisor_of(server), signal.SIGKILL)
        await until(lambda: not alive(server), "the server outlived its supervisor")
    finally:
        gateway.kill()
        gateway.wait()
        gateway.stdout.close()
        for pid in forked(children).values():
            if alive(pid):
                os.kill(pid, signal.SIGKILL)


@linux
@pytest.mark.parametrize("modern", [False, True])
async def test_nobody_cancels_anothers_call_by_its_id(tiny: Client, modern: bool) -> None:
    held = await tiny.start_call("hold", meta={"progressToken": 7}, identifier=7, modern=modern)
    for owner in (ALICE, OTHER_TENANT):
        await tiny.pid(owner=owner, modern=modern)
        for method, params in (
            ("notifications/cancelled", {"requestId": 7}),
            ("notifications/progress", {"progressToken": 7, "progress": 1}),
        ):
            assert (await tiny.send(method, params, identifier=None, owner=owner, modern=modern)).status == 202
        seen = (await tiny.call("seen", owner=owner, modern=modern))["seen"]
        assert [message for message in seen if message["method"] in BY_REQUEST] == []
    seen = (await tiny.call("seen", modern=modern))["seen"]
    assert [message for message in seen if message["method"] in BY_REQUEST] == []
    # Its own caller ends it, by the id that the server knows it under.
    assert (await tiny.send("notifications/cancelled", {"requestId": 7}, identifier=None, modern=modern)).status == 202
    (number,) = [message["id"] for message in seen if message["params"].get("name") == "hold"]
    cancelled = await tiny.until_seen(lambda message: message["method"] in BY_REQUEST, modern=modern)
    assert cancelled["params"]["requestId"] == number
    await held.aclose()


async def test_a_tenant_with_every_process_of_its_own_busy_leaves_another_its_part() -> None:
    made = client("tiny.py", links=4, links_per_tenant=2, links_per_owner=1)
    held = [await made.start_call("hold", owner=owner, meta={"progressToken": 1}) for owner in (BOT, ALICE)]
    with pytest.raises(GateError) as caught:
        await made.pid(owner=BOB)
    assert caught.value.code is ErrorCode.UPSTREAM_UNAVAILABLE
    theirs = await made.pid(owner=OTHER_TENANT)
    for answer in held:
        await answer.aclose()
    assert exists(theirs)
    await made.upstream.aclose()


async def test_a_tenant_that_needs_room_ends_processes_of_its_own_only() -> None:
    made = client("tiny.py", links=4, links_per_tenant=2, links_per_owner=1)
    # Unused for longest, and it keeps what it may have in memory.
    theirs = await made.pid(owner=OTHER_TENANT)
    made.clock.at += 1
    first = await made.pid(owner=BOT)
    for owner in (ALICE, BOB, BOT, ALICE):
        made.clock.at += 1
        await made.pid(owner=owner)
    assert not exists(first)
    assert await made.pid(owner=OTHER_TENANT) == theirs
    await made.upstream.aclose()


@pytest.mark.parametrize(("tenants", "part"), [(0, 64), (1, 64), (2, 32), (8, 8), (9, 8), (1000, 8)])
def test_the_parts_of_all_tenants_fit_together(tenants: int, part: int) -> None:
    limits = DuplexLimits().divided(tenants)
    assert limits.links_per_tenant == part
    assert limits.links >= max(64, part * tenants)


async def test_a_stopped_supervisor_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("twogate.adapters.upstream.stdio_process._KILL_SECONDS", 0.2)
    monkeypatch.setattr("twogate.adapters.upstream.stdio_process._REAP_ROUNDS", 10)
    made = client("tiny.py")
    pid = await made.pid()
    home = (await made.call("environment"))["HOME"]
    supervisor = supervisor_of(pid)
    os.kill(supervisor, signal.SIGSTOP)
    async with asyncio.timeout(10):
        await made.upstream.aclose()
    await until(lambda: not alive(pid), "the server outlived its supervisor")
    assert not exists(supervisor)
    assert is_gone(home)


async def test_the_answer_of_an_ended_call_never_reaches_the_next_one(tiny: Client) -> None:
    with pytest.raises(GateError) as caught:
        await tiny.call("hold", arguments={"secret": 1}, identifier=1, timeout=1.0)
    assert caught.value.code is ErrorCode.UPSTREAM_TIMEOUT
    answer = await tiny.start_call("hold", meta={"progressToken": 1}, arguments={"mine": 2}, identifier=1)
    await tiny.call("release", identifier=1)
    text = await raw(answer)
    assert b"mine" in text
    assert b"secret" not in text
