"""Gate two: the session in force and the decision on this very call."""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

from twogate.core.access import Allow, Decision, Deny, NeedsToken, Observed, Policy, decide
from twogate.core.conditions import Asked
from twogate.core.errors import ErrorCode, GateError
from twogate.core.protocol import MethodKind, resource_target
from twogate.core.session import Session
from twogate.flows.gateway.exchange import Header
from twogate.flows.gateway.read import Call, CallError
from twogate.flows.operations.started import StartedOperation
from twogate.flows.sessions import Sessions

SESSION_HEADER = "twogate-session"
TASK_HEADER = "twogate-task"

_TELLS_TASK = "tasks/update"

MAX_JUDGED: Final = 64
"""Targets that one call may have where there are conditions: each is put to them, and a stream's time and again."""


class Admitted(msgspec.Struct, frozen=True):
    """A call that both gates let through. `target` is empty for methods that name none (lists, discovery).

    `observing` says that gate two is observed and not enforced; `observed` is what the call would be refused for
    otherwise. `param_headers` are the headers that mirror arguments, and `pin` is the digest in hex of what was
    approved of the target, if anything was (`tool_check.py`). A `gated` one runs only with an `operation`, which a
    token or an approval started (`operation.py`, `approval.py`); `base` is the digest of a call that started so,
    without what was answered to its server.
    """

    call: Call
    session: Session | None
    target: str
    observing: bool = False
    observed: ErrorCode | None = None
    param_headers: tuple[Header, ...] = ()
    pin: str = ""
    gated: bool = False
    operation: StartedOperation | None = None
    base: str = ""


class Refused(msgspec.Struct, frozen=True):
    """A call that gate two refused, with what is needed to record and answer it."""

    call: Call
    session: Session | None
    target: str
    error: GateError
    scopes: tuple[str, ...] = ()
    observing: bool = False


class Conditions(Protocol):
    """What may forbid a call that the decision lets through, by what is known of this very call; Cedar policies do."""

    def forbidden(self, asked: Asked) -> str | None:
        """Why it is forbidden, in words for the audit trail; None if it is not."""
        ...


async def admit(
    call: Call, sessions: Sessions, policy: Policy, now: int, conditions: Conditions | None = None
) -> Admitted | Refused:
    """Decide one call, in this order.

    1. the session: named by the token, the header, the MCP session, the declared or the default task; 2. the method:
    closed ones are refused, open ones and lists need a server of the tenant only (a list's answer is filtered by the
    same decision); 3. every target that it acts on, by `core.access.decide` and then by the conditions, which are never
    only observed. Lists are not narrowed by conditions: what they would be asked is not known yet.

    Raises:
        CallError: STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
    """
    observing = policy.observing(now)
    session, missing = None, ErrorCode.SESSION_REQUIRED
    try:
        # 1.
        session = await _session(call, sessions, now)
    except GateError as error:
        if error.code in (ErrorCode.STORE_UNAVAILABLE, ErrorCode.AUDIT_UNAVAILABLE):
            raise CallError(error, call.message) from error
        if not observing or error.code is not ErrorCode.TASK_UNKNOWN:
            return _refused(call, None, error, observing)
        missing = ErrorCode.TASK_UNKNOWN
    # 2.
    tenant = policy.tenants.get(call.principal.tenant)
    if tenant is None or call.head.server not in tenant.servers:
        foreign = GateError(ErrorCode.TENANT_SERVER_REFUSED, f"server {call.head.server}")
        return _refused(call, session, foreign, observing)
    if call.kind is MethodKind.CLOSED:
        return _refused(call, session, GateError(ErrorCode.METHOD_NOT_PERMITTED, call.message.method), observing)
    # 3.
    return _decided(call, session, policy, observing, missing, conditions, now)


def _refused(call: Call, session: Session | None, error: GateError, observing: bool) -> Refused:
    return Refused(call, session, call.targets[0] if call.targets else "", error, observing=observing)


def _decided(
    call: Call,
    session: Session | None,
    policy: Policy,
    observing: bool,
    missing: ErrorCode,
    conditions: Conditions | None,
    now: int,
) -> Admitted | Refused:
    target, observed, gated = call.targets[0] if call.targets else "", None, False
    if conditions is not None and len(call.targets) > MAX_JUDGED:
        many = GateError(ErrorCode.POLICY_DENIED, f"more than {MAX_JUDGED} targets cannot be judged at once")
        return Refused(call, session, target, many, observing=observing)
    for one in call.targets:
        decision = decide(call.principal, session, call.head.server, one, policy, observing=observing, missing=missing)
        if conditions is not None and (why := _forbidden(decision, call, session, one, policy, conditions, now)):
            return Refused(call, session, one, GateError(ErrorCode.POLICY_DENIED, why), observing=observing)
        match decision:
            case Allow():
                pass
            case Observed(code):
                observed, target = observed or code, target if observed else one
            case NeedsToken() if call.kind is MethodKind.LISTEN and one not in _of_tasks(call):
                # A token is for one target, and these may be many.
                needed = GateError(ErrorCode.OPERATION_TOKEN_REQUIRED, "a subscription to what needs a token")
                return Refused(call, session, one, needed, observing=observing)
            case NeedsToken():
                gated, target = gated or _starts_something(call), one
            case Deny(code, scopes):
                return Refused(call, session, one, GateError(code), scopes, observing)
    return Admitted(call, session, target, observing, observed, gated=gated)


def _starts_something(call: Call) -> bool:
    """Whether a call does something new, and not only brings what an earlier one began, with its own token, then."""
    if call.resumed is not None or call.kind is MethodKind.LISTEN:
        return False
    # What a waiting task is told may change all that it does.
    return call.kind is not MethodKind.TASK or call.message.method == _TELLS_TASK


def _of_tasks(call: Call) -> frozenset[str]:
    # Only tools make tasks, and no tool's target reads like a resource's.
    resources = resource_target(call.head.server, "")
    return frozenset(target for target in call.targets if not target.startswith(resources))


def _forbidden(
    decision: Decision,
    call: Call,
    session: Session | None,
    target: str,
    policy: Policy,
    conditions: Conditions,
    now: int,
) -> str | None:
    if isinstance(decision, Deny):
        return None
    found = policy.of(call.principal.tenant).classify(target)
    if found is None:
        return "no entry classifies the target"
    method, params = call.message.method, call.message.params
    return conditions.forbidden(
        Asked(call.principal, session, target, found.entry, method, params, call.head.address, now)
    )


async def _session(call: Call, sessions: Sessions, now: int) -> Session | None:
    """The session in force. Every source that is present must name the same one (DESIGN decision 6).

    The sources are the token's `sid`, the `Twogate-Session` header, the session that `initialize` was bound to, the
    `Twogate-Task` header, and the agent's default task if there is none of these.
    """
    principal, headers = call.principal, call.head.headers
    bound = None if call.mcp is None else call.mcp.session
    sources = {principal.session_id, headers.get(SESSION_HEADER), bound} - {None}
    if len(sources) > 1:
        raise GateError(ErrorCode.SESSION_CONFLICT, "token, header and MCP session name different sessions")
    named = next(iter(sources), None)
    session = None if named is None else await sessions.find(named, principal, now)
    task = headers.get(TASK_HEADER)
    # A stream brings what the caller may see, which its task decides.
    if session is None and task is None and (call.kind is not MethodKind.OPEN or call.stream):
        task = principal.agent.default_task
    if task is not None:
        if session is not None and session.task != task:
            raise GateError(ErrorCode.SESSION_CONFLICT, "the session is for another task than the header declares")
        session = session or await sessions.declare(task, principal, now, call.head.address)
    return session
