"""`/console/explain`: whether a call would be allowed, or why one was or was not; the form of `twogate explain`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twogate.core.access import Policy
from twogate.core.audit.record import AuditEvent
from twogate.core.principal import AgentId
from twogate.flows.approvals.voting import Approver
from twogate.flows.console.trail import Trail, TrailQuery
from twogate.flows.environment import Clock
from twogate.flows.explain import Around, Explanation, explain_call
from twogate.flows.explain_past import Past, explain_past
from twogate.flows.hypothetical import hypothetical_principal
from twogate.flows.registry import Registry, RegistryView
from twogate.web.console.desk import Desk, asked, link_to
from twogate.web.console.explain_pins import PinLooks
from twogate.web.console.frame import AUDIT, EXPLAIN
from twogate.web.pages import Browser

CHOICES = 500
"""Agents, tools and tasks that the form proposes; any other may be typed."""
MAX_NAMES = 32
"""Scopes, groups or roles that are taken from one field."""
MOST: Final = 100
"""Events of one request that are looked at."""

_FIELDS = ("agent", "tool", "task", "scopes", "groups", "roles")


class ExplainPage:
    """Serves it. `open_around` reads the policies, which may take a while: once, in a thread, when first needed."""

    def __init__(
        self,
        desk: Desk,
        registry: Registry,
        policy: Policy,
        open_around: Callable[[], Around],
        pins: PinLooks,
        trail: Trail,
        clock: Clock,
    ) -> None:
        self._desk = desk
        self._registry = registry
        self._policy = policy
        self._open_around = open_around
        self._around: Around | None = None
        self._pins = pins
        self._trail = trail
        self._lock = asyncio.Lock()
        self._clock = clock

    async def show(self, request: Request, browser: Browser, visitor: Approver) -> Response:
        """GET shows the form, and the answer once something is asked: asking changes nothing."""
        if made := asked(request, "request"):
            return await self._show_past(made, browser, visitor)
        tenant = visitor.user.tenant
        view = await self._registry.view()
        given = {name: asked(request, name) for name in _FIELDS}
        wrong, explanation = None, None
        if given["agent"] or given["tool"]:
            wrong = self._problem(given, tenant, view)
            if wrong is None:
                explanation = await self._explain(given, tenant, view)
        policy = self._policy.of(tenant)
        return self._desk.render(
            "console_explain.html",
            browser,
            visitor,
            EXPLAIN,
            status=200 if wrong is None else 404,
            given=given,
            wrong=wrong,
            explanation=explanation,
            agents=sorted(key.agent for key in view.agents if key.tenant == tenant)[:CHOICES],
            tools=sorted(policy.classes)[:CHOICES],
            tasks=sorted(policy.tasks)[:CHOICES],
        )

    async def _show_past(self, made: str, browser: Browser, visitor: Approver) -> Response:
        query = TrailQuery(tenant=visitor.user.tenant, request=made)
        found = await self._trail.page(query, MOST)
        past = explain_past(found.events[::-1]) if found.events else None
        return self._desk.render(
            "console_explain_past.html",
            browser,
            visitor,
            EXPLAIN,
            status=200 if past is not None else 404,
            made=made,
            past=past,
            cut=found.cut,
            count=len(found.events),
            now=None if past is None else _asked_now(past),
            audit=AUDIT.path,
        )

    def _problem(self, given: dict[str, str], tenant: str, view: RegistryView) -> str | None:
        agent = view.agents.get(AgentId(tenant, given["agent"]))
        if agent is None:
            return "There is no agent of this name here."
        if agent.disabled:
            return "The agent is paused: gate one refuses each of its calls."
        return None if given["tool"] else "Say which tool is called."

    async def _explain(self, given: dict[str, str], tenant: str, view: RegistryView) -> Explanation:
        principal = hypothetical_principal(
            view.agents[AgentId(tenant, given["agent"])],
            view.bindings,
            scopes=_names(given["scopes"]),
            groups=_names(given["groups"]),
            user_roles=_names(given["roles"]),
        )
        async with self._lock:
            if self._around is None:
                self._around = await asyncio.to_thread(self._open_around)
        policy, tool = self._policy.of(tenant), given["tool"]
        finding = await self._pins.of(tenant, tool)
        return explain_call(principal, tool, given["task"] or None, policy, self._around, finding, self._clock.now())

    def routes(self) -> list[Route]:
        """`/console/explain`."""
        return [self._desk.route(EXPLAIN.path, self.show, EXPLAIN, "GET", "HEAD")]


def _asked_now(past: Past) -> str | None:
    """Where it is told what would become of the same call now; None of what names no target."""
    event: AuditEvent = past.first
    if not event.target or not event.agent:
        return None
    return link_to(EXPLAIN, agent=event.agent, tool=event.target, task=event.task)


def _names(text: str) -> list[str]:
    return [name for name in re.split(r"[\s,]+", text) if name][:MAX_NAMES]
