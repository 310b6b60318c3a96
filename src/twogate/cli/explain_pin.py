"""What `twogate explain` finds out of pins: from the store, and from the server if it is to be asked."""

from __future__ import annotations

import asyncio
from typing import Any

from twogate.adapters.argument_schema import ArgumentSchema
from twogate.cli.output import CommandError
from twogate.cli.state import with_store
from twogate.config import LibraryServer, Settings
from twogate.core.access import Policy
from twogate.core.conditions import Kind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.pins import definition_of, pin_digest
from twogate.flows.explain_pins import PinFinding, Shows, find_pin
from twogate.flows.gateway.pins import Pin
from twogate.state import Store, store_exists
from twogate.stores.sql.pins import SqlPinStore


def pin_finding(
    settings: Settings,
    policy: Policy,
    tenant: str,
    target: str,
    arguments: dict[str, Any] | None,
    *,
    ask_server: bool,
) -> PinFinding:
    """What is known of a target's pin; `policy` is the tenant's.

    Raises:
        GateError: STORE_UNAVAILABLE.
        CommandError: the server is to be asked, and is none that can be.
    """
    server = target.partition(".")[0]
    shows = _shows(settings, tenant, server) if ask_server else None

    async def find(store: Store | None) -> PinFinding:
        pins = _NoPins() if store is None else SqlPinStore(store.engine)
        return await find_pin(
            pins, policy, tenant, target, shows=shows, compile_schema=ArgumentSchema, arguments=arguments
        )

    if not asyncio.run(store_exists(settings)):  # looking makes none
        return asyncio.run(find(None))
    return with_store(settings, find)


def _shows(settings: Settings, tenant: str, server: str) -> Shows:
    known = settings.servers.get(server)
    if known is None or isinstance(known, LibraryServer):
        raise CommandError(f"there is no server {server} that could be asked", code="not_found")
    # The gateway's own code, for which nobody should wait who asks nobody.
    from twogate.cli.ask_tools import ask  # noqa: PLC0415

    (asked,) = ask(settings, [(tenant, server)], everything=True)

    async def shows(kind: Kind, name: str) -> bytes | None:
        if asked.failure is not None:
            raise GateError(ErrorCode.UPSTREAM_UNAVAILABLE, asked.failure.message)
        shown = (asked.offer.tools if kind is Kind.TOOL else asked.offer.prompts).get(name)
        return None if shown is None else pin_digest(definition_of(shown))

    return shows


class _NoPins:
    """Stands for a store that was never made."""

    async def get(self, tenant: str, server: str, target: str) -> Pin | None:  # noqa: ARG002 - of the Protocol
        return None
