"""One large response of a server, checked and passed on piece by piece, in memory that does not grow with it.

`message.parse_answer` reads a whole message, and it is written anew; what is too large for that goes through here. JSON
parsers must not differ about what passes, so this is a strict reader of RFC 8259: UTF-8 without byte order mark, one
value, finite numbers, no lone surrogates, bounded nesting. The envelope is written by us, and only the bytes of the
`result` pass, but for two members that are held whole and written anew, as everywhere.

Invariants:
1. What was given is a complete response only with what `finish` gives, and that comes when all was checked.
2. What is held is a token that has not ended, of at most `MAX_HELD` bytes, or one of those members, of at most
   `MAX_MEMBER`. Strings pass as they arrive.
3. After a refusal nothing is given any more.

Members below the result's own may be repeated, as for `parse_answer`: nothing is decided by them.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Callable
from typing import Any, Final, NoReturn

import msgspec

from twogate.core import strict_json
from twogate.core.errors import ErrorCode, GateError
from twogate.core.json_tokens import (
    LITERALS,
    LONGEST_ESCAPE,
    RUN_LEVELS,
    is_number,
    match_content,
    match_elements,
    match_members,
    match_space,
    match_word,
)
from twogate.core.message import MAX_DEPTH, MAX_ID, MAX_MEMBERS, reads_as

STEP: Final = 8 * 1024
"""Bytes to feed at most before other work of the same thread gets its turn: the slowest take some 10 milliseconds."""
MAX_NUMBER: Final = 1024
"""Bytes that a number may have."""
MAX_HELD: Final = 12 * max(MAX_ID, MAX_MEMBERS) + 2
"""Bytes that a name or value which is read whole may have: its longest spelling in escapes, and the quotes."""

MAX_MEMBER: Final = 64 * 1024
"""Bytes that a member which is written anew may have."""

_Step = Callable[[bytes, int], int]

_OPEN_ARRAY, _CLOSE_ARRAY, _OPEN_OBJECT, _CLOSE_OBJECT, _COMMA, _COLON, _QUOTE, _BACKSLASH = b'[]{},:"\\'
_LAST_SPACE: Final = 0x20

_ENVELOPE: Final = ("jsonrpc", "id", "result")
_RESULT_TYPE: Final = "resultType"
_CACHE_SCOPE: Final = "cacheScope"
_META: Final = "_meta"
_RELATED_TASK: Final = "io.modelcontextprotocol/related-task"
# A result with one of these asks for something, or is not the answer yet: it needs to be judged whole.
_NEED_MORE: Final = ("inputRequests", "requestState", "taskId", "task")
_ENVELOPE_LEVEL: Final = 1
_RESULT_LEVEL: Final = 2


class ResponseScanner:
    """Checks one response with a `result`, the answer to the request with this id, while it passes.

    Refused is what `parse_answer` refuses, and what must be seen whole to be judged: an `error`, a `method`, any other
    member of the envelope, a result that asks for input or is not complete in itself. Members of the envelope and of
    the result itself may come once; of the latter, disguises are known too (`message.reads_as`).

    `meta` gives what the caller may see of the result's `_meta`. `cacheScope` becomes private, because what was
    answered to one caller must not be shared with another by a cache in between.
    """

    def __init__(
        self,
        identifier: str | int,
        *,
        meta: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        max_depth: int = MAX_DEPTH,
    ) -> None:
        self._identifier = identifier
        self._meta = meta or _without_task
        self._max_depth = max_depth
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._held = b""  # the beginning of a token
        self._open = bytearray()  # the closing brackets that must come, the last one first
        self._envelope = set[str]()  # the members that came
        self._result = set[str]()
        self._passing = False  # inside the result
        self._pieces: list[bytes] = []  # what this chunk gives
        self._start = 0  # of its piece in the making
        self._member = bytearray()  # the value that is written anew, so far
        self._anew: Callable[[bytes], bytes] | None = None  # how, while it lasts
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
                at = match_space(data, at).end()
                if at == size:
                    break
            end = self._expect(data, at)
            if end < 0:
                break
            at = end
        self._held = data[at:]
        if len(self._held) > MAX_HELD:
            _refuse("a name or value of the envelope's or the result's own is too long")
        if self._anew is not None:
            self._hold(data[self._start : at])
        elif self._passing:
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
        run = match_elements(data, at) if len(self._open) + RUN_LEVELS <= self._max_depth else None
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
        run = match_members(data, at) if len(self._open) + RUN_LEVELS <= self._max_depth else None
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
        if self._anew is not None and len(self._open) == _RESULT_LEVEL:
            self._hold(data[self._start : at])
            self._pieces.append(self._anew(bytes(self._member)))
            self._start, self._anew = at, None
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
        steps = {_RESULT_TYPE: self._type, _CACHE_SCOPE: self._begin_scope, _META: self._begin_meta}
        for member, step in steps.items():
            if name == member:
                return step
            if reads_as(name, member):
                _refuse("a result with a member in disguise")
        return self._value

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
        self._pieces.append(b'{"jsonrpc":"2.0","id":' + strict_json.encode(self._identifier) + b',"result":')
        self._passing = True
        self._start = at
        return self._opened(data, at)

    def _begin_scope(self, data: bytes, at: int) -> int:
        self._begin_anew(data, at, lambda _: b'"private"')
        return self._value(data, at)

    def _begin_meta(self, data: bytes, at: int) -> int:
        if data[at] != _OPEN_OBJECT:
            _refuse("the result's _meta is not an object")
        self._begin_anew(data, at, lambda value: strict_json.encode(self._meta(msgspec.json.decode(value))))
        return self._opened(data, at)

    def _begin_anew(self, data: bytes, at: int, anew: Callable[[bytes], bytes]) -> None:
        self._pieces.append(data[self._start : at])
        self._start = at
        self._member.clear()
        self._anew = anew

    def _hold(self, piece: bytes) -> None:
        if len(self._member) + len(piece) > MAX_MEMBER:
            _refuse(f"_meta or cacheScope of more than {MAX_MEMBER} bytes")
        self._member += piece

    # Tokens.

    def _string(self, data: bytes, at: int) -> int:
        end = _content_end(data, at)
        if end < len(data) and data[end] == _QUOTE:
            self._expect = self._after_string
            return end + 1
        return end if end > at else -1

    def _word(self, data: bytes, at: int) -> int:
        word = match_word(data, at).group()
        if len(word) > MAX_NUMBER:
            _refuse(f"a number of more than {MAX_NUMBER} characters")
        if at + len(word) == len(data):
            return -1
        if word not in LITERALS and (is_number(word) is None or not math.isfinite(float(word))):
            _refuse("unreadable JSON: no value where one must be, or a number that overflows")
        return at + len(word)


def _whole_string(data: bytes, at: int) -> int:
    end = _content_end(data, at + 1)
    return end + 1 if end < len(data) and data[end] == _QUOTE else -1


def _content_end(data: bytes, at: int) -> int:
    """Where a string's content ends: at its quote, or where the data, or what it tells of an escape, does."""
    end = match_content(data, at).end()
    rest = len(data) - end
    if rest and data[end] != _QUOTE and (data[end] != _BACKSLASH or rest >= LONGEST_ESCAPE):
        _refuse("unreadable JSON: a control character, an unknown escape or half a surrogate pair in a string")
    return end


def _without_task(meta: dict[str, Any]) -> dict[str, Any]:
    # The server's own name of a task must not reach the caller.
    if any(reads_as(name, _RELATED_TASK) for name in meta):
        _refuse("a result that belongs to a task")
    return meta


def _text(token: bytes) -> str:
    return msgspec.json.decode(token, type=str)


def _refuse(reason: str) -> NoReturn:
    raise GateError(ErrorCode.UPSTREAM_INVALID, reason)
