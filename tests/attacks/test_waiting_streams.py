"""R-34: who listens hears how people decided its own calls, between what the server says, and nobody else does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from harness.issuer import TestIssuer
from harness.upstream import RecordingUpstream, Seen
from rawlab import PATIENCE, until
from twogate.adapters.signers.local import LocalSecret
from twogate.core.approval import Decision, State, Step
from twogate.core.operation import State as Ran
from twogate.core.principal import AgentId, PrincipalKey
from twogate.flows.approvals.parked import Parked
from twogate.flows.gateway.approval_listen import MAX_AWAITED
from twogate.flows.gateway.approval_wait import Pace
from twogate.flows.gateway.seal import ApprovalTask, Seal
from twogate.stores.sql.approvals import SqlParkedStore
from waitinglab import CHANGED, MODERN, TASKS, URL, URLS, WaitingLab, nothing, open_waiting_lab, reason, said

OPENED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
LISTEN = "subscriptions/listen"
TOOLS_CHANGED = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"


@dataclass
class StreamingUpstream(RecordingUpstream):
    """The same server with a GET stream and `subscriptions/listen`, on which it says what it is told to say."""

    streams: list[asyncio.StreamWriter] = field(default_factory=list[asyncio.StreamWriter])
    held: asyncio.Event | None = None
    """What its calls wait for."""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                pairs = (line.partition(":") for line in lines[1:] if line)
                headers = {name.lower(): value.strip() for name, _, value in pairs}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                seen = Seen(lines[0].split(" ")[0], headers, body)
                self.seen.append(seen)
                if seen.method == "GET" or seen.message["method"] == LISTEN:
                    await self._stream(seen, reader, writer)
                    break
                if self.held is not None and seen.message["method"] == "tools/call":
                    await self.held.wait()
                writer.write(self._answer(seen))
                await writer.drain()
        self._writers.discard(writer)
        writer.close()

    async def _stream(self, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OPENED)
        if seen.body:
            wanted = seen.message["params"]["notifications"]
            params = {"notifications": wanted, "_meta": {SUBSCRIPTION: seen.message["id"]}}
            self._event(
                writer, {"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": params}
            )
        await writer.drain()
        self.streams.append(writer)
        while await reader.read(1024):
            pass
        self.streams.remove(writer)

    def _event(self, writer: asyncio.StreamWriter, message: Any) -> None:
        event = f"event: message\ndata: {json.dumps(message)}\n\n".encode()
        writer.write(b"%x\r\n%b\r\n" % (len(event), event))

    async def say(self, message: Any) -> None:
        """Say it on every open stream."""
        for writer in self.streams:
            self._event(writer, message)
            await writer.drain()


class Heard:
    """What a client hears on a stream that it opened."""

    def __init__(self) -> None:
        self.status = 0
        self.refusal: Any = None
        self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.ended = asyncio.Event()

    async def next(self) -> dict[str, Any]:
        """The next message."""
        async with asyncio.timeout(PATIENCE):
            return await self.messages.get()


@asynccontextmanager
async def hearing(lab: WaitingLab, body: Any = None, token: str | None = None, **headers: str) -> AsyncGenerator[Heard]:
    """Open a stream: a GET, or a POST with a body."""
    heard, started = Heard(), asyncio.Event()
    sent = {"mcp_protocol_version": URL, "twogate_task": "edit", **headers}
    given = {name.replace("_", "-"): value for name, value in sent.items()}
    given |= {"authorization": f"Bearer {token or lab.token()}", "accept": "application/json, text/event-stream"}
    given |= {"content-type": "application/json"} if body else {}
    content = json.dumps(body).encode() if body else None

    async def hear() -> None:
        method = "POST" if body else "GET"
        async with lab.stack.http.stream(method, lab.stack.resource(), headers=given, content=content) as answer:
            heard.status = answer.status_code
            if heard.status != 200:
                heard.refusal = json.loads(await answer.aread())["error"]
            started.set()
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    heard.messages.put_nowait(json.loads(line[6:]))
        heard.ended.set()

    client = asyncio.create_task(hear())
    try:
        async with asyncio.timeout(PATIENCE):
            await started.wait()
        yield heard
    finally:
        client.cancel()
        with suppress(asyncio.CancelledError, httpx2.HTTPError):
            await client


def listen(lab: WaitingLab, tasks: list[str], capabilities: Any = TASKS, token: str | None = None, **also: Any) -> Any:
    """Listen to tasks, and to what else is named."""
    prefix = "io.modelcontextprotocol/"
    meta = {f"{prefix}protocolVersion": MODERN, f"{prefix}clientCapabilities": capabilities}
    params = {"notifications": {"taskIds": tasks, **also.pop("notifications", {})}, "_meta": meta}
    body = {"jsonrpc": "2.0", "id": "sub-1", "method": LISTEN, "params": params}
    return hearing(lab, body, token, mcp_protocol_version=MODERN, mcp_method=LISTEN, **also)


async def opened(lab: WaitingLab, capabilities: Any = URLS, token: str | None = None) -> str:
    """A new MCP session, of a client that can have its user open URLs."""
    hello = {"protocolVersion": URL, "capabilities": capabilities, "clientInfo": {"name": "c", "version": "1"}}
    message = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello}
    return str((await lab.send(message, token)).headers["mcp-session-id"])


async def asked(lab: WaitingLab, session: str, arguments: Any = CHANGED) -> str:
    """The elicitation that a call brings, which is the approval's id."""
    error = said(await lab.change(arguments, mcp_session_id=session))["error"]
    assert error["code"] == -32042
    elicitation: str = error["data"]["elicitations"][0]["elicitationId"]
    return elicitation


async def made(lab: WaitingLab, arguments: Any = CHANGED) -> str:
    """The task that a call becomes."""
    task: str = said(await lab.modern_change(arguments, capabilities=TASKS))["result"]["taskId"]
    return task


def listened(lab: WaitingLab) -> list[Any]:
    """What the server was asked to let somebody listen to."""
    messages = [seen.message for seen in lab.upstream.seen if seen.body]
    return [message["params"]["notifications"] for message in messages if message["method"] == LISTEN]


async def decide(lab: WaitingLab, approval: str, outcome: str) -> None:
    parked = await lab.store.get(approval)
    assert parked is not None
    if outcome in ("granted", "denied"):
        await lab.decide(parked, Decision.APPROVE if outcome == "granted" else Decision.DENY)
    else:
        step, now = (
            (Step.EXPIRE, parked.call.deadline) if outcome == "expired" else (Step.CANCEL, parked.call.created_at)
        )
        assert await lab.store.step(approval, step, now, nothing)


def complete(approval: str) -> dict[str, Any]:
    params = {"elicitationId": approval}
    return {"jsonrpc": "2.0", "method": "notifications/elicitation/complete", "params": params}


@pytest.fixture
async def streaming() -> AsyncIterator[StreamingUpstream]:
    upstream = StreamingUpstream()
    async with upstream:
        yield upstream


@pytest.fixture
async def lab(tmp_path: Path, issuer: TestIssuer, streaming: StreamingUpstream) -> AsyncIterator[WaitingLab]:
    async with open_waiting_lab(tmp_path, issuer, streaming) as made:
        yield made


# MCP 2025-11-25: that an elicitation is complete, on the client's own GET stream.


async def test_a_client_hears_on_its_own_stream_that_people_decided_whatever_they_did(
    lab: WaitingLab, streaming: StreamingUpstream
) -> None:
    session = await opened(lab)
    async with hearing(lab, mcp_session_id=session) as heard:
        await streaming.say(TOOLS_CHANGED)
        assert await heard.next() == TOOLS_CHANGED
        # Nothing while nobody decides, however often it asks.
        undecided = await asked(lab, session, {"n": "undecided"})
        assert await asked(lab, session, {"n": "undecided"}) == undecided
        assert heard.messages.empty()
        for number, outcome in enumerate(("granted", "denied", "expired", "cancelled")):
            approval = await asked(lab, session, {"n": number})
            await decide(lab, approval, outcome)
            assert await heard.next() == complete(approval)
            await streaming.say(TOOLS_CHANGED)
            assert await heard.next() == TOOLS_CHANGED
        assert heard.messages.empty()
    assert lab.ran == []


async def test_nobody_else_hears_that_people_decided(lab: WaitingLab, streaming: StreamingUpstream) -> None:
    mine, twin = await opened(lab), lab.token(azp="twin", sub="twin")
    others: dict[str, Any] = {
        "another client of the agent": {"mcp_session_id": await opened(lab)},
        "a client without a session": {},
        "another agent": {"mcp_session_id": await opened(lab, token=twin), "token": twin},
    }
    for headers in others.values():
        async with hearing(lab, **headers) as heard:
            approval = await asked(lab, mine, {"n": str(headers)})
            await decide(lab, approval, "denied")
            async with hearing(lab, mcp_session_id=mine) as own:
                other = await asked(lab, mine, {"n": str(headers), "again": True})
                await decide(lab, other, "denied")
                assert await own.next() == complete(other)
            await streaming.say(TOOLS_CHANGED)
            assert await heard.next() == TOOLS_CHANGED
            assert heard.messages.empty()
    # Nor the client itself in another task: what waits belongs to a session.
    async with hearing(lab, mcp_session_id=mine, twogate_task="report") as heard:
        assert heard.refusal["data"]["reason"] == "session_conflict"
    assert lab.ran == []


async def test_what_was_decided_while_nobody_listened_is_not_told_later(lab: WaitingLab) -> None:
    session = await opened(lab)
    await decide(lab, await asked(lab, session), "denied")
    async with hearing(lab, mcp_session_id=session) as heard:
        later = await asked(lab, session, {"n": 1})
        await decide(lab, later, "denied")
        assert await heard.next() == complete(later)
        assert heard.messages.empty()


async def test_of_two_streams_of_a_client_one_is_told(lab: WaitingLab, streaming: StreamingUpstream) -> None:
    session = await opened(lab)
    async with hearing(lab, mcp_session_id=session) as first, hearing(lab, mcp_session_id=session) as second:
        for number in range(3):
            await decide(lab, await asked(lab, session, {"n": number}), "denied")
        found: list[Any] = []
        async with asyncio.timeout(PATIENCE):
            while len(found) < 3:
                for heard in (first, second):
                    while not heard.messages.empty():
                        found.append(heard.messages.get_nowait())
                await asyncio.sleep(0.01)
        await streaming.say(TOOLS_CHANGED)
        assert [await first.next(), await second.next()] == [TOOLS_CHANGED, TOOLS_CHANGED]
        assert len({message["params"]["elicitationId"] for message in found}) == 3


async def test_a_held_answer_tells_it_before_it_ends(
    tmp_path: Path, issuer: TestIssuer, streaming: StreamingUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_waiting_lab(tmp_path, issuer, streaming, Pace(hold=15, poll=0.02)) as lab:
        session = await opened(lab)
        approval = await asked(lab, session)
        looks, get = [0], SqlParkedStore.get

        async def counted(store: SqlParkedStore, asked_for: str) -> Parked | None:
            looks[0] += 1
            return await get(store, asked_for)

        monkeypatch.setattr(SqlParkedStore, "get", counted)
        held = asyncio.create_task(lab.change(mcp_session_id=session))
        # It looks a few times when it comes, and then again and again only because it waits.
        await until(lambda: looks[0] > 20)
        await decide(lab, approval, "granted")
        answer = await held
        lines = [json.loads(line[6:]) for line in answer.text.split("\n") if line.startswith("data: ")]
        assert lines[0] == complete(approval)
        assert lines[1]["result"]["isError"] is False
        # Once, whatever it opens then.
        async with hearing(lab, mcp_session_id=session) as heard:
            await streaming.say(TOOLS_CHANGED)
            assert await heard.next() == TOOLS_CHANGED
            assert heard.messages.empty()
        assert lab.ran == ["change"]


async def test_a_client_that_does_not_listen_is_told_nothing_and_may_ask(lab: WaitingLab) -> None:
    session = await opened(lab)
    approval = await asked(lab, session)
    await decide(lab, approval, "granted")
    answer = await lab.change(mcp_session_id=session)
    assert answer.headers["content-type"] == "application/json"
    assert said(answer)["result"]["isError"] is False
    assert lab.ran == ["change"]


# MCP 2026-07-28: how a task stands, on `subscriptions/listen`.


async def test_who_listens_to_its_task_hears_it_run_once_it_is_approved(lab: WaitingLab) -> None:
    task = await made(lab)
    async with listen(lab, [task]) as heard:
        first = await heard.next()
        assert first["method"] == "notifications/subscriptions/acknowledged"
        assert first["params"] == {"notifications": {"taskIds": [task]}, "_meta": {SUBSCRIPTION: "sub-1"}}
        working = await heard.next()
        assert working["method"] == "notifications/tasks"
        told = working["params"]
        assert (told["taskId"], told["status"], told["_meta"][SUBSCRIPTION]) == (task, "working", "sub-1")
        assert "resultType" not in told
        assert lab.ran == []
        await lab.decide()
        done = (await heard.next())["params"]
        assert (done["taskId"], done["status"], done["result"]["isError"]) == (task, "completed", False)
    assert lab.ran == ["change"]
    assert listened(lab) == []
    # What it would have been told had it asked.
    got = said(await lab.modern("tasks/get", {"taskId": task}, TASKS))["result"]
    assert {name: got[name] for name in done if name != "_meta"} == {
        name: done[name] for name in done if name != "_meta"
    }
    assert lab.ran == ["change"]


@pytest.mark.parametrize(
    ("outcome", "status", "why"),
    [
        ("denied", "failed", "approval_denied"),
        ("expired", "failed", "approval_expired"),
        ("cancelled", "cancelled", None),
    ],
)
async def test_who_listens_hears_that_its_task_is_over(
    lab: WaitingLab, outcome: str, status: str, why: str | None
) -> None:
    task = await made(lab)
    parked = await lab.only()
    async with listen(lab, [task]) as heard:
        await heard.next()
        assert (await heard.next())["params"]["status"] == "working"
        await decide(lab, parked.call.id, outcome)
        told = (await heard.next())["params"]
        assert told["status"] == status
        assert (told["error"]["data"]["reason"] if why else None) == why
    assert lab.ran == []


async def test_the_server_is_asked_for_the_rest_and_never_hears_of_our_tasks(
    lab: WaitingLab, streaming: StreamingUpstream
) -> None:
    tasks = [await made(lab, {"n": number}) for number in range(2)]
    async with listen(lab, tasks, notifications={"toolsListChanged": True}) as heard:
        first = (await heard.next())["params"]["notifications"]
        assert first == {"toolsListChanged": True, "taskIds": tasks}
        assert {(await heard.next())["params"]["taskId"] for _ in tasks} == set(tasks)
        await streaming.say(TOOLS_CHANGED)
        assert await heard.next() == TOOLS_CHANGED
        for parked in await lab.waiting():
            await lab.decide(parked)
        assert {(await heard.next())["params"]["status"] for _ in tasks} == {"completed"}
        await streaming.say(TOOLS_CHANGED)
        assert await heard.next() == TOOLS_CHANGED
    assert listened(lab) == [{"toolsListChanged": True}]
    assert not any(task.encode() in seen.body for task in tasks for seen in lab.upstream.seen)
    assert lab.ran == ["change", "change"]


async def test_a_task_of_somebody_else_is_as_unknown_as_none(lab: WaitingLab) -> None:
    task = await made(lab)
    parked = await lab.only()
    await lab.decide(parked)
    twin = lab.token(azp="twin", sub="twin")
    tried: list[dict[str, Any]] = [
        {"tasks": [task], "token": twin},
        {"tasks": [task], "twogate_task": "report"},
        {"tasks": [task[:-4] + "AAAA"]},
        {"tasks": [parked.call.id]},
        {"tasks": [task, parked.call.id]},
    ]
    refusals: list[tuple[int, Any]] = []
    for one in tried:
        async with listen(lab, **one) as heard:
            refusals.append((heard.status, heard.refusal))
    # In a task that may not even use the tool, that is what is said.
    assert refusals[1][1]["data"]["reason"] == "not_permitted"
    del refusals[1]
    assert [refusal["data"]["reason"] for _, refusal in refusals] == ["mcp_task_unknown"] * 4
    assert all(refusal == refusals[0] for refusal in refusals)
    assert (lab.ran, listened(lab)) == ([], [])


async def test_a_task_of_another_session_of_the_same_agent_is_unknown(lab: WaitingLab) -> None:
    lab.settings["tasks"]["edit-too"] = lab.settings["tasks"]["edit"]
    lab.settings["agents"]["acme/robot"] |= {"tasks": ["report", "edit", "edit-too"], "concurrent_tasks": 3}
    lab.stack.adopt(lab.settings)
    task = await made(lab)
    await lab.decide()
    async with listen(lab, [task], twogate_task="edit-too") as heard:
        assert (heard.status, heard.refusal["data"]["reason"]) == (400, "mcp_task_unknown")
    assert (lab.ran, listened(lab)) == ([], [])


async def test_who_does_not_declare_tasks_is_told_to(lab: WaitingLab) -> None:
    task = await made(lab)
    await lab.decide()
    async with listen(lab, [task], capabilities=URLS) as heard:
        refused = [(heard.status, heard.refusal)]
    for method in ("tasks/get", "tasks/cancel"):
        answer = await lab.modern(method, {"taskId": task}, URLS)
        refused.append((answer.status_code, answer.json()["error"]))
    wanted: dict[str, Any] = {"extensions": {"io.modelcontextprotocol/tasks": {}}}
    for status, error in refused:
        assert (status, error["code"], error["data"]["reason"]) == (400, -32021, "capability_missing")
        assert error["data"]["requiredCapabilities"] == wanted
    assert lab.last_refusal()["reason"] == "capability_missing"
    assert (lab.ran, listened(lab)) == ([], [])


async def test_nobody_listens_to_any_number_of_tasks(lab: WaitingLab) -> None:
    await made(lab)
    call = (await lab.only()).call
    seal = Seal(LocalSecret.open(lab.stack.directory / "state" / "keys", "mcp-sessions.key"))
    owner = PrincipalKey(call.tenant, call.issuer, call.agent, call.user)
    many = [seal.seal(ApprovalTask(f"{call.id}{n}", call.tool), owner, "files") for n in range(MAX_AWAITED + 1)]
    for tasks, why in ((many, "invalid_params"), (many[1:], "mcp_task_unknown")):
        async with listen(lab, tasks) as heard:
            assert (heard.status, heard.refusal["data"]["reason"]) == (400, why)
    assert (lab.ran, listened(lab)) == ([], [])


async def test_a_token_lets_nobody_listen_and_replaces_no_approval(lab: WaitingLab) -> None:
    task = await made(lab)
    await lab.decide()
    async with listen(lab, [task], twogate_operation_token="a.b.c") as heard:
        assert heard.refusal["data"]["reason"] == "operation_token_invalid"
    assert (lab.ran, listened(lab)) == ([], [])


async def test_a_listener_that_was_cut_off_hears_nothing_and_lets_nothing_run(lab: WaitingLab) -> None:
    task = await made(lab)
    parked = await lab.only()
    async with listen(lab, [task]) as heard:
        await heard.next()
        await heard.next()
        await lab.stack.state.registry_store.disable_agent(AgentId("acme", "robot"), lab.stack.state.clock.now())
        with suppress(AssertionError):  # the end of an agent may end what waits for it first
            await lab.decide(parked)
        async with asyncio.timeout(PATIENCE):
            await heard.ended.wait()
        assert heard.messages.empty()
    assert lab.ran == []


async def test_who_listens_again_hears_how_its_task_ended(lab: WaitingLab) -> None:
    task = await made(lab)
    async with listen(lab, [task]) as heard:
        await heard.next()
        await heard.next()
        await lab.decide()
        assert (await heard.next())["params"]["status"] == "completed"
    async with listen(lab, [task]) as heard:
        await heard.next()
        again = (await heard.next())["params"]
        assert (again["status"], again["result"]["isError"]) == ("completed", False)
    assert lab.ran == ["change"]


async def test_of_many_who_listen_and_ask_one_lets_it_run(lab: WaitingLab) -> None:
    task = await made(lab)
    async with listen(lab, [task]) as first, listen(lab, [task]) as second:
        for heard in (first, second):
            await heard.next()
            await heard.next()
        await lab.decide()
        asking = [lab.modern("tasks/get", {"taskId": task}, TASKS, request_id=n) for n in range(8)]
        answers = [said(answer)["result"]["status"] for answer in await asyncio.gather(*asking)]
        assert set(answers) <= {"working", "completed"}
        for heard in (first, second):
            told = [(await heard.next())["params"]["status"]]
            while told[-1] != "completed":
                told.append((await heard.next())["params"]["status"])
    assert lab.ran == ["change"]


async def test_what_runs_within_a_stream_goes_on_when_the_stream_ends_with_its_configuration(
    lab: WaitingLab, streaming: StreamingUpstream
) -> None:
    streaming.held = asyncio.Event()
    task = await made(lab)
    async with listen(lab, [task]) as heard:
        await heard.next()
        await heard.next()
        parked = await lab.decide()
        await until(lambda: lab.ran == ["change"])
        lab.stack.adopt(lab.settings)
        while "result" not in await heard.next():
            pass
        await heard.ended.wait()
        # A moment in which it would have been broken off.
        for _ in range(5):
            assert said(await lab.modern("tasks/get", {"taskId": task}, TASKS))["result"]["status"] == "working"
        assert await lab.runs.state(parked.call.id, 0) is Ran.STARTED
        streaming.held.set()
        async with asyncio.timeout(PATIENCE):
            while (await lab.store.get(parked.call.id) or parked).result is None:
                await asyncio.sleep(0.01)
    told = said(await lab.modern("tasks/get", {"taskId": task}, TASKS))["result"]
    assert (told["status"], told["result"]["isError"]) == ("completed", False)
    assert lab.ran == ["change"]


# The end of Twogate.


async def test_when_twogate_stops_held_answers_and_streams_end_at_once_and_nothing_starts(
    tmp_path: Path, issuer: TestIssuer, streaming: StreamingUpstream
) -> None:
    async with open_waiting_lab(tmp_path, issuer, streaming, Pace(hold=600, poll=0.05)) as lab:
        task = await made(lab, {"n": 1})
        held = asyncio.create_task(lab.change({"n": 2}))
        await lab.until_waiting(2)
        async with listen(lab, [task]) as heard:
            await heard.next()
            await heard.next()
            lab.stack.app.draining.set()
            async with asyncio.timeout(5):
                assert reason(await held) == "approval_pending"
                assert await heard.next() == {
                    "jsonrpc": "2.0",
                    "id": "sub-1",
                    "result": {"resultType": "complete", "_meta": {SUBSCRIPTION: "sub-1"}},
                }
                await heard.ended.wait()
        for parked in await lab.waiting():
            await lab.decide(parked)
        assert {parked.state for parked in await lab.store.list("acme", frozenset(State), 9)} == {State.GRANTED}
        assert lab.ran == []
