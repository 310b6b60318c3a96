"""What a session is good for, and what declaring a task gives."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gatelab import AGENT, ALICE, NOW, PRINCIPAL
from twogate.core.errors import ErrorCode, GateError
from twogate.core.session import MAX_LIFETIME, Session, find_or_refuse, verify_session

KEY = PRINCIPAL.key
LIVE = Session("s1", KEY, "report", frozenset({"files.look"}), NOW, NOW + 60)


def made(**changes: Any) -> Session:
    return msgspec.structs.replace(LIVE, **changes)


def test_a_live_session_of_the_principal_is_given_back_until_the_second_before_its_deadline() -> None:
    assert verify_session(LIVE, KEY, NOW) is LIVE
    assert verify_session(LIVE, KEY, NOW + 59) is LIVE


REFUSED = {
    "fail/at the deadline": (LIVE, KEY, NOW + 60, ErrorCode.SESSION_EXPIRED),
    "fail/long after": (LIVE, KEY, NOW + 10**9, ErrorCode.SESSION_EXPIRED),
    "fail/ended": (made(ended_at=NOW), KEY, NOW, ErrorCode.SESSION_ENDED),
    "fail/ended and expired": (made(ended_at=NOW), KEY, NOW + 60, ErrorCode.SESSION_ENDED),
    "fail/other agent": (LIVE, msgspec.structs.replace(KEY, agent="other"), NOW, ErrorCode.SESSION_MISMATCH),
    "fail/other tenant": (LIVE, msgspec.structs.replace(KEY, tenant="globex"), NOW, ErrorCode.SESSION_MISMATCH),
    "fail/other issuer": (LIVE, msgspec.structs.replace(KEY, issuer="https://b"), NOW, ErrorCode.SESSION_MISMATCH),
    "fail/a user came": (LIVE, msgspec.structs.replace(KEY, user=ALICE), NOW, ErrorCode.SESSION_MISMATCH),
    "fail/the mismatch comes first": (
        made(ended_at=NOW),
        msgspec.structs.replace(KEY, agent="other"),
        NOW,
        ErrorCode.SESSION_MISMATCH,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_session_is_refused_to_others_and_after_its_end(name: str) -> None:
    session, principal, now, code = REFUSED[name]
    with pytest.raises(GateError) as refusal:
        verify_session(session, principal, now)
    assert refusal.value.code is code


ENDED = made(ended_at=NOW)
OTHER = made(id="s2", task="edit")
ELSEWHERE = made(id="s4", principal=msgspec.structs.replace(KEY, issuer="https://other.example.com"))
DECLARED: dict[str, tuple[int, str, list[Session], Session | ErrorCode | None]] = {
    "ok/nothing lives": (1, "report", [], None),
    "ok/the same task gives the same session": (1, "report", [LIVE], LIVE),
    "ok/the same task beside another": (2, "report", [OTHER, LIVE], LIVE),
    "ok/a second task where two may live": (2, "edit", [LIVE], None),
    "ok/the same task through another issuer is a session of its own": (1, "report", [ELSEWHERE], None),
    "ok/and each finds its own again": (1, "report", [ELSEWHERE, LIVE, ELSEWHERE], LIVE),
    "fail/a task the agent lacks": (1, "ghost", [], ErrorCode.TASK_UNKNOWN),
    "fail/a task the agent lost, though its session lives": (
        1, "ghost", [made(task="ghost")], ErrorCode.TASK_UNKNOWN,
    ),
    "fail/another task lives": (1, "edit", [LIVE], ErrorCode.TASK_LIMIT),
    "fail/another task lives through another issuer": (1, "edit", [ELSEWHERE], ErrorCode.TASK_LIMIT),
    "fail/another task was ended early, which frees nothing": (1, "edit", [ENDED], ErrorCode.TASK_LIMIT),
    "fail/this task was ended early": (1, "report", [ENDED], ErrorCode.SESSION_ENDED),
    "fail/this task was ended early through another issuer": (
        1, "report", [LIVE, msgspec.structs.replace(ELSEWHERE, ended_at=NOW)], ErrorCode.SESSION_ENDED,
    ),
    "fail/two others live where two may": (
        2, "report", [OTHER, made(id="s3", task="third")], ErrorCode.TASK_LIMIT,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DECLARED)
def test_declaring_a_task_finds_opens_or_refuses(name: str) -> None:
    limit, task, unexpired, expected = DECLARED[name]
    agent = msgspec.structs.replace(AGENT, concurrent_tasks=limit)
    try:
        got: Session | ErrorCode | None = find_or_refuse(agent, KEY, task, unexpired)
    except GateError as refusal:
        got = refusal.code
    assert got == expected


def test_a_session_lives_an_hour_at_most() -> None:
    #
    assert MAX_LIFETIME == 3600
