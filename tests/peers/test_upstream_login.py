"""People of a real OpenID provider (npm: oidc-provider) log in, and it is asked about them at each refresh."""

from __future__ import annotations

import html
import re
import ssl
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import httpx2
import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc.jwk import RSAKey

import processlab
from harness.stack import Stack, free_port, running, settings_for
from peers.oidcprovider import OidcProvider
from peers.person import Forms
from twogate.adapters.clock import SystemClock
from twogate.flows.authserver.upstream_grants import FRESH
from upstreamlab import s256

pytestmark = pytest.mark.peer

CALLBACK = "https://app.example/callback"
SECRET = "f3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
VERIFIER = "v" * 43
ALICE = {"preferred_username": "alice", "name": "Alice Liddell", "groups": ["staff", "analysts", "choir"]}


class ShiftedClock(SystemClock):
    """The real time, put forward by the test."""

    ahead = 0

    def now(self) -> int:
        return super().now() + self.ahead

    def now_us(self) -> int:
        return super().now_us() + self.ahead * 1_000_000


@dataclass
class World:
    """A provider, a gateway whose people it knows, and a browser."""

    provider: OidcProvider
    stack: Stack
    clock: ShiftedClock
    browser: httpx2.AsyncClient
    visited: list[str] = field(default_factory=list)

    async def returning(self) -> str:
        """Where the provider sends the browser back to; it has not gone there."""
        stopped = await self.go(self.authorization_url(), "sso", until=f"{self.stack.url}/login/callback/")
        return urljoin(str(stopped.request.url), stopped.headers["location"])

    async def go(self, url: str, label: str, until: str = CALLBACK) -> httpx2.Response:
        """Follow redirects, pages that move on, and buttons, until the browser is sent to the application."""
        response = await self.browser.get(url)
        for _ in range(20):
            here = str(response.request.url)
            self.visited.append(here.partition("?")[0])
            if response.is_redirect:
                target = urljoin(here, response.headers["location"])
                if target.startswith(until):
                    return response
                response = await self.browser.get(target)
            elif moved := re.search(r'http-equiv="refresh" content="0; url=([^"]+)"', response.text):
                response = await self.browser.get(html.unescape(moved[1]))
            elif response.status_code != 200:
                return response
            else:
                response = await self._press(response, label)
        raise AssertionError(self.visited)

    async def _press(self, page: httpx2.Response, label: str) -> httpx2.Response:
        here = str(page.request.url)
        for form in Forms(page.text).forms:
            if form.action == f"/login/upstream/{label}":
                return await self.browser.post(urljoin(here, form.action), data=form.fields)
            if ("decision", "allow") in form.buttons:
                fields = {**form.fields, "decision": "allow"}
                return await self.browser.post(urljoin(here, form.action), data=fields)
        raise AssertionError(page.text)

    def authorization_url(self) -> str:
        """Where an application sends a browser for access to the server `files`."""
        query = {
            "client_id": "desk",
            "response_type": "code",
            "redirect_uri": CALLBACK,
            "resource": self.stack.resource(),
            "code_challenge": s256(VERIFIER),
            "code_challenge_method": "S256",
            "state": "app",
        }
        return f"{self.stack.url}/authorize?{urlencode(query)}"

    async def authorize(self, name: str = "sso") -> httpx2.Response:
        """Go the whole way, to where the application gets its answer or a page says why not."""
        return await self.go(self.authorization_url(), name)

    async def tokens(self, name: str = "sso") -> dict[str, Any]:
        """The application's tokens, after a login."""
        answer = await self.authorize(name)
        assert answer.is_redirect, self.stack.events()[-1].get("detail")
        (code,) = parse_qs(urlsplit(answer.headers["location"]).query)["code"]
        return await self.redeem(code)

    async def redeem(self, code: str) -> dict[str, Any]:
        """The application's tokens for a code."""
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK, "code_verifier": VERIFIER}
        return self._body(await self._token(form))

    async def refresh(self, tokens: dict[str, Any]) -> httpx2.Response:
        form = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
        return await self._token({**form, "resource": self.stack.resource()})

    async def _token(self, form: dict[str, str]) -> httpx2.Response:
        return await self.stack.http.post(f"{self.stack.url}/token", data={**form, "client_id": "desk"})

    @staticmethod
    def _body(answer: httpx2.Response) -> dict[str, Any]:
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body


def claims_of(tokens: dict[str, Any]) -> dict[str, Any]:
    part = tokens["access_token"].split(".")[1]
    claims: dict[str, Any] = msgspec.json.decode(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return claims


@pytest.fixture
def key(tmp_path: Path) -> rsa.RSAPrivateKey:
    """Twogate's private key at the provider, in a file."""
    made = rsa.generate_private_key(65537, 2048)
    path = tmp_path / "login.pem"
    path.write_bytes(
        made.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    path.chmod(0o600)
    return made


@pytest.fixture
def provider(tmp_path: Path, key: rsa.RSAPrivateKey) -> Iterator[OidcProvider]:
    directory, port = tmp_path / "provider", free_port()
    processlab.init(directory, {}, port=port)
    made = OidcProvider(directory, free_port(), [f"http://localhost:{port}/mcp/files"], {}, {})
    made.people = {"alice": ALICE}
    for algorithm in ("ES256", "RS256"):
        made.add_key(f"{algorithm.lower()}-1", algorithm)
    common = {"grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"]}
    jwk = {**RSAKey.import_key(key.public_key()).as_dict(private=False), "use": "sig"}
    made.logins = [
        {
            **common, "client_id": "twogate", "client_secret": SECRET, "id_token_signed_response_alg": "ES256",
            "token_endpoint_auth_method": "client_secret_basic",
            "redirect_uris": [f"http://localhost:{port}/login/callback/sso"],
        },
        {
            **common, "client_id": "twogate-by-key", "id_token_signed_response_alg": "RS256",
            "token_endpoint_auth_method": "private_key_jwt", "jwks": {"keys": [jwk]},
            "token_endpoint_auth_signing_alg": "RS256",
            "redirect_uris": [f"http://localhost:{port}/login/callback/key"],
        },
    ]  # fmt: skip
    try:
        yield made
    finally:
        made.stop()


def configuration(directory: Path, provider: OidcProvider) -> dict[str, Any]:
    port = int(provider.resources[0].split("/")[2].rpartition(":")[2])
    secret = directory / "sso.secret"
    secret.write_text(f"{SECRET}\n")
    secret.chmod(0o600)
    settings = settings_for(directory, port, {"files": {"url": "http://127.0.0.1:9/mcp"}}, None)
    common = {
        "issuer": provider.issuer, "ca": str(provider.ca), "allow": {"groups": ["staff"]},
        "scopes": ["openid", "profile", "groups", "offline_access"], "claims": {"groups": "/groups"},
        # oidc-provider gives a refresh token only to who was asked.
        "parameters": {"prompt": "consent"},
    }  # fmt: skip
    settings["tenants"]["globex"] = {"servers": ["files"]}
    settings["logins"] = [
        {
            **common, "name": "sso", "label": "Acme account", "client_id": "twogate", "tenants": ["acme"],
            "client_secret_file": str(secret), "algorithms": ["ES256"],
        },
        {
            **common, "name": "key", "label": "Globex account", "client_id": "twogate-by-key", "tenants": ["globex"],
            "private_key_file": str(directory / "login.pem"), "algorithms": ["RS256"],
        },
    ]  # fmt: skip
    settings["groups"] = {"analysts": {"role": "analyst"}}
    agent = {"role": "executor", "tasks": ["report"], "default_task": "report"}
    settings["agents"] = {"acme/public-client": agent, "globex/public-client": agent}
    settings["clients"] = {
        "desk": {
            "tenant": "acme", "kind": "public", "auth": "none", "name": "Acme Desk", "redirect_uris": [CALLBACK],
        }
    }  # fmt: skip
    return settings


@asynccontextmanager
async def opened(directory: Path, provider: OidcProvider, settings: dict[str, Any]) -> AsyncIterator[World]:
    clock = ShiftedClock()
    trust = ssl.create_default_context(cafile=str(provider.ca))
    async with (
        running(directory, settings, clock) as stack,
        httpx2.AsyncClient(verify=trust, trust_env=False, timeout=processlab.PATIENCE) as browser,
    ):
        yield World(provider, stack, clock, browser)


@pytest.fixture
async def world(tmp_path: Path, provider: OidcProvider) -> AsyncIterator[World]:
    provider.start()
    async with opened(tmp_path, provider, configuration(tmp_path, provider)) as made:
        yield made


async def test_a_person_of_the_provider_lets_an_application_act(world: World) -> None:
    tokens = await world.tokens()
    claims = claims_of(tokens)
    assert claims["groups"] == ["analysts", "staff"]
    assert claims["tenant"] == "acme"
    assert claims["user"] not in ("alice", "")
    for place in ("/login", "/login/upstream/sso", "/login/callback/sso", "/authorize/consent"):
        assert f"{world.stack.url}{place}" in world.visited
    assert f"{world.provider.issuer}/auth" in world.visited
    (event,) = [event for event in world.stack.events() if event["kind"] == "login.succeeded"]
    assert (event["user"], event["method"]) == (claims["user"], "upstream")
    # Logged in still: the second application needs no provider.
    world.visited.clear()
    again = claims_of(await world.tokens())
    assert again["user"] == claims["user"]
    assert not any(place.startswith(world.provider.issuer) for place in world.visited)


async def test_each_refresh_asks_the_provider_which_rotates_its_tokens(world: World) -> None:
    tokens = await world.tokens()
    for groups in (["staff", "analysts"], ["staff"], ["analysts", "staff"]):
        world.provider.change("alice", {**ALICE, "groups": groups})
        world.clock.ahead += FRESH + 1
        answer = await world.refresh(tokens)
        assert answer.status_code == 200, answer.text
        tokens = answer.json()
        assert claims_of(tokens).get("groups") == sorted(groups)


async def test_who_is_removed_at_the_provider_loses_access_at_the_next_refresh(world: World) -> None:
    tokens = await world.tokens()
    world.provider.change("alice", None)
    world.clock.ahead += FRESH + 1
    answer = await world.refresh(tokens)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    revoked = [event for event in world.stack.events() if event["kind"] == "grant.revoked"]
    assert any("invalid_grant" in event.get("detail", "") for event in revoked)
    # The browser is logged in no more either, and the provider lets nobody of that name in.
    world.visited.clear()
    again = await world.authorize()
    assert f"{world.stack.url}/login" in world.visited
    assert not again.is_redirect


async def test_who_is_removed_gets_no_new_access_by_a_browser_that_is_logged_in_still(world: World) -> None:
    await world.tokens()
    world.provider.change("alice", None)
    world.clock.ahead += FRESH + 1
    world.visited.clear()
    answer = await world.authorize()
    assert not answer.is_redirect
    assert f"{world.stack.url}/login" in world.visited


async def test_who_leaves_the_group_is_out_at_the_next_refresh(world: World) -> None:
    tokens = await world.tokens()
    world.provider.change("alice", {**ALICE, "groups": ["choir"]})
    world.clock.ahead += FRESH + 1
    answer = await world.refresh(tokens)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    refused = await world.authorize()
    assert refused.status_code == 403
    assert "did not let this person in" in refused.text


async def test_while_the_provider_is_down_a_refresh_waits_and_loses_nothing(world: World) -> None:
    """The provider keeps what it gave out in its memory, so it is cut off rather than stopped."""
    tokens = await world.tokens()
    world.clock.ahead += FRESH + 1
    upstream = world.stack.adopt
    broken = configuration(world.stack.directory, world.provider)
    broken["logins"][0]["ca"] = None
    del broken["logins"][0]["ca"]
    upstream(broken)
    answer = await world.refresh(tokens)
    assert (answer.status_code, answer.json()["error"]) == (503, "temporarily_unavailable")
    upstream(configuration(world.stack.directory, world.provider))
    assert (await world.refresh(tokens)).status_code == 200


async def test_a_provider_that_wants_a_key_gets_assertions(tmp_path: Path, provider: OidcProvider) -> None:
    provider.start()
    settings = configuration(tmp_path, provider)
    settings["clients"]["desk"]["tenant"] = "globex"
    async with opened(tmp_path, provider, settings) as world:
        tokens = await world.tokens("key")
        assert claims_of(tokens)["tenant"] == "globex"
        world.clock.ahead += FRESH + 1
        assert (await world.refresh(tokens)).status_code == 200
