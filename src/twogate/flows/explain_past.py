"""Why a call that was made was allowed or denied, by what the audit trail says of it (row R-73).

The trail holds the reason and not the configuration of then: steps before the one that decided were passed, or the call
would have ended there; those behind it were not reached.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

import msgspec

from twogate.core.audit.record import OBSERVED, AuditEvent, EventKind
from twogate.core.errors import FACES, GATE_ONE, ErrorCode
from twogate.flows.explain import STEPS, WAY
from twogate.flows.explain_stages import ExplainedStep, Result
from twogate.flows.hypothetical import described

IDENTITY, MESSAGE, METHOD = "identity", "message", "method"

_SERVER: Final = (
    ErrorCode.UPSTREAM_UNAVAILABLE,
    ErrorCode.UPSTREAM_TIMEOUT,
    ErrorCode.UPSTREAM_INVALID,
    ErrorCode.UPSTREAM_BROKEN,
    ErrorCode.SECRET_UNAVAILABLE,
)
_BY_STEP: Final[Mapping[str, tuple[ErrorCode, ...]]] = MappingProxyType(
    {
        "session": (
            ErrorCode.SESSION_UNKNOWN,
            ErrorCode.SESSION_MISMATCH,
            ErrorCode.SESSION_EXPIRED,
            ErrorCode.SESSION_ENDED,
            ErrorCode.SESSION_CONFLICT,
            ErrorCode.TASK_LIMIT,
        ),
        METHOD: (ErrorCode.METHOD_NOT_PERMITTED,),
        "limits": (ErrorCode.RATE_LIMITED, ErrorCode.SHARED_UNAVAILABLE),
        # Refused before it was forwarded: the server was asked what it shows.
        "pin": (ErrorCode.TOOL_NOT_APPROVED, ErrorCode.TOOL_CHANGED, *_SERVER),
        "arguments": (ErrorCode.ARGUMENTS_INVALID, ErrorCode.TOOL_INVALID),
        "approval": (
            ErrorCode.APPROVAL_PENDING,
            ErrorCode.APPROVAL_DENIED,
            ErrorCode.APPROVAL_EXPIRED,
            ErrorCode.APPROVAL_CANCELLED,
        ),
        "token": (
            ErrorCode.OPERATION_TOKEN_REQUIRED,
            ErrorCode.OPERATION_TOKEN_INVALID,
            ErrorCode.OPERATION_TOKEN_MISMATCH,
            ErrorCode.OPERATION_TOKEN_USED,
            ErrorCode.OPERATION_OUTCOME_UNKNOWN,
        ),
    }
)
_STEP_OF: Final[Mapping[str, str]] = MappingProxyType(
    {
        **{code: step for step, codes in STEPS for code in codes},
        **{code: step for step, codes in _BY_STEP.items() for code in codes},
    }
)
_ITSELF: Final = frozenset(
    {ErrorCode.AUDIT_UNAVAILABLE, ErrorCode.STORE_UNAVAILABLE, ErrorCode.KEYS_UNAVAILABLE, ErrorCode.INTERNAL}
)
_CALLS: Final = frozenset({EventKind.CALL_INTENT, EventKind.CALL_OUTCOME, EventKind.CALL_REFUSED})
_DURING: Final = frozenset({EventKind.SERVER_REQUEST, EventKind.CALL_OUTCOME})
"""What the trail has of a call only behind its intent."""


class Past(msgspec.Struct, frozen=True):
    """The answer. `decision` is `allow`, `observed`, `deny`, or `none` if these events do not hold one.

    `step` is the one that decided; empty if the call ran, or where Twogate itself failed.
    """

    decision: str
    reason: str
    step: str
    text: str
    steps: tuple[ExplainedStep, ...]
    first: AuditEvent


def explain_past(events: Sequence[AuditEvent]) -> Past:
    """What the trail's events of one request say, in the order in which they were written.

    Raises:
        ValueError: there are none.
    """
    if not events:
        raise ValueError("nothing to explain")
    calls = [event for event in events if event.kind in _CALLS]
    if all(event.kind is EventKind.CALL_OUTCOME for event in calls) and any(event.kind in _DURING for event in events):
        # A decision that is not known is never told as "allow": it may have been observed only.
        text = "only the end of this call was read, not how it was decided"
        if calls:
            text += f"; {_ended(calls[-1])}"
        return Past("none", "", "", text, (), events[0])
    if not calls:
        told = ", ".join(dict.fromkeys(event.kind.value for event in events))
        return Past("none", "", "", f"these events are of no call: {told}", (), events[0])
    first = calls[0]
    if first.kind is EventKind.CALL_REFUSED:
        return _refused(first)
    outcome = next((event for event in calls if event.kind is EventKind.CALL_OUTCOME), None)
    observed = first.reason if first.decision == OBSERVED else ""
    step = _step(first) if observed else ""
    text = f"allowed; {_ended(outcome)}"
    if observed:
        text = f"would be denied, and was only observed: {described(observed)}; {_ended(outcome)}"
    return Past(OBSERVED if observed else "allow", observed, step, text, _way(first, step, Result.OBSERVED), first)


def _refused(event: AuditEvent) -> Past:
    step, why = _step(event), described(event.reason)
    text = f"refused at {step}: {why}" if step else f"Twogate could not serve it: {why}"
    if event.detail and event.detail not in why:
        text += f" ({event.detail})"
    return Past("deny", event.reason, step, text, _way(event, step, Result.REFUSED) if step else (), event)


def _ended(outcome: AuditEvent | None) -> str:
    if outcome is None:
        return "no outcome is on the trail: it is under way, or the process ended meanwhile"
    told = f"the outcome is {outcome.outcome}"
    if outcome.reason:
        told += f": {described(outcome.reason)}" + (f" ({outcome.detail})" if outcome.detail else "")
    return told


def _step(event: AuditEvent) -> str:
    if event.reason in _ITSELF:
        return ""
    if event.reason == ErrorCode.HEADER_MISMATCH and event.session:
        return "arguments"  # those that headers mirror
    found = _STEP_OF.get(event.reason)
    if found is not None:
        return found
    known = event.reason in ErrorCode.__members__.values()
    return IDENTITY if known and FACES[ErrorCode(event.reason)].jsonrpc == GATE_ONE else MESSAGE


def _way(event: AuditEvent, decided: str, result: Result) -> tuple[ExplainedStep, ...]:
    names = [IDENTITY, MESSAGE, *WAY]
    if decided == METHOD:
        names.insert(names.index("class"), METHOD)
    at = names.index(decided) if decided else len(names)
    facts = _facts(event)
    if decided:
        facts[decided] = described(event.reason) + (f" ({event.detail})" if event.detail else "")
    steps: list[ExplainedStep] = []
    for index, name in enumerate(names):
        # What was only observed ended nothing.
        passed = index < at or (index > at and result is Result.OBSERVED)
        here = result if index == at else Result.PASSED if passed else Result.NOT_REACHED
        steps.append(ExplainedStep(name, here, facts.get(name, "") if here is not Result.NOT_REACHED else ""))
    return tuple(steps)


def _facts(event: AuditEvent) -> dict[str, str]:
    who = f"{event.tenant}/{event.agent}, role {event.role}"
    if event.user:
        who += f", for {event.user} of {event.user_issuer}"
    facts = {
        IDENTITY: f"{who}, from {event.address}" if event.address else who,
        MESSAGE: event.method,
        "session": f"task {event.task}, session {event.session}" if event.session else "",
        "tenant": f"server {event.server}",
        "class": event.target,
    }
    if event.kind is EventKind.CALL_INTENT and event.detail:
        facts["approval" if event.detail.startswith("approval ") else "token"] = event.detail
    return facts
