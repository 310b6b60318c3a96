from typing import Any

import pytest
from mcp_types import version
from mcp_types.methods import CLIENT_NOTIFICATIONS, CLIENT_REQUESTS, SERVER_RESULTS

from twogate.core import protocol
from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import Kind, Message
from twogate.core.protocol import MethodKind, list_member, method_kind, target_of

METHODS = {method for method, _ in (*CLIENT_REQUESTS, *CLIENT_NOTIFICATIONS)} | {
    *("tasks/get", "tasks/result", "tasks/list", "tasks/cancel", "tasks/update")
}


def message(method: str, **params: Any) -> Message:
    return Message(Kind.REQUEST, 1, method, params)


def test_the_versions_are_those_of_the_sdk() -> None:
    assert protocol.HANDSHAKE_VERSIONS == version.HANDSHAKE_PROTOCOL_VERSIONS
    assert protocol.MODERN_VERSIONS == version.MODERN_PROTOCOL_VERSIONS


@pytest.mark.parametrize("revision", protocol.VERSIONS)
def test_a_method_exists_exactly_where_the_sdk_has_it_and_tasks_are_their_makers(revision: str) -> None:
    for method in METHODS:
        known = (method, revision) in CLIENT_REQUESTS or (method, revision) in CLIENT_NOTIFICATIONS
        kind = method_kind(revision, method)
        if method.startswith("tasks/"):
            assert not known
            # The SDK has no methods of tasks; a server's list of them does not say whose they are.
            assert kind in (None, MethodKind.CLOSED if method == "tasks/list" else MethodKind.TASK)
        else:
            assert (kind is not None) == known


def test_tasks_are_known_only_where_the_protocol_has_them() -> None:
    known = {(v, m) for v in protocol.VERSIONS for m in METHODS if m.startswith("tasks/") and method_kind(v, m)}
    assert known == {("2025-11-25", f"tasks/{m}") for m in ("get", "result", "list", "cancel")} | {
        ("2026-07-28", f"tasks/{m}") for m in ("get", "update", "cancel")
    }


def test_what_does_not_exist_has_no_kind() -> None:
    for revision, method in (
        ("2025-11-25", "tools/Call"),
        ("2025-11-25", ""),
        ("2099-01-01", "ping"),
        ("", "tools/list"),
        ("2026-07-28", "initialize"),
    ):
        assert method_kind(revision, method) is None


@pytest.mark.parametrize("revision", protocol.VERSIONS)
def test_only_methods_that_touch_no_server_data_need_nothing_but_authentication(revision: str) -> None:
    open_methods = {m for m in METHODS if method_kind(revision, m) is MethodKind.OPEN}
    assert {m for m in open_methods if not m.startswith("notifications/")} <= {
        *("initialize", "ping", "server/discover", "logging/setLevel")
    }


@pytest.mark.parametrize(
    ("method", "params", "target"),
    [
        ("tools/call", {"name": "git_log"}, "git.git_log"),
        ("tools/call", {"name": "a.b"}, "git.a.b"),
        ("resources/read", {"uri": "file:///a b"}, "git.resource:file:///a b"),
        ("resources/subscribe", {"uri": "x:"}, "git.resource:x:"),
        ("resources/unsubscribe", {"uri": "x:"}, "git.resource:x:"),
        ("prompts/get", {"name": "review"}, "git.prompt:review"),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": "review", "title": "R"}}, "git.prompt:review"),
        ("completion/complete", {"ref": {"type": "ref/resource", "uri": "f:{p}"}}, "git.resource:f:{p}"),
    ],
)
def test_a_message_acts_on_the_target_that_it_names(method: str, params: dict[str, Any], target: str) -> None:
    assert target_of("git", message(method, **params)) == target


def test_a_tool_cannot_be_named_like_another_kind_of_target() -> None:
    targets = [
        target_of("git", message(method, **params))
        for method, params in (
            ("tools/call", {"name": "resource:x"}),
            ("resources/read", {"uri": "x"}),
            ("tools/call", {"name": "prompt:x"}),
            ("prompts/get", {"name": "x"}),
            ("tools/call", {"name": "tool:resource:x"}),
            ("tools/call", {"name": "tool:tool:resource:x"}),
        )
    ]
    assert len(set(targets)) == len(targets)
    assert targets[0] == "git.tool:resource:x"


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("tools/call", {}),
        ("tools/call", {"name": ["x"]}),
        ("resources/read", {"uri": ""}),
        ("prompts/get", {"uri": "x"}),
        ("completion/complete", {}),
        ("completion/complete", {"ref": "x"}),
        ("completion/complete", {"ref": {"name": "x"}}),
        ("completion/complete", {"ref": {"type": "ref/tool", "name": "x"}}),
        ("completion/complete", {"ref": {"type": ["ref/prompt"], "name": "x"}}),
        ("completion/complete", {"ref": {"type": "ref/prompt", "uri": "x"}}),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": "x", "uri": "y"}}),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": "x", "Name": "y"}}),
        ("completion/complete", {"ref": {"type": "ref/resource", "uri": "a\r\nb"}}),
    ],
)
def test_a_message_that_names_no_one_target_is_refused(method: str, params: dict[str, Any]) -> None:
    with pytest.raises(GateError) as caught:
        target_of("git", message(method, **params))
    assert caught.value.code is ErrorCode.INVALID_PARAMS


@pytest.mark.parametrize("revision", protocol.VERSIONS)
def test_every_method_decided_by_target_has_one_and_every_list_can_be_filtered(revision: str) -> None:
    params = {"name": "x", "uri": "x", "ref": {"type": "ref/prompt", "name": "x"}}
    for method in METHODS:
        if method_kind(revision, method) is MethodKind.TARGET:
            assert target_of("git", message(method, **params)).startswith("git.")
        elif method_kind(revision, method) is not None:
            with pytest.raises(ValueError, match="no target"):
                target_of("git", message(method, **params))
        if method_kind(revision, method) is MethodKind.LIST:
            # The SDK's result model has the list, and its entries have the name.
            member, result = list_member(method), SERVER_RESULTS[method, revision]
            fields: dict[str, Any] = getattr(result, "model_fields")  # noqa: B009 - a model or a union of models
            listed = {field.alias or name: field.annotation for name, field in fields.items()}[member.key]
            assert member.name in {f.alias or n for n, f in listed.__args__[0].model_fields.items()}


def test_a_list_names_the_target_that_a_call_would_have() -> None:
    tools = list_member("tools/list")
    assert (tools.key, tools.name) == ("tools", "name")
    for name in ("git_log", "resource:x"):
        assert tools.target("git", name) == target_of("git", message("tools/call", name=name))
    assert list_member("resources/list").target("git", "x:") == target_of("git", message("resources/read", uri="x:"))
    assert list_member("prompts/list").target("git", "p") == target_of("git", message("prompts/get", name="p"))
    with pytest.raises(ValueError, match="no list"):
        list_member("tools/call")
