"""Why a call would be allowed or denied, step by step (row R-72); `twogate explain` and the console show it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from twogate.core.access import Classified, Decision, Deny, Effect, NeedsToken, Observed, Policy, decide
from twogate.core.errors import ErrorCode
from twogate.core.principal import Principal
from twogate.core.resource_pattern import irregularity, is_template
from twogate.core.session import Session
from twogate.flows.explain_pins import PinFinding
from twogate.flows.explain_stages import AFTER, ExplainedStep, Guards, NeededApproval, Result, Stages, stages_of
from twogate.flows.hypothetical import describe, hypothetical_session, verdict

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

WAY: Final = (*(name for name, _ in STEPS), *AFTER)
"""Every step of an explanation, in the order of `flows.gateway.pipeline`."""


class Circumstances(msgspec.Struct, frozen=True):
    """What else is assumed of the call. `arguments` is None if nothing was said of them."""

    arguments: dict[str, Any] | None = None
    address: str = ""


class Judgement(msgspec.Struct, frozen=True):
    """What the policies made of a decision, and in words why."""

    decision: Decision
    because: str


class Supposed(msgspec.Struct, frozen=True):
    """A call that nobody made: by whom, in which session (None: there is none), of what, under which circumstances.

    `entry` is what classifies the target, None if nothing does. `now` is Unix seconds.
    """

    principal: Principal
    session: Session | None
    target: str
    entry: str | None
    circumstances: Circumstances
    now: int


Judge = Callable[[Supposed, Decision], Judgement]
"""Puts a call to the policies, as gate two does after the decision."""


class Around(msgspec.Struct, frozen=True):
    """What stands around the decision: the policies, and what else the configuration asks of a call."""

    judge: Judge
    guards: Guards


class Explanation(msgspec.Struct, frozen=True):
    """The answer. `decision` is one word, `scopes` are those of which any one would have covered the target.

    `approval` is who must approve the call before it runs.
    """

    task: str | None
    decision: str
    reason: ErrorCode | None
    text: str
    steps: tuple[ExplainedStep, ...]
    scopes: tuple[str, ...]
    approval: NeededApproval | None = None


def explain_call(
    principal: Principal,
    target: str,
    task: str | None,
    policy: Policy,
    around: Around,
    finding: PinFinding,
    now: int,
    circumstances: Circumstances = Circumstances(),  # noqa: B008 - frozen
) -> Explanation:
    """What gate two would say of a call by this (hypothetical) principal; None for its agent's default task.

    `policy` is that of the principal's tenant, and `finding` is of the target.
    """
    task = task if task is not None else principal.agent.default_task
    session = hypothetical_session(principal, task, policy, now)
    # Declaring a task that the agent lacks is refused before any call is decided.
    missing = ErrorCode.SESSION_REQUIRED if task is None else ErrorCode.TASK_UNKNOWN
    server = target.partition(".")[0]
    decision = decide(principal, session, server, target, policy, observing=policy.observing(now), missing=missing)
    found = policy.classify(target)
    entry = None if found is None else found.entry
    judged = around.judge(Supposed(principal, session, target, entry, circumstances, now), decision)
    decision, code = judged.decision, _reason(judged.decision)
    failed = _failed_step(decision, code, principal, found, policy)
    facts = _facts(policy, principal, session, task, target, found, judged.because)
    stages = stages_of(principal, server, entry, decision, around.guards, finding, circumstances.arguments)
    steps = (*_decided(facts, failed, decision), *stages.steps)
    if stages.code is not None:
        return Explanation(task, "deny", stages.code, stages.text, steps, ())
    text = judged.because if code is ErrorCode.POLICY_DENIED else _sentence(decision, code, failed, policy)
    word = verdict(decision)
    if stages.approval is not None:
        # Observed or not, people are asked; and their approval is all the token that the call needs.
        waits = next(step.because for step in steps if step.result is Result.WAITS)
        text = (
            f"{text}; and people must approve it: {waits}" if isinstance(decision, Observed) else f"it waits: {waits}"
        )
        word, code = "approval", code if isinstance(decision, Observed) else ErrorCode.APPROVAL_PENDING
    elif not isinstance(decision, Deny):
        text = _open_ends(text, stages)
    scopes = decision.scopes if isinstance(decision, Deny) else ()
    return Explanation(task, word, code, text, steps, scopes, stages.approval)


def _decided(facts: Sequence[str], failed: int | None, decision: Decision) -> Iterator[ExplainedStep]:
    for index, ((name, _), fact) in enumerate(zip(STEPS, facts, strict=True)):
        yield ExplainedStep(name, _result(index, failed, decision), fact)


def _open_ends(text: str, stages: Stages) -> str:
    """What is not known here and may still stand against the call, in one breath with the verdict."""
    ends = [step.step for step in stages.steps if step.result is Result.DEPENDS]
    return f"{text}; not known here: {', '.join(ends)}" if ends else text


def shown_moment(moment: int | None) -> str:
    """Unix seconds as an RFC 3339 time; empty for None."""
    return "" if moment is None else datetime.fromtimestamp(moment, UTC).isoformat()


def _reason(decision: Decision) -> ErrorCode | None:
    match decision:
        case NeedsToken():
            return ErrorCode.OPERATION_TOKEN_REQUIRED
        case Deny() | Observed():
            return decision.code
        case _:
            return None


def _failed_step(
    decision: Decision, code: ErrorCode | None, principal: Principal, found: Classified | None, policy: Policy
) -> int | None:
    if not isinstance(decision, Deny | Observed):
        return None
    role = policy.roles.get(principal.agent.role)
    role_allows = role is not None and found is not None and role.effect(found.entry, found.tool_class) != Effect.DENY
    if code is ErrorCode.ROLE_NOT_PERMITTED and role_allows:
        # Then it was the last step: scopes are configured and none of them covers the tool.
        return _SCOPE
    return next(index for index, (_, codes) in enumerate(STEPS) if code in codes)


def _result(index: int, failed: int | None, decision: Decision) -> Result:
    if failed is None or index < failed:
        return Result.PASSED
    if index == failed:
        return Result.OBSERVED if isinstance(decision, Observed) else Result.REFUSED
    return Result.NOT_REACHED


def _facts(
    policy: Policy,
    principal: Principal,
    session: Session | None,
    task: str | None,
    target: str,
    found: Classified | None,
    judged: str,
) -> tuple[str, ...]:
    tenant = policy.tenants.get(principal.tenant)
    servers = () if tenant is None else sorted(tenant.servers)
    name = principal.agent.role
    role = policy.roles.get(name)
    effect = "deny" if found is None or role is None else role.effect(found.entry, found.tool_class).name.lower()
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
    return (
        declared,
        f"{principal.tenant} has the servers {_join(servers)}",
        _class_fact(target, found),
        f"role {name} says {effect}",
        user,
        f"{holds} among those of role and task",
        scopes,
        judged,
    )


def _class_fact(target: str, found: Classified | None) -> str:
    if found is not None:
        by = "" if found.own else f" by {found.entry}"
        return f"{target} is classified {found.tool_class.value}{by}"
    uri = target.partition(".")[2].removeprefix("resource:")
    odd = irregularity(uri) if ".resource:" in target and not is_template(uri) else None
    return f"{target} is not classified" + (f", and no wildcard matches it: the URI {odd}" if odd else "")


def _join(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _sentence(decision: Decision, code: ErrorCode | None, failed: int | None, policy: Policy) -> str:
    if code is None:
        return "the call may run"
    if isinstance(decision, Observed):
        return f"would be denied; observed until {shown_moment(policy.observe_until)}: {describe(code)}"
    if isinstance(decision, Deny) and decision.scopes:
        return f"the token has none of the scopes that cover the tool: {', '.join(decision.scopes)}"
    if failed == _SCOPE:
        return "scopes are configured and none of them covers the tool (scopes)"
    return describe(code)
