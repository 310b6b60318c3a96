"""The authorization code grant: what a good redemption gives, what it records, and what each refusal leaves behind."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from sqlalchemy import select

from dpoplab import Prover
from grantlab import (
    ALICE,
    CALLBACK,
    GrantLab,
    assert_refused,
    claims_of,
    open_grant_lab,
)
from tokenlab import CODE_LIFETIME, FILES, LIFESPANS, REPORTER
from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode
from twogate.core.principal import Agent
from twogate.flows.authserver.authenticate_client import Trace
from twogate.flows.authserver.form import ClientCall
from twogate.flows.authserver.grant import Authorization
from twogate.stores.sql.engine import reading
from twogate.stores.sql.tables import codes, grants


@pytest.fixture
async def people(tmp_path: Path) -> AsyncGenerator[GrantLab]:
    async with open_grant_lab(tmp_path) as running:
        yield running


async def test_a_code_gives_the_persons_access_token_and_a_refresh_token(people: GrantLab) -> None:
    answer = await people.begin()
    claims = claims_of(answer["access_token"])
    assert (claims["sub"], claims["user"], claims["client_id"], claims["aud"]) == (ALICE, ALICE, "web", FILES)
    assert (claims["scope"], claims["groups"], claims["tenant"]) == ("reports admin", ["staff"], "acme")
    assert answer["scope"] == "reports admin"
    assert answer["token_type"] == "Bearer"
    assert len(answer["refresh_token"]) == 22 + 1 + 43
    [family] = await people.lab.families.list_for_user("acme", ALICE, people.lab.clock.now())
    assert claims["grant_id"] == family.id


async def test_what_is_issued_is_recorded_with_the_grant_and_without_any_token(people: GrantLab) -> None:
    code = await people.code()
    answer = (await people.redeem(code)).json()
    [event] = people.events(EventKind.TOKEN_ISSUED)
    claims = claims_of(answer["access_token"])
    assert (event.client, event.user, event.credential) == ("web", ALICE, f"grant {claims['grant_id']}")
    for secret in (code, answer["access_token"], answer["refresh_token"], *answer["refresh_token"].split(".")):
        assert secret not in repr(people.lab.audit.events)


async def test_the_store_holds_neither_code_nor_refresh_token(people: GrantLab) -> None:
    code = await people.code()
    token = (await people.redeem(code)).json()["refresh_token"]
    async with reading(people.lab.engine) as connection:
        rows = [*(await connection.execute(select(codes))), *(await connection.execute(select(grants)))]
    assert len(rows) == 2
    for secret in (code, *token.split(".")):
        assert secret not in repr(rows)


async def test_a_client_that_may_not_refresh_gets_no_refresh_token(people: GrantLab) -> None:
    assert "refresh_token" not in await people.begin("once")


async def test_no_refresh_token_comes_of_a_code_that_was_not_to_give_one(people: GrantLab) -> None:
    assert "refresh_token" not in await people.begin(refresh=False)


async def test_a_grant_without_refresh_token_is_listed_as_long_as_its_access_token_lives(people: GrantLab) -> None:
    answer = await people.begin("once")
    now = people.lab.clock.now()
    assert len(await people.lab.families.list_for_user("acme", ALICE, now + answer["expires_in"] - 1)) == 1
    assert await people.lab.families.list_for_user("acme", ALICE, now + answer["expires_in"]) == []


async def test_a_task_is_declared_and_named_in_the_answer(people: GrantLab) -> None:
    answer = await people.begin(task="review")
    assert answer["authorization_details"] == [{"type": "mcp_session", "task": "review"}]
    claims = claims_of(answer["access_token"])
    [opened] = people.events(EventKind.SESSION_OPENED)
    assert (opened.session, opened.user) == (claims["sid"], ALICE)


@pytest.mark.parametrize("resource", ["", FILES])
async def test_the_resource_may_be_left_out_or_named_again(people: GrantLab, resource: str) -> None:
    response = await people.redeem(await people.code(), resource=resource)
    assert claims_of(response.json()["access_token"])["aud"] == FILES


@pytest.mark.parametrize(
    ("form", "reason", "error"),
    [
        ({"resource": FILES + "/"}, ErrorCode.RESOURCE_INVALID, "invalid_target"),
        ({"resource": "https://mcp.example.com/mcp/git"}, ErrorCode.RESOURCE_INVALID, "invalid_target"),
        (
            {"authorization_details": '[{"type":"mcp_session","task":"review"}]'},
            ErrorCode.DETAILS_INVALID,
            "invalid_authorization_details",
        ),
        ({"code": ""}, ErrorCode.REQUEST_MALFORMED, "invalid_request"),
        ({"code_verifier": ""}, ErrorCode.REQUEST_MALFORMED, "invalid_request"),
        ({"code_verifier": "short"}, ErrorCode.REQUEST_MALFORMED, "invalid_request"),
    ],
)
async def test_a_client_that_asks_wrongly_may_ask_again(
    people: GrantLab, form: dict[str, str], reason: ErrorCode, error: str
) -> None:
    code = await people.code()
    assert_refused(people, await people.redeem(code, **form), reason, error)
    assert (await people.redeem(code)).status_code == 200


async def test_a_redirect_uri_that_the_request_left_out_may_be_left_out_or_be_the_registered_one(
    people: GrantLab,
) -> None:
    for form in ({"redirect_uri": ""}, {"redirect_uri": CALLBACK}):
        code = await people.code(redirect_uri_given=False)
        assert (await people.redeem(code, **form)).status_code == 200


async def test_a_code_lives_as_long_as_configured_and_no_longer(people: GrantLab) -> None:
    first, second = await people.code(), await people.code()
    people.lab.clock.seconds += CODE_LIFETIME - 1
    assert (await people.redeem(first)).status_code == 200
    people.lab.clock.seconds += 1
    assert_refused(people, await people.redeem(second), ErrorCode.GRANT_INVALID)
    assert people.lab.audit.last.user == ALICE


@pytest.mark.parametrize("code", ["x", "A" * 43, "A" * 44, "é" * 43, "A" * 42 + "="])
async def test_what_was_never_issued_is_refused(people: GrantLab, code: str) -> None:
    assert_refused(people, await people.redeem(code), ErrorCode.GRANT_INVALID)


async def test_a_disabled_person_gets_nothing_and_the_code_is_good_again_once_enabled(people: GrantLab) -> None:
    code = await people.code()
    await people.disable_alice()
    assert_refused(people, await people.redeem(code), ErrorCode.GRANT_INVALID)
    await people.disable_alice(None)
    assert (await people.redeem(code)).status_code == 200


async def test_nothing_is_issued_and_the_code_stays_good_if_it_cannot_be_recorded(people: GrantLab) -> None:
    code = await people.code()
    people.lab.audit.broken = True
    assert (await people.redeem(code)).status_code == 503
    assert await people.lab.families.list_for_user("acme", ALICE, people.lab.clock.now()) == []
    people.lab.audit.broken = False
    assert (await people.redeem(code)).status_code == 200


async def test_a_proof_binds_the_access_token(people: GrantLab) -> None:
    key = Prover()
    answer = await people.begin("web", await key.fresh(people.lab))
    assert answer["token_type"] == "DPoP"
    assert claims_of(answer["access_token"])["cnf"] == {"jkt": key.thumbprint}


async def test_a_code_bound_to_a_key_is_redeemed_with_that_key(people: GrantLab) -> None:
    key = Prover()
    answer = await people.begin("native", await key.fresh(people.lab), proof=key.thumbprint)
    assert answer["token_type"] == "DPoP"


async def test_what_is_granted_until_a_moment_ends_then(people: GrantLab) -> None:
    now = people.lab.clock.now()
    answer = await people.begin(ends_at=now + 100)
    assert answer["expires_in"] == 100
    [family] = await people.lab.families.list_for_user("acme", ALICE, now)
    assert family.expires_at == now + 100


async def test_a_family_lives_as_long_as_a_refresh_token_may_lie_unused(people: GrantLab) -> None:
    await people.begin()
    now = people.lab.clock.now()
    assert len(await people.lab.families.list_for_user("acme", ALICE, now + LIFESPANS.unused - 1)) == 1
    assert await people.lab.families.list_for_user("acme", ALICE, now + LIFESPANS.unused) == []


async def test_a_family_starts_without_a_code_too(people: GrantLab) -> None:
    lab = people.lab
    client = await lab.clients.get("web")
    assert client is not None
    agent = Agent(REPORTER, "reader", ("review",))
    call = ClientCall({}, client, agent, None, None, lab.clock.now(), "203.0.113.7", Trace())
    authorization = Authorization("acme", "web", FILES, ("reports",), user=ALICE)
    for refresh in (True, False):
        answer = await lab.families.start(authorization, client, agent, call, refresh=refresh)
        assert ("refresh_token" in answer.body) is refresh
    assert len(await lab.families.list_for_user("acme", ALICE, lab.clock.now())) == 2
