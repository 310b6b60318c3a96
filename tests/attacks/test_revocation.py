"""Attacks on revocation: using what was revoked, revoking what is another's, names that collide (RFC 7009)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from grantlab import ALICE, GrantLab, claims_of, open_grant_lab
from revokelab import Gate
from tokenlab import OTHER_SECRET, SECRET, Lab, basic
from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode
from twogate.flows.authserver.revocations import RevocationKind, Revocations, outlasts_tokens
from twogate.stores.sql.revocations import SqlRevocationStore


@pytest.fixture
async def grants(tmp_path: Path) -> AsyncGenerator[GrantLab]:
    async with open_grant_lab(tmp_path) as running:
        yield running


@pytest.fixture
def lab(grants: GrantLab) -> Lab:
    return grants.lab


async def revoke(lab: Lab, token: str, client: str = "reporter", secret: str = SECRET) -> httpx2.Response:
    return await lab.http.post("/revoke", data={"token": token}, headers=basic(client, secret))


async def take_back(lab: Lab, kind: RevocationKind, value: str) -> None:
    now = lab.clock.now()
    await Revocations(SqlRevocationStore(lab.engine)).revoke(kind, value, outlasts_tokens(now), now)


async def test_nobody_can_revoke_what_is_not_theirs_and_nobody_learns_that_it_exists(grants: GrantLab) -> None:
    lab, gate = grants.lab, Gate(grants.lab)
    own = (await lab.with_secret()).json()["access_token"]
    person = await grants.begin("web")
    native = await grants.begin("native")
    assert await gate.judge(own) is None
    trail = list(lab.audit.events)
    forged = jwt.encode(claims_of(own), ec.generate_private_key(ec.SECP256R1()), "ES256", {"typ": "at+jwt", "kid": "x"})
    answers = [
        await revoke(lab, own, "other"),
        await revoke(lab, own, "mailer", OTHER_SECRET),
        await revoke(lab, person["access_token"]),
        await revoke(lab, person["refresh_token"]),
        await revoke(lab, person["refresh_token"], "other"),
        await revoke(lab, native["refresh_token"], "web"),
        await lab.http.post("/revoke", data={"token": native["refresh_token"], "client_id": "other-native"}),
        await lab.http.post("/revoke", data={"token": native["access_token"], "client_id": "other-native"}),
        await revoke(lab, forged),
        await revoke(lab, "unknown"),
        await revoke(lab, "a.b.c"),
        await revoke(lab, "." * 1000),
    ]
    assert {(answer.status_code, answer.content) for answer in answers} == {(200, b"{}")}
    assert lab.audit.events == trail
    assert await grants.revoked() == set()
    assert await gate.judge(own) is None
    assert (await grants.refresh(person["refresh_token"])).status_code == 200
    assert (await grants.refresh(native["refresh_token"], "native")).status_code == 200


async def test_who_does_not_authenticate_revokes_nothing(lab: Lab) -> None:
    token = (await lab.with_secret()).json()["access_token"]
    for form, headers in (
        ({}, {}),
        ({"client_id": "reporter"}, {}),
        ({"client_id": "nobody"}, {}),
        ({}, basic("reporter", OTHER_SECRET)),
        ({}, {"Authorization": f"Bearer {token}"}),
    ):
        response = await lab.http.post("/revoke", data={"token": token, **form}, headers=headers)
        assert (response.status_code, response.json()["error"]) == (401, "invalid_client")
        assert lab.audit.last.kind is EventKind.TOKEN_REFUSED
    assert await Gate(lab).judge(token) is None


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("token", ErrorCode.TOKEN_REVOKED),
        ("grant", ErrorCode.TOKEN_REVOKED),
        ("client", ErrorCode.TOKEN_REVOKED),
        ("user", ErrorCode.USER_DISABLED),
    ],
)
async def test_a_token_is_worth_nothing_once_it_or_where_it_comes_from_was_revoked(
    grants: GrantLab, kind: RevocationKind, reason: ErrorCode
) -> None:
    lab, gate = grants.lab, Gate(grants.lab)
    token = (await grants.begin("native"))["access_token"]
    claims = claims_of(token)
    names = {"token": claims["jti"], "client": "native", "user": ALICE, "grant": claims["grant_id"]}
    before = await gate.judge(token)
    await take_back(lab, kind, names[kind])
    assert await gate.judge(token) is reason
    assert before is not reason


async def test_a_name_of_one_kind_revokes_nothing_of_another(lab: Lab) -> None:
    token, gate = (await lab.with_secret()).json()["access_token"], Gate(lab)
    jti = claims_of(token)["jti"]
    await take_back(lab, "user", "reporter")
    await take_back(lab, "grant", jti)
    await take_back(lab, "client", jti)
    await take_back(lab, "token", "reporter")
    assert await gate.judge(token) is None


async def test_tokens_issued_while_a_grant_is_being_revoked_are_worth_nothing_either(grants: GrantLab) -> None:
    lab, gate = grants.lab, Gate(grants.lab)
    begun = await grants.begin("web")
    answers = await asyncio.gather(
        *(grants.refresh(begun["refresh_token"]) for _ in range(5)),
        revoke(lab, begun["refresh_token"], "web"),
        *(grants.refresh(begun["refresh_token"]) for _ in range(5)),
    )
    issued = [body["access_token"] for answer in answers if "access_token" in (body := answer.json())]
    for token in [begun["access_token"], *issued]:
        assert await gate.judge(token) is ErrorCode.TOKEN_REVOKED


async def test_a_revocation_holds_until_the_last_token_has_expired_and_for_clocks_that_are_behind(
    grants: GrantLab,
) -> None:
    lab, gate = grants.lab, Gate(grants.lab)
    token = (await lab.with_secret()).json()["access_token"]
    await revoke(lab, token)
    start, expires_at = lab.clock.seconds, claims_of(token)["exp"]
    for moment in (start, expires_at - 1, expires_at - 200):
        lab.clock.seconds = moment
        # Other revocations come, and drop what has expired.
        await take_back(lab, "client", f"other-{moment}")
        assert await gate.judge(token) is ErrorCode.TOKEN_REVOKED
    lab.clock.seconds = expires_at
    assert await gate.judge(token) is ErrorCode.TOKEN_EXPIRED


async def test_a_request_without_exactly_one_token_is_refused(lab: Lab) -> None:
    for form in ({}, {"token": ""}, {"token": ["a", "b"]}):
        response = await lab.http.post("/revoke", data=form, headers=basic("reporter", SECRET))
        assert (response.status_code, response.json()["error"]) == (400, "invalid_request")


async def test_no_token_is_ever_written_on_the_trail(grants: GrantLab) -> None:
    begun = await grants.begin("web")
    await revoke(grants.lab, begun["access_token"], "web")
    await revoke(grants.lab, begun["refresh_token"], "web")
    trail = str(grants.lab.audit.events)
    assert begun["access_token"] not in trail
    assert begun["refresh_token"] not in trail
    assert begun["refresh_token"].partition(".")[2] not in trail
