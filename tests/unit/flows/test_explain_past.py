"""Why a call ended as it did, by its events on the audit trail."""

from __future__ import annotations

from typing import Any

import pytest

from twogate.core.audit.record import OBSERVED, AuditEvent, EventKind
from twogate.core.errors import ErrorCode
from twogate.flows.explain import STEPS, WAY
from twogate.flows.explain_past import explain_past


def event(kind: EventKind, **changes: Any) -> AuditEvent:
    known: dict[str, Any] = {
        "request": "ab-1",
        "address": "192.0.2.1",
        "tenant": "acme",
        "agent": "robot",
        "role": "reader",
        "session": "sid",
        "task": "report",
        "server": "git",
        "method": "tools/call",
        "target": "git.log",
    }
    return AuditEvent(kind=kind, at=1, **{**known, **changes})


def refused(code: str, **changes: Any) -> AuditEvent:
    return event(EventKind.CALL_REFUSED, decision="deny", reason=code, **changes)


@pytest.mark.parametrize(
    ("code", "step"),
    [
        *((code, step) for step, codes in STEPS for code in sorted(codes)),
        (ErrorCode.TOKEN_REVOKED, "identity"),
        (ErrorCode.AGENT_DISABLED, "identity"),
        (ErrorCode.INVALID_PARAMS, "message"),
        (ErrorCode.REQUEST_STATE_UNKNOWN, "message"),
        (ErrorCode.SESSION_ENDED, "session"),
        (ErrorCode.METHOD_NOT_PERMITTED, "method"),
        (ErrorCode.RATE_LIMITED, "limits"),
        (ErrorCode.TOOL_CHANGED, "pin"),
        (ErrorCode.UPSTREAM_UNAVAILABLE, "pin"),
        (ErrorCode.ARGUMENTS_INVALID, "arguments"),
        (ErrorCode.HEADER_MISMATCH, "arguments"),
        (ErrorCode.APPROVAL_PENDING, "approval"),
        (ErrorCode.OPERATION_TOKEN_USED, "token"),
        ("a_code_of_a_later_version", "message"),
    ],
)
def test_a_refusal_names_the_step_that_decided_and_what_was_passed_before(code: str, step: str) -> None:
    past = explain_past([refused(code, detail="the exact reason")])
    assert (past.decision, past.reason, past.step) == ("deny", code, step)
    names, results = [item.step for item in past.steps], [item.result for item in past.steps]
    at = names.index(step)
    assert results == ["passed"] * at + ["refused"] + ["not reached"] * (len(names) - at - 1)
    assert [name for name in names if name not in ("identity", "message", "method")] == list(WAY)
    assert past.text.startswith(f"refused at {step}: ")
    assert "the exact reason" in past.text


def test_a_header_that_contradicts_the_message_is_found_before_there_is_a_session() -> None:
    assert explain_past([refused(ErrorCode.HEADER_MISMATCH, session="", task="")]).step == "message"


@pytest.mark.parametrize("code", [ErrorCode.AUDIT_UNAVAILABLE, ErrorCode.STORE_UNAVAILABLE, ErrorCode.INTERNAL])
def test_what_failed_itself_is_blamed_on_no_step(code: ErrorCode) -> None:
    past = explain_past([refused(code)])
    assert (past.step, past.steps) == ("", ())
    assert past.text.startswith("Twogate could not serve it: ")


def test_an_allowed_call_passed_every_step_and_has_its_outcome_told() -> None:
    intent = event(EventKind.CALL_INTENT, decision="allow", detail="approval xyz by acme/bob")
    past = explain_past([intent, event(EventKind.CALL_OUTCOME, outcome="answered", status=200)])
    assert (past.decision, past.reason, past.step) == ("allow", "", "")
    assert {item.result for item in past.steps} == {"passed"}
    assert past.text == "allowed; the outcome is answered"
    told = {item.step: item.because for item in past.steps}
    assert told["approval"] == "approval xyz by acme/bob"
    assert told["identity"] == "acme/robot, role reader, from 192.0.2.1"
    assert told["session"] == "task report, session sid"


def test_a_call_without_outcome_or_with_a_failed_one_says_so() -> None:
    intent = event(EventKind.CALL_INTENT, decision="allow")
    assert "no outcome is on the trail" in explain_past([intent]).text
    failed = event(
        EventKind.CALL_OUTCOME, outcome="failed", reason=ErrorCode.UPSTREAM_TIMEOUT, detail="30 s of silence"
    )
    told = explain_past([intent, failed])
    assert told.decision == "allow"
    assert "the outcome is failed: upstream_timeout" in told.text
    assert told.text.endswith("(30 s of silence)")


def test_what_was_only_observed_is_told_as_such_and_ended_nothing() -> None:
    intent = event(EventKind.CALL_INTENT, decision=OBSERVED, reason=ErrorCode.TASK_NOT_PERMITTED)
    past = explain_past([intent])
    assert (past.decision, past.reason, past.step) == (OBSERVED, "task_not_permitted", "task")
    assert [item.step for item in past.steps if item.result == "observed"] == ["task"]
    assert {item.result for item in past.steps} == {"passed", "observed"}


def test_events_of_no_call_are_not_made_one() -> None:
    past = explain_past([event(EventKind.APPROVAL_REQUESTED), event(EventKind.APPROVAL_VOTED)])
    assert (past.decision, past.steps) == ("none", ())
    assert "approval.requested, approval.voted" in past.text
    with pytest.raises(ValueError, match="nothing"):
        explain_past([])


@pytest.mark.parametrize("last", [EventKind.SERVER_REQUEST, EventKind.CALL_OUTCOME])
def test_a_call_of_which_only_the_end_was_read_is_not_told_to_be_allowed(last: EventKind) -> None:
    # So many questions of its server's that the intent, which says that it was only observed, is not read any more.
    asked = [event(EventKind.SERVER_REQUEST, decision="allow", method="ping")] * 3
    past = explain_past([*asked, event(last, outcome="answered" if last is EventKind.CALL_OUTCOME else "")])
    assert (past.decision, past.step, past.steps) == ("none", "", ())
    assert "not how it was decided" in past.text
