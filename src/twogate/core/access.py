"""Gate two's decision: may this principal make this call, within its session, under the current policy?

Pure. `decide` answers for one call and `visible` for one entry of a list; both ask the same question of `effect`, so a
list never shows what a call would refuse. Everything is denied unless a rule allows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum, StrEnum

import msgspec

from twogate.core.errors import ErrorCode
from twogate.core.principal import Principal
from twogate.core.session import Session


class ToolClass(StrEnum):
    """What a tool does; the default matrix is written over these."""

    READ = "read"
    SEARCH = "search"
    FETCH = "fetch"
    WRITE = "write"
    SEND = "send"
    EXECUTE = "execute"
    SECRETS = "secrets"
    CONFIGURE = "configure"


class Effect(IntEnum):
    """What a role says of a tool; greater is stricter."""

    ALLOW = 0
    TOKEN = 1
    DENY = 2


class Role(msgspec.Struct, frozen=True):
    """A named list of classes and tools. Entries are class names (`read`) or targets (`git.git_log`)."""

    name: str
    allow: frozenset[str]
    token: frozenset[str] = frozenset()
    deny: frozenset[str] = frozenset()

    def effect(self, target: str, tool_class: ToolClass) -> Effect:
        """What this role says of a target: any `deny` wins, then the target's own entry, then its class's."""
        names = (target, tool_class)  # a class is its name
        if not self.deny.isdisjoint(names):
            return Effect.DENY
        for name in names:
            if name in self.token:
                return Effect.TOKEN
            if name in self.allow:
                return Effect.ALLOW
        return Effect.DENY


class Group(msgspec.Struct, frozen=True):
    """What membership of an identity provider's group grants: a role for its users, and scopes."""

    role: str | None
    scopes: frozenset[str]


class Tenant(msgspec.Struct, frozen=True):
    """The servers that a tenant's agents may reach."""

    servers: frozenset[str]


class Policy(msgspec.Struct, frozen=True):
    """The compiled policy of one configuration generation.

    `classes` maps each classified target (`server.tool`) to its class; a target that is missing is denied. `tasks` and
    `scopes` map a name to entries of the same kind as a role's: classes or targets.
    """

    generation: str
    classes: Mapping[str, ToolClass]
    roles: Mapping[str, Role]
    tasks: Mapping[str, frozenset[str]]
    scopes: Mapping[str, frozenset[str]]
    groups: Mapping[str, Group]
    tenants: Mapping[str, Tenant]


class Allow(msgspec.Struct, frozen=True):
    """The call may run."""

    def __bool__(self) -> bool:
        """Refuse truth tests: a decision is matched, never tested."""
        raise TypeError("match a decision by type, do not test its truth")


class Deny(msgspec.Struct, frozen=True):
    """The call may not run. `code` is the exact reason; `scopes` are those of which any one would cover the target."""

    code: ErrorCode
    scopes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Refuse truth tests: a decision is matched, never tested."""
        raise TypeError("match a decision by type, do not test its truth")


class NeedsToken(msgspec.Struct, frozen=True):
    """The call may run only with an operation token bound to it."""

    def __bool__(self) -> bool:
        """Refuse truth tests: a decision is matched, never tested."""
        raise TypeError("match a decision by type, do not test its truth")


Decision = Allow | Deny | NeedsToken

ALLOW = Allow()
NEEDS_TOKEN = NeedsToken()


def covers(entries: frozenset[str], target: str, tool_class: ToolClass) -> bool:
    """Whether a list of classes and targets names this target or its class."""
    return target in entries or tool_class in entries


def session_targets(policy: Policy, role: str, task: str) -> frozenset[str]:
    """The targets that a new session holds for good: the intersection of role and task (DESIGN decision 5).

    Unknown roles and tasks give nothing.
    """
    rules, entries = policy.roles.get(role), policy.tasks.get(task)
    if rules is None or entries is None:
        return frozenset()
    return frozenset(
        target
        for target, tool_class in policy.classes.items()
        if covers(entries, target, tool_class) and rules.effect(target, tool_class) is not Effect.DENY
    )


def decide(principal: Principal, session: Session | None, server: str, target: str, policy: Policy) -> Decision:
    """Decide one call of `target` (`server.tool`) at `server`; the first refusal in this order is the reason.

    1. there is a session; 2. the tenant has the server; 3. the target is classified; 4. the agent's role allows it;
    5. the user, if there is one, may too by role or group; 6. the session's fixed set AND the task as configured now
    hold it; 7. if scopes are configured, a granted one covers it. `session` must be one that the caller verified for
    this principal and this moment. The scopes come last, so that a challenge is given only when a scope would help.
    """
    # 1.
    if session is None:
        return Deny(ErrorCode.SESSION_REQUIRED)
    # 2.
    tenant = policy.tenants.get(principal.tenant)
    if tenant is None or server not in tenant.servers:
        return Deny(ErrorCode.TENANT_SERVER_REFUSED)
    # 3.
    tool_class = policy.classes.get(target)
    if tool_class is None:
        return Deny(ErrorCode.TARGET_UNCLASSIFIED)
    # 4.
    role = policy.roles.get(principal.agent.role)
    effect = Effect.DENY if role is None else role.effect(target, tool_class)
    if effect is Effect.DENY:
        return Deny(ErrorCode.ROLE_NOT_PERMITTED)
    # 5.
    if principal.user is not None:
        effect = max(effect, _user_effect(principal, target, tool_class, policy))
        if effect is Effect.DENY:
            return Deny(ErrorCode.USER_NOT_PERMITTED)
    # 6.
    if (
        target not in session.targets
        or session.task not in principal.agent.tasks
        or not covers(policy.tasks.get(session.task, frozenset()), target, tool_class)
    ):
        return Deny(ErrorCode.TASK_NOT_PERMITTED)
    # 7.
    if policy.scopes and not _scope_covers(principal, target, tool_class, policy):
        needed = tuple(sorted(name for name, entries in policy.scopes.items() if covers(entries, target, tool_class)))
        return Deny(ErrorCode.SCOPE_INSUFFICIENT, needed) if needed else Deny(ErrorCode.ROLE_NOT_PERMITTED)
    return NEEDS_TOKEN if effect is Effect.TOKEN else ALLOW


def visible(principal: Principal, session: Session | None, server: str, target: str, policy: Policy) -> bool:
    """Whether a list shows this target: exactly when a call of it would not be refused for good."""
    return not isinstance(decide(principal, session, server, target, policy), Deny)


def _user_effect(principal: Principal, target: str, tool_class: ToolClass, policy: Policy) -> Effect:
    # The user's own role OR any group's role: the mildest of them; no role at all grants nothing.
    names: Iterable[str | None] = (
        principal.user_role,
        *(policy.groups[group].role for group in principal.groups if group in policy.groups),
    )
    roles = (policy.roles.get(name) for name in names if name is not None)
    return min((role.effect(target, tool_class) for role in roles if role is not None), default=Effect.DENY)


def _scope_covers(principal: Principal, target: str, tool_class: ToolClass, policy: Policy) -> bool:
    granted = set(principal.scopes)
    for group in principal.groups:
        if group in policy.groups:
            granted |= policy.groups[group].scopes
    return any(covers(policy.scopes[name], target, tool_class) for name in granted if name in policy.scopes)
