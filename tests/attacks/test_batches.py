"""Batches (MCP 2025-03-26) as a way past gate two: what one member may not, no other member may bring along."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.issuer import TestIssuer
from harness.stack import FRONTS, Stack, tool_call
from harness.upstream import RecordingUpstream

pytestmark = pytest.mark.parametrize("front", FRONTS, indirect=True)

BATCHES = {"mcp_protocol_version": "2025-03-26"}


def call(tool: str, request_id: object) -> dict[str, Any]:
    return {**tool_call(tool), "id": request_id}


async def test_a_forbidden_member_does_not_ride_along_with_an_allowed_one(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    members = [call("look", 1), call("wipe", 2), call("find", 3), call("look", "4")]
    response = await stack.post(issuer.token(stack.resource()), json.dumps(members).encode(), **BATCHES)
    assert response.status_code == 200
    answers = {answer["id"]: answer for answer in response.json()}
    assert [("result" in answers[n], answers[n].get("error", {}).get("code")) for n in (1, 2, 3, "4")] == [
        (True, None), (False, -31403), (False, -31403), (True, None),
    ]  # fmt: skip
    assert upstream.calls == ["look", "look"]
    assert stack.reasons() == ["role_not_permitted", "task_not_permitted"]


async def test_every_member_goes_upstream_alone_and_by_its_own_headers(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    members = [call("look", 1), {"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}]
    await stack.post(issuer.token(stack.resource()), json.dumps(members).encode(), **BATCHES)
    assert [seen.message["method"] for seen in upstream.seen] == ["tools/call", "notifications/roots/list_changed"]
    assert {seen.headers["mcp-protocol-version"] for seen in upstream.seen} == {"2025-03-26"}


@pytest.mark.parametrize("version", ["2024-11-05", "2025-06-18", "2025-11-25", "2026-07-28"])
async def test_no_other_version_has_batches(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream, version: str
) -> None:
    body = json.dumps([call("look", 1)]).encode()
    response = await stack.post(issuer.token(stack.resource()), body, mcp_protocol_version=version)
    assert (response.status_code, response.json()["error"]["data"]["reason"]) == (400, "batch_not_supported")
    assert upstream.seen == []


@pytest.mark.parametrize(
    "members",
    [
        [],
        [call("look", 1), call("wipe", 1)],
        [call("look", n) for n in range(51)],
    ],
    ids=["empty", "two answers that could not be told apart", "too many"],
)
async def test_a_batch_that_is_none_runs_nothing(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream, members: list[Any]
) -> None:
    response = await stack.post(issuer.token(stack.resource()), json.dumps(members).encode(), **BATCHES)
    assert response.status_code == 400
    assert upstream.seen == []


async def test_nested_batches_and_things_that_are_no_messages_are_errors_of_their_own(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    members: list[Any] = [[call("look", 1)], 5, None, {"jsonrpc": "2.0", "id": 2, "Method": "tools/call"}]
    response = await stack.post(issuer.token(stack.resource()), json.dumps(members).encode(), **BATCHES)
    assert [answer["id"] for answer in response.json()] == [None] * 4
    assert {answer["error"]["code"] for answer in response.json()} == {-32600}
    assert upstream.seen == []


async def test_a_name_header_is_not_good_for_several_calls(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    members = [call("look", 1), call("find", 2)]
    response = await stack.post(
        issuer.token(stack.resource()), json.dumps(members).encode(), mcp_name="look", twogate_task="edit", **BATCHES
    )
    allowed, refused = response.json()
    assert "result" in allowed
    assert refused["error"]["data"]["reason"] == "header_mismatch"
    assert upstream.calls == ["look"]


async def test_a_duplicate_key_anywhere_refuses_the_whole_batch(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    first = json.dumps(call("look", 1))
    body = f'[{first},{{"jsonrpc":"2.0","id":2,"method":"ping","method":"tools/call"}}]'.encode()
    response = await stack.post(issuer.token(stack.resource()), body, **BATCHES)
    assert response.json()["error"]["data"]["reason"] == "duplicate_key"
    assert upstream.seen == []
