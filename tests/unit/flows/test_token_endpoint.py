"""The token endpoint as a flow: what it records, in what order, and that it fails closed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import jwt
import msgspec
import pytest

from tokenlab import FILES, ISSUER, SECRET, Lab, basic, open_lab
from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.authserver.access_tokens import TokenSettings
from twogate.flows.authserver.clients import Client
from twogate.flows.authserver.form import FormRefused, FormRequest, JsonAnswer

FORM = f"grant_type=client_credentials&resource={FILES}&scope=reports".encode()


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncGenerator[Lab]:
    async with open_lab(tmp_path) as running:
        yield running


def request(secret: str = SECRET, body: bytes = FORM) -> FormRequest:
    headers = tuple(basic("reporter", secret).values())
    return FormRequest(("application/x-www-form-urlencoded",), headers, "", body, "203.0.113.7")


async def test_an_issued_token_is_recorded_with_who_and_what(lab: Lab) -> None:
    answer = await lab.endpoint.respond(request())
    assert isinstance(answer, JsonAnswer)
    [event] = lab.audit.events
    assert event.kind is EventKind.TOKEN_ISSUED
    assert (event.tenant, event.agent, event.issuer, event.address) == ("acme", "reporter", ISSUER, "203.0.113.7")
    assert (event.method, event.reason, event.at) == ("client_secret_basic", "", lab.clock.now_us())
    jti = jwt.decode(str(answer.body["access_token"]), options={"verify_signature": False})["jti"]
    assert event.detail == f"jti {jti} for {FILES} scope reports"


async def test_a_refusal_names_the_agent_if_the_client_is_known_and_else_what_was_claimed(lab: Lab) -> None:
    await lab.endpoint.respond(request("wrong"))
    assert (lab.audit.last.kind, lab.audit.last.tenant, lab.audit.last.agent) == (
        EventKind.TOKEN_REFUSED,
        "acme",
        "reporter",
    )
    claimed = tuple(basic("nobody", "wrong").values())
    answer = await lab.endpoint.respond(msgspec.structs.replace(request(), authorization=claimed))
    assert answer == FormRefused(ErrorCode.CLIENT_INVALID, with_header=True)
    assert (lab.audit.last.tenant, lab.audit.last.agent, lab.audit.last.client) == ("", "", "nobody")


async def test_a_token_that_cannot_be_recorded_is_not_issued(lab: Lab) -> None:
    lab.audit.broken = True
    assert await lab.endpoint.respond(request()) == FormRefused(ErrorCode.AUDIT_UNAVAILABLE, with_header=True)


async def test_a_refusal_that_cannot_be_recorded_says_only_that_it_is_unavailable(lab: Lab) -> None:
    lab.audit.broken = True
    assert await lab.endpoint.respond(request("wrong")) == FormRefused(ErrorCode.AUDIT_UNAVAILABLE, with_header=True)
    response = await lab.with_secret()
    assert (response.status_code, response.json()["error"]) == (503, "temporarily_unavailable")


async def test_a_store_that_fails_is_recorded_and_nothing_is_issued(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_client_id: str) -> Client | None:
        raise GateError(ErrorCode.STORE_UNAVAILABLE, "told to")

    monkeypatch.setattr(lab.clients, "get", fail)
    assert await lab.endpoint.respond(request()) == FormRefused(ErrorCode.STORE_UNAVAILABLE, with_header=True)
    assert (lab.audit.last.kind, lab.audit.last.reason) == (EventKind.TOKEN_REFUSED, ErrorCode.STORE_UNAVAILABLE)


async def test_new_settings_hold_for_the_next_request(lab: Lab) -> None:
    lab.tokens.settings = TokenSettings(ISSUER, lab.tokens.settings.resources, frozenset({"reports"}), lifetime=60)
    answer = await lab.endpoint.respond(request())
    assert isinstance(answer, JsonAnswer)
    assert answer.body["expires_in"] == 60
    claims = jwt.decode(str(answer.body["access_token"]), options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 60


@pytest.mark.parametrize("lifetime", [0, -1, 3601])
def test_an_access_token_is_short_lived_whatever_the_configuration_says(lifetime: int) -> None:
    with pytest.raises(ValueError, match="between 1 and 3600"):
        TokenSettings(ISSUER, {}, frozenset(), lifetime)


async def test_nothing_that_may_be_logged_shows_a_credential(lab: Lab) -> None:
    answer = await lab.endpoint.respond(request())
    assert isinstance(answer, JsonAnswer)
    assert str(answer.body["access_token"]) not in repr(answer)
    assert SECRET not in repr(request(body=f"client_secret={SECRET}".encode()))
