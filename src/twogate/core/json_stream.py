"""One large response of a server, checked and passed on piece by piece, in memory that does not grow with it.

`message.parse_answer` reads a whole message, and it is written anew; what is too large for that goes through here. JSON
parsers must not differ about what passes, so this is a strict reader of RFC 8259: UTF-8 without byte order mark, one
value, finite numbers, no lone surrogates, bounded nesting. The envelope is written by us, and only the bytes of the
`result` pass.

Invariants:
1. What was given is a complete response only with what `finish` gives, and that comes when all was checked.
2. What is held is a token that has not ended, of at most `MAX_HELD` bytes. Strings pass as they arrive.
3. After a refusal nothing is given any more.

Members below the result's own may be repeated, as for `parse_answer`: nothing is decided by them.
"""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Callable
from typing import Final, NoReturn, cast

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import MAX_DEPTH, MAX_ID, MAX_MEMBERS, reads_as

STEP: Final = 8 * 1024
"""Bytes to feed at most before other work of the same thread gets its turn: the slowest take some 10 milliseconds."""
MAX_NUMBER: Final = 1024
"""Bytes that a number may have."""
MAX_HELD: Final = 12 * max(MAX_ID, MAX_MEMBERS) + 2
"""Bytes that a name or value which is read whole may have: its longest spelling in escapes, and the quotes."""

# None of these patterns backtracks far, since at each place the next byte decides what can follow. No `*+` on groups:
# before Python 3.11.5 it could match more than it should (gh-106052).
_HEX: Final = rb"[0-9a-fA-F]"
_ESCAPE: Final = (
    rb'\\(?:["\\/bfnrt]|u(?:[0-9abcefABCEF]' + _HEX + rb"{3}|[dD](?:[0-7]" + _HEX + rb"{2}|[89abAB]" + _HEX
    # The first half of a surrogate pair must be followed by the second.
    + rb"{2}\\u[dD][c-fC-F]" + _HEX + rb"{2})))"
)  # fmt: skip
_LONGEST_ESCAPE: Final = 12
_PLAIN: Final = rb'[^"\\\x00-\x1f]*+'
_CONTENT: Final = _PLAIN + rb"(?:" + _ESCAPE + _PLAIN + rb")*"
_STRING: Final = rb'"' + _CONTENT + rb'"'
_SPACE: Final = rb"[ \t\n\r]*+"
# Numbers that need no closer look: they are below 1e300 and have ended.
_NUMBER: Final = (
    rb"-?(?:0|[1-9][0-9]{0,39})(?:\.[0-9]{1,64})?(?:[eE](?:[+-]?[0-9]{1,2}|-[0-9]{3}|\+?(?:1[0-9]|2[0-5])[0-9]))?"
    rb"(?=[,\]} \t\n\r])"
)
_SCALAR: Final = rb"(?:" + _STRING + rb"|" + _NUMBER + rb"|true|false|null)"


def _member(value: bytes) -> bytes:
    return _STRING + _SPACE + rb":" + _SPACE + value


def _flat(value: bytes) -> bytes:
    """A scalar, or a short array or object of `value`s."""
    elements = rb"(?:" + value + _SPACE + rb"(?:," + _SPACE + rb"(?!\])|(?=\]))){0,64}"
    members = rb"(?:" + _member(value) + _SPACE + rb"(?:," + _SPACE + rb"(?!\})|(?=\}))){0,64}"
    return rb"(?:" + _SCALAR + rb"|\[" + _SPACE + elements + rb"\]|\{" + _SPACE + members + rb"\})"


def _runs(of: Callable[[bytes], bytes], end: bytes) -> list[re.Pattern[bytes]]:
    """Values of few levels in a row, up to a comma or the end of their array or object; by how many levels."""
    values = (_SCALAR, _flat(_SCALAR), _flat(_flat(_SCALAR)))
    return [
        re.compile(rb"(?:" + _SPACE + of(value) + _SPACE + rb"(?:,|(?=" + end + rb"))){1,1000}") for value in values
    ]


# Taking runs at once is up to twenty times faster than token by token. They are bounded, so that what is remembered
# meanwhile, or done in vain, is too.
_ELEMENTS: Final = _runs(lambda value: value, rb"\]")
_MEMBERS: Final = _runs(_member, rb"\}")
_RUN_LEVELS: Final = len(_ELEMENTS) - 1

_Step = Callable[[bytes, int], int]
_Match = Callable[[bytes, int], re.Match[bytes]]
# These match everywhere, if only the empty string.
_match_space: Final = cast("_Match", re.compile(_SPACE).match)
_match_content: Final = cast("_Match", re.compile(_CONTENT).match)
_match_word: Final = cast("_Match", re.compile(rb"[-+.0-9a-zA-Z]*+").match)
_is_number: Final = re.compile(rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?").fullmatch
_LITERALS: Final = frozenset({b"true", b"false", b"null"})

_OPEN_ARRAY, _CLOSE_ARRAY, _OPEN_OBJECT, _CLOSE_OBJECT, _COMMA, _COLON, _QUOTE, _BACKSLASH = b'[]{},:"\\'
_LAST_SPACE: Final = 0x20

_ENVELOPE: Final = ("jsonrpc", "id", "result")
_RESULT_TYPE: Final = "resultType"
# A result with one of these asks for something, or is not the answer yet: it needs to be judged whole.
_NEED_MORE: Final = ("inputRequests", "requestState", "taskId", "task")
_ENVELOPE_LEVEL: Final = 1
_RESULT_LEVEL: Final = 2


class ResponseScanner:
    """Checks one response with a `result`, the answer to the request with this id, while it passes.

    Refused is what `parse_answer` refuses, and what must be seen whole to be judged: an `error`, a `method`, any other
    member of the envelope, a result that asks for input or is not complete in itself. Members of the envelope and of
    the result itself may come once; of the latter, disguises are known too (`message.reads_as`).
    """

    def __init__(self, identifier: str | int, *, max_depth: int = MAX_DEPTH) -> None:
        self._identifier = identifier
        self._max_depth = max_depth
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._held = b""  # the beginning of a token
        self._open = bytearray()  # the closing brackets that must come, the last one first
        self._envelope = set[str]()  # the members that came
        self._result = set[str]()
        self._passing = False  # inside the result
        self._pieces: list[bytes] = []  # what this chunk gives
        self._start = 0  # of its piece in the making
        self._complete = False
        self._refused = False
        self._expect: _Step = self._message
        self._after_name: _Step = self._value
        self._after_string: _Step = self._separator

    def feed(self, chunk: bytes) -> bytes:
        """What may be sent on now: one line (no CR, no LF), empty until `result` begins.

        Raises:
            GateError: UPSTREAM_INVALID; what was sent already must be broken off then.
        """
        if self._refused:
            _refuse("the response was refused before")
        self._refused = True  # unless the scan comes to its end
        try:
            self._utf8.decode(chunk)
        except UnicodeDecodeError as error:
            raise GateError(ErrorCode.UPSTREAM_INVALID, "unreadable JSON: invalid UTF-8") from error
        passed = self._scan(self._held + chunk)
        self._refused = False
        return passed

    def finish(self) -> bytes:
        """The last byte, which makes what was sent a complete response.

        Raises:
            GateError: UPSTREAM_INVALID: the response has not ended, or was refused.
        """
        if self._refused or not self._complete:
            _refuse("the response has not ended")
        return b"}"

    def _scan(self, data: bytes) -> bytes:
        self._start, at, size = 0, 0, len(data)
        while at < size:
            if data[at] <= _LAST_SPACE and self._expect != self._string:
                at = _match_space(data, at).end()
                if at == size:
                    break
            end = self._expect(data, at)
            if end < 0:
                break
            at = end
        self._held = data[at:]
        if len(self._held) > MAX_HELD:
            _refuse("a name or value of the envelope's or the result's own is too long")
        if self._passing:
            self._pieces.append(data[self._start : at])
        pieces, self._pieces = self._pieces, []
        # Line breaks are space between tokens here, as strings cannot hold them, and no two tokens need space.
        return b"".join(pieces).translate(None, b"\r\n")

    # The steps of the grammar. Each takes the data and where its token begins (behind any space), sets what is expected
    # next, and gives where it looks on, or -1 if the token has not ended.

    def _message(self, data: bytes, at: int) -> int:
        if data[at] != _OPEN_OBJECT:
            _refuse("the message is not an object")
        return self._opened(data, at)

    def _value(self, data: bytes, at: int) -> int:
        first = data[at]
        if first == _QUOTE:
            self._expect, self._after_string = self._string, self._separator
            return at + 1
        if first in (_OPEN_ARRAY, _OPEN_OBJECT):
            return self._opened(data, at)
        end = self._word(data, at)
        if end > 0:
            self._expect = self._separator
        return end

    def _opened(self, data: bytes, at: int) -> int:
        if len(self._open) >= self._max_depth:
            _refuse(f"more than {self._max_depth} levels")
        array = data[at] == _OPEN_ARRAY
        self._open.append(_CLOSE_ARRAY if array else _CLOSE_OBJECT)
        self._expect = self._first_element if array else self._first_name
        return at + 1

    def _first_element(self, data: bytes, at: int) -> int:
        return self._closed(data, at) if data[at] == _CLOSE_ARRAY else self._element(data, at)

    def _element(self, data: bytes, at: int) -> int:
        run = _ELEMENTS[min(_RUN_LEVELS, self._max_depth - len(self._open))].match(data, at)
        if run is None:
            return self._value(data, at)
        end = run.end()
        self._expect = self._element if data[end - 1] == _COMMA else self._separator
        return end

    def _first_name(self, data: bytes, at: int) -> int:
        return self._closed(data, at) if data[at] == _CLOSE_OBJECT else self._name(data, at)

    def _name(self, data: bytes, at: int) -> int:
        if len(self._open) <= _RESULT_LEVEL:
            return self._known_name(data, at)
        run = _MEMBERS[min(_RUN_LEVELS, self._max_depth - len(self._open))].match(data, at)
        if run is not None:
            end = run.end()
            self._expect = self._name if data[end - 1] == _COMMA else self._separator
            return end
        if data[at] != _QUOTE:
            _refuse("unreadable JSON: no name where one must be")
        self._expect, self._after_string, self._after_name = self._string, self._colon, self._value
        return at + 1

    def _colon(self, data: bytes, at: int) -> int:
        if data[at] != _COLON:
            _refuse("unreadable JSON: no colon behind a name")
        self._expect = self._after_name
        return at + 1

    def _separator(self, data: bytes, at: int) -> int:
        if data[at] != _COMMA:
            return self._closed(data, at)
        self._expect = self._element if self._open[-1] == _CLOSE_ARRAY else self._name
        return at + 1

    def _closed(self, data: bytes, at: int) -> int:
        if data[at] != self._open.pop():
            _refuse("unreadable JSON: neither comma nor the right bracket behind a value")
        self._expect = self._separator
        if len(self._open) < _RESULT_LEVEL:
            self._envelope_or_result_closed(data, at + 1)
        return at + 1

    def _envelope_or_result_closed(self, data: bytes, end: int) -> None:
        if self._open:
            self._pieces.append(data[self._start : end])
            self._passing = False
            return
        if len(self._envelope) < len(_ENVELOPE):
            _refuse("the response lacks jsonrpc, id or result")
        self._complete = True
        self._expect = self._nothing

    def _nothing(self, data: bytes, at: int) -> int:  # noqa: ARG002 - takes what every step takes
        _refuse("unreadable JSON: more than one value")

    # Members that are known by name.

    def _known_name(self, data: bytes, at: int) -> int:
        if data[at] != _QUOTE:
            _refuse("unreadable JSON: no name where one must be")
        end = _whole_string(data, at)
        if end > 0:
            name = _text(data[at:end])
            in_envelope = len(self._open) == _ENVELOPE_LEVEL
            self._after_name = self._envelope_member(name) if in_envelope else self._result_member(name)
            self._expect = self._colon
        return end

    def _envelope_member(self, name: str) -> _Step:
        if name not in _ENVELOPE or name in self._envelope:
            _refuse("a response with an error, a method, an unknown or a repeated member")
        self._envelope.add(name)
        return {"jsonrpc": self._version, "id": self._id, "result": self._begin_result}[name]

    def _result_member(self, name: str) -> _Step:
        if name in self._result or len(self._result) >= MAX_MEMBERS or len(name) > MAX_MEMBERS:
            _refuse(f"a result with a repeated member, over {MAX_MEMBERS} of them, or one of a longer name")
        self._result.add(name)
        if any(reads_as(name, member) for member in _NEED_MORE):
            _refuse("a result that asks for input or names a task")
        if not reads_as(name, _RESULT_TYPE):
            return self._value
        if name != _RESULT_TYPE:
            _refuse("a result whose type is disguised")
        return self._type

    def _version(self, data: bytes, at: int) -> int:
        return self._exactly("2.0", data, at)

    def _id(self, data: bytes, at: int) -> int:
        return self._exactly(self._identifier, data, at)

    def _type(self, data: bytes, at: int) -> int:
        return self._exactly("complete", data, at)

    def _exactly(self, value: str | int, data: bytes, at: int) -> int:
        end = _whole_string(data, at) if data[at] == _QUOTE else self._word(data, at)
        if end > 0:
            token = data[at:end]
            # An integer has one spelling: peers read 1.0 as 1, and -0 as a float.
            same = token == b"%d" % value if isinstance(value, int) else token[0] == _QUOTE and _text(token) == value
            if not same:
                _refuse("not JSON-RPC 2.0, the id of another request, or a result that is not complete")
            self._expect = self._separator
        return end

    def _begin_result(self, data: bytes, at: int) -> int:
        if data[at] != _OPEN_OBJECT:
            _refuse("the result is not an object")
        self._pieces.append(b'{"jsonrpc":"2.0","id":' + msgspec.json.encode(self._identifier) + b',"result":')
        self._passing = True
        self._start = at
        return self._opened(data, at)

    # Tokens.

    def _string(self, data: bytes, at: int) -> int:
        end = _content_end(data, at)
        if end < len(data) and data[end] == _QUOTE:
            self._expect = self._after_string
            return end + 1
        return end if end > at else -1

    def _word(self, data: bytes, at: int) -> int:
        word = _match_word(data, at).group()
        if len(word) > MAX_NUMBER:
            _refuse(f"a number of more than {MAX_NUMBER} characters")
        if at + len(word) == len(data):
            return -1
        if word not in _LITERALS and (_is_number(word) is None or not math.isfinite(float(word))):
            _refuse("unreadable JSON: no value where one must be, or a number that overflows")
        return at + len(word)


def _whole_string(data: bytes, at: int) -> int:
    end = _content_end(data, at + 1)
    return end + 1 if end < len(data) and data[end] == _QUOTE else -1


def _content_end(data: bytes, at: int) -> int:
    """Where a string's content ends: at its quote, or where the data, or what it tells of an escape, does."""
    end = _match_content(data, at).end()
    rest = len(data) - end
    if rest and data[end] != _QUOTE and (data[end] != _BACKSLASH or rest >= _LONGEST_ESCAPE):
        _refuse("unreadable JSON: a control character, an unknown escape or half a surrogate pair in a string")
    return end


def _text(token: bytes) -> str:
    return msgspec.json.decode(token, type=str)


def _refuse(reason: str) -> NoReturn:
    raise GateError(ErrorCode.UPSTREAM_INVALID, reason)
