"""The `jwt-bearer` grant: workloads by their platform's tokens, and people by their company's identity provider."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from exchangelab import (
    ALICE,
    ALICE_THERE,
    CLUSTER,
    DOMAIN,
    FORGE,
    GIT,
    IDP,
    OPERATIONS,
    SERVICE_ACCOUNT,
    SPIFFE_ID,
    ExchangeLab,
    ProofKey,
    link,
    open_exchange_lab,
)
from tokenlab import FILES, ISSUER, REPORTER, ROBOT
from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.principal import Binding, Method, UserId
from twogate.flows.authserver.workloads import with_workloads, workload_client_id

REVIEW = '[{"type":"mcp_session","task":"review"}]'


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[ExchangeLab]:
    async with open_exchange_lab(tmp_path) as made:
        yield made


def claims_of(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


# Workloads.


async def test_a_jwt_svid_is_all_that_a_workload_needs(lab: ExchangeLab) -> None:
    answer = (await lab.bearer(lab.svid())).json()
    assert answer.keys() == {"access_token", "token_type", "expires_in"}
    principal = await lab.gateway(answer["access_token"])
    assert (principal.agent.id, principal.user) == (REPORTER, None)
    claims = claims_of(answer["access_token"])
    assert claims["client_id"] == claims["sub"] == workload_client_id(DOMAIN, SPIFFE_ID)
    assert "agent" not in claims


async def test_so_is_a_service_account_token(lab: ExchangeLab) -> None:
    answer = (await lab.bearer(lab.service_account(), scope="reports")).json()
    assert answer["scope"] == "reports"
    assert (await lab.gateway(answer["access_token"])).agent.id == ROBOT


async def test_so_is_any_token_of_a_configured_issuer(lab: ExchangeLab) -> None:
    claims = {"iss": FORGE, "sub": "repo:acme/reports", "aud": ISSUER, "exp": lab.now + 60}
    answer = (await lab.bearer(lab.vouchers[FORGE].sign(claims))).json()
    assert (await lab.gateway(answer["access_token"])).agent.id == ROBOT


async def test_a_workload_token_may_be_used_until_it_expires(lab: ExchangeLab) -> None:
    token = lab.service_account()
    for _ in range(3):
        assert (await lab.bearer(token)).status_code == 200
    lab.lab.clock.seconds += 3700
    lab.assert_refused(await lab.bearer(token), "token_expired")


async def test_the_audit_trail_says_which_workload_got_the_token(lab: ExchangeLab) -> None:
    assert (await lab.bearer(lab.service_account())).status_code == 200
    event = lab.last
    assert (event.kind, event.method, event.agent, event.tenant) == (
        EventKind.TOKEN_ISSUED,
        "workload",
        "robot",
        "acme",
    )
    assert event.client == workload_client_id(CLUSTER, SERVICE_ACCOUNT)


async def test_a_workload_may_declare_a_task_of_its_agent(lab: ExchangeLab) -> None:
    answer = (await lab.bearer(lab.svid(), authorization_details=REVIEW)).json()
    principal = await lab.gateway(answer["access_token"])
    assert principal.session_id == claims_of(answer["access_token"])["sid"]


async def test_a_workloads_token_does_not_outlive_what_it_was_given_for(lab: ExchangeLab) -> None:
    answer = (await lab.bearer(lab.svid(exp=lab.now + 40))).json()
    assert answer["expires_in"] == 40


async def test_a_client_of_the_same_agent_may_present_it_too(lab: ExchangeLab) -> None:
    answer = (await lab.bearer(lab.svid(), "exchanger")).json()
    assert claims_of(answer["access_token"])["client_id"] == "exchanger"


async def test_a_client_of_another_agent_may_not(lab: ExchangeLab) -> None:
    lab.assert_refused(await lab.bearer(lab.svid(), "second"), "agent_unbound")


async def test_a_disabled_agents_workload_gets_nothing_and_its_tokens_end(lab: ExchangeLab) -> None:
    token = (await lab.bearer(lab.svid())).json()["access_token"]
    await lab.lab.registry.disable_agent(REPORTER, lab.now)
    lab.assert_refused(await lab.bearer(lab.svid()), "agent_disabled")
    with pytest.raises(GateError) as refusal:
        await lab.gateway(token)
    assert refusal.value.code is ErrorCode.AGENT_DISABLED


def test_a_workloads_tokens_are_found_by_its_binding_alone() -> None:
    bound = {
        Binding(Method.JWT, DOMAIN, SPIFFE_ID): REPORTER,
        Binding(Method.JWT, "https://login.example.com", "x"): ROBOT,
    }
    every = with_workloads(bound, [DOMAIN], ISSUER)
    assert every.keys() - bound.keys() == {Binding(Method.JWT, ISSUER, workload_client_id(DOMAIN, SPIFFE_ID))}


async def test_a_binding_that_is_gone_takes_its_workloads_tokens_along(tmp_path: Path) -> None:
    async with open_exchange_lab(tmp_path) as lab:
        token = (await lab.bearer(lab.svid())).json()["access_token"]
        name = Binding(Method.JWT, ISSUER, workload_client_id(DOMAIN, SPIFFE_ID))
        view = await lab.lab.agents.view()
        assert name in view.bindings
        lab.lab.agents._bindings = {}
        lab.lab.agents._view = None
        with pytest.raises(GateError) as refusal:
            await lab.gateway(token)
        assert refusal.value.code is ErrorCode.AGENT_UNBOUND


async def test_a_workloads_tokens_are_revoked_by_its_name(lab: ExchangeLab) -> None:
    token = (await lab.bearer(lab.svid())).json()["access_token"]
    await lab.revoke("client", workload_client_id(DOMAIN, SPIFFE_ID))
    with pytest.raises(GateError) as refusal:
        await lab.gateway(token)
    assert refusal.value.code is ErrorCode.TOKEN_REVOKED


async def test_two_issuers_may_call_two_workloads_the_same() -> None:
    assert workload_client_id("https://a.example", SERVICE_ACCOUNT) != workload_client_id(CLUSTER, SERVICE_ACCOUNT)


async def test_with_a_proof_the_token_is_bound_to_its_key(lab: ExchangeLab) -> None:
    key = ProofKey(lab)
    for assertion, by in ((lab.svid(cnf={"jkt": key.thumbprint}), ""), (lab.jag(), "exchanger")):
        answer = (await lab.bearer(assertion, by, await key.headers())).json()
        assert answer["token_type"] == "DPoP"
        assert claims_of(answer["access_token"])["cnf"] == {"jkt": key.thumbprint}


# Identity assertions.


async def test_an_id_jag_is_a_token_for_the_client_with_the_person_behind_it(lab: ExchangeLab) -> None:
    answer = (await lab.bearer(lab.jag(), "exchanger")).json()
    assert answer.keys() == {"access_token", "token_type", "expires_in", "scope"}
    principal = await lab.gateway(answer["access_token"])
    (made,) = await lab.made()
    assert (principal.agent.id, principal.user) == (REPORTER, UserId(ISSUER, made.subject))
    assert (made.name, made.groups, made.tenant) == ("alice@acme.example", ("finance",), "acme")
    assert principal.groups == ("finance",)


async def test_the_same_person_is_made_once(lab: ExchangeLab) -> None:
    first, second = [(await lab.bearer(lab.jag(), "exchanger")).json() for _ in range(2)]
    assert claims_of(first["access_token"])["sub"] == claims_of(second["access_token"])["sub"]
    assert len(await lab.made()) == 1


async def test_a_person_who_is_linked_already_is_that_person(lab: ExchangeLab) -> None:
    await link(lab.lab, IDP, ALICE_THERE, "acme", ALICE)
    answer = (await lab.bearer(lab.jag(), "exchanger")).json()
    assert claims_of(answer["access_token"])["sub"] == ALICE
    assert await lab.made() == []


async def test_resource_may_be_left_out_where_the_assertion_names_one(lab: ExchangeLab) -> None:
    answer = (await lab.bearer(lab.jag(), "exchanger", resource="")).json()
    assert claims_of(answer["access_token"])["aud"] == FILES


async def test_of_several_resources_one_must_be_asked_for(lab: ExchangeLab) -> None:
    both = {"resource": [FILES, GIT]}
    assert (await lab.bearer(lab.jag(**both), "exchanger", resource=GIT)).status_code == 200
    lab.assert_refused(
        await lab.bearer(lab.jag(**both), "exchanger", resource=""), "resource_invalid", "invalid_target"
    )


@pytest.mark.parametrize(
    ("granted", "requested", "given"),
    [
        ("reports admin", "", "reports admin"),
        ("reports admin", "reports", "reports"),
        ("reports", "reports admin", "reports"),
        ("reports openid", "", "reports"),
    ],
)
async def test_the_scopes_are_those_requested_and_granted(
    lab: ExchangeLab, granted: str, requested: str, given: str
) -> None:
    answer = (await lab.bearer(lab.jag(scope=granted), "exchanger", scope=requested)).json()
    assert answer["scope"] == given


async def test_without_scopes_in_the_assertion_there_are_none(lab: ExchangeLab) -> None:
    assert "scope" not in (await lab.bearer(lab.jag(scope=None), "exchanger")).json()
    lab.assert_refused(
        await lab.bearer(lab.jag(scope=None), "exchanger", scope="reports"), "scope_invalid", "invalid_scope"
    )


async def test_a_host_may_act_for_the_person_too(lab: ExchangeLab) -> None:
    answer = (await lab.bearer(lab.jag(client_id="host"), "host")).json()
    principal = await lab.gateway(answer["access_token"])
    assert principal.agent.id.agent == "public-client"


async def test_there_is_never_a_refresh_token(lab: ExchangeLab) -> None:
    for answer in (await lab.bearer(lab.jag(), "exchanger"), await lab.bearer(lab.svid())):
        assert "refresh_token" not in answer.json()


async def test_the_audit_trail_has_client_and_person(lab: ExchangeLab) -> None:
    await link(lab.lab, IDP, ALICE_THERE, "acme", ALICE)
    assert (await lab.bearer(lab.jag(), "exchanger")).status_code == 200
    assert (lab.last.kind, lab.last.client, lab.last.user) == (EventKind.TOKEN_ISSUED, "exchanger", ALICE)


async def test_operation_tokens_are_out_of_reach(lab: ExchangeLab) -> None:
    for answer in (
        await lab.bearer(lab.jag(client_id="host", resource=OPERATIONS), "host", resource=OPERATIONS),
        await lab.bearer(lab.svid(), resource=OPERATIONS),
        await lab.exchange(await lab.own("host"), "host", resource=OPERATIONS),
    ):
        lab.assert_refused(answer, "resource_invalid", "invalid_target")


@pytest.mark.parametrize("resource", [f"{ISSUER}/mcp/mail", f"{ISSUER}/mcp/files/", "https://other.example/mcp"])
async def test_a_workload_names_only_resources_of_its_tenant(lab: ExchangeLab, resource: str) -> None:
    lab.assert_refused(await lab.bearer(lab.svid(), resource=resource), "resource_invalid", "invalid_target")


async def test_without_an_assertion_the_request_is_not_well_formed(lab: ExchangeLab) -> None:
    lab.assert_refused(await lab.bearer(""), "request_malformed", "invalid_request")
