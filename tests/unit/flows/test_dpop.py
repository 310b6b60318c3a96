"""Proofs of possession at the token endpoint: what a good one gives, and how the server's nonces go."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import httpx2
import pytest

from dpoplab import Prover, server_nonce
from grantlab import claims_of
from tokenlab import ISSUER, SECRET, Lab, basic, open_lab
from twogate.adapters.rng import SystemRng
from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.dpop import MAX_AGE, VerifiedProof
from twogate.core.oauth.client_auth import ASSERTION_TYPE
from twogate.flows.authserver.clients import ReplayStore
from twogate.flows.authserver.dpop import NONCE_SECONDS, DpopProofs

START = 1_800_000_000 // NONCE_SECONDS * NONCE_SECONDS


class Once(ReplayStore):
    """A replay store in memory that shows how long each value is kept."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str, str], int] = {}

    async def redeem(self, kind: str, issuer: str, value: str, expires_at: int, now: int) -> bool:
        assert expires_at > now
        new = (kind, issuer, value) not in self.kept
        self.kept.setdefault((kind, issuer, value), expires_at)
        return new


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncGenerator[Lab]:
    async with open_lab(tmp_path) as running:
        yield running


def proofs(secret: bytes = bytes(32)) -> DpopProofs:
    return DpopProofs(ISSUER, Once(), secret)


def proof_with(nonce: str | None, now: int) -> str:
    return Prover().proof(now, nonce)


class TestNonces:
    def test_a_nonce_is_good_in_its_own_period_and_the_next_one(self) -> None:
        server = proofs()
        nonce = server.nonce(START + 7)
        for now in (START, START + NONCE_SECONDS - 1, START + 2 * NONCE_SECONDS - 1):
            assert server.verify([proof_with(nonce, now)], "/token", now) is not None
        for now in (START - 1, START + 2 * NONCE_SECONDS):
            with pytest.raises(GateError) as refused:
                server.verify([proof_with(nonce, now)], "/token", now)
            assert refused.value.code is ErrorCode.DPOP_NONCE_REQUIRED

    @pytest.mark.parametrize("nonce", [None, "x", "ä", "0" * 24])
    def test_any_other_nonce_is_asked_for_anew(self, nonce: str | None) -> None:
        with pytest.raises(GateError) as refused:
            proofs().verify([proof_with(nonce, START)], "/token", START)
        assert refused.value.code is ErrorCode.DPOP_NONCE_REQUIRED

    def test_replicas_with_one_key_know_each_others_nonces_and_others_do_not(self) -> None:
        secret = SystemRng().token(32)
        nonce = proofs(secret).nonce(START)
        assert proofs(secret).verify([proof_with(nonce, START)], "/token", START) is not None
        with pytest.raises(GateError) as refused:
            proofs(SystemRng().token(32)).verify([proof_with(nonce, START)], "/token", START)
        assert refused.value.code is ErrorCode.DPOP_NONCE_REQUIRED

    def test_nonces_are_not_the_secret_and_differ_by_period(self) -> None:
        server = proofs()
        assert len({server.nonce(START + period * NONCE_SECONDS) for period in range(100)}) == 100

    def test_a_broken_proof_is_not_asked_for_a_nonce(self) -> None:
        with pytest.raises(GateError) as refused:
            proofs().verify(["a.b.c"], "/token", START)
        assert refused.value.code is ErrorCode.DPOP_INVALID


class TestRedemption:
    @pytest.mark.parametrize("issued_at", [START - MAX_AGE, START - 1, START + MAX_AGE])
    async def test_a_proof_is_remembered_as_long_as_it_would_be_accepted(self, issued_at: int) -> None:
        replay = Once()
        server = DpopProofs(ISSUER, replay, bytes(32))
        text = Prover().proof(issued_at, server.nonce(START))
        proof = server.verify([text], "/token", START)
        assert proof is not None
        await server.redeem(proof, START)
        (kept_until,) = replay.kept.values()
        with pytest.raises(GateError):
            server.verify([text], "/token", kept_until)

    async def test_a_proof_is_used_once(self) -> None:
        server = proofs()
        proof = VerifiedProof("key", "jti", START, server.nonce(START), None)
        await server.redeem(proof, START)
        with pytest.raises(GateError) as refused:
            await server.redeem(VerifiedProof("key", "jti", START, server.nonce(START), None), START + 1)
        assert refused.value.code is ErrorCode.DPOP_INVALID

    def test_without_a_proof_there_is_nothing_to_verify(self) -> None:
        assert proofs().verify([], "/token", START) is None


class TestTheTokenEndpoint:
    async def test_a_client_with_a_proof_gets_a_token_bound_to_its_key(self, lab: Lab) -> None:
        prover = Prover()
        response = await lab.with_secret(headers=basic("reporter", SECRET) | await prover.fresh(lab))
        body = response.json()
        assert (response.status_code, body["token_type"]) == (200, "DPoP")
        assert claims_of(body["access_token"])["cnf"] == {"jkt": prover.thumbprint}
        assert lab.audit.last.kind is EventKind.TOKEN_ISSUED

    @pytest.mark.parametrize("algorithm", ["Ed25519", "EdDSA", "RS256", "PS256"])
    async def test_a_proof_by_another_algorithm_is_as_good(self, lab: Lab, algorithm: str) -> None:
        prover = Prover(algorithm)
        response = await lab.with_secret(headers=basic("reporter", SECRET) | await prover.fresh(lab))
        assert claims_of(response.json()["access_token"])["cnf"] == {"jkt": prover.thumbprint}

    async def test_a_client_without_a_proof_gets_a_bearer_token_and_no_nonce(self, lab: Lab) -> None:
        response = await lab.with_secret()
        assert response.json()["token_type"] == "Bearer"
        assert "cnf" not in claims_of(response.json()["access_token"])
        assert "dpop-nonce" not in response.headers

    async def test_a_proof_without_nonce_is_answered_with_one_that_the_next_try_can_use(self, lab: Lab) -> None:
        prover = Prover()
        first = await lab.with_secret(headers=basic("reporter", SECRET) | {"DPoP": prover.proof(lab.clock.now())})
        assert (first.status_code, first.json()["error"]) == (400, "use_dpop_nonce")
        again = prover.proof(lab.clock.now(), first.headers["DPoP-Nonce"])
        assert (await lab.with_secret(headers=basic("reporter", SECRET) | {"DPoP": again})).status_code == 200

    async def test_a_missing_nonce_costs_the_client_neither_its_assertion_nor_its_jti(self, lab: Lab) -> None:
        prover, assertion = Prover(), lab.assertion()
        form = {"client_assertion": assertion, "client_assertion_type": ASSERTION_TYPE}
        proof = prover.proof(lab.clock.now(), jti="the-one")
        refused = await lab.post(form, {"DPoP": proof})
        assert refused.json()["error"] == "use_dpop_nonce"
        proof = prover.proof(lab.clock.now(), refused.headers["DPoP-Nonce"], jti="the-one")
        assert (await lab.post(form, {"DPoP": proof})).status_code == 200

    async def test_an_answer_has_the_next_nonce_and_browsers_may_read_it(self, lab: Lab) -> None:
        headers = basic("reporter", SECRET) | await Prover().fresh(lab)
        response = await lab.with_secret(headers=headers)
        assert response.headers["DPoP-Nonce"] == await server_nonce(lab)
        assert "DPoP-Nonce" in response.headers["access-control-expose-headers"]

    async def test_being_asked_for_a_nonce_is_no_refusal_worth_the_audit_trail(self, lab: Lab) -> None:
        await server_nonce(lab)
        assert lab.audit.events == []

    async def test_a_proof_that_was_kept_is_worth_nothing_later(self, lab: Lab) -> None:
        headers = basic("reporter", SECRET) | await Prover().fresh(lab)
        lab.clock.seconds += 2 * NONCE_SECONDS
        response: httpx2.Response = await lab.with_secret(headers=headers)
        assert response.json()["error"] == "use_dpop_nonce"
