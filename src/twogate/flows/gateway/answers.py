"""What an upstream's messages must be, and what of them the caller may see.

A server may name things of its own (tasks, events, requests, states): the caller sees them sealed (`seal.py`). It may
ask the client something only where `client_requests` lets it, because who can ask (sampling above all) can steer the
agent past both gates.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

import msgspec

from twogate.core.access import Policy, visible
from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import MAX_MEMBERS, MAX_NAME, MAX_SEALED_ID, Kind, Message, reads_as
from twogate.core.protocol import MethodKind, instructions_target, list_member, resource_target
from twogate.flows.gateway.admit import Admitted
from twogate.flows.gateway.meta import ASKS, RELATED_TASK
from twogate.flows.gateway.pins import AnswerPins
from twogate.flows.gateway.seal import MAX_HANDLE, RequestState, Seal, Sealed, ServerRequest, StreamEvent, TaskId
from twogate.flows.gateway.task_answers import (
    INPUT_REQUESTS,
    URL_ELICITATION_REQUIRED,
    acknowledged,
    asks_for_input,
    own_tasks,
    unrelated,
    without_task_lists,
)
from twogate.flows.gateway.tool_list import annotations_fault

MAX_ASKED: Final = 1000
"""Requests that a server may make of a client on one answer."""
MAX_LISTED: Final = 20_000
"""Entries of one page of a list."""
IN_A_ROW: Final = 16
"""Entries to decide on before other calls get their turn: the slowest take a millisecond each."""

# Notifications that concern the call whose answer they come with, or lists that the caller may ask for again.
_PASSED_ON: Final = frozenset(
    {
        "notifications/progress",
        "notifications/message",
        "notifications/tools/list_changed",
        "notifications/prompts/list_changed",
        "notifications/resources/list_changed",
        "notifications/elicitation/complete",
    }
)
_UPDATED: Final = "notifications/resources/updated"
_CANCELLED: Final = "notifications/cancelled"
_ACKNOWLEDGED: Final = "notifications/subscriptions/acknowledged"
_TASK_NOTIFICATIONS: Final = frozenset({"notifications/tasks/status", "notifications/tasks"})

_REQUEST_STATE: Final = "requestState"
# Members of one of those requests.
_QUESTION: Final = frozenset({"method", "params"})
_INSTRUCTIONS: Final = "instructions"
# Their results hold what the server tells every client of itself.
_INTRODUCTIONS: Final = frozenset({"initialize", "server/discover"})
# Lists of what may be pinned; resources have no text that a model acts on before it reads them.
_PINNED_LISTS: Final = frozenset({"tools/list", "prompts/list"})
# Members that honest results have, which need no closer look.
_USUAL: Final = frozenset({"resultType", "content", "structuredContent", "isError", "_meta", "ttlMs", "cacheScope"})


class Shown:
    """What one call's caller may see of what the server sends. `asks` is what the server may ask clients for.

    `pins` judges what of it was approved, if something has to be.
    """

    __slots__ = (
        "_asked",
        "_asks",
        "_call",
        "_count",
        "_decided",
        "_origin",
        "_pins",
        "_policy",
        "_seal",
        "_withheld",
        "admitted",
        "questions",
    )

    def __init__(self, admitted: Admitted, seal: Seal, policy: Policy, asks: frozenset[str], pins: AnswerPins) -> None:
        self.admitted = admitted
        self._call = admitted.call
        self._origin = admitted.call.origin
        self._seal = seal
        self._policy = policy
        self._asks = asks
        self._pins = pins
        self._asked: dict[str | int, str] = {}  # the server's open requests on this answer, and their sealed ids
        self._count = 0  # of all its requests
        self._decided: dict[str, bool] = {}  # a list's targets, as far as `prepare` came
        self._withheld: set[int] | None = None  # the entries that are not what was approved, once that is known
        self.questions: list[tuple[str, bool]] = []
        """What the response asks of the client, and whether that passes; to be written down before anything does."""

    async def prepare(self, message: Message) -> None:
        """Decide on a list's entries ahead of `response`: that takes long for many, and other calls must get turns.

        What was approved is looked up here too, so without it no list of tools or prompts passes.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        if message.is_error:
            return
        method = self._origin.method
        if method in _INTRODUCTIONS:
            await self._pins.load()
        if self._call.answer_kind is not MethodKind.LIST:
            return
        pinned, withheld = method in _PINNED_LISTS, set[int]()
        if pinned:
            await self._pins.load()
        member, server = list_member(method), self._call.head.server
        listed: Any = cast("dict[str, Any]", message.payload or {}).get(member.key)
        for count, item in enumerate(cast("list[object]", listed)[:MAX_LISTED] if isinstance(listed, list) else ()):
            if isinstance(name := _name(item, member.name), str):
                target = member.target(server, name)
                shown = self._decided[target] = self.visible(target)
                if pinned and shown and not self._pins.passes(target, item):
                    withheld.add(id(item))
            if count % IN_A_ROW == IN_A_ROW - 1:
                await asyncio.sleep(0)
        self._withheld = withheld

    def response(self, message: Message) -> Message:
        """Check that a message answers this very call; give what the caller may see of it, to be encoded anew.

        Lists are filtered by the decision on each entry; what the server names is sealed; other results pass. The
        server's own bytes never pass: members that our parser dropped could make them a request to another parser.

        Raises:
            GateError: UPSTREAM_INVALID.
        """
        wanted = self._origin.id
        if message.kind is not Kind.RESPONSE:
            raise GateError(ErrorCode.UPSTREAM_INVALID, "the answer is no JSON-RPC response")
        if message.id is None or message.id != wanted or type(message.id) is not type(wanted):
            raise GateError(ErrorCode.UPSTREAM_INVALID, "the answer carries the id of another request")
        if message.is_error:
            self._check_error(message.payload)
            return message
        payload = cast("dict[str, Any]", message.payload)
        if len(payload) > MAX_MEMBERS:
            raise GateError(ErrorCode.UPSTREAM_INVALID, f"a result with more than {MAX_MEMBERS} members")
        if self._call.answer_kind is MethodKind.LIST:
            payload = self._filtered(payload)
        elif self._origin.method in _INTRODUCTIONS:
            payload = self._introduction(payload)
        payload = self._private(self._sealed(payload))
        return message if payload is message.payload else msgspec.structs.replace(message, payload=payload)

    def error(self, message: Message) -> Message:
        """An error that the upstream states with its HTTP status (MCP 2026-07-28); the id may be missing there.

        Raises:
            GateError: UPSTREAM_INVALID.
        """
        if message.kind is not Kind.RESPONSE or not message.is_error:
            raise GateError(ErrorCode.UPSTREAM_INVALID, "the answer is no JSON-RPC error")
        self._check_error(message.payload)
        return Message(Kind.RESPONSE, self._origin.id, "", {}, message.payload, is_error=True)

    def notification(self, message: Message) -> Message | None:
        """What the caller may see of a server's notification, if anything."""
        params = message.params
        if message.method in _PASSED_ON:
            pass
        elif message.method == _UPDATED:
            uri = params.get("uri")
            if not isinstance(uri, str) or not self.visible(resource_target(self._call.head.server, uri)):
                return None
        elif message.method == _CANCELLED:
            # Of a request of the server's own, which the client knows under another id.
            asked = params.get("requestId")
            sealed = self._asked.get(asked) if isinstance(asked, str | int) else None
            if sealed is None:
                return None
            params = {**params, "requestId": sealed}
        elif message.method in _TASK_NOTIFICATIONS:
            sealed = self._task(params.get("taskId"))
            if sealed is None or asks_for_input(params):
                return None
            params = {**params, "taskId": sealed}
        elif message.method == _ACKNOWLEDGED:
            params = acknowledged(params, self._task, own_tasks(self._call))
        else:
            return None
        params = unrelated(params)
        return message if params is message.params else msgspec.structs.replace(message, params=params)

    def request(self, message: Message, *, quiet: bool = False) -> Message | None:
        """A request of the server's as the client may see it, or None if this server may not ask that, or is `quiet`.

        Raises:
            GateError: UPSTREAM_INVALID, past `MAX_ASKED`: each is written down and answered, and none may be for ever.
        """
        self._count += 1
        if self._count > MAX_ASKED:
            raise GateError(ErrorCode.UPSTREAM_INVALID, f"more than {MAX_ASKED} requests of the server on one answer")
        if message.method != "ping" and (quiet or ASKS.get(message.method) not in self._asks):
            return None
        # A client can be asked once it has its answer to `initialize`.
        if self._call.modern or message.id is None or self._origin.method == "initialize":
            return None
        asked = ServerRequest(message.id, message.method, self._call.upstream_session)
        sealed = self._asked[message.id] = self._sealed_as(asked, MAX_SEALED_ID)
        return msgspec.structs.replace(message, id=sealed, params=unrelated(message.params))

    def meta(self, meta: dict[str, Any]) -> dict[str, Any]:
        """The `_meta` of a result as the caller may see it."""
        return self._related(meta) if RELATED_TASK in meta else meta

    def event_id(self, upstream_id: str) -> str:
        """The id under which the caller may resume this stream after an event."""
        call, origin = self._call, self._origin
        target = call.targets[0] if call.targets else ""
        return self._sealed_as(StreamEvent(upstream_id, call.upstream_session, origin.id, origin.method, target))

    async def note_changes(self) -> bool:
        """Write down what of the answer is other than approved, before anything of it passes; whether something is.

        Raises:
            GateError: OUTCOME_UNRECORDED.
        """
        if not self._pins.changes:
            return False
        await self._pins.note()
        return True

    def renewed(self, admitted: Admitted) -> None:
        """From now on the caller may see what it may as decided anew."""
        self.admitted = admitted

    def visible(self, target: str) -> bool:
        """Whether the caller could act on a target at all."""
        admitted = self.admitted
        principal, server = admitted.call.principal, self._call.head.server
        return visible(principal, admitted.session, server, target, self._policy, observing=admitted.observing)

    def _lists(self, target: str) -> bool:
        decided = self._decided.get(target)
        return self.visible(target) if decided is None else decided

    # What the server named.

    def _sealed_as(self, handle: Sealed, longest: int = MAX_HANDLE) -> str:
        sealed = self._seal.seal(handle, self._call.principal.key, self._call.head.server)
        if len(sealed) > longest:
            # A longer one could not come back.
            raise GateError(ErrorCode.UPSTREAM_INVALID, f"a handle that comes to over {longest} characters")
        return sealed

    def _task(self, upstream_id: object) -> str | None:
        """The caller's name of a task: of one that the call names, or of one that the call made."""
        if not isinstance(upstream_id, str):
            return None
        if upstream_id in self._call.tasks:
            return self._call.tasks[upstream_id]
        if self._call.kind is MethodKind.LISTEN or len(self._call.targets) != 1:
            return None
        return self._sealed_as(TaskId(upstream_id, self._call.targets[0]), MAX_NAME)

    def _sealed(self, payload: dict[str, Any]) -> dict[str, Any]:
        meta = payload.get("_meta")
        related = isinstance(meta, dict) and RELATED_TASK in meta
        extra = payload.keys() - _USUAL
        if not extra and not related:
            return payload
        result = dict(payload)
        if related:
            result["_meta"] = self._related(cast("dict[str, Any]", meta))
        for name in extra:
            if reads_as(name, INPUT_REQUESTS):
                self._check_input(name, payload[name])
            elif reads_as(name, _REQUEST_STATE):
                result[name] = self._state(name, payload[name])
            elif name in ("result", "error") and isinstance(payload[name], dict):
                self._check_outcome(name, payload[name])
            elif name == "taskId":
                result[name] = self._task(payload[name])
            elif name == "task" and isinstance(payload[name], dict):
                task = cast("dict[str, Any]", payload[name])
                result[name] = {**task, "taskId": self._task(task.get("taskId"))}
        return result

    def _related(self, meta: dict[str, Any]) -> dict[str, Any]:
        related: Any = meta[RELATED_TASK]
        sealed = self._task(cast("dict[str, Any]", related).get("taskId")) if isinstance(related, dict) else None
        rest = {name: value for name, value in meta.items() if name != RELATED_TASK}
        return rest if sealed is None else {**rest, RELATED_TASK: {"taskId": sealed}}

    def _state(self, name: str, state: object) -> str:
        call = self._call
        if name != _REQUEST_STATE or not isinstance(state, str) or call.kind is not MethodKind.TARGET:
            raise GateError(ErrorCode.UPSTREAM_INVALID, "a request state where none may be")
        return self._sealed_as(RequestState(state, self._origin.method, call.targets[0], self.admitted.base))

    def _check_input(self, name: str, requests: object) -> None:
        asked = list(cast("dict[str, Any]", requests).values()) if isinstance(requests, dict) else None
        if name != INPUT_REQUESTS or asked is None or len(asked) > MAX_MEMBERS:
            raise GateError(ErrorCode.UPSTREAM_INVALID, "input requests in another form than MCP's")
        for request in asked:
            members = cast("dict[str, Any]", request) if isinstance(request, dict) else {}
            method = members.get("method")
            # No other member may be read as the method: `Method` is to the Go SDK.
            if not isinstance(method, str) or not members.keys() <= _QUESTION:
                raise GateError(ErrorCode.UPSTREAM_INVALID, "input requests in another form than MCP's")
            self._question(method)

    def _check_error(self, error: dict[str, Any]) -> None:
        if error.get("code") == URL_ELICITATION_REQUIRED:
            self._question("elicitation/create")

    def _check_outcome(self, name: str, value: dict[str, Any]) -> None:
        # A finished task's result or error stands inside of the result that tells of the task (MCP 2026-07-28).
        if name == "error":
            self._check_error(value)
        elif asks_for_input(value):
            raise GateError(ErrorCode.UPSTREAM_INVALID, "the result of a task asks for input")

    def _question(self, method: str) -> None:
        passes = ASKS.get(method) in self._asks
        self.questions.append((method, passes))
        if not passes:
            raise GateError(ErrorCode.UPSTREAM_INVALID, "the answer asks the client for what this server may not")

    def _filtered(self, payload: dict[str, Any]) -> dict[str, Any]:
        member, server = list_member(self._origin.method), self._call.head.server
        listed: Any = payload.get(member.key)
        if not isinstance(listed, list) or len(cast("list[object]", listed)) > MAX_LISTED:
            raise GateError(
                ErrorCode.UPSTREAM_INVALID,
                f"no {member.key}, or over {MAX_LISTED}, in the result of {self._origin.method}",
            )
        if _disguised(payload, member.key):
            raise GateError(ErrorCode.UPSTREAM_INVALID, f"a second {member.key} in disguise")
        result = dict(payload)
        if (withheld := self._withheld) is None:
            # Nothing passes that was not compared with what was approved.
            raise GateError(ErrorCode.INTERNAL, "a list was filtered before it was decided on")
        entries = [
            item
            for item in cast("list[object]", result[member.key])
            if isinstance(name := _name(item, member.name), str)
            and id(item) not in withheld
            and self._lists(member.target(server, name))
        ]
        if self._call.modern and self._origin.method == "tools/list":
            # MCP 2026-07-28: clients must leave such tools out, so calls of them are refused.
            entries = [entry for entry in entries if annotations_fault(entry) is None]
        result[member.key] = entries
        if self._call.modern:
            # A list that depends on who asks must not outlive the session that it was filtered for.
            result["cacheScope"], result["ttlMs"] = "private", 0
        return result

    def _introduction(self, payload: dict[str, Any]) -> dict[str, Any]:
        if self._origin.method == "initialize":
            payload = without_task_lists(payload)
        # What a peer may take for instructions was judged by nobody.
        if taken := _disguised(payload, _INSTRUCTIONS):
            payload = {name: value for name, value in payload.items() if name not in taken}
        if payload.get(_INSTRUCTIONS) is None:
            return payload
        if self._pins.passes(instructions_target(self._call.head.server), payload[_INSTRUCTIONS]):
            return payload
        return {name: value for name, value in payload.items() if name != _INSTRUCTIONS}

    def _private(self, payload: dict[str, Any]) -> dict[str, Any]:
        # What was answered to one caller must not be shared with another by a cache in between.
        if payload.get("cacheScope", "private") == "private":
            return payload
        return {**payload, "cacheScope": "private"}


def _name(item: object, key: str) -> object:
    """The name of a list's entry; None if it has none, or one more that some peer may take for it."""
    members = cast("dict[str, object]", item) if isinstance(item, dict) else {}
    return None if len(members) > MAX_MEMBERS or _disguised(members, key) else members.get(key)


def _disguised(members: dict[str, Any], key: str) -> list[str]:
    return [name for name in members if name != key and reads_as(name, key)]
