"""Stolen and replayed refresh tokens (RFC 9700 section 4.14), and the retry that must not be taken for a theft."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from dpoplab import Prover
from grantlab import ALICE, GrantLab, assert_refused, claims_of, open_grant_lab
from grantserver import open_replica
from harness.postgres import Cluster
from tokenlab import OTHER_SECRET, StepClock, basic
from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.authserver.retry_answer import RETRY_WINDOW
from twogate.stores.sql.engine import reading, writing
from twogate.stores.sql.tables import grants


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


async def assert_ended(people: GrantLab, answer: dict[str, Any], client_id: str, headers: dict[str, str]) -> None:
    """All that came from a grant is dead, and the trail says why."""
    grant_id = claims_of(answer["access_token"])["grant_id"]
    assert ("grant", grant_id) in await people.revoked()
    response = await people.refresh(answer["refresh_token"], client_id, headers)
    assert_refused(people, response, ErrorCode.GRANT_INVALID)
    [event] = people.events(EventKind.GRANT_REVOKED)
    assert (event.user, event.client, event.reason) == (ALICE, client_id, ErrorCode.GRANT_REUSED)
    assert event.anomaly


class TestReuse:
    async def test_a_public_clients_second_use_ends_the_family_at_once(self, people: GrantLab) -> None:
        token = (await people.begin("native"))["refresh_token"]
        answer = (await people.refresh(token, "native")).json()
        assert_refused(people, await people.refresh(token, "native"), ErrorCode.GRANT_REUSED)
        assert people.lab.audit.last.anomaly
        await assert_ended(people, answer, "native", {})

    async def test_an_authenticated_clients_second_use_ends_it_after_the_window(self, people: GrantLab) -> None:
        token = (await people.begin())["refresh_token"]
        answer = (await people.refresh(token)).json()
        people.lab.clock.seconds += RETRY_WINDOW
        assert_refused(people, await people.refresh(token), ErrorCode.GRANT_REUSED)
        await assert_ended(people, answer, "web", {})

    async def test_a_proven_keys_second_use_ends_it_after_the_window(self, people: GrantLab) -> None:
        key = Prover()
        token = (await people.begin("native", await key.fresh(people.lab)))["refresh_token"]
        answer = (await people.refresh(token, "native", await key.fresh(people.lab))).json()
        people.lab.clock.seconds += RETRY_WINDOW
        response = await people.refresh(token, "native", await key.fresh(people.lab))
        assert_refused(people, response, ErrorCode.GRANT_REUSED)
        await assert_ended(people, answer, "native", await key.fresh(people.lab))

    @pytest.mark.parametrize("with_key", [False, True])
    async def test_who_cannot_prove_the_key_gets_no_retry(self, people: GrantLab, with_key: bool) -> None:
        key = Prover()
        token = (await people.begin("native", await key.fresh(people.lab)))["refresh_token"]
        answer = (await people.refresh(token, "native", await key.fresh(people.lab))).json()
        headers = await Prover().fresh(people.lab) if with_key else {}
        response = await people.refresh(token, "native", headers)
        assert_refused(people, response, ErrorCode.GRANT_REUSED)
        await assert_ended(people, answer, "native", await key.fresh(people.lab))

    @pytest.mark.parametrize("age", [2, 3, 5])
    async def test_a_token_of_any_age_is_known_as_used(self, people: GrantLab, age: int) -> None:
        answer = await people.begin()
        tokens = [answer["refresh_token"]]
        for _ in range(5):
            answer = (await people.refresh(tokens[-1])).json()
            tokens.append(answer["refresh_token"])
        assert_refused(people, await people.refresh(tokens[-1 - age]), ErrorCode.GRANT_REUSED)
        await assert_ended(people, answer, "web", {})

    async def test_a_thief_who_is_first_is_thrown_out_when_the_owner_comes(self, people: GrantLab) -> None:
        token = (await people.begin("native"))["refresh_token"]
        stolen = (await people.refresh(token, "native")).json()
        assert_refused(people, await people.refresh(token, "native"), ErrorCode.GRANT_REUSED)
        await assert_ended(people, stolen, "native", {})

    async def test_a_thief_who_binds_the_token_to_their_own_key_is_thrown_out_too(self, people: GrantLab) -> None:
        thief = Prover()
        token = (await people.begin("native"))["refresh_token"]
        stolen = (await people.refresh(token, "native", await thief.fresh(people.lab))).json()
        assert_refused(people, await people.refresh(token, "native"), ErrorCode.GRANT_REUSED)
        await assert_ended(people, stolen, "native", await thief.fresh(people.lab))


class TestOthersTokens:
    @pytest.mark.parametrize("thief", ["other", "native"])
    async def test_another_client_gets_nothing_and_ends_nothing(self, people: GrantLab, thief: str) -> None:
        old = (await people.begin())["refresh_token"]
        token = (await people.refresh(old)).json()["refresh_token"]
        for stolen in (token, old):
            assert_refused(people, await people.refresh(stolen, thief), ErrorCode.GRANT_INVALID)
        assert (await people.refresh(token)).status_code == 200

    async def test_a_retry_needs_the_clients_secret(self, people: GrantLab) -> None:
        token = (await people.begin())["refresh_token"]
        await people.refresh(token)
        for client_id, form, headers in [("", {"client_id": "web"}, {}), ("", {}, basic("web", OTHER_SECRET))]:
            response = await people.refresh(token, client_id, headers, **form)
            assert (response.status_code, response.json()["error"]) == (401, "invalid_client")
        assert (await people.refresh(token)).status_code == 200

    async def test_the_name_of_a_grant_is_no_part_of_its_tokens(self, people: GrantLab) -> None:
        # Access tokens and the audit trail carry it: whoever sees one must not be able to end the grant.
        answer = await people.begin()
        grant_id = claims_of(answer["access_token"])["grant_id"]
        assert grant_id not in answer["refresh_token"]
        assert_refused(people, await people.refresh(f"{grant_id}.{'A' * 43}"), ErrorCode.GRANT_INVALID)
        assert (await people.refresh(answer["refresh_token"])).status_code == 200

    async def test_another_grants_secret_under_this_handle_ends_this_family_only(self, people: GrantLab) -> None:
        one, two = (await people.begin())["refresh_token"], (await people.begin())["refresh_token"]
        spliced = f"{one.split('.')[0]}.{two.split('.')[1]}"
        assert_refused(people, await people.refresh(spliced), ErrorCode.GRANT_REUSED)
        assert (await people.refresh(two)).status_code == 200

    async def test_a_refusal_tells_nothing_of_what_was_wrong(self, people: GrantLab) -> None:
        old = (await people.begin("native"))["refresh_token"]
        await people.refresh(old, "native")
        bound = (await people.begin("native", await Prover().fresh(people.lab)))["refresh_token"]
        responses = [
            await people.refresh("x", "native"),
            await people.refresh(f"{'A' * 22}.{'A' * 43}", "native"),
            await people.refresh(old, "native"),
            await people.refresh(old, "native"),
            await people.refresh(bound, "native"),
        ]
        assert len({response.content for response in responses}) == 1


class TestStolenDatabase:
    async def test_what_the_store_holds_of_a_rotation_opens_without_neither_token(self, people: GrantLab) -> None:
        token = (await people.begin())["refresh_token"]
        answer = (await people.refresh(token)).json()
        async with reading(people.lab.engine) as connection:
            row = (await connection.execute(select(grants))).mappings().one()
        for secret in (answer["access_token"], *answer["refresh_token"].split("."), *token.split(".")):
            assert secret not in repr(dict(row))

    async def test_an_answer_moved_to_another_grant_is_not_given(self, people: GrantLab) -> None:
        one, two = (await people.begin())["refresh_token"], (await people.begin())["refresh_token"]
        await people.refresh(one)
        await people.refresh(two)
        async with writing(people.lab.engine) as connection:
            rows = (await connection.execute(select(grants.c.id, grants.c.retry_answer))).all()
            for (grant_id, _), (_, other) in zip(rows, reversed(rows), strict=True):
                await connection.execute(update(grants).where(grants.c.id == grant_id).values(retry_answer=other))
        for token in (one, two):
            assert (await people.refresh(token)).status_code == 503
            assert people.lab.audit.last.reason == ErrorCode.KEYS_UNAVAILABLE


class TestRaces:
    async def test_twenty_parallel_refreshes_of_an_authenticated_client_lose_nobody(self, people: GrantLab) -> None:
        token = (await people.begin())["refresh_token"]
        people.lab.audit.events.clear()
        responses = await asyncio.gather(*(people.refresh(token) for _ in range(20)))
        assert {response.status_code for response in responses} == {200}
        assert len({response.content for response in responses}) == 1
        # One token was signed; the trail tells the rotation from the retries.
        signed = [event for event in people.events(EventKind.TOKEN_ISSUED) if event.detail.startswith("jti")]
        assert len(signed) == 1
        assert len(people.events(EventKind.TOKEN_ISSUED)) == 20
        assert (await people.refresh(responses[0].json()["refresh_token"])).status_code == 200

    async def test_twenty_parallel_refreshes_by_one_key_lose_nobody(self, people: GrantLab) -> None:
        key = Prover()
        token = (await people.begin("native", await key.fresh(people.lab)))["refresh_token"]
        proofs = [await key.fresh(people.lab) for _ in range(20)]
        responses = await asyncio.gather(*(people.refresh(token, "native", proof) for proof in proofs))
        assert {response.status_code for response in responses} == {200}
        assert len({response.content for response in responses}) == 1

    async def test_parallel_refreshes_of_a_public_client_give_one_answer_and_end_the_family(
        self, people: GrantLab
    ) -> None:
        token = (await people.begin("native"))["refresh_token"]
        responses = await asyncio.gather(*(people.refresh(token, "native") for _ in range(20)))
        [won] = [response.json() for response in responses if response.status_code == 200]
        await assert_ended(people, won, "native", {})

    @pytest.mark.parametrize("client_id", ["web", "native"])
    async def test_twenty_refreshes_at_four_replicas_lose_nobody_who_proves_who_they_are(
        self, url: str, client_id: str
    ) -> None:
        proof = None if client_id == "web" else "thumbprint"
        async with AsyncExitStack() as stack:
            clock = StepClock()
            replicas = [await stack.enter_async_context(open_replica(url, clock)) for _ in range(4)]
            token = (await replicas[0].redeem(await replicas[0].code(client_id), client_id))["refresh_token"]
            if proof is not None:
                token = (await replicas[0].refresh(token, client_id, proof))["refresh_token"]
            results = await asyncio.gather(
                *(replicas[number % 4].refresh(token, client_id, proof) for number in range(20))
            )
            assert all(result == results[0] for result in results)
            # Whoever loses between the replicas has signed a token that nobody gets: it is nowhere in the answers.
            [family] = await replicas[0].families.list_for_user("acme", ALICE, clock.now())
            assert family.generation == (1 if proof is None else 2)
            assert await replicas[3].refresh(results[0]["refresh_token"], client_id, proof)

    async def test_parallel_refreshes_of_a_public_client_at_four_replicas_give_one_answer_and_end_the_family(
        self, url: str
    ) -> None:
        async with AsyncExitStack() as stack:
            replicas = [await stack.enter_async_context(open_replica(url, StepClock())) for _ in range(4)]
            token = (await replicas[0].redeem(await replicas[0].code("native"), "native"))["refresh_token"]
            results = await asyncio.gather(
                *(replicas[number % 4].refresh(token, "native") for number in range(20)), return_exceptions=True
            )
            won = [result for result in results if isinstance(result, dict)]
            lost = {result.code for result in results if isinstance(result, GateError)}
            assert len(won) == 1
            assert lost <= {ErrorCode.GRANT_REUSED, ErrorCode.GRANT_INVALID}
            with pytest.raises(GateError) as refused:
                await replicas[1].refresh(won[0]["refresh_token"], "native")
            assert refused.value.code is ErrorCode.GRANT_INVALID

    async def test_a_refresh_that_races_a_revocation_gives_nothing_that_lives(self, url: str) -> None:
        async with AsyncExitStack() as stack:
            clock = StepClock()
            one, two = [await stack.enter_async_context(open_replica(url, clock)) for _ in range(2)]
            for _ in range(5):
                answer = await one.redeem(await one.code())
                grant_id = claims_of(answer["access_token"])["grant_id"]
                results = await asyncio.gather(
                    one.refresh(answer["refresh_token"]),
                    two.families.revoke(grant_id, clock.now(), "account"),
                    return_exceptions=True,
                )
                assert results[1] is True
                last = results[0]["refresh_token"] if isinstance(results[0], dict) else answer["refresh_token"]
                with pytest.raises(GateError) as refused:
                    await one.refresh(last)
                assert refused.value.code is ErrorCode.GRANT_INVALID
