"""What is kept of a server's tools."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from cataloguelab import annotated, tool
from twogate.core.errors import ErrorCode, GateError
from twogate.core.pins import changed_members
from twogate.flows.gateway.tool_list import (
    MAX_FAULT,
    MAX_MIRRORED,
    Claims,
    Mirrored,
    Tool,
    annotations_fault,
    take_page,
)


def kept(*entries: object) -> dict[str, Tool]:
    tools: dict[str, Tool] = {}
    take_page(list(entries), tools)
    return tools


def one(entry: dict[str, Any]) -> Tool:
    (found,) = kept(entry).values()
    return found


def schema(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def test_a_tool_is_kept_by_its_name_and_entries_that_nobody_could_call_are_not() -> None:
    entries: list[object] = [tool("look"), tool("find it"), {}, {"name": 5}, {"name": ""}, "look", None, tool("a\nb")]
    assert list(kept(*entries)) == ["look", "find it"]


def test_the_digest_covers_everything_that_a_server_says_of_a_tool() -> None:
    plain = tool("look", description="Look at it", title="Look", outputSchema={}, annotations={"readOnlyHint": True})
    digest = one(plain).digest
    expected = json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()
    assert digest == hashlib.sha256(b"twogate-pin-v1\n" + expected).digest()
    changes: list[dict[str, Any]] = [
        {"name": "Look"},
        {"description": "Look at it "},
        {"title": "Wipe"},
        {"inputSchema": {"type": "object", "additionalProperties": False}},
        {"outputSchema": None},
        {"annotations": {"readOnlyHint": False}},
        {"_meta": {"x": 1}},
        {"icons": []},
    ]
    digests = {one({**plain, **change}).digest for change in changes}
    assert len(digests | {digest}) == len(changes) + 1
    # The order of members tells nobody anything.
    assert one(dict(reversed(plain.items()))).digest == digest
    without = {name: value for name, value in plain.items() if name != "title"}
    assert one(without).digest != digest
    assert changed_members(one(plain).shape, one(without).shape) == ("title",)


def test_annotated_arguments_are_found_at_any_depth_of_properties() -> None:
    deep = tool(
        "sql",
        inputSchema=schema(
            region={"type": "string", "x-mcp-header": "Region"},
            options=schema(limit={"type": "integer", "x-mcp-header": "LIMIT"}, dry={"type": "boolean"}),
        ),
    )
    assert set(one(deep).mirrored) == {
        Mirrored("mcp-param-region", ("region",), integer=False),
        Mirrored("mcp-param-limit", ("options", "limit"), integer=True),
    }
    assert one(deep).fault is None
    assert one(tool("plain", description="x-mcp-header")).mirrored == ()


INVALID: dict[str, dict[str, Any]] = {
    "empty": schema(a={"type": "string", "x-mcp-header": ""}),
    "no token": schema(a={"type": "string", "x-mcp-header": "Re gion"}),
    "a line break": schema(a={"type": "string", "x-mcp-header": "A\r\nAuthorization: x"}),
    "no text": schema(a={"type": "string", "x-mcp-header": 5}),
    "twice": schema(a={"type": "string", "x-mcp-header": "A"}, b={"type": "string", "x-mcp-header": "a"}),
    "a number": schema(a={"type": "number", "x-mcp-header": "A"}),
    "an object": schema(a={"type": "object", "x-mcp-header": "A"}),
    "an array": schema(a={"type": "array", "x-mcp-header": "A"}),
    "several types": schema(a={"type": ["string", "null"], "x-mcp-header": "A"}),
    "no type": schema(a={"x-mcp-header": "A"}),
    "the root": {"type": "object", "x-mcp-header": "A"},
    "items": schema(a={"type": "array", "items": {"type": "string", "x-mcp-header": "A"}}),
    "anyOf": {"anyOf": [schema(a={"type": "string", "x-mcp-header": "A"})]},
    "if": {"if": schema(a={"type": "string", "x-mcp-header": "A"})},
    "$defs": {"$defs": {"x": {"type": "string", "x-mcp-header": "A"}}},
    "escaped": json.loads(r'{"properties": {"a": {"type": "number", "\u0078-mcp-header": "A"}}}'),
    "too many": schema(**{f"a{n}": {"type": "string", "x-mcp-header": f"A{n}"} for n in range(MAX_MIRRORED + 1)}),
}


@pytest.mark.parametrize("what", INVALID)
def test_annotations_that_break_the_rules_make_the_tool_invalid_and_no_other(what: str) -> None:
    bad = tool("bad", inputSchema=INVALID[what])
    tools = kept(tool("before"), bad, tool("after"))
    assert tools["bad"].fault
    assert tools["bad"].mirrored == ()
    assert (tools["before"].fault, tools["after"].fault) == (None, None)
    assert annotations_fault(bad) == tools["bad"].fault


def test_what_is_wrong_is_kept_short() -> None:
    bad = tool("bad", inputSchema=schema(**{"x" * 10_000: {"type": "string", "x-mcp-header": " " * 10_000}}))
    assert len(one(bad).fault or "") == MAX_FAULT


@pytest.mark.parametrize("entry", [None, "x", {}, tool("a", inputSchema=None), tool("a"), annotated("a", b="B")])
def test_an_entry_without_wrong_annotations_has_no_fault(entry: object) -> None:
    assert annotations_fault(entry) is None


@pytest.mark.parametrize(
    ("annotations", "claims"),
    [
        (None, Claims()),
        ({}, Claims()),
        ("read only", Claims()),
        ({"readOnlyHint": True, "openWorldHint": False}, Claims(read_only=True, open_world=False)),
        ({"readOnlyHint": "true", "destructiveHint": 1}, Claims()),
        ({"destructiveHint": False}, Claims(destructive=False)),
    ],
)
def test_what_the_server_claims_is_kept_as_a_claim(annotations: object, claims: Claims) -> None:
    assert one(tool("a", annotations=annotations)).claims == claims


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(GateError) as caught:
        kept(tool("a"), tool("a", description="another"))
    assert caught.value.code is ErrorCode.UPSTREAM_INVALID
