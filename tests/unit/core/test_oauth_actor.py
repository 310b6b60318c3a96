"""Who acts for a token's subject."""

from __future__ import annotations

from typing import Any

import pytest

from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.actor import verify_actor
from twogate.core.oauth.exchange import MAX_ACTORS, next_actors

ISSUER = "https://login.example.com"


def judged(act: Any, *, pointer: str = "/client_id", has_user: bool = True) -> ErrorCode | None:
    try:
        verify_actor({"sub": "alice", "act": act}, ISSUER, pointer, "robot", has_user=has_user)
    except GateError as error:
        return error.code
    return None


def test_a_token_in_which_nobody_acts_is_not_judged() -> None:
    verify_actor({"sub": "robot", "may_act": {"sub": "x"}}, ISSUER, "/client_id", "robot", has_user=False)


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        ({"sub": "robot"}, None),
        ({"sub": "robot", "iss": ISSUER, "client_id": "x"}, None),
        ({"sub": "clerk"}, ErrorCode.ACTOR_REFUSED),
        ({"sub": "robot", "iss": "https://other.example.com"}, ErrorCode.ACTOR_REFUSED),
        ({"sub": "robot", "iss": 5}, ErrorCode.CLAIM_INVALID),
        ({"iss": ISSUER}, ErrorCode.CLAIM_INVALID),
        ({"sub": "robot", "act": None}, ErrorCode.CLAIM_INVALID),
        ({"sub": "clerk", "act": {"sub": "robot"}}, ErrorCode.ACTOR_REFUSED),
        (None, ErrorCode.CLAIM_INVALID),
        ("robot", ErrorCode.CLAIM_INVALID),
    ],
)
def test_the_current_actor_is_the_agent_by_its_issuers_name(act: object, expected: ErrorCode | None) -> None:
    assert judged(act) is expected


def test_where_the_agent_is_the_actor_it_need_not_be_called_by_its_subject() -> None:
    assert judged({"sub": "some-id", "client_id": "robot"}, pointer="/act/client_id") is None
    assert judged({"sub": "some-id", "client_id": "robot"}, pointer="/actor/client_id") is ErrorCode.ACTOR_REFUSED


def test_without_a_user_nobody_may_act() -> None:
    for pointer in ("/client_id", "/act/sub"):
        assert judged({"sub": "robot"}, pointer=pointer, has_user=False) is ErrorCode.ACTOR_REFUSED


def test_what_our_own_exchange_writes_is_accepted_up_to_its_own_limit() -> None:
    act: dict[str, Any] | None = None
    for number in range(MAX_ACTORS - 1):
        act = next_actors(f"client-{number}", act)
    assert judged(next_actors("robot", act)) is None
    assert judged({"sub": "robot", "act": next_actors("robot", act)}) is ErrorCode.ACTOR_REFUSED
