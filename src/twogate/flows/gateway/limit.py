"""Limits, before authentication and after it (row R-37).

How many requests a network address may send; how many calls of one principal may be under way; how often an agent, each
of its tools, and a tenant may be served. The last three hold over all replicas where a shared store is configured; the
others protect the process that counts, before it asks anybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from twogate.core.limits import TokenBuckets, address_key
from twogate.core.principal import AgentId, PrincipalKey

# No name holds it, so no two keys run together.
_BETWEEN: Final = "\0"


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


class Rate(msgspec.Struct, frozen=True):
    """So many calls a second, and so many at once before that holds."""

    rate: float
    burst: int


class Bucket(msgspec.Struct, frozen=True):
    """What one call takes one token of: the bucket of this name, which holds `rate.burst` of them."""

    name: str
    rate: Rate


class SharedBuckets(Protocol):
    """Token buckets that all replicas take from; `stores.shared` implements it. Time is the store's."""

    async def take(self, buckets: Sequence[Bucket]) -> float:
        """0.0 if every bucket gave a token; else none did, and the first that has none says how many seconds to wait.

        Raises:
            GateError: SHARED_UNAVAILABLE; then nothing is known, and the call must be refused.
        """
        ...


class CallRates:
    """Token buckets by agent (whoever its user and issuer), by agent and tool, and by tenant.

    They are of this process, and taken from by `take`, unless there are `shared` ones; then by `take_shared`.
    """

    def __init__(
        self,
        *,
        agent: Rate | None = None,
        tool: Rate | None = None,
        tenant: Rate | None = None,
        shared: SharedBuckets | None = None,
    ) -> None:
        """None: no such limit."""
        self.rates = (tool, agent, tenant)
        self.any = any(self.rates)
        self.shared = shared
        self._tool, self._agent, self._tenant = (
            None if rate is None else TokenBuckets(rate=rate.rate, burst=rate.burst) for rate in self.rates
        )

    def successor(self, *, agent: Rate | None, tool: Rate | None, tenant: Rate | None) -> CallRates:
        """Those of the next configuration generation; a rate that stays as it was keeps what is counted."""
        after = CallRates(agent=agent, tool=tool, tenant=tenant, shared=self.shared)
        kept = [before == now for before, now in zip(self.rates, after.rates, strict=True)]
        if kept[0]:
            after._tool = self._tool
        if kept[1]:
            after._agent = self._agent
        if kept[2]:
            after._tenant = self._tenant
        return after

    def take(self, agent: AgentId, entry: str, now: float) -> float:
        """0.0 if one more call may run at `now` (monotonic seconds), else the seconds to wait.

        `entry` is a classified tool, prompt or resource, or a method. The narrowest limit is asked first, and a call
        that any of them refuses uses up nothing of the others.
        """
        tool, named, tenant = _keys(agent, entry)
        if self._tool is not None and (wait := self._tool.take(tool, now)):
            return wait
        if self._agent is not None and (wait := self._agent.take(named, now)):
            if self._tool is not None:
                self._tool.give_back(tool)
            return wait
        if self._tenant is not None and (wait := self._tenant.take(tenant, now)):
            if self._tool is not None:
                self._tool.give_back(tool)
            if self._agent is not None:
                self._agent.give_back(named)
            return wait
        return 0.0

    async def take_shared(self, agent: AgentId, entry: str) -> float:
        """The same of the shared buckets, by their time.

        Raises:
            GateError: SHARED_UNAVAILABLE.
        """
        if self.shared is None:
            raise ValueError("there are no shared buckets")
        named = zip(("tool", "agent", "tenant"), _keys(agent, entry), self.rates, strict=True)
        buckets = [Bucket(_BETWEEN.join((kind, key)), rate) for kind, key, rate in named if rate is not None]
        return await self.shared.take(buckets)


def _keys(agent: AgentId, entry: str) -> tuple[str, str, str]:
    """What a call counts under, narrowest first."""
    named = _BETWEEN.join((agent.tenant, agent.agent))
    return _BETWEEN.join((named, entry)), named, agent.tenant
