"""The composition of explaining a call: what the configuration says of it beside the decision.

A part of the composition root. It loads neither the gateway nor what people sign with: no command should wait for that.
"""

from __future__ import annotations

from collections.abc import Sequence

from twogate.config import Settings
from twogate.config.approval_rules import approval_rules
from twogate.config.pins import approval_required, arguments_validated
from twogate.config.settings import Limits, RateSettings
from twogate.config.tenants import tenant_tools
from twogate.core.access import Decision, Deny
from twogate.core.conditions import Asked, Kind, arguments_of, kind_of
from twogate.core.errors import ErrorCode
from twogate.core.operation import DEFAULT_LIFETIME
from twogate.flows.explain import Around, Judge, Judgement, Supposed
from twogate.flows.explain_stages import Guards
from twogate.policies import conditions_of, policies_of


def around_of(settings: Settings) -> Around:
    """What stands around the decision in a configuration, whose policies are read now.

    Raises:
        ValueError: the policies are not in order; see `policies.check_policies`.
    """
    return Around(judge_of(settings), guards_of(settings))


def guards_of(settings: Settings) -> Guards:
    """What a configuration asks of calls beside the decision and the policies."""

    def lifetime(tenant: str, entry: str) -> int:
        tool = tenant_tools(settings, tenant).get(entry)
        return DEFAULT_LIFETIME if tool is None else tool.token_lifetime

    return Guards(
        _limits(settings.limits),
        approval_rules(settings),
        lifetime,
        approval_required(settings),
        arguments_validated(settings),
    )


def _limits(limits: Limits) -> str:
    told = [f"{limits.calls_per_agent} calls of one agent and user at once"]
    rates = (("one tool of an agent", limits.tool), ("one agent", limits.agent), ("one tenant", limits.tenant))
    told += [f"{_rate(rate)} of {what}" for what, rate in rates if rate is not None]
    return "at most " + ", ".join(told)


def _rate(rate: RateSettings) -> str:
    return f"{rate.rate} a second ({rate.burst} in a burst)"


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
