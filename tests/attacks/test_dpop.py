"""Attacks on proofs of possession: replayed, swapped, made for elsewhere, sent twice (RFC 9449 section 11)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import func, select

from dpoplab import TOKEN_URL, Prover, server_nonce
from grantlab import GrantLab, claims_of, open_grant_lab
from tokenlab import ISSUER, SECRET, Lab, basic
from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode
from twogate.stores.sql.engine import reading
from twogate.stores.sql.tables import replay


@pytest.fixture
async def grants(tmp_path: Path) -> AsyncGenerator[GrantLab]:
    async with open_grant_lab(tmp_path) as running:
        yield running


@pytest.fixture
def lab(grants: GrantLab) -> Lab:
    return grants.lab


async def ask(lab: Lab, proof: str, client: str = "reporter", **headers: str) -> httpx2.Response:
    return await lab.with_secret(headers=basic(client, SECRET) | {"DPoP": proof} | headers)


def assert_refused(lab: Lab, response: httpx2.Response, why: str = "") -> None:
    """Refused as a bad proof, recorded as that, and nothing issued."""
    assert (response.status_code, response.json()["error"]) == (400, "invalid_dpop_proof")
    assert response.json().keys() == {"error", "error_description"}
    assert (lab.audit.last.kind, lab.audit.last.reason) == (EventKind.TOKEN_REFUSED, ErrorCode.DPOP_INVALID)
    assert why in lab.audit.last.detail
    assert "eyJ" not in str(lab.audit.events)


async def remembered(lab: Lab) -> int:
    async with reading(lab.engine) as connection:
        return (await connection.execute(select(func.count()).select_from(replay))).scalar_one()


class TestReplay:
    async def test_a_captured_proof_is_refused_the_second_time(self, lab: Lab) -> None:
        proof = Prover().proof(lab.clock.now(), await server_nonce(lab))
        assert (await ask(lab, proof)).status_code == 200
        assert_refused(lab, await ask(lab, proof), "used before")

    async def test_of_many_uses_at_once_one_gets_a_token(self, lab: Lab) -> None:
        proof = Prover().proof(lab.clock.now(), await server_nonce(lab))
        answers = await asyncio.gather(*(ask(lab, proof) for _ in range(30)))
        assert sorted(answer.status_code for answer in answers) == [200] + [400] * 29

    async def test_a_jti_that_another_key_used_is_not_used_up(self, lab: Lab) -> None:
        nonce = await server_nonce(lab)
        for _ in range(2):
            assert (await ask(lab, Prover().proof(lab.clock.now(), nonce, jti="same"))).status_code == 200

    async def test_the_same_jti_with_everything_else_new_is_refused(self, lab: Lab) -> None:
        prover, nonce = Prover(), await server_nonce(lab)
        assert (await ask(lab, prover.proof(lab.clock.now(), nonce, jti="same"))).status_code == 200
        lab.clock.seconds += 1
        assert_refused(lab, await ask(lab, prover.proof(lab.clock.now(), nonce, jti="same")), "used before")

    async def test_a_stranger_cannot_make_the_server_remember_anything(self, lab: Lab) -> None:
        nonce = await server_nonce(lab)
        before = await remembered(lab)
        for headers in (basic("reporter", "wrong" * 8), basic("nobody", SECRET), {}):
            response = await lab.with_secret(headers=headers | {"DPoP": Prover().proof(lab.clock.now(), nonce)})
            assert response.json()["error"] == "invalid_client"
        assert await remembered(lab) == before

    async def test_who_guesses_at_the_client_does_not_use_up_its_proof(self, lab: Lab) -> None:
        proof = Prover().proof(lab.clock.now(), await server_nonce(lab))
        refused = await lab.with_secret(headers=basic("reporter", "wrong" * 8) | {"DPoP": proof})
        assert refused.status_code == 401
        assert (await ask(lab, proof)).status_code == 200


class TestOtherRequests:
    @pytest.mark.parametrize(
        "changes",
        [
            {"htu": f"{ISSUER}/par"}, {"htu": f"{ISSUER}/mcp/files"}, {"htu": "https://evil.example/token"},
            {"htm": "GET"}, {"iat": 1}, {"jti": None}, {"htu": None}, {"htm": None}, {"iat": None},
        ],
    )  # fmt: skip
    async def test_a_proof_for_another_request_or_time_is_refused(self, lab: Lab, changes: dict[str, Any]) -> None:
        proof = Prover().proof(lab.clock.now(), await server_nonce(lab), **changes)
        assert_refused(lab, await ask(lab, proof))

    @pytest.mark.parametrize("header", ["Host", "X-Forwarded-Host", "Forwarded", "X-Original-URL"])
    async def test_what_the_request_says_of_its_host_does_not_count(self, lab: Lab, header: str) -> None:
        value = "host=evil.example;proto=https" if header == "Forwarded" else "evil.example"
        proof = Prover().proof(lab.clock.now(), await server_nonce(lab), htu="https://evil.example/token")
        assert_refused(lab, await ask(lab, proof, **{header: value}), "another address")
        good = Prover().proof(lab.clock.now(), await server_nonce(lab), htu=TOKEN_URL)
        assert (await ask(lab, good, **{header: value})).status_code == 200

    async def test_a_proof_for_one_endpoint_is_refused_at_every_other(self, lab: Lab) -> None:
        for path in ("/introspect", "/revoke"):
            headers = basic("reporter", SECRET) | await Prover().fresh(lab)
            assert_refused(lab, await lab.http.post(path, data={"token": "x"}, headers=headers), "another address")


class TestForgeries:
    async def test_two_proofs_are_refused_even_if_both_are_good(self, lab: Lab) -> None:
        nonce, prover = await server_nonce(lab), Prover()
        both = [("DPoP", prover.proof(lab.clock.now(), nonce)) for _ in range(2)]
        response = await lab.http.post(
            "/token",
            data={"grant_type": "client_credentials", "resource": f"{ISSUER}/mcp/files"},
            headers=[*basic("reporter", SECRET).items(), *both],
        )
        assert_refused(lab, response, "more than one")

    async def test_two_proofs_in_one_header_are_refused(self, lab: Lab) -> None:
        nonce, prover = await server_nonce(lab), Prover()
        assert_refused(lab, await ask(lab, ", ".join(prover.proof(lab.clock.now(), nonce) for _ in range(2))))

    @pytest.mark.parametrize("proof", ["", "x", "a.b.c", "null"])
    async def test_an_empty_or_broken_proof_is_no_bearer_request(self, lab: Lab, proof: str) -> None:
        assert_refused(lab, await ask(lab, proof))

    async def test_a_key_that_was_swapped_into_a_good_proof_is_refused(self, lab: Lab) -> None:
        victim, thief = Prover(), Prover()
        proof = victim.proof(lab.clock.now(), await server_nonce(lab), header={"jwk": thief.jwk})
        assert_refused(lab, await ask(lab, proof), "signature_invalid")

    async def test_an_access_token_or_assertion_is_no_proof(self, lab: Lab) -> None:
        token = (await lab.with_secret()).json()["access_token"]
        for stolen in (token, lab.assertion()):
            response = await ask(lab, stolen)
            assert (response.status_code, response.json()["error"]) == (400, "invalid_dpop_proof")

    async def test_a_proof_is_no_access_token(self, lab: Lab) -> None:
        proof = Prover().proof(lab.clock.now(), await server_nonce(lab), iss=ISSUER, active=True)
        answer = await lab.http.post("/introspect", data={"token": proof}, headers=basic("reporter", SECRET))
        assert answer.json() == {"active": False}

    async def test_a_proof_authenticates_nobody(self, lab: Lab) -> None:
        proof = {"DPoP": Prover().proof(lab.clock.now(), await server_nonce(lab))}
        response = await lab.post({"client_id": "reporter"}, proof)
        assert response.json()["error"] == "invalid_client"


class TestKeySwap:
    """A refresh token of a public client is bound to the key that its first proof showed (RFC 9449 section 5)."""

    async def test_a_stolen_refresh_token_is_worth_nothing_with_another_key_or_none(self, grants: GrantLab) -> None:
        lab, victim = grants.lab, Prover()
        begun = await grants.begin("native", await victim.fresh(lab))
        assert begun["token_type"] == "DPoP"
        for headers in ({}, await Prover().fresh(lab)):
            response = await grants.refresh(begun["refresh_token"], "native", headers)
            assert response.status_code == 400
            assert "access_token" not in response.json()

    async def test_its_owner_goes_on_with_the_same_key(self, grants: GrantLab) -> None:
        lab, owner = grants.lab, Prover()
        begun = await grants.begin("native", await owner.fresh(lab))
        response = await grants.refresh(begun["refresh_token"], "native", await owner.fresh(lab))
        assert response.status_code == 200, response.text
        assert claims_of(response.json()["access_token"])["cnf"] == {"jkt": owner.thumbprint}

    async def test_a_code_that_is_bound_to_a_key_is_worth_nothing_with_another_or_none(self, grants: GrantLab) -> None:
        lab, owner = grants.lab, Prover()
        for headers in ({}, await Prover().fresh(lab)):
            code = await grants.code("native", proof=owner.thumbprint)
            response = await grants.redeem(code, "native", headers)
            assert response.status_code == 400
            assert "access_token" not in response.json()
        code = await grants.code("native", proof=owner.thumbprint)
        assert (await grants.redeem(code, "native", await owner.fresh(lab))).status_code == 200
