"""Enterprise-managed authorization as the official Python client does it, and as its own client would be refused."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp.client.auth.exceptions import OAuthTokenError
from mcp.client.auth.extensions.identity_assertion import IdentityAssertionOAuthProvider

from harness.issuer import TestIssuer
from harness.stack import Stack, free_port, running, settings_for, tool_call
from harness.upstream import RecordingUpstream
from peers.sdk import Memory
from tokenlab import SECRET

pytestmark = pytest.mark.peer


@pytest.fixture
async def stack(tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream) -> AsyncIterator[Stack]:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    settings = settings_for(tmp_path, free_port(), {"files": {"url": upstream.url}}, None)
    settings["identity_assertions"] = [
        {
            "issuer": issuer.url,
            "tenant": "acme",
            "algorithms": ["ES256"],
            "claims": {"name": "/email", "groups": "/groups"},
        }
    ]
    settings["groups"] = {"finance": {"role": "reader"}}
    settings["agents"] = {
        "acme/reporter": {
            "role": "reader",
            "tasks": ["report"],
            "default_task": "report",
            "bindings": [{"issuer": "embedded", "client_id": "reporter"}],
        }
    }
    settings["clients"] = {
        "reporter": {
            "tenant": "acme",
            "kind": "agent",
            "agent": "acme/reporter",
            "auth": "client_secret",
            "secret_file": str(secret),
            "grants": ["jwt_bearer"],
        }
    }
    async with running(tmp_path, settings) as made:
        yield made


def provider(stack: Stack, issuer: TestIssuer, asked: list[tuple[str, str]], **changes: Any) -> httpx2.Auth:
    """The SDK's provider, whose assertions the company's identity provider signs."""

    async def assertion(audience: str, resource: str) -> str:
        asked.append((audience, resource))
        now = int(time.time())
        claims = {
            "sub": "U019488227",
            "azp": None,
            "tenant": None,
            "client_id": "reporter",
            "resource": resource,
            "exp": now + 60,
            "email": "alice@acme.example",
            "groups": ["finance"],
            **changes,
        }
        return issuer.token(audience, header={"typ": "oauth-id-jag+jwt"}, **claims)

    return IdentityAssertionOAuthProvider(
        server_url=stack.resource(),
        storage=Memory(),
        client_id="reporter",
        client_secret=SECRET,
        issuer=stack.url,
        assertion_provider=assertion,
    )


async def call(stack: Stack, auth: httpx2.Auth) -> httpx2.Response:
    headers = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2025-11-25"}
    async with httpx2.AsyncClient(auth=auth, timeout=20, trust_env=False) as http:
        return await http.post(stack.resource(), json=tool_call("look"), headers=headers)


async def test_the_client_gets_a_token_for_the_person_and_calls_a_tool(stack: Stack, issuer: TestIssuer) -> None:
    asked: list[tuple[str, str]] = []
    response = await call(stack, provider(stack, issuer, asked))
    assert response.status_code == 200
    assert asked == [(stack.url, stack.resource())]
    intent = next(event for event in stack.events() if event["kind"] == "call.intent")
    assert (intent["agent"], intent["user_issuer"]) == ("reporter", stack.url)
    assert [event["kind"] for event in stack.events()].count("user.added") == 1


async def test_a_person_without_a_role_may_call_nothing(stack: Stack, issuer: TestIssuer) -> None:
    response = await call(stack, provider(stack, issuer, [], groups=[]))
    assert response.status_code == 403
    assert stack.reasons()[-1] == "user_not_permitted"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"client_id": "other"}, "grant_invalid"),
        ({"aud": "https://other.example"}, "audience_mismatch"),
        ({"jti": None}, "claim_missing"),
        ({"exp": 1}, "token_expired"),
    ],
)
async def test_a_wrong_assertion_is_refused(
    stack: Stack, issuer: TestIssuer, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(OAuthTokenError, match="invalid_grant"):
        await call(stack, provider(stack, issuer, [], **changes))
    assert stack.reasons()[-1] == reason
