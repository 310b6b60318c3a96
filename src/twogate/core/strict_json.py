"""JSON that every peer reads alike (RFC 8259, within the limits of RFC 7493 "I-JSON").

What parsers disagree about is refused, because a call that was decided on one reading and run on another was not
decided on: repeated members, lone surrogates, numbers that overflow, deep nesting. What is accepted round-trips: the
value that `encode` writes is the value that was read.
"""

from __future__ import annotations

import json
from typing import Any, Final, NoReturn, cast

import jiter
import msgspec

from twogate.core.errors import ErrorCode, GateError

_decoder: Final = msgspec.json.Decoder()
_encoder: Final = msgspec.json.Encoder()
# MessagePack has no integers beyond 64 bits, so its encoder finds them at any depth, at the speed of C.
_range_checker: Final = msgspec.msgpack.Encoder()

encode: Final = _encoder.encode
"""A plain value as compact JSON."""


def decode(raw: bytes, *, max_bytes: int, max_depth: int) -> Any:  # noqa: ANN401 - any JSON value
    """Read one JSON value; an object's members are unique at every depth, escaped spellings included.

    Raises:
        GateError: TOO_LARGE, NOT_UTF8 (lone surrogate escapes too), TOO_DEEP, BAD_NUMBER (NaN, Infinity, overflowing
            floats, integers beyond 64 bits), DUPLICATE_KEY, PARSE_ERROR (everything else, a byte order mark too).
    """
    if len(raw) > max_bytes:
        raise GateError(ErrorCode.TOO_LARGE, f"{len(raw)} bytes, {max_bytes} may be")
    try:
        value: Any = _decoder.decode(raw)
        check_depth(raw, value, max_depth)
        again = _encoder.encode(value)
        _range_checker.encode(value)
    except UnicodeDecodeError as error:
        raise GateError(ErrorCode.NOT_UTF8, "invalid UTF-8") from error
    except RecursionError as error:
        raise GateError(ErrorCode.TOO_DEEP, "nested beyond the parser's limit") from error
    except OverflowError as error:
        raise GateError(ErrorCode.BAD_NUMBER, "an integer beyond 64 bits") from error
    except msgspec.ValidationError as error:
        # Decoding to plain objects validates nothing but the range of numbers.
        raise GateError(ErrorCode.BAD_NUMBER, "a number out of range") from error
    except msgspec.DecodeError as error:
        _refuse_malformed(raw, str(error))
    # A dict holds no member twice, so a text that equals its re-encoding names none twice. Otherwise ask jiter.
    if again != raw:
        try:
            jiter.from_json(raw, catch_duplicate_keys=True, allow_inf_nan=False)
        except ValueError as error:
            # It read the same text as msgspec, so a complaint is about a repeated member, or they disagree.
            repeated = str(error).startswith("Detected duplicate key")
            code = ErrorCode.DUPLICATE_KEY if repeated else ErrorCode.PARSE_ERROR
            raise GateError(code, "found by the second parser") from error
    return value


def check_depth(raw: bytes, value: object, max_depth: int) -> None:
    """Refuse a value that nests more than `max_depth` arrays and objects; `raw` is the text it was read from.

    Raises:
        GateError: TOO_DEEP.
    """
    # Most texts have fewer brackets than levels are allowed; only the others are walked, level by level.
    if raw.count(b"{") + raw.count(b"[") <= max_depth:
        return
    depth, level = 0, [value]
    while level:
        below: list[object] = []
        depth += 1
        for item in level:
            if isinstance(item, dict):
                below.extend(cast("dict[str, object]", item).values())
            elif isinstance(item, list):
                below.extend(cast("list[object]", item))
            else:
                continue
            if depth > max_depth:
                raise GateError(ErrorCode.TOO_DEEP, f"more than {max_depth} levels")
        level = below


def _refuse_malformed(raw: bytes, reason: str) -> NoReturn:
    # Only to name the reason: the standard library accepts exactly two things that msgspec does not, constants
    # (NaN, Infinity) and lone surrogates.
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise GateError(ErrorCode.NOT_UTF8, "invalid UTF-8") from error
    try:
        json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise GateError(ErrorCode.PARSE_ERROR, reason) from error
    raise GateError(ErrorCode.NOT_UTF8, "an escape of half a surrogate pair")


def _refuse_constant(name: str) -> NoReturn:
    raise GateError(ErrorCode.BAD_NUMBER, f"the constant {name}")
