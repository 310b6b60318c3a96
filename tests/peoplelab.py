"""People in one process: login, links, passkeys and the account page, over `tokenlab`; `lab.http` is one browser."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import argon2
import httpx2

from softkey import SoftKey
from tokenlab import ISSUER, Lab, open_lab
from twogate.adapters.passkeys import PasskeyLibrary, relying_party
from twogate.adapters.passwords import Argon2Hasher
from twogate.adapters.rng import SystemRng
from twogate.core.audit.record import AuditEvent, EventKind
from twogate.flows.authserver.account import Account
from twogate.flows.authserver.consent import Consents
from twogate.flows.authserver.given_access import GivenAccess
from twogate.flows.authserver.links import LinkPurpose, Links
from twogate.flows.authserver.lockout import Lockout
from twogate.flows.authserver.logins import Logins
from twogate.flows.authserver.passkeys import Challenges, Passkeys
from twogate.flows.authserver.passwords import Passwords
from twogate.flows.authserver.people import User
from twogate.flows.authserver.person_trail import PersonTrail
from twogate.flows.authserver.setup import SetUp
from twogate.flows.authserver.sign_in import SignIn
from twogate.flows.authserver.user_admin import NewUser, Terms, UserAdmin
from twogate.flows.authserver.users import Users
from twogate.stores.sql.codes import SqlCodeStore
from twogate.stores.sql.consents import SqlConsentStore
from twogate.stores.sql.links import SqlLinkStore
from twogate.stores.sql.login_failures import SqlFailureStore
from twogate.stores.sql.logins import SqlLoginStore
from twogate.stores.sql.passkeys import SqlPasskeyStore
from twogate.stores.sql.users import SqlUserStore
from twogate.web.account import AccountPages, account_routes
from twogate.web.login import LoginPages, login_routes
from twogate.web.pages import Pages, asset_routes
from twogate.web.setup import SetupPages, setup_routes

PASSWORD = "correct horse battery"
ADDRESS = "203.0.113.7"
RP_ID = "mcp.example.com"
LOGIN_LIFETIME = 12 * 3600
LINK_LIFETIME = 24 * 3600
SECRET = bytes(range(32))

# As few bytes and passes as argon2 allows: what these tests try is not how slow a guess is.
CHEAP = argon2.profiles.CHEAPEST


class Browser:
    """A browser: cookies, an address, and the forms of the page that it shows."""

    def __init__(self, lab: Lab, address: str = ADDRESS) -> None:
        transport = httpx2.ASGITransport(app=lab.app, client=(address, 40000))
        self.http = httpx2.AsyncClient(transport=transport, base_url=ISSUER, headers={"Origin": ISSUER})
        self.page: httpx2.Response | None = None

    async def get(self, path: str) -> httpx2.Response:
        self.page = await self.http.get(path)
        return self.page

    async def post(self, path: str, **fields: str) -> httpx2.Response:
        """Send a form of the page that the browser shows; the page changes if the answer is one."""
        token = field_of(self.page, "form_token")
        answer = await self.http.post(path, data={"form_token": token, **fields})
        if answer.status_code != 303:
            self.page = answer
        return answer

    @property
    def options(self) -> dict[str, Any]:
        """What the page asks of a passkey."""
        assert self.page is not None
        found = re.search(r'data-options="([^"]*)"', self.page.text)
        assert found is not None, self.page.text
        options: dict[str, Any] = json.loads(unescape(found[1]))
        return options

    @property
    def login(self) -> str | None:
        """The cookie of its login."""
        return self.http.cookies.get("__Host-twogate-login")

    async def log_in(
        self, name: str = "alice", password: str = PASSWORD, tenant: str = "acme", to: str = "/account"
    ) -> httpx2.Response:
        await self.get(f"/login?tenant={tenant}&again=1")
        return await self.post("/login", tenant=tenant, name=name, password=password, to=to)

    async def log_in_by(self, key: SoftKey, tenant: str = "acme", **changes: Any) -> httpx2.Response:
        await self.get(f"/login?tenant={tenant}&again=1")
        return await self.post("/login/passkey", tenant=tenant, credential=key.get(self.options, **changes))

    async def open_link(self, link: str) -> httpx2.Response:
        await self.get("/link")
        answer = await self.post("/link", secret=link.partition("#")[2])
        if answer.status_code == 303:
            await self.get("/setup")
        return answer

    async def set_password(self, password: str = PASSWORD) -> httpx2.Response:
        return await self.post("/setup/password", password=password, password_again=password)

    async def enrol(self, key: SoftKey, label: str = "Laptop", **changes: Any) -> httpx2.Response:
        """Answer the page that asks for a passkey."""
        assert self.page is not None
        path = "/setup/passkey" if "/setup/passkey" in self.page.text else "/account/passkeys/new"
        return await self.post(path, label=label, credential=key.create(self.options, **changes))


@dataclass
class PeopleLab:
    """The server, its parts, and its operator."""

    lab: Lab
    admin: UserAdmin
    users: Users
    logins: Logins
    sign_in: SignIn
    passwords: Passwords
    consents: Consents
    store: SqlUserStore
    passkey_store: SqlPasskeyStore

    def browser(self, address: str = ADDRESS) -> Browser:
        return Browser(self.lab, address)

    def key(self, **changes: Any) -> SoftKey:
        return SoftKey(**{"origin": ISSUER, "rp_id": RP_ID, **changes})

    async def add(self, name: str = "alice", tenant: str = "acme", **changes: Any) -> tuple[User, str]:
        """A new person and their link."""
        user, link, _ = await self.admin.add(NewUser(tenant, name, **changes))
        return user, link

    async def person(self, name: str = "alice", tenant: str = "acme", password: str = PASSWORD) -> User:
        """A person who has a password."""
        user, link = await self.add(name, tenant)
        browser = self.browser()
        await browser.open_link(link)
        assert (await browser.set_password(password)).status_code == 303
        return user

    async def with_passkey(self, user: User, **changes: Any) -> SoftKey:
        """Let a person enrol a passkey by a link."""
        link, _ = await self.admin.link(user, LinkPurpose.PASSKEY)
        key, browser = self.key(**changes), self.browser()
        await browser.open_link(link)
        assert (await browser.enrol(key)).status_code == 303
        return key

    def events(self, *kinds: EventKind) -> list[AuditEvent]:
        return [event for event in self.lab.audit.events if event.kind in kinds]


def field_of(page: httpx2.Response | None, name: str) -> str:
    """The value of a hidden field."""
    found = None if page is None else re.search(rf'name="{name}" value="([^"]*)"', page.text)
    return "" if found is None else unescape(found[1])


@asynccontextmanager
async def open_people_lab(directory: Path) -> AsyncGenerator[PeopleLab]:
    """Start a server with the tenants acme and globex, and nobody in them."""
    async with open_lab(directory) as lab:
        yield _wire(lab)


def _wire(lab: Lab) -> PeopleLab:
    rng, engine, clock = SystemRng(), lab.engine, lab.clock
    trail = PersonTrail(ISSUER, lab.audit, lab.audit, clock)
    store, passkey_store = SqlUserStore(engine), SqlPasskeyStore(engine)
    users, logins = Users(store, rng, trail), Logins(SqlLoginStore(engine), rng, LOGIN_LIFETIME)
    passwords = Passwords(store, Argon2Hasher(CHEAP))
    rp_id = relying_party(ISSUER)
    assert rp_id == RP_ID
    passkeys = Passkeys(
        rp_id, PasskeyLibrary(ISSUER, rp_id), passkey_store, Challenges(SECRET, lab.replay, rng, ISSUER)
    )
    lockout = Lockout(SqlFailureStore(engine), SECRET)
    links = Links(ISSUER, SqlLinkStore(engine), trail, clock, rng, LINK_LIFETIME)
    sign_in = SignIn(users, passwords, passkeys, lockout, logins, trail, clock, rng)
    consents = Consents(SqlConsentStore(engine), lab.audit, clock, ISSUER)
    given = GivenAccess(lab.families, consents, lab.directory, (SqlCodeStore(lab.engine), lab.devices))
    account = Account(users, passwords, passkeys, lockout, logins, given, trail, clock)
    setup = SetUp(links, users, passwords, passkeys, logins, trail, clock)
    terms = Terms({"acme", "globex"}, {"reader", "analyst"}, {"finance"}, passkeys=True)
    admin = UserAdmin(terms, store, store, links, passwords, passkey_store, logins, trail, clock, rng)
    pages = Pages(ISSUER, SECRET, rng)
    login_pages = LoginPages(pages, sign_in, logins, passkeys, lambda _: (), ["acme", "globex"], clock)
    lab.app.router.routes.extend(
        [
            *login_routes(login_pages, pages, ISSUER),
            *setup_routes(SetupPages(pages, setup, passkeys=True), pages, ISSUER),
            *account_routes(AccountPages(pages, account, logins, clock, passkeys=True), pages, ISSUER),
            *asset_routes(ISSUER),
        ]
    )
    return PeopleLab(lab, admin, users, logins, sign_in, passwords, consents, store, passkey_store)
