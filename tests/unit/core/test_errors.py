"""The table of what a caller may learn."""

from __future__ import annotations

import re

import pytest

from twogate.core.errors import FACES, GATE_TWO, ErrorCode, GateError


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_reason_has_a_face(code: ErrorCode) -> None:
    face = GateError(code).face
    assert face is FACES[code]
    assert re.fullmatch(r"[a-z0-9_]+", face.reason)
    assert face.text


@pytest.mark.parametrize("code", list(ErrorCode))
def test_our_own_codes_lie_outside_the_range_that_json_rpc_and_mcp_reserve(code: ErrorCode) -> None:
    number = FACES[code].jsonrpc
    # JSON-RPC 2.0 section 5.1 defines five in that range; MCP 2026-07-28 defines the three others.
    assert not -32768 <= number <= -32000 or number in {-32700, -32600, -32601, -32602, -32603, -32020, -32021, -32022}


def test_a_tool_outside_the_role_the_task_or_the_world_cannot_be_told_apart() -> None:
    # what may not be called must not be found by asking either.
    faces = {
        FACES[code]
        for code in (
            ErrorCode.ROLE_NOT_PERMITTED,
            ErrorCode.TASK_NOT_PERMITTED,
            ErrorCode.USER_NOT_PERMITTED,
            ErrorCode.TARGET_UNCLASSIFIED,
            ErrorCode.TENANT_SERVER_REFUSED,
            ErrorCode.METHOD_NOT_PERMITTED,
        )
    }
    assert len(faces) == 1
    assert faces.pop().jsonrpc == GATE_TWO


def test_another_principals_session_looks_like_none_at_all() -> None:
    assert FACES[ErrorCode.SESSION_MISMATCH] is FACES[ErrorCode.SESSION_UNKNOWN]


def test_no_agent_is_told_that_nothing_was_run_after_its_call_was_forwarded() -> None:
    forwarded = {ErrorCode.UPSTREAM_TIMEOUT, ErrorCode.UPSTREAM_INVALID, ErrorCode.UPSTREAM_BROKEN}
    for code in forwarded | {ErrorCode.OUTCOME_UNRECORDED}:
        assert "may have run" in FACES[code].text
        assert "nothing was run" not in FACES[code].text


def test_the_debug_text_is_in_the_log_and_not_in_the_face() -> None:
    error = GateError(ErrorCode.KEY_UNKNOWN, "0 keys fit", data={"a": 1})
    assert str(error) == "key_unknown: 0 keys fit"
    assert "0 keys" not in error.face.text + error.face.reason
    assert error.data == {"a": 1}
    assert str(GateError(ErrorCode.KEY_UNKNOWN)) == "key_unknown"
