"""JSON's tokens as patterns over bytes (RFC 8259 sections 2 to 7), and runs of values that are matched at once.

None of the patterns backtracks far, since at each place the next byte decides what can follow. There is no `*+` on
groups: before Python 3.11.5 it could match more than it should (gh-106052).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, cast

_HEX: Final = rb"[0-9a-fA-F]"
_ESCAPE: Final = (
    rb'\\(?:["\\/bfnrt]|u(?:[0-9abcefABCEF]' + _HEX + rb"{3}|[dD](?:[0-7]" + _HEX + rb"{2}|[89abAB]" + _HEX
    # The first half of a surrogate pair must be followed by the second.
    + rb"{2}\\u[dD][c-fC-F]" + _HEX + rb"{2})))"
)  # fmt: skip
LONGEST_ESCAPE: Final = 12
_PLAIN: Final = rb'[^"\\\x00-\x1f]*+'
_CONTENT: Final = _PLAIN + rb"(?:" + _ESCAPE + _PLAIN + rb")*"
_STRING: Final = rb'"' + _CONTENT + rb'"'
_SPACE: Final = rb"[ \t\n\r]*+"
# Numbers that need no closer look, because they are below 1e300.
_NUMBER: Final = (
    rb"-?(?:0|[1-9][0-9]{0,39})(?:\.[0-9]{1,64})?(?:[eE](?:[+-]?[0-9]{1,2}|-[0-9]{3}|\+?(?:1[0-9]|2[0-5])[0-9]))?"
)
_SCALAR: Final = rb"(?:" + _STRING + rb"|" + _NUMBER + rb"|true|false|null)"


def _member(value: bytes) -> bytes:
    return _STRING + _SPACE + rb":" + _SPACE + value


def _flat(value: bytes) -> bytes:
    """A scalar, or a short array or object of `value`s."""
    elements = rb"(?:" + value + _SPACE + rb"(?:," + _SPACE + rb"(?!\])|(?=\]))){0,64}"
    members = rb"(?:" + _member(value) + _SPACE + rb"(?:," + _SPACE + rb"(?!\})|(?=\}))){0,64}"
    return rb"(?:" + _SCALAR + rb"|\[" + _SPACE + elements + rb"\]|\{" + _SPACE + members + rb"\})"


def _run(item: bytes, end: bytes) -> re.Pattern[bytes]:
    return re.compile(rb"(?:" + _SPACE + item + _SPACE + rb"(?:,|(?=" + end + rb"))){1,200}")


# Values of few levels in a row, up to a comma or the end of their array or object. Taking them at once is up to twenty
# times faster than token by token. Runs are bounded, so that what is remembered meanwhile, or done in vain, is too.
RUN_LEVELS: Final = 2
_VALUE: Final = _flat(_flat(_SCALAR))
match_elements: Final = _run(_VALUE, rb"\]").match
match_members: Final = _run(_member(_VALUE), rb"\}").match

_Match = Callable[[bytes, int], re.Match[bytes]]
# These match everywhere, if only the empty string.
match_space: Final = cast("_Match", re.compile(_SPACE).match)
match_content: Final = cast("_Match", re.compile(_CONTENT).match)
match_word: Final = cast("_Match", re.compile(rb"[-+.0-9a-zA-Z]*+").match)
is_number: Final = re.compile(rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?").fullmatch
LITERALS: Final = frozenset({b"true", b"false", b"null"})
