"""Access tokens that are bound to a client certificate (RFC 8705 section 3): good on its connections, and nowhere else.

Real tokens of an external issuer, the real gateway over TLS; a refusal proves that the upstream saw nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2
import pytest

from certlab import HOUR, Authority, Certificate
from dpoplab import Prover
from harness.issuer import TestIssuer
from harness.stack import Stack, free_port, running, settings_for, tool_call
from harness.upstream import RecordingUpstream
from twogate.adapters.clock import SystemClock
from twogate.config import ConfigError
from twogate.core.oauth.access_token import encode_base64url


@dataclass(frozen=True)
class Authorities:
    """The authority of the gateway's own certificate, and that of the agents'."""

    servers: Authority
    agents: Authority
    server: Certificate
    agent: Certificate
    other: Certificate

    def client(self, certificate: Certificate | None = None) -> ssl.SSLContext:
        return self.servers.client(certificate)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Authorities:
    directory = tmp_path_factory.mktemp("pki")
    servers, agents = Authority(directory, "servers"), Authority(directory, "agents")
    server = servers.issue("server", server=True)
    return Authorities(servers, agents, server, agents.issue("robot"), agents.issue("other"))


def over_tls(
    directory: Path, pki: Authorities, issuer: TestIssuer, upstream: RecordingUpstream, **tls: Any
) -> dict[str, Any]:
    port = free_port()
    settings = settings_for(directory, port, {"files": {"url": upstream.url}}, issuer)
    settings["public_url"] = f"https://localhost:{port}"
    settings["tls"] = {
        "certificate": str(pki.server.certificate_file), "key": str(pki.server.key_file),
        "client_ca": str(pki.agents.file), **tls,
    }  # fmt: skip
    return settings


class Edge:
    """A gateway over TLS, and clients of it with one certificate or none. Each call is a connection of its own."""

    def __init__(self, stack: Stack, issuer: TestIssuer, pki: Authorities, upstream: RecordingUpstream) -> None:
        self.stack, self.issuer, self.pki, self.upstream = stack, issuer, pki, upstream

    def token(self, certificate: Certificate | None = None, **claims: Any) -> str:
        bound = {} if certificate is None else {"cnf": {"x5t#S256": certificate.thumbprint}}
        return self.issuer.token(self.stack.resource(), **(bound | claims))

    async def call(self, token: str, certificate: Certificate | None = None, **headers: str) -> httpx2.Response:
        async with self.connected(certificate) as http:
            return await self.over(http, token, **headers)

    async def over(self, http: httpx2.AsyncClient, token: str, **headers: str) -> httpx2.Response:
        sent = {
            "authorization": f"Bearer {token}", "accept": "application/json, text/event-stream",
            "mcp-protocol-version": "2025-11-25", **headers,
        }  # fmt: skip
        return await http.post(self.stack.resource(), json=tool_call("look"), headers=sent)

    @asynccontextmanager
    async def connected(self, certificate: Certificate | None = None) -> AsyncIterator[httpx2.AsyncClient]:
        async with httpx2.AsyncClient(verify=self.pki.client(certificate), trust_env=False, timeout=20) as http:
            yield http

    def assert_refused(self, response: httpx2.Response, reason: str = "token_binding_refused") -> None:
        assert response.status_code == (400 if reason == "credential_ambiguous" else 401)
        # The same refusal of one address, again and again, is one event.
        assert reason in self.stack.reasons()
        assert ("use_dpop_nonce" in response.headers.get("www-authenticate", ""), self.upstream.seen) == (False, [])


@pytest.fixture
async def edge(
    tmp_path: Path, pki: Authorities, issuer: TestIssuer, upstream: RecordingUpstream
) -> AsyncIterator[Edge]:
    async with running(tmp_path, over_tls(tmp_path, pki, issuer, upstream)) as stack:
        yield Edge(stack, issuer, pki, upstream)


async def test_a_token_is_good_on_every_connection_with_its_certificate(edge: Edge, pki: Authorities) -> None:
    token = edge.token(pki.agent)
    async with edge.connected(pki.agent) as http:
        for _ in range(2):
            assert (await edge.over(http, token)).status_code == 200
    assert (await edge.call(token, pki.agent)).status_code == 200
    assert edge.upstream.calls == ["look"] * 3
    # Without client certificates all is as before.
    assert (await edge.call(edge.token())).status_code == 200


async def test_a_stolen_token_is_worth_nothing_without_the_certificate(edge: Edge, pki: Authorities) -> None:
    token = edge.token(pki.agent)
    assert (await edge.call(token, pki.agent)).status_code == 200  # it is in the cache now
    edge.upstream.seen.clear()
    refused = await edge.call(token)
    edge.assert_refused(refused)
    assert refused.headers["www-authenticate"].startswith('Bearer error="invalid_token"')
    edge.assert_refused(await edge.call(token, pki.other))


async def test_another_certificate_of_the_same_name_or_key_is_another_one(edge: Edge, pki: Authorities) -> None:
    token = edge.token(pki.agent)
    for twin in (pki.agents.issue("robot"), pki.agents.issue("robot", key=pki.agent.key)):
        edge.assert_refused(await edge.call(token, twin))
    assert (await edge.call(token, pki.agent)).status_code == 200


async def test_a_certificate_beside_a_token_that_is_not_bound_to_it_is_refused_not_ignored(
    edge: Edge, pki: Authorities
) -> None:
    edge.assert_refused(await edge.call(edge.token(), pki.agent))


async def with_proof(edge: Edge, token: str, prover: Prover, certificate: Certificate | None) -> httpx2.Response:
    """A call with a good proof, after learning the nonce."""
    digest = encode_base64url(hashlib.sha256(token.encode()).digest())
    async with edge.connected(certificate) as http:

        async def call(nonce: str | None) -> httpx2.Response:
            proof = prover.proof(int(time.time()), nonce, htu=edge.stack.resource(), ath=digest)
            return await edge.over(http, token, authorization=f"DPoP {token}", dpop=proof)

        return await call((await call(None)).headers["dpop-nonce"])


async def test_a_token_that_is_bound_to_a_key_and_a_certificate_needs_both(edge: Edge, pki: Authorities) -> None:
    owner = Prover()
    token = edge.token(cnf={"jkt": owner.thumbprint, "x5t#S256": pki.agent.thumbprint})
    edge.assert_refused(await edge.call(token))
    edge.assert_refused(await edge.call(token, pki.agent))
    edge.assert_refused(await with_proof(edge, token, owner, None))
    edge.assert_refused(await with_proof(edge, token, owner, pki.other))
    edge.assert_refused(await with_proof(edge, token, Prover(), pki.agent))
    assert (await with_proof(edge, token, owner, pki.agent)).status_code == 200


async def test_one_binding_does_not_stand_for_the_other(edge: Edge, pki: Authorities) -> None:
    owner = Prover()
    edge.assert_refused(await with_proof(edge, edge.token(cnf={"jkt": owner.thumbprint}), owner, pki.agent))
    edge.assert_refused(await with_proof(edge, edge.token(pki.agent), owner, pki.agent))
    # Nor does the thumbprint of one kind in the place of the other.
    edge.assert_refused(await edge.call(edge.token(cnf={"jkt": pki.agent.thumbprint}), pki.agent))
    swapped = edge.token(cnf={"x5t#S256": owner.thumbprint})
    edge.assert_refused(await with_proof(edge, swapped, owner, None))


async def test_a_confirmation_with_anything_else_in_it_is_refused(edge: Edge, pki: Authorities) -> None:
    right = pki.agent.thumbprint
    raw = hashlib.sha256(pki.agent.der).digest()
    for cnf in (
        {"x5t#S256": right, "kid": "x"},
        {"x5t#S256": right, "jwk": {}},
        {"x5t#S256": right, "jkt": None},
        {"x5t": encode_base64url(hashlib.sha1(pki.agent.der, usedforsecurity=False).digest())},
        {"X5T#S256": right},
        {"x5t#S256": f"{right}="},
        {"x5t#S256": b64encode(raw).decode()},
        {"x5t#S256": raw.hex()},
        {"x5t#S256": right.swapcase()},
        {"x5t#S256": right[:-1]},
        {"x5t#S256": f"{right} "},
        {"x5t#S256": [right]},
        {"x5t#S256": ""},
        {"x5t#S256": 0},
        {"x5t#S256": "\u00e9"},
        {"x5t#S256": "\ud800"},
        [{"x5t#S256": right}],
        right,
        {},
    ):
        response = await edge.call(edge.token(cnf=cnf), pki.agent)
        assert (response.status_code, edge.upstream.seen) == (401, []), cnf
    assert (await edge.call(edge.token(pki.agent), pki.agent)).status_code == 200


def header_forms(certificate: Certificate) -> Mapping[str, str]:
    """A certificate as proxies forward it."""
    pem, der = certificate.pem.decode(), b64encode(certificate.der).decode()
    digest = hashlib.sha256(certificate.der).hexdigest()
    return {
        "x-forwarded-client-cert": f'Hash={digest};Cert="{quote(pem)}"',
        "client-cert": f":{der}:",
        "client-cert-chain": f":{der}:",
        "ssl-client-cert": quote(pem),
        "x-ssl-client-cert": quote(pem),
        "x-client-cert": der,
    }


async def test_a_certificate_in_a_header_proves_nothing(edge: Edge, pki: Authorities) -> None:
    token = edge.token(pki.agent)
    for name, value in header_forms(pki.agent).items():
        for certificate in (None, pki.other, pki.agent):
            response = await edge.call(token, certificate, **{name: value})
            edge.assert_refused(response, "credential_ambiguous")
    for name in ("ssl-client-verify", "x-client-cert-hash", "x-amzn-mtls-clientcert-leaf"):
        edge.assert_refused(await edge.call(token, None, **{name: pki.agent.thumbprint}))


async def test_only_good_certificates_of_the_named_authorities_get_through_the_handshake(
    edge: Edge, pki: Authorities, tmp_path: Path
) -> None:
    for certificate in (
        pki.agents.issue("expired", start=-2 * HOUR, end=-HOUR),
        pki.agents.issue("early", start=HOUR),
        pki.agents.issue("robot", server=True),  # for servers only
        Authority(tmp_path, "agents").issue("robot"),  # an authority of the same name
        pki.server,
    ):
        # However well the token fits.
        with pytest.raises((httpx2.TransportError, ssl.SSLError)):
            await edge.call(edge.token(certificate), certificate)
    assert (edge.upstream.seen, edge.stack.reasons()) == ([], [])


def raw_call(sock: ssl.SSLSocket, token: str, host: str) -> int:
    """The status of one call over an open connection."""
    body = json.dumps(tool_call("look")).encode()
    head = (
        f"POST /mcp/files HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"
        f"MCP-Protocol-Version: 2025-11-25\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    sock.sendall(head.encode() + body)
    answer = b""
    while piece := sock.recv(65536):
        answer += piece
    return int(answer.split(b" ", 2)[1])


async def test_a_session_is_not_resumed_with_the_certificate_of_an_earlier_connection(
    edge: Edge, pki: Authorities
) -> None:
    token, host = edge.token(pki.agent), urlsplit(edge.stack.url).netloc
    owners, thiefs = pki.client(pki.agent), pki.client()

    def connect(context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", int(host.partition(":")[2])), timeout=20)
        return context.wrap_socket(plain, server_hostname="localhost", session=session)

    def calls() -> list[int]:
        with connect(owners) as first:
            statuses = [raw_call(first, token, host)]
            session = first.session
        # By the very client that has the session, and by one that never had the certificate.
        with connect(owners, session) as second:
            assert not second.session_reused
            statuses.append(raw_call(second, token, host))
        with connect(thiefs) as third:
            statuses.append(raw_call(third, token, host))
        return statuses

    assert await asyncio.to_thread(calls) == [200, 200, 401]
    assert (edge.upstream.calls, edge.stack.reasons()) == (["look"] * 2, ["token_binding_refused"])


async def test_sessions_take_bound_tokens_the_same_way(edge: Edge, pki: Authorities) -> None:
    address = f"{edge.stack.url}/sessions"
    token = edge.issuer.token(address, cnf={"x5t#S256": pki.agent.thumbprint})
    unbound = edge.issuer.token(address)
    for certificate, shown, expected in (
        (None, token, 401),
        (pki.other, token, 401),
        (pki.agent, unbound, 401),
        (pki.agent, token, 200),
    ):
        async with edge.connected(certificate) as http:
            headers = {"authorization": f"Bearer {shown}"}
            response = await http.post(address, json={"task": "report"}, headers=headers)
        assert response.status_code == expected
    assert set(edge.stack.reasons()) == {"token_binding_refused"}


async def test_an_opaque_token_can_be_bound_to_a_certificate(
    tmp_path: Path, pki: Authorities, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    settings = over_tls(tmp_path, pki, issuer, upstream)
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    secret.chmod(0o600)
    [entry] = settings["issuers"]
    entry |= {"validate": "introspect", "introspection": {"client_id": "us", "client_secret_file": str(secret)}}
    del entry["algorithms"]
    async with running(tmp_path, settings) as stack:
        edge = Edge(stack, issuer, pki, upstream)
        # RFC 8705 section 3.2.
        said = {"active": True, "token_type": "Bearer", "cnf": {"x5t#S256": pki.agent.thumbprint}}
        issuer.introspection["opaque"] = {**issuer.claims(stack.resource()), **said}
        for certificate in (None, pki.other):
            edge.assert_refused(await edge.call("opaque", certificate))
        assert (await edge.call("opaque", pki.agent)).status_code == 200


async def test_a_binding_that_only_the_issuers_answer_tells_is_not_passed_over(
    tmp_path: Path, pki: Authorities, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    settings = over_tls(tmp_path, pki, issuer, upstream)
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    secret.chmod(0o600)
    [entry] = settings["issuers"]
    entry |= {"validate": "both", "introspection": {"client_id": "us", "client_secret_file": str(secret)}}
    async with running(tmp_path, settings) as stack:
        edge = Edge(stack, issuer, pki, upstream)
        bound, active = {"x5t#S256": pki.agent.thumbprint}, {"active": True, "token_type": "Bearer"}
        for cnf in (bound, {"jkt": "x" * 43}, {}, "x"):
            token = edge.token(jti=str(cnf))
            issuer.introspection[token] = {**active, "cnf": cnf}
            for certificate in (None, pki.agent):
                edge.assert_refused(await edge.call(token, certificate))
        # What both say, and what only the token says, is the binding.
        for number, said in enumerate(({"cnf": bound}, {})):
            token = edge.token(pki.agent, jti=f"good {number}")
            issuer.introspection[token] = {**active, **said}
            assert (await edge.call(token, pki.agent)).status_code == 200


async def test_where_certificates_are_required_a_token_must_be_bound_to_them(
    tmp_path: Path, pki: Authorities, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    settings = over_tls(tmp_path, pki, issuer, upstream, client_certificate="required")
    async with running(tmp_path, settings) as stack:
        edge = Edge(stack, issuer, pki, upstream)
        with pytest.raises((httpx2.TransportError, ssl.SSLError)):
            await edge.call(edge.token())
        edge.assert_refused(await edge.call(edge.token(), pki.agent))
        assert (await edge.call(edge.token(pki.agent), pki.agent)).status_code == 200


class Ahead(SystemClock):
    """Unix time as it will be."""

    ahead = 0

    def now(self) -> int:
        return super().now() + self.ahead


async def test_a_certificate_that_expires_on_an_open_connection_is_good_no_longer(
    tmp_path: Path, pki: Authorities, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    clock, short = Ahead(), pki.agents.issue("robot", end=HOUR / 6)
    async with running(tmp_path, over_tls(tmp_path, pki, issuer, upstream), clock) as stack:
        edge = Edge(stack, issuer, pki, upstream)
        token = edge.token(short, exp=int(time.time()) + 3000)
        async with edge.connected(short) as http:
            assert (await edge.over(http, token)).status_code == 200
            upstream.seen.clear()
            clock.ahead = 700
            edge.assert_refused(await edge.over(http, token))


async def test_client_certificates_without_their_authorities_are_an_error(
    tmp_path: Path, pki: Authorities, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    settings = over_tls(tmp_path, pki, issuer, upstream, client_certificate="required")
    del settings["tls"]["client_ca"]
    with pytest.raises(ConfigError, match="client_ca"):
        async with running(tmp_path, settings):
            pass
