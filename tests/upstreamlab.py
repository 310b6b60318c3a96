"""Logins through an OpenID provider in one process: the provider is under the test's control, over real HTTP.

The browser is an HTTP client with a cookie jar. The provider's own pages are played by the test: it reads where the
browser is sent, and says what the provider answers with.
"""

from __future__ import annotations

import asyncio
import hashlib
import html
import json
import re
from base64 import b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote_plus, urlsplit

import httpx2
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from harness.database import open_migrated
from harness.issuer import PrivateKey, new_key, sign
from tokenlab import ISSUER, RecordingAudit, StepClock
from twogate.adapters.envelope import LocalEnvelope
from twogate.adapters.fetch import GuardedFetch
from twogate.adapters.rng import SystemRng
from twogate.core.jose.keys import Algorithm
from twogate.core.oauth.id_token import IdTokenRules
from twogate.flows.authserver.logins import Login, Logins, is_local_target
from twogate.flows.authserver.person_trail import PersonTrail
from twogate.flows.authserver.upstream_client_auth import SecretCredential
from twogate.flows.authserver.upstream_grants import UpstreamGrants
from twogate.flows.authserver.upstream_login import LoginSettings, UpstreamLogins
from twogate.flows.authserver.upstream_pending import PendingLogins
from twogate.flows.authserver.upstream_provider import CALLBACK_PATH, ProviderRules, UpstreamProvider
from twogate.flows.authserver.users import Users
from twogate.flows.gateway.issuers import RemoteKeys
from twogate.stores.sql.logins import SqlLoginStore
from twogate.stores.sql.upstream_grants import SqlUpstreamGrantStore
from twogate.stores.sql.upstream_logins import SqlUpstreamLoginStore
from twogate.stores.sql.users import SqlUserStore
from twogate.web.pages import Pages
from twogate.web.upstream_login import upstream_login_routes

CLIENT, SECRET = "twogate", "a secret: with+odd &characters%"
TO = "/authorize/consent?request=" + "r" * 43
LIFETIMES = LoginSettings(ISSUER, login=43_200, grant=7_776_000, grant_without_refresh=3600)
INTERACTION = 600


def s256(verifier: str) -> str:
    return urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


@dataclass
class Code:
    """A code that the provider gave out, and what it must be redeemed with."""

    nonce: str
    challenge: str
    redirect_uri: str
    claims: dict[str, Any]


@dataclass
class TestProvider:
    """An OpenID provider; what it says can be changed at any time."""

    __test__ = False

    clock: StepClock
    name: str = "acme-idp"
    url: str = ""
    key: PrivateKey = field(default_factory=new_key)
    changes: dict[str, Any] = field(default_factory=dict)
    """Of the metadata; None takes a member away."""
    claims: dict[str, Any] = field(default_factory=dict)
    """Of every person's ID tokens."""
    header: dict[str, Any] = field(default_factory=dict)
    signing_key: PrivateKey | None = None
    refresh_tokens: bool = True
    refresh_id_token: bool = True
    rotates: bool = True
    codes: dict[str, Code] = field(default_factory=dict)
    live: dict[str, str] = field(default_factory=dict)
    """Refresh token to subject; a rotated one is no longer here."""
    gone: set[str] = field(default_factory=set)
    """Subjects who have left."""
    requests: list[tuple[str, str]] = field(default_factory=list)
    forms: list[dict[str, str]] = field(default_factory=list)
    answer: Callable[[dict[str, str], dict[str, Any]], tuple[int, Any]] | None = None
    """Called with each token request and what would be said."""
    hold: asyncio.Event | None = None
    """If there, token requests wait for it."""
    _server: asyncio.Server | None = None

    async def __aenter__(self) -> TestProvider:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/{self.name}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Be unreachable from now on."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            await server.wait_closed()

    def metadata(self) -> dict[str, Any]:
        known = {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/auth",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/jwks",
            "authorization_response_iss_parameter_supported": True,
            "code_challenge_methods_supported": ["S256"],
            **self.changes,
        }
        return {name: value for name, value in known.items() if value is not None}

    def code(self, request: dict[str, str], subject: str = "alice", **claims: Any) -> str:
        """What the provider would give a browser whose person has agreed to an authorization request."""
        code = f"code-{len(self.codes)}-{subject}"
        self.codes[code] = Code(
            request["nonce"], request["code_challenge"], request["redirect_uri"], {"sub": subject, **claims}
        )
        return code

    def id_token(self, nonce: str | None, claims: dict[str, Any]) -> str:
        now = self.clock.now()
        whole = {
            "iss": self.url, "aud": CLIENT, "iat": now, "exp": now + 300, "nonce": nonce,
            "preferred_username": claims.get("sub"), "name": "Alice Liddell", "groups": ["staff", "unknown"],
            **self.claims, **claims,
        }  # fmt: skip
        kept = {name: value for name, value in whole.items() if value is not None}
        header = {"alg": "ES256", "kid": "p1", "typ": "JWT", **self.header}
        return sign(header, kept, self.signing_key or self.key, "ES256")

    def token_answer(self, form: dict[str, str]) -> tuple[int, Any]:
        """What the token endpoint says; real rules, so that a client that gets them wrong is refused."""
        if form["grant_type"] == "authorization_code":
            code = self.codes.pop(form.get("code", ""), None)
            if code is None or s256(form["code_verifier"]) != code.challenge:
                return 400, {"error": "invalid_grant"}
            if form["redirect_uri"] != code.redirect_uri:
                return 400, {"error": "invalid_grant"}
            nonce, claims = code.nonce, code.claims
        else:
            subject = self.live.get(form.get("refresh_token", ""))
            if subject is None or subject in self.gone:
                # A second use of a rotated token ends all of that person's (RFC 9700 section 4.14.2).
                return 400, {"error": "invalid_grant", "error_description": "<b>gone</b>"}
            if self.rotates:
                del self.live[form["refresh_token"]]
            nonce, claims = None, {"sub": subject}
        answer: dict[str, Any] = {"access_token": "opaque", "token_type": "Bearer", "expires_in": 60}
        if form["grant_type"] == "authorization_code" or self.refresh_id_token:
            answer["id_token"] = self.id_token(nonce, claims)
        if self.refresh_tokens and (form["grant_type"] == "authorization_code" or self.rotates):
            token = f"refresh-{len(self.forms)}-{claims['sub']}"
            self.live[token] = claims["sub"]
            answer["refresh_token"] = token
        return 200, answer

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        method, target, _ = lines[0].split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.requests.append((method, target))
        status, answer = await self._answer(target, headers, body)
        raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        writer.write(
            b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
            % (status, len(raw))
            + raw
        )
        await writer.drain()
        writer.close()

    async def _answer(self, target: str, headers: dict[str, str], body: bytes) -> tuple[int, Any]:
        path = urlsplit(target).path.removeprefix(f"/{self.name}")
        if path == "/.well-known/openid-configuration":
            return 200, self.metadata()
        if path == "/jwks":
            return 200, {"keys": [{**self.key.as_dict(private=False), "kid": "p1", "alg": "ES256", "use": "sig"}]}
        if path != "/token":
            return 404, {}
        form = dict(parse_qsl(body.decode(), strict_parsing=True))
        self.forms.append(form)
        if self.hold is not None:
            await self.hold.wait()
        if (headers.get("authorization"), form.get("client_id")) == (None, None) or not self._is_client(headers):
            return 401, {"error": "invalid_client"}
        status, answer = self.token_answer(form)
        return (status, answer) if self.answer is None else self.answer(form, answer)

    def _is_client(self, headers: dict[str, str]) -> bool:
        scheme, _, pair = headers.get("authorization", "").partition(" ")
        name, _, secret = b64decode(pair).decode().partition(":")
        return (scheme, unquote_plus(name), unquote_plus(secret)) == ("Basic", CLIENT, SECRET)


@dataclass
class UpstreamLab:
    """The server's side of such logins, and a browser."""

    app: Starlette
    http: httpx2.AsyncClient
    logins: UpstreamLogins
    grants: UpstreamGrants
    users: Users
    browser_logins: Logins
    providers: list[UpstreamProvider]
    audit: RecordingAudit
    clock: StepClock
    engine: AsyncEngine
    make_grants: Callable[[], UpstreamGrants]

    def browser(self) -> httpx2.AsyncClient:
        """Another browser."""
        return browser_of(self.app)

    async def begin(
        self,
        provider: str = "acme-idp",
        *,
        browser: httpx2.AsyncClient | None = None,
        tenant: str = "acme",
        to: str = TO,
        **more: str,
    ) -> httpx2.Response:
        """Post the form of the login page."""
        http = browser or self.http
        token = (await http.get("/form")).text
        form = {"form_token": token, "tenant": tenant, "to": to, **more}
        return await http.post(f"/login/upstream/{provider}", data=form)

    async def request(self, provider: str = "acme-idp", **options: Any) -> dict[str, str]:
        """Begin, and read the authorization request that the browser is sent on with."""
        answer = await self.begin(provider, **options)
        assert answer.status_code == 200, answer.text
        return request_of(answer)

    async def come_back(
        self, provider: str = "acme-idp", *, browser: httpx2.AsyncClient | None = None, **query: str
    ) -> httpx2.Response:
        """The redirect from the provider."""
        return await (browser or self.http).get(f"{CALLBACK_PATH}/{provider}", params=query)

    async def log_in(self, idp: TestProvider, subject: str = "alice", **claims: Any) -> httpx2.Response:
        """The whole way."""
        request = await self.request(idp.name)
        code = idp.code(request, subject, **claims)
        return await self.come_back(idp.name, state=request["state"], code=code, iss=idp.url)

    async def current(self, answer: httpx2.Response, tenant: str = "acme") -> Login | None:
        """Who the browser is after an answer."""
        cookie = answer.cookies.get("__Host-twogate-login")
        return await self.browser_logins.current(cookie, tenant, self.clock.now())

    async def upstream(self, idp: TestProvider, **options: Any) -> str:
        """Log in; the id of the upstream grant."""
        login = await self.current(await self.log_in(idp, **options))
        assert login is not None
        assert login.upstream is not None
        return login.upstream

    def reasons(self) -> list[str]:
        return [event.reason for event in self.audit.events if event.reason]


def request_of(answer: httpx2.Response) -> dict[str, str]:
    """The authorization request of a page that moves a browser on."""
    found = re.search(r'http-equiv="refresh" content="0; url=([^"]+)"', answer.text)
    assert found is not None, answer.text
    url = html.unescape(found[1])
    assert f'<a href="{found[1]}">' in answer.text
    query = parse_qs(urlsplit(url).query, strict_parsing=True)
    assert all(len(values) == 1 for values in query.values())
    return {"endpoint": url.partition("?")[0], **{name: values[0] for name, values in query.items()}}


def browser_of(app: Starlette) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(app=app, client=("203.0.113.7", 40000))
    return httpx2.AsyncClient(transport=transport, base_url=ISSUER)


def rules_for(idp: TestProvider, **changes: Any) -> ProviderRules:
    values: dict[str, Any] = {
        "name": idp.name,
        "label": "Acme <account>",
        "id_token": IdTokenRules(idp.url, CLIENT, frozenset({Algorithm.ES256})),
        "tenants": frozenset({"acme"}),
        "allowed_groups": frozenset({"staff"}),
        "known_groups": frozenset({"analysts"}),
        "redirect_uri": f"{ISSUER}{CALLBACK_PATH}/{idp.name}",
        "groups_claim": "/groups",
        **changes,
    }
    return ProviderRules(**values)


@asynccontextmanager
async def open_upstream_lab(
    directory: Path, clock: StepClock, *rules: ProviderRules, url: str = ""
) -> AsyncIterator[UpstreamLab]:
    """The parts over a real store, for these providers."""
    engine = await open_migrated(url or f"sqlite:///{directory / 'twogate.db'}")
    audit, rng, fetch = RecordingAudit(), SystemRng(), GuardedFetch(clock)
    envelope = LocalEnvelope(b"k" * 32, rng)
    providers = [
        UpstreamProvider(
            entry,
            SecretCredential(CLIENT, lambda: SECRET),
            RemoteKeys(entry.issuer, None, None, fetch, clock),
            fetch,
            fetch,
            clock,
        )
        for entry in rules
    ]
    users = Users(SqlUserStore(engine), rng, PersonTrail(ISSUER, audit, audit, clock))
    browser_logins = Logins(SqlLoginStore(engine), rng, LIFETIMES.login)

    def make_grants() -> UpstreamGrants:
        return UpstreamGrants(ISSUER, providers, SqlUpstreamGrantStore(engine), users, envelope, audit, clock, rng)

    grants = make_grants()
    logins = UpstreamLogins(
        LIFETIMES,
        providers,
        PendingLogins(SqlUpstreamLoginStore(engine), envelope, rng, INTERACTION),
        grants,
        users,
        browser_logins,
        is_local_target,
        (audit, audit),
        clock,
    )
    pages = Pages(ISSUER, b"p" * 32, rng)

    async def form(request: Request) -> Response:
        """Stands for the login page: what matters of it is the form's token."""
        browser = pages.browser(request)
        response = Response(pages._form_token(browser))
        pages.remember(response, browser)
        return response

    app = Starlette(
        routes=[Route("/form", form), *upstream_login_routes(logins, pages, ISSUER, browser_logins.lifetime)]
    )
    app.router.redirect_slashes = False
    try:
        async with browser_of(app) as http:
            yield UpstreamLab(
                app, http, logins, grants, users, browser_logins, providers, audit, clock, engine, make_grants
            )
    finally:
        await engine.dispose()
