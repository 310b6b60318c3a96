"""What the connections of one process share: rules, counts, and the sweep that holds them to their deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from twogate.core.errors import ErrorCode
from twogate.flows.environment import Clock
from twogate.web.edge_limits import EdgeLimits
from twogate.web.framing import HeadRules

OnRefusal = Callable[[str, ErrorCode], None]
"""Told the peer's address and the reason of each refusal."""


class Connection(Protocol):
    """What the sweep needs of a connection."""

    loop: asyncio.AbstractEventLoop

    def check_deadlines(self, now: float) -> None:
        """End the connection, or refuse its request, if a deadline has passed."""
        ...

    def shutdown(self) -> None:
        """End the connection, after the answer that is under way."""
        ...


class Edge:
    """What the connections of one process share: rules, counts, and the sweep that holds them to their deadlines."""

    def __init__(self, limits: EdgeLimits, allowed_hosts: frozenset[str], on_refusal: OnRefusal, clock: Clock) -> None:
        self.limits = limits
        self.rules = HeadRules(limits, allowed_hosts)
        self.on_refusal = on_refusal
        self.draining = False
        """Whether every answer closes its connection, because the process is about to end."""
        self.trust = 0
        """Counts up when other client certificates are good: each connection had its own checked under one count."""
        self.now = 0.0
        self._clock = clock
        self._open: set[Connection] = set()
        self._by_address: dict[str, int] = {}
        self._sweeping = False

    def admit(self, connection: Connection, key: str | None) -> bool:
        """Count a new connection in, unless there are too many (in all, or under this address key)."""
        if len(self._open) >= self.limits.max_connections:
            return False
        if key is not None:
            count = self._by_address.get(key, 0)
            if count >= self.limits.max_connections_per_address:
                return False
            self._by_address[key] = count + 1
        self._open.add(connection)
        if not self._sweeping:
            self._sweeping = True
            self.now = self._clock.monotonic()
            connection.loop.call_later(self.limits.sweep_seconds, self._sweep, connection.loop)
        return True

    def release(self, connection: Connection, key: str | None) -> None:
        """Count a connection out that was admitted."""
        self._open.discard(connection)
        if key is not None:
            count = self._by_address.pop(key) - 1
            if count:
                self._by_address[key] = count

    def distrust(self) -> None:
        """End every open connection, none before its answer: who may connect is decided by a handshake from now on."""
        self.trust += 1
        for connection in list(self._open):
            connection.shutdown()

    def after(self, seconds: float) -> float:
        """A deadline at least that far away; `now` is as old as the last sweep."""
        return self.now + self.limits.sweep_seconds + seconds

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self.now = now = self._clock.monotonic()
        for connection in list(self._open):
            connection.check_deadlines(now)
        self._sweeping = bool(self._open)
        if self._sweeping:
            loop.call_later(self.limits.sweep_seconds, self._sweep, loop)
