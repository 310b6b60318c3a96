"""The arguments of a tool or prompt that policies may look at: `tools.X.arguments` of the configuration (R-35)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final, cast

from pydantic import AfterValidator

from twogate.core.conditions import ArgumentType, Declared

MAX_ARGUMENTS: Final = 64
"""Arguments that one target may declare, an object's members included."""

MAX_DEPTH: Final = 4

# A name that begins with two underscores has a meaning of its own in Cedar's JSON.
_NAME: Final = re.compile(r"(?!__)[A-Za-z_][A-Za-z0-9_.-]{0,63}")


def _check(value: Mapping[str, Any]) -> Mapping[str, Any]:
    if _count(value, "", 1) > MAX_ARGUMENTS:
        raise ValueError(f"declares more than {MAX_ARGUMENTS} arguments; policies need only those they look at")
    return value


def _count(value: Mapping[str, object], place: str, depth: int) -> int:
    if not value:
        raise ValueError(f"{place or 'the mapping'} declares nothing; remove it")
    if depth > MAX_DEPTH:
        raise ValueError(f"{place} lies more than {MAX_DEPTH} objects deep")
    total = 0
    for name, kind in value.items():
        at = f"{place}.{name}" if place else name
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{at!r} is no argument's name: 1 to 64 letters, digits and _ . -, a letter or one _ first"
            )
        if isinstance(kind, dict):
            total += _count(cast("dict[str, object]", kind), at, depth + 1)
        elif not isinstance(kind, str) or kind not in {item.value for item in ArgumentType}:
            raise ValueError(f"{at} must be one of {', '.join(ArgumentType)}, or a mapping of an object's members")
        total += 1
    return total


Arguments = Annotated[Mapping[str, Any], AfterValidator(_check)]


def declared_of(arguments: Mapping[str, Any]) -> Declared:
    """Checked declarations in the core's own terms."""
    return MappingProxyType(
        {name: ArgumentType(kind) if isinstance(kind, str) else declared_of(kind) for name, kind in arguments.items()}
    )
