"""What the gateway keeps of a server's tools and prompts: little, because servers may have thousands of them.

Of each tool: its name, the digest by which it is pinned, the arguments that are mirrored into headers, and what the
server claims about it. Descriptions and schemas are not kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, TypeVar, cast

import msgspec

from twogate.core import strict_json
from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import check_name
from twogate.core.pins import Shape, definition_of, pin_digest, shape_of
from twogate.flows.gateway.inbound import (
    MCP_PARAM_HEADER_PREFIX,
    X_MCP_HEADER_KEY,
    find_invalid_x_mcp_header,
    x_mcp_header_map,
)

MAX_TOOLS: Final = 20_000
MAX_MIRRORED: Final = 64
"""Arguments of one tool that may be mirrored into headers."""
MAX_FAULT: Final = 200
"""Characters kept of what is wrong with a tool; the server's own words are in there."""

_ANNOTATION: Final = X_MCP_HEADER_KEY.encode()


class Mirrored(msgspec.Struct, frozen=True):
    """An argument that clients repeat in a header. `header` is in lower case, `path` leads to the argument."""

    header: str
    path: tuple[str, ...]
    integer: bool


class Claims(msgspec.Struct, frozen=True):
    """What the server says of a tool in `annotations`. Nobody checked it, so nothing may be decided by it."""

    read_only: bool | None = None
    destructive: bool | None = None
    open_world: bool | None = None


class Tool(msgspec.Struct, frozen=True):
    """One tool of a server, or one prompt.

    `digest` and `shape` are of everything that the server says of it (`core.pins`). `fault` says what is wrong with its
    `x-mcp-header` annotations, if something is: clients must not use such a tool (MCP 2026-07-28, server/tools,
    "x-mcp-header").
    """

    name: str
    digest: bytes
    shape: Shape
    mirrored: tuple[Mirrored, ...] = ()
    fault: str | None = None
    claims: Claims = Claims()


class Era(StrEnum):
    """How a server is spoken to."""

    MODERN = "modern"
    HANDSHAKE = "handshake"


class ToolList(msgspec.Struct, frozen=True):
    """A server's whole list, of its tools or of its prompts.

    `lifetime` is how many seconds the server vouches for it; None if it did not say.
    `era` is how the server is best asked the next time; None if that is not known for sure.
    """

    tools: Mapping[str, Tool]
    lifetime: float | None = None
    era: Era | None = None


_UNCLAIMED: Final = Claims()
NO_TOOLS: Final[Mapping[str, Tool]] = MappingProxyType({})


T = TypeVar("T")


def take_page(entries: object, tools: MutableMapping[str, Tool]) -> None:
    """Add one page's tools to what the pages before it brought. Entries without a usable name cannot be called.

    Raises:
        GateError: UPSTREAM_INVALID (no list, a name twice, more than `MAX_TOOLS`).
    """
    _take(entries, tools, _tool, "tools")


def take_prompts(entries: object, prompts: MutableMapping[str, Tool]) -> None:
    """As `take_page`, of prompts.

    Raises:
        GateError: UPSTREAM_INVALID.
    """
    _take(entries, prompts, _prompt, "prompts")


def take_entries(entries: object, taken: MutableMapping[str, dict[str, Any]]) -> None:
    """As `take_page`, and keep what the server says as it is: for a person to read.

    Raises:
        GateError: UPSTREAM_INVALID.
    """
    _take(entries, taken, lambda _, entry: entry, "entries")


def _take(entries: object, taken: MutableMapping[str, T], read: Callable[[str, dict[str, Any]], T], what: str) -> None:
    if not isinstance(entries, list):
        raise GateError(ErrorCode.UPSTREAM_INVALID, f"the result has no list of {what}")
    for entry in cast("list[object]", entries):
        name = _name(entry)
        if name is None:
            continue
        if name in taken:
            # Which of the two would run, and by which of the two would it be judged?
            raise GateError(ErrorCode.UPSTREAM_INVALID, f"two {what} are called {name[:MAX_FAULT]!r}")
        if len(taken) >= MAX_TOOLS:
            raise GateError(ErrorCode.UPSTREAM_INVALID, f"more than {MAX_TOOLS} {what}")
        taken[name] = read(name, cast("dict[str, Any]", entry))


def _name(entry: object) -> str | None:
    if not isinstance(entry, dict):
        return None
    try:
        return check_name(cast("dict[str, object]", entry).get("name"), "name")
    except GateError:
        return None


def annotations_fault(entry: object) -> str | None:
    """What is wrong with the `x-mcp-header` annotations of a listed tool; None if nothing is.

    "Rejection means the client MUST exclude the invalid tool from the result of tools/list" (MCP 2026-07-28).
    """
    schema = cast("dict[str, Any]", entry).get("inputSchema") if isinstance(entry, dict) else None
    # Encoding is many times faster than walking, and most schemas have none.
    return _fault(schema) if _ANNOTATION in strict_json.encode(schema) else None


def _prompt(name: str, entry: dict[str, Any]) -> Tool:
    return Tool(name, pin_digest(definition_of(entry)), shape_of(entry))


def _tool(name: str, entry: dict[str, Any]) -> Tool:
    definition = definition_of(entry)
    mirrored: tuple[Mirrored, ...] = ()
    fault = None
    # Most tools have no annotation. The schema was written anew, so no escape can hide the word.
    if _ANNOTATION in definition:
        schema = entry.get("inputSchema")
        fault = _fault(schema)
        mirrored = () if fault is not None else _mirrored(schema)
    return Tool(name, pin_digest(definition), shape_of(entry), mirrored, fault, _claims(entry))


def _fault(schema: object) -> str | None:
    fault = find_invalid_x_mcp_header(schema)
    if fault is None and len(x_mcp_header_map(schema)) > MAX_MIRRORED:
        fault = f"more than {MAX_MIRRORED} arguments are mirrored into headers"
    return None if fault is None else fault[:MAX_FAULT]


def _mirrored(schema: object) -> tuple[Mirrored, ...]:
    made: list[Mirrored] = []
    for path, token in x_mcp_header_map(schema).items():
        position: Any = schema
        for name in path:
            position = position["properties"][name]
        made.append(Mirrored((MCP_PARAM_HEADER_PREFIX + token).lower(), path, position["type"] == "integer"))
    return tuple(made)


def _claims(entry: dict[str, Any]) -> Claims:
    given: object = entry.get("annotations")
    if not isinstance(given, dict) or not given:
        return _UNCLAIMED
    claimed = cast("dict[str, object]", given)
    hints = [claimed.get(name) for name in ("readOnlyHint", "destructiveHint", "openWorldHint")]
    return _shared(*(hint if isinstance(hint, bool) else None for hint in hints))


@lru_cache(maxsize=27)  # as many as exist
def _shared(read_only: bool | None, destructive: bool | None, open_world: bool | None) -> Claims:
    return Claims(read_only, destructive, open_world)
