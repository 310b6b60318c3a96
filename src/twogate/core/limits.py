"""Token buckets in a bounded table: how often a key (an address, an agent) may act.

The form is the generic cell rate algorithm: one number a key, the moment at which its bucket will be full again. A key
whose moment lies in the past equals a key never seen, so forgetting it changes nothing.
"""

from __future__ import annotations

import ipaddress
from typing import Final

DEFAULT_CAPACITY: Final = 65_536
"""Keys that one table remembers, about 10 MB."""

_IPV6_SITE_BITS: Final = 64


def address_key(address: str) -> str:
    """The key under which a network address is counted: IPv4 whole, IPv6 by its /64, anything else as it is.

    One customer commonly holds a whole IPv6 /64 (RFC 6177), so counting single addresses would limit nobody. An IPv4
    address inside IPv6 (RFC 4291 section 2.5.5.2) counts as that IPv4 address.
    """
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed) >> _IPV6_SITE_BITS << _IPV6_SITE_BITS, _IPV6_SITE_BITS)))


class TokenBuckets:
    """One token bucket a key, in a table that never outgrows its capacity.

    When the table is full of keys that still owe time, keys it does not know share one bucket: a flood of fresh
    addresses slows down strangers, neither grows memory nor frees an address that is already limited.
    """

    __slots__ = ("_capacity", "_full_at", "_interval", "_shared_full_at", "_window")

    def __init__(self, *, rate: float, burst: int, capacity: int = DEFAULT_CAPACITY) -> None:
        """Set up empty buckets.

        Args:
            rate: Tokens that flow back, per second.
            burst: Tokens that a full bucket holds.
            capacity: Keys remembered at most.

        Raises:
            ValueError: A number that would allow nothing or remember nothing.
        """
        if rate <= 0 or burst < 1 or capacity < 1:
            raise ValueError("rate, burst and capacity must be positive")
        self._interval = 1 / rate
        self._window = burst / rate
        self._capacity = capacity
        self._full_at: dict[str, float] = {}  # oldest use first
        self._shared_full_at = 0.0

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, key: str, now: float) -> float:
        """Take one token of this key's bucket.

        Args:
            key: Who acts.
            now: Seconds on a clock that never goes back.

        Returns:
            0.0 when the token was taken, else the seconds after which there will be one (nothing was taken).
        """
        table = self._full_at
        full_at = table.pop(key, None)
        if full_at is None:
            if len(table) >= self._capacity and not self._forget_oldest(now):
                wait, self._shared_full_at = self._spend(self._shared_full_at, now)
                return wait
            full_at = now
        wait, table[key] = self._spend(full_at, now)
        return wait

    def give_back(self, key: str) -> None:
        """Return the token that this key has just taken, as if it had not acted.

        A key that shares the bucket of strangers gets nothing back, or strangers could refill it for each other.
        """
        full_at = self._full_at.get(key)
        if full_at is not None:
            self._full_at[key] = full_at - self._interval

    def _spend(self, full_at: float, now: float) -> tuple[float, float]:
        """The wait, and the moment at which the bucket is full after this attempt."""
        after = max(full_at, now) + self._interval
        # Half a microsecond of slack, so that waiting exactly as long as told is enough despite binary fractions.
        wait = after - now - self._window
        if wait > 5e-7:  # noqa: PLR2004 - explained above
            return wait, full_at
        return 0.0, after

    def _forget_oldest(self, now: float) -> bool:
        """Forget the key unused for longest, if its bucket is full again; later keys are looked at in later calls."""
        key = next(iter(self._full_at))
        if self._full_at[key] > now:
            return False
        del self._full_at[key]
        return True
