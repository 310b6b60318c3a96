"""Writes refusals that come before a principal is known, coalesced by address so that a flood stays small."""

from __future__ import annotations

import asyncio
import math
from functools import partial
from typing import Final

from twogate.adapters.audit_log import AuditLog
from twogate.core.audit.coalesce import Coalescer
from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.environment import Clock

SWEEP_EVERY: Final = 1.0
"""Seconds between looks for windows that ended."""


class RefusalLog:
    """Notes refusals without making the caller wait. What cannot be written is counted and tried again."""

    def __init__(self, audit: AuditLog, clock: Clock, *, window: float = 10.0) -> None:
        self._audit = audit
        self._clock = clock
        self._coalescer = Coalescer(window)
        self._pending: set[asyncio.Future[None]] = set()
        self._sweeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin the sweep; needs a running event loop."""
        self._sweeper = asyncio.get_running_loop().create_task(self._sweep_forever())

    def note(self, address: str, code: ErrorCode, detail: str) -> None:
        """Take one refusal: written now if it is news of this address, else counted."""
        if self._coalescer.note(address, code.value, self._clock.monotonic()):
            self._write(self._event(address, code, detail), 1)

    async def record(self, event: AuditEvent) -> None:
        """As `note`, but what is news is on the trail before this returns, and so before its answer.

        Implements `flows.audit.Refusals`.

        Raises:
            GateError: AUDIT_UNAVAILABLE.
        """
        if self._coalescer.note(event.address, event.reason, self._clock.monotonic()):
            await self._audit.append(event)

    async def close(self) -> None:
        """Stop the sweep, write every count, and wait until they are written or refused."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
            self._sweeper = None
        self._sweep(math.inf)
        if self._pending:
            await asyncio.wait(self._pending)

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY)
            self._sweep(self._clock.monotonic())

    def _sweep(self, now: float) -> None:
        for due in self._coalescer.due(now):
            event = AuditEvent(
                kind=EventKind.REFUSALS_COALESCED,
                at=self._clock.now_us(),
                address=due.address,
                decision="deny",
                reason=due.code,
                count=due.count,
            )
            self._write(event, due.count)

    def _event(self, address: str, code: ErrorCode, detail: str) -> AuditEvent:
        return AuditEvent(
            kind=EventKind.REQUEST_REFUSED,
            at=self._clock.now_us(),
            address=address,
            decision="deny",
            reason=code.value,
            detail=detail,
        )

    def _write(self, event: AuditEvent, count: int) -> None:
        try:
            future = self._audit.submit(event)
        except GateError:
            self._give_back(event, count)
            return
        self._pending.add(future)
        future.add_done_callback(partial(self._written, event, count))

    def _written(self, event: AuditEvent, count: int, future: asyncio.Future[None]) -> None:
        self._pending.discard(future)
        if future.cancelled() or future.exception() is not None:
            self._give_back(event, count)

    def _give_back(self, event: AuditEvent, count: int) -> None:
        self._coalescer.give_back(event.address, event.reason, count, self._clock.monotonic())
