"""Gate two: the session in force and the decision on this very call."""

from __future__ import annotations

import msgspec

from twogate.core.access import Allow, Deny, NeedsToken, Policy, decide
from twogate.core.errors import ErrorCode, GateError
from twogate.core.protocol import MethodKind, target_of
from twogate.core.session import Session
from twogate.flows.gateway.read import Call, CallError
from twogate.flows.sessions import Sessions

SESSION_HEADER = "twogate-session"
TASK_HEADER = "twogate-task"


class Admitted(msgspec.Struct, frozen=True):
    """A call that both gates let through. `target` is empty for methods that name none (lists, discovery)."""

    call: Call
    session: Session | None
    target: str


class Refused(msgspec.Struct, frozen=True):
    """A call that gate two refused, with what is needed to record and answer it."""

    call: Call
    session: Session | None
    target: str
    error: GateError
    scopes: tuple[str, ...] = ()


async def admit(call: Call, sessions: Sessions, policy: Policy, now: int) -> Admitted | Refused:
    """Decide one call, in this order.

    1. the session: named by the token, the header, the declared or the default task; 2. the method: closed ones are
    refused, open ones and lists need a server of the tenant only (a list's answer is filtered by the same decision);
    3. the target, by `core.access.decide`.

    Raises:
        CallError: STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
    """
    session, target = None, ""
    try:
        # 1.
        session = await _session(call, sessions, now)
        # 2.
        tenant = policy.tenants.get(call.principal.tenant)
        if tenant is None or call.head.server not in tenant.servers:
            raise GateError(ErrorCode.TENANT_SERVER_REFUSED, f"server {call.head.server}")
        if call.kind is MethodKind.CLOSED:
            raise GateError(ErrorCode.METHOD_NOT_PERMITTED, call.message.method)
        if call.kind is not MethodKind.TARGET:
            return Admitted(call, session, "")
        # 3.
        target = target_of(call.head.server, call.message)
    except GateError as error:
        if error.code in (ErrorCode.STORE_UNAVAILABLE, ErrorCode.AUDIT_UNAVAILABLE):
            raise CallError(error, call.message) from error
        return Refused(call, session, target, error)
    match decide(call.principal, session, call.head.server, target, policy):
        case Allow():
            return Admitted(call, session, target)
        case NeedsToken():
            return Refused(call, session, target, GateError(ErrorCode.OPERATION_TOKEN_REQUIRED))
        case Deny(code, scopes):
            return Refused(call, session, target, GateError(code), scopes)


async def _session(call: Call, sessions: Sessions, now: int) -> Session | None:
    """The session in force. Every source that is present must name the same one (DESIGN decision 6)."""
    principal, headers = call.principal, call.head.headers
    named, presented = principal.session_id, headers.get(SESSION_HEADER)
    if named is None:
        named = presented
    elif presented is not None and presented != named:
        raise GateError(ErrorCode.SESSION_CONFLICT, "token and header name different sessions")
    session = None if named is None else await sessions.find(named, principal, now)
    task = headers.get(TASK_HEADER)
    if session is None and task is None and call.kind is not MethodKind.OPEN:
        task = principal.agent.default_task
    if task is not None:
        if session is not None and session.task != task:
            raise GateError(ErrorCode.SESSION_CONFLICT, "the session is for another task than the header declares")
        session = session or await sessions.declare(task, principal, now, call.head.address)
    return session
