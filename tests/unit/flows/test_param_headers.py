"""`Mcp-Param-*`: what a caller's headers must say, and what goes upstream instead of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from mcp.shared.inbound import validate_mcp_param_headers

from cataloguelab import annotated, tool
from gatelab import PRINCIPAL
from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import Kind, Message
from twogate.core.protocol import MethodKind
from twogate.flows.gateway.exchange import Head
from twogate.flows.gateway.param_headers import param_headers
from twogate.flows.gateway.read import Call
from twogate.flows.gateway.tool_list import Tool, ToolList, take_page

MODERN = "2026-07-28"
TRICKY = annotated("sql", region="Region", limit="Limit:integer", dry="Dry-Run:boolean")
TRICKY["inputSchema"]["properties"]["options"] = {
    "type": "object", "properties": {"level": {"type": "integer", "x-mcp-header": "Level"}}
}  # fmt: skip


def listed(*entries: dict[str, Any]) -> ToolList:
    tools: dict[str, Tool] = {}
    take_page(list(entries), tools)
    return ToolList(tools)


@dataclass
class Lists:
    """A catalogue whose lists come one after the other, each when the one before did not fit."""

    lists: list[ToolList | GateError]
    asked: list[tuple[str, str]] = field(default_factory=list)

    async def tools(self, tenant: str, server: str, *, newer_than: ToolList | None = None) -> ToolList:
        self.asked.append((tenant, server))
        if newer_than is self.lists[0] and len(self.lists) > 1:
            self.lists.pop(0)
        answer = self.lists[0]
        if isinstance(answer, GateError):
            raise answer
        return answer

    async def prompts(self, tenant: str, server: str, *, newer_than: ToolList | None = None) -> ToolList:
        raise NotImplementedError


def call(
    arguments: dict[str, Any] | None,
    headers: dict[str, str],
    *,
    name: str = "sql",
    method: str = "tools/call",
    version: str = MODERN,
) -> Call:
    params: dict[str, Any] = {"name": name} | ({} if arguments is None else {"arguments": arguments})
    head = Head("POST", "files", {"mcp-method": method, "x-other": "y", **headers}, b"", "127.0.0.1")
    return Call(head, PRINCIPAL, Message(Kind.REQUEST, 1, method, params), version, MethodKind.TARGET)


async def sent(arguments: dict[str, Any] | None, headers: dict[str, str], *lists: ToolList) -> dict[str, str]:
    catalogue = Lists(list(lists) or [listed(TRICKY)])
    made = await param_headers(call(arguments, headers), catalogue)
    assert set(catalogue.asked) == {("acme", "files")}
    return {name.decode(): value.decode() for name, value in made}


async def refusal(arguments: dict[str, Any] | None, headers: dict[str, str], *lists: ToolList) -> GateError:
    with pytest.raises(GateError) as caught:
        await sent(arguments, headers, *lists)
    return caught.value


def headers_of(**parameters: str) -> dict[str, str]:
    return {f"mcp-param-{name.replace('_', '-')}": value for name, value in parameters.items()}


GOOD: list[tuple[dict[str, Any] | None, dict[str, str], dict[str, str]]] = [
    (None, {}, {}),
    ({}, {}, {}),
    ({"query": "x"}, {}, {}),
    ({"region": None, "dry": None}, {}, {}),
    ({"region": "us-west1"}, headers_of(region="us-west1"), headers_of(region="us-west1")),
    ({"region": "us"}, headers_of(region="=?base64?dXM=?="), headers_of(region="us")),
    ({"region": ""}, headers_of(region=""), headers_of(region="")),
    ({"region": "a\tb"}, headers_of(region="a\tb"), headers_of(region="=?base64?YQli?=")),
    ({"region": "世"}, headers_of(region="=?base64?5LiW?="), headers_of(region="=?base64?5LiW?=")),
    ({"region": " a"}, headers_of(region="=?base64?IGE=?="), headers_of(region="=?base64?IGE=?=")),
    ({"region": "a\r\nb"}, headers_of(region="=?base64?YQ0KYg==?="), headers_of(region="=?base64?YQ0KYg==?=")),
    (
        {"region": "=?base64?literal?="},
        headers_of(region="=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
        headers_of(region="=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
    ),
    ({"limit": 42}, headers_of(limit="42"), headers_of(limit="42")),
    ({"limit": -7}, headers_of(limit="-7.0"), headers_of(limit="-7")),
    ({"limit": 42.0}, headers_of(limit="42"), headers_of(limit="42")),
    ({"limit": 42.0}, headers_of(limit="42.0"), headers_of(limit="42")),
    ({"limit": -0.0}, headers_of(limit="-0.0"), headers_of(limit="0")),
    ({"limit": 2**53 - 1}, headers_of(limit=str(2**53 - 1)), headers_of(limit=str(2**53 - 1))),
    # Agents are loose with types, and the server's own validation has the last word.
    ({"limit": "42"}, headers_of(limit="42"), headers_of(limit="42")),
    ({"region": 42}, headers_of(region="42"), headers_of(region="42")),
    ({"limit": True}, headers_of(limit="true"), headers_of(limit="true")),
    ({"dry": False}, headers_of(dry_run="false"), headers_of(dry_run="false")),
    ({"options": {"level": 3}}, headers_of(level="3"), headers_of(level="3")),
    ({"options": {"level": None}}, {}, {}),
    ({"options": "none"}, {}, {}),
    ({"options": ["level"]}, {}, {}),
]


@pytest.mark.parametrize(("arguments", "given", "made"), GOOD)
async def test_headers_that_say_what_the_arguments_say_pass_and_are_written_anew(
    arguments: dict[str, Any] | None, given: dict[str, str], made: dict[str, str]
) -> None:
    assert await sent(arguments, given) == made
    # The official SDK's server finds nothing wrong with either.
    for headers in (given, made):
        assert validate_mcp_param_headers(TRICKY["inputSchema"], arguments or {}, headers) is None


BAD: list[tuple[dict[str, Any], dict[str, str], str]] = [
    ({"region": "us"}, {}, "mcp-param-region is missing"),
    ({"region": ""}, {}, "is missing"),
    ({"dry": False}, {}, "is missing"),
    ({"limit": 0}, {}, "is missing"),
    ({"options": {"level": 1}}, {}, "mcp-param-level is missing"),
    ({"region": "us"}, headers_of(region="eu"), "differs"),
    ({"region": "us"}, headers_of(region="US"), "differs"),
    ({"region": "us"}, headers_of(region="us "), "differs"),
    ({"region": "us"}, headers_of(region=""), "differs"),
    ({"region": "us"}, headers_of(region="=?BASE64?dXM=?="), "differs"),
    ({"region": "us"}, headers_of(region="=?base64?dXM=?=, eu"), "differs"),
    ({"region": "us"}, headers_of(region="us, eu"), "differs"),
    ({"region": "us"}, headers_of(region="=?base64?%%?="), "malformed"),
    ({"region": "us"}, headers_of(region="=?base64?dXM?="), "malformed"),
    ({"region": "us"}, headers_of(region="=?base64?dXN=?="), "malformed"),
    ({"region": "us"}, headers_of(region="=?base64?/w==?="), "malformed"),
    ({"region": "ü"}, headers_of(region="ü"), "malformed"),
    ({"region": "a\x0bb"}, headers_of(region="a\x0bb"), "malformed"),
    ({"limit": 42}, headers_of(limit="43"), "differs"),
    ({"limit": 42}, headers_of(limit="42.5"), "differs"),
    ({"limit": 42}, headers_of(limit="042"), "differs"),
    ({"limit": 42}, headers_of(limit="+42"), "differs"),
    ({"limit": 42}, headers_of(limit="4.2e1"), "differs"),
    ({"limit": 42}, headers_of(limit="0x2a"), "differs"),
    ({"limit": 42}, headers_of(limit="４２"), "malformed"),
    ({"limit": 42}, headers_of(limit="9" * 5000), "differs"),
    ({"limit": "42"}, headers_of(limit="42.0"), "differs"),
    ({"limit": True}, headers_of(limit="1"), "differs"),
    ({"limit": True}, headers_of(limit="True"), "differs"),
    ({"dry": True}, headers_of(dry_run="false"), "differs"),
    ({"limit": 2**53}, headers_of(limit=str(2**53)), "no string, boolean or safe integer"),
    ({"limit": 1.5}, headers_of(limit="1.5"), "no string, boolean or safe integer"),
    ({"limit": 1e300}, headers_of(limit="1e300"), "no string, boolean or safe integer"),
    ({"region": 1.0}, headers_of(region="1.0"), "no string, boolean or safe integer"),
    ({"region": ["us"]}, {}, "no string, boolean or safe integer"),
    ({"region": {"a": 1}}, {}, "no string, boolean or safe integer"),
    ({}, headers_of(region="us"), "mcp-param-region without its argument"),
    ({"region": None}, headers_of(region=""), "without its argument"),
    ({"options": {}}, headers_of(level="1"), "mcp-param-level without its argument"),
    ({"level": 1}, headers_of(level="1"), "mcp-param-level without its argument"),
    ({}, headers_of(nonsense="x"), "that no argument"),
    ({"query": "x"}, headers_of(query="x"), "that no argument"),
    ({"region": "us"}, headers_of(region="us", region2="us"), "that no argument"),
    ({}, {"mcp-param-": ""}, "that no argument"),
]


@pytest.mark.parametrize(("arguments", "given", "debug"), BAD)
async def test_headers_that_say_anything_else_are_a_mismatch(
    arguments: dict[str, Any], given: dict[str, str], debug: str
) -> None:
    error = await refusal(arguments, given)
    assert error.code is ErrorCode.HEADER_MISMATCH
    assert error.face.jsonrpc == -32020
    assert debug in error.debug
    for value in given.values():
        assert len(value) < 4 or value not in error.debug, "no value of an argument is told"


async def test_only_a_modern_tools_call_has_such_headers() -> None:
    catalogue = Lists([GateError(ErrorCode.UPSTREAM_UNAVAILABLE)])
    for given in (
        call({"region": "us"}, {}, version="2025-11-25"),
        call({"region": "us"}, headers_of(region="eu"), version="2025-11-25"),
        call(None, headers_of(region="eu"), method="tools/list"),
        call(None, {}, method="prompts/get"),
    ):
        assert await param_headers(given, catalogue) == ()
    assert catalogue.asked == []


async def test_without_a_list_nothing_can_be_checked_so_nothing_is_called() -> None:
    catalogue = Lists([GateError(ErrorCode.UPSTREAM_UNAVAILABLE, "down")])
    with pytest.raises(GateError) as caught:
        await param_headers(call({}, {}), catalogue)
    assert caught.value.code is ErrorCode.UPSTREAM_UNAVAILABLE


async def test_a_tool_with_invalid_annotations_may_not_be_called() -> None:
    bad = listed(annotated("sql", region="Region", zone="region"))
    for given in ({}, headers_of(region="us")):
        error = await refusal({"region": "us"}, given, bad)
        assert error.code is ErrorCode.TOOL_INVALID
        assert error.face.reason == "not_permitted"


async def test_a_tool_that_is_not_listed_is_the_servers_to_refuse_and_has_no_headers() -> None:
    other = listed(tool("other"))
    assert await sent({"region": "us"}, {}, other) == {}
    assert (await refusal({"region": "us"}, headers_of(region="us"), other)).code is ErrorCode.HEADER_MISMATCH


@pytest.mark.parametrize(
    "old", [tool("sql"), tool("other"), annotated("sql", region="Zone"), annotated("sql", region="Zone", q="zone")]
)
async def test_what_does_not_fit_an_old_list_is_looked_at_again_with_a_new_one(old: dict[str, Any]) -> None:
    given = headers_of(region="us")
    assert await sent({"region": "us"}, given, listed(old), listed(TRICKY)) == given


async def test_a_client_that_goes_by_an_old_schema_is_told_so() -> None:
    # MCP 2026-07-28: the client then "SHOULD call tools/list", and its call has not run.
    old, new = listed(annotated("sql", region="Region")), listed(annotated("sql", region="Zone"))
    assert (await refusal({"region": "us"}, headers_of(region="eu"), old, new)).code is ErrorCode.HEADER_MISMATCH
    bad = listed(annotated("sql", region="Region:number"))
    assert (await refusal({"region": "us"}, {}, old, bad)).code is ErrorCode.TOOL_INVALID


async def test_the_common_call_is_checked_with_one_look_at_the_list() -> None:
    catalogue = Lists([listed(TRICKY)])
    await param_headers(call({"region": "us"}, headers_of(region="us")), catalogue)
    assert len(catalogue.asked) == 1
