"""`/console/audit`: the newest events of a tenant, with filters."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twogate.core.audit.record import AuditEvent, EventKind
from twogate.flows.approvals.voting import Approver
from twogate.flows.console.trail import Trail, TrailQuery
from twogate.web.console.desk import Desk, asked, link_to
from twogate.web.console.frame import AUDIT
from twogate.web.pages import Browser

MOST: Final = 50
"""Events on one page."""
EVERY: Final = 10
"""Seconds after which a page that is to stay new loads itself again."""

_TEXTS: Final = ("agent", "session", "reason")
_KINDS: Final = sorted(kind.value for kind in EventKind)


class TrailPages:
    """Serves it."""

    def __init__(self, desk: Desk, trail: Trail) -> None:
        self._desk = desk
        self._trail = trail

    async def show(self, request: Request, browser: Browser, visitor: Approver) -> Response:
        """GET shows the events that pass, newest first. Who looks is of one tenant, and so is all that they see."""
        texts = {name: asked(request, name) for name in _TEXTS}
        kind = asked(request, "kind")
        anomalies, live = asked(request, "anomalies") == "1", asked(request, "live") == "1"
        before = asked(request, "before")
        query = TrailQuery(
            tenant=visitor.user.tenant,
            kind=EventKind(kind) if kind in _KINDS else None,
            agent=texts["agent"],
            session=texts["session"],
            reason=texts["reason"],
            anomalies=anomalies,
            before=int(before) if before.isascii() and before.isdigit() and len(before) <= 16 else 0,  # noqa: PLR2004
        )
        found = await self._trail.page(query, MOST)
        given: dict[str, str | int] = {**texts, "kind": query.kind or "", "anomalies": int(anomalies)}
        return self._desk.render(
            "console_audit.html",
            browser,
            visitor,
            AUDIT,
            found=found,
            given=given,
            kinds=_KINDS,
            at=_at,
            what=_what,
            first=query.before == 0,
            every=EVERY if live and query.before == 0 else 0,
            keep_new=link_to(AUDIT, **given, live=1),
            stay=link_to(AUDIT, **given),
            newest=link_to(AUDIT, **given),
            on=link_to(AUDIT, **given, before=found.events[-1].at) if found.more and found.events else None,
        )

    def routes(self) -> list[Route]:
        """`/console/audit`."""
        return [self._desk.route(AUDIT.path, self.show, AUDIT, "GET", "HEAD")]


def _at(event: AuditEvent) -> str:
    return datetime.fromtimestamp(event.at / 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _what(event: AuditEvent) -> str:
    return event.target or event.method or event.server
