"""The message as it goes upstream: without what was meant for Twogate, and promising only what Twogate relays."""

from __future__ import annotations

from typing import Any, Final, cast

import msgspec

from twogate.core.message import Kind, Message

PROTOCOL_VERSION: Final = "io.modelcontextprotocol/protocolVersion"
CLIENT_CAPABILITIES: Final = "io.modelcontextprotocol/clientCapabilities"

_META_PREFIX: Final = "io.modelcontextprotocol/"
# W3C Trace Context and Baggage, under the names that MCP gives them in `_meta`.
_META_NAMES: Final = frozenset({"progressToken", "traceparent", "tracestate", "baggage"})

# What a server may build on without asking the client anything back. Sampling, elicitation, roots and tasks are not
# relayed yet, and an unknown capability is not either.
_RELAYED_CAPABILITIES: Final = frozenset({"experimental", "extensions"})
_UNRELAYED_EXTENSIONS: Final = frozenset({"io.modelcontextprotocol/tasks"})


def forwarded(message: Message) -> Message:
    """A copy of the message for the upstream; the original is left as it was.

    `params._meta` is cut to an allowlist; client capabilities in it, and those of `initialize`, to what is relayed;
    the `task` member of a request is dropped, because the client could not collect the task's result (MCP 2025-11-25,
    "Tasks": who did not declare tasks processes the request normally).
    """
    params = dict(message.params)
    if message.kind is Kind.REQUEST:
        params.pop("task", None)
    if "_meta" in params and not _cut_meta(params):
        del params["_meta"]
    if message.method == "initialize":
        params["capabilities"] = _relayed(params.get("capabilities"))
    return msgspec.structs.replace(message, params=params)


def _cut_meta(params: dict[str, Any]) -> dict[str, Any]:
    given = cast("dict[str, Any]", params["_meta"])
    meta = {name: value for name, value in given.items() if name in _META_NAMES or name.startswith(_META_PREFIX)}
    if CLIENT_CAPABILITIES in meta:
        meta[CLIENT_CAPABILITIES] = _relayed(meta[CLIENT_CAPABILITIES])
    params["_meta"] = meta
    return meta


def _relayed(capabilities: object) -> dict[str, Any]:
    if not isinstance(capabilities, dict):
        return {}
    declared = cast("dict[str, Any]", capabilities)
    kept = {name: value for name, value in declared.items() if name in _RELAYED_CAPABILITIES}
    extensions = kept.get("extensions")
    if isinstance(extensions, dict):
        offered = cast("dict[str, Any]", extensions)
        kept["extensions"] = {name: value for name, value in offered.items() if name not in _UNRELAYED_EXTENSIONS}
    return kept
