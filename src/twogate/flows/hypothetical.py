"""Callers that nobody is, to ask what they might do: `twogate explain`, `twogate check` and the console's pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from twogate.core.access import Allow, Decision, Deny, NeedsToken, Observed, Policy, session_targets
from twogate.core.errors import FACES, ErrorCode
from twogate.core.principal import Agent, AgentId, Binding, Method, Principal, UserId
from twogate.core.session import MAX_LIFETIME, Session


def hypothetical_principal(
    agent: Agent,
    bindings: Mapping[Binding, AgentId],
    *,
    scopes: Sequence[str],
    groups: Sequence[str] = (),
    user_roles: Sequence[str] = (),
    posture: Sequence[str] = (),
) -> Principal:
    """The principal that gate one would prove for this agent. Only for explaining: nothing was proven.

    There is a user exactly if roles or groups are given, since only users have them.
    """
    issuer = next((binding.issuer for binding, bound in bindings.items() if bound == agent.id), "")
    user = UserId(issuer, "hypothetical") if groups or user_roles else None
    return Principal(
        tenant=agent.id.tenant,
        issuer=issuer,
        agent=agent,
        user=user,
        user_roles=tuple(user_roles),
        groups=tuple(groups),
        scopes=frozenset(scopes),
        method=Method.JWT,
        credential="hypothetical",
        session_id=None,
        expires_at=0,
        posture=frozenset(posture),
    )


def hypothetical_session(principal: Principal, task: str | None, policy: Policy, now: int) -> Session | None:
    """The session that declaring this task would open; None if the agent does not have the task."""
    if task is None or task not in principal.agent.tasks:
        return None
    targets = session_targets(policy, principal.agent.role, task)
    return Session("hypothetical", principal.key, task, targets, now, now + MAX_LIFETIME)


def verdict(decision: Decision) -> str:
    """One word for a decision."""
    match decision:
        case Allow():
            return "allow"
        case NeedsToken():
            return "token"
        case Observed():
            return "observed"
        case Deny():
            return "deny"


_SENTENCES: Final[Mapping[ErrorCode, str]] = {
    ErrorCode.TENANT_SERVER_REFUSED: "the tenant may not reach this server (tenants)",
    ErrorCode.TARGET_UNCLASSIFIED: "the tool is not classified, and what is not classified is denied (tools)",
    ErrorCode.ROLE_NOT_PERMITTED: "the agent's role does not allow the tool (roles)",
    ErrorCode.USER_NOT_PERMITTED: "the user behind the agent may not use the tool (roles, groups)",
    ErrorCode.SESSION_REQUIRED: "a session is required: no task is declared and there is no default task",
    ErrorCode.TASK_UNKNOWN: "the agent does not have this task (agents)",
    ErrorCode.TASK_NOT_PERMITTED: "the tool is not among the task's (tasks)",
    ErrorCode.OPERATION_TOKEN_REQUIRED: "the call needs an operation token bound to it",
    ErrorCode.SCOPE_INSUFFICIENT: "the token has no scope that covers the tool (scopes)",
    ErrorCode.POLICY_DENIED: "a policy forbids this very call (policies)",
    ErrorCode.TOOL_NOT_APPROVED: "nobody approved the tool, and it has to be (pins)",
    ErrorCode.TOOL_CHANGED: "the server shows the tool otherwise than it was approved",
}


def describe(code: ErrorCode) -> str:
    """One sentence for a reason, with the section of the configuration that decides it."""
    return _SENTENCES.get(code, code.value)


def described(reason: str) -> str:
    """The same for a reason as the audit trail has it, which another version may have written."""
    if reason not in ErrorCode.__members__.values():
        return reason
    code = ErrorCode(reason)
    return _SENTENCES.get(code) or f"{code.value}: {FACES[code].text.rstrip('.')}"
