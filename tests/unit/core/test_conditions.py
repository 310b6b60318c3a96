"""What policies see of a call: its arguments by their declared types, its moment, its address."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policylab import asked, principal
from twogate.core.conditions import (
    MAX_ITEMS,
    MAX_MEMBERS,
    MAX_TEXT,
    ArgumentRefusedError,
    ArgumentType,
    Declared,
    Kind,
    address_of,
    arguments_of,
    context_of,
    entities_of,
    kind_of,
    name_of,
    read_arguments,
)

DECLARED: Declared = {
    "flag": ArgumentType.BOOL,
    "count": ArgumentType.LONG,
    "path": ArgumentType.STRING,
    "price": ArgumentType.DECIMAL,
    "tags": ArgumentType.STRINGS,
    "lines": ArgumentType.LONGS,
    "options": {"force": ArgumentType.BOOL, "deep": {"name": ArgumentType.STRING}},
}


def decimal(text: str) -> dict[str, Any]:
    return {"__extn": {"fn": "decimal", "arg": text}}


@pytest.mark.parametrize(
    ("given_", "seen"),
    [
        ({}, {}),
        ({"other": object()}, {}),
        ({"flag": False, "count": -(2**63)}, {"flag": False, "count": -(2**63)}),
        ({"count": 2**63 - 1}, {"count": 2**63 - 1}),
        ({"path": "", "tags": [], "lines": [1, 1]}, {"path": "", "tags": [], "lines": [1, 1]}),
        ({"path": "x" * MAX_TEXT}, {"path": "x" * MAX_TEXT}),
        ({"tags": ["a"] * MAX_ITEMS}, {"tags": ["a"] * MAX_ITEMS}),
        ({"options": {}}, {"options": {}}),
        ({"options": {"force": True, "other": 1}}, {"options": {"force": True}}),
        ({"options": {"deep": {"name": "x"}}}, {"options": {"deep": {"name": "x"}}}),
        ({"price": 3}, {"price": decimal("3.0000")}),
        ({"price": 12.5}, {"price": decimal("12.5000")}),
        ({"price": -0.0001}, {"price": decimal("-0.0001")}),
        ({"price": -0.0}, {"price": decimal("0.0000")}),
        ({"price": 1e5}, {"price": decimal("100000.0000")}),
        ({"price": 922337203685477}, {"price": decimal("922337203685477.0000")}),
    ],
)
def test_declared_arguments_are_seen_as_they_are(given_: dict[str, Any], seen: dict[str, Any]) -> None:
    assert read_arguments(DECLARED, given_) == seen


@pytest.mark.parametrize(
    "given_",
    [
        *({name: None} for name in DECLARED),
        *({name: {"__extn": {"fn": "ip", "arg": "::1"}}} for name in DECLARED if name != "options"),
        {"flag": 0},
        {"flag": "true"},
        {"count": True},
        {"count": 1.0},
        {"count": "1"},
        {"count": 2**63},
        {"count": -(2**63) - 1},
        {"path": 1},
        {"path": ["x"]},
        {"path": "x" * (MAX_TEXT + 1)},
        {"path": "x" * MAX_TEXT, "tags": ["y"]},
        {"price": "1.5"},
        {"price": True},
        {"price": 0.12345},
        {"price": 1e300},
        {"price": float("inf")},
        {"price": float("nan")},
        {"price": 2**63},
        {"tags": "a"},
        {"tags": {"a": 1}},
        {"tags": ["a", None]},
        {"tags": ["a"] * (MAX_ITEMS + 1)},
        {"lines": [1, True]},
        {"lines": [1.0]},
        {"options": []},
        {"options": {"force": 1}},
        {"options": {"Force": True}},
        {"options": {"deep": {"NAME": "x"}}},
        {"Path": "x"},
        {"pa-th": "x"},
        {"ｐath": "x"},
        {"x" * 129: 1},
        {f"x{n}": n for n in range(MAX_MEMBERS + 1)},
    ],
    ids=str,
)
def test_what_is_not_as_declared_is_refused_and_its_value_is_not_repeated(given_: dict[str, Any]) -> None:
    with pytest.raises(ArgumentRefusedError) as refused:
        read_arguments(DECLARED, given_)
    assert "argument" in str(refused.value)
    assert len(str(refused.value)) < 120


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*DECLARED, "other", "PATH"]), _JSON))
def test_whatever_is_given_is_seen_by_its_type_or_refused(arguments: dict[str, Any]) -> None:
    try:
        seen = read_arguments(DECLARED, arguments)
    except ArgumentRefusedError:
        return
    assert seen.keys() == arguments.keys() & DECLARED.keys()
    assert "PATH" not in arguments
    for name, value in seen.items():
        if name not in ("price", "options"):
            assert (value, type(value)) == (arguments[name], type(arguments[name]))


@pytest.mark.parametrize(
    ("target", "method", "params", "known"),
    [
        ("git.commit", "tools/call", {"arguments": {"a": 1}}, {"a": 1}),
        ("git.commit", "tools/call", {}, {}),
        ("git.commit", "tasks/get", {"taskId": "t"}, None),
        ("git.commit", "subscriptions/listen", {"notifications": {"taskIds": ["t"]}}, None),
        ("git.commit", "GET", {}, None),
        ("git.prompt:review", "prompts/get", {"arguments": {"language": "en"}}, {"language": "en"}),
        (
            "git.prompt:review",
            "completion/complete",
            {"argument": {"name": "language", "value": "e"}, "context": {"arguments": {"other": "x"}}},
            {"other": "x", "language": "e"},
        ),
        ("git.resource:file:///a", "resources/read", {"uri": "file:///b"}, {"uri": "file:///a"}),
        ("git.resource:file:///a", "subscriptions/listen", {}, {"uri": "file:///a"}),
        ("git.resource:file:///a", "GET", {}, {"uri": "file:///a"}),
    ],
)
def test_arguments_are_known_of_calls_and_of_resources_always(
    target: str, method: str, params: dict[str, Any], known: dict[str, Any] | None
) -> None:
    assert arguments_of(asked(target, method=method, params=params), kind_of(target)) == known


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"argument": 5},
        {"argument": {"name": "language"}},
        {"argument": {"name": ["language"], "value": "e"}},
        # Servers that care for no letter case would complete `language`, and use the last of the values.
        {"argument": {"name": "other", "value": "x", "Name": "language", "Value": "en"}},
        {"argument": {"name": "language", "value": "x"}, "context": []},
        {"argument": {"name": "other", "value": "x"}, "context": {"arguments": ["language"]}},
        {"argument": {"name": "other", "value": "x"}, "context": {"Arguments": {"language": "en"}}},
    ],
    ids=str,
)
def test_a_completion_in_which_servers_could_see_other_arguments_is_refused(params: dict[str, Any]) -> None:
    call = asked("git.prompt:review", method="completion/complete", params=params)
    with pytest.raises(ArgumentRefusedError, match="completion"):
        arguments_of(call, Kind.PROMPT)


@pytest.mark.parametrize(
    ("entry", "kind", "name"),
    [
        ("git.commit", Kind.TOOL, "commit"),
        ("git.tool:resource:x", Kind.TOOL, "resource:x"),
        ("git.prompt:review", Kind.PROMPT, "review"),
        ("git.resource:file:///a.b", Kind.RESOURCE, "file:///a.b"),
    ],
)
def test_a_target_has_a_kind_and_a_name(entry: str, kind: Kind, name: str) -> None:
    assert (kind_of(entry), name_of(entry, kind)) == (kind, name)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::FFFF:C000:0201", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("unix", None),
        ("", None),
        ("192.0.2.1.", None),
        ("192.0.2.01", None),
        ("localhost", None),
    ],
)
def test_an_address_is_seen_in_one_form(text: str, seen: str | None) -> None:
    assert address_of(text) == seen


@given(st.integers(0, 4_102_444_800))
def test_the_moment_is_that_of_the_calendar_in_utc(now: int) -> None:
    moment = datetime.fromtimestamp(now, UTC)
    context = context_of(asked(now=now), {})
    assert (context["hour"], context["weekday"]) == (moment.hour, moment.isoweekday())
    assert context["time"]["__extn"]["arg"] == moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def test_without_a_session_the_task_is_empty_and_of_this_moment() -> None:
    assert context_of(asked(task=None), {})["session"] == {"task": "", "created": context_of(asked(), {})["time"]}


def test_an_agent_alone_has_no_user_and_a_user_has_roles_as_entities() -> None:
    alone, _ = entities_of(asked(), Kind.TOOL)
    assert "user" not in alone["attrs"]
    behind, _ = entities_of(asked(by=principal(roles=("reader",), groups=("staff",))), Kind.TOOL)
    assert behind["attrs"]["user"]["roles"] == [{"__entity": {"type": "Twogate::Role", "id": "reader"}}]
    assert behind["attrs"]["groups"] == ["staff"]
