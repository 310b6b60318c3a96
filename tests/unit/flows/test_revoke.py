"""The revocation endpoint: what a client gives back is worth nothing from the next request on (RFC 7009)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import httpx2
import pytest

from grantlab import ALICE, GrantLab, claims_of, open_grant_lab
from revokelab import Gate
from tokenlab import ISSUER, SECRET, Lab, basic
from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode
from twogate.core.oauth.client_auth import ASSERTION_TYPE
from twogate.flows.authserver.revoke import BURST


@pytest.fixture
async def grants(tmp_path: Path) -> AsyncGenerator[GrantLab]:
    async with open_grant_lab(tmp_path) as running:
        yield running


@pytest.fixture
def lab(grants: GrantLab) -> Lab:
    return grants.lab


async def revoke(lab: Lab, token: str, client: str = "reporter", **form: str) -> httpx2.Response:
    return await lab.http.post("/revoke", data={"token": token, **form}, headers=basic(client, SECRET))


async def access_token(lab: Lab) -> str:
    token: str = (await lab.with_secret()).json()["access_token"]
    return token


class TestAccessTokens:
    async def test_a_cached_token_is_refused_from_the_next_request_on(self, lab: Lab) -> None:
        token, other, gate = await access_token(lab), await access_token(lab), Gate(lab)
        assert [await gate.judge(token), await gate.judge(other)] == [None, None]
        response = await revoke(lab, token)
        assert (response.status_code, response.content) == (200, b"{}")
        assert [await gate.judge(token), await gate.judge(other)] == [ErrorCode.TOKEN_REVOKED, None]
        # A gateway that never saw it refuses it as well, and goes on refusing.
        assert [await Gate(lab).judge(token), await gate.judge(token)] == [ErrorCode.TOKEN_REVOKED] * 2

    async def test_the_trail_says_who_gave_which_token_back(self, lab: Lab) -> None:
        token = await access_token(lab)
        await revoke(lab, token)
        event = lab.audit.last
        assert (event.kind, event.client, event.agent, event.tenant, event.issuer) == (
            EventKind.TOKEN_REVOKED, "reporter", "reporter", "acme", ISSUER,
        )  # fmt: skip
        assert claims_of(token)["jti"] in event.detail
        assert token not in str(event)

    async def test_the_trail_has_it_first_and_without_the_trail_nothing_is_revoked(self, lab: Lab) -> None:
        token, gate = await access_token(lab), Gate(lab)
        lab.audit.broken = True
        assert (await revoke(lab, token)).status_code == 503
        assert await gate.judge(token) is None
        lab.audit.broken = False
        assert (await revoke(lab, token)).status_code == 200
        assert await gate.judge(token) is ErrorCode.TOKEN_REVOKED

    async def test_giving_it_back_twice_is_fine_and_told_once(self, lab: Lab) -> None:
        token = await access_token(lab)
        assert [(await revoke(lab, token)).status_code for _ in range(3)] == [200] * 3
        kinds = [event.kind for event in lab.audit.events]
        assert kinds.count(EventKind.TOKEN_REVOKED) == 1

    async def test_a_token_that_has_expired_is_given_back_without_a_word(self, lab: Lab) -> None:
        token = await access_token(lab)
        lab.clock.seconds = claims_of(token)["exp"]
        before = list(lab.audit.events)
        assert (await revoke(lab, token)).status_code == 200
        assert lab.audit.events == before

    @pytest.mark.parametrize("hint", ["access_token", "refresh_token", "nonsense"])
    async def test_a_hint_that_is_wrong_changes_nothing(self, lab: Lab, hint: str) -> None:
        token = await access_token(lab)
        assert (await revoke(lab, token, token_type_hint=hint)).status_code == 200
        assert await Gate(lab).judge(token) is ErrorCode.TOKEN_REVOKED

    async def test_by_key_is_as_good_as_by_secret(self, lab: Lab) -> None:
        token = (await lab.with_assertion(lab.assertion())).json()["access_token"]
        form = {"token": token, "client_assertion": lab.assertion(), "client_assertion_type": ASSERTION_TYPE}
        assert (await lab.http.post("/revoke", data=form)).status_code == 200
        assert await Gate(lab).judge(token) is ErrorCode.TOKEN_REVOKED

    async def test_a_public_client_gives_back_its_own_token_by_its_id(self, grants: GrantLab) -> None:
        lab, token = grants.lab, (await grants.begin("native"))["access_token"]
        response = await lab.http.post("/revoke", data={"token": token, "client_id": "native"})
        assert response.status_code == 200
        assert await grants.revoked() == {("token", claims_of(token)["jti"])}

    async def test_a_client_that_revokes_without_end_is_slowed_down(self, lab: Lab) -> None:
        tokens = [await access_token(lab) for _ in range(BURST + 1)]
        statuses = [(await revoke(lab, token)).status_code for token in tokens]
        assert statuses == [200] * BURST + [429]
        lab.clock.seconds += 1
        assert (await revoke(lab, tokens[-1])).status_code == 200


class TestRefreshTokens:
    async def test_the_whole_family_ends_with_its_access_tokens(self, grants: GrantLab) -> None:
        lab, gate = grants.lab, Gate(grants.lab)
        begun = await grants.begin("native")
        again = (await grants.refresh(begun["refresh_token"], "native")).json()
        response = await lab.http.post("/revoke", data={"token": again["refresh_token"], "client_id": "native"})
        assert response.status_code == 200
        for token in (begun["access_token"], again["access_token"]):
            assert await gate.judge(token) is ErrorCode.TOKEN_REVOKED
        assert (await grants.refresh(again["refresh_token"], "native")).json()["error"] == "invalid_grant"
        (event,) = grants.events(EventKind.GRANT_REVOKED)
        assert (event.client, event.user) == ("native", ALICE)

    async def test_a_token_of_the_family_that_was_used_already_ends_it_as_well(self, grants: GrantLab) -> None:
        begun = await grants.begin("web")
        again = (await grants.refresh(begun["refresh_token"])).json()
        assert (await revoke(grants.lab, begun["refresh_token"], "web")).status_code == 200
        assert (await grants.refresh(again["refresh_token"])).json()["error"] == "invalid_grant"

    async def test_giving_it_back_twice_is_fine_and_told_once(self, grants: GrantLab) -> None:
        token = (await grants.begin("web"))["refresh_token"]
        assert [(await revoke(grants.lab, token, "web")).status_code for _ in range(2)] == [200, 200]
        assert len(grants.events(EventKind.GRANT_REVOKED)) == 1
