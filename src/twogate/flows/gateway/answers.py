"""What an upstream's answer must be, and what of it the caller may see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import Kind, Message, reads_as
from twogate.core.protocol import MethodKind, list_member
from twogate.flows.gateway.read import Call

# Notifications that concern the call whose answer they come with, or lists that the caller may ask for again.
_PASSED_ON: Final = frozenset(
    {
        "notifications/progress",
        "notifications/message",
        "notifications/tools/list_changed",
        "notifications/prompts/list_changed",
        "notifications/resources/list_changed",
    }
)

# What servers use to ask the client something within an answer: results of MCP 2026-07-28 and the error of 2025-11-25.
_QUESTIONS: Final = "inputRequests"
_URL_ELICITATION_REQUIRED: Final = -32042
# Members that honest results have, which need no closer look.
_USUAL: Final = frozenset({"resultType", "content", "structuredContent", "isError", "_meta", "ttlMs", "cacheScope"})

Visible = Callable[[str], bool]


def shown_response(message: Message, call: Call, visible: Visible) -> Message:
    """Check that `message` answers this very call; give what the caller may see of it, to be encoded anew.

    Lists are filtered by `visible`, which is asked of each entry's target. Other results pass unchanged. The server's
    own bytes never pass: members that our parser dropped could make them a request in another parser's eyes.

    Raises:
        GateError: UPSTREAM_INVALID.
    """
    if message.kind is not Kind.RESPONSE:
        raise GateError(ErrorCode.UPSTREAM_INVALID, "the answer is no JSON-RPC response")
    if message.id is None or message.id != call.message.id or type(message.id) is not type(call.message.id):
        raise GateError(ErrorCode.UPSTREAM_INVALID, "the answer carries the id of another request")
    check_asks_nothing(message)
    if message.is_error or call.kind is not MethodKind.LIST:
        return message
    return msgspec.structs.replace(message, payload=_filtered(message.payload, call, visible))


def check_asks_nothing(message: Message) -> None:
    """Refuse a response that asks the client for something; none may, for the reason that `passes` gives.

    No honest server asks, since no capability to be asked is passed on to it (`meta.forwarded`).

    Raises:
        GateError: UPSTREAM_INVALID.
    """
    payload = cast("dict[str, Any]", message.payload)
    if message.is_error:
        asks = payload.get("code") == _URL_ELICITATION_REQUIRED
    else:
        asks = any(reads_as(name, _QUESTIONS) for name in payload.keys() - _USUAL)
    if asks:
        raise GateError(ErrorCode.UPSTREAM_INVALID, "the answer asks the client for input, which is not relayed")


def passes(message: Message) -> bool:
    """Whether something that a server sends before its response may reach the caller.

    Requests may not: a server that could ask (sampling, elicitation, roots) could steer the agent past both gates.
    """
    return message.kind is Kind.NOTIFICATION and message.method in _PASSED_ON


def _filtered(payload: object, call: Call, visible: Visible) -> dict[str, Any]:
    member = list_member(call.message.method)
    if not isinstance(payload, dict) or not isinstance(cast("dict[str, Any]", payload).get(member.key), list):
        raise GateError(ErrorCode.UPSTREAM_INVALID, f"the result of {call.message.method} has no {member.key}")
    result = dict(cast("dict[str, Any]", payload))
    result[member.key] = [
        item
        for item in cast("list[object]", result[member.key])
        if isinstance(name := _name(item, member.name), str) and visible(member.target(call.head.server, name))
    ]
    if call.modern:
        # A list that depends on who asks must not be shared, nor outlive the session that it was filtered for.
        result["cacheScope"], result["ttlMs"] = "private", 0
    return result


def _name(item: object, key: str) -> object:
    return cast("dict[str, object]", item).get(key) if isinstance(item, dict) else None
