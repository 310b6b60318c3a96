"""The token exchange grant: a user's token and an agent's authentication in, one token out that names both."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
from sqlalchemy import update

from exchangelab import ALICE, EXCHANGE, GIT, ExchangeLab, open_exchange_lab
from tokenlab import FILES, ISSUER, REPORTER
from twogate.core.audit.record import EventKind
from twogate.core.errors import GateError
from twogate.core.oauth.exchange import ACCESS_TOKEN, JWT
from twogate.core.oauth.grant_type import GrantType
from twogate.core.principal import PUBLIC_CLIENT, AgentId, UserId
from twogate.flows.authserver.clients import Client, ClientAuth, ClientKind
from twogate.stores.sql.engine import writing
from twogate.stores.sql.tables import users

REVIEW = '[{"type":"mcp_session","task":"review"}]'


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[ExchangeLab]:
    async with open_exchange_lab(tmp_path) as made:
        yield made


def claims_of(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


async def test_the_result_names_the_user_and_the_agent_that_acts(lab: ExchangeLab) -> None:
    subject = await lab.own(grant_id="g1", authenticated_at=1234)
    answer = (await lab.exchange(subject)).json()
    assert answer.keys() == {"access_token", "token_type", "expires_in", "scope", "issued_token_type"}
    assert (answer["token_type"], answer["issued_token_type"]) == ("Bearer", ACCESS_TOKEN)
    claims = claims_of(answer["access_token"])
    assert (claims["sub"], claims["user"], claims["client_id"]) == (ALICE, ALICE, "exchanger")
    assert claims["act"] == {"sub": "exchanger"}
    assert (claims["aud"], claims["tenant"], claims["iss"]) == (FILES, "acme", ISSUER)
    assert (claims["grant_id"], claims["auth_time"]) == ("g1", 1234)
    assert claims["jti"] != claims_of(subject)["jti"]


async def test_gate_one_takes_the_bearer_for_the_agent_with_the_user_behind_it(lab: ExchangeLab) -> None:
    answer = (await lab.exchange(await lab.own())).json()
    principal = await lab.gateway(answer["access_token"])
    assert principal.agent.id == REPORTER
    assert principal.user == UserId(ISSUER, ALICE)
    assert principal.groups == ("finance",)
    assert principal.scopes == {"reports", "admin"}


async def test_the_audit_trail_has_the_token_with_client_and_user(lab: ExchangeLab) -> None:
    answer = (await lab.exchange(await lab.own(grant_id="g1"))).json()
    event = lab.last
    assert (event.kind, event.client, event.user, event.agent) == (
        EventKind.TOKEN_ISSUED,
        "exchanger",
        ALICE,
        "reporter",
    )
    assert claims_of(answer["access_token"])["jti"] in event.detail
    assert event.credential == "grant g1"


async def test_an_external_token_is_exchanged_for_the_linked_user(lab: ExchangeLab) -> None:
    answer = (await lab.exchange(lab.external(), subject_token_type=JWT)).json()
    claims = claims_of(answer["access_token"])
    assert (claims["sub"], claims["act"], claims["scope"]) == (ALICE, {"sub": "exchanger"}, "admin reports")
    assert "grant_id" not in claims


async def test_an_external_token_for_the_exchanger_as_audience_or_actor_is_exchanged_too(lab: ExchangeLab) -> None:
    for changes in (
        {"azp": "some-app", "aud": "ext-reporter"},
        {"azp": "some-app", "may_act": {"sub": "ext-reporter"}},
        {"azp": "some-app", "may_act": {"iss": ISSUER, "sub": "exchanger"}},
    ):
        assert (await lab.exchange(lab.external(**changes))).status_code == 200


async def test_who_acted_before_is_kept_inside(lab: ExchangeLab) -> None:
    once = (await lab.exchange(await lab.own())).json()["access_token"]
    twice = (await lab.exchange(once)).json()["access_token"]
    assert claims_of(twice)["act"] == {"sub": "exchanger", "act": {"sub": "exchanger"}}
    foreign = lab.external(act={"sub": "exchanger", "role": "admin"})
    nested = claims_of((await lab.exchange(foreign)).json()["access_token"])["act"]
    assert nested == {"sub": "exchanger", "act": {"iss": "https://login.example.com", "sub": "exchanger"}}


async def test_a_chain_of_actors_has_an_end(lab: ExchangeLab) -> None:
    token = await lab.own()
    for _ in range(4):
        token = (await lab.exchange(token)).json()["access_token"]
    lab.assert_refused(await lab.exchange(token), "grant_invalid", "invalid_request")


async def test_the_result_ends_with_the_subject_token(lab: ExchangeLab) -> None:
    subject = await lab.own(not_after=lab.now + 100)
    lab.lab.clock.seconds += 60
    answer = (await lab.exchange(subject)).json()
    assert answer["expires_in"] == 40
    assert claims_of(answer["access_token"])["exp"] == claims_of(subject)["exp"]


async def test_fewer_scopes_may_be_asked_for(lab: ExchangeLab) -> None:
    answer = (await lab.exchange(await lab.own(), scope="reports")).json()
    assert answer["scope"] == "reports"


async def test_without_a_scope_parameter_those_of_the_subject_token_are_given(lab: ExchangeLab) -> None:
    answer = (await lab.exchange(await lab.own(scopes=("admin",)))).json()
    assert answer["scope"] == "admin"


async def test_scopes_that_do_not_exist_any_more_are_left_out(lab: ExchangeLab) -> None:
    answer = (await lab.exchange(lab.external(scope="reports retired openid"))).json()
    assert answer["scope"] == "reports"


async def test_the_task_of_the_subject_token_stays(lab: ExchangeLab) -> None:
    await lab.allow(task="review")
    subject = await lab.own(task="review")
    for form in ({}, {"authorization_details": REVIEW}):
        answer = (await lab.exchange(subject, **form)).json()
        claims = claims_of(answer["access_token"])
        assert claims["authorization_details"] == [{"type": "mcp_session", "task": "review"}]
        assert claims["sid"] == claims_of(subject)["sid"]


async def test_a_task_may_be_asked_for_where_the_subject_token_has_none(lab: ExchangeLab) -> None:
    await lab.allow(task="review")
    answer = (await lab.exchange(await lab.own(), authorization_details=REVIEW)).json()
    assert "sid" in claims_of(answer["access_token"])


async def test_another_resource_needs_its_own_consent(lab: ExchangeLab) -> None:
    subject = await lab.own()
    refused = await lab.exchange(subject, resource=GIT)
    lab.assert_refused(refused, "consent_missing", "invalid_request")
    assert "authorization endpoint" in refused.json()["error_description"]
    await lab.allow(resource=GIT)
    answer = (await lab.exchange(subject, resource=GIT)).json()
    assert claims_of(answer["access_token"])["aud"] == GIT


async def test_without_the_users_consent_there_is_nothing(lab: ExchangeLab) -> None:
    await lab.consents.withdraw("acme", ALICE, "exchanger")
    lab.assert_refused(await lab.exchange(await lab.own()), "consent_missing", "invalid_request")
    assert (lab.last.user, lab.last.client, lab.last.tenant) == (ALICE, "exchanger", "acme")


async def test_consent_is_for_the_scopes_that_are_given(lab: ExchangeLab) -> None:
    await lab.consents.withdraw("acme", ALICE, "exchanger")
    client = await lab.lab.clients.get("exchanger")
    assert client is not None
    await lab.consents.remember(client, ALICE, FILES, None, ("reports",), lab.now)
    subject = await lab.own()
    lab.assert_refused(await lab.exchange(subject), "consent_missing", "invalid_request")
    assert (await lab.exchange(subject, scope="reports")).json()["scope"] == "reports"


async def test_revoking_the_grant_behind_the_subject_token_ends_the_result_too(lab: ExchangeLab) -> None:
    subject = await lab.own(grant_id="g1")
    token = (await lab.exchange(subject)).json()["access_token"]
    await lab.revoke("grant", "g1")
    with pytest.raises(GateError, match="token_revoked"):
        await lab.gateway(token)
    lab.assert_refused(await lab.exchange(subject), "token_revoked", "invalid_request")


async def test_a_disabled_users_token_is_worth_nothing(lab: ExchangeLab) -> None:
    subject = await lab.own()
    await lab.revoke("user", ALICE)
    lab.assert_refused(await lab.exchange(subject), "user_disabled", "invalid_request")
    async with writing(lab.lab.engine) as connection:
        await connection.execute(update(users).values(disabled_at=1))
    lab.assert_refused(await lab.exchange(lab.external()), "grant_invalid")


async def test_an_actor_token_may_say_once_more_who_acts(lab: ExchangeLab) -> None:
    answer = await lab.exchange(await lab.own(), actor_token=lab.svid(), actor_token_type=JWT)
    assert claims_of(answer.json()["access_token"])["act"] == {"sub": "exchanger"}


async def test_an_actor_token_of_another_agent_is_refused(lab: ExchangeLab) -> None:
    answer = await lab.exchange(await lab.own(), actor_token=lab.service_account(), actor_token_type=JWT)
    lab.assert_refused(answer, "agent_unbound", "invalid_request")


@pytest.mark.parametrize(
    ("client_id", "reason", "error", "status"),
    [
        ("public", "client_unauthorized", "unauthorized_client", 400),
        ("", "client_invalid", "invalid_client", 401),
    ],
)
async def test_who_does_not_authenticate_exchanges_nothing(
    lab: ExchangeLab, client_id: str, reason: str, error: str, status: int
) -> None:
    form = {
        "grant_type": EXCHANGE,
        "subject_token": await lab.own("public"),
        "subject_token_type": ACCESS_TOKEN,
        "resource": FILES,
        "client_id": client_id,
    }
    lab.assert_refused(await lab.post(form, ""), reason, error, status)


async def test_a_client_without_the_grant_exchanges_nothing(lab: ExchangeLab) -> None:
    answer = await lab.exchange(await lab.own("reporter"), "reporter")
    lab.assert_refused(answer, "client_unauthorized", "unauthorized_client")


async def test_there_is_never_a_refresh_token(lab: ExchangeLab) -> None:
    assert "refresh_token" not in (await lab.exchange(await lab.own())).json()


async def test_nothing_is_issued_that_the_audit_trail_cannot_hold(lab: ExchangeLab) -> None:
    subject = await lab.own()
    lab.lab.audit.broken = True
    assert (await lab.exchange(subject)).status_code == 503


@pytest.mark.parametrize(("may_act", "status"), [("exchanger", 200), ("another", 400), (None, 400)])
async def test_a_token_of_another_application_is_exchanged_by_the_one_client_that_it_names(
    lab: ExchangeLab, may_act: str | None, status: int
) -> None:
    desktop = Client(
        client_id="desktop",
        tenant="acme",
        agent=AgentId("acme", PUBLIC_CLIENT),
        auth=ClientAuth.NONE,
        kind=ClientKind.HOST,
        grants=frozenset({GrantType.AUTHORIZATION_CODE}),
        redirect_uris=("http://127.0.0.1/callback",),
        may_act=may_act,
    )
    await lab.lab.clients.add(desktop, None, (), lab.lab.clock.now())
    assert (await lab.lab.clients.get("desktop")) == msgspec.structs.replace(desktop, created_at=lab.lab.clock.now())
    answer = await lab.exchange(await lab.own("desktop"))
    assert answer.status_code == status
    if status == 200:
        claims = claims_of(answer.json()["access_token"])
        assert (claims["user"], claims["client_id"], claims["act"]) == (ALICE, "exchanger", {"sub": "exchanger"})
