"""What was approved of a tool beside what its server shows of it now, as text for a page.

All of it is a server's words. What cannot be seen, or would move what stands around it, is a JSON escape; where two
texts differ is marked by what they begin and end with in common, which takes no longer than reading them.
"""

from __future__ import annotations

import json
from itertools import islice
from typing import Final

import msgspec

from twogate.core import strict_json
from twogate.core.message import MAX_ANSWER, MAX_DEPTH
from twogate.core.pins import MISSING, differences
from twogate.core.shown import shown
from twogate.flows.approvals.view import escaped

MOST: Final = 50
"""Places that are shown; more are counted."""
CONTEXT: Final = 300
"""Characters that are shown of what is the same before and after a change."""
MAX_TEXT: Final = 20_000
"""Characters that are shown of what is not the same."""
MAX_PATH: Final = 300


class Side(msgspec.Struct, frozen=True):
    """One text: what it begins with as the other does, what only it has, and what it ends with as the other does.

    `left_out` are characters of the middle that are not shown.
    """

    start: str
    own: str
    end: str
    left_out: int = 0


class Place(msgspec.Struct, frozen=True):
    """One place at which they differ: the members that lead there ('' is the whole); None where one has nothing."""

    path: str
    before: Side | None
    after: Side | None


class Compared(msgspec.Struct, frozen=True):
    """The places, and how many more there are."""

    places: tuple[Place, ...]
    more: int


def compare(approved: bytes, now: object) -> Compared:
    """Compare a pinned definition with what is shown now; `core.pins.MISSING` if it is not shown any more.

    Raises:
        GateError: as `strict_json.decode`, if what was stored cannot be read.
    """
    found = differences(strict_json.decode(approved, max_bytes=MAX_ANSWER, max_depth=MAX_DEPTH), now)
    places = tuple(
        _place(shown(".".join(item.path), MAX_PATH), item.before, item.after) for item in islice(found, MOST)
    )
    return Compared(places, sum(1 for _ in found))


def _place(path: str, before: object, after: object) -> Place:
    mine = None if before is MISSING else _text(before)
    its = None if after is MISSING else _text(after)
    if mine is None or its is None:
        return Place(path, None if mine is None else _side(mine, 0, 0), None if its is None else _side(its, 0, 0))
    start = _in_common(mine, its)
    end = min(_in_common(mine[::-1], its[::-1]), min(len(mine), len(its)) - start)
    return Place(path, _side(mine, start, end), _side(its, start, end))


def _in_common(one: str, other: str) -> int:
    """How many characters both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (mine, its) in pairs if mine != its), min(len(one), len(other)))


def _text(value: object) -> str:
    return escaped(json.dumps(value, indent=2, ensure_ascii=False))


def _side(text: str, start: int, end: int) -> Side:
    stop = len(text) - end
    head, own, tail = text[:start], text[start:stop], text[stop:]
    return Side(
        head if len(head) <= CONTEXT else f"…{head[-CONTEXT:]}",
        own[:MAX_TEXT],
        tail if len(tail) <= CONTEXT else f"{tail[:CONTEXT]}…",
        max(0, len(own) - MAX_TEXT),
    )
