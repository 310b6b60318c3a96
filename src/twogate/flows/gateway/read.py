"""The request, after gate one: from bytes and headers to calls whose every handle was opened (row R-44).

A POST brings one message or a batch of them, a GET opens a stream, a DELETE ends an MCP session. Each becomes a `Call`
with what it acts on named in the policy's words; nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, cast

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import MAX_MEMBERS, Kind, Message, check_name, parse_body
from twogate.core.principal import Principal
from twogate.core.protocol import ASSUMED_VERSION, MODERN_VERSIONS, MethodKind, method_kind, resource_target, target_of
from twogate.flows.gateway.exchange import Exchange, Head
from twogate.flows.gateway.headers import check_handshake_version, check_headers
from twogate.flows.gateway.seal import (
    ApprovalState,
    ApprovalTask,
    McpSession,
    RequestState,
    Seal,
    ServerRequest,
    StreamEvent,
    TaskId,
)

SESSION_END: Final = "DELETE"
"""Stands for the method of an HTTP DELETE, which ends an MCP session, in calls and in the audit trail."""
STREAM: Final = "GET"
"""Stands for the method of an HTTP GET, which opens a stream of what belongs to no call."""

BATCH_VERSION: Final = "2025-03-26"
"""The one version with batches."""

_SUBSCRIPTIONS: Final = frozenset(
    {"toolsListChanged", "promptsListChanged", "resourcesListChanged", "resourceSubscriptions", "taskIds"}
)
# Asked for several times a call, and an enum's members are slow to reach in Python 3.11.
_LISTEN: Final = MethodKind.LISTEN
_NO_TASKS: Final[Mapping[str, str]] = MappingProxyType({})


class AwaitedTasks(msgspec.Struct, frozen=True):
    """The tasks of Twogate's own that a `subscriptions/listen` names, by their sealed ids."""

    tasks: Mapping[str, ApprovalTask]


class Authenticated(msgspec.Struct, frozen=True):
    """A request whose caller gate one proved."""

    head: Head
    principal: Principal


class Origin(msgspec.Struct, frozen=True):
    """The request that an answer belongs to: its id, and its method."""

    id: str | int | None
    method: str


class Call(msgspec.Struct, frozen=True):
    """One message in agreement with its headers, its handles opened: `message` names things as the upstream does.

    `targets` is all that it acts on, in the policy's words. `answered` is the server's request that a client's response
    answers, `resumed` the event after which a stream goes on, `tasks` the sealed ids of the tasks that it names.
    `approval` is the parked call that it comes back for, or those that it listens to, and `base` the call that its
    request state belongs to.
    """

    head: Head
    principal: Principal
    message: Message
    version: str
    kind: MethodKind
    mcp: McpSession | None = None
    targets: tuple[str, ...] = ()
    answered: ServerRequest | None = None
    resumed: StreamEvent | None = None
    tasks: Mapping[str, str] = _NO_TASKS
    approval: ApprovalState | ApprovalTask | AwaitedTasks | None = None
    base: str = ""

    @property
    def modern(self) -> bool:
        """Whether the protocol version is a stateless one."""
        return self.version in MODERN_VERSIONS

    @property
    def upstream_session(self) -> str | None:
        """The upstream's own session id."""
        return None if self.mcp is None else self.mcp.upstream

    @property
    def origin(self) -> Origin:
        """The request whose answer this call brings: itself, unless a stream goes on with another's."""
        if self.resumed is not None:
            return Origin(self.resumed.request, self.resumed.method)
        return Origin(self.message.id, self.message.method)

    @property
    def answer_kind(self) -> MethodKind | None:
        """How gate two treats the method of `origin`."""
        return self.kind if self.resumed is None else method_kind(self.version, self.resumed.method)

    @property
    def stream(self) -> bool:
        """Whether the answer is a long-lived stream."""
        return self.message.method == STREAM or self.kind is _LISTEN

    @property
    def label(self) -> str:
        """The method as the audit trail has it."""
        return self.message.method if self.answered is None else f"answer:{self.answered.method}"


class CallError(GateError):
    """A refusal of a message that could be parsed, so that the answer can carry its id."""

    def __init__(self, error: GateError, message: Message) -> None:
        super().__init__(error.code, error.debug, data=error.data)
        self.message = message


async def read_messages(
    authenticated: Authenticated, exchange: Exchange, seal: Seal, max_body: int
) -> Message | tuple[Message | GateError, ...]:
    """Read the body of a POST: one message or, where the version in force has them, a batch.

    Raises:
        GateError: any code about the body; BATCH_NOT_SUPPORTED.
    """
    _check_negotiation(authenticated.head)
    body = parse_body(await exchange.read_body(max_body), max_bytes=max_body)
    if isinstance(body, tuple):
        session = open_session(authenticated, seal)
        version = authenticated.head.headers.get("mcp-protocol-version") or _assumed(session)
        if version != BATCH_VERSION:
            raise GateError(ErrorCode.BATCH_NOT_SUPPORTED, f"a batch on version {version[:16]}")
    return body


def read_call(authenticated: Authenticated, message: Message, seal: Seal) -> Call:
    """Make a call of one message, in this order: 1. its headers and version; 2. its method; 3. its handles and targets.

    Raises:
        CallError: any code about the message.
    """
    try:
        session = open_session(authenticated, seal)
        # 1.
        version = check_headers(message, authenticated.head.headers, _assumed(session))
        if message.kind is Kind.RESPONSE:
            return _answer(authenticated, message, version, session, seal)
        # 2.
        kind = method_kind(version, message.method)
        if kind is None:
            raise GateError(ErrorCode.METHOD_NOT_FOUND, f"no method {message.method!r} in {version}")
        # 3.
        call = Call(authenticated.head, authenticated.principal, message, version, kind, session)
        return call if kind not in _READERS else _READERS[kind](call, seal)
    except GateError as error:
        raise CallError(error, message) from error


def read_stream(authenticated: Authenticated, seal: Seal) -> Call:
    """A GET: the stream of what belongs to no call, or the rest of one that broke off (Streamable HTTP, to 2025-11-25).

    Raises:
        GateError: METHOD_NOT_ALLOWED on later versions, UNSUPPORTED_PROTOCOL_VERSION, NOT_ACCEPTABLE,
            MCP_SESSION_UNKNOWN, EVENT_UNKNOWN.
    """
    head = authenticated.head
    version = head.headers.get("mcp-protocol-version")
    if version in MODERN_VERSIONS:
        raise GateError(ErrorCode.METHOD_NOT_ALLOWED, "GET on a version without it")
    if "text/event-stream" not in _accepted(head.headers.get("accept", "*/*")):
        raise GateError(ErrorCode.NOT_ACCEPTABLE, "accept")
    session = open_session(authenticated, seal)
    message = Message(Kind.NOTIFICATION, None, STREAM, {})
    call = Call(
        head,
        authenticated.principal,
        message,
        check_handshake_version(version) or _assumed(session),
        MethodKind.OPEN,
        session,
    )
    last = head.headers.get("last-event-id")
    if last is None:
        return call
    event = seal.open(last, StreamEvent, authenticated.principal.key, head.server)
    if event is None or event.upstream != call.upstream_session:
        raise GateError(ErrorCode.EVENT_UNKNOWN, "Last-Event-ID of another principal, server or session")
    # What the stream still brings is decided as the call was that it began with; a list is filtered by a session.
    lists = method_kind(call.version, event.method) is MethodKind.LIST
    kind = MethodKind.TARGET if event.target else MethodKind.LIST if lists else MethodKind.OPEN
    return msgspec.structs.replace(call, resumed=event, kind=kind, targets=(event.target,) if event.target else ())


def read_session_end(authenticated: Authenticated, seal: Seal) -> Call:
    """The end of an MCP session (HTTP DELETE, Streamable HTTP up to 2025-11-25) as a call without a message of its own.

    Raises:
        GateError: METHOD_NOT_ALLOWED without a session to end, MCP_SESSION_UNKNOWN.
    """
    session = open_session(authenticated, seal)
    if session is None:
        raise GateError(ErrorCode.METHOD_NOT_ALLOWED, "DELETE without Mcp-Session-Id")
    message = Message(Kind.NOTIFICATION, None, SESSION_END, {})
    return Call(authenticated.head, authenticated.principal, message, _assumed(session), MethodKind.OPEN, session)


def open_session(authenticated: Authenticated, seal: Seal) -> McpSession | None:
    """What is behind the `Mcp-Session-Id` that this principal presents, if it presents one.

    Raises:
        GateError: MCP_SESSION_UNKNOWN.
    """
    presented = authenticated.head.headers.get("mcp-session-id")
    if presented is None:
        return None
    session = seal.open(presented, McpSession, authenticated.principal.key, authenticated.head.server)
    if session is None:
        raise GateError(ErrorCode.MCP_SESSION_UNKNOWN, "not a session id of this principal and server")
    return session


def _assumed(session: McpSession | None) -> str:
    # A client without a version header means what it negotiated, which its session remembers.
    return ASSUMED_VERSION if session is None or not session.version else session.version


def _answer(
    authenticated: Authenticated, message: Message, version: str, session: McpSession | None, seal: Seal
) -> Call:
    # A client's response, to a request that the server made of this client in this session.
    key, server = authenticated.principal.key, authenticated.head.server
    asked = seal.open(message.id, ServerRequest, key, server) if isinstance(message.id, str) else None
    if asked is None or asked.upstream != (None if session is None else session.upstream):
        raise GateError(ErrorCode.SERVER_REQUEST_UNKNOWN, "an answer to no request of this session")
    message = msgspec.structs.replace(message, id=asked.id)
    return Call(authenticated.head, authenticated.principal, message, version, MethodKind.OPEN, session, answered=asked)


def _read_target(call: Call, seal: Seal) -> Call:
    target = target_of(call.head.server, call.message)
    state = call.message.params.get("requestState")
    if state is None:
        return msgspec.structs.replace(call, targets=(target,))
    key, server = call.principal.key, call.head.server
    opened: RequestState | ApprovalState | None = None
    if isinstance(state, str):
        opened = seal.open(state, RequestState, key, server) or seal.open(state, ApprovalState, key, server)
    if opened is None or (opened.method, opened.target) != (call.message.method, target):
        raise GateError(ErrorCode.REQUEST_STATE_UNKNOWN, "a requestState of another principal, server or call")
    params, approval = {**call.message.params, "requestState": opened.state}, None
    if isinstance(opened, ApprovalState):
        # What is answered here is our own question: the server sees neither it nor the answer.
        params.pop("inputResponses", None)
        approval = opened
        if opened.state is None:
            del params["requestState"]
    message = msgspec.structs.replace(call.message, params=params)
    return msgspec.structs.replace(call, message=message, targets=(target,), approval=approval, base=opened.base)


def _read_task(call: Call, seal: Seal) -> Call:
    sealed = check_name(call.message.params.get("taskId"), "params.taskId")
    ours = seal.open(sealed, ApprovalTask, call.principal.key, call.head.server)
    if ours is not None:
        return msgspec.structs.replace(call, targets=(ours.target,), approval=ours)
    task = _open_task(sealed, call, seal)
    message = msgspec.structs.replace(call.message, params={**call.message.params, "taskId": task.id})
    return msgspec.structs.replace(call, message=message, targets=(task.target,), tasks={task.id: sealed})


def _read_listen(call: Call, seal: Seal) -> Call:
    wanted: Any = call.message.params.get("notifications")
    if not isinstance(wanted, dict):
        raise GateError(ErrorCode.INVALID_PARAMS, "params.notifications is not an object")
    wanted = dict(cast("dict[str, Any]", wanted))
    # A closed object: what is not known here could be a subscription that nobody decided on, under any spelling.
    if not wanted.keys() <= _SUBSCRIPTIONS:
        raise GateError(ErrorCode.INVALID_PARAMS, "params.notifications has a member that is not known")
    uris = [check_name(uri, "a resource subscription") for uri in _items(wanted, "resourceSubscriptions")]
    sealed = [check_name(task, "a task id") for task in _items(wanted, "taskIds")]
    key, server = call.principal.key, call.head.server
    opened = {text: seal.open(text, ApprovalTask, key, server) for text in sealed}
    ours = {text: task for text, task in opened.items() if task is not None}
    tasks = {text: _open_task(text, call, seal) for text in opened if text not in ours}
    # The server knows nothing of ours.
    wanted.pop("taskIds", None)
    if tasks:
        wanted["taskIds"] = [task.id for task in tasks.values()]
    targets = [resource_target(server, uri) for uri in uris]
    targets += [task.target for task in tasks.values()] + [task.target for task in ours.values()]
    message = msgspec.structs.replace(call.message, params={**call.message.params, "notifications": wanted})
    return msgspec.structs.replace(
        call,
        message=message,
        targets=tuple(dict.fromkeys(targets)),
        tasks={task.id: text for text, task in tasks.items()},
        approval=AwaitedTasks(ours) if ours else None,
    )


_READERS: Final = MappingProxyType(
    {MethodKind.TARGET: _read_target, MethodKind.TASK: _read_task, MethodKind.LISTEN: _read_listen}
)


def _open_task(sealed: str, call: Call, seal: Seal) -> TaskId:
    task = seal.open(sealed, TaskId, call.principal.key, call.head.server)
    if task is None:
        raise GateError(ErrorCode.MCP_TASK_UNKNOWN, "a task of another principal or server")
    return task


def _items(wanted: dict[str, Any], name: str) -> list[object]:
    items: object = wanted.get(name) or []
    if not isinstance(items, list) or len(cast("list[object]", items)) > MAX_MEMBERS:
        raise GateError(ErrorCode.INVALID_PARAMS, f"{name} is not a list of at most {MAX_MEMBERS}")
    return cast("list[object]", items)


def _check_negotiation(head: Head) -> None:
    if not _is_json(head.headers.get("content-type", "")):
        raise GateError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "content-type")
    # MCP, transports: "The client MUST include an Accept header, listing both …".
    if len(_accepted(head.headers.get("accept", "*/*"))) != len(_BOTH):
        raise GateError(ErrorCode.NOT_ACCEPTABLE, "accept")


_BOTH: Final = frozenset({"application/json", "text/event-stream"})


# Clients send the same few values with every call.
@lru_cache(maxsize=64)
def _is_json(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "application/json"


@lru_cache(maxsize=64)
def _accepted(accept: str) -> frozenset[str]:
    named = {item.partition(";")[0].strip().lower() for item in accept.split(",")}
    return _BOTH if "*/*" in named else _BOTH & named
