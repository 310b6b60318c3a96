"""Attacks on token exchange: captured tokens, widening, forged actors, and tokens that are something else."""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from exchangelab import (
    ALICE,
    ALICE_THERE,
    DOMAIN,
    EXCHANGE,
    GIT,
    LOGIN,
    NOT_ALLOWED,
    OPERATIONS,
    ExchangeLab,
    ProofKey,
    link,
    open_exchange_lab,
)
from harness.issuer import new_key, sign
from tokenlab import FILES, ISSUER
from twogate.core.audit.record import EventKind
from twogate.core.errors import GateError
from twogate.core.oauth.exchange import JWT

REVIEW = '[{"type":"mcp_session","task":"review"}]'
RELEASE = '[{"type":"mcp_session","task":"release"}]'


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[ExchangeLab]:
    async with open_exchange_lab(tmp_path) as made:
        await made.allow("second")
        yield made
        # Whatever was refused, no token was issued for it.
        refused = [event for event in made.lab.audit.events if event.kind is EventKind.TOKEN_REFUSED]
        assert refused, "an attack that nobody recorded"


def part(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


# Captured tokens.


async def test_a_captured_token_of_another_client_is_refused(lab: ExchangeLab) -> None:
    captured = await lab.own("exchanger")
    lab.assert_refused(await lab.exchange(captured, "second"), "grant_invalid", "invalid_request")


async def test_a_captured_external_token_of_another_client_is_refused(lab: ExchangeLab) -> None:
    for client in ("some-app", "ext-robot", "exchanger", "EXT-REPORTER"):
        lab.assert_refused(await lab.exchange(lab.external(azp=client)), "grant_invalid", "invalid_request")


async def test_what_the_exchanger_is_called_here_means_nothing_at_another_issuer(lab: ExchangeLab) -> None:
    # Whoever registers a client `exchanger` there must not get at tokens by that name.
    for changes in (
        {"azp": "exchanger"},
        {"azp": "some-app", "aud": "exchanger"},
        {"azp": "some-app", "may_act": {"sub": "exchanger"}},
        {"azp": "some-app", "may_act": {"iss": ISSUER, "sub": "ext-reporter"}},
        {"azp": "ext-reporter", "client_id": "some-app"},
    ):
        lab.assert_refused(await lab.exchange(lab.external(**changes)), "grant_invalid", "invalid_request")


async def test_the_result_of_an_exchange_is_not_exchanged_by_others(lab: ExchangeLab) -> None:
    result = (await lab.exchange(await lab.own())).json()["access_token"]
    lab.assert_refused(await lab.exchange(result, "second"), "grant_invalid", "invalid_request")


async def test_an_actor_inside_does_not_make_a_client_the_exchanger(lab: ExchangeLab) -> None:
    token = lab.external(azp="some-app", act={"sub": "ext-reporter"})
    lab.assert_refused(await lab.exchange(token), "grant_invalid", "invalid_request")


async def test_a_token_of_another_tenants_client_is_refused(lab: ExchangeLab) -> None:
    captured = await lab.own("mailer2", user=None, resource=f"{ISSUER}/mcp/mail", scopes=())
    lab.assert_refused(await lab.exchange(captured), "tenant_refused", "invalid_request")
    token = lab.external()
    lab.assert_refused(
        await lab.exchange(token, "mailer2", resource=f"{ISSUER}/mcp/mail"), "tenant_refused", "invalid_request"
    )


# Who the user is.


async def test_a_token_without_a_user_is_refused(lab: ExchangeLab) -> None:
    lab.assert_refused(await lab.exchange(await lab.own(user=None)), "grant_invalid", "invalid_request")


async def test_an_external_user_whom_nobody_linked_is_refused(lab: ExchangeLab) -> None:
    for subject in ("somebody", ALICE, "alice"):
        lab.assert_refused(await lab.exchange(lab.external(sub=subject)), "grant_invalid", "invalid_request")


async def test_equal_subjects_of_two_issuers_are_two_people(lab: ExchangeLab) -> None:
    await link(lab.lab, "https://elsewhere.example", "elsewhere-alice", "acme", ALICE)
    lab.assert_refused(await lab.exchange(lab.external(sub="elsewhere-alice")), "grant_invalid", "invalid_request")


async def test_consent_to_one_client_is_none_to_another(lab: ExchangeLab) -> None:
    await lab.consents.withdraw("acme", ALICE, "second")
    lab.assert_refused(await lab.exchange(await lab.own("second"), "second"), "consent_missing", "invalid_request")


# Widening.


async def test_scopes_never_widen(lab: ExchangeLab) -> None:
    subject = await lab.own(scopes=("reports",))
    for scope in ("admin", "reports admin"):
        lab.assert_refused(await lab.exchange(subject, scope=scope), "scope_invalid", "invalid_scope")
    assert (await lab.exchange(subject)).json()["scope"] == "reports"


async def test_a_token_without_scopes_yields_none(lab: ExchangeLab) -> None:
    subject = await lab.own(scopes=())
    lab.assert_refused(await lab.exchange(subject, scope="reports"), "scope_invalid", "invalid_scope")
    assert "scope" not in (await lab.exchange(subject)).json()


async def test_an_exchange_wins_no_time(lab: ExchangeLab) -> None:
    token = await lab.own(not_after=lab.now + 120)
    end = lab.now + 120
    for _ in range(3):
        lab.lab.clock.seconds += 30
        answer = (await lab.exchange(token)).json()
        assert lab.now + answer["expires_in"] <= end
        token = answer["access_token"]
    lab.lab.clock.seconds += 30
    lab.assert_refused(await lab.exchange(token), "token_expired", "invalid_request")


async def test_an_external_token_lends_only_what_is_left_of_it(lab: ExchangeLab) -> None:
    assert (await lab.exchange(lab.external(exp=lab.now + 7))).json()["expires_in"] == 7
    lab.assert_refused(await lab.exchange(lab.external(exp=lab.now)), "token_expired", "invalid_request")
    lab.assert_refused(
        await lab.exchange(lab.external(exp=lab.now + 86400)), "token_lifetime_excessive", "invalid_request"
    )


async def test_a_task_cannot_be_swapped_or_shed(lab: ExchangeLab) -> None:
    await lab.allow(task="review")
    subject = await lab.own(task="review")
    lab.assert_refused(
        await lab.exchange(subject, authorization_details=RELEASE), "details_invalid", "invalid_authorization_details"
    )
    shed = (await lab.exchange(subject)).json()["access_token"]
    assert jwt.decode(shed, options={"verify_signature": False})["authorization_details"][0]["task"] == "review"


async def test_consent_without_a_task_is_none_for_a_task(lab: ExchangeLab) -> None:
    subject = await lab.own()
    lab.assert_refused(await lab.exchange(subject, authorization_details=REVIEW), "consent_missing", "invalid_request")


@pytest.mark.parametrize(
    "resource", ["", OPERATIONS, f"{ISSUER}/mcp/mail", f"{FILES}/", "https://files.internal/mcp", f"{ISSUER}/token"]
)
async def test_a_resource_that_is_not_the_exchangers_is_refused(lab: ExchangeLab, resource: str) -> None:
    subject = await lab.own()
    lab.assert_refused(await lab.exchange(subject, resource=resource), "resource_invalid", "invalid_target")


async def test_audience_is_no_second_way_to_name_a_resource(lab: ExchangeLab) -> None:
    subject = await lab.own()
    await lab.allow(resource=GIT)
    for form in ({"audience": GIT}, {"audience": "second"}, {"audience": OPERATIONS}):
        lab.assert_refused(await lab.exchange(subject, **form), "resource_invalid", "invalid_target")
    body = f"grant_type={EXCHANGE.replace(':', '%3A')}&subject_token={subject}&audience=a&audience=b"
    response = await lab.http.post(
        "/token", content=body, headers={"Content-Type": "application/x-www-form-urlencoded"}
    )
    lab.assert_refused(response, "parameter_repeated", "invalid_request")


async def test_a_token_for_operations_is_exchanged_for_nothing_else(lab: ExchangeLab) -> None:
    await lab.allow("host")
    subject = await lab.own("host", resource=OPERATIONS, scopes=())
    lab.assert_refused(await lab.exchange(subject, "host"), "audience_mismatch", "invalid_request")


# Tokens that are something else.


@pytest.mark.parametrize(
    ("header", "changes"),
    [
        ({"typ": "JWT"}, {}),
        ({"typ": None}, {}),
        ({"typ": "oauth-id-jag+jwt"}, {}),
        ({"typ": "op+jwt"}, {}),
        ({}, {"token_use": "id"}),
        ({}, {"typ": "ID"}),
        ({}, {"typ": "Refresh"}),
    ],
)
async def test_an_id_token_or_any_other_token_is_no_subject_token(
    lab: ExchangeLab, header: dict[str, Any], changes: dict[str, Any]
) -> None:
    lab.assert_refused(await lab.exchange(lab.external(header, **changes)), "token_type_refused", "invalid_request")


async def test_an_id_token_is_not_asked_for_by_its_type_either(lab: ExchangeLab) -> None:
    kind = "urn:ietf:params:oauth:token-type:id_token"
    answer = await lab.exchange(lab.external(), subject_token_type=kind)
    lab.assert_refused(answer, "request_malformed", "invalid_request")


async def test_an_issuer_that_may_not_give_subject_tokens_gives_none(lab: ExchangeLab) -> None:
    await link(lab.lab, NOT_ALLOWED, ALICE_THERE, "acme", ALICE)
    answer = await lab.exchange(lab.external(None, NOT_ALLOWED))
    lab.assert_refused(answer, "issuer_unknown", "invalid_request")


async def test_workload_tokens_and_assertions_are_no_subject_tokens(lab: ExchangeLab) -> None:
    for token in (lab.svid(), lab.service_account(), lab.jag(), lab.lab.assertion()):
        lab.assert_refused(await lab.exchange(token, subject_token_type=JWT), "issuer_unknown", "invalid_request")


async def test_an_access_token_is_no_actor_token(lab: ExchangeLab) -> None:
    subject = await lab.own()
    for actor in (subject, lab.external(), lab.jag(), lab.lab.assertion()):
        answer = await lab.exchange(subject, actor_token=actor, actor_token_type=JWT)
        lab.assert_refused(answer, "issuer_unknown", "invalid_request")


async def test_an_actor_token_for_another_audience_is_refused(lab: ExchangeLab) -> None:
    subject = await lab.own()
    for audience in ("https://kubernetes.default.svc", FILES, [ISSUER, "https://other.example"]):
        answer = await lab.exchange(subject, actor_token=lab.svid(aud=audience), actor_token_type=JWT)
        lab.assert_refused(answer, "audience_mismatch", "invalid_request")


# Forgery.


async def test_signatures_that_prove_nothing_are_refused(lab: ExchangeLab) -> None:
    good = await lab.own()
    head, body, signature = good.split(".")
    none = part(b'{"alg":"none","typ":"at+jwt"}')
    hmac = jwt.encode(
        jwt.decode(good, options={"verify_signature": False}), "x" * 32, "HS256", headers={"typ": "at+jwt"}
    )
    for forged, reason in (
        (f"{none}.{body}.", "token_malformed"),
        (f"{none}.{body}.{signature}", "token_algorithm_refused"),
        (hmac, "token_algorithm_refused"),
        (f"{head}.{body}.{'A' * 86}", "signature_invalid"),
    ):
        lab.assert_refused(await lab.exchange(forged), reason, "invalid_request")


async def test_a_key_of_another_issuer_signs_nothing_for_us(lab: ExchangeLab) -> None:
    claims = jwt.decode(await lab.own(), options={"verify_signature": False})
    for kid, reason in (("k1", "key_unknown"), (None, "signature_invalid")):
        header = {"alg": "ES256", "typ": "at+jwt"} | ({} if kid is None else {"kid": kid})
        for key in (lab.vouchers[LOGIN].key, lab.vouchers[DOMAIN].key, new_key()):
            lab.assert_refused(await lab.exchange(sign(header, claims, key, "ES256")), reason, "invalid_request")


@pytest.mark.parametrize(
    "header",
    [
        {"jwk": {"kty": "EC", "crv": "P-256", "x": "a", "y": "b"}},
        {"jku": "https://evil.example/keys"},
        {"x5u": "https://evil.example/chain"},
        {"crit": ["exp"]},
        {"kid": 5},
        {"kid": "../../k1" + "x" * 600},
    ],
)
async def test_a_token_cannot_bring_its_own_key(lab: ExchangeLab, header: dict[str, Any]) -> None:
    answer = await lab.exchange(lab.external(header))
    # An oversized header does not fit a token at all.
    reason = "token_malformed" if isinstance(header.get("kid"), str) else "token_header_refused"
    lab.assert_refused(answer, reason, "invalid_request")


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        ("exchanger", "claim_invalid"),
        ([{"sub": "exchanger"}], "claim_invalid"),
        ({"act": {"sub": "a"}}, "claim_invalid"),
        ({"sub": "a", "act": {"sub": "b", "act": {"sub": "c", "act": {"sub": "d"}}}}, "grant_invalid"),
    ],
)
async def test_actors_of_another_form_or_too_many_of_them_are_refused(
    lab: ExchangeLab, act: object, reason: str
) -> None:
    lab.assert_refused(await lab.exchange(lab.external(act=act)), reason, "invalid_request")


async def test_an_issuers_actors_cannot_be_ours(lab: ExchangeLab) -> None:
    token = lab.external(act={"sub": "second", "client_id": "second", "tenant": "acme"})
    result = (await lab.exchange(token)).json()["access_token"]
    actors = jwt.decode(result, options={"verify_signature": False})["act"]
    assert actors == {"sub": "exchanger", "act": {"iss": LOGIN, "sub": "second"}}
    lab.assert_refused(await lab.exchange(result, "second"), "grant_invalid", "invalid_request")


async def test_claims_of_a_subject_token_do_not_leak_into_the_result(lab: ExchangeLab) -> None:
    more = {"roles": ["admin"], "groups": ["everyone"], "agent": "robot", "sid": "s", "grant_id": "g", "tenant": "acme"}
    result = (await lab.exchange(lab.external(**more))).json()["access_token"]
    claims = jwt.decode(result, options={"verify_signature": False})
    assert claims["groups"] == ["finance"]
    assert not {"roles", "agent", "sid", "grant_id"} & claims.keys()
    lab.assert_refused(await lab.exchange(result, "second"), "grant_invalid", "invalid_request")


# Revoked, bound, and at once.


async def test_a_revoked_token_is_exchanged_for_nothing(lab: ExchangeLab) -> None:
    subject = await lab.own()
    await lab.revoke("token", jwt.decode(subject, options={"verify_signature": False})["jti"])
    lab.assert_refused(await lab.exchange(subject), "token_revoked", "invalid_request")


async def test_a_revoked_clients_tokens_are_exchanged_for_nothing(lab: ExchangeLab) -> None:
    subject = await lab.own()
    await lab.revoke("client", "exchanger")
    lab.assert_refused(await lab.exchange(subject), "token_revoked", "invalid_request")


async def test_a_bound_token_is_worth_nothing_without_its_key(lab: ExchangeLab) -> None:
    bound = await lab.own(proof="a" * 43)
    lab.assert_refused(await lab.exchange(bound), "token_binding_refused", "invalid_request")
    for cnf in ({"jkt": "a"}, {"x5t#S256": "b"}, {}, None, "x"):
        token = lab.vouchers[LOGIN].sign(
            {"iss": LOGIN, "sub": ALICE_THERE, "azp": "ext-reporter", "aud": "a", "iat": lab.now, "exp": lab.now + 60}
            | ({} if cnf is None else {"cnf": cnf}),
            {"typ": "at+jwt"},
        )
        answer = await lab.exchange(token)
        if cnf is None:
            assert answer.status_code == 200
        else:
            lab.assert_refused(answer, "token_binding_refused", "invalid_request")


async def test_another_key_does_not_open_a_bound_token(lab: ExchangeLab) -> None:
    mine, stolen = ProofKey(lab), ProofKey(lab)
    bound = await lab.own(proof=mine.thumbprint)
    answer = await lab.exchange(bound, "exchanger", await stolen.headers())
    lab.assert_refused(answer, "token_binding_refused", "invalid_request")
    answer = await lab.exchange(bound, "exchanger", await mine.headers())
    claims = jwt.decode(answer.json()["access_token"], options={"verify_signature": False})
    assert (answer.json()["token_type"], claims["cnf"]) == ("DPoP", {"jkt": mine.thumbprint})


async def test_revoking_while_many_exchange_leaves_no_result_alive(lab: ExchangeLab) -> None:
    subject = await lab.own(grant_id="g1")
    answers, _ = await asyncio.gather(
        asyncio.gather(*(lab.exchange(subject) for _ in range(10))), lab.revoke("grant", "g1")
    )
    for answer in answers:
        if answer.status_code == 200:
            with pytest.raises(GateError, match="token_revoked"):
                await lab.gateway(answer.json()["access_token"])
    lab.assert_refused(await lab.exchange(subject), "token_revoked", "invalid_request")


async def test_no_part_of_a_token_is_told_or_recorded(lab: ExchangeLab) -> None:
    marker = "s3cr3t-marker-0123456789"
    token = lab.external(sub=marker, azp=marker)
    answer = await lab.exchange(token)
    lab.assert_refused(answer, "grant_invalid", "invalid_request")
    signature = token.rsplit(".", 1)[1]
    for text in (answer.text, repr(lab.lab.audit.events)):
        assert marker not in text
        assert signature not in text
