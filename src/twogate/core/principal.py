"""Who is calling: agents, their bindings to credentials, and the principal that gate one proves."""

from __future__ import annotations

from enum import StrEnum
from functools import cached_property
from typing import Final, NewType

import msgspec

from twogate.core.audit.record import AuditEvent, EventKind

AgentName = NewType("AgentName", str)
"""`tenant/agent`, the name under which an operator registered an agent."""


PUBLIC_CLIENT: Final = "public-client"
"""The built-in agent of each tenant that clients without an agent of their own act as (DESIGN decision 1)."""


class Method(StrEnum):
    """How a credential proves who calls."""

    JWT = "jwt"


class AgentId(msgspec.Struct, frozen=True, order=True):
    """An agent of a tenant."""

    tenant: str
    agent: str

    def __str__(self) -> str:
        return f"{self.tenant}/{self.agent}"


class UserId(msgspec.Struct, frozen=True, order=True):
    """A user: one issuer's `sub`. Equal subjects of two issuers are two users."""

    issuer: str
    subject: str


class Binding(msgspec.Struct, frozen=True):
    """A credential that an operator tied to an agent: method, issuer, and the issuer's name for the agent."""

    method: Method
    issuer: str
    identifier: str


class Agent(msgspec.Struct, frozen=True):
    """A registered agent: its one role, the tasks it may declare, and how many of them may live at once."""

    id: AgentId
    role: str
    tasks: tuple[str, ...]
    default_task: str | None = None
    concurrent_tasks: int = 1
    disabled: bool = False


class PrincipalKey(msgspec.Struct, frozen=True):
    """What sessions, relays and upstream connections are bound to: the agent, by its issuer, and the user behind it."""

    tenant: str
    issuer: str
    agent: str
    user: UserId | None


class Principal(msgspec.Struct, frozen=True, dict=True):
    """Who calls, as proven by gate one. Built only in `flows/gateway/authenticate.py`.

    `credential` is a short keyed digest that names the credential in the audit trail without revealing it.
    `session_id` is the session named by the credential itself, if any. `expires_at` is Unix seconds.
    `user_roles` are the roles that the issuer asserts of the user; as with groups, the mildest of them counts.
    `posture` is what the issuer says of the device that the caller uses.
    `one_time` names the credential at its issuer if it is good for one request; who lets the principal in uses it up.
    """

    tenant: str
    issuer: str
    agent: Agent
    user: UserId | None
    user_roles: tuple[str, ...]
    groups: tuple[str, ...]
    scopes: frozenset[str]
    method: Method
    credential: str
    session_id: str | None
    expires_at: int
    one_time: str | None = None
    posture: frozenset[str] = frozenset()

    @cached_property
    def key(self) -> PrincipalKey:
        """The identity that sessions and upstream connections are bound to."""
        return PrincipalKey(self.tenant, self.issuer, self.agent.id.agent, self.user)

    @cached_property
    def named(self) -> AuditEvent:
        """What every audit event of a call of this principal's says of it; kind, time and call are to be filled in."""
        return AuditEvent(
            kind=EventKind.CALL_INTENT,
            at=0,
            tenant=self.tenant,
            issuer=self.issuer,
            agent=self.agent.id.agent,
            user_issuer="" if self.user is None else self.user.issuer,
            user="" if self.user is None else self.user.subject,
            role=self.agent.role,
            credential=self.credential,
        )
