"""Paths, methods and bodies that the control plane does not have: refused by the one table, with every header."""

from __future__ import annotations

import pytest

from harness.issuer import TestIssuer
from harness.stack import Stack
from harness.upstream import RecordingUpstream


@pytest.mark.parametrize(
    ("method", "path", "status", "error"),
    [
        ("GET", "/", 404, "invalid_request"),
        ("GET", "/nothing", 404, "invalid_request"),
        ("GET", "/mcp", 404, "invalid_request"),
        ("GET", "/.well-known/openid-configuration/mcp/files", 404, "invalid_request"),
        ("GET", "/.well-known/oauth-protected-resource/mcp/unknown", 404, "invalid_request"),
        ("GET", "/token/", 404, "invalid_request"),
        ("POST", "/register", 404, "invalid_request"),
        ("PUT", "/sessions", 405, "invalid_request"),
        ("GET", "/operations/tokens", 405, "invalid_request"),
        ("DELETE", "/sessions", 405, "invalid_request"),
        ("GET", "/token", 405, "invalid_request"),
        ("PUT", "/healthz", 405, "invalid_request"),
    ],
)
async def test_what_does_not_exist_is_refused_with_every_security_header(
    stack: Stack, upstream: RecordingUpstream, method: str, path: str, status: int, error: str
) -> None:
    response = await stack.http.request(method, stack.url + path)
    assert (response.status_code, response.json()["error"]) == (status, error)
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert ("allow" in response.headers) == (status == 405)
    assert upstream.seen == []


async def test_a_declaration_larger_than_its_cap_is_refused(stack: Stack, issuer: TestIssuer) -> None:
    token = issuer.token(f"{stack.url}/sessions")
    body = b'{"task": "' + b"x" * 8192 + b'"}'
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    response = await stack.http.post(f"{stack.url}/sessions", content=body, headers=headers)
    assert response.status_code == 413
    assert stack.reasons() == ["too_large"]


async def test_a_declaration_is_read_only_after_gate_one(stack: Stack) -> None:
    response = await stack.http.post(f"{stack.url}/sessions", content=b"x" * 8192)
    assert response.status_code == 401
    assert stack.reasons() == ["credential_missing"]
