"""Holding the answer of a call until people decided, or for as long as a client should be kept (DESIGN decision 10)."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final

import msgspec

from twogate.core.approval import State
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.approvals.parked import Parked, Parking
from twogate.flows.gateway.approval_elicited import Elicited
from twogate.flows.gateway.approval_exchange import HeldExchange
from twogate.flows.gateway.approval_forms import Form, elicitation_complete, form_of
from twogate.flows.gateway.approval_tell import Teller
from twogate.flows.gateway.limit import UnderWay
from twogate.flows.gateway.parked_run import ParkedRuns, Standing
from twogate.flows.gateway.read import Call

MAX_TOLD: Final = 4096
"""Approvals that are remembered as told to their clients."""

UNDECIDED: Final = frozenset({Standing.WAITING, Standing.RUNNING})
"""Where nothing can be said yet but that it waits."""


class Pace(msgspec.Struct, frozen=True):
    """How long an answer is held, how often is looked for a decision, and how often the client hears that it waits.

    All in seconds. `most` calls of one principal are held at the same time for people; further ones are told at once.
    """

    hold: float = 25.0
    poll: float = 0.5
    word: float = 5.0
    most: int = 8


class Waits:
    """Holds calls. Each of `closing` ends every wait."""

    def __init__(
        self,
        parking: Parking,
        runs: ParkedRuns,
        teller: Teller,
        elicited: Elicited,
        closing: tuple[asyncio.Event, ...],
        pace: Pace,
    ) -> None:
        self._elicited = elicited
        self._parking = parking
        self._runs = runs
        self._teller = teller
        self._closing = closing
        self._pace = pace
        self._held = UnderWay(pace.most)
        self._told: OrderedDict[str, None] = OrderedDict()

    async def now(self, parked: Parked) -> tuple[Parked, Standing]:
        """Where a parked call stands now.

        Raises:
            GateError: as `settled`.
        """
        parked, standing = await self._look(parked)
        if standing is Standing.LOST:
            # Its answer may be kept right now.
            await asyncio.sleep(self._pace.poll)
            parked, standing = await self._look(parked)
        return parked, standing

    async def settled(self, call: Call, parked: Parked, exchange: HeldExchange) -> tuple[Parked, Standing]:
        """Where a parked call stands, once that is decided or the wait is over.

        Raises:
            GateError: APPROVAL_EXPIRED if it is long gone; STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        parked, standing = await self.now(parked)
        # The answers of a batch are one, and nobody can be told that it waits.
        if standing not in UNDECIDED or not exchange.events:
            return parked, standing
        if standing is Standing.RUNNING:
            return await self._hold(call, parked, exchange) if self._teller.waits(call) else (parked, standing)
        key, told = call.principal.key, parked.call.id in self._told
        if not self._teller.holds(call, told=told) or not self._held.begin(key):
            return parked, standing
        try:
            return await self._hold(call, parked, exchange)
        finally:
            self._held.end(key)

    def note_told(self, call: Call, parked: Parked) -> None:
        """Remember that a client was told where people decide its call: it waits when it comes again."""
        if form_of(call) is Form.ERROR:
            self._elicited.note(call, parked.call.id)
        self._told[parked.call.id] = None
        if len(self._told) > MAX_TOLD:
            self._told.popitem(last=False)

    async def _hold(self, call: Call, parked: Parked, exchange: HeldExchange) -> tuple[Parked, Standing]:
        pace, words = self._pace, self._teller.words(call)
        every = max(1, round(pace.word / pace.poll))
        standing = Standing.WAITING
        for count in range(1, max(1, round(pace.hold / pace.poll)) + 1):
            if self.over:
                break
            await asyncio.sleep(pace.poll)
            if self.over:
                # What was decided during the pause runs by the configuration that holds now, when it is asked for.
                break
            lost = standing is Standing.LOST
            parked, standing = await self._look(parked)
            if standing not in UNDECIDED and (lost or standing is not Standing.LOST):
                break
            if words is not None and count % every == 0:
                await exchange.word(words(count // every))
        if parked.state is not State.PENDING and self._elicited.take(call, parked.call.id):
            await exchange.word(elicitation_complete(parked.call.id))
        return parked, standing

    @property
    def over(self) -> bool:
        """Whether every wait ends now: Twogate stops, or the configuration was replaced."""
        return any(event.is_set() for event in self._closing)

    async def _look(self, parked: Parked) -> tuple[Parked, Standing]:
        now = await self._parking.current(parked.call.id)
        if now is None:
            raise GateError(ErrorCode.APPROVAL_EXPIRED, "the parked call is gone")
        return now, await self._runs.standing(now)
