"""Gate two's decision: may this principal make this call, within its session, under the current policy?

Pure. `decide` answers for one call and `visible` for one entry of a list; both ask the same question of `effect`, so a
list never shows what a call would refuse. Everything is denied unless a rule allows it.

While the policy is only observed (DESIGN decision 12), what role, user, session or task would refuse is `Observed`
instead, but only after everything else held: see `decide`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum, StrEnum
from functools import cached_property
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec

from twogate.core.entry import Entries, outgrown
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


# Asked for on every call, and an enum's members are slow to reach in Python 3.11.
_ALLOW: Final = Effect.ALLOW
_TOKEN: Final = Effect.TOKEN
_DENY: Final = Effect.DENY


class Role(msgspec.Struct, frozen=True):
    """A named list of classes and entries (`read`, `git.git_log`, `files.resource:file:///reports/**`)."""

    name: str
    allow: frozenset[str]
    token: frozenset[str] = frozenset()
    deny: frozenset[str] = frozenset()

    def effect(self, entry: str, tool_class: ToolClass) -> Effect:
        """What this role says of what an entry classifies: any `deny` wins, then the entry itself, then its class."""
        if entry in self.deny or tool_class in self.deny:  # a class is its name
            return _DENY
        for name in (entry, tool_class):
            if name in self.token:
                return _TOKEN
            if name in self.allow:
                return _ALLOW
        return _DENY


class Group(msgspec.Struct, frozen=True):
    """What membership of an identity provider's group grants: a role for its users, and scopes."""

    role: str | None
    scopes: frozenset[str]


class Tenant(msgspec.Struct, frozen=True):
    """The servers that a tenant's agents may reach."""

    servers: frozenset[str]


class Classified(NamedTuple):
    """How a target is classified: by which entry, as what, and whether the entry is its own or a pattern."""

    entry: str
    tool_class: ToolClass
    own: bool


class Policy(msgspec.Struct, frozen=True, dict=True):
    """The compiled policy of one configuration generation.

    `classes` maps each entry (`core.entry`: a tool, prompt or resource, or a pattern of resources) to its class; a
    target that no entry classifies is denied. `tasks` and `scopes` map a name to what a role's lists hold: classes and
    entries. `observe_until` is Unix seconds: before it, gate two is observed and not enforced. `by_tenant` holds the
    whole policy of each tenant that has tools, roles or tasks of its own beside these; it knows no other tenant.
    """

    generation: str
    classes: Mapping[str, ToolClass]
    roles: Mapping[str, Role]
    tasks: Mapping[str, frozenset[str]]
    scopes: Mapping[str, frozenset[str]]
    groups: Mapping[str, Group]
    tenants: Mapping[str, Tenant]
    observe_until: int | None = None
    by_tenant: Mapping[str, Policy] = msgspec.field(default_factory=lambda: MappingProxyType[str, Policy]({}))

    def __post_init__(self) -> None:
        """Work out now what is derived, and not within the first call.

        Raises:
            ValueError: an entry is malformed.
        """
        for derived in ("own", "token_names"):
            getattr(self, derived)

    def of(self, tenant: str) -> Policy:
        """The policy that holds for a tenant's callers: this one, unless the tenant has something of its own."""
        return self.by_tenant.get(tenant, self) if self.by_tenant else self

    @cached_property
    def entries(self) -> Entries:
        """The classified entries."""
        return Entries(self.classes)

    @cached_property
    def own(self) -> Mapping[str, Classified]:
        """The targets that have an entry of their own: every tool and prompt, some resources."""
        return {target: Classified(name, self.classes[name], own=True) for target, name in self.entries.exact.items()}

    def classify(self, target: str) -> Classified | None:
        """What classifies a target: its own entry, else the most specific pattern; None if nothing does."""
        return self.own.get(target) or self.by_pattern(target)

    def by_pattern(self, target: str) -> Classified | None:
        """What classifies a target that has no entry of its own."""
        name = self.entries.search(target)
        return None if name is None else Classified(name, self.classes[name], own=False)

    def observing(self, now: int) -> bool:
        """Whether gate two only observes at this moment (Unix seconds)."""
        return self.observe_until is not None and now < self.observe_until

    @cached_property
    def token_names(self) -> frozenset[str]:
        """The classes and entries for which any role asks for an operation token; never observed."""
        return frozenset[str]().union(*(role.token for role in self.roles.values()))


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


class Observed(msgspec.Struct, frozen=True):
    """The call may run, and would be refused for the reason `code` if gate two were enforced."""

    code: ErrorCode

    def __bool__(self) -> bool:
        """Refuse truth tests: a decision is matched, never tested."""
        raise TypeError("match a decision by type, do not test its truth")


Decision = Allow | Deny | NeedsToken | Observed

ALLOW = Allow()
NEEDS_TOKEN = NeedsToken()


def covers(entries: frozenset[str], entry: str, tool_class: ToolClass) -> bool:
    """Whether a list of classes and entries names this entry or its class."""
    return entry in entries or tool_class in entries


def session_targets(policy: Policy, role: str, task: str) -> frozenset[str]:
    """What a new session holds for good: the entries in both role and task (DESIGN decision 5).

    Beside its patterns stand the entries that it withholds from them (`Entries.around`). Unknown roles and tasks give
    nothing. `policy` is that of the session's tenant (`Policy.of`).
    """
    rules, names = policy.roles.get(role), policy.tasks.get(task)
    if rules is None or names is None:
        return frozenset()
    held = frozenset(
        entry
        for entry, tool_class in policy.classes.items()
        if covers(names, entry, tool_class) and rules.effect(entry, tool_class) is not _DENY
    )
    return held | policy.entries.around(held)


def decide(
    principal: Principal,
    session: Session | None,
    server: str,
    target: str,
    policy: Policy,
    *,
    observing: bool = False,
    missing: ErrorCode = ErrorCode.SESSION_REQUIRED,
) -> Decision:
    """Decide one call of `target` (`server.tool`) at `server`; the first refusal in this order is the reason.

    1. there is a session; 2. the tenant has the server; 3. an entry classifies the target; 4. the agent's role allows
    that entry; 5. the user, if there is one, may too by role or group; 6. the session's fixed set AND the task as
    configured now hold it; 7. if scopes are configured, a granted one covers it. `session` must be one that the caller
    verified for this principal and this moment; `missing` says why there is none. The scopes come last, so that a
    challenge is given only when a scope would help.

    `observing` (`Policy.observing`) turns a refusal by 1, 4, 5 or 6 into `Observed`, if 2, 3 and 7 hold and no role
    asks for an operation token for this entry or its class: else who may not even ask for a token would need none.
    What holds is the policy of the principal's tenant (`Policy.of`).
    """
    policy = policy.of(principal.tenant)
    # 1.
    if session is None:
        return _refusal(missing, principal, server, target, policy, observing=observing)
    # 2.
    tenant = policy.tenants.get(principal.tenant)
    if tenant is None or server not in tenant.servers:
        return Deny(ErrorCode.TENANT_SERVER_REFUSED)
    # 3.
    found = policy.own.get(target) or policy.by_pattern(target)
    if found is None:
        return Deny(ErrorCode.TARGET_UNCLASSIFIED)
    entry, tool_class, own = found
    # 4.
    role = policy.roles.get(principal.agent.role)
    effect = _DENY if role is None else role.effect(entry, tool_class)
    if effect is _DENY:
        return _refusal(ErrorCode.ROLE_NOT_PERMITTED, principal, server, target, policy, observing=observing)
    # 5.
    if principal.user is not None:
        effect = max(effect, _user_effect(principal, entry, tool_class, policy))
        if effect is _DENY:
            return _refusal(ErrorCode.USER_NOT_PERMITTED, principal, server, target, policy, observing=observing)
    # 6.
    if (
        entry not in session.targets
        or session.task not in principal.agent.tasks
        or not covers(policy.tasks.get(session.task, frozenset()), entry, tool_class)
        or (not own and outgrown(session.targets, entry, target))
    ):
        return _refusal(ErrorCode.TASK_NOT_PERMITTED, principal, server, target, policy, observing=observing)
    # 7.
    if policy.scopes and (refused := _scope_refusal(principal, entry, tool_class, policy)) is not None:
        return refused
    return NEEDS_TOKEN if effect is _TOKEN else ALLOW


def visible(
    principal: Principal, session: Session | None, server: str, target: str, policy: Policy, *, observing: bool = False
) -> bool:
    """Whether a list shows this target: exactly when a call of it would not be refused for good."""
    return not isinstance(decide(principal, session, server, target, policy, observing=observing), Deny)


def _refusal(
    code: ErrorCode, principal: Principal, server: str, target: str, policy: Policy, *, observing: bool
) -> Decision:
    """The refusal by session, role, user or task; or what else stands against the call while they are observed."""
    if not observing:
        return Deny(code)
    # 2.
    tenant = policy.tenants.get(principal.tenant)
    if tenant is None or server not in tenant.servers:
        return Deny(ErrorCode.TENANT_SERVER_REFUSED)
    # 3.
    found = policy.classify(target)
    if found is None:
        return Deny(ErrorCode.TARGET_UNCLASSIFIED)
    if covers(policy.token_names, found.entry, found.tool_class):
        return Deny(code)
    # 7.
    refused = _scope_refusal(principal, found.entry, found.tool_class, policy) if policy.scopes else None
    return Observed(code) if refused is None else refused


def _user_effect(principal: Principal, entry: str, tool_class: ToolClass, policy: Policy) -> Effect:
    # Any of the user's own roles OR any group's role: the mildest of them; no role at all grants nothing.
    names: Iterable[str | None] = (
        *principal.user_roles,
        *(policy.groups[group].role for group in principal.groups if group in policy.groups),
    )
    roles = (policy.roles.get(name) for name in names if name is not None)
    return min((role.effect(entry, tool_class) for role in roles if role is not None), default=_DENY)


def _scope_refusal(principal: Principal, entry: str, tool_class: ToolClass, policy: Policy) -> Deny | None:
    granted = set(principal.scopes)
    for group in principal.groups:
        if group in policy.groups:
            granted |= policy.groups[group].scopes
    if any(covers(policy.scopes[name], entry, tool_class) for name in granted if name in policy.scopes):
        return None
    needed = tuple(sorted(name for name, entries in policy.scopes.items() if covers(entries, entry, tool_class)))
    return Deny(ErrorCode.SCOPE_INSUFFICIENT, needed) if needed else Deny(ErrorCode.ROLE_NOT_PERMITTED)
