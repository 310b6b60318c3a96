"""`/console/tools`: the tools of a tenant's servers, how they are classified, and whether they are as approved."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import urlencode

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twogate.core import strict_json
from twogate.core.access import Policy
from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import MAX_ANSWER, MAX_DEPTH
from twogate.core.pins import changed_members, named, shape_of
from twogate.core.protocol import tool_target
from twogate.flows.approvals.voting import Approver
from twogate.flows.gateway.catalogue import Catalogue
from twogate.flows.gateway.pins import PinBook
from twogate.flows.gateway.tool_list import NO_TOOLS, Tool
from twogate.web.console.desk import Desk, asked, link_to, page_number
from twogate.web.console.differences import PATH
from twogate.web.console.frame import TOOLS
from twogate.web.pages import Browser

MOST: Final = 100
"""Tools on one page."""
PATIENCE: Final = 5.0
"""Seconds that a page waits for a server; it goes on being asked, and the next look may find its answer."""

_DIFFER: Final = ("changed", "gone")
_NO_TOOL: Final = ("resource:", "prompt:", "instructions:")


class ToolRow(msgspec.Struct, frozen=True):
    """One tool. `pin` is `approved`, `changed`, `gone`, `missing`, `unknown` or `none`.

    `changed` says which members differ; `difference` leads to where it is shown how.
    """

    name: str
    target: str
    tool_class: str
    pin: str
    changed: str = ""
    fault: str = ""
    difference: str = ""


class ToolPages:
    """Serves it. `required` are the servers of which nothing may be called that nobody approved."""

    def __init__(
        self, desk: Desk, policy: Policy, catalogue: Catalogue, pins: PinBook, required: frozenset[str]
    ) -> None:
        self._desk = desk
        self._policy = policy
        self._catalogue = catalogue
        self._pins = pins
        self._required = required

    async def show(self, request: Request, browser: Browser, visitor: Approver) -> Response:
        """GET shows those of the server that is asked for, else of the first."""
        tenant = visitor.user.tenant
        entry = self._policy.tenants.get(tenant)
        servers = sorted(entry.servers) if entry is not None else []
        server = asked(request, "server") or (servers[0] if servers else "")
        if server and server not in servers:
            raise GateError(ErrorCode.NOT_FOUND, "no such server of this tenant")
        tools, wrong = NO_TOOLS, None
        rows: list[ToolRow] = []
        number = page_number(request.query_params)
        count = 0
        if server:
            try:
                async with asyncio.timeout(PATIENCE):
                    listed = await self._catalogue.tools(tenant, server)
                    if asked(request, "again"):
                        # At most once a second, whoever asks: as after a call that did not fit.
                        listed = await self._catalogue.tools(tenant, server, newer_than=listed)
                    tools = listed.tools
            except TimeoutError:
                wrong = "The server has not answered yet. Look again in a moment."
            except GateError as error:
                wrong = f"The server cannot be asked for its tools now ({error.code.value})."
            # Without the server's answer nothing is known of what it shows, but what was classified or approved is.
            approved = (await self._pins.of(tenant, server)).digests
            known = (*self._policy.of(tenant).classes, *approved)
            names = sorted({*tools, *_tools_of(server, known)})
            count = len(names)
            rows = [
                await self._row(tenant, server, name, tools.get(name), approved, asked_it=wrong is None)
                for name in names[(number - 1) * MOST : number * MOST]
            ]
        return self._desk.render(
            "console_tools.html",
            browser,
            visitor,
            TOOLS,
            live=True,
            servers=servers,
            server=server,
            wrong=wrong,
            rows=rows,
            count=count,
            required=server in self._required,
            again=link_to(TOOLS, server=server, again=1),
            back=link_to(TOOLS, server=server, page=number - 1) if number > 1 else None,
            on=link_to(TOOLS, server=server, page=number + 1) if number * MOST < count else None,
        )

    async def _row(
        self, tenant: str, server: str, name: str, tool: Tool | None, approved: Mapping[str, bytes], *, asked_it: bool
    ) -> ToolRow:
        target = tool_target(server, name)
        found = self._policy.of(tenant).own.get(target)
        pin, changed = "none", ""
        if tool is None:
            pin = "unknown" if not asked_it else "gone" if target in approved else "missing"
        elif target in approved:
            pin = "approved"
            if tool.digest != approved[target]:
                pin, changed = "changed", await self._changed(tenant, server, target, approved[target], tool)
        tool_class = "" if found is None else found.tool_class.value
        difference = f"{PATH}?{urlencode({'server': server, 'tool': name})}" if pin in _DIFFER else ""
        return ToolRow(name, target, tool_class, pin, changed, "" if tool is None else tool.fault or "", difference)

    async def _changed(self, tenant: str, server: str, target: str, digest: bytes, tool: Tool) -> str:
        try:
            definition = await self._pins.definition(tenant, server, target, digest)
        except GateError as error:
            if error.code is not ErrorCode.TOOL_CHANGED:
                raise
            return "approved anew meanwhile"
        before = strict_json.decode(definition, max_bytes=MAX_ANSWER, max_depth=MAX_DEPTH)
        return named(changed_members(shape_of(before), tool.shape))

    def routes(self) -> list[Route]:
        """`/console/tools`."""
        return [self._desk.route(TOOLS.path, self.show, TOOLS, "GET", "HEAD")]


def _tools_of(server: str, targets: Iterable[str]) -> set[str]:
    start = f"{server}."
    rests = (target.removeprefix(start) for target in targets if target.startswith(start))
    return {rest.removeprefix("tool:") for rest in rests if not rest.startswith(_NO_TOOL)}
