"""What the explain page finds out of pins: what was approved, and what the gateway knows that the server shows."""

from __future__ import annotations

import asyncio
from typing import Final

from twogate.core.access import Policy
from twogate.core.conditions import Kind
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.explain_pins import ApprovedPins, PinFinding, Shows, find_pin
from twogate.flows.gateway.arguments import Compile
from twogate.flows.gateway.catalogue import Catalogue

PATIENCE: Final = 5.0
"""Seconds that a page waits for a server; it goes on being asked, and the next look may find its answer."""


class PinLooks:
    """Looks at pins. `catalogue` is the gateway's own, so what is shown here is what it goes by."""

    def __init__(self, store: ApprovedPins, policy: Policy, catalogue: Catalogue, compile_schema: Compile) -> None:
        self._store = store
        self._policy = policy
        self._catalogue = catalogue
        self._compile = compile_schema

    async def of(self, tenant: str, target: str) -> PinFinding:
        """What is known of a target.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        policy = self._policy.of(tenant)
        own, server = policy.tenants.get(tenant), target.partition(".")[0]
        # Of a server that the tenant does not have nobody is asked anything.
        shows = self._shows(tenant, server) if own is not None and server in own.servers else None
        return await find_pin(
            self._store, policy, tenant, target, shows=shows, compile_schema=self._compile, arguments=None
        )

    def _shows(self, tenant: str, server: str) -> Shows:
        async def shows(kind: Kind, name: str) -> bytes | None:
            listing = self._catalogue.tools if kind is Kind.TOOL else self._catalogue.prompts
            try:
                async with asyncio.timeout(PATIENCE):
                    found = (await listing(tenant, server)).tools.get(name)
            except TimeoutError:
                raise GateError(ErrorCode.UPSTREAM_TIMEOUT, "it has not answered yet; look again in a moment") from None
            return None if found is None else found.digest

        return shows
