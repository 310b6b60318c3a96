"""The limit before authentication: how many requests one network address may send."""

from __future__ import annotations

from twogate.core.limits import TokenBuckets, address_key


class AddressLimit:
    """Token buckets by address (IPv6 by /64), of this process."""

    def __init__(self, *, rate: float, burst: int) -> None:
        """`rate` is in requests a second, `burst` in requests."""
        self._buckets = TokenBuckets(rate=rate, burst=burst)

    def take(self, address: str, now: float) -> float:
        """0.0 if one more request may come in at `now` (monotonic seconds), else the seconds to wait."""
        return self._buckets.take(address_key(address), now)
