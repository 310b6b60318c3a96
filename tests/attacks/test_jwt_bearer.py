"""Attacks on the `jwt-bearer` grant: replay, confusion of assertions and endpoints, forgery, others' workloads."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from sqlalchemy import update

from exchangelab import (
    ALICE_THERE,
    BEARER,
    CLUSTER,
    DOMAIN,
    FORGE,
    GIT,
    IDP,
    SERVICE_ACCOUNT,
    SPIFFE_ID,
    ExchangeLab,
    open_exchange_lab,
)
from harness.issuer import new_key, sign
from tokenlab import FILES, ISSUER
from twogate.core.oauth.client_auth import ASSERTION_TYPE
from twogate.stores.sql.engine import writing
from twogate.stores.sql.tables import users


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[ExchangeLab]:
    async with open_exchange_lab(tmp_path) as made:
        yield made


def part(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _hmac(claims: dict[str, Any], header: dict[str, Any], public: bytes) -> str:
    """A token under an HMAC whose key is what everybody knows: the issuer's public keys."""
    text = f"{part(json.dumps({'alg': 'HS256', **header}).encode())}.{part(json.dumps(claims).encode())}"
    return f"{text}.{part(hmac.digest(public, text.encode(), hashlib.sha256))}"


# Replay.


async def test_an_id_jag_is_good_once(lab: ExchangeLab) -> None:
    assertion = lab.jag()
    assert (await lab.bearer(assertion, "exchanger")).status_code == 200
    lab.assert_refused(await lab.bearer(assertion, "exchanger"), "assertion_replayed")


async def test_of_many_at_once_one_wins(lab: ExchangeLab) -> None:
    assertion = lab.jag()
    answers = await asyncio.gather(*(lab.bearer(assertion, "exchanger") for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] + [400] * 19
    assert len(await lab.made()) == 1


async def test_another_spelling_of_a_used_id_jag_is_not_another_one(lab: ExchangeLab) -> None:
    assertion = lab.jag()
    assert (await lab.bearer(assertion, "exchanger")).status_code == 200
    signed_again = lab.vouchers[IDP].sign(
        jwt.decode(assertion, options={"verify_signature": False}), {"typ": "application/oauth-id-jag+jwt"}
    )
    lab.assert_refused(await lab.bearer(signed_again, "exchanger"), "assertion_replayed")


async def test_an_id_jag_cannot_be_replayed_within_the_clocks_leeway(lab: ExchangeLab) -> None:
    assertion = lab.jag()
    assert (await lab.bearer(assertion, "exchanger")).status_code == 200
    lab.lab.clock.seconds += 329
    lab.assert_refused(await lab.bearer(assertion, "exchanger"), "assertion_replayed")
    lab.lab.clock.seconds += 1
    lab.assert_refused(await lab.bearer(assertion, "exchanger"), "token_expired")


async def test_nobody_else_can_use_up_an_id_jag(lab: ExchangeLab) -> None:
    assertion = lab.jag()
    lab.assert_refused(await lab.bearer(assertion, "second"), "grant_invalid")
    lab.assert_refused(await lab.bearer(assertion, "exchanger", resource=GIT), "resource_invalid", "invalid_target")
    lab.assert_refused(await lab.bearer(assertion, "exchanger", scope="unknown"), "scope_invalid", "invalid_scope")
    assert (await lab.bearer(assertion, "exchanger")).status_code == 200


# Whose assertion it is.


async def test_an_id_jag_for_another_client_is_refused(lab: ExchangeLab) -> None:
    for client_id in ("second", "host"):
        lab.assert_refused(await lab.bearer(lab.jag(), client_id), "grant_invalid")
    assert await lab.made() == []


async def test_an_id_jag_without_the_client_that_it_names_is_refused(lab: ExchangeLab) -> None:
    lab.assert_refused(await lab.bearer(lab.jag()), "client_invalid", "invalid_client", 401)
    lab.assert_refused(await lab.bearer(lab.jag(), "", client_id="exchanger"), "client_invalid", "invalid_client", 401)
    public = lab.jag(client_id="public")
    lab.assert_refused(await lab.bearer(public, "", client_id="public"), "client_unauthorized", "unauthorized_client")


async def test_an_id_jag_is_for_people_of_its_own_tenant(lab: ExchangeLab) -> None:
    assertion = lab.jag(client_id="mailer2", resource=f"{ISSUER}/mcp/mail", scope=None)
    answer = await lab.bearer(assertion, "mailer2", resource=f"{ISSUER}/mcp/mail")
    lab.assert_refused(answer, "tenant_refused")
    lab.assert_refused(await lab.bearer(lab.jag(tenant="globex"), "mailer2", resource=FILES), "tenant_refused")


async def test_a_disabled_person_gets_in_by_no_id_jag(lab: ExchangeLab) -> None:
    assert (await lab.bearer(lab.jag(), "exchanger")).status_code == 200
    async with writing(lab.lab.engine) as connection:
        await connection.execute(update(users).values(disabled_at=1))
    lab.assert_refused(await lab.bearer(lab.jag(), "exchanger"), "grant_invalid")


async def test_an_id_jag_makes_nobody_by_the_name_of_somebody_here(lab: ExchangeLab) -> None:
    # The local `alice` is another person than whoever calls themselves so at the provider.
    assert (await lab.bearer(lab.jag(sub="alice-subject", email="alice"), "exchanger")).status_code == 200
    (made,) = await lab.made()
    assert made.subject != "alice-subject"
    assert made.name != "alice"


@pytest.mark.parametrize("resource", [GIT, f"{ISSUER}/mcp/mail", f"{FILES}/"])
async def test_an_id_jag_opens_no_other_resource(lab: ExchangeLab, resource: str) -> None:
    lab.assert_refused(
        await lab.bearer(lab.jag(), "exchanger", resource=resource), "resource_invalid", "invalid_target"
    )


async def test_an_id_jag_cannot_name_a_resource_of_another_tenant(lab: ExchangeLab) -> None:
    other = f"{ISSUER}/mcp/mail"
    for form in ({"resource": other}, {"resource": ""}):
        answer = await lab.bearer(lab.jag(resource=other), "exchanger", **form)
        lab.assert_refused(answer, "resource_invalid", "invalid_target")


async def test_an_id_jag_widens_no_scope(lab: ExchangeLab) -> None:
    lab.assert_refused(await lab.bearer(lab.jag(), "exchanger", scope="admin"), "scope_invalid", "invalid_scope")
    assert (await lab.bearer(lab.jag(), "exchanger", scope="admin reports")).json()["scope"] == "reports"


# Confusion of one kind with another.


async def test_a_client_assertion_is_no_grant(lab: ExchangeLab) -> None:
    for audience in (ISSUER, f"{ISSUER}/token"):
        for client_id in ("", "exchanger"):
            lab.assert_refused(await lab.bearer(lab.lab.assertion(aud=audience), client_id), "issuer_unknown")


@pytest.mark.parametrize("make", ["svid", "service_account", "jag"])
async def test_a_grant_is_no_client_assertion(lab: ExchangeLab, make: str) -> None:
    assertion = getattr(lab, make)()
    form = {
        "grant_type": "client_credentials",
        "resource": FILES,
        "client_assertion": assertion,
        "client_assertion_type": ASSERTION_TYPE,
    }
    answer = await lab.post(form, "")
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


async def test_our_own_tokens_are_no_assertions(lab: ExchangeLab) -> None:
    own = await lab.own()
    workloads = (await lab.bearer(lab.svid())).json()["access_token"]
    for token in (own, workloads):
        for client_id in ("", "exchanger"):
            lab.assert_refused(await lab.bearer(token, client_id), "issuer_unknown")


async def test_an_access_token_or_id_token_of_the_provider_is_no_id_jag(lab: ExchangeLab) -> None:
    for typ in ("at+jwt", "JWT", "jwt", None, "client-authentication+jwt"):
        lab.assert_refused(await lab.bearer(lab.jag({"typ": typ}), "exchanger"), "token_type_refused")


async def test_an_id_jag_is_no_workload_token_and_the_other_way_around(lab: ExchangeLab) -> None:
    typ = {"typ": "oauth-id-jag+jwt"}
    lab.assert_refused(await lab.bearer(lab.svid(typ), "exchanger"), "token_type_refused")
    lab.assert_refused(await lab.bearer(lab.service_account(typ), "exchanger"), "token_type_refused")
    # A platform that signs what looks like an ID-JAG vouches for nobody but its workloads.
    claims = jwt.decode(lab.jag(), options={"verify_signature": False}) | {"iss": FORGE}
    lab.assert_refused(await lab.bearer(lab.vouchers[FORGE].sign(claims, typ), "exchanger"), "token_type_refused")


async def test_a_provider_that_signs_a_workloads_token_vouches_for_no_workload(lab: ExchangeLab) -> None:
    claims = {"iss": IDP, "sub": SPIFFE_ID, "aud": ISSUER, "exp": lab.now + 60}
    lab.assert_refused(await lab.bearer(lab.vouchers[IDP].sign(claims), "exchanger"), "token_type_refused")
    claims["iss"] = CLUSTER
    lab.assert_refused(await lab.bearer(lab.vouchers[IDP].sign(claims)), "signature_invalid")
    claims.pop("iss")
    lab.assert_refused(await lab.bearer(lab.vouchers[IDP].sign(claims)), "signature_invalid")


async def test_an_issuer_of_access_tokens_alone_vouches_for_nobody(lab: ExchangeLab) -> None:
    lab.assert_refused(await lab.bearer(lab.external(aud=ISSUER)), "issuer_unknown")


# Workloads of others, and for others.


@pytest.mark.parametrize(
    "audience",
    [
        "https://kubernetes.default.svc",
        FILES,
        f"{ISSUER}/",
        f"{ISSUER}/par",
        "https://other-gateway.example",
        [ISSUER, "https://other.example"],
        [ISSUER, f"{ISSUER}/token"],
        [],
    ],
)
async def test_a_workload_token_for_another_audience_is_refused(lab: ExchangeLab, audience: object) -> None:
    for token in (lab.svid(aud=audience), lab.service_account(aud=audience)):
        lab.assert_refused(await lab.bearer(token), "audience_mismatch")


@pytest.mark.parametrize(
    ("subject", "reason"),
    [
        (f"{DOMAIN}/ns/prod/sa/admin", "agent_unbound"),
        (f"{SPIFFE_ID}/x", "agent_unbound"),
        (SPIFFE_ID.upper(), "issuer_unknown"),
        ("spiffe://other.org/ns/prod/sa/reporter", "issuer_unknown"),
        (f"{DOMAIN}/ns/prod/../prod/sa/reporter", "issuer_unknown"),
        (f"{SPIFFE_ID}/", "issuer_unknown"),
        (SERVICE_ACCOUNT, "issuer_unknown"),
        (None, "issuer_unknown"),
    ],
)
async def test_a_workload_that_nobody_bound_is_refused(lab: ExchangeLab, subject: str | None, reason: str) -> None:
    lab.assert_refused(await lab.bearer(lab.svid(sub=subject)), reason)


async def test_one_clusters_service_account_is_not_anothers(lab: ExchangeLab) -> None:
    claims = {"iss": FORGE, "sub": SERVICE_ACCOUNT, "aud": ISSUER, "exp": lab.now + 60}
    lab.assert_refused(await lab.bearer(lab.vouchers[FORGE].sign(claims)), "agent_unbound")


async def test_a_service_account_cannot_claim_to_be_another(lab: ExchangeLab) -> None:
    other = {"namespace": "dev", "serviceaccount": {"name": "robot", "uid": "1"}}
    lab.assert_refused(await lab.bearer(lab.service_account(**{"kubernetes.io": other})), "claim_invalid")


async def test_an_issuer_vouches_only_for_agents_of_its_tenants(lab: ExchangeLab) -> None:
    claims = {"iss": FORGE, "sub": "repo:globex/mail", "aud": ISSUER, "exp": lab.now + 60}
    answer = await lab.bearer(lab.vouchers[FORGE].sign(claims), resource=f"{ISSUER}/mcp/mail")
    lab.assert_refused(answer, "tenant_refused")


async def test_a_workload_token_that_lives_too_long_is_refused(lab: ExchangeLab) -> None:
    year = lab.now + 365 * 86400
    lab.assert_refused(await lab.bearer(lab.service_account(exp=year)), "token_lifetime_excessive")
    lab.assert_refused(await lab.bearer(lab.svid(exp=None)), "claim_missing")
    lab.assert_refused(await lab.bearer(lab.svid(iat=None, exp=year)), "token_lifetime_excessive")


async def test_a_client_id_beside_a_workload_token_must_be_proven(lab: ExchangeLab) -> None:
    answer = await lab.bearer(lab.svid(), "", client_id="exchanger")
    lab.assert_refused(answer, "client_invalid", "invalid_client", 401)
    answer = await lab.bearer(lab.svid(), "", client_id=f"workload {DOMAIN} {SPIFFE_ID}")
    lab.assert_refused(answer, "client_invalid", "invalid_client", 401)


async def test_a_workload_token_opens_no_other_grant(lab: ExchangeLab) -> None:
    for grant in ("client_credentials", "authorization_code", "refresh_token"):
        answer = await lab.post({"grant_type": grant, "assertion": lab.svid(), "resource": FILES}, "")
        assert answer.status_code in (400, 401)
        assert "access_token" not in answer.json()


# Forgery.


@pytest.mark.parametrize("make", ["svid", "service_account", "jag"])
async def test_signatures_that_prove_nothing_are_refused(lab: ExchangeLab, make: str) -> None:
    good = getattr(lab, make)()
    head, body, signature = good.split(".")
    header = jwt.get_unverified_header(good)
    kept = {"kid": "k1"} | ({"typ": header["typ"]} if "typ" in header else {})
    none = part(json.dumps({"alg": "none", **kept}).encode())
    voucher = {"svid": DOMAIN, "service_account": CLUSTER, "jag": IDP}[make]
    claims = jwt.decode(good, options={"verify_signature": False})
    with_public_key = _hmac(claims, kept, lab.vouchers[voucher].jwks)
    for forged, reason in (
        (f"{none}.{body}.", "token_malformed"),
        (f"{none}.{body}.{signature}", "token_algorithm_refused"),
        (with_public_key, "token_algorithm_refused"),
        (f"{head}.{body}.{'A' * 86}", "signature_invalid"),
        (f"{head}.{body}.{signature}.{signature}", "token_malformed"),
        ("not a token", "token_malformed"),
    ):
        lab.assert_refused(await lab.bearer(forged, "exchanger"), reason)


@pytest.mark.parametrize("make", ["svid", "service_account", "jag"])
@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"kid": "k2"}, "key_unknown"),
        ({"kid": ""}, "token_header_refused"),
        ({"kid": ["k1"]}, "token_header_refused"),
        ({"jku": "https://evil.example/keys"}, "token_header_refused"),
        ({"jwk": {"kty": "EC"}}, "token_header_refused"),
        ({"x5c": ["MII"]}, "token_header_refused"),
        ({"crit": ["b64"], "b64": False}, "token_header_refused"),
        ({"zip": "DEF"}, "token_header_refused"),
    ],
)
async def test_a_header_selects_no_key_but_the_issuers(
    lab: ExchangeLab, make: str, header: dict[str, Any], reason: str
) -> None:
    lab.assert_refused(await lab.bearer(getattr(lab, make)(header), "exchanger"), reason)


async def test_one_platforms_key_signs_nothing_for_another(lab: ExchangeLab) -> None:
    stranger = new_key()
    for key in (lab.vouchers[CLUSTER].key, lab.vouchers[IDP].key, stranger):
        lab.assert_refused(await lab.bearer(lab.svid(None, key)), "signature_invalid")


async def test_a_claim_named_twice_is_refused(lab: ExchangeLab) -> None:
    payload = (
        f'{{"iss":"{IDP}","iss":"{IDP}","sub":"{ALICE_THERE}","aud":"{ISSUER}","client_id":"exchanger",'
        f'"jti":"x","iat":{lab.now},"exp":{lab.now + 60},"resource":"{FILES}"}}'
    )
    header = {"alg": "ES256", "kid": "k1", "typ": "oauth-id-jag+jwt"}
    token = sign(header, payload.encode(), lab.vouchers[IDP].key, "ES256")
    lab.assert_refused(await lab.bearer(token, "exchanger"), "token_malformed")


async def test_a_bound_assertion_is_worth_nothing_without_its_key(lab: ExchangeLab) -> None:
    for token in (lab.svid(cnf={"jkt": "a" * 43}), lab.jag(cnf={"jkt": "a" * 43}), lab.jag(cnf={"x5t#S256": "b"})):
        lab.assert_refused(await lab.bearer(token, "exchanger"), "token_binding_refused")


async def test_an_assertion_given_twice_is_refused(lab: ExchangeLab) -> None:
    body = f"grant_type={BEARER.replace(':', '%3A')}&assertion={lab.svid()}&assertion={lab.svid()}"
    response = await lab.http.post(
        "/token", content=body, headers={"Content-Type": "application/x-www-form-urlencoded"}
    )
    lab.assert_refused(response, "parameter_repeated", "invalid_request")


async def test_a_flood_of_forged_assertions_is_recorded_and_makes_nobody(lab: ExchangeLab) -> None:
    answers = await asyncio.gather(*(lab.bearer(lab.jag(exp=lab.now - 31 - n), "exchanger") for n in range(30)))
    assert {answer.json()["error"] for answer in answers} == {"invalid_grant"}
    assert await lab.made() == []


async def test_no_part_of_an_assertion_is_told_or_recorded(lab: ExchangeLab) -> None:
    marker = "s3cr3t-marker-0123456789"
    token = lab.service_account(sub=f"system:serviceaccount:{marker}:x", jti=marker)
    answer = await lab.bearer(token)
    lab.assert_refused(answer, "claim_invalid")
    for text in (answer.text, repr(lab.lab.audit.events)):
        assert marker not in text
        assert token.rsplit(".", 1)[1] not in text
