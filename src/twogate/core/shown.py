"""Text of strangers as people are shown it: nothing invisible, nothing that turns the line around, not too long."""

from __future__ import annotations

import unicodedata
from typing import Final

MAX_SHOWN: Final = 80
"""Characters of a name that are shown."""

# Control, format (the bidirectional ones too), surrogate, private use, unassigned, line and paragraph separator.
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def shown(text: str, cap: int = MAX_SHOWN) -> str:
    """The text with what cannot be seen written out, cut at `cap` characters.

    A name that could hide or reorder what stands beside it could make a page say what it does not.
    """
    seen = "".join(_written(char) for char in text[:cap])
    return f"{seen}…" if len(text) > cap else seen


def _written(char: str) -> str:
    category = unicodedata.category(char)
    if category in _INVISIBLE:
        return f"[U+{ord(char):04X}]"
    # Spaces of other widths look like nothing, or like a new column.
    return " " if category == "Zs" else char
