"""`/console/matrix`: what one agent may do within each of its tasks, tool by tool."""

from __future__ import annotations

from itertools import islice

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twogate.core.access import Policy
from twogate.core.errors import ErrorCode, GateError
from twogate.core.principal import AgentId
from twogate.flows.approvals.voting import Approver
from twogate.flows.environment import Clock
from twogate.flows.hypothetical import describe
from twogate.flows.matrix import Cell, agent_matrix
from twogate.flows.registry import Registry
from twogate.web.console.desk import Desk, asked, link_to, page_number
from twogate.web.console.frame import EXPLAIN, MATRIX
from twogate.web.pages import Browser

CELLS = 2000
"""Cells of one page at most, so that no page takes the process long."""
ROWS = 100
"""Tools of one page at most."""


class MatrixPage:
    """Serves it."""

    def __init__(self, desk: Desk, registry: Registry, policy: Policy, clock: Clock) -> None:
        self._desk = desk
        self._registry = registry
        self._policy = policy
        self._clock = clock

    async def show(self, request: Request, browser: Browser, visitor: Approver) -> Response:
        """GET shows the table of the agent that is asked for, else of the first."""
        tenant = visitor.user.tenant
        view = await self._registry.view()
        names = sorted(key.agent for key in view.agents if key.tenant == tenant)
        chosen = asked(request, "agent") or (names[0] if names else "")
        agent = view.agents.get(AgentId(tenant, chosen))
        if agent is None and chosen:
            raise GateError(ErrorCode.NOT_FOUND, "no such agent in this tenant")
        classes = self._policy.of(tenant).classes
        number, size = (
            page_number(request.query_params),
            max(1, min(ROWS, CELLS // max(1, len(agent.tasks) if agent else 1))),
        )
        here = dict(islice(sorted(classes.items()), (number - 1) * size, number * size))
        rows: dict[str, list[Cell]] = {tool: [] for tool in here}
        if agent is not None:
            for cell in agent_matrix(self._policy, agent, view.bindings, here.items(), self._clock.now()):
                rows[cell.tool].append(cell)

        def explain(tool: str, task: str) -> str:
            return link_to(EXPLAIN, agent=chosen, tool=tool, task=task)

        return self._desk.render(
            "console_matrix.html",
            browser,
            visitor,
            MATRIX,
            live=True,
            names=names,
            agent=agent,
            rows=[(tool, here[tool].value, [(cell, _why(cell)) for cell in cells]) for tool, cells in rows.items()],
            count=len(classes),
            back=link_to(MATRIX, agent=chosen, page=number - 1) if number > 1 else None,
            on=link_to(MATRIX, agent=chosen, page=number + 1) if number * size < len(classes) else None,
            explain=explain,
        )

    def routes(self) -> list[Route]:
        """`/console/matrix`."""
        return [self._desk.route(MATRIX.path, self.show, MATRIX, "GET", "HEAD")]


def _why(cell: Cell) -> str:
    return "" if cell.reason is None else describe(ErrorCode(cell.reason))
