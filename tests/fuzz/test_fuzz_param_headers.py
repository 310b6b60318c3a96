"""`Mcp-Param-*` against the official SDK: what its client sends passes here, and what passes here passes its server."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.inbound import mcp_param_headers, validate_mcp_param_headers, x_mcp_header_map

from twogate.core.errors import GateError
from twogate.flows.gateway.param_headers import mirrored_headers
from twogate.flows.gateway.tool_list import Tool, take_page

SCHEMA = {
    "type": "object",
    "properties": {
        "a": {"type": "string", "x-mcp-header": "A"},
        "b": {"type": "integer", "x-mcp-header": "B"},
        "c": {"type": "boolean", "x-mcp-header": "C"},
        "d": {"type": "object", "properties": {"e": {"type": "string", "x-mcp-header": "E"}}},
    },
}
HEADERS = ["mcp-param-a", "mcp-param-b", "mcp-param-c", "mcp-param-e"]

text = st.text(st.characters(codec="utf-8"), max_size=20)
spelled = st.one_of(st.sampled_from(["", "1", "1.0", "-0", "01", "true", "=?base64?MQ==?=", "=?base64?MR==?="]), text)
safe = st.integers(-(2**53) + 1, 2**53 - 1)
scalar = st.one_of(st.none(), text, safe, st.booleans())
anything = st.one_of(scalar, st.integers(), st.floats(allow_nan=False), st.lists(scalar, max_size=2), spelled)


def arguments(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    inner = st.one_of(values, st.fixed_dictionaries({}, optional={"e": values}))
    return st.fixed_dictionaries({}, optional={"a": values, "b": values, "c": values, "d": inner, "q": values})


def the_tool() -> Tool:
    tools: dict[str, Tool] = {}
    take_page([{"name": "t", "inputSchema": SCHEMA}], tools)
    return tools["t"]


TOOL = the_tool()


def as_text(made: tuple[tuple[bytes, bytes], ...]) -> dict[str, str]:
    return {name.decode("ascii"): value.decode("ascii") for name, value in made}


@given(arguments(scalar))
def test_what_the_official_client_sends_passes_and_its_server_takes_what_we_send(arguments: dict[str, Any]) -> None:
    sent = {name.lower(): value for name, value in mcp_param_headers(x_mcp_header_map(SCHEMA), arguments).items()}
    made = as_text(mirrored_headers(TOOL, arguments, sent))
    assert made == sent
    assert validate_mcp_param_headers(SCHEMA, arguments, made) is None


def accepted(arguments: dict[str, Any], given: dict[str, str]) -> dict[str, str] | None:
    try:
        return as_text(mirrored_headers(TOOL, arguments, given))
    except GateError:
        return None


@given(arguments(anything), st.dictionaries(st.sampled_from([*HEADERS, "mcp-param-x"]), spelled), st.booleans())
def test_what_passes_here_passes_the_official_server_too(
    arguments: dict[str, Any], given: dict[str, str], mostly_honest: bool
) -> None:
    if mostly_honest:
        honest = mcp_param_headers(x_mcp_header_map(SCHEMA), arguments)
        given = {name.lower(): value for name, value in honest.items()} | dict(list(given.items())[:1])
    made = accepted(arguments, given)
    if made is not None:
        assert validate_mcp_param_headers(SCHEMA, arguments, given) is None
        assert validate_mcp_param_headers(SCHEMA, arguments, made) is None
        assert given.keys() == made.keys()
