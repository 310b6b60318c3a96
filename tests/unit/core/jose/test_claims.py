"""Claims by pointer and by type: what is of another type is refused, never coerced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.claims import MAX_LIST, MAX_STRING, flags_at, resolve_pointer, string_at, strings_at, time_at

# RFC 6901 section 5, without its array.
DOCUMENT = {"": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\j": 5, 'k"l': 6, " ": 7, "m~n": 8}


def invalid(read: Callable[[], Any]) -> bool:
    with pytest.raises(GateError) as refusal:
        read()
    return refusal.value.code is ErrorCode.CLAIM_INVALID


@pytest.mark.parametrize(
    ("pointer", "value"),
    [("/", 0), ("/a~1b", 1), ("/c%d", 2), ("/e^f", 3), ("/g|h", 4), ("/i\\j", 5), ('/k"l', 6), ("/ ", 7), ("/m~0n", 8)],
)
def test_the_examples_of_rfc_6901_resolve(pointer: str, value: int) -> None:
    assert resolve_pointer(DOCUMENT, pointer) == value


def test_a_pointer_goes_through_objects_only() -> None:
    claims = {"realm_access": {"roles": ["reader"]}, "text": "abc"}
    assert resolve_pointer(claims, "/realm_access/roles") == ["reader"]
    assert resolve_pointer(claims, "/realm_access/roles/0") is None
    assert resolve_pointer(claims, "/text/0") is None
    assert resolve_pointer(claims, "/nothing/at/all") is None
    assert resolve_pointer({"~1": 1, "/": 2}, "/~01") == 1


@pytest.mark.parametrize("value", ["", 5, True, [], {}, ["a"], "a\nb", "a\0", "a\u202eb", "x" * (MAX_STRING + 1)])
def test_a_string_claim_is_a_short_printable_string(value: object) -> None:
    assert invalid(lambda: string_at({"a": value}, "/a"))


def test_a_string_claim_that_is_absent_or_not_pointed_at_is_none() -> None:
    assert string_at({"a": "x" * MAX_STRING}, "/a") == "x" * MAX_STRING
    assert string_at({}, "/a") is None
    assert string_at({"a": None}, "/a") is None
    assert string_at({"a": "x"}, None) is None


def test_a_list_is_taken_as_it_is_and_text_only_where_spaces_part_names() -> None:
    assert strings_at({"a": ["x", "y z"]}, "/a", spaced=False) == ("x", "y z")
    assert strings_at({"a": "x y"}, "/a", spaced=True) == ("x", "y")
    assert strings_at({"a": ["x"]}, "/a", spaced=True) == ("x",)
    assert strings_at({}, "/a", spaced=True) == ()
    assert strings_at({"a": ["x"]}, None, spaced=True) == ()
    assert invalid(lambda: strings_at({"a": "x y"}, "/a", spaced=False))


@pytest.mark.parametrize("value", [5, True, {}, {"x": 1}, [5], ["x", None], [["x"]], ["x" * (MAX_STRING + 1)]])
@pytest.mark.parametrize("spaced", [True, False])
def test_a_list_claim_holds_short_strings_only(value: object, spaced: bool) -> None:
    assert invalid(lambda: strings_at({"a": value}, "/a", spaced=spaced))


def test_a_list_has_a_sensible_length() -> None:
    assert len(strings_at({"a": ["x"] * MAX_LIST}, "/a", spaced=False)) == MAX_LIST
    assert invalid(lambda: strings_at({"a": ["x"] * (MAX_LIST + 1)}, "/a", spaced=False))
    assert invalid(lambda: strings_at({"a": "x " * MAX_LIST}, "/a", spaced=True))


@pytest.mark.parametrize(("value", "seconds"), [(0, 0), (1.9, 1), (2**53 - 1, 2**53 - 1), (1e9, 10**9)])
def test_a_time_is_whole_seconds_rounded_down(value: float, seconds: int) -> None:
    assert time_at({"exp": value}, "exp") == seconds


@pytest.mark.parametrize("value", [-1, 2**53, True, False, "1800000000", [], {}, float("inf"), float("nan")])
def test_what_is_no_time_is_refused(value: object) -> None:
    assert invalid(lambda: time_at({"exp": value}, "exp"))


def test_an_absent_time_is_none() -> None:
    assert time_at({}, "exp") is None
    assert time_at({"exp": None}, "exp") is None


@pytest.mark.parametrize(
    ("claim", "flags"),
    [
        (None, set()),
        ("managed", {"managed"}),
        (["managed", "encrypted"], {"managed", "encrypted"}),
        ({"managed": True, "encrypted": False, "os": "macos", "seen": None}, {"managed", "os=macos"}),
        ([], set()),
        ({}, set()),
    ],
)
def test_flags_are_a_string_a_list_or_an_object(claim: object, flags: set[str]) -> None:
    assert flags_at({"device": claim}, "/device") == flags
    assert flags_at({"device": claim}, None) == set()


@pytest.mark.parametrize(
    "claim",
    [5, True, [1], [["managed"]], {"managed": 1}, {"os": ["macos"]}, {"a": {"b": True}}, [str(n) for n in range(101)]],
    ids=str,
)
def test_flags_of_another_form_are_refused(claim: object) -> None:
    with pytest.raises(GateError) as refused:
        flags_at({"device": claim}, "/device")
    assert refused.value.code is ErrorCode.CLAIM_INVALID
