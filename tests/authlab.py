"""The authorization server with people: logins, the authorization endpoint, PAR and consent, over `tokenlab`.

`lab.http` is one browser with its cookies. The helpers walk the way that a person and a client walk.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import httpx2
from sqlalchemy import insert, update
from sqlalchemy.ext.asyncio import AsyncEngine

from tokenlab import FILES, ISSUER, PUBLIC, SECRET, Lab, basic, digest, open_lab
from twogate.adapters.rng import SystemRng
from twogate.core.access import Policy, Role, Tenant, ToolClass
from twogate.core.oauth.authorize_request import CONSENT_PATH
from twogate.core.oauth.grant_type import GrantType
from twogate.core.oauth.metadata import PAR_PATH
from twogate.core.principal import PUBLIC_CLIENT, Agent, AgentId
from twogate.flows.authserver.authorize import AuthorizeEndpoint
from twogate.flows.authserver.begin_limit import BeginLimit
from twogate.flows.authserver.clients import Client, ClientAuth, ClientKind, ClientSource
from twogate.flows.authserver.consent import Consents
from twogate.flows.authserver.consent_view import ConsentViews
from twogate.flows.authserver.decision import Decisions
from twogate.flows.authserver.interaction import Requests
from twogate.flows.authserver.logins import Login, Logins
from twogate.flows.authserver.par import PushedRequests
from twogate.flows.authserver.people import User
from twogate.flows.authserver.request_reader import RequestReader
from twogate.flows.authserver.standing import Standing
from twogate.stores.sql.authorize_requests import SqlAuthorizeRequestStore
from twogate.stores.sql.consents import SqlConsentStore
from twogate.stores.sql.logins import SqlLoginStore
from twogate.stores.sql.tables import users
from twogate.stores.sql.users import SqlUserStore
from twogate.web.authorize import authorize_routes
from twogate.web.authserver import form_route
from twogate.web.pages import Pages, asset_routes

ASSISTANT = AgentId("acme", "assistant")
GLOBEX_PUBLIC = AgentId("globex", PUBLIC_CLIENT)
CODE = frozenset({GrantType.AUTHORIZATION_CODE, GrantType.REFRESH_TOKEN})
WEB_CALLBACK = "https://app.example/callback"
SPA_CALLBACK = "https://spa.example/cb"
NATIVE_CALLBACK = "http://127.0.0.1/callback"
APP_CALLBACK = "com.example.app:/callback"
VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).decode().rstrip("=")
PUSHED_LIFETIME = 90
INTERACTION_LIFETIME = 600
RENEWABLE = 90 * 86400
LOGIN_LIFETIME = 12 * 3600

CLIENTS = {
    "web": (
        ClientKind.HOST,
        ASSISTANT,
        ClientAuth.CLIENT_SECRET,
        "Acme Desk",
        (WEB_CALLBACK,),
        ClientSource.CONFIGURED,
    ),
    "spa": (ClientKind.PUBLIC, PUBLIC, ClientAuth.NONE, "Acme Browser", (SPA_CALLBACK,), ClientSource.ADDED),
    "native": (ClientKind.PUBLIC, PUBLIC, ClientAuth.NONE, "Acme Code", (NATIVE_CALLBACK,), ClientSource.REGISTERED),
    "app": (ClientKind.PUBLIC, PUBLIC, ClientAuth.NONE, "Acme App", (APP_CALLBACK,), ClientSource.REGISTERED),
    "stranger": (
        ClientKind.PUBLIC,
        PUBLIC,
        ClientAuth.NONE,
        "Totally Acme",
        ("https://phish.example/cb",),
        ClientSource.REGISTERED,
    ),
    "two": (
        ClientKind.HOST,
        ASSISTANT,
        ClientAuth.CLIENT_SECRET,
        "Two Doors",
        (WEB_CALLBACK, "https://app.example/other?tenant=a"),
        ClientSource.CONFIGURED,
    ),
    "agent": (
        ClientKind.AGENT,
        ASSISTANT,
        ClientAuth.CLIENT_SECRET,
        "",
        ("https://agent.example/cb",),
        ClientSource.ADDED,
    ),
    "globex-spa": (
        ClientKind.PUBLIC,
        GLOBEX_PUBLIC,
        ClientAuth.NONE,
        "Globex Browser",
        ("https://globex.example/cb",),
        ClientSource.CONFIGURED,
    ),
}


@dataclass
class AuthLab:
    """The server, one browser, and people."""

    lab: Lab
    http: httpx2.AsyncClient
    pages: Pages
    logins: Logins
    consents: Consents
    requests: SqlAuthorizeRequestStore
    endpoint: AuthorizeEndpoint
    alice: User
    bob: User
    carol: User
    verifier: str = VERIFIER

    @asynccontextmanager
    async def another_browser(self) -> AsyncGenerator[AuthLab]:
        """The same server, seen from a browser without cookies."""
        async with _client(self.lab) as http:
            yield AuthLab(
                self.lab,
                http,
                self.pages,
                self.logins,
                self.consents,
                self.requests,
                self.endpoint,
                self.alice,
                self.bob,
                self.carol,
            )

    async def log_in(self, user: User, *, upstream: str | None = None, ends_at: int | None = None) -> None:
        """Log a person in, in this browser, now."""
        now = self.lab.clock.now()
        cookie = await self.logins.begin(Login(user.tenant, user.subject, "password", now, upstream, ends_at), now)
        self.http.cookies.set(self.pages.cookie_name("login"), cookie, domain=urlsplit(ISSUER).hostname or "", path="/")

    async def log_out(self) -> None:
        self.http.cookies.delete(self.pages.cookie_name("login"))

    def parameters(self, client_id: str = "web", /, **changes: str | None) -> dict[str, str]:
        """A good request's parameters; None takes one away."""
        whole: dict[str, str | None] = {
            "response_type": "code",
            "client_id": client_id,
            "redirect_uri": CLIENTS[client_id][4][0] if client_id in CLIENTS else None,
            "state": "xyz",
            "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
            "resource": f"{ISSUER}/mcp/mail" if client_id.startswith("globex") else FILES,
            **changes,
        }
        return {name: value for name, value in whole.items() if value is not None}

    async def authorize(self, client_id: str = "web", /, **changes: str | None) -> httpx2.Response:
        return await self.ask(urlencode(self.parameters(client_id, **changes)))

    async def ask(self, query: str) -> httpx2.Response:
        """A request as the browser sends it; redirects are not followed."""
        return await self.http.get(f"/authorize?{query}")

    async def consent(self, response: httpx2.Response) -> httpx2.Response:
        """The consent page that a response leads to, directly or, once logged in, by way of the login page."""
        assert response.status_code == 303, response.text
        url = urlsplit(response.headers["location"])
        target = f"{url.path}?{url.query}"
        if url.path == "/login":
            (target,) = parse_qs(url.query)["to"]
        assert target.startswith(f"{CONSENT_PATH}?request="), target
        return await self.http.get(target)

    async def decide(self, page: httpx2.Response, decision: str, **changes: str) -> httpx2.Response:
        """Press a button of the consent page."""
        fields = {**hidden_fields(page.text), "decision": decision, **changes}
        return await self.http.post(CONSENT_PATH, data=fields, headers={"Origin": ISSUER})

    async def code(self, client_id: str = "web", /, **changes: str | None) -> str:
        """The whole way to a code; the person allows it if asked."""
        response = await self.authorize(client_id, **changes)
        if urlsplit(response.headers.get("location", "")).netloc == urlsplit(ISSUER).netloc:
            response = await self.decide(await self.consent(response), "allow")
        return answer(response)["code"]

    async def push(
        self, client_id: str = "web", headers: Mapping[str, str] | None = None, /, **changes: str | None
    ) -> httpx2.Response:
        """A pushed request."""
        own = basic(client_id, SECRET) if CLIENTS[client_id][2] is ClientAuth.CLIENT_SECRET else {}
        return await self.http.post(
            PAR_PATH, data=self.parameters(client_id, **changes), headers=own if headers is None else dict(headers)
        )

    async def redeem(self, code: str, client_id: str = "web", /, **changes: str | None) -> httpx2.Response:
        """Redeem a code at the token endpoint as the client would."""
        form: dict[str, str | None] = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": CLIENTS[client_id][4][0],
            "code_verifier": self.verifier,
            "resource": FILES,
            **changes,
        }
        headers = {}
        if CLIENTS[client_id][2] is ClientAuth.CLIENT_SECRET:
            headers = basic(client_id, SECRET)
        else:
            form["client_id"] = client_id
        data = {name: value for name, value in form.items() if value is not None}
        return await self.http.post("/token", data=data, headers=headers)

    async def disable(self, user: User) -> None:
        """Disable a person in the store, whoever is logged in."""
        async with self.lab.engine.begin() as connection:
            await connection.execute(
                update(users).where(users.c.subject == user.subject).values(disabled_at=self.lab.clock.now())
            )


def hidden_fields(html: str) -> dict[str, str]:
    """The hidden fields of the one form of a page."""
    return {
        unescape(name): unescape(value)
        for name, value in re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', html)
    }


def answer(response: httpx2.Response) -> dict[str, str]:
    """What a redirect takes back to the client; every parameter once."""
    assert response.status_code == 303, (response.status_code, response.text)
    pairs = parse_qsl(urlsplit(response.headers["location"]).query, keep_blank_values=True)
    assert len(pairs) == len(dict(pairs))
    return dict(pairs)


@asynccontextmanager
async def open_auth_lab(directory: Path) -> AsyncGenerator[AuthLab]:
    """Start a server with the clients of `CLIENTS`; alice and bob are of acme, carol of globex."""
    async with open_lab(directory) as lab:
        now = lab.clock.now()
        for agent in (ASSISTANT, GLOBEX_PUBLIC):
            await lab.registry.add_agent(Agent(agent, "analyst", ("review", "report")), (), now)
        for client_id, (kind, agent, auth, name, redirect_uris, source) in CLIENTS.items():
            secrets = (digest(SECRET),) if auth is ClientAuth.CLIENT_SECRET else ()
            await lab.clients.add(
                Client(
                    client_id,
                    agent.tenant,
                    agent,
                    auth,
                    secrets,
                    kind=kind,
                    grants=CODE,
                    name=name,
                    redirect_uris=redirect_uris,
                    source=source,
                ),
                None,
                (),
                now,
            )
        alice = User("acme", "u-alice-7f3k", "alice", "Alice Example", created_at=now)
        bob = User("acme", "u-bob-9x2m", "bob", created_at=now)
        carol = User("globex", "u-carol-1q8z", "carol", created_at=now)
        for user in (alice, bob, carol):
            await _add_user(lab.engine, user)
        parts = _parts(lab)
        async with _client(lab) as http:
            yield AuthLab(lab, http, *parts, alice, bob, carol)


def _parts(lab: Lab) -> tuple[Pages, Logins, Consents, SqlAuthorizeRequestStore, AuthorizeEndpoint]:
    rng, settings = SystemRng(), lab.tokens.settings
    policy = Policy(
        generation="lab",
        classes={
            "files.read_file": ToolClass.READ,
            "files.write_file": ToolClass.WRITE,
            "files.resource:file:///reports/**": ToolClass.READ,
            "git.git_log": ToolClass.READ,
        },
        roles={
            "reader": Role("reader", frozenset({"read"})),
            "analyst": Role("analyst", frozenset({"read"}), frozenset({"write"})),
        },
        tasks={"review": frozenset({"read"}), "report": frozenset({"read", "write"})},
        scopes={"reports": frozenset({"read"}), "admin": frozenset({"write"})},
        groups={},
        tenants={"acme": Tenant(frozenset({"files", "git"})), "globex": Tenant(frozenset({"mail"}))},
    )
    pages, logins = Pages(ISSUER, bytes(32), rng), Logins(SqlLoginStore(lab.engine), rng, LOGIN_LIFETIME)
    consents = Consents(SqlConsentStore(lab.engine), lab.audit, lab.clock, ISSUER)
    store = SqlAuthorizeRequestStore(lab.engine)
    requests = Requests(store, rng, BeginLimit(lab.clock), pushed=PUSHED_LIFETIME, interaction=INTERACTION_LIFETIME)
    reader = RequestReader(settings, lab.authenticator)
    endpoint = AuthorizeEndpoint(
        lab.directory,
        reader,
        requests,
        Standing(logins, SqlUserStore(lab.engine), consents),
        Decisions(ISSUER, consents, lab.codes, lab.audit, lab.audit, lab.clock),
        ConsentViews(policy, settings, RENEWABLE, lab.clock),
        lab.clock,
    )
    par = PushedRequests(lab.forms, reader, requests)
    lab.app.router.routes.extend(
        [
            *authorize_routes(endpoint, pages, ISSUER),
            form_route(PAR_PATH, par.respond, ISSUER),
            *asset_routes(ISSUER),
        ]
    )
    return pages, logins, consents, store, endpoint


def _client(lab: Lab) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(app=lab.app, client=("203.0.113.7", 40000))
    return httpx2.AsyncClient(transport=transport, base_url=ISSUER)


async def _add_user(engine: AsyncEngine, user: User) -> None:
    async with engine.begin() as connection:
        await connection.execute(
            insert(users).values(
                tenant=user.tenant,
                subject=user.subject,
                name=user.name,
                display_name=user.display_name,
                roles="[]",
                groups="[]",
                password_hash="",
                provider="",
                disabled_at=None,
                created_at=user.created_at,
                last_login_at=None,
            )
        )
