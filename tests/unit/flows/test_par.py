"""Pushed authorization requests (RFC 9126)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from sqlalchemy import select, update

from authlab import PUSHED_LIFETIME, WEB_CALLBACK, AuthLab, answer, open_auth_lab
from tokenlab import FILES, ISSUER, OTHER_SECRET, SECRET, basic
from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode
from twogate.core.oauth.authorize_request import REQUEST_URI_PREFIX
from twogate.core.oauth.metadata import PAR_PATH
from twogate.stores.sql.tables import authorize_requests, clients


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncGenerator[AuthLab]:
    async with open_auth_lab(tmp_path) as running:
        await running.log_in(running.alice)
        yield running


async def pushed(lab: AuthLab, client_id: str = "web", **changes: str | None) -> str:
    response = await lab.push(client_id, **changes)
    assert response.status_code == 201, response.text
    request_uri: str = response.json()["request_uri"]
    return request_uri


def query(request_uri: str, client_id: str = "web", **more: str) -> str:
    return urlencode({"client_id": client_id, "request_uri": request_uri, **more})


async def test_a_pushed_request_is_answered_with_its_name_and_lifetime(lab: AuthLab) -> None:
    response = await lab.push()
    assert response.status_code == 201
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["content-type"] == "application/json"
    assert response.json().keys() == {"request_uri", "expires_in"}
    assert response.json()["request_uri"].startswith(REQUEST_URI_PREFIX)
    assert response.json()["expires_in"] == PUSHED_LIFETIME
    assert "access-control-allow-origin" not in response.headers


async def test_the_whole_way(lab: AuthLab) -> None:
    request_uri = await pushed(lab, scope="reports", state="from-the-push")
    response = await lab.decide(await lab.consent(await lab.ask(query(request_uri))), "allow")
    back = answer(response)
    assert back["state"] == "from-the-push"
    token = await lab.redeem(back["code"])
    assert token.json()["scope"] == "reports"


async def test_a_public_client_may_push_too(lab: AuthLab) -> None:
    request_uri = await pushed(lab, "spa")
    assert "code" in answer(await lab.decide(await lab.consent(await lab.ask(query(request_uri, "spa"))), "allow"))


async def test_what_the_browser_adds_is_ignored(lab: AuthLab) -> None:
    request_uri = await pushed(lab, scope="reports")
    more = {
        "scope": "reports admin",
        "state": "evil",
        "redirect_uri": "https://evil.example/cb",
        "resource": f"{ISSUER}/mcp/git",
        "response_type": "token",
        "prompt": "none",
    }
    page = await lab.consent(await lab.ask(query(request_uri, **more)))
    assert "admin" not in page.text
    response = await lab.decide(page, "allow")
    assert response.headers["location"].startswith(f"{WEB_CALLBACK}?")
    assert answer(response)["state"] == "xyz"


async def test_it_works_once(lab: AuthLab) -> None:
    request_uri = await pushed(lab)
    results = await asyncio.gather(*(lab.ask(query(request_uri)) for _ in range(10)))
    assert sorted(response.status_code for response in results) == [303] + [400] * 9
    assert lab.lab.audit.last.reason == ErrorCode.REQUEST_URI_INVALID


async def test_it_is_the_clients_own_and_another_client_does_not_even_use_it_up(lab: AuthLab) -> None:
    request_uri = await pushed(lab)
    for client_id in ("two", "spa", "nobody"):
        response = await lab.ask(query(request_uri, client_id))
        assert (response.status_code, response.headers.get("location")) == (400, None)
    assert (await lab.ask(query(request_uri))).status_code == 303


async def test_it_expires(lab: AuthLab) -> None:
    request_uri = await pushed(lab)
    lab.lab.clock.seconds += PUSHED_LIFETIME
    response = await lab.ask(query(request_uri))
    assert (response.status_code, response.headers.get("location")) == (400, None)


async def test_it_is_judged_again_when_it_is_used(lab: AuthLab) -> None:
    request_uri = await pushed(lab)
    async with lab.lab.engine.begin() as connection:
        moved = update(clients).where(clients.c.client_id == "web").values(redirect_uris='["https://app.example/new"]')
        await connection.execute(moved)
    response = await lab.ask(query(request_uri))
    assert (response.status_code, response.headers.get("location")) == (400, None)
    assert lab.lab.audit.last.reason == ErrorCode.REDIRECT_INVALID


async def test_neither_the_handle_nor_the_clients_secret_is_stored(lab: AuthLab) -> None:
    form = lab.parameters(client_secret=SECRET)
    response = await lab.http.post(PAR_PATH, data=form)
    assert response.status_code == 201
    async with lab.lab.engine.connect() as connection:
        (row,) = (await connection.execute(select(authorize_requests))).all()
    assert SECRET not in str(row)
    assert response.json()["request_uri"].removeprefix(REQUEST_URI_PREFIX) not in str(row)


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"response_type": "token"}, "unsupported_response_type", ErrorCode.RESPONSE_TYPE_UNSUPPORTED),
        ({"code_challenge": None}, "invalid_request", ErrorCode.REQUEST_MALFORMED),
        ({"code_challenge_method": "plain"}, "invalid_request", ErrorCode.REQUEST_MALFORMED),
        ({"redirect_uri": "https://evil.example/cb"}, "invalid_request", ErrorCode.REDIRECT_INVALID),
        ({"resource": None}, "invalid_target", ErrorCode.RESOURCE_INVALID),
        ({"resource": f"{ISSUER}/mcp/mail"}, "invalid_target", ErrorCode.RESOURCE_INVALID),
        ({"scope": "everything"}, "invalid_scope", ErrorCode.SCOPE_INVALID),
        ({"request_uri": REQUEST_URI_PREFIX + "h" * 43}, "invalid_request", ErrorCode.REQUEST_MALFORMED),
        ({"request": "e30.e30."}, "invalid_request", ErrorCode.REQUEST_MALFORMED),
        (
            {"authorization_details": '[{"type":"mcp_session","task":"other"}]'},
            "invalid_authorization_details",
            ErrorCode.DETAILS_INVALID,
        ),
    ],
)
async def test_a_bad_request_is_refused_at_once(
    lab: AuthLab, changes: dict[str, str | None], error: str, reason: ErrorCode
) -> None:
    response = await lab.push(**changes)
    assert (response.status_code, response.json()["error"]) == (400, error)
    event = lab.lab.audit.last
    assert (event.kind, event.reason, event.client) == (EventKind.AUTHORIZATION_REFUSED, reason, "web")


async def test_a_client_without_the_grant_is_refused(lab: AuthLab) -> None:
    response = await lab.http.post(PAR_PATH, data=lab.parameters("reporter"), headers=basic("reporter", SECRET))
    # It has no redirect URI either, which is looked at first.
    assert (response.status_code, response.json()["error"]) == (400, "invalid_request")
    response = await lab.http.post(
        PAR_PATH, data=lab.parameters("reporter", redirect_uri=WEB_CALLBACK), headers=basic("reporter", SECRET)
    )
    assert (response.status_code, response.json()["error"]) == (400, "invalid_request")


class TestAuthentication:
    async def test_a_client_with_a_secret_proves_it(self, lab: AuthLab) -> None:
        for headers in ({}, basic("web", OTHER_SECRET)):
            response = await lab.push("web", headers)
            assert (response.status_code, response.json()["error"]) == (401, "invalid_client")
            assert lab.lab.audit.last.kind is EventKind.AUTHORIZATION_REFUSED

    async def test_the_form_names_the_client_that_authenticates(self, lab: AuthLab) -> None:
        response = await lab.push("web", basic("two", SECRET))
        assert (response.status_code, response.json()["error"]) == (400, "invalid_request")

    async def test_parameters_in_the_query_are_refused(self, lab: AuthLab) -> None:
        response = await lab.http.post(
            f"{PAR_PATH}?{urlencode(lab.parameters())}", data=lab.parameters(), headers=basic("web", SECRET)
        )
        assert response.status_code == 400

    async def test_only_posts_are_served(self, lab: AuthLab) -> None:
        for method in ("GET", "PUT", "OPTIONS"):
            assert (await lab.http.request(method, PAR_PATH)).status_code == 405


async def test_the_way_to_a_token_without_the_redirect_uri_in_the_push(lab: AuthLab) -> None:
    request_uri = await pushed(lab, redirect_uri=None)
    response = await lab.decide(await lab.consent(await lab.ask(query(request_uri))), "allow")
    url = urlsplit(response.headers["location"])
    assert f"{url.scheme}://{url.netloc}{url.path}" == WEB_CALLBACK
    (code,) = parse_qs(url.query)["code"]
    token = await lab.redeem(code, redirect_uri=None, resource=FILES)
    assert token.status_code == 200, token.text
