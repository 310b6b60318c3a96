"""Gate two's decision: a table of cases, the shipped matrix cell by cell, and what must hold of every policy."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatelab import AGENT, NOW, POLICY, PRINCIPAL, policy, with_user
from twogate.config.settings import SHIPPED_ROLES
from twogate.core.access import (
    ALLOW,
    NEEDS_TOKEN,
    Allow,
    Decision,
    Deny,
    Effect,
    Group,
    NeedsToken,
    Observed,
    Policy,
    Role,
    Tenant,
    ToolClass,
    covers,
    decide,
    session_targets,
    visible,
)
from twogate.core.entry import WITHHELD
from twogate.core.errors import ErrorCode
from twogate.core.principal import Principal
from twogate.core.session import Session

SCOPED = policy(scopes={"reports": frozenset({"read"}), "mail": frozenset({"files.mail"})})


def principal_of(role: str, **changes: Any) -> Principal:
    agent = msgspec.structs.replace(AGENT, role=role, tasks=("report", "edit", "all"))
    return msgspec.structs.replace(PRINCIPAL, agent=agent, **changes)


def session_for(principal: Principal, task: str, of: Policy = POLICY) -> Session:
    targets = session_targets(of, principal.agent.role, task)
    return Session("s1", principal.key, task, targets, NOW, NOW + 3600)


class Case(NamedTuple):
    """One call: who, in which task's session, of what, under which policy, and what must come out."""

    expected: Decision
    principal: Principal = principal_of("executor")
    task: str | None = "all"
    target: str = "files.look"
    server: str = "files"
    policy: Policy = POLICY
    session_policy: Policy | None = None


REPORTS, SECRET = "files.resource:file:///reports/**", "files.resource:file:///reports/secret/*"
RESOURCES = policy(
    classes={
        REPORTS: ToolClass.READ,
        SECRET: ToolClass.SECRETS,
        "files.prompt:review": ToolClass.READ,
        "files.tool:resource:x": ToolClass.READ,
    },
    tasks={"report": frozenset({REPORTS, "files.prompt:review"}), "all": POLICY.tasks["all"]},
    scopes={},
)
WITHOUT_SECRET = policy(classes={REPORTS: ToolClass.READ}, tasks=RESOURCES.tasks)

DENY = {code: Deny(code) for code in ErrorCode}

CASES = {
    "ok/agent and task both allow": Case(ALLOW, task="report"),
    "ok/task by class": Case(ALLOW, target="files.find"),
    "ok/a resource is a target like any other": Case(ALLOW, target="files.resource:file:///a"),
    "ok/a resource by a pattern that the task names": Case(
        ALLOW, task="report", target="files.resource:file:///reports/2026/q3.txt", policy=RESOURCES
    ),
    "ok/a resource by its pattern's class": Case(ALLOW, target="files.resource:file:///reports/a", policy=RESOURCES),
    "ok/a template by a pattern that covers it": Case(
        ALLOW, task="report", target="files.resource:file:///reports/2026/{name}", policy=RESOURCES
    ),
    "ok/a prompt": Case(ALLOW, task="report", target="files.prompt:review", policy=RESOURCES),
    "ok/a tool that is named like a resource": Case(ALLOW, target="files.tool:resource:x", policy=RESOURCES),
    "fail/a resource outside every pattern": Case(
        DENY[ErrorCode.TARGET_UNCLASSIFIED], target="files.resource:file:///etc/passwd", policy=RESOURCES
    ),
    "fail/a resource that only looks to be inside a pattern": Case(
        DENY[ErrorCode.TARGET_UNCLASSIFIED], target="files.resource:file:///reports/../etc/passwd", policy=RESOURCES
    ),
    "fail/the more specific pattern decides": Case(
        DENY[ErrorCode.ROLE_NOT_PERMITTED], target="files.resource:file:///reports/secret/key", policy=RESOURCES
    ),
    "token/the more specific pattern decides": Case(
        NEEDS_TOKEN, principal_of("admin"), target="files.resource:file:///reports/secret/key", policy=RESOURCES
    ),
    "fail/a task that names the wider pattern does not name the narrower": Case(
        DENY[ErrorCode.TASK_NOT_PERMITTED],
        principal_of("admin"),
        task="report",
        target="files.resource:file:///reports/secret/key",
        policy=RESOURCES,
    ),
    "fail/a template of which a part is another entry's": Case(
        DENY[ErrorCode.TARGET_UNCLASSIFIED], target="files.resource:file:///reports/{dir}/{name}", policy=RESOURCES
    ),
    "fail/a narrower pattern that came after the session began": Case(
        DENY[ErrorCode.TASK_NOT_PERMITTED],
        principal_of("admin"),
        target="files.resource:file:///reports/secret/key",
        policy=RESOURCES,
        session_policy=WITHOUT_SECRET,
    ),
    "fail/a narrower pattern that went after the session began": Case(
        DENY[ErrorCode.TASK_NOT_PERMITTED],
        task="report",
        target="files.resource:file:///reports/secret/key",
        policy=WITHOUT_SECRET,
        session_policy=RESOURCES,
    ),
    "ok/what no narrower pattern withheld stays": Case(
        ALLOW,
        task="report",
        target="files.resource:file:///reports/a",
        policy=WITHOUT_SECRET,
        session_policy=RESOURCES,
    ),
    "fail/a pattern's tool class is no right to a tool of that text": Case(
        DENY[ErrorCode.TARGET_UNCLASSIFIED], target="files.tool:resource:file:///reports/a", policy=RESOURCES
    ),
    "ok/user by role": Case(ALLOW, with_user(principal_of("executor"), role="analyst")),
    "ok/user by the mildest of several roles": Case(
        ALLOW, with_user(principal_of("executor"), roles=["ghost", "reader", "analyst"]), target="files.get"
    ),
    "token/user by the mildest of several roles": Case(
        NEEDS_TOKEN, with_user(principal_of("executor"), roles=["reader", "executor"]), target="files.change"
    ),
    "ok/user by group only": Case(ALLOW, with_user(principal_of("executor"), groups=["staff"])),
    "ok/one group of several suffices": Case(
        ALLOW, with_user(principal_of("executor"), role="nobody", groups=["unknown", "staff"])
    ),
    "ok/a scope of the token covers it": Case(
        ALLOW, principal_of("executor", scopes=frozenset({"reports"})), policy=SCOPED
    ),
    "ok/a scope of a group covers it": Case(
        ALLOW, with_user(principal_of("executor"), role="reader", groups=["staff"]), policy=SCOPED
    ),
    "token/the role asks for one": Case(NEEDS_TOKEN, target="files.change"),
    "token/the user's role asks for one where the agent's allows": Case(
        NEEDS_TOKEN, with_user(principal_of("admin"), role="executor"), target="files.change"
    ),
    "token/the agent's role asks for one where the user's allows": Case(
        NEEDS_TOKEN, with_user(principal_of("executor"), role="admin"), target="files.change"
    ),
    "token/a target's own entry is stricter than its class": Case(
        NEEDS_TOKEN,
        principal_of("own"),
        policy=policy(roles={"own": Role("own", frozenset({"read"}), frozenset({"files.look"}))}),
    ),
    "ok/a target's own entry is milder than its class": Case(
        ALLOW,
        principal_of("own"),
        policy=policy(roles={"own": Role("own", frozenset({"files.look"}), frozenset({"read"}))}),
    ),
    "fail/no session": Case(DENY[ErrorCode.SESSION_REQUIRED], task=None),
    "fail/no session is the reason before any other": Case(
        DENY[ErrorCode.SESSION_REQUIRED], task=None, target="nowhere.x", server="nowhere"
    ),
    "fail/unknown tenant": Case(DENY[ErrorCode.TENANT_SERVER_REFUSED], principal_of("executor", tenant="globex")),
    "fail/server of another tenant": Case(
        DENY[ErrorCode.TENANT_SERVER_REFUSED], target="notes.look", server="notes", task="report"
    ),
    "fail/unclassified": Case(DENY[ErrorCode.TARGET_UNCLASSIFIED], target="files.unlisted"),
    "fail/case of a name counts": Case(DENY[ErrorCode.TARGET_UNCLASSIFIED], target="files.Look"),
    "fail/role": Case(DENY[ErrorCode.ROLE_NOT_PERMITTED], principal_of("reader"), target="files.get"),
    "fail/unknown role": Case(DENY[ErrorCode.ROLE_NOT_PERMITTED], principal_of("ghost")),
    "fail/deny of the class beats allow of the target": Case(
        DENY[ErrorCode.ROLE_NOT_PERMITTED],
        principal_of("own"),
        policy=policy(roles={"own": Role("own", frozenset({"files.look"}), deny=frozenset({"read"}))}),
    ),
    "fail/deny of the target beats allow of the class": Case(
        DENY[ErrorCode.ROLE_NOT_PERMITTED],
        principal_of("own"),
        policy=policy(roles={"own": Role("own", frozenset({"read"}), deny=frozenset({"files.look"}))}),
    ),
    "fail/a user without role or group": Case(DENY[ErrorCode.USER_NOT_PERMITTED], with_user(principal_of("executor"))),
    "fail/a user of an unknown role": Case(
        DENY[ErrorCode.USER_NOT_PERMITTED], with_user(principal_of("executor"), role="ghost")
    ),
    "fail/a group without role grants no tool": Case(
        DENY[ErrorCode.USER_NOT_PERMITTED],
        with_user(principal_of("executor"), groups=["scoped"]),
        policy=policy(groups={"scoped": Group(None, frozenset({"reports"}))}),
    ),
    "fail/a mighty user does not widen the agent": Case(
        DENY[ErrorCode.ROLE_NOT_PERMITTED], with_user(principal_of("reader"), role="admin"), target="files.get"
    ),
    "fail/task": Case(DENY[ErrorCode.TASK_NOT_PERMITTED], task="report", target="files.find"),
    "fail/unknown task": Case(DENY[ErrorCode.TASK_NOT_PERMITTED], task="ghost"),
    "fail/the task lost the target since the session began": Case(
        DENY[ErrorCode.TASK_NOT_PERMITTED],
        task="report",
        policy=policy(tasks={"report": frozenset({"files.find"})}),
        session_policy=POLICY,
    ),
    "fail/the task gained the target since the session began": Case(
        DENY[ErrorCode.TASK_NOT_PERMITTED],
        task="report",
        target="files.find",
        policy=policy(tasks={"report": frozenset({"files.look", "files.find"})}),
        session_policy=POLICY,
    ),
    "fail/the agent lost the task since the session began": Case(
        DENY[ErrorCode.TASK_NOT_PERMITTED],
        msgspec.structs.replace(PRINCIPAL, agent=msgspec.structs.replace(AGENT, tasks=("edit",))),
        task="report",
    ),
    "fail/no scope covers it": Case(Deny(ErrorCode.SCOPE_INSUFFICIENT, ("reports",)), policy=SCOPED),
    "fail/another scope does not help": Case(
        Deny(ErrorCode.SCOPE_INSUFFICIENT, ("reports",)),
        principal_of("executor", scopes=frozenset({"mail", "ghost"})),
        policy=SCOPED,
    ),
    "fail/no scope there is would help, so none is named": Case(
        DENY[ErrorCode.ROLE_NOT_PERMITTED], target="files.find", policy=SCOPED
    ),
    "fail/the role is the reason before the scope": Case(
        DENY[ErrorCode.ROLE_NOT_PERMITTED], principal_of("reader"), target="files.mail", policy=SCOPED
    ),
    "fail/the task is the reason before the scope": Case(
        DENY[ErrorCode.TASK_NOT_PERMITTED], task="report", target="files.mail", policy=SCOPED
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_call_is_decided_by_the_first_rule_that_refuses_it(name: str) -> None:
    case = CASES[name]
    session = None if case.task is None else session_for(case.principal, case.task, case.session_policy or case.policy)
    decided = decide(case.principal, session, case.server, case.target, case.policy)
    assert decided == case.expected
    assert visible(case.principal, session, case.server, case.target, case.policy) == (not name.startswith("fail/"))


# REQUIREMENTS, R-30: the default matrix.
MATRIX = {
    ToolClass.READ: "allow allow allow allow",
    ToolClass.SEARCH: "allow allow allow allow",
    ToolClass.FETCH: "deny allow allow allow",
    ToolClass.WRITE: "deny deny token allow",
    ToolClass.SEND: "deny deny token allow",
    ToolClass.EXECUTE: "deny deny token allow",
    ToolClass.SECRETS: "deny deny deny token",
    ToolClass.CONFIGURE: "deny deny deny token",
}
CELLS = [
    (role, tool_class, cell)
    for tool_class, row in MATRIX.items()
    for role, cell in zip(("reader", "analyst", "executor", "admin"), row.split(), strict=True)
]


@pytest.mark.parametrize(("role", "tool_class", "cell"), CELLS)
def test_the_shipped_matrix_is_the_one_of_the_requirements(role: str, tool_class: ToolClass, cell: str) -> None:
    target = next(target for target, its_class in POLICY.classes.items() if its_class is tool_class)
    principal = principal_of(role)
    decided = decide(principal, session_for(principal, "all"), "files", target, POLICY)
    assert decided == {"allow": ALLOW, "token": NEEDS_TOKEN, "deny": DENY[ErrorCode.ROLE_NOT_PERMITTED]}[cell]


def test_the_matrix_covers_every_class_and_every_shipped_role() -> None:
    assert set(MATRIX) == set(ToolClass)
    assert {role for role, _, _ in CELLS} == set(SHIPPED_ROLES)


@pytest.mark.parametrize(
    "decision",
    [ALLOW, NEEDS_TOKEN, Deny(ErrorCode.ROLE_NOT_PERMITTED), Observed(ErrorCode.ROLE_NOT_PERMITTED)],
)
def test_no_decision_has_a_truth_value(decision: Decision) -> None:
    with pytest.raises(TypeError, match="match a decision"):
        bool(decision)


def test_a_session_holds_what_role_and_task_both_name_and_nothing_for_unknown_ones() -> None:
    assert session_targets(POLICY, "executor", "edit") == {"files.look", "files.find", "files.change"}
    assert session_targets(POLICY, "reader", "edit") == {"files.look", "files.find"}
    assert session_targets(POLICY, "ghost", "edit") == frozenset()
    assert session_targets(POLICY, "executor", "ghost") == frozenset()


def test_a_session_keeps_what_it_withholds_beneath_its_patterns() -> None:
    assert session_targets(RESOURCES, "executor", "report") == {REPORTS, WITHHELD + SECRET, "files.prompt:review"}


# While gate two is only observed.

OBSERVED = {code: Observed(code) for code in ErrorCode}
STRICT_READER = Role("reader", frozenset({"read"}), deny=frozenset({"files.look"}))
OBSERVING = {
    "observed/role": Case(OBSERVED[ErrorCode.ROLE_NOT_PERMITTED], principal_of("reader"), target="files.get"),
    "observed/unknown role": Case(OBSERVED[ErrorCode.ROLE_NOT_PERMITTED], principal_of("ghost")),
    "observed/a role's deny": Case(
        OBSERVED[ErrorCode.ROLE_NOT_PERMITTED], principal_of("reader"), policy=policy(roles={"reader": STRICT_READER})
    ),
    "observed/user": Case(OBSERVED[ErrorCode.USER_NOT_PERMITTED], with_user(principal_of("executor"))),
    "observed/task": Case(OBSERVED[ErrorCode.TASK_NOT_PERMITTED], task="report", target="files.find"),
    "observed/unknown task": Case(OBSERVED[ErrorCode.TASK_NOT_PERMITTED], task="ghost"),
    "observed/no session": Case(OBSERVED[ErrorCode.SESSION_REQUIRED], task=None),
    "observed/a resource outside the task": Case(
        OBSERVED[ErrorCode.TASK_NOT_PERMITTED],
        task="none",
        target="files.resource:file:///reports/a",
        policy=RESOURCES,
    ),
    "observed/with a scope that covers it": Case(
        OBSERVED[ErrorCode.TASK_NOT_PERMITTED],
        principal_of("executor", scopes=frozenset({"reports"})),
        task="none",
        policy=SCOPED,
    ),
    "ok/what is allowed is allowed": Case(ALLOW),
    "token/what needs a token needs one": Case(NEEDS_TOKEN, target="files.change"),
    "fail/what another role needs a token for, whatever this one says": Case(
        DENY[ErrorCode.ROLE_NOT_PERMITTED], principal_of("reader"), target="files.change"
    ),
    "fail/what another role needs a token for, outside the task": Case(
        DENY[ErrorCode.TASK_NOT_PERMITTED], principal_of("admin"), task="report", target="files.change"
    ),
    "fail/what another role needs a token for, without session": Case(
        DENY[ErrorCode.SESSION_REQUIRED], principal_of("admin"), task=None, target="files.change"
    ),
    "fail/what another role needs a token for, though the user may not": Case(
        DENY[ErrorCode.USER_NOT_PERMITTED],
        with_user(principal_of("admin"), role="reader"),
        target="files.change",
    ),
    "fail/what another role needs a token for by name": Case(
        DENY[ErrorCode.TASK_NOT_PERMITTED],
        principal_of("reader"),
        task="none",
        policy=policy(
            roles={"reader": POLICY.roles["reader"], "careful": Role("c", frozenset(), frozenset({"files.look"}))}
        ),
    ),
    "fail/a role that asks for a token and denies all the same": Case(
        DENY[ErrorCode.ROLE_NOT_PERMITTED],
        principal_of("odd"),
        policy=policy(roles={"odd": Role("odd", frozenset(), frozenset({"read"}), frozenset({"files.look"}))}),
    ),
    "fail/unclassified": Case(DENY[ErrorCode.TARGET_UNCLASSIFIED], target="files.unlisted"),
    "fail/unclassified, without session": Case(DENY[ErrorCode.TARGET_UNCLASSIFIED], task=None, target="files.unlisted"),
    "fail/tenant": Case(DENY[ErrorCode.TENANT_SERVER_REFUSED], target="notes.look", server="notes"),
    "fail/tenant, without session": Case(
        DENY[ErrorCode.TENANT_SERVER_REFUSED], task=None, target="notes.look", server="notes"
    ),
    "fail/tenant, outside the role": Case(
        DENY[ErrorCode.TENANT_SERVER_REFUSED], principal_of("ghost"), target="notes.look", server="notes"
    ),
    "fail/unknown tenant": Case(DENY[ErrorCode.TENANT_SERVER_REFUSED], principal_of("ghost", tenant="globex")),
    "fail/scope": Case(Deny(ErrorCode.SCOPE_INSUFFICIENT, ("reports",)), policy=SCOPED),
    "fail/scope, outside the task": Case(Deny(ErrorCode.SCOPE_INSUFFICIENT, ("reports",)), task="none", policy=SCOPED),
    "fail/scope, without session": Case(Deny(ErrorCode.SCOPE_INSUFFICIENT, ("reports",)), task=None, policy=SCOPED),
    "fail/no scope there is would help": Case(DENY[ErrorCode.ROLE_NOT_PERMITTED], target="files.find", policy=SCOPED),
    "fail/no scope there is would help, outside the task": Case(
        DENY[ErrorCode.ROLE_NOT_PERMITTED], task="none", target="files.find", policy=SCOPED
    ),
    "fail/a uri trick": Case(
        DENY[ErrorCode.TARGET_UNCLASSIFIED],
        task="none",
        target="files.resource:file:///reports/%2e%2e/etc/passwd",
        policy=RESOURCES,
    ),
    "fail/the secrets beneath a pattern": Case(
        DENY[ErrorCode.ROLE_NOT_PERMITTED], target="files.resource:file:///reports/secret/key", policy=RESOURCES
    ),
}


@pytest.mark.parametrize("name", OBSERVING)
def test_while_observing_only_refusals_by_role_user_session_and_task_let_a_call_run(name: str) -> None:
    case = OBSERVING[name]
    session = None if case.task is None else session_for(case.principal, case.task, case.policy)
    decided = decide(case.principal, session, case.server, case.target, case.policy, observing=True)
    assert decided == case.expected
    shown = visible(case.principal, session, case.server, case.target, case.policy, observing=True)
    assert shown == (not name.startswith("fail/"))
    if isinstance(decided, Observed):
        assert decide(case.principal, session, case.server, case.target, case.policy) == Deny(decided.code)


def test_why_there_is_no_session_is_the_callers_to_say() -> None:
    principal, unknown = principal_of("executor"), ErrorCode.TASK_UNKNOWN
    assert decide(principal, None, "files", "files.look", POLICY, missing=unknown) == Deny(unknown)
    assert decide(principal, None, "files", "files.look", POLICY, observing=True, missing=unknown) == Observed(unknown)


# Properties. Small alphabets make entries meet.

CLASS_NAMES = [ToolClass.READ.value, ToolClass.WRITE.value]
ENTRIES = [
    *("files.a", "files.b", "notes.a", "files.resource:x:/**", "files.resource:x:/a/*", "files.resource:x:/a/b"),
    *("files.resource:x:/a/*/**", "files.resource:x:/{v}", "files.prompt:a"),
]
TARGETS = [
    *("files.a", "files.b", "notes.a", "files.prompt:a", "files.resource:x:/{v}", "files.resource:x:/a/{v}"),
    *("files.resource:x:/a/b", "files.resource:x:/a/c", "files.resource:x:/a/b/c", "files.resource:x:/c"),
    *("files.resource:x:/a/../b", "files.resource:x:/{+v}"),
]
entries = st.frozensets(st.sampled_from([*ENTRIES, *CLASS_NAMES]), max_size=5)
names = st.sampled_from(["one", "two", "ghost"])
roles = st.builds(Role, names, entries, entries, st.frozensets(st.sampled_from([*ENTRIES, *CLASS_NAMES]), max_size=1))
policies = st.builds(
    Policy,
    generation=st.just("g"),
    classes=st.dictionaries(st.sampled_from(ENTRIES), st.sampled_from([ToolClass.READ, ToolClass.WRITE]), min_size=1),
    roles=st.fixed_dictionaries({"one": roles, "two": roles}),
    tasks=st.fixed_dictionaries({"one": entries, "two": entries}),
    scopes=st.dictionaries(st.sampled_from(["one", "two"]), entries),
    groups=st.fixed_dictionaries(
        {name: st.builds(Group, st.none() | names, st.frozensets(names, max_size=2)) for name in ("one", "two")}
    ),
    tenants=st.fixed_dictionaries({"acme": st.builds(Tenant, st.frozensets(st.sampled_from(["files", "notes"])))}),
)


@st.composite
def calls(draw: st.DrawFn) -> tuple[Principal, Session, str, str, Policy]:
    """A call of anything by anybody, biased towards sessions that role and task really open."""
    made = draw(policies)
    agent = msgspec.structs.replace(AGENT, role=draw(names), tasks=tuple(draw(st.sets(names, min_size=1))))
    user = with_user(PRINCIPAL, roles=draw(st.lists(names, max_size=2)), groups=draw(st.lists(names, max_size=3)))
    principal = msgspec.structs.replace(
        draw(st.sampled_from([PRINCIPAL, user])), agent=agent, scopes=draw(st.frozensets(names))
    )
    task = draw(names)
    opened = session_targets(made, agent.role, task)
    other = draw(st.frozensets(st.sampled_from(ENTRIES)))
    targets = draw(st.sampled_from([opened, opened, other | made.entries.around(other)]))
    session = Session("s", principal.key, task, targets, NOW, NOW + 1)
    target = draw(st.sampled_from(TARGETS))
    return principal, session, target.partition(".")[0], target, made


def strictness(decision: Decision) -> Effect:
    match decision:
        case Allow() | Observed():
            return Effect.ALLOW
        case NeedsToken():
            return Effect.TOKEN
        case Deny():
            return Effect.DENY


@given(calls())
def test_a_list_shows_exactly_what_a_call_would_not_be_refused(
    call: tuple[Principal, Session, str, str, Policy],
) -> None:
    principal, session, server, target, of = call
    decided = decide(principal, session, server, target, of)
    assert visible(principal, session, server, target, of) == (strictness(decided) is not Effect.DENY)


@given(calls())
def test_nothing_outside_the_sessions_fixed_set_or_without_session_is_ever_allowed(
    call: tuple[Principal, Session, str, str, Policy],
) -> None:
    principal, session, server, target, of = call
    found = of.classify(target)
    without = msgspec.structs.replace(session, targets=session.targets - {None if found is None else found.entry})
    assert strictness(decide(principal, without, server, target, of)) is Effect.DENY
    assert decide(principal, None, server, target, of) == Deny(ErrorCode.SESSION_REQUIRED)


@given(calls())
def test_what_is_allowed_is_allowed_by_every_rule_by_itself(
    call: tuple[Principal, Session, str, str, Policy],
) -> None:
    principal, session, server, target, of = call
    if strictness(decide(principal, session, server, target, of)) is Effect.DENY:
        return
    found = of.classify(target)
    assert found is not None
    entry, tool_class, _ = found
    assert server in of.tenants[principal.tenant].servers
    assert entry in session_targets(of, principal.agent.role, session.task) & session.targets
    assert session.task in principal.agent.tasks
    assert of.roles[principal.agent.role].deny.isdisjoint({entry, tool_class.value})
    if principal.user is not None:
        granting = [of.groups[group].role for group in principal.groups if group in of.groups]
        assert any(
            of.roles[role].effect(entry, tool_class) is not Effect.DENY
            for role in [*principal.user_roles, *granting]
            if role is not None and role in of.roles
        )
    assert not of.scopes or any(covers(scope, entry, tool_class) for scope in of.scopes.values())


@given(calls(), st.data())
def test_narrowing_never_makes_a_decision_milder(
    call: tuple[Principal, Session, str, str, Policy], data: st.DataObject
) -> None:
    principal, session, server, target, of = call
    before = strictness(decide(principal, session, server, target, of))
    for narrowed_principal, narrowed_policy in narrowings(principal, of, data):
        after = strictness(decide(narrowed_principal, session, server, target, narrowed_policy))
        assert after >= before


@given(calls(), policies)
def test_whatever_the_configuration_becomes_a_session_reaches_only_what_it_held_when_it_was_opened(
    call: tuple[Principal, Session, str, str, Policy], later: Policy
) -> None:
    principal, session, server, target, first = call
    held = session_targets(first, principal.agent.role, session.task)
    opened = msgspec.structs.replace(session, targets=held)
    if strictness(decide(principal, opened, server, target, later)) is Effect.DENY:
        return
    then, now = first.classify(target), later.classify(target)
    assert then is not None
    assert now is not None
    assert {then.entry, now.entry} <= held


@given(calls(), st.data())
def test_observing_lets_run_only_what_no_tenant_scope_class_or_token_forbids(
    call: tuple[Principal, Session, str, str, Policy], data: st.DataObject
) -> None:
    principal, session, server, target, of = call
    given = data.draw(st.sampled_from([session, None]))
    enforced = decide(principal, given, server, target, of)
    observed = decide(principal, given, server, target, of, observing=True)
    if not isinstance(observed, Observed):
        assert strictness(observed) == strictness(enforced)
        return
    assert enforced == Deny(observed.code)
    found = of.classify(target)
    assert found is not None
    assert server in of.tenants[principal.tenant].servers
    assert not any(covers(role.token, found.entry, found.tool_class) for role in of.roles.values())
    assert not of.scopes or any(covers(scope, found.entry, found.tool_class) for scope in of.scopes.values())


def beneath_a_pattern(entry: str, of: Policy) -> bool:
    """Whether a pattern classifies what this entry named when it is gone; then taking it out is no narrowing."""
    less = changed(of, classes={name: kept for name, kept in of.classes.items() if name != entry})
    return any(
        before is not None and before.entry == entry and less.classify(target) is not None
        for target in TARGETS
        for before in [of.classify(target)]
    )


def opens_templates(entry: str, of: Policy) -> bool:
    """Whether without this entry a pattern covers a template that it did not cover with it."""
    less = changed(of, classes={name: kept for name, kept in of.classes.items() if name != entry})
    return any(of.classify(target) is None and less.classify(target) is not None for target in TARGETS)


def narrowings(principal: Principal, of: Policy, data: st.DataObject) -> list[tuple[Principal, Policy]]:
    """Each kind of narrowing once: a deny added; a group, a granted scope, a task's entry, a server, a class gone."""
    role = data.draw(st.sampled_from(sorted(of.roles)))
    denied = of.roles[role].deny | {data.draw(st.sampled_from([*ENTRIES, *CLASS_NAMES]))}
    task = data.draw(st.sampled_from(sorted(of.tasks)))
    entry = data.draw(st.sampled_from([*ENTRIES, *CLASS_NAMES]))
    group = data.draw(st.sampled_from(["one", "two"]))
    scope = data.draw(names)
    gone = data.draw(
        st.sampled_from([e for e in ENTRIES if not beneath_a_pattern(e, of) and not opens_templates(e, of)])
    )
    fewer_groups = tuple(name for name in principal.groups if name != group)
    return [
        (principal, changed(of, roles={**of.roles, role: msgspec.structs.replace(of.roles[role], deny=denied)})),
        (principal, changed(of, roles={name: kept for name, kept in of.roles.items() if name != role})),
        (principal, changed(of, tasks={**of.tasks, task: of.tasks[task] - {entry}})),
        (principal, changed(of, groups={name: kept for name, kept in of.groups.items() if name != group})),
        (principal, changed(of, classes={name: kept for name, kept in of.classes.items() if name != gone})),
        (principal, changed(of, tenants={})),
        (msgspec.structs.replace(principal, groups=fewer_groups), of),
        (msgspec.structs.replace(principal, scopes=principal.scopes - {scope}), of),
        (msgspec.structs.replace(principal, user_roles=principal.user_roles[1:]), of),
    ]


def changed(of: Policy, **changes: Any) -> Policy:
    return msgspec.structs.replace(of, **changes)
