"""Access tokens that are bound to a key (RFC 9449): they are nothing without a proof by it, for this call and token.

Real tokens of an external issuer, the real gateway; a refusal proves that the upstream saw nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from typing import Any

import httpx2
import pytest

from dpoplab import Prover
from harness.issuer import TestIssuer
from harness.stack import FRONTS, Stack, tool_call
from harness.upstream import RecordingUpstream

pytestmark = pytest.mark.parametrize("front", FRONTS, indirect=True)


class Holder:
    """A client that holds a key and a token bound to it."""

    def __init__(self, stack: Stack, issuer: TestIssuer, **claims: Any) -> None:
        self.stack = stack
        self.prover = Prover()
        bound: dict[str, Any] = {"cnf": {"jkt": self.prover.thumbprint}}
        self.token = issuer.token(stack.resource(), **(bound | claims))
        self.nonce: str | None = None

    def proof(self, *, header: Any = None, prover: Prover | None = None, **changes: Any) -> str:
        """A good proof for a call of `files`, but for the changes."""
        digest = urlsafe_b64encode(hashlib.sha256(self.token.encode()).digest()).rstrip(b"=").decode()
        claims = {"htu": self.stack.resource(), "ath": digest, **changes}
        return (prover or self.prover).proof(int(time.time()), self.nonce, header=header, **claims)

    async def learn_nonce(self) -> None:
        self.nonce = (await self.call()).headers["dpop-nonce"]

    async def call(self, proof: str | None = None, **changes: Any) -> httpx2.Response:
        return await self.send({"DPoP": self.proof(**changes) if proof is None else proof})

    async def send(self, headers: Mapping[str, str], scheme: str = "DPoP") -> httpx2.Response:
        every = {"authorization": f"{scheme} {self.token}", "mcp-protocol-version": "2025-11-25", **headers}
        return await self.stack.post(None, tool_call("look"), **every)


@pytest.fixture
async def holder(stack: Stack, issuer: TestIssuer) -> Holder:
    ready = Holder(stack, issuer)
    await ready.learn_nonce()
    return ready


def assert_refused(response: httpx2.Response, upstream: RecordingUpstream, stack: Stack, reason: str) -> None:
    assert (response.status_code, upstream.seen) == (401, [])
    assert stack.reasons()[-1] == reason


async def test_a_bound_token_with_a_proof_by_its_key_is_good(holder: Holder, upstream: RecordingUpstream) -> None:
    response = await holder.call()
    assert (response.status_code, upstream.calls) == (200, ["look"])
    # Each call with a proof of its own.
    assert (await holder.call()).status_code == 200
    # Proof and token stay here.
    assert all(not {"dpop", "authorization"} & seen.headers.keys() for seen in upstream.seen)


async def test_a_proof_needs_our_nonce_and_is_told_it(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    holder = Holder(stack, issuer)
    response = await holder.call()
    assert_refused(response, upstream, stack, "proof_nonce_required")
    challenge = response.headers["www-authenticate"]
    assert challenge.startswith('DPoP error="use_dpop_nonce"')
    assert 'algs="ES256 ' in challenge
    assert f'resource_metadata="{stack.url}/.well-known/oauth-protected-resource/mcp/files"' in challenge
    metadata = (await stack.http.get(f"{stack.url}/.well-known/oauth-protected-resource/mcp/files")).json()
    assert "ES256" in metadata["dpop_signing_alg_values_supported"]
    holder.nonce = response.headers["dpop-nonce"]
    assert (await holder.call()).status_code == 200


@pytest.mark.parametrize("nonce", ["x", "Z" * 24])
async def test_an_old_or_made_up_nonce_is_refused(
    holder: Holder, stack: Stack, upstream: RecordingUpstream, nonce: str
) -> None:
    holder.nonce = nonce
    assert_refused(await holder.call(), upstream, stack, "proof_nonce_required")


async def test_a_stolen_bound_token_is_worth_nothing_without_the_key(
    holder: Holder, stack: Stack, upstream: RecordingUpstream
) -> None:
    assert_refused(await holder.send({}, "Bearer"), upstream, stack, "token_binding_refused")
    thief = Prover()
    assert_refused(await holder.call(prover=thief), upstream, stack, "token_binding_refused")
    # The thief's proof with the owner's public key in its header.
    forged = holder.proof(prover=thief, header={"jwk": holder.prover.jwk})
    assert_refused(await holder.call(forged), upstream, stack, "proof_refused")


async def test_schemes_are_not_mixed(holder: Holder, stack: Stack, upstream: RecordingUpstream) -> None:
    for headers, scheme in (({}, "DPoP"), ({"DPoP": holder.proof()}, "Bearer"), ({"DPoP": ""}, "DPoP")):
        response = await holder.send(headers, scheme)
        assert response.status_code in (400, 401)
    assert upstream.seen == []


async def test_a_proof_beside_an_unbound_token_is_refused_not_ignored(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    holder = Holder(stack, issuer, cnf=None)
    await holder.learn_nonce()
    assert_refused(await holder.call(), upstream, stack, "token_binding_refused")


async def test_a_proof_is_good_once(holder: Holder, stack: Stack, upstream: RecordingUpstream) -> None:
    proof = holder.proof()
    assert (await holder.call(proof)).status_code == 200
    upstream.seen.clear()
    assert_refused(await holder.call(proof), upstream, stack, "proof_refused")


async def test_of_many_at_once_with_one_proof_one_wins(holder: Holder, upstream: RecordingUpstream) -> None:
    proof = holder.proof()
    answers = await asyncio.gather(*(holder.call(proof) for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 19
    assert upstream.calls == ["look"]


@pytest.mark.parametrize(
    "changes",
    [
        {"htm": "GET"},
        {"htm": "post"},
        {"htm": None},
        {"htu": "http://localhost/mcp/files"},
        {"htu": None},
        {"ath": None},
        {"ath": "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo"},
        {"iat": 1},
        {"iat": None},
        {"jti": None},
        {"header": {"typ": "JWT"}},
        {"header": {"alg": "none"}},
        {"header": {"jwk": None}},
        {"header": {"kid": "k", "jku": "https://evil.example"}},
    ],
)
async def test_a_proof_for_something_else_is_refused(
    holder: Holder, stack: Stack, upstream: RecordingUpstream, changes: dict[str, Any]
) -> None:
    response = await holder.call(**changes)
    assert_refused(response, upstream, stack, "proof_refused")
    assert response.headers["www-authenticate"].startswith('DPoP error="invalid_dpop_proof"')


async def test_a_proof_for_another_server_or_the_token_endpoint_is_refused(
    holder: Holder, stack: Stack, upstream: RecordingUpstream
) -> None:
    for address in (f"{stack.url}/mcp/other", f"{stack.url}/token", f"{stack.url}/mcp/files/", stack.url):
        assert_refused(await holder.call(htu=address), upstream, stack, "proof_refused")
    # The query is no part of it (RFC 9449 section 4.3, point 9).
    assert (await holder.call(htu=f"{stack.resource()}?a=b#c")).status_code == 200


@pytest.mark.parametrize("cnf", [{}, {"jkt": ""}, {"jkt": 5}, {"x5t#S256": "x"}, {"kid": "x"}, "x", []])
async def test_a_confirmation_that_is_not_understood_is_one_that_nobody_proved(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream, cnf: object
) -> None:
    holder = Holder(stack, issuer, cnf=cnf)
    for headers, scheme in (({}, "Bearer"), ({"DPoP": holder.proof()}, "DPoP")):
        assert (await holder.send(headers, scheme)).status_code == 401
    assert upstream.seen == []


async def test_a_second_confirmation_beside_the_key_must_be_proven_too(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    holder = Holder(stack, issuer)
    await holder.learn_nonce()
    both = {"jkt": holder.prover.thumbprint, "x5t#S256": "x"}
    holder.token = issuer.token(stack.resource(), cnf=both)
    assert_refused(await holder.call(), upstream, stack, "token_binding_refused")


async def test_strangers_cannot_use_up_what_only_good_callers_may(
    holder: Holder, stack: Stack, issuer: TestIssuer
) -> None:
    # The owner's own identifier, by a stranger with another key and a token that is not good.
    owner_proof = holder.proof(jti="the-one")
    stranger = Holder(stack, issuer, exp=1, iat=0)
    stranger.nonce = holder.nonce
    assert (await stranger.call(jti="the-one")).status_code == 401
    assert (await holder.call(owner_proof)).status_code == 200


async def test_sessions_take_bound_tokens_the_same_way(stack: Stack, issuer: TestIssuer) -> None:
    holder = Holder(stack, issuer)
    address = f"{stack.url}/sessions"
    holder.token = issuer.token(address, cnf={"jkt": holder.prover.thumbprint})

    async def declare(**changes: Any) -> httpx2.Response:
        headers = {"authorization": f"DPoP {holder.token}", "dpop": holder.proof(**{"htu": address, **changes})}
        return await stack.http.post(address, json={"task": "report"}, headers=headers)

    first = await declare()
    assert first.status_code == 401
    holder.nonce = first.headers["dpop-nonce"]
    assert (await declare()).status_code == 200
    assert (await declare(htu=stack.resource())).status_code == 401
    bearer = {"authorization": f"Bearer {holder.token}"}
    assert (await stack.http.post(address, json={"task": "report"}, headers=bearer)).status_code == 401
