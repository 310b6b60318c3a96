"""The whole process in one, with two tenants, their people and what the console shows of them; no browser."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import rfc8785

from peoplelab import RP_ID, Browser
from processlab import here_json, read_events
from softkey import SoftKey
from tokenlab import ISSUER, Lab
from twogate.adapters.envelope import KEY_FILE, LocalEnvelope
from twogate.adapters.signers.local import LocalSecret
from twogate.app import Application, build_app
from twogate.approvals import open_approvals
from twogate.config import load_settings
from twogate.core.approval import Duty, Rule
from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.errors import ErrorCode
from twogate.core.principal import Agent, AgentId, UserId
from twogate.core.session import Session
from twogate.flows.approvals.parked import Parked, Target
from twogate.flows.authserver.links import LinkPurpose
from twogate.flows.authserver.people import User
from twogate.flows.authserver.user_admin import NewUser, UserAdmin
from twogate.flows.hypothetical import hypothetical_principal
from twogate.people import user_admin
from twogate.state import State, open_state

CLASSES = ("read", "search", "fetch", "write", "send", "execute", "secrets", "configure")
SETTINGS: dict[str, Any] = {
    "public_url": ISSUER,
    "listen": "127.0.0.1:8443",
    "tls": {"certificate": "server.pem", "key": "server.key"},
    "store": "sqlite:///./state/console.db",
    "state": "state",
    "servers": {
        "files": {"url": "http://127.0.0.1:9/mcp", "timeout": "1s"},
        "vault": {"url": "http://127.0.0.1:9/mcp", "timeout": "1s"},
    },
    "tools": {"files.read": {"class": "read"}, "files.write": {"class": "write"}},
    "tasks": {"report": {"tools": ["read"]}},
    "agents": {
        f"{tenant}/{name}": {
            "role": "executor",
            "tasks": ["report"],
            "default_task": "report",
            "bindings": [{"issuer": "embedded", "client_id": f"{tenant}-{name}"}],
        }
        for tenant, name in (("acme", "reporter"), ("globex", "digger"))
    },
    "tenants": {
        "acme": {"servers": ["files"]},
        "globex": {"servers": ["files", "vault"], "tools": {"vault.dig": {"class": "fetch"}}},
    },
    "groups": {"watchers": {"role": "reader"}},
    "duties": {"watchers": ["viewer"]},
    "limits": {"requests": 1000, "burst": 10000},
}
AGENTS = {
    tenant: Agent(AgentId(tenant, name), "executor", ("report",), "report")
    for tenant, name in (("acme", "reporter"), ("globex", "digger"))
}


@dataclass
class ConsoleLab:
    """The process, its operator, and people with their passkeys."""

    app: Application
    state: State
    admin: UserAdmin

    def browser(self) -> Browser:
        return Browser(cast("Lab", SimpleNamespace(app=self.app)))

    async def person(self, name: str, *duties: Duty, tenant: str = "acme", groups: tuple[str, ...] = ()) -> User:
        user, _, _ = await self.admin.add(NewUser(tenant, name, duties=duties, groups=groups))
        return user

    async def visitor(self, name: str, *duties: Duty, tenant: str = "acme") -> Browser:
        """A browser in which a new person with these duties is logged in."""
        user = await self.person(name, *duties, tenant=tenant)
        return await self.log_in(user)

    async def log_in(self, user: User) -> Browser:
        link, _ = await self.admin.link(user, LinkPurpose.PASSKEY)
        key, browser = SoftKey(origin=ISSUER, rp_id=RP_ID), self.browser()
        await browser.open_link(link)
        assert (await browser.enrol(key)).status_code == 303
        assert (await browser.log_in_by(key, tenant=user.tenant)).status_code == 303
        return browser

    async def session(self, tenant: str = "acme", user: UserId | None = None) -> Session:
        """A live session of a tenant's agent."""
        agent, now = AGENTS[tenant], self.state.clock.now()
        principal = hypothetical_principal(agent, {}, scopes=()).key
        session = Session(f"sid-{tenant}", principal, "report", frozenset({"files.read"}), now, now + 3600)
        return await self.state.sessions.open(session, agent, now)

    async def park(self, tenant: str = "acme") -> Parked:
        """A call that waits."""
        settings = self.state.settings
        keys = LocalSecret.open(settings.state_directory / "keys", KEY_FILE)
        parking = open_approvals(self.state, settings, LocalEnvelope(keys, self.state.rng)).parking
        principal = hypothetical_principal(AGENTS[tenant], {}, scopes=())
        now = self.state.clock.now()
        session = Session(f"sid-{tenant}", principal.key, "report", frozenset(), now, now + 3600)
        params = rfc8785.dumps({"name": "write", "arguments": {"tenant": tenant}})
        target = Target("files", "files.write", "", "ab" * 32, params)
        return await parking.park(principal, session, target, Rule(frozenset({Duty.APPROVER})))

    async def refuse(self, tenant: str = "acme", **changes: Any) -> None:
        """Write down that a call was refused."""
        event = AuditEvent(
            kind=EventKind.CALL_REFUSED,
            at=self.state.clock.now_us(),
            tenant=tenant,
            agent=AGENTS[tenant].id.agent,
            session=f"sid-{tenant}",
            target="files.write",
            decision="deny",
            reason=ErrorCode.TASK_NOT_PERMITTED.value,
            anomaly=True,
        )
        values = {name: getattr(event, name) for name in event.__struct_fields__}
        await self.state.audit.append(AuditEvent(**{**values, **changes}))

    def events(self, kind: EventKind) -> list[dict[str, Any]]:
        trail = self.state.settings.state_directory / "audit"
        return [event for event in read_events(trail) if event["kind"] == kind.value]


@asynccontextmanager
async def open_console_lab(directory: Path) -> AsyncGenerator[ConsoleLab]:
    """Start the process, without a socket."""
    here_json("init", directory, "--public-url", ISSUER)
    config = directory / "twogate.yaml"
    config.write_text(json.dumps(SETTINGS))  # JSON is YAML
    state = await open_state(load_settings(config))
    try:
        app = build_app(state)
        await app.open()
        try:
            yield ConsoleLab(app, state, user_admin(state))
        finally:
            app.draining.set()
            await app.close()
    finally:
        await state.close()
