"""`oidc-provider` of npm binds its tokens to client certificates (RFC 8705); a real gateway over TLS enforces it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

import processlab
from certlab import Authority, Certificate
from harness.stack import free_port, running, settings_for, tool_call
from harness.upstream import RecordingUpstream
from peers.oidcprovider import CERTIFIED, CERTIFIED_OPAQUE, OidcProvider
from processlab import Gateway, cli_json, request_headers

pytestmark = pytest.mark.peer


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[OidcProvider]:
    """The provider, for a gateway on a port that is free."""
    directory, port = tmp_path / "provider", free_port()
    processlab.init(directory, {}, port=port)
    made = OidcProvider(directory, free_port(), [f"https://localhost:{port}/mcp/files"], {"tenant": "acme"}, {})
    made.add_key("es256-1", "ES256")
    made.start()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority of the agents' certificates."""
    return Authority(tmp_path_factory.mktemp("agents"), "agents")


def configuration(
    directory: Path, provider: OidcProvider, upstream: RecordingUpstream, agents: Authority
) -> dict[str, Any]:
    """A gateway with the certificate that the provider has, too."""
    port = int(provider.resources[0].split("/")[2].rpartition(":")[2])
    settings = settings_for(directory, port, {"files": {"url": upstream.url}}, None)
    settings["public_url"] = f"https://localhost:{port}"
    own = provider.ca.parent
    settings["tls"] = {"certificate": f"{own}/server.pem", "key": f"{own}/server.key", "client_ca": str(agents.file)}
    settings["issuers"] = [
        {
            "issuer": provider.issuer, "ca": str(provider.ca), "tenants": ["acme"], "algorithms": ["ES256"],
            "claims": {"agent": "/client_id", "tenant": "/tenant"},
        }
    ]  # fmt: skip
    settings["agents"] = {
        "acme/robot": {
            "role": "executor", "tasks": ["report"], "default_task": "report",
            "bindings": [
                {"issuer": provider.issuer, "client_id": client} for client in (CERTIFIED, CERTIFIED_OPAQUE, "ES256")
            ],
        }
    }  # fmt: skip
    return settings


def client(provider: OidcProvider, certificate: Certificate | None = None) -> httpx2.AsyncClient:
    context = ssl.create_default_context(cafile=str(provider.ca))
    if certificate is not None:
        context.load_cert_chain(certificate.certificate_file, certificate.key_file)
    return httpx2.AsyncClient(verify=context, trust_env=False, timeout=processlab.PATIENCE)


async def look(http: httpx2.AsyncClient, provider: OidcProvider, token: str) -> int:
    sent = await http.post(provider.resources[0], json=tool_call("look"), headers=request_headers(token))
    return sent.status_code


async def test_a_real_process_takes_its_bound_tokens_with_the_certificate_alone(
    tmp_path: Path, provider: OidcProvider, upstream: RecordingUpstream, agents: Authority
) -> None:
    owner, thief = agents.issue("robot"), agents.issue("robot")
    settings = configuration(tmp_path, provider, upstream, agents)
    config = tmp_path / "twogate.yaml"
    config.write_text(json.dumps(settings))
    token = await asyncio.to_thread(provider.bound_token, CERTIFIED, provider.resources[0], None, owner)
    unbound = await asyncio.to_thread(provider.token, "ES256", provider.resources[0])
    gateway = Gateway(tmp_path)
    with processlab.serving(tmp_path, gateway):
        async with client(provider, owner) as with_it, client(provider, thief) as other, client(provider) as without:
            assert [await look(http, provider, token) for http in (with_it, other, without)] == [200, 401, 401]
            assert [await look(http, provider, unbound) for http in (with_it, without)] == [401, 200]
            assert upstream.calls == ["look"] * 2
            # From the reload on nobody's certificate of the earlier authority is good, on open connections neither.
            replaced = Authority(tmp_path, "replaced")
            settings["tls"] |= {"client_ca": str(replaced.file), "client_certificate": "required"}
            config.write_text(json.dumps(settings))
            await asyncio.to_thread(cli_json, "reload", "--config", config)
            deadline = time.monotonic() + processlab.PATIENCE
            with contextlib.suppress(httpx2.TransportError, ssl.SSLError):
                while await look(with_it, provider, token):
                    assert time.monotonic() < deadline, "the connection of before goes on"
            with pytest.raises((httpx2.TransportError, ssl.SSLError)):
                await look(with_it, provider, token)
        renewed = replaced.issue("robot")
        token = await asyncio.to_thread(provider.bound_token, CERTIFIED, provider.resources[0], None, renewed)
        async with client(provider, renewed) as http:
            assert await look(http, provider, token) == 200
    reasons = {event["reason"] for event in gateway.events() if event.get("reason")}
    assert reasons == {"token_binding_refused"}


async def test_its_opaque_tokens_are_bound_by_what_it_says_of_them(
    tmp_path: Path, provider: OidcProvider, upstream: RecordingUpstream, agents: Authority
) -> None:
    owner, thief = agents.issue("robot"), agents.issue("other")
    settings = configuration(tmp_path, provider, upstream, agents)
    key = provider.write_assertion_key(tmp_path / "introspection.pem")
    [entry] = settings["issuers"]
    entry |= {"validate": "introspect", "introspection": {"client_id": "ES256", "private_key_file": str(key)}}
    del entry["algorithms"]
    async with running(tmp_path, settings) as stack:
        token = await asyncio.to_thread(provider.bound_token, CERTIFIED_OPAQUE, stack.resource(), None, owner)
        assert "." not in token
        async with client(provider, owner) as with_it, client(provider, thief) as other, client(provider) as without:
            assert [await look(http, provider, token) for http in (other, without)] == [401, 401]
            assert (upstream.seen, set(stack.reasons())) == ([], {"token_binding_refused"})
            assert await look(with_it, provider, token) == 200
