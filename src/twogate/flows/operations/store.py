"""Where the one use of each operation token is kept (DESIGN decision 9)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import msgspec

from twogate.core.operation import State

STALE: Final = 3600
"""Seconds after which whoever started a call is taken to be gone. It may still say how the call ended."""


class Operation(msgspec.Struct, frozen=True):
    """The one use of a token. `digest` is the call's, `expires_at` (Unix seconds) the token's end."""

    jti: str
    tenant: str
    digest: str
    expires_at: int


class Lost(msgspec.Struct, frozen=True):
    """A call that was started by somebody who is gone. `event` names that start; times are Unix seconds."""

    jti: str
    tenant: str
    digest: str
    event: str
    started_at: int


Announce = Callable[[Sequence[Lost]], Awaitable[None]]
"""Writes down what is given up, before it is."""


class OperationStore(Protocol):
    """Keeps `core.operation.State` of every token that was used. Every method may raise GateError STORE_UNAVAILABLE."""

    async def deposit(self, operation: Operation) -> bool:
        """Keep a token as READY before it is used; False if it is there already, in whatever state."""
        ...

    async def start(self, operation: Operation, event: str, owner: str, now: int) -> State | None:
        """Begin the token's one use: None for exactly one caller; for every other the state that it is in.

        `event` names this start, `owner` the process that makes it. A call started more than STALE seconds ago is given
        up by this. A deposited token starts only as what it was deposited for.
        """
        ...

    async def undo(self, jti: str, event: str) -> bool:
        """Take back a start, since nothing was sent; False if it is not this start's any more."""
        ...

    async def finish(self, jti: str, event: str, outcome: str, now: int) -> bool:
        """Note how the call of this start ended; False if it is not this start's."""
        ...

    async def state(self, jti: str, now: int) -> State | None:
        """Where a token stands, given up if STALE; None if it was never used nor deposited."""
        ...

    async def give_up(self, owner: str, now: int, announce: Announce) -> Sequence[Lost]:
        """Give up what processes that are gone had started; `owner` is the one that asks.

        `announce` is told of it before it is committed. With SQLite every other process is taken to be gone; with
        PostgreSQL one without a lease, or whose start is STALE.
        """
        ...
