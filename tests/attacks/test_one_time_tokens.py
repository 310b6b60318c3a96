"""Tokens that are good for one request (`one_time`): a second use is refused, wherever and however soon it comes.

Real tokens of an external issuer, real gateways over one store; a refusal proves that the upstream saw nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import text

from certlab import Authority
from dpoplab import Prover
from exchangelab import open_exchange_lab
from harness.issuer import TestIssuer
from harness.stack import Stack, free_port, running, settings_for, tool_call
from harness.upstream import RecordingUpstream
from processlab import here_json
from twogate.adapters.clock import SystemClock
from twogate.core.jose.claims import MAX_STRING
from twogate.core.oauth.access_token import encode_base64url


@pytest.fixture
async def second() -> AsyncIterator[TestIssuer]:
    """Another trusted issuer, whose tokens are good once too."""
    async with TestIssuer() as made:
        yield made


@pytest.fixture
def settings(
    tmp_path: Path,
    issuer: TestIssuer,
    second: TestIssuer,
    upstream: RecordingUpstream,
    other_upstream: RecordingUpstream,
) -> dict[str, Any]:
    servers = {"files": {"url": upstream.url}, "notes": {"url": other_upstream.url}}
    made = settings_for(tmp_path, free_port(), servers, issuer)
    [first] = made["issuers"]
    first["one_time"] = True
    made["issuers"].append({**first, "issuer": second.url, "jwks_uri": f"{second.url}/jwks"})
    made["agents"]["acme/other"]["bindings"] = [{"issuer": second.url, "subject": "robot"}]
    return made


@pytest.fixture
async def gateway(tmp_path: Path, settings: dict[str, Any]) -> AsyncIterator[Stack]:
    async with running(tmp_path, settings) as made:
        yield made


async def assert_refused(
    stack: Stack, upstream: RecordingUpstream, token: str, reason: str = "token_used", server: str = "files"
) -> None:
    before = len(upstream.seen)
    response = await stack.call(token, "look", server)
    assert (response.status_code, len(upstream.seen)) == (401, before)
    assert response.headers["www-authenticate"].startswith('Bearer error="invalid_token"')
    assert reason in stack.reasons()


async def test_a_token_is_good_for_one_request(gateway: Stack, issuer: TestIssuer, upstream: RecordingUpstream) -> None:
    token = issuer.token(gateway.resource())
    assert (await gateway.call(token, "look")).status_code == 200
    for _ in range(2):
        await assert_refused(gateway, upstream, token)
    assert (await gateway.call(issuer.token(gateway.resource()), "look")).status_code == 200


async def test_of_twenty_at_once_one_wins(gateway: Stack, issuer: TestIssuer, upstream: RecordingUpstream) -> None:
    token = issuer.token(gateway.resource())
    answers = await asyncio.gather(*(gateway.call(token, "look") for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 19
    assert (upstream.calls, set(gateway.reasons())) == (["look"], {"token_used"})


@asynccontextmanager
async def replica(tmp_path: Path, settings: dict[str, Any]) -> AsyncIterator[str]:
    """A second gateway over the same store; the address of its endpoint `files`."""
    directory, port = tmp_path / "replica", free_port()
    directory.mkdir()
    async with running(directory, {**settings, "listen": f"127.0.0.1:{port}", "state": f"{directory}/state"}):
        yield f"http://127.0.0.1:{port}/mcp/files"


async def test_of_twenty_at_once_at_two_replicas_one_wins(
    tmp_path: Path, gateway: Stack, settings: dict[str, Any], issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    async with replica(tmp_path, settings) as there:

        async def call(token: str, address: str) -> int:
            headers = {
                "authorization": f"Bearer {token}", "accept": "application/json, text/event-stream",
                "mcp-protocol-version": "2025-11-25",
            }  # fmt: skip
            return (await gateway.http.post(address, json=tool_call("look"), headers=headers)).status_code

        token, here = issuer.token(gateway.resource()), gateway.resource()
        statuses = await asyncio.gather(*(call(token, address) for _ in range(10) for address in (here, there)))
        assert sorted(statuses) == [200] + [401] * 19
        # Also one after the other, both ways round.
        for first, then in ((here, there), (there, here)):
            token = issuer.token(gateway.resource())
            assert [await call(token, first), await call(token, then)] == [200, 401]
    assert upstream.calls == ["look"] * 3


async def test_a_token_for_several_resources_is_good_at_one_of_them(
    gateway: Stack, issuer: TestIssuer, upstream: RecordingUpstream, other_upstream: RecordingUpstream
) -> None:
    every = [gateway.resource(), gateway.resource("notes"), f"{gateway.url}/sessions"]

    async def declare(token: str) -> httpx2.Response:
        headers = {"authorization": f"Bearer {token}"}
        return await gateway.http.post(f"{gateway.url}/sessions", json={"task": "report"}, headers=headers)

    token = issuer.token(every)
    assert (await gateway.call(token, "look")).status_code == 200
    await assert_refused(gateway, other_upstream, token, server="notes")
    assert (await declare(token)).status_code == 401
    token = issuer.token(every)
    assert (await declare(token)).status_code == 200
    assert (await declare(token)).status_code == 401
    await assert_refused(gateway, upstream, token)


async def test_what_counts_is_the_name_of_the_token_at_its_issuer(
    gateway: Stack, issuer: TestIssuer, second: TestIssuer, upstream: RecordingUpstream
) -> None:
    assert (await gateway.call(issuer.token(gateway.resource(), jti="same"), "look")).status_code == 200
    # Another issuer's token of the same name is another one.
    theirs = second.token(gateway.resource(), jti="same")
    assert (await gateway.call(theirs, "look")).status_code == 200
    # Another text with the same name is the same token, whatever else it says.
    await assert_refused(gateway, upstream, issuer.token(gateway.resource(), jti="same", exp=int(time.time()) + 900))
    await assert_refused(gateway, upstream, theirs)
    for name in ("Same", "same ", "sam\u0435"):
        assert (await gateway.call(issuer.token(gateway.resource(), jti=name), "look")).status_code == 200


ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256 (FIPS 186-5)


async def test_the_other_signature_of_an_ecdsa_token_is_no_new_token(
    gateway: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    token = issuer.token(gateway.resource())
    head, body, signature = token.split(".")
    raw = urlsafe_b64decode(signature + "==")
    s = int.from_bytes(raw[32:], "big")
    twin = f"{head}.{body}.{encode_base64url(raw[:32] + (ORDER - s).to_bytes(32, 'big'))}"
    assert twin != token
    assert (await gateway.call(twin, "look")).status_code == 200
    await assert_refused(gateway, upstream, token)


async def test_a_token_that_cannot_be_told_from_others_is_refused(
    gateway: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    await assert_refused(gateway, upstream, issuer.token(gateway.resource(), jti=None), "claim_missing")
    for jti in ("", "x" * (MAX_STRING + 1), 5, ["a"], {"a": 1}, False, "a\nb", "\ud800", "\x00"):
        response = await gateway.call(issuer.token(gateway.resource(), jti=jti), "look")
        assert (response.status_code, upstream.seen) == (401, []), jti
    assert set(gateway.reasons()) <= {"claim_missing", "claim_invalid", "token_malformed", "parse_error"}
    longest = issuer.token(gateway.resource(), jti="x" * MAX_STRING)
    assert (await gateway.call(longest, "look")).status_code == 200
    await assert_refused(gateway, upstream, longest)


async def test_who_is_refused_does_not_use_up_the_token(
    gateway: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    token = issuer.token(gateway.resource())
    assert (await gateway.call(token, "look", "notes")).status_code == 401  # not for that server
    assert (await gateway.call(token, "look", "nowhere")).status_code == 404
    assert (await gateway.post(None, tool_call("look"), authorization=f"DPoP {token}", dpop="x")).status_code == 401
    stranger = issuer.token(gateway.resource(), jti="the-one", azp="nobody")
    assert (await gateway.call(stranger, "look")).status_code == 401
    assert upstream.seen == []
    assert (await gateway.call(token, "look")).status_code == 200
    assert (await gateway.call(issuer.token(gateway.resource(), jti="the-one"), "look")).status_code == 200


async def test_what_gate_two_refuses_has_used_up_the_token(
    gateway: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    token = issuer.token(gateway.resource())
    assert (await gateway.call(token, "wipe")).status_code == 403
    await assert_refused(gateway, upstream, token)


class Holder:
    """A client with a key and a one-time token that is bound to it."""

    def __init__(self, gateway: Stack, issuer: TestIssuer) -> None:
        self.gateway, self.prover = gateway, Prover()
        self.token = issuer.token(gateway.resource(), cnf={"jkt": self.prover.thumbprint})
        self.nonce: str | None = None

    def proof(self, prover: Prover | None = None) -> str:
        digest = encode_base64url(hashlib.sha256(self.token.encode()).digest())
        made = prover or self.prover
        return made.proof(int(time.time()), self.nonce, htu=self.gateway.resource(), ath=digest)

    async def call(self, proof: str) -> httpx2.Response:
        return await self.gateway.call(None, "look", authorization=f"DPoP {self.token}", dpop=proof)


async def test_being_told_the_nonce_or_a_thiefs_try_does_not_use_up_the_token(
    gateway: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    holder = Holder(gateway, issuer)
    holder.nonce = (await holder.call(holder.proof())).headers["dpop-nonce"]
    assert (await holder.call(holder.proof(Prover()))).status_code == 401  # another key
    await assert_refused(gateway, upstream, holder.token, "token_binding_refused")  # no proof at all
    assert upstream.seen == []
    assert (await holder.call(holder.proof())).status_code == 200
    assert (await holder.call(holder.proof())).status_code == 401
    assert (upstream.calls, gateway.reasons()[-1]) == (["look"], "token_used")


async def test_copies_of_a_request_are_refused_for_their_proof(
    gateway: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    holder = Holder(gateway, issuer)
    holder.nonce = (await holder.call(holder.proof())).headers["dpop-nonce"]
    proof = holder.proof()
    answers = await asyncio.gather(*(holder.call(proof) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 4
    # What can be made anew is used up first.
    assert "token_used" not in gateway.reasons()
    assert upstream.calls == ["look"]


async def test_a_batch_is_one_request(gateway: Stack, issuer: TestIssuer, upstream: RecordingUpstream) -> None:
    token = issuer.token(gateway.resource())
    members = [{**tool_call("look"), "id": number} for number in range(3)]
    response = await gateway.post(token, members, mcp_protocol_version="2025-03-26")
    assert [set(answer) for answer in response.json()] == [{"jsonrpc", "id", "result"}] * 3
    assert (await gateway.post(token, members, mcp_protocol_version="2025-03-26")).status_code == 401
    assert upstream.calls == ["look"] * 3


class Hurried(SystemClock):
    """A second passes whenever somebody looks."""

    def __init__(self) -> None:
        self._looks = count()

    def monotonic(self) -> float:
        return super().monotonic() + next(self._looks)


async def test_a_caller_that_is_proven_again_meanwhile_is_no_second_request(
    tmp_path: Path, settings: dict[str, Any], issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    async with running(tmp_path, settings, Hurried()) as stack:
        token = issuer.token(stack.resource())
        assert (await stack.call(token, "look")).status_code == 200
        await assert_refused(stack, upstream, token)


async def test_a_token_that_opens_a_stream_is_used_up(
    gateway: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    token = issuer.token(gateway.resource())
    headers = {"authorization": f"Bearer {token}", "accept": "text/event-stream"}
    async with gateway.http.stream("GET", f"{gateway.resource()}/sse", headers=headers) as stream:
        assert stream.status_code == 200
        await anext(stream.aiter_raw())
        await assert_refused(gateway, upstream, token)


async def test_without_the_store_no_such_token_is_good(
    gateway: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    async with gateway.state.engine.begin() as connection:
        await connection.execute(text("ALTER TABLE replay RENAME TO gone"))
    response = await gateway.call(issuer.token(gateway.resource()), "look")
    assert (response.status_code, upstream.seen) == (503, [])
    assert gateway.reasons() == ["store_unavailable"]


async def test_an_opaque_token_needs_a_name_in_what_its_issuer_says_of_it(
    tmp_path: Path, settings: dict[str, Any], issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    secret.chmod(0o600)
    entry = settings["issuers"][0]
    entry |= {"validate": "introspect", "introspection": {"client_id": "us", "client_secret_file": str(secret)}}
    del entry["algorithms"]
    async with running(tmp_path, settings) as stack:
        for token, jti in (("opaque-1", "n-1"), ("opaque-2", None), ("opaque-3", "n-1")):
            said = {**issuer.claims(stack.resource(), jti=jti), "active": True, "token_type": "Bearer"}
            issuer.introspection[token] = said
        assert (await stack.call("opaque-1", "look")).status_code == 200
        # Its issuer's word is kept; that the token was used is not forgotten meanwhile.
        await assert_refused(stack, upstream, "opaque-1")
        await assert_refused(stack, upstream, "opaque-2", "claim_missing")
        await assert_refused(stack, upstream, "opaque-3")


async def test_of_other_issuers_every_token_is_good_until_it_expires(
    tmp_path: Path, settings: dict[str, Any], issuer: TestIssuer, second: TestIssuer
) -> None:
    del settings["issuers"][1]["one_time"]
    async with running(tmp_path, settings) as stack:
        token = second.token(stack.resource(), jti="same")
        for _ in range(2):
            assert (await stack.call(token, "look")).status_code == 200
        assert (await stack.call(issuer.token(stack.resource(), jti="same"), "look")).status_code == 200


async def test_our_own_tokens_are_good_once_where_the_setting_says_so(
    tmp_path: Path, settings: dict[str, Any], upstream: RecordingUpstream
) -> None:
    settings["embedded"] = {"one_time": True}
    async with running(tmp_path, settings) as stack:
        config = tmp_path / "twogate.yaml"
        added = await asyncio.to_thread(
            here_json, "agent", "add", "acme/own", "--role", "reader", "--task", "report", "--default-task", "report",
            "--auth", "client_secret", "--config", config,
        )  # fmt: skip
        form = {"grant_type": "client_credentials", "resource": stack.resource()}
        auth = (added["client_id"], added["client_secret"])
        given = await stack.http.post(f"{stack.url}/token", data=form, auth=auth)
        token = given.json()["access_token"]
        assert (await stack.call(token, "look")).status_code == 200
        await assert_refused(stack, upstream, token)


async def test_a_subject_token_can_be_exchanged_once(tmp_path: Path) -> None:
    async with open_exchange_lab(tmp_path, one_time=True) as lab:
        await lab.allow()
        token = lab.external(jti="s-1")
        # What is refused for another reason has not used it up.
        assert (await lab.exchange(token, scope="reports other")).status_code == 400
        answers = await asyncio.gather(*(lab.exchange(token) for _ in range(5)))
        assert sorted(answer.status_code for answer in answers) == [200] + [400] * 4
        lab.assert_refused(await lab.exchange(token), "token_used", "invalid_request")
        lab.assert_refused(await lab.exchange(lab.external(jti=None)), "claim_missing", "invalid_request")


async def test_a_certificate_binding_is_judged_before_the_token_is_used_up(
    tmp_path: Path, settings: dict[str, Any], issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    servers, agents = Authority(tmp_path, "servers"), Authority(tmp_path, "agents")
    server, owner, thief = servers.issue("server", server=True), agents.issue("robot"), agents.issue("thief")
    settings["public_url"] = settings["public_url"].replace("http:", "https:")
    settings["tls"] = {
        "certificate": str(server.certificate_file), "key": str(server.key_file), "client_ca": str(agents.file),
    }  # fmt: skip
    async with running(tmp_path, settings, client_tls=servers.client(owner)) as stack:
        token = issuer.token(stack.resource(), cnf={"x5t#S256": owner.thumbprint})
        async with httpx2.AsyncClient(verify=servers.client(thief), trust_env=False) as http:
            headers = {"authorization": f"Bearer {token}", "accept": "application/json, text/event-stream"}
            refused = await http.post(stack.resource(), content=json.dumps(tool_call("look")), headers=headers)
        assert (refused.status_code, stack.reasons(), upstream.seen) == (401, ["token_binding_refused"], [])
        assert (await stack.call(token, "look")).status_code == 200
        await assert_refused(stack, upstream, token)
