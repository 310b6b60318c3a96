"""Attacks on introspection: nobody learns of a token that is not theirs, or that it exists (RFC 7662 section 4)."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from grantlab import GrantLab, claims_of, open_grant_lab
from tokenlab import OTHER_SECRET, SECRET, Lab, basic
from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.token_request import MAX_BODY

INACTIVE = b'{"active":false}'


@pytest.fixture
async def grants(tmp_path: Path) -> AsyncGenerator[GrantLab]:
    async with open_grant_lab(tmp_path) as running:
        yield running


@pytest.fixture
def lab(grants: GrantLab) -> Lab:
    return grants.lab


async def ask(lab: Lab, token: str, client: str = "reporter", secret: str = SECRET) -> httpx2.Response:
    return await lab.http.post("/introspect", data={"token": token}, headers=basic(client, secret))


def forged(token: str, **changes: object) -> str:
    header = {"kid": jwt.get_unverified_header(token)["kid"], "typ": "at+jwt"}
    key = ec.generate_private_key(ec.SECP256R1())
    return jwt.encode({**claims_of(token), **changes}, key, algorithm="ES256", headers=header)


def retyped(token: str) -> str:
    head, body, signature = token.split(".")
    claims = urlsafe_b64decode(body + "==").replace(b'"reporter"', b'"mailer00"')
    return f"{head}.{urlsafe_b64encode(claims).rstrip(b'=').decode()}.{signature}"


async def test_foreign_forged_unknown_and_malformed_tokens_cannot_be_told_apart(grants: GrantLab) -> None:
    lab = grants.lab
    own = (await lab.with_secret()).json()["access_token"]
    person = await grants.begin("web")
    answers = [
        # Good ones, of other clients: of the same tenant, of another tenant, a person's, and a refresh token.
        await ask(lab, own, "other"),
        await ask(lab, own, "mailer", OTHER_SECRET),
        await ask(lab, person["access_token"]),
        await ask(lab, person["refresh_token"]),
        await ask(lab, person["refresh_token"], "other"),
        # None at all.
        await ask(lab, forged(own)),
        await ask(lab, forged(own, exp=2**40)),
        await ask(lab, own[:-4] + "AAAA"),
        await ask(lab, retyped(own)),
        await ask(lab, "unknown"),
        await ask(lab, person["refresh_token"][:-1]),
        await ask(lab, "a.b.c"),
        await ask(lab, "."),
        await ask(lab, "é" * 200),
        await ask(lab, "x" * (MAX_BODY - 100)),
    ]
    assert {(answer.status_code, answer.content) for answer in answers} == {(200, INACTIVE)}
    assert len({str(sorted(answer.headers.items())) for answer in answers}) == 1


async def test_only_clients_that_authenticate_may_ask(grants: GrantLab) -> None:
    token = (await grants.begin("native"))["access_token"]
    for form, headers in (
        ({"client_id": "native"}, {}),
        ({"client_id": "reporter"}, {}),
        ({"client_id": "unknown"}, {}),
        ({}, {}),
        ({}, basic("reporter", OTHER_SECRET)),
        ({}, {"Authorization": f"Bearer {token}"}),
    ):
        response = await grants.lab.http.post("/introspect", data={"token": token, **form}, headers=headers)
        assert (response.status_code, response.json()["error"]) == (401, "invalid_client")
        assert "active" not in response.json()
        assert grants.lab.audit.last.kind is EventKind.TOKEN_REFUSED
    assert token not in str(grants.lab.audit.events)


async def test_an_id_or_assertion_of_the_client_is_no_token_of_it(lab: Lab) -> None:
    for token in (lab.assertion(), lab.assertion(aud="https://elsewhere.example")):
        assert (await ask(lab, token)).content == INACTIVE


@pytest.mark.parametrize(
    ("form", "error"),
    [({}, "invalid_request"), ({"token": ""}, "invalid_request"), ({"token": ["a", "b"]}, "invalid_request")],
)
async def test_a_request_without_exactly_one_token_is_refused(
    lab: Lab, form: dict[str, str | list[str]], error: str
) -> None:
    response = await lab.http.post("/introspect", data=form, headers=basic("reporter", SECRET))
    assert (response.status_code, response.json()["error"]) == (400, error)


async def test_a_token_in_the_address_is_refused_because_addresses_are_logged(lab: Lab) -> None:
    token = (await lab.with_secret()).json()["access_token"]
    response = await lab.http.post(
        f"/introspect?token={token}", data={"token": token}, headers=basic("reporter", SECRET)
    )
    assert (response.status_code, response.json()["error"]) == (400, "invalid_request")


async def test_it_is_neither_for_get_nor_for_web_pages(lab: Lab) -> None:
    assert (await lab.http.get("/introspect", params={"token": "x"})).status_code == 405
    response = await ask(lab, "x")
    assert "access-control-allow-origin" not in response.headers


async def test_when_the_store_fails_nobody_is_told_that_a_token_is_inactive(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = (await lab.with_secret()).json()["access_token"]

    async def fails() -> None:
        raise GateError(ErrorCode.STORE_UNAVAILABLE, "told to")

    monkeypatch.setattr(lab.agents, "view", fails)
    response = await ask(lab, token)
    assert response.status_code == 503
    assert "active" not in response.json()
