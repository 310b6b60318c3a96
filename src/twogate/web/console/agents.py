"""`/console/agents`: the agents of a tenant with the clients that act as them, and the buttons that pause one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twogate.core.errors import ErrorCode, GateError
from twogate.core.principal import Agent, AgentId
from twogate.flows.agents import AgentAdmin
from twogate.flows.approvals.voting import Approver
from twogate.flows.authserver.clients import Client
from twogate.flows.registry import Registry
from twogate.web.console.desk import Desk, link_to, page_number, same_page
from twogate.web.console.frame import AGENTS, AUDIT, MATRIX, OPERATORS
from twogate.web.pages import Browser

MOST = 50
"""Agents on one page."""
CLIENTS = 200
"""Clients on one page, the last used."""

PAUSE_PATH = f"{AGENTS.path}/pause"
ENABLE_PATH = f"{AGENTS.path}/enable"


class AgentClients(Protocol):
    """Finds the clients that act as agents."""

    async def of_agents(self, tenant: str, agents: Collection[str], most: int) -> Sequence[Client]:
        """A tenant's clients that act as one of these agents, the last used first.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...


class AgentPages:
    """Serves it. `configured` are the agents, `declared` the clients that the configuration defines."""

    def __init__(
        self,
        desk: Desk,
        registry: Registry,
        clients: AgentClients,
        admin: AgentAdmin,
        configured: Collection[AgentId],
        declared: Mapping[str, Client],
    ) -> None:
        self._desk = desk
        self._registry = registry
        self._clients = clients
        self._admin = admin
        self._configured = configured
        self._declared = declared

    async def show(self, request: Request, browser: Browser, visitor: Approver) -> Response:
        """GET lists them."""
        tenant = visitor.user.tenant
        view = await self._registry.view()
        mine = sorted((agent for key, agent in view.agents.items() if key.tenant == tenant), key=lambda agent: agent.id)
        number = page_number(request.query_params)
        listed = mine[(number - 1) * MOST : number * MOST]
        clients = [*self._of_configuration(listed), *await self._of_store(tenant, listed)]
        rows = [
            {
                "agent": agent,
                "configured": agent.id in self._configured,
                "clients": [client for client in clients if client.agent == agent.id],
                "matrix": link_to(MATRIX, agent=agent.id.agent),
                "events": link_to(AUDIT, agent=agent.id.agent),
            }
            for agent in listed
        ]
        return self._desk.render(
            "console_agents.html",
            browser,
            visitor,
            AGENTS,
            live=True,
            number=number,
            rows=rows,
            count=len(mine),
            back=link_to(AGENTS, page=number - 1) if number > 1 else None,
            on=link_to(AGENTS, page=number + 1) if number * MOST < len(mine) else None,
            may_pause=not visitor.duties.isdisjoint(OPERATORS),
            pause_path=PAUSE_PATH,
            enable_path=ENABLE_PATH,
        )

    async def pause(self, request: Request, browser: Browser, visitor: Approver) -> Response:
        """POST cuts one off, from its next request on."""
        agent, by, back = await self._chosen(request, browser, visitor)
        await self._admin.disable(agent, by)
        return self._desk.pages.redirect(back, browser)

    async def enable(self, request: Request, browser: Browser, visitor: Approver) -> Response:
        """POST lets one in again."""
        agent, by, back = await self._chosen(request, browser, visitor)
        await self._admin.enable(agent, by)
        return self._desk.pages.redirect(back, browser)

    async def _chosen(self, request: Request, browser: Browser, visitor: Approver) -> tuple[AgentId, str, str]:
        form = await self._desk.pages.read_form(request, browser)
        # The name alone is asked for: the tenant is the visitor's, whatever the form says.
        agent = AgentId(visitor.user.tenant, form.get("agent", ""))
        if await self._registry.agent(agent) is None:
            raise GateError(ErrorCode.NOT_FOUND, "no such agent in this tenant")
        return agent, f"{visitor.user.tenant}/{visitor.user.name}", same_page(AGENTS, form)

    def _of_configuration(self, agents: Sequence[Agent]) -> list[Client]:
        ids = {agent.id for agent in agents}
        return [client for client in self._declared.values() if client.agent in ids]

    async def _of_store(self, tenant: str, agents: Sequence[Agent]) -> Sequence[Client]:
        if not agents:
            return ()
        return await self._clients.of_agents(tenant, [agent.id.agent for agent in agents], CLIENTS)

    def routes(self) -> list[Route]:
        """`/console/agents` and what is below it."""
        desk = self._desk
        return [
            desk.route(AGENTS.path, self.show, AGENTS, "GET", "HEAD"),
            desk.restricted(PAUSE_PATH, desk.visits.page(self.pause, *OPERATORS), "POST"),
            desk.restricted(ENABLE_PATH, desk.visits.page(self.enable, *OPERATORS), "POST"),
        ]
