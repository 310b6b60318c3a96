"""Device authorization: codes, the endpoint's answer, and when a poll is too early (RFC 8628)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.device import (
    ALPHABET,
    CODE_LENGTH,
    MAX_INTERVAL,
    TRANSITIONS,
    USER_CODE_BYTES,
    DeviceState,
    authorization_answer,
    judge_poll,
    make_user_code,
    parse_user_code,
    show_user_code,
    verify_change,
)


@given(st.binary(min_size=USER_CODE_BYTES, max_size=USER_CODE_BYTES))
def test_every_user_code_has_eight_letters_that_spell_no_word_and_reads_back(raw: bytes) -> None:
    code = make_user_code(raw)
    assert len(code) == CODE_LENGTH
    assert set(code) <= set(ALPHABET)
    assert parse_user_code(show_user_code(code)) == code


def test_the_alphabet_is_the_one_of_the_rfc() -> None:
    assert (len(set(ALPHABET)), set(ALPHABET) & set("AEIOUY0123456789")) == (20, set())


def test_every_letter_can_stand_at_every_place() -> None:
    codes = [make_user_code((number * 20**7 + number).to_bytes(USER_CODE_BYTES)) for number in range(20)]
    assert {code[0] for code in codes} == {code[7] for code in codes} == set(ALPHABET)


def test_too_few_random_bytes_make_no_code() -> None:
    for size in (0, 4, USER_CODE_BYTES - 1, USER_CODE_BYTES + 1):
        with pytest.raises(ValueError, match="random bytes"):
            make_user_code(bytes(size))


@pytest.mark.parametrize(
    "entered", ["WDJB-MJHT", "wdjb-mjht", "wdjbmjht", " WDJB MJHT ", "W-D-J-B-M-J-H-T", "WDJB--MJHT"]
)
def test_case_dashes_and_blanks_do_not_matter(entered: str) -> None:
    assert parse_user_code(entered) == "WDJBMJHT"


@pytest.mark.parametrize(
    "entered",
    [
        "", "WDJB-MJH", "WDJB-MJHTT", "WDJB-MJHA", "WDJB-MJH1", "WDJB_MJHT", "WDJB\tMJHT", "\uff37DJB-MJHT",
        "WDJBMJH\u017f", "W" * 33,
    ],
)  # fmt: skip
def test_what_is_no_code_is_none(entered: str) -> None:
    assert parse_user_code(entered) is None


@given(st.text(max_size=40))
def test_whatever_is_entered_gives_a_code_or_nothing(entered: str) -> None:
    code = parse_user_code(entered)
    assert code is None or (len(code) == CODE_LENGTH and set(code) <= set(ALPHABET))


def test_the_answer_has_every_member_of_the_rfc() -> None:
    assert authorization_answer("https://mcp.example.com", "secret", "WDJBMJHT", 600) == {
        "device_code": "secret",
        "user_code": "WDJB-MJHT",
        "verification_uri": "https://mcp.example.com/device",
        "verification_uri_complete": "https://mcp.example.com/device?user_code=WDJB-MJHT",
        "expires_in": 600,
        "interval": 5,
    }


@pytest.mark.parametrize(
    ("polled_at", "interval", "now", "code", "next_interval"),
    [
        (0, 5, 1000, ErrorCode.AUTHORIZATION_PENDING, 5),
        (1000, 5, 1005, ErrorCode.AUTHORIZATION_PENDING, 5),
        (1000, 5, 1004, ErrorCode.AUTHORIZATION_PENDING, 5),
        (1000, 5, 1003, ErrorCode.SLOW_DOWN, 10),
        (1000, 5, 1000, ErrorCode.SLOW_DOWN, 10),
        (1000, 10, 1008, ErrorCode.SLOW_DOWN, 15),
        (1000, 10, 1009, ErrorCode.AUTHORIZATION_PENDING, 10),
        (1000, MAX_INTERVAL, 1000, ErrorCode.SLOW_DOWN, MAX_INTERVAL),
        # The clock went back.
        (1000, 5, 900, ErrorCode.SLOW_DOWN, 10),
    ],
)
def test_a_poll_that_comes_too_early_makes_the_interval_longer(
    polled_at: int, interval: int, now: int, code: ErrorCode, next_interval: int
) -> None:
    polled = judge_poll(polled_at, interval, now)
    assert (polled.code, polled.interval) == (code, next_interval)


def test_the_only_changes_are_those_of_the_table() -> None:
    for before in DeviceState:
        for after in DeviceState:
            if after in TRANSITIONS[before]:
                verify_change(before, after)
                continue
            with pytest.raises(GateError) as refused:
                verify_change(before, after)
            denied = before is DeviceState.DENIED
            assert refused.value.code is (ErrorCode.ACCESS_DENIED if denied else ErrorCode.GRANT_INVALID)


def test_what_was_denied_or_redeemed_stays_so() -> None:
    assert TRANSITIONS[DeviceState.DENIED] == TRANSITIONS[DeviceState.REDEEMED] == frozenset()
