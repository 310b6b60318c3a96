"""`twogate explain`: why a call would be allowed or denied, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Final

import typer

from twogate.adapters.clock import SystemClock
from twogate.cli.explain_policies import Circumstances, Judgement, judge, parse_arguments, parse_moment
from twogate.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from twogate.cli.output import CommandError, print_json, print_table, print_text
from twogate.cli.state import known_agents
from twogate.config import Settings, load_settings
from twogate.config.policy import compile_policy, parse_agent_id
from twogate.core.access import (
    Allow,
    Classified,
    Decision,
    Deny,
    Effect,
    NeedsToken,
    Observed,
    Policy,
    decide,
    session_targets,
)
from twogate.core.errors import ErrorCode
from twogate.core.principal import Agent, AgentId, Binding, Method, Principal, UserId
from twogate.core.resource_pattern import irregularity, is_template
from twogate.core.session import MAX_LIFETIME, Session
from twogate.policies import check_policies

# The steps of `core.access.decide`, in its order, with the codes by which each refuses.
STEPS: Final[tuple[tuple[str, frozenset[ErrorCode]], ...]] = (
    ("session", frozenset({ErrorCode.SESSION_REQUIRED, ErrorCode.TASK_UNKNOWN})),
    ("tenant", frozenset({ErrorCode.TENANT_SERVER_REFUSED})),
    ("class", frozenset({ErrorCode.TARGET_UNCLASSIFIED})),
    ("role", frozenset({ErrorCode.ROLE_NOT_PERMITTED})),
    ("user", frozenset({ErrorCode.USER_NOT_PERMITTED})),
    ("task", frozenset({ErrorCode.TASK_NOT_PERMITTED})),
    ("scope", frozenset({ErrorCode.SCOPE_INSUFFICIENT})),
    ("policies", frozenset({ErrorCode.POLICY_DENIED})),
)
_SCOPE: Final = 6  # its place among them


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


def shown_moment(moment: int | None) -> str:
    """Unix seconds as an RFC 3339 time; empty for None."""
    return "" if moment is None else datetime.fromtimestamp(moment, UTC).isoformat()


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("explain")(explain)


def explain(  # noqa: PLR0913, PLR0917 - one per option
    agent: Annotated[str, typer.Option("--agent", metavar="TENANT/NAME", help="The agent that calls.")],
    tool: Annotated[
        str,
        typer.Option(
            "--tool", metavar="TARGET", help="SERVER.TOOL, or SERVER.resource:URI or SERVER.prompt:NAME, that it calls."
        ),
    ],
    task: Annotated[
        str | None, typer.Option("--task", help="The task it declared; its default task if left out.")
    ] = None,
    scope: Annotated[list[str] | None, typer.Option("--scope", help="A scope of its token (repeatable).")] = None,
    group: Annotated[list[str] | None, typer.Option("--group", help="A group of the user (repeatable).")] = None,
    user_role: Annotated[
        list[str] | None, typer.Option("--user-role", help="A role of the user's own (repeatable).")
    ] = None,
    arguments: Annotated[
        str | None, typer.Option("--arguments", metavar="JSON|@FILE", help="The call's arguments, for policies.")
    ] = None,
    address: Annotated[
        str, typer.Option("--address", help="The address that it comes from, for policies; none if left out.")
    ] = "",
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="When it is made (RFC 3339); now if left out.")
    ] = None,
    device: Annotated[
        list[str] | None, typer.Option("--device", help="What its token says of the device (repeatable).")
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Say whether a call would be allowed under the configuration, and why."""
    settings = load_settings(config)
    check_policies(config, settings)
    assumed = Circumstances(parse_arguments(arguments), address)
    policy = compile_policy(settings)
    agents, bindings = known_agents(settings)
    found = _find_agent(agent, agents)
    policy = policy.of(found.id.tenant)
    task = task if task is not None else found.default_task
    principal = hypothetical_principal(
        found, bindings, scopes=scope or (), groups=group or (), user_roles=user_role or (), posture=device or ()
    )
    now = parse_moment(at, SystemClock().now())
    session = hypothetical_session(principal, task, policy, now)
    # Declaring a task that the agent lacks is refused before any call is decided.
    missing = ErrorCode.SESSION_REQUIRED if task is None else ErrorCode.TASK_UNKNOWN
    server = tool.partition(".")[0]
    decision = decide(principal, session, server, tool, policy, observing=policy.observing(now), missing=missing)
    entry = policy.classify(tool)
    judged = judge(
        settings, decision, principal, session, tool, None if entry is None else entry.entry, assumed, now
    )
    decision, code = judged.decision, _reason(judged.decision)
    failed = _failed_step(decision, code, principal, tool, policy)
    steps = [
        {"step": name, "result": _result(index, failed, decision), "because": fact}
        for index, (name, fact) in enumerate(
            _facts(settings, policy, principal, session, task, tool, judged)
        )
    ]
    text = _sentence(decision, code, failed, shown_moment(settings.observe_until))
    if code is ErrorCode.POLICY_DENIED:
        text = judged.because
    if as_json:
        document: dict[str, object] = {"agent": agent, "task": task, "tool": tool, "decision": verdict(decision)}
        document |= {"reason": code.value if code else None, "text": text, "steps": steps}
        document |= {"scopes": list(decision.scopes) if isinstance(decision, Deny) else []}
        print_json(document)
        return
    print_table(("Step", "Result", "Because"), [(item["step"], item["result"], item["because"]) for item in steps])
    print_text(f"\n{verdict(decision)}: {text}")


def _find_agent(name: str, agents: Mapping[AgentId, Agent]) -> Agent:
    try:
        agent_id = parse_agent_id(name)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--agent") from None
    if agent_id not in agents:
        known = ", ".join(sorted(map(str, agents))) or "none"
        raise CommandError(f"there is no agent {name} (there is: {known})", code="agent_unknown")
    if agents[agent_id].disabled:
        raise CommandError(f"{name} is disabled: gate one refuses each of its calls", code="agent_disabled")
    return agents[agent_id]


def _reason(decision: Decision) -> ErrorCode | None:
    match decision:
        case Allow():
            return None
        case NeedsToken():
            return ErrorCode.OPERATION_TOKEN_REQUIRED
        case Deny() | Observed():
            return decision.code


def _failed_step(
    decision: Decision, code: ErrorCode | None, principal: Principal, tool: str, policy: Policy
) -> int | None:
    if not isinstance(decision, Deny | Observed):
        return None
    found = policy.classify(tool)
    role = policy.roles.get(principal.agent.role)
    role_allows = role is not None and found is not None and role.effect(found.entry, found.tool_class) != Effect.DENY
    if code is ErrorCode.ROLE_NOT_PERMITTED and role_allows:
        # Then it was the last step: scopes are configured and none of them covers the tool.
        return _SCOPE
    return next(index for index, (_, codes) in enumerate(STEPS) if code in codes)


def _result(index: int, failed: int | None, decision: Decision) -> str:
    if failed is None or index < failed:
        return "passed"
    if index == failed:
        return "observed" if isinstance(decision, Observed) else "refused"
    return "not reached"


def _facts(
    settings: Settings,
    policy: Policy,
    principal: Principal,
    session: Session | None,
    task: str | None,
    tool: str,
    judged: Judgement,
) -> list[tuple[str, str]]:
    servers = settings.tenants[principal.tenant].servers
    found = policy.classify(tool)
    role = policy.roles[principal.agent.role]
    effect = role.effect(found.entry, found.tool_class).name.lower() if found is not None else "deny"
    if principal.user is None:
        user = "no user stands behind the call"
    else:
        user = f"user roles {_join(principal.user_roles)}, groups {_join(principal.groups)}"
    if task is None:
        declared = "no task is declared, and the agent has no default task"
    elif session is None:
        declared = f"the agent may not declare {task} (it may: {_join(principal.agent.tasks)})"
    else:
        declared = f"{task} is a task of the agent"
    held = session is not None and found is not None and found.entry in session.targets
    holds = "the tool is" if held else "the tool is not"
    scopes = f"token has {_join(sorted(principal.scopes))}" if policy.scopes else "no scopes are configured"
    return [
        ("session", declared),
        ("tenant", f"{principal.tenant} has the servers {_join(servers)}"),
        ("class", _class_fact(tool, found)),
        ("role", f"role {role.name} says {effect}"),
        ("user", user),
        ("task", f"{holds} among those of role and task"),
        ("scope", scopes),
        ("policies", judged.because),
    ]


def _class_fact(tool: str, found: Classified | None) -> str:
    if found is not None:
        by = "" if found.own else f" by {found.entry}"
        return f"{tool} is classified {found.tool_class.value}{by}"
    uri = tool.partition(".")[2].removeprefix("resource:")
    odd = irregularity(uri) if ".resource:" in tool and not is_template(uri) else None
    return f"{tool} is not classified" + (f", and no wildcard matches it: the URI {odd}" if odd else "")


def _join(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


_SENTENCES: Final[Mapping[ErrorCode, str]] = {
    ErrorCode.TENANT_SERVER_REFUSED: "the tenant may not reach this server (tenants)",
    ErrorCode.TARGET_UNCLASSIFIED: "the tool is not classified, and what is not classified is denied (tools)",
    ErrorCode.ROLE_NOT_PERMITTED: "the agent's role does not allow the tool (roles)",
    ErrorCode.USER_NOT_PERMITTED: "the user behind the agent may not use the tool (roles, groups)",
    ErrorCode.SESSION_REQUIRED: "a session is required: no task is declared and there is no default task",
    ErrorCode.TASK_UNKNOWN: "the agent does not have this task (agents)",
    ErrorCode.TASK_NOT_PERMITTED: "the tool is not among the task's (tasks)",
    ErrorCode.OPERATION_TOKEN_REQUIRED: "the call needs an operation token bound to it",
}


def _sentence(decision: Decision, code: ErrorCode | None, failed: int | None, until: str) -> str:
    if code is None:
        return "the call may run"
    if isinstance(decision, Observed):
        return f"would be denied; observed until {until}: {describe(code)}"
    if isinstance(decision, Deny) and decision.scopes:
        return f"the token has none of the scopes that cover the tool: {', '.join(decision.scopes)}"
    if failed == _SCOPE:
        return "scopes are configured and none of them covers the tool (scopes)"
    return describe(code)


def describe(code: ErrorCode) -> str:
    """One sentence for a reason, with the section of the configuration that decides it."""
    return _SENTENCES.get(code, code.value)
