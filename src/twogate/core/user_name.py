"""Names that people log in with: one spelling for every way to type one."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from twogate.core.shown import is_seen

MAX_NAME: Final = 128
"""Characters of a name."""

_PARTED: Final = re.compile(r"[\s/]+")


def parse_user_name(text: str) -> str | None:
    """The name in its one spelling (NFKC, lower case, no blanks around); None if nobody can be called so.

    A name holds no blanks, no slash (`tenant/name` would be ambiguous) and nothing invisible, and does not begin with
    a dash, which commands would take for an option.
    """
    if len(text) > 4 * MAX_NAME:
        return None
    name = unicodedata.normalize("NFKC", text.strip()).casefold()
    # Folding can leave what composes again.
    name = unicodedata.normalize("NFKC", name)
    if not 1 <= len(name) <= MAX_NAME or name.startswith("-") or _PARTED.search(name):
        return None
    return name if all(map(is_seen, name)) else None


def name_of_stranger(text: str, otherwise: str) -> str:
    """A name made of what somebody else calls a person; `otherwise` if nothing is left of it."""
    kept = "".join(char if is_seen(char) else " " for char in text[: 4 * MAX_NAME])
    name = _PARTED.sub("-", kept.strip()).strip("-")[:MAX_NAME]
    return parse_user_name(name) or otherwise
