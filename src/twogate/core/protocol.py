"""Every method that an MCP client may call, by protocol version, and how gate two treats it.

A method that is not in the table does not exist here. A test compares the table with the SDK's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, NamedTuple, cast

from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import NAMED_METHODS, Message, check_name

HANDSHAKE_VERSIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
"""Versions negotiated by `initialize`, oldest first."""
MODERN_VERSIONS: Final = ("2026-07-28",)
"""Versions that carry their envelope in every request, oldest first."""
VERSIONS: Final = HANDSHAKE_VERSIONS + MODERN_VERSIONS
ASSUMED_VERSION: Final = "2025-03-26"
"""Of a request without version header (MCP 2025-06-18, "Protocol Version Header")."""


class MethodKind(StrEnum):
    """How gate two treats a method."""

    OPEN = "open"
    """Needs authentication only."""
    LIST = "list"
    """Answered; entries that the caller could not use are filtered out."""
    TARGET = "target"
    """Decided by what it acts on: see `target_of`."""
    TASK = "task"
    """Acts on a task of an earlier call, and is decided as that call was."""
    LISTEN = "listen"
    """A stream of notifications; decided by each resource and task that it names."""
    CLOSED = "closed"
    """Known, and refused."""


_COMMON: Final = {
    "completion/complete": MethodKind.TARGET,
    "notifications/cancelled": MethodKind.OPEN,
    "prompts/get": MethodKind.TARGET,
    "prompts/list": MethodKind.LIST,
    "resources/list": MethodKind.LIST,
    "resources/read": MethodKind.TARGET,
    "resources/templates/list": MethodKind.LIST,
    "tools/call": MethodKind.TARGET,
    "tools/list": MethodKind.LIST,
}
_HANDSHAKE: Final = {
    **_COMMON,
    "initialize": MethodKind.OPEN,
    "logging/setLevel": MethodKind.OPEN,
    "notifications/initialized": MethodKind.OPEN,
    "notifications/progress": MethodKind.OPEN,
    "notifications/roots/list_changed": MethodKind.OPEN,
    "ping": MethodKind.OPEN,
    "resources/subscribe": MethodKind.TARGET,
    "resources/unsubscribe": MethodKind.TARGET,
}
_METHODS: Final[Mapping[str, Mapping[str, MethodKind]]] = MappingProxyType(
    {
        "2024-11-05": _HANDSHAKE,
        "2025-03-26": _HANDSHAKE,
        "2025-06-18": _HANDSHAKE,
        "2025-11-25": {
            **_HANDSHAKE,
            **dict.fromkeys(("tasks/get", "tasks/result", "tasks/cancel"), MethodKind.TASK),
            # A server's list does not say whose tasks they are.
            "tasks/list": MethodKind.CLOSED,
        },
        "2026-07-28": {
            **_COMMON,
            **dict.fromkeys(("tasks/get", "tasks/update", "tasks/cancel"), MethodKind.TASK),
            "server/discover": MethodKind.OPEN,
            "subscriptions/listen": MethodKind.LISTEN,
        },
    }
)


def method_kind(version: str, method: str) -> MethodKind | None:
    """How gate two treats the method; None if this version has no such method, or there is no such version."""
    methods = _METHODS.get(version)
    return None if methods is None else methods.get(method)


RESERVED: Final = ("resource:", "prompt:", "tool:", "instructions:")
"""How other kinds of target begin. No tool's may read like one, or a right to one would be a right to the other."""


def tool_target(server: str, name: str) -> str:
    """`server.name`; a name that begins like another kind of target becomes `server.tool:name`."""
    return f"{server}.tool:{name}" if name.startswith(RESERVED) else f"{server}.{name}"


def resource_target(server: str, uri: str) -> str:
    """`server.resource:URI`; a template is its own target."""
    return f"{server}.resource:{uri}"


def prompt_target(server: str, name: str) -> str:
    """`server.prompt:name`."""
    return f"{server}.prompt:{name}"


def instructions_target(server: str) -> str:
    """`server.instructions:`, what a server tells every client of itself. No entry names it; a pin does."""
    return f"{server}.instructions:"


class ListMember(NamedTuple):
    """Where a list's entries are (`result[key]`), what names one (`entry[name]`), and the target that name stands for.

    `target` takes the server and the name.
    """

    key: str
    name: str
    target: Callable[[str, str], str]


_LISTS: Final[Mapping[str, ListMember]] = MappingProxyType(
    {
        "tools/list": ListMember("tools", "name", tool_target),
        "resources/list": ListMember("resources", "uri", resource_target),
        "resources/templates/list": ListMember("resourceTemplates", "uriTemplate", resource_target),
        "prompts/list": ListMember("prompts", "name", prompt_target),
    }
)

_TARGETS: Final[Mapping[str, Callable[[str, str], str]]] = MappingProxyType(
    {
        "tools/call": tool_target,
        "resources/read": resource_target,
        "resources/subscribe": resource_target,
        "resources/unsubscribe": resource_target,
        "prompts/get": prompt_target,
    }
)

_REFERENCES: Final = MappingProxyType({"ref/prompt": ("name", prompt_target), "ref/resource": ("uri", resource_target)})
_REFERENCE_MEMBERS: Final = frozenset({"type", "title"})


def list_member(method: str) -> ListMember:
    """How to filter the answer of a LIST method.

    Raises:
        ValueError: the method is of another kind.
    """
    try:
        return _LISTS[method]
    except KeyError:
        raise ValueError(f"{method} is no list") from None


def target_of(server: str, message: Message) -> str:
    """What a TARGET method's message acts on, in the words of the policy. Server names hold no dot.

    Raises:
        GateError: INVALID_PARAMS.
        ValueError: the method is of another kind.
    """
    if (build := _TARGETS.get(message.method)) is not None:
        key = NAMED_METHODS[message.method]
        return build(server, check_name(message.params.get(key), f"params.{key}"))
    if message.method != "completion/complete":
        raise ValueError(f"{message.method} has no target")
    ref: Any = message.params.get("ref")
    kind: object = cast("dict[str, Any]", ref).get("type") if isinstance(ref, dict) else None
    if not isinstance(kind, str) or kind not in _REFERENCES:
        raise GateError(ErrorCode.INVALID_PARAMS, "params.ref is neither ref/prompt nor ref/resource")
    key, build = _REFERENCES[kind]
    # A second name would let the upstream complete another thing than was decided on.
    if not cast("dict[str, Any]", ref).keys() <= _REFERENCE_MEMBERS | {key}:
        raise GateError(ErrorCode.INVALID_PARAMS, "params.ref has a member that its type lacks")
    return build(server, check_name(cast("dict[str, Any]", ref).get(key), f"params.ref.{key}"))
