"""What a new password may be."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twogate.core.password import MAX_PASSWORD, MIN_PASSWORD, judge_password, normalize_password


@pytest.mark.parametrize(
    "password",
    [
        "correct horse battery",
        "kahvia ja pullaa aamulla",
        "пароль из многих слов",
        "ひらがなとカタカナでつくる",
        "🐎🔋📎🐢🍕🎈🎲🧩🪁🛶🏔🌋",
        "xK9#mQ2$vL7!",
        "my password is a long sentence",
        "a" * 50 + "bcdefgh ijkl" * 3,
    ],
)
def test_long_passwords_of_any_characters_are_good(password: str) -> None:
    assert judge_password(password, "alice") is None


@pytest.mark.parametrize(
    ("password", "why"),
    [
        ("", "at least 12"),
        ("elevenchars", "at least 12"),
        ("x" * 5000, "at most 128"),
        ("correct horse battery" * 7, "at most 128"),
        ("\ufdfa" * 20, "at most 128"),  # one character that normalizes to eighteen
        ("aaaaaaaaaaaaaaaa", "same few"),
        ("abababababababab", "same few"),
        ("abcdefabcdefabcdef", "same few"),
        ("passwordpassword", "tried first"),
        ("Password12345", "tried first"),
        ("P@ssw0rd2026!", "tried first"),
        ("qwertyuiop123", "tried first"),
        ("Welcome-2026-!", "tried first"),
        ("123456789012345", "tried first"),
        ("987654321098", "tried first"),
        ("alice in wonderland", "holds your name"),
        ("I am ALICE the great", "holds your name"),
        ("bell\x07bell and more of it", "control character"),
        ("half \ud800 a surrogate pair", "control character"),
    ],
)
def test_what_is_short_endless_or_tried_first_is_not(password: str, why: str) -> None:
    judged = judge_password(password, "alice", "al")
    assert judged is not None
    assert why in judged


def test_a_short_name_may_stand_in_a_password() -> None:
    assert judge_password("algebra is a language", "al", "") is None


def test_one_password_has_one_spelling_however_it_is_encoded() -> None:
    composed, decomposed = "caf\u00e9 au lait tous les jours", "cafe\u0301 au lait tous les jours"
    assert normalize_password(composed) == normalize_password(decomposed)
    assert normalize_password("ｆｕｌｌ") == "full"


@given(st.text(max_size=300))
def test_what_is_found_good_is_of_the_length_promised(password: str) -> None:
    judged = judge_password(password, "alice")
    assert judged is None or judged.endswith(".")
    if judged is None:
        assert MIN_PASSWORD <= len(unicodedata.normalize("NFKC", password)) <= MAX_PASSWORD
