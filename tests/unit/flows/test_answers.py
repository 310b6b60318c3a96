"""What an upstream's answer must be, and what the caller may see of it."""

from __future__ import annotations

from typing import Any

import pytest

from gatelab import NOW, PRINCIPAL, policy
from pinlab import no_pins
from twogate.core.access import ToolClass, session_targets
from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import Kind, Message
from twogate.core.protocol import MethodKind, method_kind
from twogate.core.session import Session
from twogate.flows.gateway.admit import Admitted
from twogate.flows.gateway.answers import MAX_ASKED, Shown
from twogate.flows.gateway.exchange import Head
from twogate.flows.gateway.meta import RELATED_TASK
from twogate.flows.gateway.read import Call
from twogate.flows.gateway.seal import RequestState, Seal, ServerRequest, TaskId

LEGACY, MODERN = "2025-11-25", "2026-07-28"


def call(method: str = "tools/call", *, version: str = LEGACY, request_id: int | str = 1) -> Call:
    kind = method_kind(version, method)
    assert kind is not None
    return Call(
        Head("POST", "files", {}, b"", "192.0.2.1"),
        PRINCIPAL,
        Message(Kind.REQUEST, request_id, method, {}),
        version,
        kind,
        targets=("files.look",) if kind in (MethodKind.TARGET, MethodKind.TASK) else (),
        tasks={"t-9": "sealed-9"} if kind is MethodKind.LISTEN else {},
    )


SEAL = Seal(bytes(32))
EVERYTHING = frozenset({"sampling", "elicitation", "roots"})
KEY = PRINCIPAL.key


def shown(of: Call, *targets: str, asks: frozenset[str] = frozenset()) -> Shown:
    """What the caller sees of the answer to a call, where its task holds these targets."""
    rules = policy(classes=dict.fromkeys(targets, ToolClass.READ), tasks={"report": frozenset({"read"})})
    session = Session("s1", KEY, "report", session_targets(rules, "executor", "report"), NOW, NOW + 60)
    return Shown(Admitted(of, session, ""), SEAL, rules, asks, no_pins())


async def listed(view: Shown, message: Message) -> Message:
    """A list as the caller sees it, decided on ahead as the relay does."""
    await view.prepare(message)
    return view.response(message)


def result(payload: Any, request_id: int | str | None = 1, *, error: bool = False) -> Message:
    return Message(Kind.RESPONSE, request_id, "", {}, payload, error)


def invalid(message: Message, of: Call, asks: frozenset[str] = frozenset()) -> bool:
    with pytest.raises(GateError) as refusal:
        shown(of, asks=asks).response(message)
    return refusal.value.code is ErrorCode.UPSTREAM_INVALID


@pytest.mark.parametrize(
    "message",
    [
        Message(Kind.REQUEST, 1, "sampling/createMessage", {}),
        Message(Kind.NOTIFICATION, None, "notifications/progress", {}),
        result({}, 2),
        result({}, "1"),
        result({}, None),
        result({"code": 1, "message": ""}, None, error=True),
        result({"code": 1, "message": ""}, 2, error=True),
    ],
    ids=["request", "notification", "other id", "other type of id", "no id", "error without id", "error of another"],
)
def test_what_does_not_answer_this_very_request_is_invalid(message: Message) -> None:
    assert invalid(message, call())


def test_an_id_is_not_only_equal_but_of_the_same_type() -> None:
    assert invalid(result({}, 1), call(request_id="1"))
    assert shown(call(request_id="1")).response(result({}, "1")).id == "1"


def test_results_of_other_methods_and_errors_pass_unchanged() -> None:
    message = result({"content": [{"name": "hidden"}], "tools": [{"name": "hidden"}]})
    assert shown(call()).response(message) == message
    plain = result({"content": [], "structuredContent": {"a": 1}, "isError": False, "_meta": {"x": 1}})
    assert shown(call()).response(plain) is plain
    error = result({"code": -32000, "message": "no"}, error=True)
    assert shown(call("tools/list")).response(error) is error


@pytest.mark.parametrize(
    "asking",
    [
        result({"resultType": "input_required", "inputRequests": {"a": {}}}),
        result({"inputRequests": {"a": {"method": "ping"}}}),
        result({"InputRequests": {}}),
        result({"input_requests": {}}),
        result({"code": -32042, "message": "open this address"}, error=True),
    ],
    ids=["input required", "requests alone", "by case", "by spelling", "URL elicitation"],
)
def test_an_answer_that_asks_the_agent_for_something_is_invalid(asking: Message) -> None:
    assert invalid(asking, call(version=MODERN))


LISTS = {
    "tools/list": ("tools", "name", "look", "files.look"),
    "prompts/list": ("prompts", "name", "look", "files.prompt:look"),
    "resources/list": ("resources", "uri", "file:///a", "files.resource:file:///a"),
    "resources/templates/list": ("resourceTemplates", "uriTemplate", "file:///{a}", "files.resource:file:///{a}"),
}


@pytest.mark.parametrize("method", LISTS)
@pytest.mark.parametrize("version", [LEGACY, MODERN])
async def test_a_list_shows_only_what_is_visible_in_its_order(method: str, version: str) -> None:
    key, name, seen_name, target = LISTS[method]
    entries: list[Any] = [{name: "x"}, {name: seen_name, "n": 1}, {name: "y"}, {name: seen_name, "n": 2}]
    message = result({key: entries, "nextCursor": "c", "other": [1]})
    seen = (await listed(shown(call(method, version=version), target), message)).payload
    assert seen[key] == [{name: seen_name, "n": 1}, {name: seen_name, "n": 2}]
    assert (seen["nextCursor"], seen["other"]) == ("c", [1])
    assert len(message.payload[key]) == 4


@pytest.mark.parametrize("entry", ["look", 5, None, ["look"], {}, {"name": 5}, {"name": None}, {"name": ["look"]}])
async def test_an_entry_without_a_name_is_not_shown(entry: object) -> None:
    seen = await listed(shown(call("tools/list"), "files.look"), result({"tools": [entry]}))
    assert seen.payload["tools"] == []


@pytest.mark.parametrize("method", LISTS)
@pytest.mark.parametrize("payload", [{}, {"tools": {}}, {"tools": "all"}, {"items": []}], ids=str)
def test_a_list_without_its_entries_is_invalid(method: str, payload: dict[str, Any]) -> None:
    assert invalid(result(payload), call(method))


async def test_a_filtered_list_of_a_modern_client_must_not_be_shared_or_kept() -> None:
    payload = {"tools": [], "cacheScope": "public", "ttlMs": 60_000}
    modern = (await listed(shown(call("tools/list", version=MODERN)), result(payload))).payload
    assert (modern["cacheScope"], modern["ttlMs"]) == ("private", 0)
    legacy = (await listed(shown(call("tools/list")), result({"tools": []}))).payload
    assert legacy == {"tools": []}


def notice(method: str, **params: Any) -> Message:
    return Message(Kind.NOTIFICATION, None, method, params)


@pytest.mark.parametrize("method", ["progress", "message", "tools/list_changed", "elicitation/complete"])
def test_notifications_of_the_call_and_of_lists_pass(method: str) -> None:
    message = notice(f"notifications/{method}", x=1)
    assert shown(call()).notification(message) is message


@pytest.mark.parametrize("method", ["unknown", "cancelled", "resources/updated", "tasks/status", "initialized"])
def test_other_notifications_do_not(method: str) -> None:
    assert shown(call("tools/list")).notification(notice(f"notifications/{method}", requestId=1, uri=5)) is None


def test_a_resource_that_the_caller_may_not_read_is_not_said_to_have_changed() -> None:
    told = shown(call("ping"), "files.resource:file:///a")
    assert told.notification(notice("notifications/resources/updated", uri="file:///a")) is not None
    assert told.notification(notice("notifications/resources/updated", uri="file:///b")) is None


# What servers ask of clients.


@pytest.mark.parametrize(
    ("method", "capability"),
    [("sampling/createMessage", "sampling"), ("elicitation/create", "elicitation"), ("roots/list", "roots")],
)
def test_a_server_may_ask_what_its_settings_say_and_nothing_else(method: str, capability: str) -> None:
    message = Message(Kind.REQUEST, 7, method, {})
    passed = shown(call(), asks=frozenset({capability})).request(message)
    assert passed is not None
    assert isinstance(passed.id, str)
    assert SEAL.open(passed.id, ServerRequest, KEY, "files") == ServerRequest(7, method, None)
    assert shown(call(), asks=EVERYTHING - {capability}).request(message) is None


def test_nobody_may_ask_for_methods_that_no_server_has_and_none_ask_without_end() -> None:
    told = shown(call(), asks=EVERYTHING)
    assert told.request(Message(Kind.REQUEST, 7, "tools/call", {})) is None
    for number in range(MAX_ASKED - 1):
        assert told.request(Message(Kind.REQUEST, number, "ping", {})) is not None
    with pytest.raises(GateError) as caught:
        told.request(Message(Kind.REQUEST, -1, "ping", {}))
    assert caught.value.code is ErrorCode.UPSTREAM_INVALID


INPUT = {"resultType": "input_required", "inputRequests": {"a": {"method": "elicitation/create", "params": {}}}}


def test_input_may_be_asked_for_where_the_settings_say_so() -> None:
    message = result({**INPUT, "requestState": "state-1"})
    seen = shown(call(version=MODERN), asks=frozenset({"elicitation"})).response(message).payload
    assert seen["inputRequests"] == INPUT["inputRequests"]
    opened = SEAL.open(seen["requestState"], RequestState, KEY, "files")
    assert opened == RequestState("state-1", "tools/call", "files.look")
    assert invalid(message, call(version=MODERN), frozenset({"sampling"}))


@pytest.mark.parametrize(
    "payload",
    [
        {"InputRequests": INPUT["inputRequests"]},
        {"input_requests": INPUT["inputRequests"]},
        {"inputRequests": [INPUT]},
        {"inputRequests": {"a": {}}},
        {"inputRequests": {"a": {"method": "tools/call"}}},
        {"inputRequests": {**INPUT["inputRequests"], "b": {"method": "roots/read"}}},  # type: ignore[dict-item] # see INPUT
        {"request_state": "s"},
        {"requestState": 5},
    ],
    ids=str,
)
def test_input_in_a_form_that_some_peers_read_otherwise_is_invalid(payload: dict[str, Any]) -> None:
    assert invalid(result(payload), call(version=MODERN), EVERYTHING)


def test_a_url_to_open_may_be_asked_for_where_elicitation_may() -> None:
    asking = result({"code": -32042, "message": "open this address"}, error=True)
    assert shown(call(), asks=frozenset({"elicitation"})).response(asking) is asking
    assert invalid(asking, call(), frozenset({"sampling", "roots"}))


# Tasks.


def opened(task: object) -> TaskId | None:
    assert isinstance(task, str)
    return SEAL.open(task, TaskId, KEY, "files")


def test_every_name_of_a_task_in_a_result_is_the_callers_own() -> None:
    task = {"taskId": "t-1", "status": "working"}
    ours = TaskId("t-1", "files.look")
    created = shown(call()).response(result({"task": task})).payload
    assert opened(created["task"]["taskId"]) == ours
    flat = shown(call("tasks/get")).response(result({**task, "resultType": "task"})).payload
    assert opened(flat["taskId"]) == ours
    related = shown(call()).response(result({"content": [], "_meta": {RELATED_TASK: {"taskId": "t-1"}, "x": 1}}))
    assert opened(related.payload["_meta"][RELATED_TASK]["taskId"]) == ours
    assert related.payload["_meta"]["x"] == 1


def test_the_state_of_a_task_is_told_to_whom_it_belongs() -> None:
    status = shown(call()).notification(notice("notifications/tasks/status", taskId="t-1", status="working"))
    assert status is not None
    assert opened(status.params["taskId"]) == TaskId("t-1", "files.look")
    listening = shown(call("subscriptions/listen", version=MODERN))
    named = listening.notification(notice("notifications/tasks", taskId="t-9", status="working"))
    assert named is not None
    assert named.params["taskId"] == "sealed-9"
    assert listening.notification(notice("notifications/tasks", taskId="t-1", status="working")) is None


def test_the_ids_of_tasks_in_messages_that_need_none_do_not_pass() -> None:
    related = {RELATED_TASK: {"taskId": "t-1"}, "x": 1}
    passed = shown(call()).notification(notice("notifications/message", _meta=related))
    assert passed is not None
    assert passed.params["_meta"] == {"x": 1}


def test_lists_of_tasks_are_not_promised() -> None:
    promised = {"capabilities": {"tasks": {"list": {}, "cancel": {}}, "tools": {}}, "protocolVersion": LEGACY}
    seen = shown(call("initialize")).response(result(promised)).payload
    assert seen["capabilities"] == {"tasks": {"cancel": {}}, "tools": {}}


def test_what_was_answered_to_one_caller_must_not_be_shared() -> None:
    seen = shown(call(version=MODERN)).response(result({"cacheScope": "public", "ttlMs": 5})).payload
    assert seen == {"cacheScope": "private", "ttlMs": 5}
