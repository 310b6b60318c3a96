"""Calls that role, task, class or tenant do not allow: refused alike, recorded as anomalies, never forwarded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.issuer import TestIssuer
from harness.stack import FRONTS, Stack, free_port, running, settings_for, tool_call
from harness.upstream import RecordingUpstream

pytestmark = pytest.mark.parametrize("front", FRONTS, indirect=True)


@pytest.mark.parametrize(
    ("tool", "reason"),
    [
        ("find", "task_not_permitted"),
        ("change", "task_not_permitted"),
        ("wipe", "role_not_permitted"),
        ("unlisted", "target_unclassified"),
        ("no-such-tool", "target_unclassified"),
        ("LOOK", "target_unclassified"),
        ("look ", "target_unclassified"),
        ("lооk", "target_unclassified"),
        ("notes.look", "target_unclassified"),
        ("../notes.look", "target_unclassified"),
    ],
)
async def test_every_kind_of_refusal_looks_the_same_outside_and_is_exact_inside(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream, tool: str, reason: str
) -> None:
    response = await stack.call(issuer.token(stack.resource()), tool)
    assert response.status_code == 403
    assert response.json()["error"]["data"] == {"reason": "not_permitted"}
    assert "www-authenticate" not in response.headers
    assert upstream.seen == []
    (refused,) = [event for event in stack.events() if event["kind"] == "call.refused"]
    assert refused["reason"] == reason
    assert refused["anomaly"] is True
    assert refused["agent"] == "robot"


async def test_a_token_tool_is_refused_with_its_own_code(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    response = await stack.call(issuer.token(stack.resource()), "change", twogate_task="edit")
    assert response.status_code == 403
    assert response.json()["error"]["data"]["reason"] == "operation_token_required"
    assert upstream.seen == []
    assert stack.reasons() == ["operation_token_required"]


@pytest.mark.parametrize(
    "method", ["resources/read", "resources/subscribe", "prompts/get", "completion/complete", "tasks/list"]
)
async def test_methods_that_nothing_allows_are_refused(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream, method: str
) -> None:
    known: dict[str, dict[str, Any]] = {
        "resources/read": {"uri": "file:///etc/passwd"},
        "resources/subscribe": {"uri": "file:///etc/passwd"},
        "prompts/get": {"name": "p"},
        "completion/complete": {"ref": {"type": "ref/prompt", "name": "p"}, "argument": {"name": "a", "value": "b"}},
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": known.get(method, {"taskId": "t"})}
    response = await stack.post(issuer.token(stack.resource()), body, mcp_protocol_version="2025-11-25")
    assert response.status_code == 403
    assert upstream.seen == []


@pytest.mark.parametrize("method", ["tools/delete", "admin/reset", "Tools/Call", "tools/call/", "rpc.discover"])
async def test_unknown_methods_are_404_with_their_own_code(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream, method: str
) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"name": "look"}}
    response = await stack.post(issuer.token(stack.resource()), body, mcp_protocol_version="2025-11-25")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == -32601
    assert upstream.seen == []


@pytest.mark.parametrize("sse", [False, True])
async def test_a_list_shows_only_what_may_be_called(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream, *, sse: bool
) -> None:
    upstream.sse = sse
    token = issuer.token(stack.resource())
    for task, expected in (("report", ["look"]),):
        response = await stack.post(
            token,
            {"jsonrpc": "2.0", "id": 1, "method": "tools/list"},
            mcp_protocol_version="2025-11-25",
            twogate_task=task,
        )
        text = response.text.split("data: ")[1] if sse else response.text
        assert [tool["name"] for tool in json.loads(text)["result"]["tools"]] == expected


async def test_a_filtered_list_of_a_modern_client_is_private(stack: Stack, issuer: TestIssuer) -> None:
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta}}
    response = await stack.post(
        issuer.token(stack.resource()), body, mcp_protocol_version="2026-07-28", mcp_method="tools/list"
    )
    result = response.json()["result"]
    assert (result["cacheScope"], result["ttlMs"]) == ("private", 0)


async def test_what_is_decided_on_is_what_is_sent(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    body = tool_call("look", {"a": 1, "text": "ü"})
    body["params"]["_meta"] = {"dev.twogate/other": "x", "evil": 1, "progressToken": 3}
    raw = json.dumps(body, indent=3).encode()
    response = await stack.post(issuer.token(stack.resource()), raw, mcp_protocol_version="2025-11-25")
    assert response.status_code == 200
    (seen,) = upstream.seen
    assert seen.message["params"] == {
        "name": "look", "arguments": {"a": 1, "text": "ü"}, "_meta": {"progressToken": 3},
    }  # fmt: skip


async def test_a_duplicate_key_does_not_smuggle_another_tool(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    raw = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"wipe","name":"look"}}'
    response = await stack.post(issuer.token(stack.resource()), raw, mcp_protocol_version="2025-11-25")
    assert response.status_code == 400
    assert upstream.seen == []
    assert stack.reasons() == ["duplicate_key"]


async def test_a_batch_does_not_smuggle_a_call(stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream) -> None:
    raw = json.dumps([tool_call("look"), tool_call("wipe")]).encode()
    response = await stack.post(issuer.token(stack.resource()), raw, mcp_protocol_version="2025-03-26")
    assert response.status_code == 400
    assert upstream.seen == []


async def test_a_tenant_reaches_its_own_servers_only(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream, other_upstream: RecordingUpstream
) -> None:
    servers = {"files": {"url": upstream.url}, "notes": {"url": other_upstream.url}}
    settings = settings_for(tmp_path, free_port(), servers, issuer)
    settings["tenants"] = {"acme": {"servers": ["files"]}, "globex": {"servers": ["notes"]}}
    async with running(tmp_path, settings) as stack:
        for method in ("tools/call", "tools/list", "ping"):
            body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"name": "look"}}
            token = issuer.token(stack.resource("notes"))
            response = await stack.post(token, body, "notes", mcp_protocol_version="2025-11-25")
            assert response.status_code == 403
        assert other_upstream.seen == []
        assert set(stack.reasons()) == {"tenant_server_refused"}


async def test_an_issuer_may_assert_only_its_own_tenants_and_roles(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    async with TestIssuer() as partner:
        settings = settings_for(tmp_path, free_port(), {"files": {"url": upstream.url}}, issuer)
        settings["issuers"].append(
            {
                "issuer": partner.url, "algorithms": ["ES256"], "tenants": ["globex"], "roles": ["reader"],
                "claims": {"agent": "/azp", "tenant": "/tenant", "role": "/role"},
            }
        )  # fmt: skip
        settings["tenants"]["globex"] = {"servers": ["files"]}
        settings["agents"]["globex/robot"] = {
            "role": "reader", "tasks": ["report"], "default_task": "report",
            "bindings": [{"issuer": partner.url, "subject": "robot"}],
        }  # fmt: skip
        async with running(tmp_path, settings) as stack:
            resource = stack.resource()
            good = partner.token(resource, tenant="globex", role="reader")
            assert (await stack.call(good, "look")).status_code == 200
            upstream.seen.clear()
            for token, reason in (
                (partner.token(resource, tenant="acme"), "tenant_refused"),
                (partner.token(resource, tenant="globex", role="admin"), "role_refused"),
                # The same `sub` and client of another issuer are somebody else.
                (issuer.token(resource, tenant="globex"), "tenant_refused"),
            ):
                assert (await stack.call(token, "look")).status_code == 401
                assert reason in stack.reasons()
            assert upstream.seen == []


async def test_equal_subjects_of_two_issuers_are_two_principals(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    async with TestIssuer() as partner:
        settings = settings_for(tmp_path, free_port(), {"files": {"url": upstream.url}}, issuer)
        settings["issuers"].append({**settings["issuers"][0], "issuer": partner.url, "jwks_uri": f"{partner.url}/jwks"})
        async with running(tmp_path, settings) as stack:
            response = await stack.call(partner.token(stack.resource()), "look")
            assert response.status_code == 401
            assert stack.reasons() == ["agent_unbound"]
            assert upstream.seen == []


async def test_a_missing_scope_is_challenged_with_the_scopes_that_would_help(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    settings = settings_for(tmp_path, free_port(), {"files": {"url": upstream.url}}, issuer)
    settings["scopes"] = {"reports": ["read"], "mail": ["send"]}
    async with running(tmp_path, settings) as stack:
        response = await stack.call(issuer.token(stack.resource(), scope="mail"), "look")
        assert response.status_code == 403
        challenge = response.headers["www-authenticate"]
        assert 'error="insufficient_scope"' in challenge
        assert 'scope="reports"' in challenge
        assert upstream.seen == []
        assert (await stack.call(issuer.token(stack.resource(), scope="mail reports"), "look")).status_code == 200


async def test_a_disabled_agent_is_refused_at_the_next_request(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    token = issuer.token(stack.resource())
    assert (await stack.call(token, "look")).status_code == 200
    view = await stack.state.registry.view()
    (robot,) = [agent for agent in view.agents if agent.agent == "robot"]
    await stack.state.registry_store.disable_agent(robot, stack.state.clock.now())
    refused = await stack.call(token, "look")
    assert refused.status_code == 401
    assert stack.reasons() == ["agent_disabled"]
    assert upstream.calls == ["look"]


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost"])
async def test_a_foreign_origin_is_refused(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream, origin: str
) -> None:
    response = await stack.call(issuer.token(stack.resource()), "look", origin=origin)
    assert response.status_code == 403
    assert "access-control-allow-origin" not in response.headers
    assert upstream.seen == []


async def test_a_session_id_of_the_upstream_is_bound_to_its_principal(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    upstream.sessions = True
    initialize = {
        "jsonrpc": "2.0", "id": 1, "method": "initialize",
        "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
    }  # fmt: skip
    token = issuer.token(stack.resource())
    sealed = (await stack.post(token, initialize)).headers["mcp-session-id"]
    assert "upstream-1" not in sealed
    assert (await stack.call(token, "look", mcp_session_id=sealed)).status_code == 200
    assert upstream.seen[-1].headers["mcp-session-id"] == "upstream-1"
    before = len(upstream.seen)
    thief = issuer.token(stack.resource(), azp="other", sub="other")
    for stolen in (sealed, "upstream-1", sealed[:-2] + "AA", ""):
        response = await stack.call(thief, "look", mcp_session_id=stolen)
        assert response.status_code == 404
    elsewhere = await stack.call(issuer.token(stack.resource("notes")), "look", "notes", mcp_session_id=sealed)
    assert elsewhere.status_code == 404
    assert len(upstream.seen) == before


async def test_leaving_the_user_out_does_not_lift_what_the_users_role_forbids(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    settings = settings_for(tmp_path, free_port(), {"files": {"url": upstream.url}}, issuer)
    settings["issuers"][0]["claims"]["user"] = "/email"
    async with running(tmp_path, settings) as stack:
        resource = stack.resource()
        forbidden = await stack.call(issuer.token(resource, email="ada@example.com"), "look")
        assert forbidden.status_code == 403
        without = await stack.call(issuer.token(resource), "look")
        assert without.status_code == 401
        assert stack.reasons() == ["user_not_permitted", "claim_missing"]
        assert upstream.seen == []


async def test_no_token_argument_or_result_reaches_the_audit_trail(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    token = issuer.token(stack.resource())
    upstream.extra["tools/call"] = {"content": [{"type": "text", "text": "canary-result"}], "isError": False}
    for tool, status in (("look", 200), ("wipe", 403)):
        body = tool_call(tool, {"password": "canary-argument"})
        response = await stack.post(token, body, mcp_protocol_version="2025-11-25")
        assert response.status_code == status
    assert (await stack.call(f"{token}x", "look")).status_code == 401
    trail = b"".join(path.read_bytes() for path in (stack.directory / "state" / "audit").iterdir())
    assert b"files.look" in trail
    assert b"files.wipe" in trail
    for secret in ("canary-argument", "canary-result", *token.split(".")):
        assert secret.encode() not in trail
