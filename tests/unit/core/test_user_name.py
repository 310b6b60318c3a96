"""Names that people log in with."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twogate.core.user_name import MAX_NAME, name_of_stranger, parse_user_name


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("alice", "alice"),
        (" Alice ", "alice"),
        ("ALICE@Example.COM", "alice@example.com"),
        ("ａｌｉｃｅ", "alice"),
        ("Straße", "strasse"),
        ("o'neil-smith+work", "o'neil-smith+work"),
        ("ñandú", "ñandú"),
        ("n\u0303andu\u0301", "ñandú"),
        ("a" * MAX_NAME, "a" * MAX_NAME),
    ],
)
def test_a_name_has_one_spelling(typed: str, name: str) -> None:
    assert parse_user_name(typed) == name


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "  ",
        "two words",
        "a/b",
        "-x",
        "--json",
        "a\x00b",
        "a\u200bb",
        "a\u202eb",
        "alice\u3164",
        "alice\u115f",
        "al\u034fice",
        "alice\u2800",
        "alice\ufe0f",
        "alice\U000e0101",
        "a\nb",
        "a\u00a0b",
        "a" * 129,
        "a" * 9999,
    ],
)
def test_what_is_no_name(typed: str) -> None:
    assert parse_user_name(typed) is None


@given(st.text(max_size=700))
def test_a_name_is_its_own_spelling(typed: str) -> None:
    name = parse_user_name(typed)
    if name is not None:
        assert parse_user_name(name) == name
        assert len(name) <= MAX_NAME


@given(st.text(max_size=700))
def test_whatever_a_provider_calls_somebody_a_name_is_made_of_it(said: str) -> None:
    made = name_of_stranger(said, "subject")
    assert parse_user_name(made) == made


def test_nothing_is_left_of_an_invisible_name() -> None:
    assert name_of_stranger("\u202e\u200b / ", "u-1") == "u-1"
    assert name_of_stranger("Ida / Example", "u-1") == "ida-example"
