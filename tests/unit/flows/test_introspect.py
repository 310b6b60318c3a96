"""The introspection endpoint: what a client learns of its own tokens, and of nobody else's (RFC 7662)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from dpoplab import Prover
from grantlab import ALICE, GrantLab, claims_of, open_grant_lab
from tokenlab import FILES, ISSUER, REPORTER, SECRET, Lab, basic
from twogate.core.audit.record import EventKind
from twogate.core.oauth.client_auth import ASSERTION_TYPE
from twogate.flows.authserver.revocations import RevocationKind, Revocations, outlasts_tokens
from twogate.stores.sql.revocations import SqlRevocationStore


@pytest.fixture
async def grants(tmp_path: Path) -> AsyncGenerator[GrantLab]:
    async with open_grant_lab(tmp_path) as running:
        yield running


@pytest.fixture
def lab(grants: GrantLab) -> Lab:
    return grants.lab


async def ask(lab: Lab, token: str, client: str = "reporter", **form: str) -> dict[str, Any]:
    response = await lab.http.post("/introspect", data={"token": token, **form}, headers=basic(client, SECRET))
    assert response.status_code == 200, response.text
    assert response.headers["cache-control"] == "no-store"
    answer: dict[str, Any] = response.json()
    return answer


async def access_token(lab: Lab, scope: str = "") -> str:
    token: str = (await lab.with_secret(scope=scope)).json()["access_token"]
    return token


async def revoke(lab: Lab, kind: RevocationKind, value: str) -> None:
    now = lab.clock.now()
    await Revocations(SqlRevocationStore(lab.engine)).revoke(kind, value, outlasts_tokens(now), now)


class TestAccessTokens:
    async def test_a_client_reads_what_its_own_good_token_says(self, lab: Lab) -> None:
        token = await access_token(lab, scope="reports")
        claims = claims_of(token)
        assert await ask(lab, token) == {
            "active": True,
            "token_type": "Bearer",
            "iss": ISSUER,
            "sub": "reporter",
            "client_id": "reporter",
            "aud": FILES,
            "scope": "reports",
            "iat": claims["iat"],
            "nbf": claims["nbf"],
            "exp": claims["exp"],
            "jti": claims["jti"],
            "tenant": "acme",
        }

    async def test_a_bound_token_is_shown_with_its_key(self, lab: Lab) -> None:
        prover = Prover()
        answer = await lab.with_secret(headers=basic("reporter", SECRET) | await prover.fresh(lab))
        told = await ask(lab, answer.json()["access_token"])
        assert (told["active"], told["token_type"], told["cnf"]) == (True, "DPoP", {"jkt": prover.thumbprint})

    async def test_a_token_of_a_person_names_the_person(self, grants: GrantLab) -> None:
        begun = await grants.begin("web")
        told = await ask(grants.lab, begun["access_token"], "web")
        assert (told["active"], told["sub"], told["client_id"]) == (True, ALICE, "web")

    @pytest.mark.parametrize("hint", ["access_token", "refresh_token", "urn:other"])
    async def test_a_hint_that_is_wrong_changes_nothing(self, lab: Lab, hint: str) -> None:
        assert (await ask(lab, await access_token(lab), token_type_hint=hint))["active"] is True

    async def test_a_token_that_has_expired_is_inactive(self, lab: Lab) -> None:
        token = await access_token(lab)
        lab.clock.seconds = claims_of(token)["exp"] - 1
        assert (await ask(lab, token))["active"] is True
        lab.clock.seconds += 1
        assert await ask(lab, token) == {"active": False}

    @pytest.mark.parametrize("kind", ["token", "client", "user", "grant"])
    async def test_a_token_that_was_revoked_by_any_of_its_names_is_inactive(
        self, grants: GrantLab, kind: RevocationKind
    ) -> None:
        token = (await grants.begin("web"))["access_token"]
        claims = claims_of(token)
        names = {"token": claims["jti"], "client": "web", "user": ALICE, "grant": claims["grant_id"]}
        assert (await ask(grants.lab, token, "web"))["active"] is True
        await revoke(grants.lab, kind, names[kind])
        assert await ask(grants.lab, token, "web") == {"active": False}

    async def test_a_revocation_of_something_else_of_the_same_name_changes_nothing(self, lab: Lab) -> None:
        token = await access_token(lab)
        jti = claims_of(token)["jti"]
        for kind in ("grant", "client", "user"):
            await revoke(lab, kind, jti)
        assert (await ask(lab, token))["active"] is True

    async def test_the_token_of_a_person_who_was_disabled_is_inactive(self, grants: GrantLab) -> None:
        token = (await grants.begin("web"))["access_token"]
        await grants.disable_alice()
        assert await ask(grants.lab, token, "web") == {"active": False}

    async def test_by_key_is_as_good_as_by_secret(self, lab: Lab) -> None:
        token = (await lab.with_assertion(lab.assertion())).json()["access_token"]
        form = {"token": token, "client_assertion": lab.assertion(), "client_assertion_type": ASSERTION_TYPE}
        assert (await lab.http.post("/introspect", data=form)).json()["sub"] == "robot"

    async def test_asking_writes_nothing_on_the_trail(self, lab: Lab) -> None:
        token = await access_token(lab)
        before = list(lab.audit.events)
        await ask(lab, token)
        await ask(lab, "unknown")
        assert lab.audit.events == before

    async def test_an_agent_that_was_disabled_cannot_ask(self, lab: Lab) -> None:
        token = await access_token(lab)
        await lab.registry.disable_agent(REPORTER, lab.clock.now())
        response = await lab.http.post("/introspect", data={"token": token}, headers=basic("reporter", SECRET))
        assert (response.status_code, response.json()["error"]) == (401, "invalid_client")


class TestRefreshTokens:
    async def test_a_client_reads_what_its_own_good_token_is_for(self, grants: GrantLab) -> None:
        begun = await grants.begin("web")
        told = await ask(grants.lab, begun["refresh_token"], "web")
        assert (told["active"], told["sub"], told["client_id"], told["aud"]) == (True, ALICE, "web", FILES)
        assert told["scope"] == "reports admin"
        assert told["exp"] > told["iat"]
        assert "token_type" not in told

    async def test_one_that_was_used_is_inactive_and_asking_is_no_reuse(self, grants: GrantLab) -> None:
        begun = await grants.begin("web")
        again = (await grants.refresh(begun["refresh_token"])).json()
        assert await ask(grants.lab, begun["refresh_token"], "web") == {"active": False}
        assert (await ask(grants.lab, again["refresh_token"], "web"))["active"] is True
        assert grants.events(EventKind.GRANT_REVOKED) == []

    async def test_one_whose_family_was_revoked_is_inactive(self, grants: GrantLab) -> None:
        begun = await grants.begin("web")
        await grants.lab.families.revoke(claims_of(begun["access_token"])["grant_id"], grants.lab.clock.now(), "test")
        for token in (begun["refresh_token"], begun["access_token"]):
            assert await ask(grants.lab, token, "web") == {"active": False}

    async def test_one_of_a_person_who_was_disabled_is_inactive(self, grants: GrantLab) -> None:
        begun = await grants.begin("web")
        await grants.disable_alice()
        assert await ask(grants.lab, begun["refresh_token"], "web") == {"active": False}
