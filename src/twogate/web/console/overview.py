"""`/console`: what waits, what is under way, and what was odd in the last day."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twogate.flows.approvals.voting import Approver
from twogate.flows.console.trail import Trail, recent_if_read
from twogate.flows.environment import Clock
from twogate.flows.registry import Registry
from twogate.flows.session_admin import SessionAdmin
from twogate.web.console.desk import Desk, link_to
from twogate.web.console.frame import AGENTS, APPROVALS, AUDIT, OVERVIEW, SESSIONS
from twogate.web.pages import Browser

CountWaiting = Callable[[str, int], Awaitable[int]]
"""How many of a tenant's calls wait for people at a time (Unix seconds)."""


class OverviewPage:
    """Serves it. Everybody sees the part that their duties let them see."""

    def __init__(
        self,
        desk: Desk,
        waiting: CountWaiting,
        sessions: SessionAdmin,
        registry: Registry,
        trail: Trail,
        clock: Clock,
        observe_until: int | None,
    ) -> None:
        self._desk = desk
        self._waiting = waiting
        self._sessions = sessions
        self._registry = registry
        self._trail = trail
        self._clock = clock
        self._observe_until = observe_until

    async def show(self, _: Request, browser: Browser, visitor: Approver) -> Response:
        """GET shows the page."""
        tenant, desk, now = visitor.user.tenant, self._desk, self._clock.now()
        waiting = await self._waiting(tenant, now) if desk.shows(APPROVALS, visitor) else None
        sessions = await self._sessions.count(tenant) if desk.shows(SESSIONS, visitor) else None
        agents = None
        if desk.shows(AGENTS, visitor):
            view = await self._registry.view()
            agents = [agent.disabled for agent_id, agent in view.agents.items() if agent_id.tenant == tenant]
        sees_trail = desk.shows(AUDIT, visitor)
        recent = await recent_if_read(self._trail, tenant) if sees_trail else None
        observing = self._observe_until is not None and now < self._observe_until
        return desk.render(
            "console_overview.html",
            browser,
            visitor,
            OVERVIEW,
            live=True,
            waiting=waiting,
            sessions=sessions,
            agents=None if agents is None else len(agents),
            paused=None if agents is None else sum(agents),
            recent=recent,
            trail_away=sees_trail and recent is None,
            alerts_path=link_to(AUDIT, anomalies=1),
            paths={page.name: page.path for page in (APPROVALS, SESSIONS, AGENTS)},
            observe_until=self._observe_until if observing else None,
        )

    def routes(self) -> list[Route]:
        """`/console`."""
        return [self._desk.route(OVERVIEW.path, self.show, OVERVIEW, "GET", "HEAD")]
