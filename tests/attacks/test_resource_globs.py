"""URIs that mean something else to the server than to the pattern: refused, recorded, never forwarded."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from harness.issuer import TestIssuer
from harness.stack import Stack, free_port, running, settings_for, tool_call
from harness.upstream import RecordingUpstream

CLASSES = {
    "files.resource:file:///reports/**": "read",
    "files.resource:file:///reports/payroll.csv": "secrets",
    "files.resource:file:///reports/private/**": "secrets",
    "files.resource:file:///odd/../name": "read",
    "files.resource:https://*.example.com/**": "fetch",
    "files.resource:https://vault.example.com/**": "secrets",
    "files.resource:users://*/profile": "read",
    "files.resource:users://root/profile": "secrets",
    "files.prompt:review": "read",
}


def settings(directory: Path, upstream: RecordingUpstream, issuer: TestIssuer, **classes: str) -> dict[str, Any]:
    """The agent `other`, a reader, whose one task has everything that is read or fetched."""
    made = settings_for(directory, free_port(), {"files": {"url": upstream.url}}, issuer)
    made["tools"] |= {name: {"class": kind} for name, kind in (classes or CLASSES).items()}
    made["tasks"]["report"] = {"tools": ["read", "fetch"]}
    made["agents"]["acme/other"]["role"] = "analyst"
    return made


@pytest.fixture
async def stack(tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream) -> AsyncIterator[Stack]:
    async with running(tmp_path, settings(tmp_path, upstream, issuer)) as made:
        yield made


async def send(stack: Stack, issuer: TestIssuer, method: str, **params: Any) -> httpx2.Response:
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    token = issuer.token(stack.resource(), azp="other", sub="other")
    return await stack.post(token, body, mcp_protocol_version="2025-11-25")


async def read(stack: Stack, issuer: TestIssuer, uri: str) -> httpx2.Response:
    return await send(stack, issuer, "resources/read", uri=uri)


@pytest.mark.parametrize(
    "uri",
    [
        "file:///reports/q3.txt",
        "file:///reports/2026/q3..final.txt",
        "file:///reports/caf%C3%A9.txt",
        "file:///reports/private",
        "file:///odd/../name",
        "https://api.example.com/v1/items",
        "users://ann/profile",
    ],
)
async def test_what_a_pattern_or_exact_entry_names_is_forwarded_as_it_came(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream, uri: str
) -> None:
    assert (await read(stack, issuer, uri)).status_code == 200
    (seen,) = upstream.seen
    assert seen.message["params"]["uri"] == uri


# Each would be outside the pattern, or be something with an entry of its own, to some server that opens it.
OUTSIDE = [
    "file:///reports/../etc/passwd",
    "file:///reports/./../etc/passwd",
    "file:///reports/..",
    "file:///reports/../reports/q3.txt",
    "file:///reports/a/../../etc/passwd",
    "file:///reports/%2e%2e/etc/passwd",
    "file:///reports/%2E%2E/etc/passwd",
    "file:///reports/.%2e/etc/passwd",
    "file:///reports/..%2fetc%2fpasswd",
    "file:///reports/..%2Fetc%2Fpasswd",
    "file:///reports%2F..%2Fetc/passwd",
    "file:///reports/%252e%252e/etc/passwd",
    "file:///reports/%252e%252e%252fetc",
    "file:///reports/%c0%ae%c0%ae/etc/passwd",
    "file:///reports/%C0%AE%C0%AE/etc/passwd",
    "file:///reports/%C0%AF..%C0%AFetc",
    "file:///reports/%uff0e%uff0e/etc",
    "file:///reports/%EF%BC%8E%EF%BC%8E/etc/passwd",
    "file:///reports/%E2%80%A4%E2%80%A4/etc/passwd",
    "file:///reports/\uff0e\uff0e/etc/passwd",
    "file:///reports/..\\..\\etc\\passwd",
    "file:///reports/..%5C..%5Cetc",
    "file:///reports\\q3.txt",
    "file:///reports/..;/etc/passwd",
    "file:///reports/..%3B/etc/passwd",
    "file:///reports/..%00/etc/passwd",
    "file:///reports/q3.txt%00.md",
    "file:///reports/..%20/etc/passwd",
    "file:///reports/.../etc/passwd",
    "file:///reports/q3.txt?../../etc/passwd",
    "file:///reports/q3.txt#../../etc/passwd",
    "file:///reports/%3F/../../etc",
    "file:///etc/passwd",
    "file:///reports",
    "file:///reports/",
    "file:///reportsx/a",
    "file:///REPORTS/q3.txt",
    "FILE:///reports/q3.txt",
    "file:////reports/q3.txt",
    "file://localhost/reports/q3.txt",
    "file://evil/reports/q3.txt",
    "file:/reports/q3.txt",
    " file:///reports/q3.txt",
    "file:///reports/q3.txt ",
    "/reports/q3.txt",
    "reports/q3.txt",
    "file:///odd/name",
    "file:///name",
    "file:///odd/%2e%2e/name",
    "https://evil.com/.example.com/x",
    "https://evil.com#.example.com/x",
    "https://evil.com?.example.com/x",
    "https://evil.com\\.example.com/x",
    "https://evil.com%2F.example.com/x",
    "https://evil.com@a.example.com/x",
    "https://a.example.com@evil.com/x",
    "https://a.example.com:443@evil.com/x",
    "https://a.example.com:8443/x",
    "https://a.example.com:443/x",
    "https://a.example.com:/x",
    "https://A.example.com/x",
    "https://a.example.com./x",
    "https://a.example.com",
    "http://a.example.com/x",
    "https:/a.example.com/x",
    "https:a.example.com/x",
    "https:///a.example.com/x",
    "users://ann/x/profile",
    "users://ann%2Fprofile",
    "users://ann/profile/",
    "users://ann/profile?x",
    "users://ann;x/profile",
    "users://Ann/profile",
    "users:///profile",
    "file:///reports/{name}{?x}",
    "file:///reports/{+path}",
    "file:///reports/**/",
]
# `payroll.csv`, `private/`, `vault.example.com` and `root` have entries of their own, which the reader may not use.
STRICTER = [
    "file:///reports/payroll.csv",
    "file:///reports/private/key",
    "https://vault.example.com/x",
    "users://root/profile",
]
DISGUISED = [
    "file:///reports/./payroll.csv",
    "file:///reports/x/../payroll.csv",
    "file:///reports//payroll.csv",
    "file:///reports/payroll.csv/",
    "file:///reports/payroll.csv/.",
    "file:///reports/payroll.csv.",
    "file:///reports/payroll.csv%20",
    "file:///reports/payroll.csv?",
    "file:///reports/payroll.csv?x",
    "file:///reports/payroll.csv#",
    "file:///reports/payroll.csv;v=1",
    "file:///reports/payroll%2Ecsv",
    "file:///reports/p%61yroll.csv",
    "file:///reports/%70ayroll.csv",
    "file:///reports/payroll.csv%00",
    "file:///reports/payroll.csv%E2%80%8B",
    "file:///reports/\u200bpayroll.csv",
    "file:///reports/payroll.cs\uff56",
    "file:///reports/payroll.cs%EF%BD%96",
    "file:///reports/private//key",
    "file:///reports/private/./key",
    "file:///reports/%70rivate/key",
    "file:///reports/private%2Fkey",
    "file:///reports/private%5Ckey",
    "file:///reports/x/../private/key",
    "https://VAULT.example.com/x",
    "https://vault.example.com:443/x",
    "https://vault.example.com./x",
    "https://%76ault.example.com/x",
    "https://x@vault.example.com/x",
    "https://v\u0430ult.example.com/x",
    "users://%72oot/profile",
    "users://ROOT/profile",
    "users://root:/profile",
]


@pytest.mark.parametrize("uri", [*OUTSIDE, *STRICTER, *DISGUISED])
async def test_another_spelling_reaches_nothing(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream, uri: str
) -> None:
    refused = await read(stack, issuer, uri)
    assert upstream.seen == []
    (reason,) = stack.reasons()
    if any(0x200B <= ord(char) <= 0x200F for char in uri):
        assert (refused.status_code, reason) == (400, "invalid_params")
        return
    assert refused.status_code == 403
    assert refused.json()["error"]["data"] == {"reason": "not_permitted"}
    assert reason == ("role_not_permitted" if uri in STRICTER else "target_unclassified")
    (event,) = [event for event in stack.events() if event["kind"] == "call.refused"]
    assert event["anomaly"] is True
    assert event["target"].startswith("files.resource:")


@pytest.mark.parametrize("method", ["resources/read", "resources/subscribe", "resources/unsubscribe"])
async def test_every_method_that_takes_a_uri_decides_it_alike(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream, method: str
) -> None:
    for uri in ("file:///reports/%2e%2e/etc/passwd", "file:///reports/payroll.csv"):
        assert (await send(stack, issuer, method, uri=uri)).status_code == 403
    assert upstream.seen == []
    assert stack.reasons() == ["target_unclassified", "role_not_permitted"]
    assert (await send(stack, issuer, method, uri="file:///reports/q3.txt")).status_code == 200


async def test_json_escapes_make_no_other_uri(stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream) -> None:
    token = issuer.token(stack.resource(), azp="other", sub="other")
    body = rb'{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"file:///reports/\u002e\u002e/etc"}}'
    assert (await stack.post(token, body, mcp_protocol_version="2025-11-25")).status_code == 403
    assert upstream.seen == []
    assert stack.reasons() == ["target_unclassified"]


async def test_a_second_uri_cannot_hide_beside_the_one_that_is_decided(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    fine = "file:///reports/q3.txt"
    for params, code in (
        ({"uri": fine, "Uri": "file:///etc/passwd"}, "case_conflict"),
        ({"uri": [fine]}, "invalid_params"),
    ):
        assert (await send(stack, issuer, "resources/read", **params)).status_code == 400
        assert stack.reasons()[-1] == code
    token = issuer.token(stack.resource(), azp="other", sub="other")
    twice = f'{{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{{"uri":"{fine}","uri":"file:///etc"}}}}'
    assert (await stack.post(token, twice.encode(), mcp_protocol_version="2025-11-25")).status_code == 400
    assert stack.reasons()[-1] == "duplicate_key"
    assert upstream.seen == []


async def test_a_tool_that_is_named_like_a_resource_is_none(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    token = issuer.token(stack.resource(), azp="other", sub="other")
    for name in ("resource:file:///reports/q3.txt", "prompt:review", "tool:resource:file:///reports/q3.txt"):
        refused = await stack.post(token, tool_call(name), mcp_protocol_version="2025-11-25")
        assert refused.status_code == 403
    for prompt in ("review*", "*", "Review", "resource:file:///reports/q3.txt"):
        assert (await send(stack, issuer, "prompts/get", name=prompt)).status_code == 403
    assert upstream.seen == []
    assert set(stack.reasons()) == {"target_unclassified"}
    assert (await send(stack, issuer, "prompts/get", name="review")).status_code == 200


def completion(uri: str) -> dict[str, Any]:
    return {"ref": {"type": "ref/resource", "uri": uri}, "argument": {"name": "name", "value": ""}}


@pytest.mark.parametrize(
    "template",
    [
        "file:///reports/{name}",  # may become payroll.csv
        "file:///reports/{+path}",
        "file:///reports/private/{name}",
        "file:///{+path}",
        "{+uri}",
        "{scheme}:///reports/x",
        "https://{host}.example.com/x",
        "https://api.example.com/{+path}{?query}",
        "users://{id}/profile",
        "users://{id}/{page}",
        "file:///reports/2026/{name}/..",
        "file:///reports/2026/../{name}",
    ],
)
async def test_a_template_completes_nothing_that_its_expansions_might_not_be_read(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream, template: str
) -> None:
    assert (await send(stack, issuer, "completion/complete", **completion(template))).status_code == 403
    assert upstream.seen == []
    (reason,) = stack.reasons()
    assert reason in ("target_unclassified", "role_not_permitted")


async def test_a_template_inside_a_pattern_can_be_completed(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    for template in ("file:///reports/2026/{name}", "https://api.example.com/items/{id}"):
        assert (await send(stack, issuer, "completion/complete", **completion(template))).status_code == 200
    assert [seen.message["params"]["ref"]["uri"] for seen in upstream.seen] == [
        "file:///reports/2026/{name}",
        "https://api.example.com/items/{id}",
    ]


async def test_lists_show_no_disguised_resource_and_no_template_too_wide(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    uris = ["file:///reports/q3.txt", *OUTSIDE, *STRICTER, *DISGUISED, "users://ann/profile", "file:///a" * 400]
    upstream.extra["resources/list"] = {"resources": [{"uri": uri, "name": "x"} for uri in uris] + [{"uri": 1}, {}]}
    templates = ["file:///reports/{name}", "file:///reports/2026/{name}", "users://{id}/profile"]
    upstream.extra["resources/templates/list"] = {
        "resourceTemplates": [{"uriTemplate": template, "name": "x"} for template in templates]
    }
    upstream.extra["prompts/list"] = {"prompts": [{"name": name} for name in ("review", "Review", "other")]}
    listed = (await send(stack, issuer, "resources/list")).json()["result"]["resources"]
    assert [item["uri"] for item in listed] == ["file:///reports/q3.txt", "users://ann/profile"]
    listed = (await send(stack, issuer, "resources/templates/list")).json()["result"]["resourceTemplates"]
    assert [item["uriTemplate"] for item in listed] == ["file:///reports/2026/{name}"]
    listed = (await send(stack, issuer, "prompts/list")).json()["result"]["prompts"]
    assert [item["name"] for item in listed] == ["review"]


async def test_a_header_cannot_name_another_resource_than_the_body(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    token = issuer.token(stack.resource(), azp="other", sub="other")

    async def modern(uri: str, header: str) -> int:
        body = {"jsonrpc": "2.0", "id": 1, "method": "resources/read", "params": {"uri": uri, "_meta": meta}}
        headers = {"mcp_protocol_version": "2026-07-28", "mcp_method": "resources/read", "mcp_name": header}
        return (await stack.post(token, body, **headers)).status_code

    fine, bad = "file:///reports/q3.txt", "file:///reports/payroll.csv"
    assert [await modern(bad, fine), await modern(fine, bad), await modern(bad, bad)] == [400, 400, 403]
    assert stack.reasons() == ["header_mismatch", "header_mismatch", "role_not_permitted"]
    assert upstream.seen == []
    assert await modern(fine, fine) == 200


async def test_an_open_session_does_not_grow_when_a_stricter_entry_is_taken_out(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    before = settings(tmp_path, upstream, issuer)
    async with running(tmp_path, before) as stack:
        assert (await read(stack, issuer, "file:///reports/q3.txt")).status_code == 200
        assert (await read(stack, issuer, "file:///reports/payroll.csv")).status_code == 403
    upstream.seen.clear()
    after = json.loads(json.dumps(before))
    for name in ("files.resource:file:///reports/payroll.csv", "files.resource:file:///reports/private/**"):
        del after["tools"][name]
    async with running(tmp_path, after) as stack:
        for uri in ("file:///reports/payroll.csv", "file:///reports/private/key"):
            assert (await read(stack, issuer, uri)).status_code == 403
        assert upstream.seen == []
        assert stack.reasons()[-2:] == ["task_not_permitted", "task_not_permitted"]
        # What the session held before, it still holds.
        assert (await read(stack, issuer, "file:///reports/q3.txt")).status_code == 200


async def test_an_open_session_does_not_grow_when_an_entry_is_added(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    before = settings(tmp_path, upstream, issuer, **{"files.resource:file:///reports/**": "read"})
    async with running(tmp_path, before) as stack:
        assert (await read(stack, issuer, "file:///reports/private/key")).status_code == 200
    upstream.seen.clear()
    after = json.loads(json.dumps(before))
    after["tools"] |= {
        "files.resource:file:///reports/private/**": {"class": "read"},
        "files.resource:file:///etc/**": {"class": "read"},
    }
    async with running(tmp_path, after) as stack:
        for uri in ("file:///reports/private/key", "file:///etc/passwd"):
            assert (await read(stack, issuer, uri)).status_code == 403
        assert upstream.seen == []
        assert stack.reasons() == ["task_not_permitted", "task_not_permitted"]
