"""Dynamic registration: what strangers, and clients that registered, may try (R-21)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tokenlab import ISSUER, basic
from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode
from twogate.flows.authserver.register import MAX_BODY
from unit.flows.test_register import RegisterLab, bearer, opened

JSON = "application/json"


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[RegisterLab]:
    async with opened(tmp_path, is_open=True) as opened_lab:
        yield opened_lab


async def test_a_client_cannot_read_change_or_remove_another(lab: RegisterLab) -> None:
    one, other = await lab.registered(), await lab.registered()
    stranger = {**one, "registration_access_token": other["registration_access_token"]}
    before = await lab.lab.clients.list()
    for method in ("GET", "PUT", "DELETE"):
        assert (await lab.manage(stranger, method)).status_code == 401
    assert await lab.lab.clients.list() == before


@pytest.mark.parametrize("client_id", ["reporter", "robot", "nobody", "x" * 300, "%2e%2e", "reporter%00"])
async def test_a_client_that_did_not_register_cannot_be_managed(lab: RegisterLab, client_id: str) -> None:
    mine = await lab.registered()
    before = await lab.lab.clients.list()
    for method in ("GET", "PUT", "DELETE"):
        there = {**mine, "registration_client_uri": f"{ISSUER}/register/{client_id}"}
        answer = await lab.manage(there, method)
        assert answer.status_code == 401
        assert answer.json()["error"] == "invalid_token"
    assert await lab.lab.clients.list() == before
    assert all(len(event.client) <= 64 for event in lab.lab.audit.events)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer x"},
        {"Authorization": "Basic {token}"},
        {"Authorization": "{token}"},
        {"Authorization": "Bearer {token} "},
        {"Authorization": "Bearer {token}\x0b"},
        {"Authorization": "Bearer {token}, Bearer {token}"},
        {"Cookie": "registration_access_token={token}"},
    ],
)
async def test_the_token_is_sent_in_one_way_only(lab: RegisterLab, headers: dict[str, str]) -> None:
    mine = await lab.registered()
    sent = {name: value.replace("{token}", mine["registration_access_token"]) for name, value in headers.items()}
    answer = await lab.http.get(mine["registration_client_uri"], headers=sent)
    assert answer.status_code == 401


async def test_the_token_in_the_address_is_refused(lab: RegisterLab) -> None:
    mine = await lab.registered()
    address = f"{mine['registration_client_uri']}?access_token={mine['registration_access_token']}"
    assert (await lab.http.get(address)).status_code == 400
    assert mine["registration_access_token"] not in repr(lab.lab.audit.events)


async def test_two_tokens_are_none(lab: RegisterLab) -> None:
    mine = await lab.registered()
    token = mine["registration_access_token"]
    headers = [("Authorization", f"Bearer {token}"), ("Authorization", f"Bearer {token}")]
    assert (await lab.http.get(mine["registration_client_uri"], headers=headers)).status_code == 401


async def test_a_registration_token_is_no_credential_of_the_client(lab: RegisterLab) -> None:
    mine = await lab.registered(token_endpoint_auth_method="client_secret_basic")
    answer = await lab.lab.post({}, basic(mine["client_id"], mine["registration_access_token"]))
    assert answer.json()["error"] == "invalid_client"
    assert (
        await lab.http.get(mine["registration_client_uri"], headers=bearer(mine["client_secret"]))
    ).status_code == 401


BODY = b'{"redirect_uris":["https://app.example/cb"],"token_endpoint_auth_method":"none"}'


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (BODY, "text/plain", 400),
        (BODY, "application/x-www-form-urlencoded", 400),
        (BODY, "", 400),
        (BODY, "application/json; charset=utf-16", 400),
        (b"", JSON, 400),
        (b"null", JSON, 400),
        (b"[]", JSON, 400),
        (b"\xef\xbb\xbf" + BODY, JSON, 400),
        (BODY[:-1], JSON, 400),
        (BODY + b"{}", JSON, 400),
        (BODY.replace(b"{", b'{"redirect_uris":["https://evil.example/"],', 1), JSON, 400),
        (BODY.replace(b"{", b'{"redirect\\u005furis":["https://evil.example/"],', 1), JSON, 400),
        (BODY[:-1] + b',"x":' + b"[" * 500 + b"]" * 500 + b"}", JSON, 400),
        (BODY[:-1] + b',"x":"\\ud800"}', JSON, 400),
        (BODY[:-1] + b',"x":1e999}', JSON, 400),
        (BODY.ljust(MAX_BODY + 1), JSON, 413),
        (b"[" * (MAX_BODY * 4), JSON, 413),
    ],
)
async def test_what_is_no_small_json_object_registers_nobody(
    lab: RegisterLab, body: bytes, content_type: str, status: int
) -> None:
    before = await lab.lab.clients.list()
    answer = await lab.http.post("/register", content=body, headers={"Content-Type": content_type})
    assert answer.status_code == status
    assert "evil" not in answer.text
    assert await lab.lab.clients.list() == before
    assert lab.lab.audit.last.kind is EventKind.REGISTRATION_REFUSED


@pytest.mark.parametrize(
    "uri",
    [
        "javascript:alert(document.cookie)",
        "data:text/html,<script>",
        "http://app.example/cb",
        "https://app.example/cb#x",
        "https://app.example@evil.example/cb",
        "https://app.example\\@evil.example/cb",
        "http://localhost@evil.example/cb",
        "http://127.0.0.1.evil.example/cb",
        "https://app.example/cb?code=mine",
        "myapp://cb",
    ],
)
async def test_a_redirect_that_leads_elsewhere_is_not_registered(lab: RegisterLab, uri: str) -> None:
    answer = await lab.register(redirect_uris=["https://app.example/cb", uri])
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_redirect_uri")
    mine = await lab.registered()
    changed = await lab.manage(mine, "PUT", redirect_uris=[uri])
    assert (changed.status_code, changed.json()["error"]) == (400, "invalid_redirect_uri")
    assert uri not in repr(lab.lab.audit.events)


async def test_nothing_that_people_would_take_for_checked_is_kept(lab: RegisterLab) -> None:
    mine = await lab.registered(
        client_uri="https://bank.example",
        logo_uri="https://bank.example/logo.png",
        policy_uri="https://bank.example/policy",
        tos_uri="https://bank.example/tos",
        software_statement="eyJhbGciOiJub25lIn0.e30.",
        contacts=["ceo@bank.example"],
    )
    assert "bank.example" not in repr(mine)
    assert "bank.example" not in repr(await lab.lab.clients.list())


async def test_a_flood_of_registrations_fills_neither_the_store_nor_other_peoples_time(tmp_path: Path) -> None:
    async with opened(tmp_path, is_open=True, most=5, burst=1000) as lab:
        statuses = [(await lab.register()).status_code for _ in range(20)]
        assert statuses == [201] * 5 + [429] * 15
        registered = [client for client in await lab.lab.clients.list() if client.source == "registered"]
        assert len(registered) == 5


async def test_secrets_and_tokens_are_nowhere_in_what_is_written(lab: RegisterLab) -> None:
    mine = await lab.registered(token_endpoint_auth_method="client_secret_basic")
    await lab.manage(mine, "PUT", token_endpoint_auth_method="client_secret_basic", client_secret="wrong")
    await lab.manage(mine, "GET")
    written = repr(lab.lab.audit.events) + repr(await lab.lab.clients.list())
    for secret in (mine["client_secret"], mine["registration_access_token"]):
        assert secret not in written


async def test_a_refusal_that_cannot_be_written_down_is_still_a_refusal(lab: RegisterLab) -> None:
    lab.lab.audit.broken = True
    answer = await lab.register(redirect_uris=[])
    assert answer.status_code == 503
    assert "redirect" not in answer.text


async def test_a_change_that_cannot_be_written_down_does_not_happen(lab: RegisterLab) -> None:
    mine = await lab.registered()
    before = await lab.lab.clients.get(mine["client_id"])
    lab.lab.audit.broken = True
    for method in ("PUT", "DELETE"):
        assert (await lab.manage(mine, method, client_name="Other")).status_code == 503
    lab.lab.audit.broken = False
    assert await lab.lab.clients.get(mine["client_id"]) == before


async def test_no_refusal_is_told_apart_by_whether_the_client_exists(lab: RegisterLab) -> None:
    mine = await lab.registered()
    wrong: dict[str, Any] = {**mine, "registration_access_token": "x" * 43}
    unknown = {**wrong, "registration_client_uri": f"{ISSUER}/register/nobody"}
    answers = [await lab.manage(client, "GET") for client in (wrong, unknown)]
    assert answers[0].content == answers[1].content
    assert dict(answers[0].headers) == dict(answers[1].headers)
    assert lab.lab.audit.last.reason == ErrorCode.REGISTRATION_REFUSED.value
