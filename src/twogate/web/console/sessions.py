"""`/console/sessions`: the live sessions of a tenant, and the button that ends one."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twogate.core.entry import WITHHELD
from twogate.core.session import Session
from twogate.flows.approvals.voting import Approver
from twogate.flows.console.trail import Trail, recent_if_read
from twogate.flows.environment import Clock
from twogate.flows.session_admin import SessionAdmin
from twogate.web.console.desk import Desk, link_to, page_number, same_page
from twogate.web.console.frame import AUDIT, OPERATORS, SESSIONS
from twogate.web.pages import Browser

MOST = 50
"""Sessions on one page."""
TOOLS = 100
"""Tools that are named of one session."""

END_PATH = f"{SESSIONS.path}/end"


class SessionPages:
    """Serves it."""

    def __init__(self, desk: Desk, sessions: SessionAdmin, trail: Trail, clock: Clock) -> None:
        self._desk = desk
        self._sessions = sessions
        self._trail = trail
        self._clock = clock

    async def show(self, request: Request, browser: Browser, visitor: Approver) -> Response:
        """GET lists them."""
        tenant, number = visitor.user.tenant, page_number(request.query_params)
        found, count = await self._sessions.newest(tenant, MOST, (number - 1) * MOST)
        recent = await recent_if_read(self._trail, tenant)
        now = self._clock.now()
        refused: Mapping[str, int] = {} if recent is None else recent.refused
        rows = [await self._row(session, refused.get(session.id, 0), now) for session in found]
        return self._desk.render(
            "console_sessions.html",
            browser,
            visitor,
            SESSIONS,
            live=True,
            number=number,
            rows=rows,
            count=count,
            cut=recent is not None and recent.cut,
            trail_read=recent is not None,
            back=link_to(SESSIONS, page=number - 1) if number > 1 else None,
            on=link_to(SESSIONS, page=number + 1) if number * MOST < count else None,
            may_end=not visitor.duties.isdisjoint(OPERATORS),
            end_path=END_PATH,
        )

    async def end(self, request: Request, browser: Browser, visitor: Approver) -> Response:
        """POST ends one."""
        form = await self._desk.pages.read_form(request, browser)
        tenant = visitor.user.tenant
        await self._sessions.end(form.get("session", ""), f"{tenant}/{visitor.user.name}", tenant)
        return self._desk.pages.redirect(same_page(SESSIONS, form), browser)

    async def _row(self, session: Session, refused: int, now: int) -> dict[str, object]:
        held = sorted(name for name in session.targets if not name.startswith(WITHHELD))
        return {
            "session": session,
            "user": await self._desk.user_label(session.principal.tenant, session.principal.user),
            "tools": held[:TOOLS],
            "more": max(0, len(held) - TOOLS),
            "count": len(held),
            "minutes": max(1, (session.deadline - now + 59) // 60),
            "refused": refused,
            "events": link_to(AUDIT, session=session.id),
        }

    def routes(self) -> list[Route]:
        """`/console/sessions` and what is below it."""
        end = self._desk.visits.page(self.end, *OPERATORS)
        return [
            self._desk.route(SESSIONS.path, self.show, SESSIONS, "GET", "HEAD"),
            self._desk.restricted(END_PATH, end, "POST"),
        ]
