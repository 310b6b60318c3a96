"""Stolen, replayed and injected authorization codes (RFC 6749 section 10.5, RFC 9700 section 4.5)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from dpoplab import Prover
from grantlab import ALICE, CHALLENGE, OTHER_VERIFIER, GrantLab, assert_refused, claims_of, open_grant_lab
from grantserver import open_replica
from harness.postgres import Cluster
from tokenlab import CODE_LIFETIME, StepClock
from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode, GateError


@pytest.fixture
async def people(tmp_path: Path) -> AsyncGenerator[GrantLab]:
    async with open_grant_lab(tmp_path) as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/twogate.db"
    cluster: Cluster = request.getfixturevalue("cluster")
    return cluster.url(cluster.new_user())


class TestReplay:
    async def test_a_second_use_is_refused_and_ends_all_that_came_from_the_first(self, people: GrantLab) -> None:
        code = await people.code()
        answer = (await people.redeem(code)).json()
        fresh = (await people.refresh(answer["refresh_token"])).json()
        assert_refused(people, await people.redeem(code), ErrorCode.GRANT_REUSED)
        assert people.lab.audit.last.anomaly
        # Every access token of the grant is refused at the gateways, every refresh token here.
        grant_id = claims_of(answer["access_token"])["grant_id"]
        assert claims_of(fresh["access_token"])["grant_id"] == grant_id
        assert ("grant", grant_id) in await people.revoked()
        for token in (fresh["refresh_token"], answer["refresh_token"]):
            assert_refused(people, await people.refresh(token), ErrorCode.GRANT_INVALID)
        [event] = people.events(EventKind.GRANT_REVOKED)
        assert (event.user, event.client, event.reason, event.anomaly) == (ALICE, "web", ErrorCode.GRANT_REUSED, True)

    async def test_it_does_so_without_the_verifier_too(self, people: GrantLab) -> None:
        # Who replays a code from a log has no verifier, and is noticed all the same.
        code = await people.code()
        answer = (await people.redeem(code)).json()
        assert_refused(people, await people.redeem(code, code_verifier=OTHER_VERIFIER), ErrorCode.GRANT_REUSED)
        assert ("grant", claims_of(answer["access_token"])["grant_id"]) in await people.revoked()

    async def test_and_after_the_code_has_expired(self, people: GrantLab) -> None:
        code = await people.code()
        answer = (await people.redeem(code)).json()
        people.lab.clock.seconds += CODE_LIFETIME + 600
        assert_refused(people, await people.redeem(code), ErrorCode.GRANT_REUSED)
        assert_refused(people, await people.refresh(answer["refresh_token"]), ErrorCode.GRANT_INVALID)

    async def test_a_grant_without_refresh_token_ends_too(self, people: GrantLab) -> None:
        code = await people.code("once")
        answer = (await people.redeem(code, "once")).json()
        assert_refused(people, await people.redeem(code, "once"), ErrorCode.GRANT_REUSED)
        assert ("grant", claims_of(answer["access_token"])["grant_id"]) in await people.revoked()

    async def test_other_grants_of_the_person_go_on(self, people: GrantLab) -> None:
        other = await people.begin()
        code = await people.code()
        await people.redeem(code)
        await people.redeem(code)
        assert (await people.refresh(other["refresh_token"])).status_code == 200

    async def test_replaying_it_again_and_again_revokes_once(self, people: GrantLab) -> None:
        code = await people.code()
        await people.redeem(code)
        for _ in range(3):
            assert_refused(people, await people.redeem(code), ErrorCode.GRANT_REUSED)
        assert len(people.events(EventKind.GRANT_REVOKED)) == 1


class TestRaces:
    async def test_of_fifty_parallel_redemptions_one_wins_and_its_grant_is_revoked(self, people: GrantLab) -> None:
        code = await people.code()
        responses = await asyncio.gather(*(people.redeem(code) for _ in range(50)))
        won = [response.json() for response in responses if response.status_code == 200]
        assert len(won) == 1
        assert {response.json()["error"] for response in responses if response.status_code != 200} == {"invalid_grant"}
        assert len(people.events(EventKind.TOKEN_ISSUED)) == 1
        assert ("grant", claims_of(won[0]["access_token"])["grant_id"]) in await people.revoked()

    async def test_of_fifty_redemptions_at_four_replicas_one_wins(self, url: str) -> None:
        async with AsyncExitStack() as stack:
            clock = StepClock()
            replicas = [await stack.enter_async_context(open_replica(url, clock)) for _ in range(4)]
            code = await replicas[0].code()
            results = await asyncio.gather(
                *(replicas[number % 4].redeem(code) for number in range(50)), return_exceptions=True
            )
            won = [result for result in results if isinstance(result, dict)]
            lost = [result.code for result in results if isinstance(result, GateError)]
            assert len(won) == 1
            assert lost == [ErrorCode.GRANT_REUSED] * 49
            with pytest.raises(GateError) as refused:
                await replicas[1].refresh(won[0]["refresh_token"])
            assert refused.value.code is ErrorCode.GRANT_INVALID


class TestInjection:
    @pytest.mark.parametrize("thief", ["other", "native"])
    async def test_another_client_cannot_use_a_code_nor_use_it_up(self, people: GrantLab, thief: str) -> None:
        code = await people.code("web")
        assert_refused(people, await people.redeem(code, thief), ErrorCode.GRANT_INVALID)
        assert (await people.redeem(code)).status_code == 200

    async def test_another_client_cannot_end_a_grant_with_a_used_code(self, people: GrantLab) -> None:
        code = await people.code("web")
        token = (await people.redeem(code)).json()["refresh_token"]
        assert_refused(people, await people.redeem(code, "other"), ErrorCode.GRANT_INVALID)
        assert (await people.refresh(token)).status_code == 200

    async def test_a_client_with_a_secret_must_use_it(self, people: GrantLab) -> None:
        code = await people.code("web")
        response = await people.redeem(code, "", client_id="web")
        assert (response.status_code, response.json()["error"]) == (401, "invalid_client")
        assert (await people.redeem(code)).status_code == 200

    @pytest.mark.parametrize("verifier", [OTHER_VERIFIER, CHALLENGE])
    async def test_a_wrong_verifier_uses_the_code_up(self, people: GrantLab, verifier: str) -> None:
        code = await people.code()
        assert_refused(people, await people.redeem(code, code_verifier=verifier), ErrorCode.GRANT_INVALID)
        # The client that the code was meant for is refused too, and that is where the theft shows.
        assert_refused(people, await people.redeem(code), ErrorCode.GRANT_REUSED)
        assert people.events(EventKind.TOKEN_ISSUED) == []
        assert people.events(EventKind.GRANT_REVOKED) == []

    @pytest.mark.parametrize(
        "uri",
        [
            "",
            "https://evil.example/callback",
            "https://app.example/callback/",
            "https://app.example/callback?x=1",
            "https://APP.example/callback",
            "https://app.example:443/callback",
        ],
    )
    async def test_another_redirect_uri_uses_the_code_up(self, people: GrantLab, uri: str) -> None:
        code = await people.code()
        assert_refused(people, await people.redeem(code, redirect_uri=uri), ErrorCode.GRANT_INVALID)
        assert_refused(people, await people.redeem(code), ErrorCode.GRANT_REUSED)

    async def test_a_redirect_uri_that_was_not_asked_for_must_be_the_one_used(self, people: GrantLab) -> None:
        code = await people.code(redirect_uri_given=False)
        response = await people.redeem(code, redirect_uri="https://evil.example/callback")
        assert_refused(people, response, ErrorCode.GRANT_INVALID)

    async def test_a_code_bound_to_a_key_is_nothing_without_it(self, people: GrantLab) -> None:
        key, other = Prover(), Prover()
        for headers in ({}, await other.fresh(people.lab)):
            code = await people.code("native", proof=key.thumbprint)
            response = await people.redeem(code, "native", headers)
            assert_refused(people, response, ErrorCode.GRANT_INVALID)
            response = await people.redeem(code, "native", await key.fresh(people.lab))
            assert_refused(people, response, ErrorCode.GRANT_REUSED)

    async def test_a_refusal_tells_nothing_of_what_was_wrong(self, people: GrantLab) -> None:
        used = await people.code()
        await people.redeem(used)
        responses = [
            await people.redeem("A" * 43),
            await people.redeem(used),
            await people.redeem(await people.code(), code_verifier=OTHER_VERIFIER),
            await people.redeem(await people.code(), redirect_uri="https://evil.example"),
            await people.redeem(await people.code("other")),
        ]
        assert len({response.content for response in responses}) == 1

    async def test_a_refresh_token_is_no_code_and_a_code_no_refresh_token(self, people: GrantLab) -> None:
        code = await people.code()
        assert_refused(people, await people.refresh(code), ErrorCode.GRANT_INVALID)
        token = (await people.redeem(code)).json()["refresh_token"]
        for part in (token, *token.split(".")):
            assert_refused(people, await people.redeem(part), ErrorCode.GRANT_INVALID)
        assert (await people.refresh(token)).status_code == 200
