"""What every JWT assertion must say of its audience and time (RFC 7523 section 3)."""

from __future__ import annotations

from typing import Any

import pytest

from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.assertion import LEEWAY, verify_audience, verify_times

NOW = 1_800_000_000
LIFE = 300
US = frozenset({"https://mcp.example.com", "https://mcp.example.com/token"})


@pytest.mark.parametrize("audience", ["https://mcp.example.com", ["https://mcp.example.com/token"]])
def test_one_name_of_ours_alone_is_an_audience(audience: object) -> None:
    verify_audience(audience, US)


@pytest.mark.parametrize(
    ("audience", "code"),
    [
        (None, ErrorCode.CLAIM_MISSING),
        ("", ErrorCode.AUDIENCE_MISMATCH),
        ([], ErrorCode.AUDIENCE_MISMATCH),
        ("https://mcp.example.com/", ErrorCode.AUDIENCE_MISMATCH),
        ("https://mcp.example.com/mcp/files", ErrorCode.AUDIENCE_MISMATCH),
        (["https://mcp.example.com", "https://mcp.example.com/token"], ErrorCode.AUDIENCE_MISMATCH),
        (["https://mcp.example.com", "https://other.example"], ErrorCode.AUDIENCE_MISMATCH),
        ({"https://mcp.example.com": 1}, ErrorCode.AUDIENCE_MISMATCH),
        (5, ErrorCode.AUDIENCE_MISMATCH),
    ],
)
def test_any_other_audience_is_refused(audience: object, code: ErrorCode) -> None:
    with pytest.raises(GateError) as refusal:
        verify_audience(audience, US)
    assert refusal.value.code is code


def test_no_audience_at_all_is_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match="for somebody"):
        verify_audience("https://mcp.example.com", frozenset())


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": NOW + LIFE},
        {"exp": NOW - LEEWAY + 1},
        {"exp": NOW + LIFE + LEEWAY},
        {"exp": NOW + LIFE, "iat": NOW, "nbf": NOW + LEEWAY},
        {"exp": NOW + LIFE + LEEWAY, "iat": NOW + LEEWAY},
    ],
)
def test_a_near_end_with_a_sane_beginning_is_good(claims: dict[str, Any]) -> None:
    assert verify_times(claims, NOW, LIFE) == claims["exp"]


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({}, ErrorCode.CLAIM_MISSING),
        ({"exp": None, "iat": NOW}, ErrorCode.CLAIM_MISSING),
        ({"exp": NOW - LEEWAY}, ErrorCode.TOKEN_EXPIRED),
        ({"exp": NOW + LIFE + LEEWAY + 1}, ErrorCode.TOKEN_LIFETIME_EXCESSIVE),
        ({"exp": NOW + 1, "iat": NOW - LIFE - LEEWAY}, ErrorCode.TOKEN_LIFETIME_EXCESSIVE),
        ({"exp": NOW + 60, "nbf": NOW + LEEWAY + 1}, ErrorCode.TOKEN_NOT_YET_VALID),
        ({"exp": NOW + 60, "iat": NOW + LEEWAY + 1}, ErrorCode.TOKEN_NOT_YET_VALID),
        ({"exp": str(NOW + 60)}, ErrorCode.CLAIM_INVALID),
        ({"exp": True}, ErrorCode.CLAIM_INVALID),
        ({"exp": NOW + 60, "iat": -1}, ErrorCode.CLAIM_INVALID),
    ],
)
def test_any_other_time_is_refused(claims: dict[str, Any], code: ErrorCode) -> None:
    with pytest.raises(GateError) as refusal:
        verify_times(claims, NOW, LIFE)
    assert refusal.value.code is code
