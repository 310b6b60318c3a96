"""Pins: what an operator approved of what a server shows of itself (row R-43).

A tool's description and schema are text that a model acts on, and the server may change it whenever it likes. So the
whole of what it shows is pinned by its digest: a tool's object with every member, a prompt's, and the server's
`instructions`.

The definition is JSON with sorted members and without blanks. It is exact: `1` and `1.0`, or two spellings of one
letter, are two definitions, though the order of members and the escapes in a text mean nothing (docs/adr/0023).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final, NamedTuple, cast

import msgspec

from twogate.core.shown import shown

PIN_FORM: Final = b"twogate-pin-v1\n"
"""Stands before a definition in what is hashed, so that a pin is no other digest."""

MAX_NAMED: Final = 8
"""Members that are named when something changed."""
MAX_MEMBER: Final = 40
"""Characters of such a name; unknown members are the server's own words."""

_MEMBER_BYTES: Final = 8
_TEXT: Final = ("",)
_canonical: Final = msgspec.json.Encoder(order="sorted")


class _Missing:
    """Stands for a value that is not there."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()


def definition_of(value: object) -> bytes:
    """What is pinned of a value that the strict parser read."""
    return _canonical.encode(value)


def pin_digest(definition: bytes) -> bytes:
    """SHA-256 over `twogate-pin-v1`, a line feed, and the definition."""
    return hashlib.sha256(PIN_FORM + definition).digest()


class Shape(NamedTuple):
    """Enough to tell which members of two definitions differ: their names, and eight bytes of digest for each."""

    names: tuple[str, ...]
    digests: bytes


def shape_of(value: object) -> Shape:
    """The shape of an object; anything else has one member without a name."""
    if not isinstance(value, dict):
        return Shape(_TEXT, hashlib.sha256(PIN_FORM + _canonical.encode(value)).digest()[:_MEMBER_BYTES])
    members = cast("dict[str, object]", value)
    names = sorted(members)
    digests = (hashlib.sha256(_canonical.encode(members[name])).digest()[:_MEMBER_BYTES] for name in names)
    return Shape(_shared(tuple(names)), b"".join(digests))


@lru_cache(maxsize=256)
def _shared(names: tuple[str, ...]) -> tuple[str, ...]:
    # Most tools have the same members, and a server may have thousands of tools.
    return names


def changed_members(before: Shape, after: Shape) -> tuple[str, ...]:
    """The names of the members that differ, were added or are gone."""
    mine, its = _by_name(before), _by_name(after)
    return tuple(sorted(name for name in mine.keys() | its.keys() if mine.get(name) != its.get(name)))


def _by_name(shape: Shape) -> dict[str, bytes]:
    size = _MEMBER_BYTES
    return {name: shape.digests[at * size : (at + 1) * size] for at, name in enumerate(shape.names)}


def named(members: tuple[str, ...]) -> str:
    """The names of members for the audit trail: made visible, cut, and not too many of them."""
    told = ", ".join(shown(name, MAX_MEMBER) or "the text" for name in members[:MAX_NAMED])
    return told + (f" and {len(members) - MAX_NAMED} more" if len(members) > MAX_NAMED else "")


class Difference(NamedTuple):
    """One place at which two definitions differ: the members that lead there; MISSING where one has nothing."""

    path: tuple[str, ...]
    before: object
    after: object


def differences(before: object, after: object, path: tuple[str, ...] = ()) -> Iterator[Difference]:
    """Where two definitions differ, member by member in objects; a list that differs is one difference."""
    mine, its = _object(before), _object(after)
    if mine is not None and its is not None:
        for name in sorted(mine.keys() | its.keys()):
            yield from differences(mine.get(name, MISSING), its.get(name, MISSING), (*path, name))
    elif before is MISSING or after is MISSING or definition_of(before) != definition_of(after):
        yield Difference(path, before, after)


def _object(value: object) -> dict[str, Any] | None:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None
