"""`/console/events`: a stream that tells an open page that something changed, and no more (Server-Sent Events).

It carries nothing of the tenant's: the page fetches itself anew, as the person who looks, with the duties of then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from twogate.core.errors import ErrorCode, GateError
from twogate.flows.approvals.voting import Approver
from twogate.flows.console.changes import Changes, Watch
from twogate.web.console.desk import Desk
from twogate.web.console.frame import EVERYBODY, ROOT
from twogate.web.console.visit import ConsoleVisits
from twogate.web.headers import security_headers
from twogate.web.pages import Browser
from twogate.web.visitors import with_wait

EVENTS_PATH: Final = f"{ROOT}/events"

KEEPALIVE: Final = 15.0
"""Seconds of silence after which a comment is sent, and it is looked whether the person may still watch."""
PAUSE: Final = 1.0
"""Seconds between two messages at least."""

# Browsers come back by themselves, this many milliseconds after an end.
_RETRY: Final = b"retry: 3000\n\n"
_CHANGED: Final = b"event: changed\ndata: 1\n\n"
_COMMENT: Final = b":\n\n"


class EventPages:
    """Serves it."""

    def __init__(self, desk: Desk, changes: Changes, public_url: str) -> None:
        self._desk = desk
        self._changes = changes
        self._headers = {**security_headers(public_url), "Cache-Control": "no-store"}

    async def show(self, request: Request, browser: Browser, visitor: Approver) -> Response:
        """GET opens a stream for one page."""
        # Another site on a host beside ours has the cookie sent along too: it must not use up the person's few streams.
        if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
            raise GateError(ErrorCode.FORM_REFUSED, "Sec-Fetch-Site is another")
        return _Stream(self._desk, self._changes, request, browser, visitor, self._headers)

    def routes(self) -> list[Route]:
        """`/console/events`."""
        return [self._desk.restricted(EVENTS_PATH, self._desk.visits.page(self.show, *EVERYBODY), "GET")]


class _Stream(Response):
    def __init__(
        self,
        desk: Desk,
        changes: Changes,
        request: Request,
        browser: Browser,
        visitor: Approver,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(None, 200, headers, "text/event-stream")
        del self.headers["content-length"]
        self._desk = desk
        self._changes = changes
        self._request = request
        self._browser = browser
        self._visitor = visitor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        user = self._visitor.user
        try:
            async with self._changes.watch(user.tenant, user.subject) as watch:
                await self._serve(watch, receive, send)
        except GateError as error:
            refused = with_wait(self._desk.pages.error(error, self._browser), error)
            await refused(scope, receive, send)

    async def _serve(self, watch: Watch, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await _write(send, _RETRY)
        ends: list[asyncio.Future[Any]] = [asyncio.ensure_future(event.wait()) for event in self._changes.closing]
        ends.append(asyncio.ensure_future(_gone(receive)))
        try:
            while not any(end.done() for end in ends):
                changed = asyncio.ensure_future(watch.changed.wait())
                try:
                    await asyncio.wait([changed, *ends], timeout=KEEPALIVE, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    changed.cancel()
                if not await may_watch(self._desk.visits, self._request, self._browser):
                    break
                await _write(send, _CHANGED if watch.changed.is_set() else _COMMENT)
                watch.changed.clear()
                await asyncio.wait(ends, timeout=PAUSE, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
        # Whoever went away is told nothing.
        with suppress(OSError):
            await _write(send, b"", more=False)


async def may_watch(visits: ConsoleVisits, request: Request, browser: Browser) -> bool:
    """Whether the person behind a stream is still logged in, with a duty."""
    try:
        visitor = await visits.visitor(request, browser, idle=True)
    except GateError:
        return False
    return visitor is not None and bool(visitor.duties)


async def _write(send: Send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
