"""Sessions: a principal, the task it declared, and tools that never grow until a deadline (DESIGN decision 6).

States: live -> ended (by a person) and live -> expired (by the clock). There is no way back and no other change: the
same task declared again gives the same session and deadline, and ending one early frees nothing, so that declaring
task after task cannot collect the union of their tools.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.principal import Agent, PrincipalKey

MAX_LIFETIME: Final = 3600
"""Seconds that a session may live at most."""


class Session(msgspec.Struct, frozen=True):
    """A principal's session for one task. Times are Unix seconds; `targets` are the only ones it can ever call."""

    id: str
    principal: PrincipalKey
    task: str
    targets: frozenset[str]
    created_at: int
    deadline: int
    ended_at: int | None = None


def verify_session(session: Session, principal: PrincipalKey, now: int) -> Session:
    """Return the session if it is this principal's and live now.

    Raises:
        GateError: SESSION_MISMATCH, SESSION_ENDED, SESSION_EXPIRED.
    """
    if session.principal != principal:
        raise GateError(ErrorCode.SESSION_MISMATCH, f"session {session.id} belongs to another principal")
    if session.ended_at is not None:
        raise GateError(ErrorCode.SESSION_ENDED, f"session {session.id}")
    if now >= session.deadline:
        raise GateError(ErrorCode.SESSION_EXPIRED, f"session {session.id}")
    return session


def find_or_refuse(agent: Agent, principal: PrincipalKey, task: str, unexpired: Iterable[Session]) -> Session | None:
    """The principal's session that declaring `task` gives: an existing one, None if a new one may be opened.

    `unexpired` are the sessions of this agent for this user before their deadline, ended ones included, by whichever
    issuer the agent was named: with one credential of each, it must not hold one task through each.

    Raises:
        GateError: TASK_UNKNOWN, SESSION_ENDED (this task's was ended early), TASK_LIMIT (others occupy the agent).
    """
    if task not in agent.tasks:
        raise GateError(ErrorCode.TASK_UNKNOWN, f"agent {agent.id} has no task {task!r}")
    found, others = None, 0
    for session in unexpired:
        if session.task != task:
            others += 1
        elif session.ended_at is not None:
            raise GateError(ErrorCode.SESSION_ENDED, f"session {session.id} was ended before its deadline")
        elif session.principal == principal:
            found = session
    if found is not None:
        return found
    if others >= agent.concurrent_tasks:
        raise GateError(
            ErrorCode.TASK_LIMIT, f"{others} other task(s) of {agent.id} live, {agent.concurrent_tasks} may"
        )
    return None
