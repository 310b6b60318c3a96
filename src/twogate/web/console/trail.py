"""`/console/audit`: the newest events of a tenant, with filters."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twogate.core.audit.record import AuditEvent, EventKind
from twogate.flows.approvals.voting import Approver
from twogate.flows.console.trail import Trail, TrailQuery
from twogate.flows.environment import Clock
from twogate.web.console.desk import Desk, asked, link_to
from twogate.web.console.frame import AUDIT, EXPLAIN
from twogate.web.pages import Browser

MOST: Final = 50
"""Events on one page."""
EVERY: Final = 10
"""Seconds after which a page that is to stay new loads itself again, in a browser without scripts."""
LATE: Final = 5_000_000
"""Microseconds that an event may come into the trail after the time that it bears."""
SEEN: Final = "Twogate-Seen"
"""The header of an answer that says that nothing new passes: up to which time it was looked."""

_TEXTS: Final = ("agent", "session", "reason")
_KINDS: Final = sorted(kind.value for kind in EventKind)
_DIGITS: Final = 16


class TrailPages:
    """Serves it."""

    def __init__(self, desk: Desk, trail: Trail, clock: Clock) -> None:
        self._desk = desk
        self._trail = trail
        self._clock = clock

    async def show(self, request: Request, browser: Browser, visitor: Approver) -> Response:
        """GET shows the events that pass, newest first. Who looks is of one tenant, and so is all that they see.

        With `after` (Unix microseconds) a page asks whether there are newer ones: 204 says that there are none.
        """
        texts = {name: asked(request, name) for name in _TEXTS}
        kind = asked(request, "kind")
        anomalies, live = asked(request, "anomalies") == "1", asked(request, "live") == "1"
        query = TrailQuery(
            tenant=visitor.user.tenant,
            kind=EventKind(kind) if kind in _KINDS else None,
            agent=texts["agent"],
            session=texts["session"],
            reason=texts["reason"],
            anomalies=anomalies,
            before=_microseconds(asked(request, "before")),
        )
        # Before the look: what is written during it is found by the next one.
        seen = self._clock.now_us() - LATE
        if after := _microseconds(asked(request, "after")):
            newer = await self._trail.page(msgspec.structs.replace(query, after=after), 1)
            if not newer.events:
                return self._desk.pages.nothing_new(browser, {SEEN: str(seen)})
        found = await self._trail.page(query, MOST)
        given: dict[str, str | int] = {**texts, "kind": query.kind or "", "anomalies": int(anomalies)}
        return self._desk.render(
            "console_audit.html",
            browser,
            visitor,
            AUDIT,
            live=True,
            watches=False,
            found=found,
            given=given,
            kinds=_KINDS,
            at=_at,
            what=_what,
            why=_why,
            first=query.before == 0,
            every=EVERY if live and query.before == 0 else 0,
            keep_new=link_to(AUDIT, **given, live=1),
            stay=link_to(AUDIT, **given),
            seen=seen,
            newest=link_to(AUDIT, **given),
            on=link_to(AUDIT, **given, before=found.events[-1].at) if found.more and found.events else None,
        )

    def routes(self) -> list[Route]:
        """`/console/audit`."""
        return [self._desk.route(AUDIT.path, self.show, AUDIT, "GET", "HEAD")]


def _microseconds(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS else 0


def _at(event: AuditEvent) -> str:
    return datetime.fromtimestamp(event.at / 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _why(event: AuditEvent) -> str | None:
    """Where it is told why a call was allowed or denied; None of what is no call."""
    return link_to(EXPLAIN, request=event.request) if event.request and event.kind.startswith("call.") else None


def _what(event: AuditEvent) -> str:
    return event.target or event.method or event.server
