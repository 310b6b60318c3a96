"""How a client is told that people must approve its call, in the best form that it speaks (DESIGN decision 10).

Pure: what goes into answers, by protocol version and what the client declared. Every answer carries the envelope of
SEP-2643 in its `_meta`, so that hosts need not read words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, cast

from twogate.core.approval import ParkedCall
from twogate.core.errors import FACES, ErrorCode
from twogate.flows.gateway.meta import CLIENT_CAPABILITIES
from twogate.flows.gateway.read import Call
from twogate.flows.gateway.task_answers import URL_ELICITATION_REQUIRED

TASKS_EXTENSION: Final = "io.modelcontextprotocol/tasks"
AUTHORIZATION: Final = "io.modelcontextprotocol/authorization"
"""Where SEP-2643 tells why a call was denied, and what would help."""
REASON: Final = "dev.twogate/reason"
"""Where the code of a refusal stands in the result of a tool."""
SUBSCRIPTION: Final = "io.modelcontextprotocol/subscriptionId"
"""Where a message names the `subscriptions/listen` that it belongs to."""
APPROVE: Final = "approve"
"""The name of the one request for input."""

POLL_MS: Final = 5000
"""Milliseconds that a client of tasks should let pass between two questions."""

_TOOL: Final = "tools/call"
_URL_VERSION: Final = "2025-11-25"


class Form(StrEnum):
    """How a client is asked to wait."""

    TASK = "task"
    """A task of ours (MCP 2026-07-28 with the tasks extension)."""
    INPUT = "input"
    """`input_required` with a URL to open (MCP 2026-07-28 with URL elicitation)."""
    ERROR = "error"
    """The error -32042 with a URL to open (MCP 2025-11-25 with URL elicitation)."""
    HELD = "held"
    """The answer is held, and then says in words what to do."""


def form_of(call: Call) -> Form:
    """The best form that the client of a call speaks, by what it declared."""
    if not call.modern:
        told = call.version == _URL_VERSION and call.mcp is not None and call.mcp.url
        return Form.ERROR if told else Form.HELD
    # The task of a call that goes on with a server's own question could not ask the next one.
    first = call.message.method == _TOOL and call.base == "" and "inputResponses" not in call.message.params
    if first and takes_tasks(call):
        return Form.TASK
    return Form.INPUT if elicits_urls(_capabilities(call)) else Form.HELD


def takes_tasks(call: Call) -> bool:
    """Whether a request declares the tasks extension (MCP 2026-07-28)."""
    extensions: Any = _capabilities(call).get("extensions")
    return isinstance(extensions, dict) and TASKS_EXTENSION in extensions


def elicits_urls(capabilities: Mapping[str, Any]) -> bool:
    """Whether a client declares that it can ask its user to open a URL."""
    elicitation: Any = capabilities.get("elicitation")
    return isinstance(elicitation, dict) and isinstance(cast("dict[str, Any]", elicitation).get("url"), dict)


def _capabilities(call: Call) -> Mapping[str, Any]:
    meta: Any = call.message.params.get("_meta")
    declared: Any = cast("dict[str, Any]", meta).get(CLIENT_CAPABILITIES) if isinstance(meta, dict) else None
    return cast("dict[str, Any]", declared) if isinstance(declared, dict) else {}


def without_tasks(params: dict[str, Any]) -> dict[str, Any]:
    """Params of a request whose client is not said to take tasks: what runs within one cannot make another."""
    meta: Any = params.get("_meta")
    declared: Any = cast("dict[str, Any]", meta).get(CLIENT_CAPABILITIES) if isinstance(meta, dict) else None
    extensions: Any = cast("dict[str, Any]", declared).get("extensions") if isinstance(declared, dict) else None
    if not isinstance(extensions, dict) or TASKS_EXTENSION not in extensions:
        return params
    kept = {name: value for name, value in cast("dict[str, Any]", extensions).items() if name != TASKS_EXTENSION}
    return {**params, "_meta": {**meta, CLIENT_CAPABILITIES: {**declared, "extensions": kept}}}


def words_for(code: ErrorCode, url: str) -> str:
    """What an agent is told in words."""
    return _WORDS.get(code, FACES[code].text).format(url=url)


_AGAIN: Final = "Nothing was run. The same call is answered alike until its time is over; do not look for a way around."
_WORDS: Final[Mapping[ErrorCode, str]] = MappingProxyType(
    {
        ErrorCode.APPROVAL_PENDING: (
            "A person must approve this call before it runs; nothing was run yet. It is waiting at {url} for somebody "
            "who may decide. Send the very same call again to learn how it was decided: once approved, it runs."
        ),
        ErrorCode.APPROVAL_DENIED: f"A person denied this call. {_AGAIN}",
        ErrorCode.APPROVAL_EXPIRED: "Nobody approved this call in time, or it was not sent again in time. "
        "Nothing was run. Sending it again asks anew.",
        ErrorCode.APPROVAL_CANCELLED: "This call may not run any more: it was cancelled, or what it was approved for "
        f"has changed. {_AGAIN}",
        ErrorCode.APPROVAL_DECIDED: (
            "This call was approved and it has run once, but its answer was not kept. Nothing was run now."
        ),
        ErrorCode.OPERATION_OUTCOME_UNKNOWN: (
            "This call was approved and may have run, and nobody knows how it ended. Nothing was run now, and it will "
            "not run again: look at what it would have changed."
        ),
    }
)


def envelope(code: ErrorCode, approval: str, url: str) -> dict[str, object]:
    """The envelope of SEP-2643."""
    pending = code is ErrorCode.APPROVAL_PENDING
    told: dict[str, object] = {
        "reason": "insufficient_authorization",
        "remediation": "available" if pending else "unavailable",
        "authorizationContextId": approval,
    }
    if pending:
        told["remediationHints"] = [{"type": "url", "url": url}]
    return told


def refused_tool(code: ErrorCode, approval: str, url: str, *, modern: bool) -> dict[str, Any]:
    """The result of a tool that did not run."""
    result: dict[str, Any] = {
        "content": [{"type": "text", "text": words_for(code, url)}],
        "isError": True,
        "_meta": {AUTHORIZATION: envelope(code, approval, url), REASON: FACES[code].reason},
    }
    return {"resultType": "complete", **result} if modern else result


def refused_data(code: ErrorCode, approval: str, url: str) -> dict[str, object]:
    """What the error of another method says besides its reason."""
    data: dict[str, object] = {AUTHORIZATION: envelope(code, approval, url)}
    return {**data, "url": url} if code is ErrorCode.APPROVAL_PENDING else data


def elicitation_error(approval: str, url: str) -> dict[str, object]:
    """The error -32042 (MCP 2025-11-25, "URL Elicitation Required Error")."""
    code = ErrorCode.APPROVAL_PENDING
    asked = {"mode": "url", "elicitationId": approval, "url": url, "message": _QUESTION}
    return {
        "code": URL_ELICITATION_REQUIRED,
        "message": words_for(code, url),
        "data": {
            "elicitations": [asked],
            "reason": FACES[code].reason,
            AUTHORIZATION: envelope(code, approval, url),
        },
    }


def elicitation_complete(approval: str) -> dict[str, Any]:
    """The notification that people decided, however (MCP 2025-11-25, "Completion Notifications for URL Mode")."""
    method = "notifications/elicitation/complete"
    return {"jsonrpc": "2.0", "method": method, "params": {"elicitationId": approval}}


_QUESTION: Final = "This call waits for a person who may approve it. Open the page to see what exactly would run."


def input_required(approval: str, url: str, state: str) -> dict[str, object]:
    """A result that asks the client's user to open the page (MCP 2026-07-28)."""
    question = {"method": "elicitation/create", "params": {"mode": "url", "url": url, "message": _QUESTION}}
    return {
        "resultType": "input_required",
        "inputRequests": {APPROVE: question},
        "requestState": state,
        "_meta": {AUTHORIZATION: envelope(ErrorCode.APPROVAL_PENDING, approval, url)},
    }


class TaskState(StrEnum):
    """How a task stands."""

    WORKING = "working"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


def task(
    call: ParkedCall, task_id: str, state: TaskState, message: str, updated_at: int, *, created: bool = False
) -> dict[str, Any]:
    """A task of ours: as the result that makes it, or as what `tasks/get` answers."""
    return {
        "resultType": "task" if created else "complete",
        "taskId": task_id,
        "status": state.value,
        "statusMessage": message,
        "createdAt": _iso(call.created_at),
        "lastUpdatedAt": _iso(updated_at),
        "ttlMs": max(0, call.deadline - call.created_at) * 1000,
        "pollIntervalMs": POLL_MS,
    }


def task_notification(told: Mapping[str, Any], subscription: str | int | None) -> dict[str, Any]:
    """The notification of how a task stands, which says what `tasks/get` would (tasks extension of MCP 2026-07-28)."""
    params = {name: value for name, value in told.items() if name != "resultType"}
    params["_meta"] = {**params.get("_meta", {}), SUBSCRIPTION: subscription}
    return {"jsonrpc": "2.0", "method": "notifications/tasks", "params": params}


def listening(task_ids: Iterable[str], subscription: str | int | None) -> dict[str, Any]:
    """The acknowledgement with which `subscriptions/listen` begins."""
    params = {"notifications": {"taskIds": list(task_ids)}, "_meta": {SUBSCRIPTION: subscription}}
    return {"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": params}


def listened(subscription: str | int | None) -> dict[str, Any]:
    """The response with which `subscriptions/listen` ends when the server ends it."""
    result = {"resultType": "complete", "_meta": {SUBSCRIPTION: subscription}}
    return {"jsonrpc": "2.0", "id": subscription, "result": result}


def error_object(code: ErrorCode, data: Mapping[str, object]) -> dict[str, object]:
    """The error of a task that failed, as a call's own would be."""
    face = FACES[code]
    return {"code": face.jsonrpc, "message": face.text, "data": {"reason": face.reason, **data}}


def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
