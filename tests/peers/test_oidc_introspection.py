"""`oidc-provider` of npm as an issuer that is asked: its opaque tokens, its revocations, its tokens bound to a key."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

import processlab
from dpoplab import Prover
from harness.stack import Stack, free_port, running, settings_for, tool_call
from harness.upstream import RecordingUpstream
from peers.oidcprovider import OPAQUE, OidcProvider
from twogate.core.oauth.access_token import encode_base64url

pytestmark = pytest.mark.peer

ASKING = "ES256"
"""The provider's client as which the gateway asks."""


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[OidcProvider]:
    directory, port = tmp_path / "provider", free_port()
    processlab.init(directory, {}, port=port)
    resource = f"http://localhost:{port}/mcp/files"
    made = OidcProvider(directory, free_port(), [resource], {"tenant": "acme"}, {})
    made.add_key("es256-1", "ES256")
    made.start()
    try:
        yield made
    finally:
        made.stop()


def configuration(directory: Path, provider: OidcProvider, upstream: RecordingUpstream, how: str) -> dict[str, Any]:
    port = int(provider.resources[0].split("/")[2].rpartition(":")[2])
    settings = settings_for(directory, port, {"files": {"url": upstream.url}}, None)
    key = provider.write_assertion_key(directory / "introspection.pem")
    settings["issuers"] = [
        {
            "issuer": provider.issuer, "ca": str(provider.ca), "tenants": ["acme"], "types": ["at+jwt"],
            "validate": how, "claims": {"agent": "/client_id", "tenant": "/tenant"},
            "introspection": {"client_id": ASKING, "private_key_file": str(key), "cache": "1s"},
            **({} if how == "introspect" else {"algorithms": ["ES256"]}),
        }
    ]  # fmt: skip
    settings["agents"] = {
        "acme/robot": {
            "role": "executor", "tasks": ["report"], "default_task": "report",
            "bindings": [{"issuer": provider.issuer, "client_id": client} for client in (OPAQUE, "ES256")],
        }
    }  # fmt: skip
    return settings


async def until_refused(stack: Stack, token: str) -> str:
    """Call until the issuer's earlier word is too old; the reason of the refusal."""
    deadline = time.monotonic() + processlab.PATIENCE
    while (await stack.call(token, "look")).status_code == 200:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    reason: str = stack.reasons()[-1]
    return reason


async def with_proof(stack: Stack, token: str, prover: Prover) -> httpx2.Response:
    """A call with a fresh proof, after learning the nonce."""
    digest = encode_base64url(hashlib.sha256(token.encode()).digest())
    nonce, response = None, None
    for _ in range(2):
        proof = prover.proof(int(time.time()), nonce, htu=stack.resource(), ath=digest)
        headers = {"authorization": f"DPoP {token}", "dpop": proof, "mcp-protocol-version": "2025-11-25"}
        response = await stack.post(None, tool_call("look"), **headers)
        nonce = response.headers.get("dpop-nonce")
    assert response is not None
    return response


async def test_its_opaque_tokens_are_good_until_it_takes_them_back(
    tmp_path: Path, provider: OidcProvider, upstream: RecordingUpstream
) -> None:
    async with running(tmp_path, configuration(tmp_path, provider, upstream, "introspect")) as stack:
        token = provider.token(OPAQUE, stack.resource())
        assert "." not in token
        assert (await stack.call(token, "look")).status_code == 200
        assert upstream.calls == ["look"]
        [intent] = [event for event in stack.events() if event["kind"] == "call.intent"]
        assert (intent["agent"], intent["tenant"]) == ("robot", "acme")
        provider.take_back(OPAQUE, token)
        assert await until_refused(stack, token) == "token_revoked"
        for made_up in (token[:-1], token[::-1], f"{token}x"):
            assert (await stack.call(made_up, "look")).status_code == 401


async def test_with_both_a_jwt_that_it_says_nothing_of_is_refused(
    tmp_path: Path, provider: OidcProvider, upstream: RecordingUpstream
) -> None:
    async with running(tmp_path, configuration(tmp_path, provider, upstream, "both")) as stack:
        # It looks up no JWTs, and answers 400 to whoever asks about one; the signature alone does not do.
        assert (await stack.call(provider.token("ES256", stack.resource()), "look")).status_code == 503
        assert (stack.reasons()[-1], upstream.seen) == ("identity_provider_unavailable", [])


async def test_while_it_is_away_its_tokens_are_refused(
    tmp_path: Path, provider: OidcProvider, upstream: RecordingUpstream
) -> None:
    async with running(tmp_path, configuration(tmp_path, provider, upstream, "introspect")) as stack:
        token = provider.token(OPAQUE, stack.resource())
        provider.stop()
        response = await stack.call(token, "look")
        assert (response.status_code, upstream.seen) == (503, [])


@pytest.mark.parametrize(("client", "how"), [("ES256", "jwt"), (OPAQUE, "introspect")])
async def test_its_tokens_that_are_bound_to_a_key_need_a_proof_by_it(
    tmp_path: Path, provider: OidcProvider, upstream: RecordingUpstream, client: str, how: str
) -> None:
    settings = configuration(tmp_path, provider, upstream, how)
    if how == "jwt":
        del settings["issuers"][0]["introspection"]
    async with running(tmp_path, settings) as stack:
        owner, thief = Prover(), Prover()
        token = provider.bound_token(client, stack.resource(), owner)
        assert (await stack.call(token, "look")).status_code == 401
        assert (await with_proof(stack, token, thief)).status_code == 401
        assert upstream.seen == []
        assert (await with_proof(stack, token, owner)).status_code == 200
        assert upstream.calls == ["look"]
