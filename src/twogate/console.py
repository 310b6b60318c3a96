"""The composition of the console: the pages on which people look, decide and operate (row R-73)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.routing import Route

from twogate.adapters.argument_schema import ArgumentSchema
from twogate.adapters.audit_reading import AuditReader
from twogate.adapters.signers.agent_key import new_agent_key
from twogate.approvals import open_approvals
from twogate.config import Settings
from twogate.config.pins import approval_required
from twogate.config.policy import configured_agents
from twogate.core.access import Policy
from twogate.explaining import around_of
from twogate.flows.agents import AgentAdmin
from twogate.flows.authserver.clients import Client
from twogate.flows.authserver.logins import Logins
from twogate.flows.console.changes import Changes
from twogate.flows.envelope import Envelope
from twogate.flows.gateway.catalogue import Catalogue
from twogate.flows.gateway.pins import PinBook
from twogate.flows.operations.mint import MintToken
from twogate.flows.registry import Registry
from twogate.flows.session_admin import SessionAdmin
from twogate.people import People
from twogate.state import State
from twogate.stores.sql.approvals import SqlParkedStore
from twogate.stores.sql.pins import SqlPinStore
from twogate.web.console.agents import AgentPages
from twogate.web.console.approvals import ApprovalPages, approval_routes
from twogate.web.console.desk import Desk
from twogate.web.console.differences import DifferencePage
from twogate.web.console.events import EventPages
from twogate.web.console.explain import ExplainPage
from twogate.web.console.explain_pins import PinLooks
from twogate.web.console.frame import APPROVALS, TOKENS
from twogate.web.console.matrix import MatrixPage
from twogate.web.console.overview import OverviewPage
from twogate.web.console.sessions import SessionPages
from twogate.web.console.tokens import TokenPage
from twogate.web.console.tools import ToolPages
from twogate.web.console.trail import TrailPages
from twogate.web.console.visit import ConsoleVisits
from twogate.web.pages import Pages


@dataclass(frozen=True)
class Shown:
    """What the console takes from the process and the generation around it. `closing` ends its streams."""

    policy: Policy
    registry: Registry
    catalogue: Catalogue
    pins: PinBook
    clients: Mapping[str, Client]
    """Those of the configuration."""
    closing: tuple[asyncio.Event, ...]
    mint: MintToken | None


def console_routes(
    state: State, settings: Settings, envelope: Envelope, people: People, confirmed: Logins, pages: Pages, seen: Shown
) -> list[Route]:
    """The pages of people with duties. `confirmed` are the logins that people's own providers confirm."""
    issuer, clock, policy, registry = settings.public_url, state.clock, seen.policy, seen.registry
    approvals, parked = open_approvals(state, settings, envelope), SqlParkedStore(state.engine)
    visits = ConsoleVisits(pages, people.logins, confirmed, people.users, clock, issuer, settings.duties)
    # Nobody could approve or sign where passkeys cannot be used, so nothing waits there either.
    desk = Desk(pages, visits, people.users, issuer, () if approvals.voting is not None else (APPROVALS, TOKENS))
    trail = AuditReader(settings.state_directory / "audit", clock)
    sessions = SessionAdmin(state.sessions, state.audit, clock)
    admin = AgentAdmin(
        registry=registry,
        store=state.registry_store,
        clients=state.clients,
        audit=state.audit,
        clock=clock,
        rng=state.rng,
        new_key=new_agent_key,
    )
    configured = configured_agents(settings)[0].keys()
    looks = PinLooks(SqlPinStore(state.engine), policy, seen.catalogue, ArgumentSchema)
    routes: list[Route] = []
    if approvals.voting is not None:
        served = ApprovalPages(pages, approvals.parking, approvals.voting, people.users, clock)
        routes = approval_routes(served, visits, issuer)
        if seen.mint is not None:
            routes += TokenPage(desk, seen.mint, state.sessions, clock, issuer).routes()
    return [
        *routes,
        *OverviewPage(desk, parked.count, sessions, registry, trail, clock, settings.observe_until).routes(),
        *SessionPages(desk, sessions, trail, clock).routes(),
        *AgentPages(desk, registry, state.clients, admin, configured, seen.clients).routes(),
        *ToolPages(desk, policy, seen.catalogue, seen.pins, approval_required(settings)).routes(),
        *DifferencePage(desk, policy, seen.catalogue, seen.pins).routes(),
        *MatrixPage(desk, registry, policy, clock).routes(),
        *ExplainPage(desk, registry, policy, lambda: around_of(settings), looks, trail, clock).routes(),
        *TrailPages(desk, trail, clock).routes(),
        *EventPages(desk, Changes(state.revision, parked.mark, clock, seen.closing), issuer).routes(),
    ]
