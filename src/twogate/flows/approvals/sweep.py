"""Ending calls that wait as soon as what they stand on has ended (row R-34), whoever ended it, and by which way.

A session is ended by its agent, by a page or at the command line; an agent or a person is disabled in another process.
None of these knows of calls that wait. So every process that serves looks at what is stored: what is over is cancelled
or expired by one compare-and-set, however many look.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from twogate.core.approval import State
from twogate.core.approval_grounds import AGENT_DROPPED, Grounds
from twogate.core.principal import AgentId
from twogate.flows.approvals.parked import ParkedStore, Parking
from twogate.flows.environment import Clock

MOST: Final = 2000
"""Calls that are looked at in one round."""


class Sweep:
    """Ends the calls that wait for nothing any more."""

    def __init__(self, parking: Parking, store: ParkedStore, clock: Clock) -> None:
        self._parking = parking
        self._store = store
        self._clock = clock

    async def run(self, dropped: Collection[AgentId] = ()) -> None:
        """One round. `dropped` are agents that the settings have just taken away.

        Raises:
            GateError: STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        for grounds in await self._store.doubtful(self._clock.now(), MOST, dropped):
            if AgentId(grounds.tenant, grounds.agent) in dropped:
                await self._drop(grounds)
            elif self._parking.is_shaken(grounds, self._clock.now()):
                await self._parking.current(grounds.approval)

    async def _drop(self, grounds: Grounds) -> None:
        parked = await self._parking.current(grounds.approval)
        if parked is not None and parked.state in (State.PENDING, State.GRANTED):
            await self._parking.cancel(parked, AGENT_DROPPED)
