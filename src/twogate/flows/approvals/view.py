"""A parked call as people read it: every member in full, nothing hidden (DESIGN decision 8)."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Final

import msgspec

from twogate.core.shown import is_seen

_MARKS: Final = frozenset({"Mn", "Me"})
_MOST_MARKS: Final = 3
"""Marks upon one letter; a pile of them covers the lines around it."""


class Member(msgspec.Struct, frozen=True):
    """A member of a call's parameters: its name, and its value as JSON. `odd`: they hold more than plain ASCII."""

    name: str
    text: str
    odd: bool


def readable(params: bytes) -> tuple[Member, ...]:
    """The members of canonical parameters, in their order, as indented JSON in which nothing is invisible.

    What is not drawn, or would turn or cover what stands beside it, is a JSON escape. So it is still the same JSON, and
    two calls that differ look different.
    """
    members: dict[str, object] = json.loads(params)
    written = ((escaped(json.dumps(name, ensure_ascii=False))[1:-1], _indented(item)) for name, item in members.items())
    return tuple(Member(name, escaped(text), not (name + text).isascii()) for name, text in written)


def escaped(text: str) -> str:
    """JSON text with every character that is not plainly drawn as a JSON escape; line feeds between members stay."""
    if text.isascii() and "\x7f" not in text:
        # JSON has escapes for all other control characters.
        return text
    # Each character is judged once and not each time it occurs: an agent chooses how long the text is, and the process
    # that shows it serves calls too.
    chars = set(text)
    marks = {char: _escape(char) for char in chars if unicodedata.category(char) in _MARKS}
    if marks:
        one = f"[{re.escape(''.join(marks))}]"
        piles = re.compile(f"({one}{{{_MOST_MARKS}}})({one}+)")
        text = piles.sub(lambda found: found[1] + "".join(map(marks.__getitem__, found[2])), text)
    return text.translate({ord(char): _escape(char) for char in chars if not _is_plain(char)})


def _is_plain(char: str) -> bool:
    return char == "\n" or (is_seen(char) and (char == " " or not char.isspace()))


def _escape(char: str) -> str:
    return json.dumps(char)[1:-1]


def _indented(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
