"""`/console/explain`: whether a call would be allowed, and why; the form of `twogate explain`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twogate.core.access import Policy
from twogate.core.principal import AgentId
from twogate.flows.approvals.voting import Approver
from twogate.flows.environment import Clock
from twogate.flows.explain import Explanation, Judge, explain_call
from twogate.flows.hypothetical import hypothetical_principal
from twogate.flows.registry import Registry, RegistryView
from twogate.web.console.desk import Desk, asked
from twogate.web.console.frame import EXPLAIN
from twogate.web.pages import Browser

CHOICES = 500
"""Agents, tools and tasks that the form proposes; any other may be typed."""
MAX_NAMES = 32
"""Scopes, groups or roles that are taken from one field."""

_FIELDS = ("agent", "tool", "task", "scopes", "groups", "roles")


class ExplainPage:
    """Serves it. `open_judge` reads the policies, which may take a while: once, in a thread, when first needed."""

    def __init__(
        self, desk: Desk, registry: Registry, policy: Policy, open_judge: Callable[[], Judge], clock: Clock
    ) -> None:
        self._desk = desk
        self._registry = registry
        self._policy = policy
        self._open_judge = open_judge
        self._judge: Judge | None = None
        self._lock = asyncio.Lock()
        self._clock = clock

    async def show(self, request: Request, browser: Browser, visitor: Approver) -> Response:
        """GET shows the form, and the answer once something is asked: asking changes nothing."""
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
            if self._judge is None:
                self._judge = await asyncio.to_thread(self._open_judge)
        policy = self._policy.of(tenant)
        return explain_call(principal, given["tool"], given["task"] or None, policy, self._judge, self._clock.now())

    def routes(self) -> list[Route]:
        """`/console/explain`."""
        return [self._desk.route(EXPLAIN.path, self.show, EXPLAIN, "GET", "HEAD")]


def _names(text: str) -> list[str]:
    return [name for name in re.split(r"[\s,]+", text) if name][:MAX_NAMES]
