"""Text of strangers as people are shown it: nothing invisible, nothing that turns the line around, not too long."""

from __future__ import annotations

import unicodedata
from typing import Final

MAX_SHOWN: Final = 80
"""Characters of a name that are shown."""

# Control, format (the bidirectional ones too), surrogate, private use, unassigned, line and paragraph separator.
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


# Letters, marks and a symbol that are drawn as nothing all the same: the combining grapheme joiner, Hangul fillers,
# Khmer inherent vowels, the blank Braille pattern, variation selectors (Unicode, Default_Ignorable_Code_Point).
_DRAWN_AS_NOTHING: Final = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0"
    + "".join(map(chr, [*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)]))
)

_MARKS: Final = frozenset({"Mn", "Me"})
_MOST_MARKS: Final = 3
"""Marks upon one letter, as no language has more; a pile of them covers the lines around it."""


def is_seen(char: str) -> bool:
    """Whether anything is drawn for a character, be it a blank, and nothing else is moved by it."""
    return unicodedata.category(char) not in _INVISIBLE and char not in _DRAWN_AS_NOTHING


def shown(text: str, cap: int = MAX_SHOWN) -> str:
    """The text with what cannot be seen written out, cut at `cap` characters.

    A name that could hide, cover or reorder what stands beside it could make a page say what it does not.
    """
    written: list[str] = []
    marks = 0
    for char in text[:cap]:
        category = unicodedata.category(char)
        marks = marks + 1 if category in _MARKS else 0
        if not is_seen(char) or marks > _MOST_MARKS:
            written.append(f"[U+{ord(char):04X}]")
        else:
            # Spaces of other widths look like nothing, or like a new column.
            written.append(" " if category == "Zs" else char)
    return "".join(written) + ("…" if len(text) > cap else "")
