"""What servers without request and response of their own have in common: one line of messages each way, and bounds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol, Self

import msgspec


class DuplexLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds for the links (processes, connections) of one server. Times are in seconds.

    `links` exist at once, `links_per_tenant` of them (None: all) for the principals of one tenant, `links_per_owner`
    for one principal, whose GET streams are at most as many. A link carries `pending` open calls, `listens` open
    subscriptions and `questions` open requests of the server's. `queued_bytes` is what may wait for a caller that does
    not read. `patience` bounds the silence of a call while its client is being asked something. A link that fails
    before `healthy_after` is followed by the next only after a delay that doubles from `backoff` to `backoff_longest`.
    """

    links: int = 64
    links_per_tenant: int | None = None
    links_per_owner: int = 8
    pending: int = 64
    listens: int = 16
    questions: int = 64
    message_bytes: int = 4 * 1024 * 1024
    queued_bytes: int = 1024 * 1024
    handshake: float = 10.0
    patience: float = 600.0
    idle: float = 300.0
    sweep: float = 15.0
    backoff: float = 0.1
    backoff_longest: float = 30.0
    healthy_after: float = 10.0

    def divided(self, tenants: int) -> Self:
        """The same for a server of so many tenants: each has an equal part, which no other's calls use up.

        A part is what one principal may have at least, so with many tenants there are more links in all.
        """
        part = max(self.links // max(tenants, 1), min(self.links, self.links_per_owner))
        return msgspec.structs.replace(self, links=max(self.links, part * tenants), links_per_tenant=part)


class Channel(Protocol):
    """A way to one running server: a process's pipes, or a stream of events and the address to post to.

    Messages are JSON, whole and without framing.
    """

    def messages(self) -> AsyncIterator[bytes]:
        """What the server sends, until it ends.

        Raises:
            GateError: UPSTREAM_INVALID, UPSTREAM_BROKEN.
        """
        ...

    async def write(self, message: bytes) -> None:
        """Send a message; return once the server has taken it.

        Raises:
            GateError: UPSTREAM_BROKEN, UPSTREAM_INVALID, UPSTREAM_UNAVAILABLE.
        """
        ...

    def offer(self, message: bytes) -> None:
        """Send a message that may be lost: it is, while the server is behind with reading."""
        ...

    def end_soon(self, *, now: bool) -> None:
        """Begin to end it, with the grace that it knows unless `now`."""
        ...

    async def end(self, *, now: bool) -> None:
        """End it and return when nothing of it is left."""
        ...
