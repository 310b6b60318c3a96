"""The last step of explaining a call: what the Cedar policies of a configuration say of one that is let through."""

from __future__ import annotations

from collections.abc import Sequence

from twogate.config import Settings
from twogate.core.access import Decision, Deny
from twogate.core.conditions import Asked, Kind, arguments_of, kind_of
from twogate.core.errors import ErrorCode
from twogate.flows.explain import Judge, Judgement, Supposed
from twogate.policies import conditions_of, policies_of


def judge_of(settings: Settings) -> Judge:
    """What puts calls to the policies of a configuration, which are read now.

    Raises:
        ValueError: the policies are not in order; see `policies.check_policies`.
    """
    conditions, policies = conditions_of(settings), policies_of(settings)

    def judge(supposed: Supposed, decision: Decision) -> Judgement:
        entry, assumed = supposed.entry, supposed.circumstances
        if conditions is None or entry is None:
            return Judgement(decision, "there are no policies" if conditions is None else "the tool is not classified")
        kind = kind_of(entry)
        method = "" if assumed.arguments is None else "prompts/get" if kind is Kind.PROMPT else "tools/call"
        params = {} if assumed.arguments is None else {"arguments": assumed.arguments}
        asked = Asked(
            supposed.principal,
            supposed.session,
            supposed.target,
            entry,
            method,
            params,
            assumed.address,
            supposed.now,
        )
        about = [policy for policy in policies if entry in policy.entries]
        unasked = [policy for policy in about if policy.looks_at_arguments] if arguments_of(asked, kind) is None else []
        why = None if isinstance(decision, Deny) else conditions.forbidden(asked)
        if why is not None:
            return Judgement(Deny(ErrorCode.POLICY_DENIED), why)
        fact = f"{_count(len(about) - len(unasked))} asked, none forbids it"
        if unasked:
            fact += f"; not asked, for want of --arguments: {_names([policy.id for policy in unasked])}"
        return Judgement(decision, fact)

    return judge


def _count(number: int) -> str:
    return f"{number} {'policy' if number == 1 else 'policies'}"


def _names(names: Sequence[str]) -> str:
    shown = 5
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
