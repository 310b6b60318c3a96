"""R-34: a call that waits runs once, as what was approved, for who asked; and nothing else gets it to run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from attacks.test_handles import events, shown
from crash.holding import HoldingServer
from harness.issuer import TestIssuer
from harness.stack import running
from harness.upstream import RecordingUpstream
from pinlab import a_pin
from rawlab import Peer, RawServer, until
from twogate.core.approval import Decision, State
from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.operation import State as Run
from twogate.core.principal import AgentId
from twogate.flows.approvals.parked import Parked
from twogate.flows.gateway.approval_wait import Pace
from twogate.flows.gateway.caller import PROVEN_FOR
from twogate.flows.gateway.parked_run import ParkedRuns, Standing
from twogate.stores.sql.approvals import SqlParkedStore
from twogate.stores.sql.operations import SqlOperationStore
from twogate.stores.sql.pins import SqlPinStore
from waitinglab import CHANGED, TASKS, WaitingLab, open_waiting_lab, reason, said


@pytest.fixture
async def lab(tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream) -> AsyncIterator[WaitingLab]:
    async with open_waiting_lab(tmp_path, issuer, upstream) as made:
        yield made


# The way that it should go.


async def test_a_call_is_held_then_told_in_words_and_runs_when_it_comes_again_approved(lab: WaitingLab) -> None:
    answer = await lab.change(meta={"progressToken": 7})
    assert answer.headers["content-type"] == "text/event-stream"
    assert '"progressToken":7' in answer.text
    assert reason(answer) == "approval_pending"
    parked = await lab.only()
    result = said(answer)["result"]
    assert f"{lab.stack.url}/approvals/{parked.call.id}" in result["content"][0]["text"]
    told = result["_meta"]["io.modelcontextprotocol/authorization"]
    assert (told["reason"], told["remediation"]) == ("insufficient_authorization", "available")
    assert told["authorizationContextId"] == parked.call.id
    assert lab.ran == []
    await lab.decide(parked)
    answer = await lab.change(request_id="again")
    assert (answer.json()["id"], answer.json()["result"]["isError"]) == ("again", False)
    assert lab.ran == ["change"]
    intents = [event for event in lab.stack.events() if event["kind"] == "call.intent"]
    assert intents[-1]["detail"] == f"approval {parked.call.id} by bob"


async def test_a_held_call_runs_as_soon_as_it_is_approved(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    async with open_waiting_lab(tmp_path, issuer, upstream, Pace(hold=15, poll=0.02)) as lab:
        held = asyncio.create_task(lab.change())
        await lab.until_waiting()
        await lab.decide()
        assert said(await held)["result"]["isError"] is False
        assert lab.ran == ["change"]


async def test_input_is_asked_for_at_once_and_the_retry_runs_what_was_approved(lab: WaitingLab) -> None:
    asked = said(await lab.modern_change())["result"]
    parked = await lab.only()
    assert asked["resultType"] == "input_required"
    assert asked["inputRequests"]["approve"]["params"]["url"] == f"{lab.stack.url}/approvals/{parked.call.id}"
    retry = {"inputResponses": {"approve": {"action": "accept"}}, "requestState": asked["requestState"]}
    again = said(await lab.modern_change(**retry, request_id=2))["result"]
    # Agreeing to open the page approves nothing.
    assert again["resultType"] == "input_required"
    assert lab.ran == []
    await lab.decide(parked)
    answer = await lab.modern_change(**retry, request_id=3)
    assert said(answer)["result"]["isError"] is False
    assert lab.ran == ["change"]
    sent = lab.upstream.seen[-1].message["params"]
    assert "inputResponses" not in sent
    assert "requestState" not in sent


async def test_a_task_works_until_it_is_approved_and_runs_within_the_question_for_it(lab: WaitingLab) -> None:
    made = said(await lab.modern_change(capabilities=TASKS))["result"]
    assert (made["resultType"], made["status"]) == ("task", "working")
    task = {"taskId": made["taskId"]}
    assert said(await lab.modern("tasks/get", task, TASKS))["result"]["status"] == "working"
    update = await lab.modern("tasks/update", {**task, "inputResponses": {}}, TASKS)
    assert reason(update) == "not_permitted"
    await lab.decide()
    for _ in range(2):
        got = said(await lab.modern("tasks/get", task, TASKS))["result"]
        assert (got["status"], got["result"]["isError"]) == ("completed", False)
    assert lab.ran == ["change"]
    assert lab.upstream.seen[-1].message["params"]["arguments"] == CHANGED


async def test_the_error_of_2025_11_25_tells_where_and_the_same_call_runs_later(lab: WaitingLab) -> None:
    hello: dict[str, Any] = {
        "protocolVersion": "2025-11-25",
        "capabilities": {"elicitation": {"url": {}}},
        "clientInfo": {},
    }
    opened = await lab.send({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello})
    session: dict[str, Any] = {"mcp_session_id": opened.headers["mcp-session-id"]}
    error = said(await lab.change(**session))["error"]
    parked = await lab.only()
    assert error["code"] == -32042
    (asked,) = error["data"]["elicitations"]
    assert (asked["mode"], asked["elicitationId"]) == ("url", parked.call.id)
    await lab.decide(parked)
    assert said(await lab.change(**session))["result"]["isError"] is False
    assert lab.ran == ["change"]


@pytest.mark.parametrize(
    ("method", "params"), [("prompts/get", {"name": "p"}), ("resources/read", {"uri": "file:///gated"})]
)
async def test_prompts_and_resources_wait_too(lab: WaitingLab, method: str, params: dict[str, Any]) -> None:
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    assert reason(await lab.send(message)) == "approval_pending"
    assert lab.upstream.seen == []
    await lab.decide()
    assert "result" in said(await lab.send(message))
    assert [seen.message["method"] for seen in lab.upstream.seen] == [method]


async def test_a_tool_whose_rule_does_not_hold_runs_and_one_that_cannot_be_judged_waits(lab: WaitingLab) -> None:
    small = {"by": ["approver"], "when": {"arguments": [{"at": "/amount", "over": 100}]}}
    lab.settings["tools"]["files.find"]["approval"] = small
    lab.stack.adopt(lab.settings)
    for arguments, waits in (({"amount": 7}, False), ({"amount": 700}, True), ({"amount": "7"}, True), ({}, True)):
        params = {"name": "find", "arguments": arguments}
        answer = await lab.send({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
        assert said(answer)["result"]["isError"] is waits, arguments
    assert lab.ran == ["find"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"amount": 7, "Amount": 700},
        {"AMOUNT": 700, "amount": 7},
        {"amount": 7, "a_mount": 700},
        {"amount": 7, "\u1d43mount": 700},
        {"amount": 7, "__proto__": {"amount": 700}},
        {"amount": 7, "amount" + "_" * 300: 700},
        {"amount": 7, **{f"x{number}": 0 for number in range(300)}},
    ],
    ids=["case", "order", "underscore", "compatibility form", "prototype", "long name", "too many to look at"],
)
async def test_an_argument_that_a_server_may_take_for_another_is_no_way_around_a_person(
    lab: WaitingLab, arguments: dict[str, Any]
) -> None:
    lab.settings["tools"]["files.find"]["approval"] = {
        "by": ["approver"],
        "when": {"arguments": [{"at": "/amount", "over": 100}]},
    }
    lab.stack.adopt(lab.settings)
    params = {"name": "find", "arguments": arguments}
    answer = await lab.send({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
    assert reason(answer) == "approval_pending"
    assert (len(await lab.waiting()), lab.ran) == (1, [])


async def test_who_cannot_be_judged_by_a_mild_rule_waits_for_those_of_the_strict_one(lab: WaitingLab) -> None:
    lab.settings["tools"]["files.find"]["approval"] = [
        {"by": ["approver"], "when": {"arguments": [{"at": "/amount", "under": 100}]}},
        {"by": ["administrator"], "people": 2},
    ]
    lab.stack.adopt(lab.settings)
    for arguments in ({"amount": "700"}, {}, {"amount": 7, "Amount": 700}):
        params = {"name": "find", "arguments": arguments}
        answer = await lab.send({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
        assert reason(answer) == "approval_pending"
    rules = {(one.call.rule.people, *sorted(one.call.rule.duties)) for one in await lab.waiting()}
    assert rules == {(2, "administrator")}
    assert lab.ran == []


async def test_input_to_a_task_brings_no_arguments_by_which_its_rule_could_be_judged(lab: WaitingLab) -> None:
    rule = {"by": ["approver"], "when": {"arguments": [{"at": "/amount", "over": 100}]}}
    lab.settings["tools"]["files.change"] |= {"approval": rule, "class": "read"}
    lab.stack.adopt(lab.settings)
    lab.upstream.extra["tools/call"] = {"resultType": "task", "taskId": "t-1", "status": "working"}
    large = {"amount": 700}
    ours = said(await lab.modern_change(large))["result"]
    await lab.decide()
    made = said(await lab.modern_change(large, requestState=ours["requestState"]))["result"]
    assert made["resultType"] == "task"
    lab.upstream.seen.clear()
    update = {"taskId": made["taskId"], "inputResponses": {"sure": {"action": "accept"}}, "arguments": {"amount": 7}}
    assert reason(await lab.modern("tasks/update", update, TASKS)) == "not_permitted"
    assert lab.upstream.seen == []


async def test_reading_a_resource_brings_no_arguments_by_which_its_rule_could_be_judged(lab: WaitingLab) -> None:
    rule = {"by": ["approver"], "when": {"arguments": [{"at": "/amount", "over": 100}]}}
    lab.settings["tools"]["files.resource:file:///gated"] |= {"approval": rule, "class": "read"}
    lab.stack.adopt(lab.settings)
    params = {"uri": "file:///gated", "arguments": {"amount": 7}}
    answer = await lab.send({"jsonrpc": "2.0", "id": 1, "method": "resources/read", "params": params})
    assert reason(answer) == "approval_pending"
    assert lab.upstream.seen == []


# Once, and one answer.


async def test_of_twenty_identical_calls_at_once_one_runs_and_all_get_its_answer(lab: WaitingLab) -> None:
    await lab.change()
    await lab.decide()
    answers = await asyncio.gather(*(lab.change(request_id=number) for number in range(20)))
    assert [said(answer)["id"] for answer in answers] == list(range(20))
    assert {said(answer)["result"]["content"][0]["text"] for answer in answers} == {"change done"}
    assert lab.ran == ["change"]
    # So does whoever comes later, in whatever form.
    assert said(await lab.modern_change())["result"]["content"][0]["text"] == "change done"
    assert lab.ran == ["change"]


async def test_a_server_that_got_nothing_leaves_the_approval_good(lab: WaitingLab) -> None:
    await lab.change()
    parked = await lab.decide()
    url = lab.settings["servers"]["files"].pop("url")
    lab.settings["servers"]["files"]["url"] = "http://127.0.0.1:9/mcp"
    lab.stack.adopt(lab.settings)
    assert reason(await lab.change()) == "upstream_unavailable"
    assert await lab.runs.state(parked.call.id, 0) is Run.READY
    lab.settings["servers"]["files"]["url"] = url
    lab.stack.adopt(lab.settings)
    assert said(await lab.change())["result"]["isError"] is False
    assert lab.ran == ["change"]


async def test_a_task_whose_server_got_nothing_has_not_failed(lab: WaitingLab) -> None:
    made = said(await lab.modern_change(capabilities=TASKS))["result"]
    await lab.decide()
    port = int(lab.upstream.url.rpartition(":")[2].partition("/")[0])
    await lab.upstream.__aexit__()
    for _ in range(2):
        answer = await lab.modern("tasks/get", {"taskId": made["taskId"]}, TASKS)
        assert reason(answer) == "upstream_unavailable"
        assert lab.stack.events()[-1]["kind"] == "call.outcome"
    lab.upstream._server = await asyncio.start_server(lab.upstream._serve, "127.0.0.1", port)
    # "failed" would have been its end (MCP 2026-07-28, tasks).
    assert said(await lab.modern("tasks/get", {"taskId": made["taskId"]}, TASKS))["result"]["status"] == "completed"
    assert lab.ran == ["change"]


async def test_a_failure_of_the_one_run_is_its_answer_and_nothing_runs_again(lab: WaitingLab) -> None:
    await lab.change()
    await lab.decide()
    lab.upstream.raw_answer = b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"
    assert reason(await lab.change()) == "upstream_invalid"
    lab.upstream.raw_answer = None
    assert reason(await lab.change()) == "upstream_invalid"
    assert lab.ran == ["change"]


async def test_an_answer_that_is_too_long_is_given_once_and_then_said_to_be_gone(lab: WaitingLab) -> None:
    text = "x" * (1024 * 1024)
    lab.upstream.extra["tools/call"] = {"content": [{"type": "text", "text": text}], "isError": False}
    await lab.change()
    await lab.decide()
    assert said(await lab.change())["result"]["content"][0]["text"] == text
    assert reason(await lab.change()) == "approval_decided"
    assert lab.ran == ["change"]


# What was denied, and what is another call.


@pytest.mark.parametrize("form", ["held", "input", "task"])
async def test_a_denied_call_stays_denied_in_every_form(lab: WaitingLab, form: str) -> None:
    if form == "held":
        await lab.change()
        await lab.decide(decision=Decision.DENY)
        answers = [await lab.change() for _ in range(3)]
    elif form == "input":
        asked = said(await lab.modern_change())["result"]
        await lab.decide(decision=Decision.DENY)
        retry = {"inputResponses": {"approve": {"action": "accept"}}, "requestState": asked["requestState"]}
        answers = [await lab.modern_change(**retry), await lab.modern_change()]
    else:
        made = said(await lab.modern_change(capabilities=TASKS))["result"]
        await lab.decide(decision=Decision.DENY)
        got = said(await lab.modern("tasks/get", {"taskId": made["taskId"]}, TASKS))["result"]
        assert (got["status"], got["error"]["data"]["reason"]) == ("failed", "approval_denied")
        answers = [await lab.modern_change(capabilities=TASKS)]
    assert {reason(answer) for answer in answers} == {"approval_denied"}
    assert lab.ran == []
    assert lab.last_refusal()["reason"] == "approval_denied"


async def test_what_was_approved_is_no_approval_of_other_arguments(lab: WaitingLab) -> None:
    await lab.change()
    await lab.decide()
    for arguments in ({"path": "/b", "text": "hello"}, {**CHANGED, "force": True}, {"path": "/a"}, {}):
        assert reason(await lab.change(arguments)) == "approval_pending"
    assert lab.ran == []


async def test_a_state_is_for_one_call_of_one_caller(lab: WaitingLab) -> None:
    asked = said(await lab.modern_change())["result"]
    state = asked["requestState"]
    await lab.decide()
    responses = {"inputResponses": {"approve": {"action": "accept"}}}
    answers = [
        await lab.modern_change({"path": "/b"}, requestState=state, **responses),
        await lab.modern_change({**CHANGED, "x": 1}, requestState=state),
        await lab.modern_change(requestState=state[:-4] + "AAAA", **responses),
        await lab.modern_change(requestState="x", **responses),
        await lab.modern_change(requestState=state, token=lab.token(azp="twin", sub="twin"), **responses),
        await lab.modern("tools/call", {"name": "find", "arguments": CHANGED, "requestState": state, **responses}),
    ]
    assert {reason(answer) for answer in answers} == {"request_state_unknown"}
    assert lab.ran == []
    assert said(await lab.modern_change(requestState=state, **responses))["result"]["isError"] is False
    assert lab.ran == ["change"]


async def test_a_task_is_its_callers_alone(lab: WaitingLab) -> None:
    made = said(await lab.modern_change(capabilities=TASKS))["result"]
    await lab.decide()
    for task, token in (
        (made["taskId"], lab.token(azp="twin", sub="twin")),
        (made["taskId"][:-4] + "AAAA", None),
        ((await lab.store.list("acme", frozenset(State), 1))[0].call.id, None),
    ):
        assert reason(await lab.modern("tasks/get", {"taskId": task}, TASKS, token=token)) == "mcp_task_unknown"
        assert reason(await lab.modern("tasks/cancel", {"taskId": task}, TASKS, token=token)) == "mcp_task_unknown"
    assert lab.ran == []


async def test_a_cancelled_task_never_runs(lab: WaitingLab) -> None:
    made = said(await lab.modern_change(capabilities=TASKS))["result"]
    task, parked = {"taskId": made["taskId"]}, await lab.only()
    assert "result" in said(await lab.modern("tasks/cancel", task, TASKS))
    assert await lab.state(parked) is State.CANCELLED
    assert said(await lab.modern("tasks/get", task, TASKS))["result"]["status"] == "cancelled"
    assert reason(await lab.modern_change(capabilities=TASKS)) == "approval_cancelled"
    assert lab.ran == []


async def test_another_agents_approval_is_not_this_agents(lab: WaitingLab) -> None:
    await lab.change()
    await lab.decide()
    assert reason(await lab.change(token=lab.token(azp="twin", sub="twin"))) == "approval_pending"
    assert lab.ran == []


async def test_a_token_replaces_no_approval(lab: WaitingLab) -> None:
    assert reason(await lab.change(twogate_operation_token="a.b.c")) == "operation_token_invalid"
    assert reason(await lab.change(meta={"dev.twogate/operation-token": "a.b.c"})) == "operation_token_invalid"
    assert await lab.waiting() == []
    assert lab.ran == []


async def test_a_batch_is_not_held_and_its_member_waits(lab: WaitingLab) -> None:
    batch = [
        {"jsonrpc": "2.0", "id": n, "method": "tools/call", "params": {"name": name, "arguments": CHANGED}}
        for n, name in enumerate(("look", "change"))
    ]
    answer = await lab.send(batch, mcp_protocol_version="2025-03-26")
    first, second = answer.json()
    assert first["result"]["isError"] is False
    assert second["result"]["_meta"]["dev.twogate/reason"] == "approval_pending"
    assert lab.ran == ["look"]
    await lab.decide()
    first, second = (await lab.send(batch, mcp_protocol_version="2025-03-26")).json()
    assert second["result"]["isError"] is False
    assert lab.ran == ["look", "look", "change"]


async def test_a_notification_runs_nothing(lab: WaitingLab) -> None:
    message = {"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "change", "arguments": CHANGED}}
    answer = await lab.send(message)
    assert answer.status_code == 400
    assert (await lab.waiting(), lab.ran) == ([], [])


# Limits.


async def test_an_agent_cannot_let_more_than_ten_calls_wait(lab: WaitingLab) -> None:
    for number in range(10):
        assert said(await lab.modern_change({"n": number}))["result"]["resultType"] == "input_required"
    assert reason(await lab.modern_change({"n": 10})) == "rate_limited"
    assert len(await lab.waiting()) == 10
    assert lab.ran == []


async def test_only_some_calls_of_an_agent_are_held_and_the_others_told_at_once(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    async with open_waiting_lab(tmp_path, issuer, upstream, Pace(hold=60, poll=0.02, most=2)) as lab:
        held = [asyncio.create_task(lab.change({"n": number})) for number in range(3)]
        told, left = await asyncio.wait(held, return_when=asyncio.FIRST_COMPLETED)
        assert [reason(task.result()) for task in told] == ["approval_pending"]
        # Another agent's are its own.
        other = asyncio.create_task(lab.change({"n": 3}, token=lab.token(azp="twin", sub="twin")))
        await lab.until_waiting(4)
        for parked in await lab.waiting():
            await lab.decide(parked, Decision.DENY)
        assert {reason(answer) for answer in await asyncio.gather(*left, other)} == {"approval_denied"}


# What changed since.


async def test_an_approval_dies_with_the_session(lab: WaitingLab) -> None:
    asked = said(await lab.modern_change())["result"]
    parked = await lab.decide()
    await lab.stack.app.state.sessions.end(parked.call.session, parked.call.created_at)
    await lab.stack.app.state.revision.read()
    retry = {"inputResponses": {"approve": {"action": "accept"}}, "requestState": asked["requestState"]}
    answers = [
        await lab.modern_change(**retry, twogate_session=parked.call.session),
        await lab.change(twogate_session=parked.call.session),
    ]
    assert {reason(answer) for answer in answers} <= {"session_ended", "session_unknown", "session_expired"}
    assert lab.ran == []
    assert await lab.state(parked) is State.CANCELLED


async def test_who_names_another_session_ends_nothing_and_runs_nothing(lab: WaitingLab) -> None:
    made = said(await lab.modern_change(capabilities=TASKS))["result"]
    parked, task = await lab.decide(), {"taskId": made["taskId"]}
    twins = said(await lab.modern_change(token=lab.token(azp="twin", sub="twin")))
    assert "result" in twins
    foreign = next(one.call.session for one in await lab.waiting())
    for session in ("no-such-session", foreign):
        answer = await lab.modern("tasks/get", task, TASKS, twogate_session=session)
        assert reason(answer) == "session_refused"
    assert lab.ran == []
    # The trail would tell of a session that was over, and was not.
    assert await lab.state(parked) is State.GRANTED
    assert said(await lab.modern("tasks/get", task, TASKS))["result"]["status"] == "completed"
    assert lab.ran == ["change"]


async def test_an_approval_runs_nothing_that_the_agent_may_not_do_any_more(lab: WaitingLab) -> None:
    made = said(await lab.modern_change(capabilities=TASKS))["result"]
    await lab.decide()
    lab.settings["agents"]["acme/robot"]["role"] = "reader"
    lab.stack.adopt(lab.settings)
    assert reason(await lab.change()) == "not_permitted"
    assert reason(await lab.modern("tasks/get", {"taskId": made["taskId"]}, TASKS)) == "not_permitted"
    del lab.settings["agents"]["acme/robot"], lab.settings["clients"]["gate"]
    lab.stack.adopt(lab.settings)
    assert (await lab.change()).status_code == 401
    assert lab.ran == []


async def test_a_rule_that_was_changed_needs_another_approval(lab: WaitingLab) -> None:
    await lab.change()
    parked = await lab.decide()
    lab.settings["tools"]["files.change"]["approval"] = {"by": ["administrator"], "people": 2}
    lab.stack.adopt(lab.settings)
    assert reason(await lab.change()) == "approval_cancelled"
    assert await lab.state(parked) is State.CANCELLED
    assert lab.ran == []


async def test_a_held_call_does_not_run_by_the_rule_of_a_configuration_that_is_gone(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = asyncio.Queue[None]()
    standing = ParkedRuns.standing

    async def noted(self: ParkedRuns, parked: Parked) -> Standing:
        looked.put_nowait(None)
        return await standing(self, parked)

    monkeypatch.setattr(ParkedRuns, "standing", noted)
    async with open_waiting_lab(tmp_path, issuer, upstream, Pace(hold=60, poll=1)) as lab:
        held = asyncio.create_task(lab.change())
        # It has looked again, so it pauses now; what follows happens within that pause.
        for _ in range(3):
            await looked.get()
        lab.settings["tools"]["files.change"]["approval"] = {"by": ["administrator"], "people": 2}
        lab.stack.adopt(lab.settings)
        parked = await lab.decide()
        assert reason(await held) == "approval_pending"
        assert reason(await lab.change()) == "approval_cancelled"
        assert await lab.state(parked) is State.CANCELLED
        assert lab.ran == []


async def test_what_comes_back_when_nothing_needs_an_approval_any_more_is_refused(lab: WaitingLab) -> None:
    asked = said(await lab.modern_change())["result"]
    made = said(await lab.modern_change({"x": 1}, capabilities=TASKS))["result"]
    for tool in lab.settings["tools"].values():
        tool.pop("approval", None)
    lab.stack.adopt(lab.settings)
    answer = await lab.modern_change(requestState=asked["requestState"])
    assert reason(answer) == "request_state_unknown"
    assert reason(await lab.modern("tasks/get", {"taskId": made["taskId"]}, TASKS)) == "mcp_task_unknown"
    assert lab.ran == []


async def test_a_disabled_agents_approval_runs_nothing(lab: WaitingLab) -> None:
    made = said(await lab.modern_change(capabilities=TASKS))["result"]
    await lab.decide()
    state = lab.stack.state
    await state.registry_store.disable_agent(AgentId("acme", "robot"), state.clock.now())
    for answer in (await lab.change(), await lab.modern("tasks/get", {"taskId": made["taskId"]}, TASKS)):
        assert (answer.status_code, reason(answer)) == (401, "invalid_token")
    assert lab.ran == []
    assert set(lab.stack.reasons()[-2:]) == {"agent_disabled"}


async def test_an_approval_is_for_the_tool_as_it_was_pinned_when_it_was_asked_for(lab: WaitingLab) -> None:
    await lab.change()
    parked = await lab.decide()
    shown = {"name": "change", "inputSchema": {"type": "object"}}
    store = SqlPinStore(lab.stack.state.engine)
    await store.approve([a_pin("files.change", shown)])
    await lab.stack.state.revision.read()
    assert reason(await lab.change()) == "approval_cancelled"
    assert await lab.state(parked) is State.CANCELLED
    assert lab.ran == []


@pytest.mark.parametrize("change", ["session", "pin"])
async def test_what_changes_while_the_store_starts_a_call_keeps_it_from_running(
    lab: WaitingLab, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    await lab.change()
    parked, state = await lab.decide(), lab.stack.state
    start = SqlOperationStore.start

    async def slow(self: SqlOperationStore, *operation: Any) -> Run | None:
        begun = await start(self, *operation)
        if change == "session":
            await state.sessions.end(parked.call.session, parked.call.created_at)
        else:
            shown_now = {"name": "change", "inputSchema": {"type": "object"}}
            await SqlPinStore(state.engine).approve([a_pin("files.change", shown_now)])
        await state.revision.read()
        await asyncio.sleep(2 * PROVEN_FOR)
        return begun

    monkeypatch.setattr(SqlOperationStore, "start", slow)
    assert reason(await lab.change()) in {"session_ended", "approval_cancelled"}
    assert lab.ran == []
    assert await lab.runs.state(parked.call.id, 0) is Run.READY
    assert await lab.state(parked) is State.CANCELLED


async def test_another_tenants_agent_finds_nothing_of_it(lab: WaitingLab) -> None:
    lab.settings["issuers"][0]["tenants"].append("globex")
    lab.settings["agents"]["globex/robot"] = {
        "role": "executor", "tasks": ["edit"], "default_task": "edit",
        "bindings": [{"issuer": lab.issuer.url, "subject": "globex-robot"}],
    }  # fmt: skip
    lab.stack.adopt(lab.settings)
    foreign = lab.token(azp="globex-robot", sub="globex-robot", tenant="globex")
    made = said(await lab.modern_change(capabilities=TASKS))["result"]
    asked = said(await lab.modern_change())["result"]
    await lab.decide()
    task = {"taskId": made["taskId"]}
    assert reason(await lab.modern("tasks/get", task, TASKS, token=foreign)) == "mcp_task_unknown"
    stolen = await lab.modern_change(requestState=asked["requestState"], token=foreign)
    assert reason(stolen) == "request_state_unknown"
    assert reason(await lab.change(token=foreign)) == "approval_pending"
    assert lab.ran == []


# A server that asks for more.


async def test_what_a_server_asks_in_between_is_approved_with_its_answer(lab: WaitingLab) -> None:
    lab.settings["servers"]["files"]["client_requests"] = ["elicitation"]
    lab.stack.adopt(lab.settings)
    question: dict[str, Any] = {
        "method": "elicitation/create",
        "params": {"mode": "form", "message": "Sure?", "requestedSchema": {}},
    }
    asking: dict[str, Any] = {
        "resultType": "input_required",
        "inputRequests": {"sure": question},
        "requestState": "of-the-server",
    }
    lab.upstream.extra["tools/call"] = asking
    ours = said(await lab.modern_change())["result"]
    await lab.decide()
    theirs = said(await lab.modern_change(requestState=ours["requestState"], inputResponses={"approve": {}}))["result"]
    assert list(theirs["inputRequests"]) == ["sure"]
    del lab.upstream.extra["tools/call"]
    # Their state fits the call that was approved, and no other.
    yes: dict[str, Any] = {
        "inputResponses": {"sure": {"action": "accept", "content": {}}},
        "requestState": theirs["requestState"],
    }
    assert reason(await lab.modern_change({"path": "/b"}, **yes)) == "request_state_unknown"
    lab.upstream.seen.clear()
    again = said(await lab.modern_change(**yes))["result"]
    assert list(again["inputRequests"]) == ["approve"]
    assert lab.upstream.seen == []
    (second,) = [one for one in await lab.waiting() if one.state is State.PENDING]
    await lab.decide(second)
    done = await lab.modern_change(requestState=again["requestState"], inputResponses={"approve": {}})
    assert said(done)["result"]["isError"] is False
    (sent,) = [seen.message["params"] for seen in lab.upstream.seen]
    assert (sent["inputResponses"], sent["requestState"]) == (yes["inputResponses"], "of-the-server")


class AskingServer(HoldingServer):
    """One that asks its client something by the way; of `hold` calls not before they are released."""

    def __init__(self) -> None:
        super().__init__()
        self.refusals: list[Any] = []

    async def serve(self, peer: Peer) -> None:
        while True:
            message = json.loads((await peer.request()).partition(b"\r\n\r\n")[2])
            if "method" not in message:
                self.refusals.append(message["error"]["code"])
                await peer.send(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n")
                continue
            tool = message["params"]["name"]
            self.calls.append(tool)
            if tool == "hold":
                await self.released.wait()
            asked = {"jsonrpc": "2.0", "id": f"of-{tool}", "method": "elicitation/create", "params": {"message": "?"}}
            await peer.send(events(asked, {"jsonrpc": "2.0", "id": message["id"], "result": {"content": []}}))


async def test_while_an_approved_call_runs_its_server_asks_its_agent_nothing(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    asking = AskingServer()
    async with RawServer(asking.serve) as server, open_waiting_lab(tmp_path, issuer, upstream) as lab:
        lab.settings["servers"]["files"] = {"url": server.url, "client_requests": ["elicitation"]}
        lab.settings["tools"]["files.hold"] = {"class": "read", "approval": {"by": ["approver"]}}
        lab.settings["tasks"]["edit"]["tools"].append("files.hold")
        lab.stack.adopt(lab.settings)

        async def call(tool: str, token: str | None = None) -> httpx2.Response:
            params: dict[str, Any] = {"name": tool, "arguments": {}}
            return await lab.send({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}, token)

        assert reason(await call("hold")) == "approval_pending"
        await lab.decide()
        running = asyncio.create_task(call("hold"))
        await until(lambda: asking.calls == ["hold"])
        # Which call a question belongs to, not every server says: it could be about the approved one.
        assert [message.get("method") for message in shown(await call("look"))] == [None]
        # Another agent's calls are its own.
        twins = shown(await call("look", lab.token(azp="twin", sub="twin")))
        assert [message.get("method") for message in twins] == ["elicitation/create", None]
        asking.released.set()
        assert said(await running)["result"] == {"content": []}
        assert asking.refusals == [-32601, -32601]
        assert [message.get("method") for message in shown(await call("look"))] == ["elicitation/create", None]


# What fails.


async def test_a_client_that_goes_away_while_it_is_held_changes_nothing(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    async with open_waiting_lab(tmp_path, issuer, upstream, Pace(hold=60, poll=0.02, most=1)) as lab:
        held = asyncio.create_task(lab.change())
        await lab.until_waiting()
        held.cancel()
        await asyncio.gather(held, return_exceptions=True)
        parked = await lab.decide()
        # Its place is free again, and what it asked for runs for who sends it.
        assert said(await lab.change())["result"]["isError"] is False
        assert await lab.state(parked) is State.GRANTED
        assert lab.ran == ["change"]


async def test_a_client_that_goes_away_while_its_call_runs_finds_the_answer_later(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    holding = HoldingServer()
    async with RawServer(holding.serve) as server, open_waiting_lab(tmp_path, issuer, upstream) as lab:
        lab.settings["servers"]["files"] = {"url": server.url}
        lab.settings["tools"]["files.hold"] = {"class": "write", "approval": {"by": ["approver"]}}
        lab.settings["tasks"]["edit"]["tools"].append("files.hold")
        lab.stack.adopt(lab.settings)
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "hold", "arguments": {}}}
        await lab.send(message)
        parked = await lab.decide()
        running = asyncio.create_task(lab.send(message))
        async with asyncio.timeout(10):
            while not holding.calls:
                await asyncio.sleep(0.01)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            assert await lab.runs.state(parked.call.id, 0) is Run.STARTED
            assert reason(await lab.send(message)) == "approval_pending"
            holding.released.set()
            while await lab.runs.state(parked.call.id, 0) is Run.STARTED:
                await asyncio.sleep(0.01)
        assert said(await lab.send(message))["result"]["content"][0]["text"] == "hold done"
        assert holding.calls == ["hold"]


async def test_a_new_configuration_breaks_no_run_off_whose_client_went_away(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    holding = HoldingServer()
    async with RawServer(holding.serve) as server, open_waiting_lab(tmp_path, issuer, upstream) as lab:
        lab.settings["servers"]["files"] = {"url": server.url}
        lab.settings["tools"]["files.hold"] = {"class": "write", "approval": {"by": ["approver"]}}
        lab.settings["tasks"]["edit"]["tools"].append("files.hold")
        lab.stack.adopt(lab.settings)
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "hold", "arguments": {}}}
        await lab.send(message)
        parked = await lab.decide()
        running = asyncio.create_task(lab.send(message))
        await until(lambda: holding.calls == ["hold"])
        lab.stack.adopt(lab.settings)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        for _ in range(3):
            assert reason(await lab.send(message)) == "approval_pending"
        holding.released.set()
        async with asyncio.timeout(10):
            while await lab.runs.state(parked.call.id, 0) is Run.STARTED:
                await asyncio.sleep(0.01)
        assert said(await lab.send(message))["result"]["content"][0]["text"] == "hold done"
        assert holding.calls == ["hold"]


async def test_without_the_audit_trail_nothing_is_parked_and_nothing_runs(
    lab: WaitingLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = lab.stack.state.audit
    append, broken = audit.append, {EventKind.APPROVAL_REQUESTED, EventKind.CALL_INTENT}

    async def failing(event: Any) -> None:
        if event.kind in broken:
            raise GateError(ErrorCode.AUDIT_UNAVAILABLE, "told to")
        await append(event)

    monkeypatch.setattr(audit, "append", failing)
    assert reason(await lab.change()) == "unavailable"
    assert await lab.waiting() == []
    broken.discard(EventKind.APPROVAL_REQUESTED)
    await lab.change()
    parked = await lab.decide()
    assert reason(await lab.change()) == "unavailable"
    assert await lab.runs.state(parked.call.id, 0) is Run.READY
    assert lab.ran == []
    broken.clear()
    assert said(await lab.change())["result"]["isError"] is False
    assert lab.ran == ["change"]


async def test_without_the_store_nothing_runs(lab: WaitingLab, monkeypatch: pytest.MonkeyPatch) -> None:
    await lab.change()
    await lab.decide()

    async def gone(*_: object) -> None:
        raise GateError(ErrorCode.STORE_UNAVAILABLE, "told to")

    with monkeypatch.context() as patch:
        patch.setattr(SqlOperationStore, "start", gone)
        assert reason(await lab.change()) == "unavailable"
        assert lab.ran == []
    with monkeypatch.context() as patch:
        patch.setattr(SqlParkedStore, "get", gone)
        assert reason(await lab.change()) == "unavailable"
        assert lab.ran == []
    assert said(await lab.change())["result"]["isError"] is False
    assert lab.ran == ["change"]


async def test_an_answer_that_cannot_be_kept_is_given_and_never_made_again(
    lab: WaitingLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lab.change()
    await lab.decide()

    async def gone(*_: object) -> bool:
        raise GateError(ErrorCode.STORE_UNAVAILABLE, "told to")

    monkeypatch.setattr(SqlParkedStore, "keep_result", gone)
    assert said(await lab.change())["result"]["isError"] is False
    for _ in range(2):
        assert reason(await lab.change()) == "approval_decided"
    assert lab.ran == ["change"]


async def test_an_answer_that_is_being_kept_elsewhere_is_not_said_to_be_lost(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeping, lost, keep = asyncio.Event(), asyncio.Event(), SqlParkedStore.keep_result
    standing = ParkedRuns.standing

    async def slow(self: SqlParkedStore, approval: str, sealed: bytes) -> bool:
        keeping.set()
        await lost.wait()
        return await keep(self, approval, sealed)

    async def noted(self: ParkedRuns, parked: Parked) -> Standing:
        found = await standing(self, parked)
        if found is Standing.LOST:
            lost.set()
        return found

    monkeypatch.setattr(SqlParkedStore, "keep_result", slow)
    monkeypatch.setattr(ParkedRuns, "standing", noted)
    async with open_waiting_lab(tmp_path, issuer, upstream, Pace(hold=60, poll=1)) as lab:
        made = said(await lab.modern_change(capabilities=TASKS))["result"]
        await lab.decide()
        first = asyncio.create_task(lab.modern("tasks/get", {"taskId": made["taskId"]}, TASKS))
        await keeping.wait()
        # Another generation knows as little of it as another replica.
        lab.stack.adopt(lab.settings)
        for answer in (await lab.modern("tasks/get", {"taskId": made["taskId"]}, TASKS), await first):
            assert said(answer)["result"]["status"] == "completed"
        assert lab.ran == ["change"]


async def test_a_restart_loses_no_parked_call_and_lets_it_run_once(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    settings: dict[str, Any] = {}
    async with open_waiting_lab(tmp_path, issuer, upstream) as lab:
        settings |= lab.settings
        made = said(await lab.modern_change(capabilities=TASKS))["result"]
        await lab.decide()
    async with running(tmp_path, settings) as stack:
        again = WaitingLab(stack, upstream, issuer, settings)
        for _ in range(2):
            got = said(await again.modern("tasks/get", {"taskId": made["taskId"]}, TASKS))["result"]
            assert (got["status"], got["result"]["isError"]) == ("completed", False)
    assert upstream.calls == ["change"]
