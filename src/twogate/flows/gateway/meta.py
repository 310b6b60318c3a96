"""The message as it goes upstream: without what was meant for Twogate, and promising only what Twogate relays."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, cast

import msgspec

from twogate.core.message import Message

PROTOCOL_VERSION: Final = "io.modelcontextprotocol/protocolVersion"
CLIENT_CAPABILITIES: Final = "io.modelcontextprotocol/clientCapabilities"
RELATED_TASK: Final = "io.modelcontextprotocol/related-task"
"""Where results and messages name the task that they belong to (MCP 2025-11-25, "Tasks")."""

_META_PREFIX: Final = "io.modelcontextprotocol/"
# W3C Trace Context and Baggage, under the names that MCP gives them in `_meta`.
_META_NAMES: Final = frozenset({"progressToken", "traceparent", "tracestate", "baggage"})

_TASKS_VERSION: Final = "2025-11-25"

# What may be declared to a server besides what it may ask for (`ASKS`): nothing that makes it ask the client back.
_DECLARED: Final = frozenset({"experimental", "extensions"})

ASKS: Final[Mapping[str, str]] = MappingProxyType(
    {"sampling/createMessage": "sampling", "elicitation/create": "elicitation", "roots/list": "roots"}
)
"""What servers ask of clients, and the client capability that lets them."""


def forwarded(message: Message, version: str, asks: frozenset[str]) -> Message:
    """A copy of the message for the upstream; the original is left as it was.

    `params._meta` is cut to an allowlist; client capabilities in it, and those of `initialize`, to what this server may
    ask of clients (`asks`, of `ASKS`' values). The `task` member, with which a client asks for a task, goes on only in
    the version and method that have it.
    """
    params = dict(message.params)
    if "task" in params and not (version == _TASKS_VERSION and message.method == "tools/call"):
        del params["task"]
    if "_meta" in params and not _cut_meta(params, asks):
        del params["_meta"]
    if message.method == "initialize":
        params["capabilities"] = _relayed(params.get("capabilities"), asks)
    return msgspec.structs.replace(message, params=params)


def _cut_meta(params: dict[str, Any], asks: frozenset[str]) -> dict[str, Any]:
    given = cast("dict[str, Any]", params["_meta"])
    # The related task goes too: its id is one that we sealed, and no server needs it from a client.
    meta = {
        name: value
        for name, value in given.items()
        if name in _META_NAMES or (name.startswith(_META_PREFIX) and name != RELATED_TASK)
    }
    if CLIENT_CAPABILITIES in meta:
        meta[CLIENT_CAPABILITIES] = _relayed(meta[CLIENT_CAPABILITIES], asks)
    params["_meta"] = meta
    return meta


def _relayed(capabilities: object, asks: frozenset[str]) -> dict[str, Any]:
    # A client's own tasks (`tasks`, 2025-11-25) are not: a server could not collect what it started there.
    if not isinstance(capabilities, dict):
        return {}
    declared = cast("dict[str, Any]", capabilities)
    return {name: value for name, value in declared.items() if name in _DECLARED or name in asks}
