"""What `uniqueItems` costs where the validator's digests do not tell items apart.

It puts items into buckets by a digest and compares each with all others of its bucket. That digest knows neither the
brackets within an item (`[[1], 2]` and `[1, [2]]` are one) nor the last digits of a large integer, so that whoever
sends a few thousand such items would have it compare millions of pairs. Short arrays are compared pair by pair anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, cast

_SHORT: Final = 16
"""Items up to which no digests are made."""
_PLAIN: Final = 2
_NUMBER: Final = 200
"""Units of comparing two numbers of which one is a fraction or large: that is exact, and slow."""
_EXACT: Final = 2**53


def units_to_tell_apart(items: list[object]) -> int:
    """Units of comparing an array's items in pairs, at most: of all if they are few, else of those alike by digest."""
    buckets: dict[str, tuple[int, int]] = {}
    for item in items:
        # A text, because its hash is seeded: no sender can make these collide as well.
        digest = "" if len(items) <= _SHORT else "".join(_tokens(item))
        count, weight = buckets.get(digest, (0, 0))
        buckets[digest] = (count + 1, weight + _weight(item))
    return sum(count * weight // 2 for count, weight in buckets.values() if count > 1)


def _tokens(value: object) -> Iterator[str]:
    """What the digest of a value knows of it."""
    if isinstance(value, list):
        for item in cast("list[object]", value):
            yield from _tokens(item)
    elif isinstance(value, dict):
        members = cast("dict[str, object]", value)
        yield "{"
        for name in sorted(members):
            yield f"{len(name)}:{name}"
            yield from _tokens(members[name])
        yield "}"
    elif isinstance(value, str):
        yield f"{len(value)}:{value}"
    elif isinstance(value, bool) or value is None:
        yield f"{value}"
    else:
        yield f"#{float(cast('int | float', value))!r}"


def _weight(value: object) -> int:
    """Units of comparing a value with one that is like it."""
    if isinstance(value, dict | list):
        members = cast("dict[str, object]", value).values() if isinstance(value, dict) else cast("list[object]", value)
        return _PLAIN + sum(map(_weight, members))
    if isinstance(value, str):
        return _PLAIN + len(value) // _SHORT
    return _NUMBER if isinstance(value, float) or (isinstance(value, int) and abs(value) > _EXACT) else _PLAIN
