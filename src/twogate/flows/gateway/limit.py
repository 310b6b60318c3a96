"""Limits: how many requests a network address may send, and how many calls of one principal may be under way."""

from __future__ import annotations

from twogate.core.limits import TokenBuckets, address_key
from twogate.core.principal import PrincipalKey


class AddressLimit:
    """Token buckets by address (IPv6 by /64), of this process."""

    def __init__(self, *, rate: float, burst: int) -> None:
        """`rate` is in requests a second, `burst` in requests."""
        self._buckets = TokenBuckets(rate=rate, burst=burst)

    def take(self, address: str, now: float) -> float:
        """0.0 if one more request may come in at `now` (monotonic seconds), else the seconds to wait."""
        return self._buckets.take(address_key(address), now)


class UnderWay:
    """Counts each principal's calls that are under way, so that one agent cannot take every connection of a server."""

    def __init__(self, most: int) -> None:
        """`most` is how many calls of one principal may be under way in this process."""
        self._most = most
        self._counts: dict[PrincipalKey, int] = {}

    def resized(self, most: int) -> UnderWay:
        """The same counts under another limit, for the next configuration generation."""
        other = UnderWay(most)
        other._counts = self._counts
        return other

    def begin(self, principal: PrincipalKey) -> bool:
        """Count a call in; False if there are too many. Only a call that was counted in is counted out."""
        count = self._counts.get(principal, 0)
        if count >= self._most:
            return False
        self._counts[principal] = count + 1
        return True

    def end(self, principal: PrincipalKey) -> None:
        """Count a call out."""
        count = self._counts[principal] - 1
        if count:
            self._counts[principal] = count
        else:
            del self._counts[principal]
