"""Refresh tokens: what each use gives, what it may not give, and what is looked at anew."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from dpoplab import Prover
from grantlab import ALICE, GrantLab, assert_refused, claims_of, open_grant_lab
from tokenlab import FILES, LIFESPANS, REPORTER
from twogate.adapters.envelope import LocalEnvelope
from twogate.adapters.rng import SystemRng
from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.refresh_token import RefreshToken, new_refresh_token, parse_refresh_token
from twogate.flows.authserver.families import Lifespans
from twogate.flows.authserver.retry_answer import RETRY_WINDOW, Asked, RetryAnswers
from twogate.stores.sql.engine import reading, writing
from twogate.stores.sql.tables import clients, grants

TASK = '[{"type":"mcp_session","task":"review"}]'


@pytest.fixture
async def people(tmp_path: Path) -> AsyncGenerator[GrantLab]:
    async with open_grant_lab(tmp_path) as running:
        yield running


async def row(people: GrantLab) -> Any:
    async with reading(people.lab.engine) as connection:
        return (await connection.execute(select(grants))).mappings().one()


class TestRotation:
    async def test_each_use_gives_another_token_of_the_same_grant(self, people: GrantLab) -> None:
        answer, seen = await people.begin(), set[str]()
        grant_id = claims_of(answer["access_token"])["grant_id"]
        for _ in range(4):
            seen.add(answer["refresh_token"])
            people.lab.clock.seconds += 600
            response = await people.refresh(answer["refresh_token"])
            assert response.status_code == 200
            answer = response.json()
            claims = claims_of(answer["access_token"])
            assert (claims["grant_id"], claims["sub"], claims["aud"]) == (grant_id, ALICE, FILES)
            assert claims["iat"] == people.lab.clock.now()
        assert answer["refresh_token"] not in seen
        assert len(seen) == 4

    async def test_the_access_token_is_recorded_before_it_is_given(self, people: GrantLab) -> None:
        answer = await people.begin()
        people.lab.audit.events.clear()
        fresh = (await people.refresh(answer["refresh_token"])).json()
        [event] = people.lab.audit.events
        claims = claims_of(fresh["access_token"])
        assert (event.kind, event.user, event.client) == (EventKind.TOKEN_ISSUED, ALICE, "web")
        assert claims["jti"] in event.detail
        assert event.credential == f"grant {claims['grant_id']}"

    async def test_what_cannot_be_recorded_leaves_the_token_good(self, people: GrantLab) -> None:
        token = (await people.begin())["refresh_token"]
        people.lab.audit.broken = True
        assert (await people.refresh(token)).status_code == 503
        people.lab.audit.broken = False
        assert (await people.refresh(token)).status_code == 200
        assert people.events(EventKind.GRANT_REVOKED) == []

    async def test_a_public_client_may_refresh_without_a_key(self, people: GrantLab) -> None:
        answer = await people.begin("native")
        response = await people.refresh(answer["refresh_token"], "native")
        assert response.status_code == 200
        assert response.json()["refresh_token"] != answer["refresh_token"]


class TestLifetimes:
    async def test_a_token_may_lie_unused_for_so_long(self, people: GrantLab) -> None:
        first, second = await people.begin(), await people.begin()
        people.lab.clock.seconds += LIFESPANS.unused - 1
        assert (await people.refresh(first["refresh_token"])).status_code == 200
        people.lab.clock.seconds += 1
        assert_refused(people, await people.refresh(second["refresh_token"]), ErrorCode.GRANT_INVALID)
        assert people.events(EventKind.GRANT_REVOKED) == []

    async def test_a_family_ends_however_often_it_is_used(self, people: GrantLab) -> None:
        answer = await people.begin()
        start = people.lab.clock.seconds
        for day in (20, 40, 60, 80):
            people.lab.clock.seconds = start + day * 86400
            answer = (await people.refresh(answer["refresh_token"])).json()
        [family] = await people.lab.families.list_for_user("acme", ALICE, people.lab.clock.now())
        assert family.expires_at == start + LIFESPANS.whole
        people.lab.clock.seconds = start + LIFESPANS.whole - 60
        response = await people.refresh(answer["refresh_token"])
        # Its last access token ends with it.
        assert response.json()["expires_in"] == 60
        people.lab.clock.seconds += 60
        assert_refused(people, await people.refresh(response.json()["refresh_token"]), ErrorCode.GRANT_INVALID)

    async def test_what_was_granted_until_a_moment_ends_then(self, people: GrantLab) -> None:
        now = people.lab.clock.now()
        answer = await people.begin(ends_at=now + 1000)
        people.lab.clock.seconds += 900
        response = await people.refresh(answer["refresh_token"])
        assert response.json()["expires_in"] == 100
        people.lab.clock.seconds += 100
        assert_refused(people, await people.refresh(response.json()["refresh_token"]), ErrorCode.GRANT_INVALID)

    @pytest.mark.parametrize("stricter", [Lifespans(3600, LIFESPANS.whole), Lifespans(3600, 3600)])
    async def test_a_shorter_configured_lifetime_holds_for_families_that_exist(
        self, people: GrantLab, stricter: Lifespans
    ) -> None:
        answer = await people.begin()
        people.lab.families.lifespans = stricter
        people.lab.clock.seconds += 3600
        assert_refused(people, await people.refresh(answer["refresh_token"]), ErrorCode.GRANT_INVALID)


class TestNarrowing:
    async def test_scopes_may_be_narrowed_for_one_access_token(self, people: GrantLab) -> None:
        answer = await people.begin()
        narrowed = (await people.refresh(answer["refresh_token"], scope="admin")).json()
        assert (narrowed["scope"], claims_of(narrowed["access_token"])["scope"]) == ("admin", "admin")
        # "If a new refresh token is issued, the refresh token scope MUST be identical" (RFC 6749 section 6).
        whole = (await people.refresh(narrowed["refresh_token"])).json()
        assert whole["scope"] == "reports admin"

    @pytest.mark.parametrize("scope", ["reports admin other", "other", "Reports", " "])
    async def test_scopes_are_never_widened(self, people: GrantLab, scope: str) -> None:
        token = (await people.begin(scopes=("reports",)))["refresh_token"]
        for wider in (scope, "admin", "reports admin"):
            response = await people.refresh(token, scope=wider)
            assert_refused(people, response, ErrorCode.SCOPE_INVALID, "invalid_scope")
        assert (await people.refresh(token)).json()["scope"] == "reports"

    async def test_resource_and_task_may_only_be_repeated(self, people: GrantLab) -> None:
        token = (await people.begin(task="review"))["refresh_token"]
        other = "https://mcp.example.com/mcp/git"
        response = await people.refresh(token, resource=other)
        assert_refused(people, response, ErrorCode.RESOURCE_INVALID, "invalid_target")
        response = await people.refresh(token, authorization_details=TASK.replace("review", "release"))
        assert_refused(people, response, ErrorCode.DETAILS_INVALID, "invalid_authorization_details")
        response = await people.refresh(token, resource=FILES, authorization_details=TASK)
        assert claims_of(response.json()["access_token"])["authorization_details"][0]["task"] == "review"

    async def test_a_task_cannot_be_added(self, people: GrantLab) -> None:
        response = await people.refresh((await people.begin())["refresh_token"], authorization_details=TASK)
        assert_refused(people, response, ErrorCode.DETAILS_INVALID, "invalid_authorization_details")

    async def test_the_task_of_the_grant_stays(self, people: GrantLab) -> None:
        answer = await people.begin(task="review")
        fresh = (await people.refresh(answer["refresh_token"])).json()
        assert fresh["authorization_details"] == [{"type": "mcp_session", "task": "review"}]
        assert claims_of(fresh["access_token"])["sid"] == claims_of(answer["access_token"])["sid"]


class TestLookedAtAnew:
    async def test_a_disabled_person_is_refused_and_nothing_is_revoked(self, people: GrantLab) -> None:
        token = (await people.begin())["refresh_token"]
        await people.disable_alice()
        assert_refused(people, await people.refresh(token), ErrorCode.GRANT_INVALID)
        assert people.lab.audit.last.user == ALICE
        await people.disable_alice(None)
        assert (await people.refresh(token)).status_code == 200

    async def test_a_disabled_agent_is_refused_and_nothing_is_revoked(self, people: GrantLab) -> None:
        token = (await people.begin())["refresh_token"]
        await people.lab.registry.disable_agent(REPORTER, people.lab.clock.now())
        response = await people.refresh(token)
        assert (response.status_code, response.json()["error"]) == (401, "invalid_client")
        assert people.lab.audit.last.reason == ErrorCode.AGENT_DISABLED
        assert people.events(EventKind.GRANT_REVOKED) == []

    async def test_a_client_that_was_removed_is_refused(self, people: GrantLab) -> None:
        token = (await people.begin("native"))["refresh_token"]
        async with writing(people.lab.engine) as connection:
            await connection.execute(delete(clients).where(clients.c.client_id == "native"))
        response = await people.refresh(token, "native")
        assert (response.status_code, response.json()["error"]) == (401, "invalid_client")

    async def test_a_client_that_may_not_refresh_any_more_is_refused(self, people: GrantLab) -> None:
        token = (await people.begin())["refresh_token"]
        async with writing(people.lab.engine) as connection:
            await connection.execute(
                update(clients).where(clients.c.client_id == "web").values(grants='["authorization_code"]')
            )
        assert_refused(people, await people.refresh(token), ErrorCode.CLIENT_UNAUTHORIZED, "unauthorized_client")

    async def test_a_scope_that_was_configured_away_is_not_issued(self, people: GrantLab) -> None:
        token = (await people.begin())["refresh_token"]
        settings = people.lab.tokens.settings
        people.lab.tokens.settings = type(settings)(settings.issuer, settings.resources, frozenset({"reports"}))
        assert (await people.refresh(token)).json()["scope"] == "reports"

    async def test_a_resource_that_was_configured_away_is_refused(self, people: GrantLab) -> None:
        token = (await people.begin())["refresh_token"]
        settings = people.lab.tokens.settings
        people.lab.tokens.settings = type(settings)(settings.issuer, {}, settings.scopes)
        assert_refused(people, await people.refresh(token), ErrorCode.RESOURCE_INVALID, "invalid_target")

    async def test_the_identity_provider_is_asked_about_those_who_came_through_it(self, people: GrantLab) -> None:
        token = (await people.begin(upstream="login-1"))["refresh_token"]
        assert (await people.refresh(token)).status_code == 200
        assert people.lab.upstreams.asked == ["login-1"]

    async def test_a_person_who_is_gone_upstream_loses_the_grant(self, people: GrantLab) -> None:
        answer = await people.begin(upstream="login-1")
        people.lab.upstreams.refusal = GateError(ErrorCode.GRANT_INVALID, "gone")
        assert_refused(people, await people.refresh(answer["refresh_token"]), ErrorCode.GRANT_INVALID)
        grant_id = claims_of(answer["access_token"])["grant_id"]
        assert ("grant", grant_id) in await people.revoked()
        [event] = people.events(EventKind.GRANT_REVOKED)
        assert (event.reason, event.anomaly) == ("upstream", False)
        people.lab.upstreams.refusal = None
        assert_refused(people, await people.refresh(answer["refresh_token"]), ErrorCode.GRANT_INVALID)

    async def test_an_identity_provider_that_does_not_answer_costs_nothing(self, people: GrantLab) -> None:
        token = (await people.begin(upstream="login-1"))["refresh_token"]
        people.lab.upstreams.refusal = GateError(ErrorCode.IDENTITY_PROVIDER_UNAVAILABLE, "down")
        assert (await people.refresh(token)).status_code == 503
        people.lab.upstreams.refusal = None
        assert (await people.refresh(token)).status_code == 200
        assert people.events(EventKind.GRANT_REVOKED) == []


class TestKeys:
    async def test_a_public_clients_token_is_bound_to_the_key_of_its_first_proof(self, people: GrantLab) -> None:
        key, other = Prover(), Prover()
        token = (await people.begin("native", await key.fresh(people.lab)))["refresh_token"]
        for headers in ({}, await other.fresh(people.lab)):
            assert_refused(people, await people.refresh(token, "native", headers), ErrorCode.GRANT_INVALID)
        response = await people.refresh(token, "native", await key.fresh(people.lab))
        assert claims_of(response.json()["access_token"])["cnf"] == {"jkt": key.thumbprint}

    async def test_a_public_client_that_begins_to_prove_a_key_has_the_next_token_bound(self, people: GrantLab) -> None:
        key = Prover()
        token = (await people.begin("native"))["refresh_token"]
        token = (await people.refresh(token, "native", await key.fresh(people.lab))).json()["refresh_token"]
        assert_refused(people, await people.refresh(token, "native"), ErrorCode.GRANT_INVALID)
        assert (await people.refresh(token, "native", await key.fresh(people.lab))).status_code == 200

    async def test_a_confidential_client_may_change_its_key_and_the_access_token_follows(
        self, people: GrantLab
    ) -> None:
        first, second = Prover(), Prover()
        token = (await people.begin("web", await first.fresh(people.lab)))["refresh_token"]
        answer = (await people.refresh(token, "web", await second.fresh(people.lab))).json()
        assert claims_of(answer["access_token"])["cnf"] == {"jkt": second.thumbprint}
        answer = (await people.refresh(answer["refresh_token"])).json()
        assert (answer["token_type"], claims_of(answer["access_token"]).get("cnf")) == ("Bearer", None)


class TestRetry:
    @pytest.mark.parametrize("after", [0, 1, RETRY_WINDOW - 1])
    async def test_an_authenticated_client_gets_the_identical_answer(self, people: GrantLab, after: int) -> None:
        token = (await people.begin())["refresh_token"]
        first = await people.refresh(token)
        people.lab.clock.seconds += after
        again = await people.refresh(token)
        assert (again.status_code, again.json()) == (200, first.json())
        assert (await people.refresh(first.json()["refresh_token"])).status_code == 200

    async def test_so_does_a_public_client_that_proves_its_key(self, people: GrantLab) -> None:
        key = Prover()
        token = (await people.begin("native", await key.fresh(people.lab)))["refresh_token"]
        first = await people.refresh(token, "native", await key.fresh(people.lab))
        again = await people.refresh(token, "native", await key.fresh(people.lab))
        assert (again.status_code, again.json()) == (200, first.json())

    async def test_an_answer_given_again_is_on_the_trail(self, people: GrantLab) -> None:
        token = (await people.begin())["refresh_token"]
        await people.refresh(token)
        people.lab.audit.events.clear()
        await people.refresh(token)
        [event] = people.lab.audit.events
        assert (event.kind, event.user, event.detail) == (
            EventKind.TOKEN_ISSUED,
            ALICE,
            "the answer of rotation 1 once more",
        )

    async def test_an_answer_that_cannot_be_recorded_is_not_given_again(self, people: GrantLab) -> None:
        token = (await people.begin())["refresh_token"]
        await people.refresh(token)
        people.lab.audit.broken = True
        assert (await people.refresh(token)).status_code == 503
        people.lab.audit.broken = False
        assert (await people.refresh(token)).status_code == 200

    async def test_a_retry_does_not_extend_the_window(self, people: GrantLab) -> None:
        token = (await people.begin())["refresh_token"]
        await people.refresh(token)
        people.lab.clock.seconds += RETRY_WINDOW - 1
        assert (await people.refresh(token)).status_code == 200
        people.lab.clock.seconds += 1
        assert_refused(people, await people.refresh(token), ErrorCode.GRANT_REUSED)

    @pytest.mark.parametrize("form", [{"scope": "admin"}, {"scope": "reports admin"}, {"resource": FILES}])
    async def test_another_request_with_the_same_token_gets_nothing_and_ends_nothing(
        self, people: GrantLab, form: dict[str, str]
    ) -> None:
        token = (await people.begin())["refresh_token"]
        first = await people.refresh(token)
        assert_refused(people, await people.refresh(token, **form), ErrorCode.GRANT_INVALID)
        assert (await people.refresh(first.json()["refresh_token"])).status_code == 200

    async def test_a_confidential_clients_retry_by_another_key_gets_nothing(self, people: GrantLab) -> None:
        token = (await people.begin())["refresh_token"]
        await people.refresh(token, "web", await Prover().fresh(people.lab))
        for headers in ({}, await Prover().fresh(people.lab)):
            assert_refused(people, await people.refresh(token, "web", headers), ErrorCode.GRANT_INVALID)

    async def test_only_the_last_answer_is_kept(self, people: GrantLab) -> None:
        first = (await people.begin())["refresh_token"]
        second = (await people.refresh(first)).json()["refresh_token"]
        await people.refresh(second)
        assert_refused(people, await people.refresh(first), ErrorCode.GRANT_REUSED)

    async def test_a_revoked_grant_answers_no_retry_and_forgets_the_answer(self, people: GrantLab) -> None:
        answer = await people.begin()
        await people.refresh(answer["refresh_token"])
        assert (await row(people))["retry_answer"] != ""
        grant_id = claims_of(answer["access_token"])["grant_id"]
        assert await people.lab.families.revoke(grant_id, people.lab.clock.now(), "test")
        assert_refused(people, await people.refresh(answer["refresh_token"]), ErrorCode.GRANT_INVALID)
        assert (await row(people))["retry_answer"] == ""


class TestKeptAnswers:
    GRANT = "grant-1"
    ASKED = Asked(None, None, None, None)

    def token(self) -> RefreshToken:
        return new_refresh_token(SystemRng().token(16), SystemRng().token(32))

    async def test_only_the_token_that_was_used_up_opens_the_answer(self) -> None:
        answers, token = RetryAnswers(LocalEnvelope(bytes(32), SystemRng()), SystemRng()), self.token()
        sealed = await answers.seal(self.GRANT, token, self.ASKED, {"access_token": "x"})
        assert (await answers.open(self.GRANT, token, sealed)).body == {"access_token": "x"}
        others = (self.token(), RefreshToken(token.handle, self.token().secret))
        for other in others:
            with pytest.raises(GateError) as refused:
                await answers.open(self.GRANT, other, sealed)
            assert refused.value.code is ErrorCode.KEYS_UNAVAILABLE

    async def test_the_envelopes_key_is_needed_too(self) -> None:
        token = self.token()
        answers = RetryAnswers(LocalEnvelope(bytes(32), SystemRng()), SystemRng())
        sealed = await answers.seal(self.GRANT, token, self.ASKED, {"access_token": "x"})
        with pytest.raises(GateError) as refused:
            await RetryAnswers(LocalEnvelope(b"k" * 32, SystemRng()), SystemRng()).open(self.GRANT, token, sealed)
        assert refused.value.code is ErrorCode.KEYS_UNAVAILABLE

    async def test_an_answer_belongs_to_its_grant(self) -> None:
        token = self.token()
        answers = RetryAnswers(LocalEnvelope(bytes(32), SystemRng()), SystemRng())
        sealed = await answers.seal(self.GRANT, token, self.ASKED, {"access_token": "x"})
        with pytest.raises(GateError) as refused:
            await answers.open("grant-2", token, sealed)
        assert refused.value.code is ErrorCode.KEYS_UNAVAILABLE

    async def test_garbage_opens_nothing(self) -> None:
        answers = RetryAnswers(LocalEnvelope(bytes(32), SystemRng()), SystemRng())
        for garbage in ("", "A", "!!!", "é"):
            with pytest.raises(GateError) as refused:
                await answers.open(self.GRANT, self.token(), garbage)
            assert refused.value.code is ErrorCode.KEYS_UNAVAILABLE


class TestRevoking:
    async def test_a_grant_ends_once_and_its_access_tokens_with_it(self, people: GrantLab) -> None:
        answer = await people.begin()
        grant_id, now = claims_of(answer["access_token"])["grant_id"], people.lab.clock.now()
        assert await people.lab.families.revoke(grant_id, now, "account")
        assert not await people.lab.families.revoke(grant_id, now, "account")
        assert not await people.lab.families.revoke("nothing", now, "account")
        [event] = people.events(EventKind.GRANT_REVOKED)
        assert (event.user, event.client, event.credential, event.reason) == (
            ALICE,
            "web",
            f"grant {grant_id}",
            "account",
        )
        assert await people.revoked() == {("grant", grant_id)}
        assert_refused(people, await people.refresh(answer["refresh_token"]), ErrorCode.GRANT_INVALID)

    async def test_what_cannot_be_recorded_is_done_by_the_next_attempt(self, people: GrantLab) -> None:
        grant_id = claims_of((await people.begin())["access_token"])["grant_id"]
        people.lab.audit.broken = True
        with pytest.raises(GateError) as refused:
            await people.lab.families.revoke(grant_id, people.lab.clock.now(), "account")
        assert refused.value.code is ErrorCode.AUDIT_UNAVAILABLE
        people.lab.audit.broken = False
        assert await people.lab.families.revoke(grant_id, people.lab.clock.now(), "account")

    async def test_all_grants_of_a_person_or_a_client_end_and_no_others(self, people: GrantLab) -> None:
        web = [await people.begin("web") for _ in range(2)]
        native = await people.begin("native")
        now = people.lab.clock.now()
        assert await people.lab.families.revoke_client("web", now) == 2
        for answer in web:
            assert_refused(people, await people.refresh(answer["refresh_token"]), ErrorCode.GRANT_INVALID)
        fresh = await people.refresh(native["refresh_token"], "native")
        assert fresh.status_code == 200
        assert await people.lab.families.revoke_user("globex", ALICE, now) == 0
        assert await people.lab.families.revoke_user("acme", ALICE, now) == 1
        response = await people.refresh(fresh.json()["refresh_token"], "native")
        assert_refused(people, response, ErrorCode.GRANT_INVALID)


class TestDescribing:
    async def test_only_the_current_token_of_a_live_family_is_described_to_its_client(self, people: GrantLab) -> None:
        families, now = people.lab.families, people.lab.clock.now()
        web, other = await people.lab.clients.get("web"), await people.lab.clients.get("other")
        assert web is not None
        assert other is not None
        old = (await people.begin())["refresh_token"]
        token = (await people.refresh(old)).json()["refresh_token"]
        described = await families.describe(token, web, now)
        assert described is not None
        assert (described["sub"], described["client_id"], described["scope"]) == (ALICE, "web", "reports admin")
        assert described["exp"] == now + LIFESPANS.unused
        for text, client, at in [
            (old, web, now),
            (token, other, now),
            (token, web, now + LIFESPANS.unused),
            ("x", web, now),
            (token[:-1] + ("A" if token[-1] != "A" else "B"), web, now),
        ]:
            assert await families.describe(text, client, at) is None
        assert (await people.refresh(token)).status_code == 200

    async def test_a_token_of_any_age_names_its_grant_to_its_client(self, people: GrantLab) -> None:
        families, now = people.lab.families, people.lab.clock.now()
        web, other = await people.lab.clients.get("web"), await people.lab.clients.get("other")
        assert web is not None
        assert other is not None
        answer = await people.begin()
        tokens = [answer["refresh_token"]]
        for _ in range(3):
            tokens.append((await people.refresh(tokens[-1])).json()["refresh_token"])
        grant_id = claims_of(answer["access_token"])["grant_id"]
        assert [await families.grant_of(token, web, now) for token in tokens] == [grant_id] * 4
        assert await families.grant_of(tokens[0], other, now) is None
        assert await families.grant_of("x", web, now) is None


@pytest.mark.parametrize(
    "text", ["", "x", ".", "A" * 66, "A" * 22 + "." + "A" * 42, "A" * 23 + "." + "A" * 43, "é" * 22 + "." + "A" * 43]
)
def test_what_has_not_the_form_of_a_refresh_token_is_none(text: str) -> None:
    assert parse_refresh_token(text) is None


def test_a_refresh_token_never_shows_in_a_repr() -> None:
    token = new_refresh_token(bytes(16), bytes(32))
    assert parse_refresh_token(token.text) == token
    assert token.handle not in repr(token)
    assert token.secret not in f"{token}"
