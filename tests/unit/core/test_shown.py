"""Names of strangers cannot hide, reorder or flood what stands beside them."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twogate.core.shown import MAX_SHOWN, shown


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("Acme Code", "Acme Code"),
        ("Café 東京", "Café 東京"),
        ("a\u202egnp.exe", "a[U+202E]gnp.exe"),
        ("a\u2066b\u2069", "a[U+2066]b[U+2069]"),
        ("two\nlines\x00", "two[U+000A]lines[U+0000]"),
        ("zero\u200bwidth", "zero[U+200B]width"),
        ("wide\u3000space\u00a0", "wide space "),
        ("tag\U000e0041", "tag[U+E0041]"),
        ("\u3164", "[U+3164]"),
        ("a\u034fb\u2800", "a[U+034F]b[U+2800]"),
        ("v\ufe0fw\U000e0101", "v[U+FE0F]w[U+E0101]"),
        ("ให้ ที่ ẫ", "ให้ ที่ ẫ"),
        ("z" + "\u0336" * 5, "z\u0336\u0336\u0336[U+0336][U+0336]"),
    ],
)
def test_what_cannot_be_seen_is_written_out(text: str, seen: str) -> None:
    assert shown(text) == seen


def test_a_long_name_is_cut() -> None:
    assert shown("n" * MAX_SHOWN) == "n" * MAX_SHOWN
    assert shown("n" * (MAX_SHOWN + 1)) == "n" * MAX_SHOWN + "…"


@given(st.text())
def test_nothing_invisible_is_left(text: str) -> None:
    assert all(unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"} for char in shown(text))
