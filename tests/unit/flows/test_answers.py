"""What an upstream's answer must be, and what the caller may see of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gatelab import PRINCIPAL
from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import Kind, Message
from twogate.core.protocol import method_kind
from twogate.flows.gateway.answers import passes, shown_response
from twogate.flows.gateway.exchange import Head
from twogate.flows.gateway.read import Call

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
    )


def result(payload: Any, request_id: int | str | None = 1, *, error: bool = False) -> Message:
    return Message(Kind.RESPONSE, request_id, "", {}, payload, error)


def only(*targets: str) -> Callable[[str], bool]:
    return lambda target: target in targets


def invalid(message: Message, of: Call) -> bool:
    with pytest.raises(GateError) as refusal:
        shown_response(message, of, only())
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
    assert shown_response(result({}, "1"), call(request_id="1"), only()).id == "1"


def test_results_of_other_methods_and_errors_pass_unchanged() -> None:
    message = result({"content": [{"name": "hidden"}], "tools": [{"name": "hidden"}]})
    assert shown_response(message, call(), only()) is message
    error = result({"code": -32000, "message": "no"}, error=True)
    assert shown_response(error, call("tools/list"), only()) is error


@pytest.mark.parametrize(
    "asking",
    [
        result({"resultType": "input_required", "inputRequests": {"a": {}}}),
        result({"inputRequests": {}}),
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
def test_a_list_shows_only_what_is_visible_in_its_order(method: str, version: str) -> None:
    key, name, shown, target = LISTS[method]
    entries: list[Any] = [{name: "x"}, {name: shown, "n": 1}, {name: "y"}, {name: shown, "n": 2}]
    message = result({key: entries, "nextCursor": "c", "other": [1]})
    seen = shown_response(message, call(method, version=version), only(target)).payload
    assert seen[key] == [{name: shown, "n": 1}, {name: shown, "n": 2}]
    assert (seen["nextCursor"], seen["other"]) == ("c", [1])
    assert len(message.payload[key]) == 4


@pytest.mark.parametrize("entry", ["look", 5, None, ["look"], {}, {"name": 5}, {"name": None}, {"name": ["look"]}])
def test_an_entry_without_a_name_is_not_shown(entry: object) -> None:
    seen = shown_response(result({"tools": [entry]}), call("tools/list"), lambda _: True)
    assert seen.payload["tools"] == []


@pytest.mark.parametrize("method", LISTS)
@pytest.mark.parametrize("payload", [{}, {"tools": {}}, {"tools": "all"}, {"items": []}], ids=str)
def test_a_list_without_its_entries_is_invalid(method: str, payload: dict[str, Any]) -> None:
    assert invalid(result(payload), call(method))


def test_a_filtered_list_of_a_modern_client_must_not_be_shared_or_kept() -> None:
    payload = {"tools": [], "cacheScope": "public", "ttlMs": 60_000}
    modern = shown_response(result(payload), call("tools/list", version=MODERN), only()).payload
    assert (modern["cacheScope"], modern["ttlMs"]) == ("private", 0)
    legacy = shown_response(result({"tools": []}), call("tools/list"), only()).payload
    assert legacy == {"tools": []}


@pytest.mark.parametrize(
    ("message", "may"),
    [
        (Message(Kind.NOTIFICATION, None, "notifications/progress", {}), True),
        (Message(Kind.NOTIFICATION, None, "notifications/message", {}), True),
        (Message(Kind.NOTIFICATION, None, "notifications/tools/list_changed", {}), True),
        (Message(Kind.NOTIFICATION, None, "notifications/cancelled", {}), False),
        (Message(Kind.NOTIFICATION, None, "notifications/elicitation/complete", {}), False),
        (Message(Kind.NOTIFICATION, None, "notifications/unknown", {}), False),
        (Message(Kind.REQUEST, 7, "sampling/createMessage", {}), False),
        (Message(Kind.REQUEST, 7, "elicitation/create", {}), False),
        (Message(Kind.REQUEST, 7, "roots/list", {}), False),
        (Message(Kind.REQUEST, 7, "ping", {}), False),
        (Message(Kind.REQUEST, 7, "notifications/progress", {}), False),
    ],
    ids=lambda value: value.method if isinstance(value, Message) else "",
)
def test_notifications_of_the_call_pass_and_nothing_that_asks_the_agent(message: Message, may: bool) -> None:
    assert passes(message) is may
