"""Reading claims by JSON pointer (RFC 6901) and by type; a claim of another type is refused, never coerced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from twogate.core.errors import ErrorCode, GateError

MAX_STRING: Final = 1024
MAX_LIST: Final = 1000
MAX_FLAGS: Final = 100


def resolve_pointer(claims: Mapping[str, Any], pointer: str) -> Any:  # noqa: ANN401 - a claim may be any JSON value
    """The value at an RFC 6901 pointer through objects, or None where there is none."""
    value: object = claims
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(value, Mapping):
            return None
        value = cast("Mapping[str, object]", value).get(name)
    return value


def string_at(claims: Mapping[str, Any], pointer: str | None) -> str | None:
    """A non-empty string claim, or None where the pointer or the claim is absent.

    Raises:
        GateError: CLAIM_INVALID if the claim is anything else.
    """
    value = None if pointer is None else resolve_pointer(claims, pointer)
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= MAX_STRING or not value.isprintable():
        raise GateError(ErrorCode.CLAIM_INVALID, f"claim {pointer} is not a short printable string")
    return value


def strings_at(claims: Mapping[str, Any], pointer: str | None, *, spaced: bool) -> tuple[str, ...]:
    """A list of strings, or (`spaced`) one string of names parted by spaces as OAuth scopes are; () where absent.

    Raises:
        GateError: CLAIM_INVALID.
    """
    value = None if pointer is None else resolve_pointer(claims, pointer)
    if value is None:
        return ()
    if spaced and isinstance(value, str):
        value = value.split(" ")
    if not isinstance(value, list) or len(cast("list[object]", value)) > MAX_LIST:
        raise GateError(ErrorCode.CLAIM_INVALID, f"claim {pointer} is not a list of a sensible length")
    items = cast("list[object]", value)
    if not all(isinstance(item, str) and len(item) <= MAX_STRING for item in items):
        raise GateError(ErrorCode.CLAIM_INVALID, f"claim {pointer} holds something else than short strings")
    return tuple(cast("list[str]", items))


def flags_at(claims: Mapping[str, Any], pointer: str | None) -> frozenset[str]:
    """A set of flags: a string, a list of strings, or an object; empty where absent.

    Of an object, a member that is true is its name, and one that is a string is `name=value`; false and null are none.

    Raises:
        GateError: CLAIM_INVALID if the claim is anything else.
    """
    value: object = None if pointer is None else resolve_pointer(claims, pointer)
    if isinstance(value, str):
        value = [value]
    elif isinstance(value, dict):
        members = cast("dict[str, object]", value).items()
        # Anything else stays what it is, to be refused with the list.
        value = [
            name if item is True else f"{name}={item}" if isinstance(item, str) else item
            for name, item in members
            if item is not False and item is not None
        ]
    flags = strings_at({"flags": value}, "/flags", spaced=False)
    if len(flags) > MAX_FLAGS:
        raise GateError(ErrorCode.CLAIM_INVALID, f"claim {pointer} holds more than {MAX_FLAGS} flags")
    return frozenset(flags)


def time_at(claims: Mapping[str, Any], name: str) -> int | None:
    """A NumericDate in whole Unix seconds (RFC 7519 section 2), or None where absent.

    Raises:
        GateError: CLAIM_INVALID.
    """
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**53:
        raise GateError(ErrorCode.CLAIM_INVALID, f"claim {name} is not a time")
    return int(value)
