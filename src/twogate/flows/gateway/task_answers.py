"""What of a server's messages tells of tasks, and what asks for input within a task."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, cast

from twogate.core.message import MAX_MEMBERS, reads_as
from twogate.flows.gateway.meta import RELATED_TASK
from twogate.flows.gateway.read import AwaitedTasks, Call

# What servers use to ask the client something within an answer: results of MCP 2026-07-28 and the error of 2025-11-25.
INPUT_REQUESTS: Final = "inputRequests"
URL_ELICITATION_REQUIRED: Final = -32042


def asks_for_input(members: dict[str, Any]) -> bool:
    """Whether a task's notification, or what stands inside of it or of a task's result, asks the client something."""
    if len(members) > MAX_MEMBERS or any(reads_as(name, INPUT_REQUESTS) for name in members):
        return True
    result, error = members.get("result"), members.get("error")
    return (isinstance(result, dict) and asks_for_input(cast("dict[str, Any]", result))) or (
        isinstance(error, dict) and cast("dict[str, Any]", error).get("code") == URL_ELICITATION_REQUIRED
    )


def own_tasks(call: Call) -> Iterable[str]:
    """The sealed ids of the tasks of Twogate's own that a call listens to."""
    return call.approval.tasks if isinstance(call.approval, AwaitedTasks) else ()


def acknowledged(params: dict[str, Any], sealed: Callable[[object], str | None], own: Iterable[str]) -> dict[str, Any]:
    """What a client is told to hear of: the server's tasks by their sealed ids, and Twogate's `own`."""
    agreed: Any = params.get("notifications")
    members = cast("dict[str, Any]", agreed) if isinstance(agreed, dict) else {}
    given: Any = members.get("taskIds")
    ids = [sealed(item) for item in cast("list[object]", given)] if isinstance(given, list) else []
    told = [item for item in ids if item is not None] + list(own)
    if not told and "taskIds" not in members:
        return params
    return {**params, "notifications": {**members, "taskIds": told}}


def unrelated(params: dict[str, Any]) -> dict[str, Any]:
    """The params of a message without the task that it belongs to; its client needs no id of a task for it."""
    meta: Any = params.get("_meta")
    if not isinstance(meta, dict) or RELATED_TASK not in meta:
        return params
    rest = {name: value for name, value in cast("dict[str, Any]", meta).items() if name != RELATED_TASK}
    return {**params, "_meta": rest}


def without_task_lists(payload: dict[str, Any]) -> dict[str, Any]:
    """The result of `initialize` without the promise to list tasks: a server does not say whose they are."""
    capabilities: Any = payload.get("capabilities")
    tasks: Any = cast("dict[str, Any]", capabilities).get("tasks") if isinstance(capabilities, dict) else None
    if not isinstance(tasks, dict) or "list" not in tasks:
        return payload
    kept = {name: value for name, value in cast("dict[str, Any]", tasks).items() if name != "list"}
    return {**payload, "capabilities": {**capabilities, "tasks": kept}}
