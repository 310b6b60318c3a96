"""Dynamic registration (RFC 7591) and its management (RFC 7592), over HTTP on the real store."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlencode

import httpx2
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.applications import Starlette

from tokenlab import ISSUER, Lab, basic, open_lab, public_jwks
from twogate.adapters.rng import SystemRng
from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.grant_type import GrantType
from twogate.core.principal import AgentId
from twogate.flows.authserver.client_removal import ClientRemoval
from twogate.flows.authserver.clients import ClientAuth, ClientKind, ClientSource
from twogate.flows.authserver.form import ClientCall, FormRequest, JsonAnswer
from twogate.flows.authserver.register import NEW_LIFETIME, Registration, Terms
from twogate.flows.authserver.registered import KeepUsed, new_registration_token
from twogate.flows.authserver.revocations import Revocations
from twogate.flows.authserver.token import TokenEndpoint
from twogate.flows.gateway.limit import AddressLimit
from twogate.stores.sql.grants import SqlGrantStore
from twogate.stores.sql.registrations import PURGE_AFTER, SqlRegistrationStore
from twogate.stores.sql.revocations import SqlRevocationStore
from twogate.web.register import register_routes

DAY = 86400
CALLBACK = ["http://127.0.0.1:4711/cb"]
METADATA: dict[str, Any] = {
    "client_name": "Example",
    "redirect_uris": CALLBACK,
    "grant_types": ["authorization_code", "refresh_token"],
    "response_types": ["code"],
    "token_endpoint_auth_method": "none",
    "application_type": "native",
}


class RegisterLab:
    """The endpoints over a whole authorization server's store."""

    def __init__(self, lab: Lab, http: httpx2.AsyncClient, store: SqlRegistrationStore) -> None:
        self.lab, self.http, self.store = lab, http, store

    async def register(self, token: str | None = None, **changes: object) -> httpx2.Response:
        members = {name: value for name, value in (METADATA | changes).items() if value is not None}
        return await self.http.post("/register", json=members, headers=bearer(token))

    async def registered(self, token: str | None = None, **changes: object) -> dict[str, Any]:
        answer = await self.register(token, **changes)
        assert answer.status_code == 201, answer.text
        body: dict[str, Any] = answer.json()
        return body

    async def allow(self, tenant: str = "acme", lifetime: int = 3600) -> str:
        token, digest = new_registration_token(SystemRng())
        now = self.lab.clock.now()
        await self.store.allow(digest, tenant, now + lifetime, now)
        return token

    async def manage(self, client: dict[str, Any], method: str, **changes: object) -> httpx2.Response:
        body = None if method != "PUT" else {**METADATA, "client_id": client["client_id"], **changes}
        return await self.http.request(
            method,
            client["registration_client_uri"],
            json=body,
            headers=bearer(client["registration_access_token"]),
        )


def bearer(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


@asynccontextmanager
async def opened(directory: Path, *, is_open: bool, most: int = 1000, burst: int = 1000) -> AsyncGenerator[RegisterLab]:
    async with open_lab(directory) as lab:
        store = SqlRegistrationStore(lab.engine)
        revocations = Revocations(SqlRevocationStore(lab.engine))
        registration = Registration(
            ISSUER,
            Terms("acme", is_open, most),
            store,
            ClientRemoval(ISSUER, lab.clients, SqlGrantStore(lab.engine), revocations),
            AddressLimit(rate=1 / 3600, burst=burst),
            lab.audit,
            lab.audit,
            lab.clock,
            SystemRng(),
        )
        app = Starlette(routes=register_routes(registration, ISSUER))
        transport = httpx2.ASGITransport(app=app, client=("203.0.113.9", 40000))
        async with httpx2.AsyncClient(transport=transport, base_url=ISSUER) as http:
            yield RegisterLab(lab, http, store)


@pytest.fixture
async def by_token(tmp_path: Path) -> AsyncIterator[RegisterLab]:
    async with opened(tmp_path, is_open=False) as lab:
        yield lab


@pytest.fixture
async def anybody(tmp_path: Path) -> AsyncIterator[RegisterLab]:
    async with opened(tmp_path, is_open=True) as lab:
        yield lab


async def test_the_answer_says_what_was_registered(anybody: RegisterLab) -> None:
    body = await anybody.registered(client_uri="https://evil.example", logo_uri="https://evil.example/l", scope="x")
    token = body.pop("registration_access_token")
    client_id = body.pop("client_id")
    assert len(token) == 43
    assert body == {
        "client_id_issued_at": anybody.lab.clock.now(),
        "client_name": "Example",
        "redirect_uris": CALLBACK,
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
        "application_type": "native",
        "registration_client_uri": f"{ISSUER}/register/{client_id}",
    }


async def test_whatever_is_asked_for_it_becomes_a_public_client(anybody: RegisterLab) -> None:
    body = await anybody.registered(
        grant_types=["authorization_code", "client_credentials", GrantType.TOKEN_EXCHANGE.value],
        kind="agent",
        agent="acme/reporter",
        tenant="globex",
        client_id="reporter",
    )
    client = await anybody.lab.clients.get(body["client_id"])
    assert client is not None
    assert body["client_id"] != "reporter"
    assert (client.kind, client.tenant, client.agent) == (
        ClientKind.PUBLIC,
        "acme",
        AgentId("acme", "public-client"),
    )
    assert client.grants == {GrantType.AUTHORIZATION_CODE}
    assert body["grant_types"] == ["authorization_code"]
    assert client.source is ClientSource.REGISTERED
    assert client.expires_at == anybody.lab.clock.now() + NEW_LIFETIME


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post", None])
async def test_a_secret_is_told_once_and_authenticates(anybody: RegisterLab, method: str | None) -> None:
    body = await anybody.registered(token_endpoint_auth_method=method)
    assert body["token_endpoint_auth_method"] == (method or "client_secret_basic")
    assert body["client_secret_expires_at"] == 0
    # It authenticates, and may then not use this grant.
    answer = await anybody.lab.post({}, basic(body["client_id"], body["client_secret"]))
    assert answer.json()["error"] == "unauthorized_client"
    answer = await anybody.lab.post({}, basic(body["client_id"], body["client_secret"][::-1]))
    assert answer.json()["error"] == "invalid_client"
    assert "client_secret" not in (await anybody.manage(body, "GET")).json()


async def test_public_keys_register(anybody: RegisterLab) -> None:
    keys = json.loads(public_jwks(ec.generate_private_key(ec.SECP256R1())))
    body = await anybody.registered(token_endpoint_auth_method="private_key_jwt", jwks=keys)
    assert body["jwks"] == keys
    client = await anybody.lab.clients.get(body["client_id"])
    assert client is not None
    assert client.auth is ClientAuth.PRIVATE_KEY_JWT


@pytest.mark.parametrize(
    ("changes", "error", "hint"),
    [
        ({"redirect_uris": ["javascript:alert(1)"]}, "invalid_redirect_uri", "redirect_uris[0]"),
        ({"redirect_uris": []}, "invalid_redirect_uri", "at least one"),
        ({"redirect_uris": ["http://app.example/cb"]}, "invalid_redirect_uri", "http is only for"),
        ({"grant_types": ["client_credentials"]}, "invalid_client_metadata", "grant_types"),
        ({"token_endpoint_auth_method": "x"}, "invalid_client_metadata", "token_endpoint_auth_method"),
        ({"token_endpoint_auth_method": "private_key_jwt"}, "invalid_client_metadata", "jwks"),
        (
            {"token_endpoint_auth_method": "private_key_jwt", "jwks_uri": "https://10.0.0.1/jwks"},
            "invalid_client_metadata",
            "jwks_uri is not read",
        ),
    ],
)
async def test_an_error_says_what_to_change(
    anybody: RegisterLab, changes: dict[str, Any], error: str, hint: str
) -> None:
    answer = await anybody.register(**changes)
    assert answer.status_code == 400
    assert answer.json()["error"] == error
    assert hint in answer.json()["error_description"]
    assert anybody.lab.audit.last.kind is EventKind.REGISTRATION_REFUSED


async def test_a_token_registers_one_client(by_token: RegisterLab) -> None:
    token = await by_token.allow()
    await by_token.registered(token)
    again = await by_token.register(token)
    assert again.status_code == 401
    assert again.json()["error"] == "invalid_token"
    assert again.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert len([client for client in await by_token.lab.clients.list() if client.source == "registered"]) == 1


async def test_a_token_that_was_not_good_for_anything_is_not_used_up(by_token: RegisterLab) -> None:
    token = await by_token.allow()
    assert (await by_token.register(token, redirect_uris=[])).status_code == 400
    await by_token.registered(token)


@pytest.mark.parametrize("what", ["none", "expired", "another tenant's", "made up", "for something else"])
async def test_without_a_good_token_nobody_registers(by_token: RegisterLab, what: str) -> None:
    token: str | None = None
    if what == "expired":
        token = await by_token.allow(lifetime=60)
        by_token.lab.clock.seconds += 60
    elif what == "another tenant's":
        token = await by_token.allow("globex")
    elif what == "made up":
        token = "x" * 43
    elif what == "for something else":
        body = await by_token.registered(await by_token.allow())
        token = body["registration_access_token"]
    before = await by_token.lab.clients.list()
    answer = await by_token.register(token)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert await by_token.lab.clients.list() == before


async def test_registrations_are_on_the_audit_trail_before_they_count(by_token: RegisterLab) -> None:
    token = await by_token.allow()
    by_token.lab.audit.broken = True
    assert (await by_token.register(token)).status_code == 503
    by_token.lab.audit.broken = False
    body = await by_token.registered(token)
    (event,) = [event for event in by_token.lab.audit.events if event.kind is EventKind.CLIENT_ADDED]
    assert (event.client, event.tenant, event.address) == (body["client_id"], "acme", "203.0.113.9")
    written = repr(by_token.lab.audit.events)
    assert token not in written
    assert body["registration_access_token"] not in written


async def test_an_address_registers_only_so_often(tmp_path: Path) -> None:
    async with opened(tmp_path, is_open=True, burst=3) as lab:
        statuses = [(await lab.register()).status_code for _ in range(5)]
        assert statuses == [201, 201, 201, 429, 429]
        lab.lab.clock.seconds += 3600
        assert (await lab.register()).status_code == 201


async def test_there_are_only_so_many_clients_until_some_expire(tmp_path: Path) -> None:
    async with opened(tmp_path, is_open=True, most=2) as lab:
        assert [(await lab.register()).status_code for _ in range(3)] == [201, 201, 429]
        lab.lab.clock.seconds += NEW_LIFETIME
        assert (await lab.register()).status_code == 201


async def test_expired_clients_are_deleted_when_others_register(anybody: RegisterLab) -> None:
    old = await anybody.registered()
    anybody.lab.clock.seconds += NEW_LIFETIME
    assert await anybody.lab.directory.find(old["client_id"], anybody.lab.clock.now()) is None
    assert await anybody.lab.clients.get(old["client_id"]) is not None
    anybody.lab.clock.seconds += PURGE_AFTER
    await anybody.registered()
    assert await anybody.lab.clients.get(old["client_id"]) is None
    # Nobody else's client is touched.
    assert await anybody.lab.clients.get("reporter") is not None


async def test_a_client_that_gets_a_token_lives_on(anybody: RegisterLab) -> None:
    body = await anybody.registered(token_endpoint_auth_method="client_secret_basic")
    client_id, now = body["client_id"], anybody.lab.clock.now()
    keep = KeepUsed(anybody.store, 30 * DAY)

    class Answering:
        type: ClassVar[GrantType] = GrantType.AUTHORIZATION_CODE
        anonymous: ClassVar[bool] = False

        async def issue(self, call: ClientCall) -> JsonAnswer:
            if "code" not in call.form:
                raise GateError(ErrorCode.GRANT_INVALID, "no code")
            return JsonAnswer({"access_token": "x"})

    endpoint = TokenEndpoint(anybody.lab.forms, [Answering()], keep)
    form = {"grant_type": "authorization_code", "code": "c"}

    async def ask(form: dict[str, str]) -> None:
        header = basic(client_id, body["client_secret"])["Authorization"]
        await endpoint.respond(
            FormRequest(("application/x-www-form-urlencoded",), (header,), "", urlencode(form).encode(), "203.0.113.9")
        )

    async def expiry() -> int | None:
        client = await anybody.lab.clients.get(client_id)
        return None if client is None else client.expires_at

    await ask({"grant_type": "authorization_code"})
    assert await expiry() == now + NEW_LIFETIME
    await ask(form)
    assert await expiry() == now + 30 * DAY
    anybody.lab.clock.seconds += 20 * DAY
    await ask(form)
    assert await expiry() == now + 50 * DAY


async def test_a_client_that_has_expired_is_not_brought_back(anybody: RegisterLab) -> None:
    body = await anybody.registered()
    client = await anybody.lab.clients.get(body["client_id"])
    assert client is not None
    anybody.lab.clock.seconds += NEW_LIFETIME
    await KeepUsed(anybody.store, 30 * DAY)(client, anybody.lab.clock.now())
    assert await anybody.lab.directory.find(body["client_id"], anybody.lab.clock.now()) is None
    assert (await anybody.manage(body, "GET")).status_code == 401


async def test_a_client_reads_changes_and_removes_itself(anybody: RegisterLab) -> None:
    body = await anybody.registered()
    assert (await anybody.manage(body, "GET")).json() == body
    changed = await anybody.manage(body, "PUT", client_name="Other", redirect_uris=["https://app.example/cb"])
    assert changed.status_code == 200
    assert changed.json() == {**body, "client_name": "Other", "redirect_uris": ["https://app.example/cb"]}
    client = await anybody.lab.clients.get(body["client_id"])
    assert client is not None
    assert client.redirect_uris == ("https://app.example/cb",)
    gone = await anybody.manage(body, "DELETE")
    assert (gone.status_code, gone.content) == (204, b"")
    assert await anybody.lab.clients.get(body["client_id"]) is None
    assert (await anybody.manage(body, "GET")).status_code == 401
    kinds = [event.kind for event in anybody.lab.audit.events if event.client == body["client_id"]]
    assert kinds[:3] == [EventKind.CLIENT_ADDED, EventKind.CLIENT_CHANGED, EventKind.CLIENT_REMOVED]


async def test_a_removed_clients_tokens_are_refused(anybody: RegisterLab) -> None:
    body = await anybody.registered()
    await anybody.manage(body, "DELETE")
    view = await anybody.lab.agents.view()
    assert ("client", body["client_id"]) in view.revoked


async def test_a_change_may_bring_a_secret_and_take_it_away(anybody: RegisterLab) -> None:
    body = await anybody.registered()
    with_secret = (await anybody.manage(body, "PUT", token_endpoint_auth_method="client_secret_post")).json()
    assert len(with_secret["client_secret"]) == 43
    kept = (await anybody.manage(body, "PUT", token_endpoint_auth_method="client_secret_basic")).json()
    assert "client_secret" not in kept
    answer = await anybody.lab.post({}, basic(body["client_id"], with_secret["client_secret"]))
    assert answer.json()["error"] == "unauthorized_client"
    sent = await anybody.manage(
        body, "PUT", token_endpoint_auth_method="client_secret_post", client_secret=with_secret["client_secret"]
    )
    assert sent.status_code == 200
    assert (await anybody.manage(body, "PUT", client_secret="guess")).status_code == 400
    await anybody.manage(body, "PUT")
    client = await anybody.lab.clients.get(body["client_id"])
    assert client is not None
    assert (client.auth, client.secret_digests) == (ClientAuth.NONE, ())


async def test_a_change_cannot_prolong_a_client(anybody: RegisterLab) -> None:
    body = await anybody.registered()
    before = await anybody.lab.clients.get(body["client_id"])
    anybody.lab.clock.seconds += 3600
    await anybody.manage(body, "PUT")
    after = await anybody.lab.clients.get(body["client_id"])
    assert before is not None
    assert after is not None
    assert msgspec.structs.replace(after, last_used_at=None) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"client_id": "reporter"},
        {"client_id": None},
        {"registration_access_token": "x"},
        {"registration_client_uri": "x"},
        {"client_secret_expires_at": 0},
        {"client_id_issued_at": 1},
        {"redirect_uris": []},
        {"grant_types": ["client_credentials"]},
    ],
)
async def test_a_change_is_held_to_the_same_rules(anybody: RegisterLab, changes: dict[str, object]) -> None:
    body = await anybody.registered()
    before = await anybody.lab.clients.get(body["client_id"])
    assert (await anybody.manage(body, "PUT", **changes)).status_code == 400
    assert await anybody.lab.clients.get(body["client_id"]) == before


async def test_browsers_may_register_clients_without_cookies(anybody: RegisterLab) -> None:
    for path, methods in (("/register", "POST"), ("/register/x", "GET, PUT, DELETE")):
        preflight = await anybody.http.options(path, headers={"Origin": "https://spa.example"})
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-origin"] == "*"
        assert preflight.headers["access-control-allow-methods"] == methods
        assert "access-control-allow-credentials" not in preflight.headers
    answer = await anybody.register()
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(("method", "path"), [("GET", "/register"), ("POST", "/register/x"), ("PATCH", "/register/x")])
async def test_other_methods_are_refused(anybody: RegisterLab, method: str, path: str) -> None:
    answer = await anybody.http.request(method, path)
    assert answer.status_code == 405
    assert "OPTIONS" in answer.headers["allow"]
