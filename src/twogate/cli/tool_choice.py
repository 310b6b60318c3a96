"""Which servers a command about tools asks in whose name, and how it tells that one cannot be asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twogate.cli.output import CommandError
from twogate.config import Settings

if TYPE_CHECKING:
    from twogate.cli.ask_tools import Asked, Failure


def chosen_pairs(settings: Settings, tenant: str | None, server: str | None) -> list[tuple[str, str]]:
    """Each tenant with each server that it may reach, of those that are named; None names all.

    Raises:
        CommandError: there is no such tenant or server, or the one does not reach the other.
    """
    for what, name, known in (("tenant", tenant, settings.tenants), ("server", server, settings.servers)):
        if name is not None and name not in known:
            there_is = ", ".join(sorted(known)) or "none"
            raise CommandError(f"there is no {what} {name} (there is: {there_is})", code="not_found")
    pairs = [
        (tenant_name, server_name)
        for tenant_name, entry in settings.tenants.items()
        for server_name in entry.servers
        if tenant in (None, tenant_name) and server in (None, server_name)
    ]
    if not pairs and (tenant is not None or server is not None):
        raise CommandError("no such tenant may reach such a server (tenants)", code="not_found")
    return pairs


def told_failure(asked: Asked, why: Failure) -> str:
    """That a server cannot be asked, and why."""
    said = "".join(f"\n  {line}" for line in why.stderr)
    return f"{asked.server} cannot be asked for its tools in the name of {asked.tenant}: {why.message}" + (
        f"\n  the end of its stderr:{said}" if said else ""
    )
