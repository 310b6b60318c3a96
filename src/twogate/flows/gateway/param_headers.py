"""`Mcp-Param-*`: arguments that clients repeat in headers, so that whoever stands between may route on them.

An intermediary that routes on such a header must see what the server will run (MCP 2026-07-28, "Custom Headers from
Tool Parameters"; row R-44). So a caller's headers must say exactly what the arguments say, by the schema that the
server itself publishes, and those that go upstream are made from the arguments, never copied.

Stricter than the page where it leaves something open: a header that no annotation asks for is refused rather than
passed on, because the gateway knows the schema; and so is an annotated argument that has no portable rendering.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, Protocol, cast

from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import MAX_SAFE_INTEGER
from twogate.flows.gateway.exchange import Header
from twogate.flows.gateway.inbound import MCP_PARAM_HEADER_PREFIX, decode_header_value, encode_header_value
from twogate.flows.gateway.read import Call
from twogate.flows.gateway.tool_list import Mirrored, Tool, ToolList

_PREFIX: Final = MCP_PARAM_HEADER_PREFIX.lower()
# "Visible ASCII characters (0x21-0x7E), space (0x20), and horizontal tab (0x09)".
_SAFE: Final = re.compile(r"[\t\x20-\x7e]*")
# No leading zero, which some readers take for octal, and no more digits than a safe integer has.
_INTEGER: Final = re.compile(r"(-?(?:0|[1-9][0-9]{0,15}))(?:\.0{1,16})?")


class Catalogue(Protocol):
    """Knows the tools and prompts of servers; `catalogue.Catalogue` is the one there is."""

    async def tools(self, tenant: str, server: str, *, newer_than: ToolList | None = None) -> ToolList:
        """The tools of a server; another list than `newer_than`, unless it was just asked for.

        Raises:
            GateError: UPSTREAM_UNAVAILABLE.
        """
        ...

    async def prompts(self, tenant: str, server: str, *, newer_than: ToolList | None = None) -> ToolList:
        """As `tools`, of its prompts.

        Raises:
            GateError: UPSTREAM_UNAVAILABLE.
        """
        ...


async def param_headers(call: Call, catalogue: Catalogue) -> tuple[Header, ...]:
    """Check the `Mcp-Param-*` headers of a modern `tools/call` and give those to send upstream; none for other calls.

    The list of tools may be older than the schema that the client went by, so whatever does not fit is looked at
    again with a new list before it is refused.

    Raises:
        GateError: HEADER_MISMATCH; TOOL_INVALID (no client may use the tool); UPSTREAM_UNAVAILABLE (its schema cannot
            be had, so nothing can be checked).
    """
    if not call.modern or call.message.method != "tools/call":
        return ()
    name, tenant, server = call.message.params["name"], call.principal.tenant, call.head.server
    listed = await catalogue.tools(tenant, server)
    tool = listed.tools.get(name)
    if tool is not None:
        with suppress(GateError):
            return headers_of(call, tool)
    listed = await catalogue.tools(tenant, server, newer_than=listed)
    return headers_of(call, listed.tools.get(name))


def headers_of(call: Call, tool: Tool | None) -> tuple[Header, ...]:
    """As `mirrored_headers`, for a call of a tool as it is listed; none for other calls than a modern `tools/call`.

    Raises:
        GateError: TOOL_INVALID, HEADER_MISMATCH.
    """
    if not call.modern or call.message.method != "tools/call":
        return ()
    arguments = cast("dict[str, Any]", call.message.params.get("arguments", {}))
    given = {header: value for header, value in call.head.headers.items() if header.startswith(_PREFIX)}
    return mirrored_headers(tool, arguments, given)


def mirrored_headers(tool: Tool | None, arguments: Mapping[str, Any], given: Mapping[str, str]) -> tuple[Header, ...]:
    """Compare `given` (every `mcp-param-*` header of the caller) with the arguments; give the headers made from these.

    1. the tool's annotations are valid; 2. no header is there that no annotation asks for; 3. each annotated argument
    that is there has a rendering and a header that says the same; 4. none that is missing or null has a header.
    Of a tool that the server does not list nothing is mirrored; whether it exists is the server's to say.

    Raises:
        GateError: TOOL_INVALID, HEADER_MISMATCH.
    """
    # 1.
    if tool is not None and tool.fault is not None:
        raise GateError(ErrorCode.TOOL_INVALID, tool.fault)
    # 2.
    wanted = () if tool is None else tool.mirrored
    if given and not given.keys() <= {mirrored.header for mirrored in wanted}:
        raise GateError(ErrorCode.HEADER_MISMATCH, "an mcp-param header that no argument of the tool is mirrored into")
    made: list[Header] = []
    for mirrored in wanted:
        value, header = _value_at(arguments, mirrored.path), given.get(mirrored.header)
        # 4. "Parameter value is null … Server MUST NOT expect the header".
        if value is None:
            if header is not None:
                raise _mismatch(mirrored, "without its argument")
            continue
        # 3. "Client omits header but value is in body … Server MUST reject the request".
        rendered = _rendered(mirrored, value)
        if header is None:
            raise _mismatch(mirrored, "is missing")
        decoded = decode_header_value(header) if _SAFE.fullmatch(header) else None
        if decoded is None:
            raise _mismatch(mirrored, "is malformed")
        if decoded != rendered and not _same_integer(value, decoded, rendered):
            raise _mismatch(mirrored, "differs from its argument")
        made.append((mirrored.header.encode(), encode_header_value(rendered).encode()))
    return tuple(made)


def _value_at(arguments: Mapping[str, Any], path: tuple[str, ...]) -> object:
    node: object = arguments
    for name in path:
        if not isinstance(node, dict):
            return None
        node = cast("dict[str, object]", node).get(name)
    return node


def _rendered(mirrored: Mirrored, value: object) -> str:
    # Clients often give a string for an integer or the like; the page's conversions go by the value.
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and mirrored.integer and value.is_integer():
        value = int(value)
    if isinstance(value, int) and abs(value) <= MAX_SAFE_INTEGER:
        return str(value)
    raise _mismatch(mirrored, "cannot repeat this argument: it is no string, boolean or safe integer")


def _same_integer(value: object, decoded: str, rendered: str) -> bool:
    # "Servers SHOULD compare the header value and the body value numerically … (e.g., 42.0 and 42 …)".
    if isinstance(value, str | bool):
        return False
    found = _INTEGER.fullmatch(decoded)
    return found is not None and int(found[1]) == int(rendered)


def _mismatch(mirrored: Mirrored, what: str) -> GateError:
    return GateError(ErrorCode.HEADER_MISMATCH, f"{mirrored.header} {what}")
