"""What was approved beside what is shown now: nothing invisible, the change marked, and never more than a page."""

from __future__ import annotations

import json

from twogate.core.pins import MISSING, definition_of
from twogate.flows.console.differences import CONTEXT, MAX_TEXT, MOST, Place, Side, compare


def places(approved: object, now: object) -> tuple[Place, ...]:
    return compare(definition_of(approved), now).places


def test_what_is_the_same_has_no_place() -> None:
    tool = {"name": "echo", "inputSchema": {"type": "object"}}
    assert compare(definition_of(tool), dict(reversed(tool.items()))).places == ()


def test_only_what_differs_within_a_text_is_marked() -> None:
    (place,) = places({"description": "reads a file"}, {"description": "reads any file"})
    assert place == Place("description", Side('"reads a', "", ' file"'), Side('"reads a', "ny", ' file"'))


def test_texts_that_begin_and_end_alike_are_not_counted_twice() -> None:
    (place,) = places({"a": "xx"}, {"a": "xxx"})
    assert place.before is not None
    assert place.after is not None
    assert place.before.start + place.before.own + place.before.end == '"xx"'
    assert place.after.start + place.after.own + place.after.end == '"xxx"'


def test_what_is_new_or_gone_stands_alone_and_a_nested_member_says_where_it_is() -> None:
    before = {"inputSchema": {"properties": {"old": {"type": "string"}}}}
    new, old = places(before, {"inputSchema": {"properties": {"new": 1}}})
    assert (new.path, new.before, new.after) == ("inputSchema.properties.new", None, Side("", "1", ""))
    assert (old.path, old.after) == ("inputSchema.properties.old", None)
    assert old.before is not None
    assert json.loads(old.before.own) == {"type": "string"}


def test_a_tool_that_is_not_listed_any_more_is_one_place_with_the_whole_of_it() -> None:
    (place,) = places({"name": "echo"}, MISSING)
    assert (place.path, place.after) == ("", None)
    assert place.before is not None
    assert json.loads(place.before.own) == {"name": "echo"}


def test_nothing_that_turns_hides_or_covers_gets_through_in_values_or_names() -> None:
    evil = "\u202ede\u200b\u0000\x7f" + "e" + "\u0301" * 9
    (place,) = places({}, {evil: evil})
    assert place.after is not None
    for text in (place.path, place.after.own):
        assert not {"\u202e", "\u200b", "\x00", "\x7f", "\u0301" * 4} & {
            text[at : at + n] for at in range(len(text)) for n in (1, 4)
        }
    assert json.loads(place.after.own) == evil


def test_long_texts_are_cut_around_the_change_and_the_change_is_always_shown() -> None:
    same = "s" * 5000
    (place,) = places({"a": same + "old" + same}, {"a": same + "N" * (MAX_TEXT + 7) + same})
    assert place.before is not None
    assert place.after is not None
    assert (place.before.own, place.before.left_out, place.after.left_out) == ("old", 0, 7)
    assert len(place.after.own) == MAX_TEXT
    for side in (place.before, place.after):
        assert (side.start, side.end) == ("…" + "s" * CONTEXT, "s" * CONTEXT + "…")


def test_many_places_are_counted_and_not_shown() -> None:
    found = compare(b"{}", {f"m{number}": number for number in range(MOST + 3)})
    assert (len(found.places), found.more) == (MOST, 3)
