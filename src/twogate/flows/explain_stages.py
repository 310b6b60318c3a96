"""What stands between the decision and the run of a call: limits, pin, arguments, people's approval, operation token.

In the order of `flows.gateway.pipeline`; each stage of a call that nobody made is told as it would be for a real one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

import msgspec

from twogate.core.access import Decision, Deny, NeedsToken
from twogate.core.approval import Duty, Rule
from twogate.core.approval_rules import ApprovalRule, Rules, rule_for
from twogate.core.conditions import Kind
from twogate.core.errors import ErrorCode
from twogate.core.principal import Principal
from twogate.flows.explain_pins import Fit, PinFinding, Showing

AFTER: Final = ("limits", "pin", "arguments", "approval", "token")
"""The stages, in their order."""


class Result(StrEnum):
    """What became of a call at a step. The last four are only of what stands after the decision.

    `depends` is on what was not said or not asked, `counted` on how many calls there are when it is made.
    """

    PASSED = "passed"
    REFUSED = "refused"
    OBSERVED = "observed"
    NOT_REACHED = "not reached"
    DEPENDS = "depends"
    COUNTED = "counted"
    WAITS = "waits"
    NEEDED = "needed"


class ExplainedStep(msgspec.Struct, frozen=True):
    """One step of a call's way, and by which fact it ended as it did."""

    step: str
    result: Result
    because: str


class Guards(msgspec.Struct, frozen=True):
    """What a configuration asks of calls beside the decision.

    `limits` tells of them in words, `rules` are those of approvals by tenant, `lifetime` gives the seconds of an
    operation token by tenant and entry. What `required` servers have must be approved, and `validated` ones have
    arguments checked by what was.
    """

    limits: str
    rules: Mapping[str, Rules]
    lifetime: Callable[[str, str], int]
    required: Collection[str] = ()
    validated: Collection[str] = ()


class NeededApproval(msgspec.Struct, frozen=True):
    """Who must approve a call: by which of the tool's rules (from 1), and how. Times are in seconds."""

    number: int
    by: tuple[Duty, ...]
    people: int
    not_requester: bool
    within: int
    escalate_after: int | None
    escalate_to: tuple[Duty, ...]


class Stages(msgspec.Struct, frozen=True):
    """The stages of one call. `code` is why the first refuses, None if none does; `text` tells it in words.

    `approval` is what it would certainly wait for.
    """

    steps: tuple[ExplainedStep, ...]
    code: ErrorCode | None = None
    text: str = ""
    approval: NeededApproval | None = None


def stages_of(
    principal: Principal,
    server: str,
    entry: str | None,
    decision: Decision,
    guards: Guards,
    finding: PinFinding,
    arguments: dict[str, Any] | None,
) -> Stages:
    """The stages of a call that was decided so; none of them is reached if it was denied."""
    pin, pin_code = _pin(server, guards, finding)
    checked, checked_code = _arguments(server, guards, finding, arguments)
    approval, needed = _approval(principal, entry, guards, finding.kind, arguments)
    token = _token(principal, entry, decision, guards, needed)
    steps = (ExplainedStep("limits", Result.COUNTED, guards.limits), pin, checked, approval, token)
    if isinstance(decision, Deny):
        return Stages(_unreached(steps))
    for index, code in ((1, pin_code), (2, checked_code)):
        if code is not None:
            after = index + 1
            return Stages((*steps[:after], *_unreached(steps[after:])), code, steps[index].because)
    return Stages(steps, approval=needed)


def _unreached(steps: Sequence[ExplainedStep]) -> tuple[ExplainedStep, ...]:
    return tuple(ExplainedStep(step.step, Result.NOT_REACHED, step.because) for step in steps)


def _pin(server: str, guards: Guards, finding: PinFinding) -> tuple[ExplainedStep, ErrorCode | None]:
    def told(result: Result, because: str, code: ErrorCode | None = None) -> tuple[ExplainedStep, ErrorCode | None]:
        return ExplainedStep("pin", result, because), code

    pin = finding.pin
    if finding.kind is Kind.RESOURCE:
        return told(Result.PASSED, "resources are not pinned")
    if pin is None:
        if server in guards.required:
            return told(Result.REFUSED, "nobody approved it, and `pins: required`", ErrorCode.TOOL_NOT_APPROVED)
        return told(Result.PASSED, "nobody approved it, and nobody has to")
    at = datetime.fromtimestamp(pin.approved_at, UTC).isoformat(timespec="minutes")
    approved = f"approved at {at} by {pin.approved_by}"
    match finding.showing:
        case Showing.SAME:
            return told(Result.PASSED, f"{approved}, and the server shows just that")
        case Showing.CHANGED:
            why = f"{approved}, and the server shows it otherwise now: `twogate tool pins` shows how"
            return told(Result.REFUSED, why, ErrorCode.TOOL_CHANGED)
        case Showing.GONE:
            return told(Result.REFUSED, f"{approved}, and the server does not list it any more", ErrorCode.TOOL_CHANGED)
        case Showing.FAILED:
            why = f"{approved}, and what the server shows cannot be had: {finding.why}"
            return told(Result.REFUSED, why, ErrorCode.UPSTREAM_UNAVAILABLE)
        case Showing.UNASKED:
            return told(Result.DEPENDS, f"{approved}; the server was not asked whether it still shows just that")


def _arguments(
    server: str, guards: Guards, finding: PinFinding, arguments: dict[str, Any] | None
) -> tuple[ExplainedStep, ErrorCode | None]:
    def told(result: Result, because: str, code: ErrorCode | None = None) -> tuple[ExplainedStep, ErrorCode | None]:
        return ExplainedStep("arguments", result, because), code

    if finding.kind is not Kind.TOOL:
        return told(Result.PASSED, "only arguments of tools are checked")
    if server not in guards.validated:
        return told(Result.PASSED, "this server's arguments are not checked")
    if finding.pin is None:
        return told(Result.PASSED, "no schema was approved to check them by")
    if arguments is None:
        return told(Result.DEPENDS, "no arguments were given to check by the schema that was approved")
    match finding.fit:
        case Fit.INVALID:
            why = f"by the schema that was approved they are invalid {finding.misfit}"
            return told(Result.REFUSED, why, ErrorCode.ARGUMENTS_INVALID)
        case Fit.UNREADABLE:
            return told(Result.REFUSED, f"they cannot be checked: {finding.misfit}", ErrorCode.TOOL_INVALID)
        case _:
            return told(Result.PASSED, "they are valid by the schema that was approved")


def _approval(
    principal: Principal, entry: str | None, guards: Guards, kind: Kind | None, arguments: dict[str, Any] | None
) -> tuple[ExplainedStep, NeededApproval | None]:
    def told(result: Result, because: str) -> ExplainedStep:
        return ExplainedStep("approval", result, because)

    tenant, role = principal.tenant, principal.agent.role
    rules = () if entry is None else guards.rules.get(tenant, {}).get(entry, ())
    if not rules:
        return told(Result.PASSED, "it needs none"), None
    if kind is Kind.RESOURCE:
        arguments = {}  # reading brings none
    number, found = _first(rules, tenant, role, arguments)
    if found is None:
        return told(Result.PASSED, "it needs none: no rule of the tool counts for this call"), None
    if arguments is None and found.when.arguments:
        looks = ", ".join(dict.fromkeys(test.at for test in found.when.arguments))
        why = f"rule {number} looks at {looks}, and no arguments were given: if it counts, {_told(found.rule)}"
        return told(Result.DEPENDS, why), None
    # Of several that may hold, it waits as strictly as each of them asks.
    rule = rule_for(rules, tenant, role, arguments) or found.rule
    also = "" if rule == found.rule else ", and others that may hold"
    return told(Result.WAITS, f"rule {number}{also}: {_told(rule)}"), _needed(number, rule)


def _first(
    rules: Sequence[ApprovalRule], tenant: str, role: str, arguments: dict[str, Any] | None
) -> tuple[int, ApprovalRule | None]:
    for number, one in enumerate(rules, 1):
        when = one.when if arguments is not None else msgspec.structs.replace(one.when, arguments=())
        if when.judge(tenant, role, arguments) is not False:
            return number, one
    return 0, None


def _token(
    principal: Principal, entry: str | None, decision: Decision, guards: Guards, approval: NeededApproval | None
) -> ExplainedStep:
    if not isinstance(decision, NeedsToken) or entry is None:
        return ExplainedStep("token", Result.PASSED, "it needs none")
    if approval is not None:
        return ExplainedStep("token", Result.PASSED, "the approval stands for it")
    seconds = guards.lifetime(principal.tenant, entry)
    because = f"a person or an authorizer signs for this very call, which then has {_time(seconds)} to run"
    return ExplainedStep("token", Result.NEEDED, because)


def _needed(number: int, rule: Rule) -> NeededApproval:
    return NeededApproval(
        number,
        tuple(sorted(rule.duties)),
        rule.people,
        rule.not_requester,
        rule.within,
        rule.escalate_after,
        tuple(sorted(rule.escalate_to)),
    )


def _told(rule: Rule) -> str:
    who = " or ".join(sorted(rule.duties))
    people = f"{'one' if rule.people == 1 else rule.people} {who} must approve it"
    people += f" within {_time(rule.within)} and the session's life"
    if rule.not_requester:
        people += ", other than the user on whose behalf it is made"
    if rule.escalate_after is not None:
        people += f"; after {_time(rule.escalate_after)} also {' or '.join(sorted(rule.escalate_to))}"
    return people


def _time(seconds: int) -> str:
    for name, length in (("h", 3600), ("min", 60)):
        if seconds % length == 0:
            return f"{seconds // length} {name}"
    return f"{seconds} s"
