"""What approvers read is what runs, and nothing of it is hidden."""

from __future__ import annotations

import json
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from twogate.core.shown import is_seen
from twogate.flows.approvals.view import escaped, readable

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab\u202e\u00a0"), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text("ab\u202e"), JSON, max_size=4))
def test_it_is_the_same_json_and_every_character_of_it_is_drawn(params: dict[str, Any]) -> None:
    members = readable(rfc8785.dumps(params))
    assert {json.loads(f'"{member.name}"'): json.loads(member.text) for member in members} == params
    for member in members:
        assert all(is_seen(char) or char == "\n" for char in member.name + member.text)
        assert "\u00a0" not in member.text


@pytest.mark.parametrize(
    ("hidden", "written"),
    [
        ("\u202e", "\\u202e"),
        ("\u2066", "\\u2066"),
        ("\u200b", "\\u200b"),
        ("\u00ad", "\\u00ad"),
        ("\ufeff", "\\ufeff"),
        ("\u00a0", "\\u00a0"),
        ("\u3000", "\\u3000"),
        ("\u2028", "\\u2028"),
        ("\U000e0041", "\\udb40\\udc41"),
        ("\u3164", "\\u3164"),
    ],
)
def test_what_hides_is_written_out(hidden: str, written: str) -> None:
    assert escaped(f'"a{hidden}b"') == f'"a{written}b"'


def test_a_member_that_only_looks_like_another_is_marked() -> None:
    twin, real = readable(rfc8785.dumps({"\u0430rguments": 1, "arguments": 2}))[::-1]
    assert {twin.name: twin.odd, real.name: real.odd} == {"\u0430rguments": True, "arguments": False}


def test_plain_text_is_left_as_it_is_but_what_plain_text_can_hide_is_not() -> None:
    assert readable(rfc8785.dumps({"a": "x\x7f\ny"}))[0].text == '"x\\u007f\\ny"'


def test_what_looks_like_an_escape_is_told_from_one() -> None:
    (member,) = readable(rfc8785.dumps({"arguments": "\\u202e"}))
    (other,) = readable(rfc8785.dumps({"arguments": "\u202e"}))
    assert (member.text, member.odd) == ('"\\\\u202e"', False)
    assert (other.text, other.odd) == ('"\\u202e"', True)


def test_a_pile_of_marks_covers_nothing() -> None:
    text = escaped("a" + "\u0300" * 10)
    assert text.count("\u0300") == 3
    assert text.endswith("\\u0300" * 7)


def test_letters_of_every_language_are_shown_as_they_are() -> None:
    assert escaped('"Zürich 東京 Ωμέγα क्षि"') == '"Zürich 東京 Ωμέγα क्षि"'
