"""The device flow over `tokenlab`: its endpoint, a client that may use it, and people who decide."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx2

from tokenlab import FILES, ISSUER, LIFESPANS, Lab, open_lab
from twogate.adapters.rng import SystemRng
from twogate.core.access import Policy, Role, Tenant, ToolClass
from twogate.core.oauth.grant_type import GrantType
from twogate.core.oauth.metadata import DEVICE_PATH
from twogate.core.principal import PUBLIC_CLIENT, Agent, AgentId
from twogate.flows.authserver.clients import Client, ClientAuth, ClientKind
from twogate.flows.authserver.consent_view import ConsentViews
from twogate.flows.authserver.device import DeviceAuthorization, DeviceLimits
from twogate.flows.authserver.device_decision import DeviceDecisions, Waiting
from twogate.stores.sql.engine import writing
from twogate.stores.sql.tables import users
from twogate.stores.sql.users import SqlUserStore
from twogate.web.authserver import form_route
from twogate.web.device import DevicePages, device_routes
from twogate.web.pages import Pages

LIFETIME = 600
CLI = "twogate-cli"
OTHER_CLI = "other-cli"
ALICE = "alice-subject"
PUBLIC = AgentId("acme", PUBLIC_CLIENT)
POLICY = Policy(
    generation="lab",
    classes={"files.read_file": ToolClass.READ},
    roles={"reader": Role("reader", frozenset({"read"}))},
    tasks={"review": frozenset({"read"})},
    scopes={"reports": frozenset({"read"}), "admin": frozenset({"read"})},
    groups={},
    tenants={"acme": Tenant(frozenset({"files", "git"}))},
)
_GRANTS = frozenset({GrantType.DEVICE_CODE, GrantType.REFRESH_TOKEN})


@dataclass(frozen=True)
class LoggedIn:
    """A login, as `logins.Login` is one."""

    tenant: str = "acme"
    subject: str = ALICE
    method: str = "password"
    authenticated_at: int = 1_700_000_000
    upstream: str | None = None
    ends_at: int | None = None


@dataclass
class StubLogins:
    """Logins by the value of their cookie."""

    live: dict[str, LoggedIn] = field(default_factory=dict)

    async def current(self, cookie: str | None, tenant: str, now: int) -> LoggedIn | None:
        login = self.live.get(cookie or "")
        return login if login is not None and login.tenant == tenant else None


class HiddenFields(HTMLParser):
    """The hidden fields of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.fields: dict[str, str] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "input" and found.get("type") == "hidden":
            self.fields[found.get("name") or ""] = found.get("value") or ""


@dataclass
class DeviceLab:
    """The lab, and the device flow's parts in it."""

    lab: Lab
    decisions: DeviceDecisions
    logins: StubLogins

    @asynccontextmanager
    async def browser(self, login: LoggedIn | None = None, address: str = "198.51.100.7") -> AsyncGenerator[Browser]:
        """A browser of its own, of a person who is logged in or not."""
        transport = httpx2.ASGITransport(app=self.lab.app, client=(address, 40000))
        async with httpx2.AsyncClient(transport=transport, base_url=ISSUER) as http:
            made = Browser(self, http)
            if login is not None:
                made.log_in(login)
            yield made

    async def begin(self, headers: dict[str, str] | None = None, /, **changes: str) -> httpx2.Response:
        """A device authorization request; an empty value takes a parameter away."""
        form = {"client_id": CLI, "resource": FILES, **changes}
        return await self.lab.http.post(DEVICE_PATH, data={k: v for k, v in form.items() if v}, headers=headers)

    async def begun(self, **changes: str) -> dict[str, Any]:
        """The answer of one that succeeds."""
        answer = await self.begin(**changes)
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    async def poll(self, device_code: str, headers: dict[str, str] | None = None, /, **changes: str) -> httpx2.Response:
        form = {"grant_type": GrantType.DEVICE_CODE.value, "device_code": device_code, "client_id": CLI, **changes}
        return await self.lab.http.post("/token", data={k: v for k, v in form.items() if v}, headers=headers)

    async def polled(self, device_code: str, **changes: str) -> str:
        """The error of a poll that succeeds not."""
        answer = await self.poll(device_code, **changes)
        assert answer.status_code == 400, answer.text
        error: str = answer.json()["error"]
        return error

    async def entered(self, user_code: str, address: str = "198.51.100.1") -> Waiting:
        return await self.decisions.enter(user_code, address)

    async def decide(self, user_code: str, *, allow: bool = True, login: LoggedIn | None = None) -> None:
        waiting = await self.entered(user_code)
        await self.decisions.decide(waiting, login or LoggedIn(), allow=allow, address="198.51.100.1")


@dataclass
class Browser:
    """A person's browser: a cookie jar, and forms that are sent as the page has them."""

    lab: DeviceLab
    http: httpx2.AsyncClient

    def log_in(self, login: LoggedIn) -> None:
        value = f"login-of-{login.subject}"
        self.lab.logins.live[value] = login
        self.http.cookies.set("__Host-twogate-login", value, domain="mcp.example.com", path="/")

    async def enter(self, user_code: str) -> httpx2.Response:
        """Open the page and send the code."""
        page = await self.http.get("/device?another")
        return await self.submit(page, "/device", user_code=user_code)

    async def confirm_page(self, user_code: str) -> httpx2.Response:
        """Enter a code and look at what it asks for."""
        entered = await self.enter(user_code)
        assert (entered.status_code, entered.headers["location"]) == (303, "/device"), entered.text
        page = await self.http.get("/device")
        assert page.status_code == 200, page.text
        return page

    async def decide(self, page: httpx2.Response, choice: str, **changes: str) -> httpx2.Response:
        """Press a button of the page."""
        return await self.submit(page, "/device/decision", choice=choice, **changes)

    async def submit(self, page: httpx2.Response, to: str, **fields: str) -> httpx2.Response:
        return await self.http.post(to, data={**HiddenFields(page.text).fields, **fields})


def cli_client(client_id: str, **changes: Any) -> Client:
    """A public client that may use the device flow."""
    settings: dict[str, Any] = {
        "kind": ClientKind.PUBLIC,
        "grants": _GRANTS,
        "name": "Twogate command line",
        **changes,
    }
    return Client(client_id, "acme", settings.pop("agent", PUBLIC), settings.pop("auth", ClientAuth.NONE), **settings)


async def add_user(lab: Lab, subject: str = ALICE, tenant: str = "acme") -> None:
    """A person, put straight into the table."""
    async with writing(lab.engine) as connection:
        await connection.execute(
            users.insert().values(
                tenant=tenant,
                subject=subject,
                name=subject,
                display_name="Alice",
                roles='["reader"]',
                groups="[]",
                password_hash="",
                provider="",
                disabled_at=None,
                created_at=lab.clock.now(),
                last_login_at=None,
            )
        )


@asynccontextmanager
async def open_device_lab(directory: Path) -> AsyncGenerator[DeviceLab]:
    """Start the server with two clients for command lines and a person."""
    async with open_lab(directory) as lab:
        now = lab.clock.now()
        await lab.registry.add_agent(Agent(PUBLIC, "reader", ("review",)), (), now)
        for client_id in (CLI, OTHER_CLI):
            await lab.clients.add(cli_client(client_id), None, (), now)
        await add_user(lab)
        limits = DeviceLimits()
        endpoint = DeviceAuthorization(
            lab.forms, lab.devices, lab.tokens.settings, limits, lab.clock, SystemRng(), LIFETIME
        )
        lab.app.router.routes.append(form_route(DEVICE_PATH, endpoint.respond, ISSUER))
        decisions = DeviceDecisions(
            ISSUER, lab.devices, lab.directory, lab.authenticator, limits, lab.audit, lab.audit, lab.clock
        )
        logins, people = StubLogins(), SqlUserStore(lab.engine)
        served = DevicePages(
            Pages(ISSUER, bytes(32), SystemRng()),
            decisions,
            logins,
            people,
            ConsentViews(POLICY, lab.tokens.settings, LIFESPANS.whole, lab.clock),
            lab.clock,
            bytes(32),
        )
        lab.app.router.routes.extend(device_routes(served, ISSUER))
        yield DeviceLab(lab, decisions, logins)
