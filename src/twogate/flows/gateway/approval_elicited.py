"""Who was told by the error -32042 where people decide its call, and may hear that they did (MCP 2025-11-25).

"Servers sending notifications MUST only send the notification to the client that initiated the elicitation request"
(MCP 2025-11-25, elicitation): a client is a principal in its own MCP session at one server. Nothing is kept for a
client that does not listen, and a process knows only of what it told itself; clients must not count on being told.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

from twogate.core.principal import PrincipalKey
from twogate.flows.gateway.read import Call
from twogate.flows.gateway.seal import McpSession

MAX_CLIENTS: Final = 4096
"""Clients that are remembered; the one that was told longest ago is forgotten first."""

MAX_EACH: Final = 32
"""Open calls of one client that are remembered."""


class Client(NamedTuple):
    """One client: whose it is, at which server, in which MCP session."""

    principal: PrincipalKey
    server: str
    session: McpSession


class Elicited:
    """The calls that clients were told to have decided, until they were told that it is done."""

    def __init__(self) -> None:
        self._told: OrderedDict[Client, dict[str, None]] = OrderedDict()

    def note(self, call: Call, approval: str) -> None:
        """A client was told where an approval is decided."""
        client = client_of(call)
        if client is None:
            return
        told = self._told.setdefault(client, {})
        self._told.move_to_end(client)
        told[approval] = None
        if len(told) > MAX_EACH:
            del told[next(iter(told))]
        if len(self._told) > MAX_CLIENTS:
            self._told.popitem(last=False)

    def open(self, call: Call) -> tuple[str, ...]:
        """The approvals that this call's client was told of, and not yet that they are decided."""
        client = client_of(call)
        return () if client is None else tuple(self._told.get(client, ()))

    def take(self, call: Call, approval: str) -> bool:
        """Whether this call's client is to be told now that an approval is decided: once, on one of its streams."""
        client = client_of(call)
        told = None if client is None else self._told.get(client)
        if client is None or told is None or approval not in told:
            return False
        del told[approval]
        if not told:
            del self._told[client]
        return True


def client_of(call: Call) -> Client | None:
    """The client of a call, if it declared that its user can open a URL."""
    if call.mcp is None or not call.mcp.url:
        return None
    return Client(call.principal.key, call.head.server, call.mcp)
