"""`/console/tools/difference`: what was approved of a tool, and what its server shows of it now."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twogate.core.access import Policy
from twogate.core.errors import ErrorCode, GateError
from twogate.core.pins import MISSING, definition_of, pin_digest
from twogate.core.protocol import tool_target
from twogate.flows.approvals.voting import Approver
from twogate.flows.console.differences import Compared, compare
from twogate.flows.gateway.catalogue_fetch import Offer
from twogate.flows.gateway.pins import PinBook
from twogate.web.console.desk import Desk, asked, link_to
from twogate.web.console.frame import TOOLS
from twogate.web.pages import Browser

PATH: Final = f"{TOOLS.path}/difference"
PATIENCE: Final = 10.0
"""Seconds that a page waits for a server."""


class Offers(Protocol):
    """Asks servers what they show."""

    async def offer(self, tenant: str, server: str) -> Offer:
        """All that a server shows now.

        Raises:
            GateError: UPSTREAM_UNAVAILABLE and the like; RATE_LIMITED while it is being asked.
        """
        ...


class DifferencePage:
    """Serves it. The server is asked anew each time: what the gateway keeps of a list are digests."""

    def __init__(self, desk: Desk, policy: Policy, offers: Offers, pins: PinBook) -> None:
        self._desk = desk
        self._policy = policy
        self._offers = offers
        self._pins = pins

    async def show(self, request: Request, browser: Browser, visitor: Approver) -> Response:
        """GET shows one tool."""
        tenant, server, name = visitor.user.tenant, asked(request, "server"), asked(request, "tool")
        entry = self._policy.tenants.get(tenant)
        if entry is None or server not in entry.servers:
            raise GateError(ErrorCode.NOT_FOUND, "no such server of this tenant")
        target = tool_target(server, name)
        digest = (await self._pins.of(tenant, server)).digests.get(target)
        if digest is None:
            raise GateError(ErrorCode.NOT_FOUND, "nobody approved such a tool")
        approved = await self._pins.definition(tenant, server, target, digest)
        wrong, compared, now, gone = None, Compared((), 0), b"", False
        try:
            async with asyncio.timeout(PATIENCE):
                tools: Mapping[str, object] = (await self._offers.offer(tenant, server)).tools
        except TimeoutError:
            wrong = "The server has not answered. Look again in a moment."
        except GateError as error:
            wrong = f"The server cannot be asked for its tools now ({error.code.value})."
        else:
            shown_now = tools.get(name, MISSING)
            gone = shown_now is MISSING
            now = b"" if gone else pin_digest(definition_of(shown_now))
            # A definition may be a megabyte, and calls must not wait for it.
            compared = await asyncio.to_thread(compare, approved, shown_now)
        return self._desk.render(
            "console_difference.html",
            browser,
            visitor,
            TOOLS,
            status=200 if wrong is None else 503,
            target=target,
            server=server,
            wrong=wrong,
            compared=compared,
            gone=gone,
            was=digest.hex(),
            now=now.hex(),
            tools=link_to(TOOLS, server=server),
        )

    def routes(self) -> list[Route]:
        """`/console/tools/difference`."""
        return [self._desk.route(PATH, self.show, TOOLS, "GET", "HEAD")]
