"""What the settings say of approvals, by server."""

from __future__ import annotations

from twogate.config.servers import LibraryServer
from twogate.config.settings import Settings


def approval_required(settings: Settings) -> frozenset[str]:
    """The servers of which nothing is shown or called that nobody approved.

    A server in library mode is none: it is code of the very process that guards it, which no command can ask.
    """
    if settings.pins != "required":
        return frozenset()
    return frozenset(name for name, server in settings.servers.items() if not isinstance(server, LibraryServer))


def arguments_validated(settings: Settings) -> frozenset[str]:
    """The servers at which arguments are checked against the schemas that were approved."""
    return frozenset(
        name
        for name, server in settings.servers.items()
        if not isinstance(server, LibraryServer) and server.arguments == "validate"
    )
