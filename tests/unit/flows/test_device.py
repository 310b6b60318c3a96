"""Device authorization from the first request to the tokens (RFC 8628)."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from pathlib import Path

import jwt
import pytest
from sqlalchemy import text

from devicelab import (
    ALICE,
    CLI,
    LIFETIME,
    OTHER_CLI,
    PUBLIC,
    DeviceLab,
    LoggedIn,
    add_user,
    cli_client,
    open_device_lab,
)
from tokenlab import FILES, ISSUER, SECRET, basic, digest
from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.device import parse_user_code
from twogate.core.oauth.grant_type import GrantType
from twogate.flows.authserver.clients import ClientAuth, ClientKind
from twogate.flows.authserver.device import DeviceLimits
from twogate.stores.sql.engine import reading

REVIEW = '[{"type":"mcp_session","task":"review"}]'


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncGenerator[DeviceLab]:
    async with open_device_lab(tmp_path) as running:
        yield running


class TestBeginning:
    async def test_the_answer_says_what_the_person_is_to_do(self, lab: DeviceLab) -> None:
        answer = await lab.begin(scope="reports", authorization_details=REVIEW)
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        body = answer.json()
        assert len(body["device_code"]) == 43
        assert parse_user_code(body["user_code"]) is not None
        assert body["verification_uri"] == f"{ISSUER}/device"
        assert body["verification_uri_complete"] == f"{ISSUER}/device?user_code={body['user_code']}"
        assert (body["expires_in"], body["interval"]) == (LIFETIME, 5)

    async def test_codes_are_new_each_time_and_the_device_code_is_kept_as_its_digest(self, lab: DeviceLab) -> None:
        one, two = await lab.begun(), await lab.begun()
        assert one["device_code"] != two["device_code"]
        assert one["user_code"] != two["user_code"]
        async with reading(lab.lab.engine) as connection:
            rows = [tuple(row) for row in await connection.execute(text("SELECT * FROM device_codes"))]
        digests = {row[0] for row in rows}
        assert digests == {hashlib.sha256(begun["device_code"].encode()).hexdigest() for begun in (one, two)}
        assert one["device_code"] not in repr(rows)

    async def test_what_was_asked_for_is_kept(self, lab: DeviceLab) -> None:
        begun = await lab.begun(scope="reports admin", authorization_details=REVIEW)
        waiting = await lab.entered(begun["user_code"])
        asked = waiting.code.request
        assert (asked.resource, asked.scopes, asked.task) == (FILES, ("reports", "admin"), "review")
        assert (asked.address, asked.proof) == ("203.0.113.7", None)
        assert (waiting.client.client_id, waiting.agent.id) == (CLI, PUBLIC)

    @pytest.mark.parametrize(
        ("changes", "error"),
        [
            ({"client_id": ""}, "invalid_client"),
            ({"client_id": "nobody"}, "invalid_client"),
            ({"client_id": "reporter"}, "invalid_client"),
            ({"resource": ""}, "invalid_target"),
            ({"resource": f"{ISSUER}/mcp/mail"}, "invalid_target"),
            ({"resource": f"{ISSUER}/operations"}, "invalid_target"),
            ({"scope": "nonsense"}, "invalid_scope"),
            ({"authorization_details": "[]"}, "invalid_authorization_details"),
            ({"authorization_details": REVIEW.replace("review", "other")}, "invalid_authorization_details"),
        ],
    )
    async def test_what_could_not_be_granted_is_refused_at_once(
        self, lab: DeviceLab, changes: dict[str, str], error: str
    ) -> None:
        answer = await lab.begin(**changes)
        assert answer.json()["error"] == error
        assert lab.lab.audit.last.kind is EventKind.AUTHORIZATION_REFUSED

    async def test_a_client_without_the_grant_is_refused(self, lab: DeviceLab) -> None:
        client = cli_client("no-device", grants=frozenset({GrantType.AUTHORIZATION_CODE}))
        await lab.lab.clients.add(client, None, (), lab.lab.clock.now())
        assert (await lab.begin(client_id="no-device")).json()["error"] == "unauthorized_client"

    async def test_a_client_with_a_secret_authenticates_here_too(self, lab: DeviceLab) -> None:
        client = cli_client("tv", kind=ClientKind.HOST, auth=ClientAuth.CLIENT_SECRET, secret_digests=(digest(SECRET),))
        await lab.lab.clients.add(client, None, (), lab.lab.clock.now())
        assert (await lab.begin(client_id="tv")).json()["error"] == "invalid_client"
        begun = (await lab.begin(basic("tv", SECRET), client_id="")).json()
        assert await lab.polled(begun["device_code"], client_id="tv", client_secret=SECRET) == "authorization_pending"

    async def test_an_address_that_begins_again_and_again_is_slowed_down(self, lab: DeviceLab) -> None:
        answers = [await lab.begin() for _ in range(31)]
        assert [answer.status_code for answer in answers] == [200] * 30 + [429]
        lab.lab.clock.seconds += 2
        assert (await lab.begin()).status_code == 200


class TestPolling:
    async def test_until_somebody_decides_the_device_is_told_to_wait(self, lab: DeviceLab) -> None:
        begun = await lab.begun()
        for _ in range(3):
            assert await lab.polled(begun["device_code"]) == "authorization_pending"
            lab.lab.clock.seconds += 5

    async def test_waiting_leaves_nothing_on_the_trail(self, lab: DeviceLab) -> None:
        begun = await lab.begun()
        before = len(lab.lab.audit.events)
        assert await lab.polled(begun["device_code"]) == "authorization_pending"
        assert len(lab.lab.audit.events) == before

    async def test_polling_too_fast_makes_the_interval_longer_each_time(self, lab: DeviceLab) -> None:
        begun = await lab.begun()
        assert await lab.polled(begun["device_code"]) == "authorization_pending"
        assert await lab.polled(begun["device_code"]) == "slow_down"  # 10 s from now on
        lab.lab.clock.seconds += 5
        assert await lab.polled(begun["device_code"]) == "slow_down"  # 15 s
        lab.lab.clock.seconds += 15
        assert await lab.polled(begun["device_code"]) == "authorization_pending"

    async def test_what_was_allowed_is_given_even_to_a_hasty_device(self, lab: DeviceLab) -> None:
        begun = await lab.begun()
        assert await lab.polled(begun["device_code"]) == "authorization_pending"
        await lab.decide(begun["user_code"])
        assert (await lab.poll(begun["device_code"])).status_code == 200

    async def test_the_tokens_are_the_persons_and_for_what_was_asked(self, lab: DeviceLab) -> None:
        begun = await lab.begun(scope="reports", authorization_details=REVIEW)
        await lab.decide(begun["user_code"])
        answer = await lab.poll(begun["device_code"])
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert (body["token_type"], body["scope"]) == ("Bearer", "reports")
        assert body["authorization_details"] == [{"type": "mcp_session", "task": "review"}]
        claims = jwt.decode(body["access_token"], options={"verify_signature": False})
        assert (claims["sub"], claims["aud"], claims["client_id"]) == (ALICE, FILES, CLI)
        assert claims["auth_time"] == LoggedIn().authenticated_at
        refreshed = await lab.lab.http.post(
            "/token",
            data={"grant_type": "refresh_token", "refresh_token": body["refresh_token"], "client_id": CLI},
        )
        assert refreshed.status_code == 200

    async def test_a_denied_device_is_told_so(self, lab: DeviceLab) -> None:
        begun = await lab.begun()
        await lab.decide(begun["user_code"], allow=False)
        for _ in range(2):
            assert await lab.polled(begun["device_code"]) == "access_denied"

    async def test_a_code_ends_by_its_time_decided_or_not(self, lab: DeviceLab) -> None:
        waiting, allowed = await lab.begun(), await lab.begun()
        await lab.decide(allowed["user_code"])
        lab.lab.clock.seconds += LIFETIME
        for begun in (waiting, allowed):
            assert await lab.polled(begun["device_code"]) == "expired_token"
        with pytest.raises(GateError) as refused:
            await lab.entered(waiting["user_code"])
        assert refused.value.code is ErrorCode.DEVICE_CODE_EXPIRED

    async def test_tokens_are_given_once(self, lab: DeviceLab) -> None:
        begun = await lab.begun()
        await lab.decide(begun["user_code"])
        assert (await lab.poll(begun["device_code"])).status_code == 200
        assert await lab.polled(begun["device_code"]) == "invalid_grant"

    async def test_of_twenty_parallel_polls_one_gets_the_tokens(self, lab: DeviceLab) -> None:
        begun = await lab.begun()
        await lab.decide(begun["user_code"])
        answers = await asyncio.gather(*(lab.poll(begun["device_code"]) for _ in range(20)))
        assert sorted(answer.status_code for answer in answers) == [200] + [400] * 19
        assert {answer.json()["error"] for answer in answers if answer.status_code == 400} == {"invalid_grant"}
        assert sum(event.kind is EventKind.TOKEN_ISSUED for event in lab.lab.audit.events) == 1

    async def test_a_disabled_person_gets_nothing(self, lab: DeviceLab) -> None:
        begun = await lab.begun()
        await lab.decide(begun["user_code"], login=LoggedIn(subject="nobody-any-more"))
        assert await lab.polled(begun["device_code"]) == "invalid_grant"

    async def test_an_upstream_login_that_ends_ends_the_tokens_too(self, lab: DeviceLab) -> None:
        begun = await lab.begun()
        ends = lab.lab.clock.now() + 60
        await lab.decide(begun["user_code"], login=LoggedIn(upstream="grant-1", ends_at=ends))
        body = (await lab.poll(begun["device_code"])).json()
        assert body["expires_in"] == 60


class TestDeciding:
    async def test_the_trail_has_the_decision_first(self, lab: DeviceLab) -> None:
        begun = await lab.begun(scope="reports")
        await lab.decide(begun["user_code"])
        event = lab.lab.audit.last
        assert (event.kind, event.user, event.client) == (EventKind.AUTHORIZATION_GRANTED, ALICE, CLI)
        assert (event.tenant, event.agent, event.address) == ("acme", "public-client", "198.51.100.1")
        assert event.detail == f"device code from 203.0.113.7 for {FILES} scope reports"

    async def test_without_the_trail_nothing_is_decided(self, lab: DeviceLab) -> None:
        begun = await lab.begun()
        waiting = await lab.entered(begun["user_code"])
        lab.lab.audit.broken = True
        with pytest.raises(GateError) as refused:
            await lab.decisions.decide(waiting, LoggedIn(), allow=True, address="198.51.100.1")
        assert refused.value.code is ErrorCode.AUDIT_UNAVAILABLE
        lab.lab.audit.broken = False
        assert await lab.polled(begun["device_code"]) == "authorization_pending"

    async def test_a_person_of_another_tenant_cannot_decide(self, lab: DeviceLab) -> None:
        begun = await lab.begun()
        with pytest.raises(GateError) as refused:
            await lab.decide(begun["user_code"], login=LoggedIn(tenant="globex"))
        assert refused.value.code is ErrorCode.LOGIN_REQUIRED
        assert await lab.polled(begun["device_code"]) == "authorization_pending"

    async def test_a_second_decision_comes_too_late(self, lab: DeviceLab) -> None:
        begun = await lab.begun()
        waiting = await lab.entered(begun["user_code"])
        await lab.decide(begun["user_code"], allow=False)
        with pytest.raises(GateError) as refused:
            await lab.decisions.decide(waiting, LoggedIn(), allow=True, address="198.51.100.1")
        assert refused.value.code is ErrorCode.INTERACTION_EXPIRED
        assert await lab.polled(begun["device_code"]) == "access_denied"

    async def test_a_client_that_is_gone_or_may_not_any_more_waits_no_longer(self, lab: DeviceLab) -> None:
        client = cli_client("short", expires_at=lab.lab.clock.now() + 100)
        await lab.lab.clients.add(client, None, (), lab.lab.clock.now())
        begun = await lab.begun(client_id="short")
        lab.lab.clock.seconds += 100
        with pytest.raises(GateError) as refused:
            await lab.entered(begun["user_code"])
        assert refused.value.code is ErrorCode.DEVICE_CODE_EXPIRED

    async def test_each_decision_is_for_one_code(self, lab: DeviceLab) -> None:
        await add_user(lab.lab, "bob-subject")
        one, two = await lab.begun(), await lab.begun(client_id=OTHER_CLI)
        await lab.decide(one["user_code"])
        assert await lab.polled(two["device_code"], client_id=OTHER_CLI) == "authorization_pending"
        await lab.decide(two["user_code"], login=LoggedIn(subject="bob-subject"))
        body = (await lab.poll(two["device_code"], client_id=OTHER_CLI)).json()
        assert jwt.decode(body["access_token"], options={"verify_signature": False})["sub"] == "bob-subject"


class TestLimits:
    def test_five_tries_then_one_every_two_minutes(self) -> None:
        limits = DeviceLimits()
        for _ in range(5):
            limits.enter("203.0.113.9", 1000)
        for moment, passes in ((1000, False), (1119, False), (1120, True), (1121, False), (1240, True)):
            if passes:
                limits.enter("203.0.113.9", moment)
                continue
            with pytest.raises(GateError) as refused:
                limits.enter("203.0.113.9", moment)
            assert refused.value.code is ErrorCode.RATE_LIMITED
        limits.enter("203.0.113.10", 1000)

    def test_right_tries_cost_nothing(self) -> None:
        limits = DeviceLimits()
        for _ in range(50):
            limits.enter("2001:db8::1", 1000)
            limits.entered_rightly("2001:db8::2")
        for _ in range(5):
            limits.enter("2001:db8::3", 1000)
        with pytest.raises(GateError):
            limits.enter("2001:db8::1", 1000)
