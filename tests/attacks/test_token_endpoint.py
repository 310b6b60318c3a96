"""Attacks on the token endpoint: each must be refused for its exact reason, tell nothing, and leave a trail."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode, urlsafe_b64encode
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx2
import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives import hashes, hmac, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from joserfc import jws
from joserfc.jwk import ECKey

from tokenlab import (
    FILES,
    ISSUER,
    OTHER_SECRET,
    REPORTER,
    ROBOT,
    SECRET,
    Lab,
    basic,
    digest,
    open_lab,
    public_jwks,
)
from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode
from twogate.core.oauth.client_auth import ASSERTION_TYPE
from twogate.core.principal import AgentId
from twogate.flows.authserver.clients import Client, ClientAuth


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncGenerator[Lab]:
    async with open_lab(tmp_path) as running:
        yield running


def assert_refused(lab: Lab, response: httpx2.Response, reason: ErrorCode, error: str) -> None:
    """Refused with this OAuth error, and recorded with this reason; nothing was issued."""
    told = {"invalid_client": 401}.get(error, 400)
    assert (response.status_code, response.json()["error"]) == (told, error)
    assert response.json().keys() == {"error", "error_description"}
    event = lab.audit.last
    assert (event.kind, event.reason, event.address) == (EventKind.TOKEN_REFUSED, reason, "203.0.113.7")
    assert all(event.kind is EventKind.TOKEN_REFUSED for event in lab.audit.events)


class TestSecrets:
    async def test_unknown_client_wrong_secret_and_wrong_method_cannot_be_told_apart(self, lab: Lab) -> None:
        answers: list[tuple[int, bytes, list[tuple[str, str]]]] = []
        for client_id, secret in [
            ("reporter", "wrong"),
            ("nobody", SECRET),
            ("robot", SECRET),
            ("reporter", OTHER_SECRET),
            ("mailer", SECRET),
        ]:
            response = await lab.with_secret(basic(client_id, secret))
            assert_refused(lab, response, ErrorCode.CLIENT_INVALID, "invalid_client")
            answers.append((response.status_code, response.content, sorted(response.headers.items())))
        assert all(answer == answers[0] for answer in answers)

    async def test_a_secret_past_its_rotation_is_refused_and_the_new_one_works(self, lab: Lab) -> None:
        now = lab.clock.now()
        digests = (digest("old", now + 60), digest("new"))
        await lab.clients.add(Client("rotating", "acme", REPORTER, ClientAuth.CLIENT_SECRET, digests), None, (), now)
        assert (await lab.with_secret(basic("rotating", "old"))).status_code == 200
        lab.clock.seconds += 60
        lab.audit.events.clear()
        response = await lab.with_secret(basic("rotating", "old"))
        assert_refused(lab, response, ErrorCode.CLIENT_INVALID, "invalid_client")
        assert (await lab.with_secret(basic("rotating", "new"))).status_code == 200

    async def test_the_digest_of_a_secret_is_not_a_secret(self, lab: Lab) -> None:
        response = await lab.with_secret(basic("reporter", digest(SECRET).digest))
        assert_refused(lab, response, ErrorCode.CLIENT_INVALID, "invalid_client")

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "Basic",
            "Basic !!!!",
            "Bearer " + b64encode(f"reporter:{SECRET}".encode()).decode(),
            "Basic " + b64encode(b"reporter").decode(),
            "Basic " + b64encode(b"reporter:").decode(),
            "Basic " + b64encode(b":secret").decode(),
            "Basic " + b64encode(b"reporter:%zz").decode(),
            "Basic " + b64encode(b"reporter:%ff").decode(),
            "Basic " + b64encode(b"reporter:%00").decode(),
            "Basic " + b64encode(b"reporter:\xc3\xa9").decode(),
            "Basic " + b64encode(b"reporter:" + b"a" * 4000).decode(),
        ],
    )
    async def test_a_broken_authorization_header_is_refused_with_a_challenge(self, lab: Lab, value: str) -> None:
        response = await lab.with_secret({"Authorization": value})
        assert_refused(lab, response, ErrorCode.CLIENT_INVALID, "invalid_client")
        assert response.headers["www-authenticate"] == 'Basic realm="twogate"'

    async def test_no_client_authentication_at_all_is_refused(self, lab: Lab) -> None:
        for form in ({}, {"client_id": "reporter"}):
            assert_refused(lab, await lab.post(form), ErrorCode.CLIENT_INVALID, "invalid_client")

    async def test_a_disabled_agent_is_out_at_the_next_request_and_not_told_why(self, lab: Lab) -> None:
        assert (await lab.with_secret()).status_code == 200
        await lab.registry.disable_agent(REPORTER, lab.clock.now())
        lab.audit.events.clear()
        response = await lab.with_secret()
        assert_refused(lab, response, ErrorCode.AGENT_DISABLED, "invalid_client")
        assert response.content == (await lab.with_secret(basic("reporter", "wrong"))).content

    async def test_a_client_whose_agent_is_gone_is_refused(self, lab: Lab) -> None:
        await lab.add_client("orphan", AgentId("acme", "gone"), secret="s")
        response = await lab.with_secret(basic("orphan", "s"))
        assert_refused(lab, response, ErrorCode.AGENT_UNBOUND, "invalid_client")


class TestTwoVoices:
    """One request that says two things must not be read either way."""

    @pytest.mark.parametrize(
        "extra",
        [
            {"client_id": "reporter", "client_secret": SECRET},
            {"client_secret": SECRET},
            {"client_assertion": "a.b.c", "client_assertion_type": ASSERTION_TYPE},
            {"client_assertion_type": ASSERTION_TYPE},
            {"client_id": "mailer"},
        ],
    )
    async def test_basic_and_another_authentication_or_client_are_refused(
        self, lab: Lab, extra: dict[str, str]
    ) -> None:
        response = await lab.post(extra, basic("reporter", SECRET))
        assert_refused(lab, response, ErrorCode.REQUEST_MALFORMED, "invalid_request")

    async def test_an_assertion_and_a_secret_or_another_client_are_refused(self, lab: Lab) -> None:
        for extra in ({"client_secret": SECRET}, {"client_id": "reporter"}):
            response = await lab.with_assertion(lab.assertion(), **extra)
            assert_refused(lab, response, ErrorCode.REQUEST_MALFORMED, "invalid_request")

    async def test_two_authorization_headers_are_refused(self, lab: Lab) -> None:
        values = [*basic("reporter", SECRET).items(), *basic("mailer", OTHER_SECRET).items()]
        form = {"grant_type": "client_credentials", "resource": FILES}
        response = await lab.http.post("/token", data=form, headers=values)
        assert_refused(lab, response, ErrorCode.REQUEST_MALFORMED, "invalid_request")

    @pytest.mark.parametrize(
        ("extra", "reason", "error"),
        [
            ("&grant_type=client_credentials", ErrorCode.PARAMETER_REPEATED, "invalid_request"),
            ("&scope=reports&scope=admin", ErrorCode.PARAMETER_REPEATED, "invalid_request"),
            ("&unknown=1&unknown=1", ErrorCode.PARAMETER_REPEATED, "invalid_request"),
            ("&gr%61nt_type=password", ErrorCode.PARAMETER_REPEATED, "invalid_request"),
            ("&scope=&scope=admin", ErrorCode.PARAMETER_REPEATED, "invalid_request"),
            (f"&resource={ISSUER}/mcp/git", ErrorCode.RESOURCE_INVALID, "invalid_target"),
            ("&a", ErrorCode.REQUEST_MALFORMED, "invalid_request"),
            ("&&a=1", ErrorCode.REQUEST_MALFORMED, "invalid_request"),
            ("&a=%", ErrorCode.REQUEST_MALFORMED, "invalid_request"),
            ("&a=%f", ErrorCode.REQUEST_MALFORMED, "invalid_request"),
            ("&a=%gg", ErrorCode.REQUEST_MALFORMED, "invalid_request"),
            ("&a=%ff", ErrorCode.REQUEST_MALFORMED, "invalid_request"),
            ("&a=%c0%af", ErrorCode.REQUEST_MALFORMED, "invalid_request"),
            ("&a=%ed%a0%80", ErrorCode.REQUEST_MALFORMED, "invalid_request"),
            ("&a=é", ErrorCode.REQUEST_MALFORMED, "invalid_request"),
            ("&a=b c", ErrorCode.REQUEST_MALFORMED, "invalid_request"),
            ("\n", ErrorCode.REQUEST_MALFORMED, "invalid_request"),
            ("".join(f"&p{number}=1" for number in range(64)), ErrorCode.REQUEST_MALFORMED, "invalid_request"),
        ],
    )
    async def test_repeated_and_broken_parameters_are_refused(
        self, lab: Lab, extra: str, reason: ErrorCode, error: str
    ) -> None:
        body = f"grant_type=client_credentials&resource={FILES}{extra}"
        headers = basic("reporter", SECRET) | {"Content-Type": "application/x-www-form-urlencoded"}
        response = await lab.http.post("/token", content=body.encode(), headers=headers)
        assert_refused(lab, response, reason, error)

    async def test_credentials_in_the_address_are_refused(self, lab: Lab) -> None:
        form = {"grant_type": "client_credentials", "resource": FILES}
        response = await lab.http.post(f"/token?client_id=reporter&client_secret={SECRET}", data=form)
        assert_refused(lab, response, ErrorCode.REQUEST_MALFORMED, "invalid_request")

    @pytest.mark.parametrize(
        "types",
        [
            [],
            ["application/json"],
            ["multipart/form-data; boundary=x"],
            ["application/x-www-form-urlencoded; charset=utf-16"],
            ["application/x-www-form-urlencoded", "application/json"],
        ],
    )
    async def test_another_content_type_is_refused(self, lab: Lab, types: list[str]) -> None:
        headers = [*basic("reporter", SECRET).items(), *(("Content-Type", value) for value in types)]
        content = f"grant_type=client_credentials&resource={FILES}".encode()
        response = await lab.http.post("/token", content=content, headers=headers)
        assert_refused(lab, response, ErrorCode.REQUEST_MALFORMED, "invalid_request")


class TestTargets:
    @pytest.mark.parametrize(
        "resource",
        [
            "",
            ISSUER,
            f"{ISSUER}/",
            f"{ISSUER}/mcp",
            f"{ISSUER}/mcp/",
            f"{ISSUER}/mcp/files/",
            f"{ISSUER}/mcp/files#x",
            f"{ISSUER}/mcp/files?x",
            f"{ISSUER}/mcp/Files",
            f"{ISSUER}/mcp/%66iles",
            f"{ISSUER}/mcp/git/../files",
            f"{ISSUER}/mcp/mail",
            f"{ISSUER}/operations",
            f"{ISSUER}/token",
            "https://MCP.example.com/mcp/files",
            "http://mcp.example.com/mcp/files",
            "https://mcp.example.com:443/mcp/files",
            "https://evil.example/mcp/files",
            f"{FILES} {FILES}",
        ],
    )
    async def test_only_the_exact_names_of_the_tenants_own_resources_are_granted(self, lab: Lab, resource: str) -> None:
        response = await lab.with_secret(resource=resource)
        assert_refused(lab, response, ErrorCode.RESOURCE_INVALID, "invalid_target")

    async def test_a_tenant_that_the_configuration_no_longer_has_gets_nothing(self, lab: Lab) -> None:
        lab.tokens.settings = msgspec.structs.replace(lab.tokens.settings, resources={})
        assert_refused(lab, await lab.with_secret(), ErrorCode.RESOURCE_INVALID, "invalid_target")

    @pytest.mark.parametrize(
        "scope",
        ["other", "reports other", "Reports", "reports  admin", " reports", 'rep"orts', "reports\tadmin", "*", "é"],
    )
    async def test_a_scope_that_does_not_exist_or_is_malformed_is_refused(self, lab: Lab, scope: str) -> None:
        assert_refused(lab, await lab.with_secret(scope=scope), ErrorCode.SCOPE_INVALID, "invalid_scope")

    @pytest.mark.parametrize(
        "grant",
        ["password", "Authorization_Code", "refresh-token", "Client_Credentials", "client_credentials ", "implicit"],
    )
    async def test_no_other_grant_exists(self, lab: Lab, grant: str) -> None:
        response = await lab.with_secret(grant_type=grant)
        assert_refused(lab, response, ErrorCode.GRANT_UNSUPPORTED, "unsupported_grant_type")

    async def test_a_missing_grant_type_is_refused(self, lab: Lab) -> None:
        assert_refused(lab, await lab.with_secret(grant_type=""), ErrorCode.REQUEST_MALFORMED, "invalid_request")


def forged(header: dict[str, Any], claims: dict[str, object], signature: bytes = b"sig") -> str:
    """A compact JWT of any header, which no library would make."""
    parts = (json.dumps(header).encode(), json.dumps(claims).encode(), signature)
    return ".".join(urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


class TestAssertions:
    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"aud": "https://other.example"}, ErrorCode.AUDIENCE_MISMATCH),
            ({"aud": [ISSUER, "https://other.example"]}, ErrorCode.AUDIENCE_MISMATCH),
            ({"aud": [ISSUER, f"{ISSUER}/token"]}, ErrorCode.AUDIENCE_MISMATCH),
            ({"aud": []}, ErrorCode.AUDIENCE_MISMATCH),
            ({"aud": FILES}, ErrorCode.AUDIENCE_MISMATCH),
            ({"aud": f"{ISSUER}/"}, ErrorCode.AUDIENCE_MISMATCH),
            ({"aud": {"": ISSUER}}, ErrorCode.AUDIENCE_MISMATCH),
            ({"aud": None}, ErrorCode.CLAIM_MISSING),
            ({"sub": "mailer"}, ErrorCode.CLAIM_INVALID),
            ({"sub": None}, ErrorCode.CLAIM_INVALID),
            ({"iss": None}, ErrorCode.CLAIM_INVALID),
            ({"exp": None}, ErrorCode.CLAIM_MISSING),
            ({"jti": None}, ErrorCode.CLAIM_MISSING),
            ({"jti": ""}, ErrorCode.CLAIM_INVALID),
            ({"jti": 7}, ErrorCode.CLAIM_INVALID),
            ({"jti": "a\n"}, ErrorCode.CLAIM_INVALID),
            ({"jti": "a" * 5000}, ErrorCode.CLAIM_INVALID),
        ],
    )
    async def test_wrong_claims_are_refused(self, lab: Lab, changes: dict[str, object], reason: ErrorCode) -> None:
        # Signed as a bare JWS: libraries for JWTs refuse to make some of these.
        claims = lab.claims(**changes)
        token = jws.serialize_compact({"alg": "ES256"}, json.dumps(claims), ECKey.import_key(lab.key))
        assert_refused(lab, await lab.with_assertion(token), reason, "invalid_client")

    @pytest.mark.parametrize(
        ("exp", "other", "reason"),
        [
            (-30, {"iat": None}, ErrorCode.TOKEN_EXPIRED),
            (331, {"iat": None}, ErrorCode.TOKEN_LIFETIME_EXCESSIVE),
            (10**9, {"iat": None}, ErrorCode.TOKEN_LIFETIME_EXCESSIVE),
            (60, {"nbf": 31}, ErrorCode.TOKEN_NOT_YET_VALID),
            (60, {"iat": 31}, ErrorCode.TOKEN_NOT_YET_VALID),
            (60, {"iat": -271}, ErrorCode.TOKEN_LIFETIME_EXCESSIVE),
        ],
    )
    async def test_wrong_times_are_refused(
        self, lab: Lab, exp: int, other: dict[str, int | None], reason: ErrorCode
    ) -> None:
        now = lab.clock.now()
        times = {name: None if offset is None else now + offset for name, offset in other.items()}
        token = jwt.encode(lab.claims(exp=now + exp, **times), lab.key, algorithm="ES256")
        response = await lab.with_assertion(token)
        assert_refused(lab, response, reason, "invalid_client")

    @pytest.mark.parametrize("exp", ["soon", True, 1e300, [1], {}])
    async def test_an_expiry_that_is_no_time_is_refused(self, lab: Lab, exp: object) -> None:
        token = jws.serialize_compact({"alg": "ES256"}, json.dumps(lab.claims(exp=exp)), ECKey.import_key(lab.key))
        assert_refused(lab, await lab.with_assertion(token), ErrorCode.CLAIM_INVALID, "invalid_client")

    async def test_an_assertion_works_once(self, lab: Lab) -> None:
        assertion = lab.assertion()
        assert (await lab.with_assertion(assertion)).status_code == 200
        lab.audit.events.clear()
        response = await lab.with_assertion(assertion)
        assert_refused(lab, response, ErrorCode.ASSERTION_REPLAYED, "invalid_client")

    async def test_a_new_signature_does_not_make_a_used_jti_new(self, lab: Lab) -> None:
        assert (await lab.with_assertion(lab.assertion(jti="the-same"))).status_code == 200
        lab.audit.events.clear()
        response = await lab.with_assertion(lab.assertion(exp=lab.clock.now() + 200, jti="the-same"))
        assert_refused(lab, response, ErrorCode.ASSERTION_REPLAYED, "invalid_client")

    async def test_a_replay_is_refused_to_the_last_second_in_which_it_would_be_accepted(self, lab: Lab) -> None:
        assertion = lab.assertion(exp=lab.clock.now() + 60)
        assert (await lab.with_assertion(assertion)).status_code == 200
        lab.clock.seconds += 60 + 29
        lab.audit.events.clear()
        assert_refused(lab, await lab.with_assertion(assertion), ErrorCode.ASSERTION_REPLAYED, "invalid_client")
        lab.clock.seconds += 1
        assert_refused(lab, await lab.with_assertion(assertion), ErrorCode.TOKEN_EXPIRED, "invalid_client")

    async def test_an_assertion_of_a_slow_clock_works_once_too(self, lab: Lab) -> None:
        assertion = lab.assertion(exp=lab.clock.now() - 29)
        assert (await lab.with_assertion(assertion)).status_code == 200
        lab.audit.events.clear()
        response = await lab.with_assertion(assertion)
        assert_refused(lab, response, ErrorCode.ASSERTION_REPLAYED, "invalid_client")

    async def test_of_parallel_replays_exactly_one_wins(self, lab: Lab) -> None:
        assertion = lab.assertion()
        responses = await asyncio.gather(*(lab.with_assertion(assertion) for _ in range(20)))
        assert sorted(response.status_code for response in responses) == [200] + [401] * 19

    async def test_a_forged_assertion_does_not_use_up_the_clients_jti(self, lab: Lab) -> None:
        forgery = lab.assertion(key=ec.generate_private_key(ec.SECP256R1()), jti="wanted")
        assert_refused(lab, await lab.with_assertion(forgery), ErrorCode.SIGNATURE_INVALID, "invalid_client")
        assert (await lab.with_assertion(lab.assertion(jti="wanted"))).status_code == 200

    async def test_two_clients_may_use_the_same_jti(self, lab: Lab) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        await lab.add_client("second", ROBOT, jwks=public_jwks(key))
        assert (await lab.with_assertion(lab.assertion(jti="one"))).status_code == 200
        second = lab.assertion(key=key, iss="second", sub="second", jti="one")
        assert (await lab.with_assertion(second)).status_code == 200

    async def test_unsigned_assertions_are_refused(self, lab: Lab) -> None:
        for alg in ("none", "None", ""):
            response = await lab.with_assertion(forged({"alg": alg}, lab.claims()))
            assert_refused(lab, response, ErrorCode.TOKEN_ALGORITHM_REFUSED, "invalid_client")

    async def test_the_public_key_is_no_shared_secret(self, lab: Lab) -> None:
        pem = lab.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        unsigned = forged({"alg": "HS256"}, lab.claims()).rpartition(".")[0]
        mac = hmac.HMAC(pem, hashes.SHA256())
        mac.update(unsigned.encode())
        token = f"{unsigned}.{urlsafe_b64encode(mac.finalize()).rstrip(b'=').decode()}"
        assert_refused(lab, await lab.with_assertion(token), ErrorCode.TOKEN_ALGORITHM_REFUSED, "invalid_client")

    async def test_an_algorithm_that_the_registered_key_is_not_made_for_is_refused(self, lab: Lab) -> None:
        token = lab.assertion(key=rsa.generate_private_key(65537, 2048), alg="RS256")
        assert_refused(lab, await lab.with_assertion(token), ErrorCode.KEY_UNKNOWN, "invalid_client")

    @pytest.mark.parametrize("name", ["jwk", "jku", "x5c", "x5u", "crit", "zip"])
    async def test_a_key_or_extension_that_the_assertion_brings_along_is_refused(self, lab: Lab, name: str) -> None:
        own = ec.generate_private_key(ec.SECP256R1())
        values: dict[str, object] = {
            "jwk": ECKey.import_key(own.public_key()).as_dict(private=False),
            "crit": ["exp"],
            "x5c": ["MIIB"],
        }
        header = {name: values.get(name, "https://evil.example/jwks.json")}
        response = await lab.with_assertion(lab.assertion(key=own, headers=header))
        assert_refused(lab, response, ErrorCode.TOKEN_HEADER_REFUSED, "invalid_client")

    @pytest.mark.parametrize("typ", ["at+jwt", "op+jwt", "dpop+jwt", "secevent+jwt", "oauth-id-jag+jwt"])
    async def test_a_token_made_for_something_else_is_no_assertion(self, lab: Lab, typ: str) -> None:
        response = await lab.with_assertion(lab.assertion(headers={"typ": typ}))
        assert_refused(lab, response, ErrorCode.TOKEN_TYPE_REFUSED, "invalid_client")

    async def test_an_access_token_of_this_server_is_no_assertion(self, lab: Lab) -> None:
        token = (await lab.with_secret()).json()["access_token"]
        lab.audit.events.clear()
        response = await lab.with_assertion(token)
        assert_refused(lab, response, ErrorCode.CLIENT_INVALID, "invalid_client")

    async def test_the_key_of_one_client_does_not_speak_for_another(self, lab: Lab) -> None:
        await lab.add_client("second", ROBOT, jwks=public_jwks(ec.generate_private_key(ec.SECP256R1())))
        response = await lab.with_assertion(lab.assertion(iss="second", sub="second"))
        assert_refused(lab, response, ErrorCode.SIGNATURE_INVALID, "invalid_client")

    async def test_a_client_with_a_secret_cannot_come_with_an_assertion(self, lab: Lab) -> None:
        response = await lab.with_assertion(lab.assertion(iss="reporter", sub="reporter"))
        assert_refused(lab, response, ErrorCode.CLIENT_INVALID, "invalid_client")

    @pytest.mark.parametrize("token", ["a", "a.b", "a.b.c", "....", "{}", "a" * 15_000])
    async def test_what_is_no_jwt_is_refused(self, lab: Lab, token: str) -> None:
        assert_refused(lab, await lab.with_assertion(token), ErrorCode.TOKEN_MALFORMED, "invalid_client")

    async def test_an_assertion_of_another_type_than_jwt_bearer_is_refused(self, lab: Lab) -> None:
        response = await lab.with_assertion(lab.assertion(), client_assertion_type=ASSERTION_TYPE + "2")
        assert_refused(lab, response, ErrorCode.CLIENT_INVALID, "invalid_client")
        response = await lab.with_assertion(lab.assertion(), client_assertion_type="")
        assert_refused(lab, response, ErrorCode.REQUEST_MALFORMED, "invalid_request")

    async def test_every_failed_assertion_is_answered_alike(self, lab: Lab) -> None:
        now = lab.clock.now()
        answers = [
            await lab.with_assertion(token)
            for token in (
                lab.assertion(exp=now - 100),
                lab.assertion(aud="https://other.example"),
                lab.assertion(key=ec.generate_private_key(ec.SECP256R1())),
                lab.assertion(iss="nobody", sub="nobody"),
            )
        ]
        assert len({lab.audit.events[index].reason for index in range(4)}) == 4
        assert {(answer.status_code, answer.content) for answer in answers} == {(401, answers[0].content)}


class TestTraces:
    async def test_neither_the_audit_trail_nor_any_answer_holds_a_credential(self, lab: Lab) -> None:
        assertion = lab.assertion()
        issued = (await lab.with_secret()).json()["access_token"]
        answers = [
            await lab.with_secret(basic("reporter", SECRET + "x")),
            await lab.post({"client_id": "reporter", "client_secret": SECRET, "scope": SECRET}),
            await lab.post({"client_id": "reporter", "client_secret": SECRET, "resource": SECRET}),
            await lab.post({"client_id": "reporter", "client_secret": SECRET, "grant_type": SECRET}),
            await lab.with_secret(client_secret=SECRET),
            await lab.with_assertion(assertion, client_assertion_type="x"),
            await lab.with_assertion(assertion),
            await lab.with_assertion(assertion),
        ]
        trail = msgspec.json.encode(lab.audit.events).decode()
        told = "".join(answer.text for answer in answers if answer.status_code != 200)
        for credential in (SECRET, basic("reporter", SECRET)["Authorization"].split()[1], assertion, issued):
            assert credential not in trail
            assert credential not in told
        assert len(lab.audit.events) == len(answers) + 1

    async def test_a_token_of_one_tenant_never_names_another_whatever_the_request_says(self, lab: Lab) -> None:
        response = await lab.with_secret(tenant="globex", aud=f"{ISSUER}/mcp/mail", sub="mailer", audience="x")
        claims = jwt.decode(response.json()["access_token"], options={"verify_signature": False})
        assert (claims["tenant"], claims["sub"], claims["aud"]) == ("acme", "reporter", FILES)
