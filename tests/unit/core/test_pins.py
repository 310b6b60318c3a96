"""Definitions, their digests, and what differs between two."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from twogate.core import strict_json
from twogate.core.pins import (
    MAX_NAMED,
    MISSING,
    Difference,
    changed_members,
    definition_of,
    differences,
    named,
    pin_digest,
    shape_of,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner),
    max_leaves=12,
)  # fmt: skip


def test_the_digest_is_sha256_over_the_form_and_sorted_json() -> None:
    definition = definition_of({"b": [1, {"d": None, "c": "\u00e9"}], "a": 1.0})
    assert definition == '{"a":1.0,"b":[1,{"c":"\u00e9","d":null}]}'.encode()
    assert pin_digest(definition) == hashlib.sha256(b"twogate-pin-v1\n" + definition).digest()


@given(JSON)
def test_a_definition_reads_back_as_what_was_shown(value: Any) -> None:
    definition = definition_of(value)
    assert strict_json.decode(definition, max_bytes=1_000_000, max_depth=64) == value
    assert definition_of(json.loads(definition)) == definition


@given(JSON, JSON)
def test_two_definitions_are_equal_exactly_when_nothing_differs(one: Any, other: Any) -> None:
    same = definition_of(one) == definition_of(other)
    assert same == (list(differences(one, other)) == [])
    assert same == (changed_members(shape_of(one), shape_of(other)) == ())


def test_differences_name_the_members_that_lead_there() -> None:
    before = {"a": {"b": 1, "c": [1, 2]}, "d": None, "e": {}}
    after = {"a": {"b": 1.0, "c": [1, 2]}, "e": {"f": 1}, "g": None}
    assert list(differences(before, after)) == [
        Difference(("a", "b"), 1, 1.0),
        Difference(("d",), None, MISSING),
        Difference(("e", "f"), MISSING, 1),
        Difference(("g",), MISSING, None),
    ]
    assert list(differences("x", {"a": 1})) == [Difference((), "x", {"a": 1})]


def test_changed_members_are_those_that_differ_were_added_or_are_gone() -> None:
    before, after = {"same": 1, "other": 1, "gone": 1}, {"other": 2, "same": 1, "added": 1}
    assert changed_members(shape_of(before), shape_of(after)) == ("added", "gone", "other")
    assert changed_members(shape_of("a text"), shape_of("another")) == ("",)


def test_names_for_the_trail_are_few_short_and_visible() -> None:
    assert named(("description", "title")) == "description, title"
    assert named(("",)) == "the text"
    assert named(tuple("abcdefghijk")).endswith(f"and {11 - MAX_NAMED} more")
    assert named(("\u202e\x1b" + "x" * 100,)) == "[U+202E][U+001B]" + "x" * 38 + "\u2026"
