"""How much a stranger may begin that is kept until it ends or expires, by address and in one process (row R-37)."""

from __future__ import annotations

from typing import Final

from twogate.core.errors import ErrorCode, GateError
from twogate.core.limits import TokenBuckets, address_key
from twogate.flows.environment import Clock

RATE: Final = 4.0
BURST: Final = 240
"""An address, which may stand for an office or a proxy, may begin this many at once and then `RATE` a second.

A request has 8 KiB at most and is kept for a quarter of an hour, so an address has 32 MiB at most of the store.
"""


class BeginLimit:
    """Counts what addresses begin: requests in front of a person, pushed ones of public clients, logins elsewhere."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._buckets = TokenBuckets(rate=RATE, burst=BURST)

    def count(self, address: str) -> None:
        """Count one more, before it is kept.

        Raises:
            GateError: RATE_LIMITED.
        """
        if self._buckets.take(address_key(address), self._clock.monotonic()):
            raise GateError(ErrorCode.RATE_LIMITED, "too many requests that wait for a person were begun here")
