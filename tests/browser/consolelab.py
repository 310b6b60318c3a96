"""A real `twogate serve` with agents, sessions, tools and calls that wait, for the console's tests in a browser."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rfc8785
from msgspec import structs
from playwright.async_api import Browser, Page

from browser.chromium import Person
from browser.conftest import Site
from harness.stack import free_port
from processlab import here_json, init, serving
from twogate.adapters.envelope import KEY_FILE, LocalEnvelope
from twogate.adapters.signers.local import LocalSecret
from twogate.approvals import open_approvals
from twogate.config import load_settings
from twogate.core.approval import Duty, Rule, State
from twogate.core.principal import Agent, AgentId, UserId
from twogate.core.session import Session
from twogate.flows.approvals.parked import Target
from twogate.flows.hypothetical import hypothetical_principal
from twogate.state import open_state

LISTING = Path(__file__).parents[1] / "stdio_servers" / "listing.py"
TOOLS = [
    {"name": name, "description": name, "inputSchema": {"type": "object"}} for name in ("die", "echo", "pid", "odd")
]
AGENT = Agent(AgentId("acme", "reporter"), "executor", ("release", "report"), "release")

SETTINGS: dict[str, Any] = {
    "servers": {},
    "tools": {
        "tiny.echo": {"class": "read"},
        "tiny.pid": {"class": "read"},
        "tiny.die": {"class": "execute"},
        "tiny.gone": {"class": "write"},
    },
    "tasks": {"release": {"tools": ["read", "write", "execute"]}, "report": {"tools": ["read"]}},
    "agents": {
        "acme/reporter": {
            "role": "executor",
            "tasks": ["release", "report"],
            "default_task": "release",
            "bindings": [{"issuer": "embedded", "client_id": "reporter"}],
        }
    },
    "tenants": {"acme": {"servers": ["tiny"]}},
    "duties": {"reviewers": ["viewer"]},
    "groups": {"reviewers": {"role": "reader"}},
}


@contextmanager
def serving_console(directory: Path) -> Iterator[Site]:
    """The gateway, on https://localhost, with an agent that called and was refused."""
    tools = directory / "tools.json"
    tools.write_text(json.dumps(TOOLS))
    servers = {"tiny": {"command": [sys.executable, "-I", str(LISTING), str(tools)]}}
    init(directory, {**SETTINGS, "servers": servers}, port=free_port())
    with serving(directory) as gateway:
        client = here_json("agent", "add", "acme/reporter", "--auth", "client_secret", "--config", gateway.config)
        token = gateway.token(client, "tiny")
        for name in ("echo", "nothing"):
            call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "arguments": {}}}
            gateway.call(token, "tiny", call)
        yield Site(gateway)


def park(site: Site, message: str = "first", *, people: int = 1) -> str:
    """Let a call of the agent wait for an approver, as the gateway does; its approval's id."""

    async def run() -> str:
        settings = load_settings(site.gateway.config)
        state = await open_state(settings)
        try:
            keys = LocalSecret.open(settings.state_directory / "keys", KEY_FILE)
            parking = open_approvals(state, settings, LocalEnvelope(keys, state.rng)).parking
            principal = hypothetical_principal(AGENT, {}, scopes=())
            now = state.clock.now()
            session = Session("s-1", principal.key, "release", frozenset({"tiny.die"}), now, now + 3600)
            params = rfc8785.dumps({"name": "die", "arguments": {"message": message}})
            target = Target("tiny", "tiny.die", "", message.encode().hex().ljust(64, "0")[:64], params)
            parked = await parking.park(principal, session, target, Rule(frozenset({Duty.APPROVER}), people))
            return parked.call.id
        finally:
            await state.close()

    return asyncio.run(run())


def begin_session(site: Site, session: str) -> None:
    """Let a person's session of the agent be live, as a call of it would open one."""

    async def run() -> None:
        state = await open_state(load_settings(site.gateway.config))
        try:
            key = hypothetical_principal(AGENT, {}, scopes=()).key
            principal = structs.replace(key, user=UserId("https://login.example", session))
            now = state.clock.now()
            held = Session(session, principal, "release", frozenset({"tiny.echo"}), now, now + 3600)
            assert (await state.sessions.open(held, AGENT, now)).id == session
        finally:
            await state.close()

    asyncio.run(run())


def state_of(site: Site, approval: str) -> State:
    """Where a call stands."""
    return State(here_json("approval", "show", approval, "--config", site.gateway.config)["state"])


async def enrol(site: Site, who: Person, name: str, *duties: str, tenant: str = "acme") -> None:
    """Make a person with duties, who sets up a passkey by the operator's link."""
    given = [part for duty in duties for part in ("--duty", duty)]
    link = await asyncio.to_thread(site.link, "add", f"{tenant}/{name}", *given)
    page = who.page
    await page.goto(link)
    await page.wait_for_url("**/link")
    async with page.expect_event("load"):
        await page.get_by_role("button", name="Continue").click()
    await page.get_by_label("What to call it").fill("Laptop")
    async with page.expect_event("load"):
        await page.get_by_role("button", name="Create a passkey").click()


async def log_in(site: Site, page: Page, tenant: str = "acme") -> None:
    """Log in by passkey, and arrive."""
    await page.goto(f"{site.url}/login?tenant={tenant}&to=/console&again=1")
    await page.get_by_role("button", name="Log in with a passkey").click()
    await page.wait_for_url("**/console")


async def without_scripts(browser: Browser, who: Person) -> Page:
    """A page of a browser that runs no script, logged in as the same person."""
    cookies: Any = await who.context.cookies()
    context = await browser.new_context(java_script_enabled=False)
    await context.add_cookies(cookies)
    return await context.new_page()
