"""`Twogate-Identity`: what a server is told of its caller is good for that server alone, and nobody else can say it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from harness.issuer import TestIssuer
from harness.stack import free_port, running, settings_for
from harness.upstream import RecordingUpstream
from twogate.adapters.signers.local import LocalSigner
from twogate.core.errors import ErrorCode, GateError
from twogate.core.identity import LEEWAY, LIFETIME, TYPE, identity_claims
from twogate.flows.signer import sign_jwt
from twogate.identity import HEADER, Identity, verify_identity

ISSUER = "https://mcp.example.com"
NOW = 1_800_000_000
SIGNER = LocalSigner(ec.generate_private_key(ec.SECP256R1()))
JWKS = json.dumps({"keys": [dict(SIGNER.public_jwk())]}).encode()
CALLER = Identity(
    tenant="acme", agent="robot", role="reader", jti="j", issued_at=NOW, expires_at=NOW + LIFETIME,
    user_issuer=ISSUER, user="alice", session="s", task="t",
)  # fmt: skip


async def token(identity: Identity = CALLER, *, typ: str = TYPE, signer: LocalSigner = SIGNER, **claims: Any) -> str:
    every = {**identity_claims(identity, ISSUER, "files"), **claims}
    return await sign_jwt(signer, {name: value for name, value in every.items() if value is not None}, typ)


def refusal(text: str, *, server: str = "files", issuer: str = ISSUER, now: int = NOW) -> ErrorCode:
    with pytest.raises(GateError) as caught:
        verify_identity(text, jwks=JWKS, issuer=issuer, server=server, now=now)
    return caught.value.code


async def test_a_good_token_says_who_calls() -> None:
    assert verify_identity(await token(), jwks=JWKS, issuer=ISSUER, server="files", now=NOW) == CALLER
    alone = msgspec.structs.replace(CALLER, user=None, user_issuer=None, session=None, task=None)
    assert verify_identity(await token(alone), jwks=JWKS, issuer=ISSUER, server="files", now=NOW) == alone


async def test_a_token_for_another_server_or_from_another_gateway_is_refused() -> None:
    good = await token()
    assert refusal(good, server="mail") is ErrorCode.AUDIENCE_MISMATCH
    assert refusal(good, issuer="https://other.example.com") is ErrorCode.ISSUER_UNKNOWN
    for audience in ([f"{ISSUER}/upstream/files"], f"{ISSUER}/mcp/files", None):
        assert refusal(await token(aud=audience)) is ErrorCode.AUDIENCE_MISMATCH


async def test_a_token_holds_for_its_minute() -> None:
    good = await token()
    end = NOW + LIFETIME + LEEWAY
    assert verify_identity(good, jwks=JWKS, issuer=ISSUER, server="files", now=end - 1).agent == "robot"
    assert refusal(good, now=end) is ErrorCode.TOKEN_EXPIRED
    assert refusal(good, now=NOW - LEEWAY - 1) is ErrorCode.TOKEN_NOT_YET_VALID
    assert refusal(await token(exp=NOW + LIFETIME + 1)) is ErrorCode.TOKEN_LIFETIME_EXCESSIVE
    assert refusal(await token(exp=None)) is ErrorCode.CLAIM_MISSING


async def test_forged_altered_and_foreign_tokens_are_refused() -> None:
    stranger = LocalSigner(ec.generate_private_key(ec.SECP256R1()))
    assert refusal(await token(signer=stranger)) is ErrorCode.KEY_UNKNOWN
    head, body, signature = (await token()).split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    altered = base64.urlsafe_b64encode(json.dumps({**claims, "role": "admin"}).encode()).decode().rstrip("=")
    assert refusal(f"{head}.{altered}.{signature}") is ErrorCode.SIGNATURE_INVALID
    unsigned = jwt.encode(claims, "", algorithm="none", headers={"typ": TYPE})
    assert refusal(f"{unsigned}x") is ErrorCode.TOKEN_ALGORITHM_REFUSED
    # Other tokens of the gateway's are none.
    assert refusal(await token(typ="at+jwt")) is ErrorCode.TOKEN_TYPE_REFUSED
    for missing in (await token(tenant=None), await token(agent=None), await token(role=None), await token(jti=None)):
        assert refusal(missing) is ErrorCode.CLAIM_MISSING


async def test_a_server_is_told_who_calls_by_a_token_that_its_helper_verifies(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream, other_upstream: RecordingUpstream
) -> None:
    servers = {"files": {"url": upstream.url, "identity": True}, "mail": {"url": other_upstream.url}}
    async with running(tmp_path, settings_for(tmp_path, free_port(), servers, issuer)) as stack:
        access = issuer.token(stack.resource())
        for _ in range(2):
            assert (await stack.call(access, "look")).status_code == 200
        jwks = (await stack.http.get(f"{stack.url}/.well-known/jwks.json")).content
        presented = [seen.headers[HEADER.lower()] for seen in upstream.seen]
        now = jwt.decode(presented[0], options={"verify_signature": False})["iat"]
        callers = [verify_identity(text, jwks=jwks, issuer=stack.url, server="files", now=now) for text in presented]
        [intent, _] = [event for event in stack.events() if event["kind"] == "call.intent"]
        told = {(caller.tenant, caller.agent, caller.role, caller.session, caller.task) for caller in callers}
        assert told == {(intent["tenant"], intent["agent"], intent["role"], intent["session"], intent["task"])}
        assert len({caller.jti for caller in callers}) == 2
        # A server that did not ask for it is told nothing.
        await stack.call(issuer.token(stack.resource("mail")), "look", "mail")
        assert all(HEADER.lower() not in seen.headers for seen in other_upstream.seen)


async def test_the_token_is_refused_by_every_other_server_and_by_the_gateway_itself(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    servers = {"files": {"url": upstream.url, "identity": True}}
    async with running(tmp_path, settings_for(tmp_path, free_port(), servers, issuer)) as stack:
        assert (await stack.call(issuer.token(stack.resource()), "look")).status_code == 200
        [seen] = upstream.seen
        replayed = await stack.call(seen.headers[HEADER.lower()], "look")
        assert replayed.status_code == 401
        assert len(upstream.seen) == 1
        jwks = (await stack.http.get(f"{stack.url}/.well-known/jwks.json")).content
        with pytest.raises(GateError) as caught:
            verify_identity(seen.headers[HEADER.lower()], jwks=jwks, issuer=stack.url, server="mail", now=NOW)
        assert caught.value.code is ErrorCode.AUDIENCE_MISMATCH


@pytest.mark.parametrize("identified", [True, False])
async def test_a_header_that_the_caller_brings_is_never_passed_on(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream, identified: bool
) -> None:
    servers = {"files": {"url": upstream.url, "identity": identified}}
    async with running(tmp_path, settings_for(tmp_path, free_port(), servers, issuer)) as stack:
        await stack.call(issuer.token(stack.resource()), "look", **{HEADER: "forged"})
        assert "forged" not in [seen.headers.get(HEADER.lower()) for seen in upstream.seen]
