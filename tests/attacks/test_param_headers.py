"""`Mcp-Param-*` headers that say something else than the arguments, to mislead whoever routes on them.

The server behind the gateway runs what the body says; a router, firewall or quota in between goes by the headers. Each
trick here would make the two see different calls.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cataloguelab import annotated, tool
from harness.issuer import TestIssuer
from harness.stack import Stack, free_port, running, settings_for
from harness.upstream import RecordingUpstream
from twogate.core.errors import GATE_TWO, HEADER_MISMATCH, UPSTREAM

MODERN = "2026-07-28"
META = {"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}}


@pytest.fixture(autouse=True)
def tools(upstream: RecordingUpstream) -> None:
    """`look` mirrors its region; nothing vouches for the list, so that each test asks for its own."""
    look = annotated("look", region="Region", limit="Limit:integer")
    upstream.extra["tools/list"] = {"resultType": "complete", "tools": [look, tool("find"), tool("change")]}


def message(arguments: dict[str, Any] | None = None, name: str = "look") -> dict[str, Any]:
    params: dict[str, Any] = {"name": name, "arguments": arguments or {}, "_meta": META}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}


async def call(
    stack: Stack, issuer: TestIssuer, arguments: dict[str, Any] | None = None, *, name: str = "look", **headers: str
) -> httpx2.Response:
    """A modern call; `headers` are added to those it must have."""
    token = issuer.token(stack.resource())
    required = {"mcp_protocol_version": MODERN, "mcp_method": "tools/call", "mcp_name": name}
    return await stack.post(token, message(arguments, name), **{**required, **headers})


def mirrored(upstream: RecordingUpstream) -> list[dict[str, str]]:
    """The `Mcp-Param-*` headers of each call that reached the server."""
    return [
        {name: value for name, value in seen.headers.items() if name.startswith("mcp-param-")}
        for seen in upstream.seen
        if seen.body and seen.message["method"] == "tools/call"
    ]


async def test_an_honest_call_passes_with_headers_made_from_its_arguments(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    given = {"Mcp-Param-REGION": "=?base64?dXM=?=", "mcp_param_limit": "7.0"}
    response = await call(stack, issuer, {"region": "us", "limit": 7, "query": "x"}, **given)
    assert response.status_code == 200, response.text
    assert mirrored(upstream) == [{"mcp-param-region": "us", "mcp-param-limit": "7"}]


@pytest.mark.parametrize(
    ("arguments", "headers"),
    [
        ({"region": "us"}, {}),
        ({"region": "us"}, {"mcp_param_region": "eu"}),
        ({"region": "us"}, {"mcp_param_region": "us, eu"}),
        ({"region": "us"}, {"mcp_param_region": "=?base64?dXN=?="}),
        ({"region": "us"}, {"mcp_param_region": "us", "mcp_param_zone": "eu"}),
        ({"limit": 7}, {"mcp_param_limit": "07"}),
        ({"limit": 2**53}, {"mcp_param_limit": str(2**53)}),
        ({}, {"mcp_param_region": "us"}),
        ({"Region": "us"}, {"mcp_param_region": "us"}),
        ({"query": "x"}, {"mcp_param_query": "x"}),
    ],
)
async def test_a_header_that_misleads_is_refused_and_nothing_runs(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream, arguments: dict[str, Any], headers: dict[str, str]
) -> None:
    response = await call(stack, issuer, arguments, **headers)
    assert response.status_code == 400
    assert response.json()["id"] == 1
    assert response.json()["error"]["code"] == HEADER_MISMATCH
    assert stack.reasons() == ["header_mismatch"]
    assert upstream.calls == []


@pytest.mark.parametrize("second", [b"Mcp-Param-Region: eu", b"mcp-param-REGION: us", b"Mcp_Param_Region: eu"])
async def test_two_headers_for_one_argument_are_refused_before_anybody_chooses(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream, second: bytes
) -> None:
    body = json.dumps(message({"region": "us"})).encode()
    host = stack.url.removeprefix("http://")
    lines = [
        b"POST /mcp/files HTTP/1.1", b"Host: " + host.encode(), b"Content-Type: application/json",
        b"Authorization: Bearer " + issuer.token(stack.resource()).encode(), b"Content-Length: %d" % len(body),
        b"MCP-Protocol-Version: 2026-07-28", b"Mcp-Method: tools/call", b"Mcp-Name: look",
        b"Mcp-Param-Region: us", second,
    ]  # fmt: skip
    reader, writer = await asyncio.open_connection("127.0.0.1", int(host.rpartition(":")[2]))
    try:
        writer.write(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        async with asyncio.timeout(10):
            answer = await reader.readuntil(b"\r\n")
    finally:
        writer.close()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert upstream.seen == []


async def test_nobody_who_is_refused_makes_the_gateway_ask_the_server(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    for name in ("find", "wipe", "nonsense"):
        assert (await call(stack, issuer, name=name, mcp_param_region="us")).status_code == 403
    assert upstream.seen == []


async def test_a_tool_whose_annotations_break_the_rules_looks_like_none_at_all(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    upstream.extra["tools/list"]["tools"] = [annotated("look", region="Region", zone="REGION")]
    response = await call(stack, issuer, {"region": "us"}, mcp_param_region="us")
    assert response.status_code == 403
    assert response.json()["error"]["code"] == GATE_TWO
    assert response.json()["error"]["data"]["reason"] == "not_permitted"
    assert stack.reasons() == ["tool_invalid"]
    assert upstream.calls == []
    # For a client of an older version the annotation means nothing.
    assert (await stack.call(issuer.token(stack.resource()), "look")).status_code == 200


async def test_a_list_does_not_show_a_modern_client_what_it_must_not_use(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    upstream.extra["tools/list"]["tools"] = [annotated("look", region="bad token")]
    listing = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": META}}
    token = issuer.token(stack.resource())
    modern = await stack.post(token, listing, mcp_protocol_version=MODERN, mcp_method="tools/list")
    assert modern.json()["result"]["tools"] == []
    legacy = await stack.post(token, {**listing, "params": {}}, mcp_protocol_version="2025-11-25")
    assert [entry["name"] for entry in legacy.json()["result"]["tools"]] == ["look"]


@pytest.mark.parametrize("answer", [{"tools": [tool("look"), tool("look")]}, {"tools": 5}, {}])
async def test_a_server_whose_list_is_invalid_is_not_called_on_trust(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream, answer: dict[str, Any]
) -> None:
    upstream.extra["tools/list"] = answer
    response = await call(stack, issuer)
    assert response.status_code == 502
    assert response.json()["error"]["code"] == UPSTREAM
    assert "nothing was run" in response.json()["error"]["message"]
    assert stack.reasons() == ["upstream_unavailable"]
    assert upstream.calls == []


async def test_a_schema_that_changes_takes_effect_with_the_next_call(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    assert (await call(stack, issuer, {"zone": "z"})).status_code == 200
    upstream.extra["tools/list"]["tools"] = [annotated("look", zone="Zone")]

    async def taken() -> bool:
        return (await call(stack, issuer, {"zone": "z"}, mcp_param_zone="z")).status_code == 200

    # The list that did not fit is asked for anew, though at most once a second.
    async with asyncio.timeout(10):
        while not await taken():
            await asyncio.sleep(0.05)
    assert (await call(stack, issuer, {"zone": "z"})).status_code == 400
    assert mirrored(upstream)[-1] == {"mcp-param-zone": "z"}


@pytest.fixture
async def two_tenants(tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream) -> AsyncIterator[Stack]:
    settings = settings_for(tmp_path, free_port(), {"files": {"url": upstream.url}}, issuer)
    settings["tenants"]["globex"] = {"servers": ["files"]}
    settings["issuers"][0]["tenants"].append("globex")
    settings["agents"]["globex/robot"] = {
        **settings["agents"]["acme/robot"], "bindings": [{"issuer": issuer.url, "subject": "robot-2"}]
    }  # fmt: skip
    async with running(tmp_path, settings) as made:
        yield made


async def test_each_tenant_has_a_list_of_its_own(
    two_tenants: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    required = {"mcp_protocol_version": MODERN, "mcp_method": "tools/call", "mcp_name": "look"}
    for tenant, agent in (("acme", "robot"), ("globex", "robot-2"), ("acme", "robot")):
        token = issuer.token(two_tenants.resource(), tenant=tenant, azp=agent, sub=agent)
        assert (await two_tenants.post(token, message(), **required)).status_code == 200
    asked = [seen.message["method"] for seen in upstream.seen if seen.body]
    assert asked == ["server/discover", "tools/list", "tools/call"] * 2 + ["tools/call"]
