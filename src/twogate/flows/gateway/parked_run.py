"""The one run of a call that people approved, and the answer that is kept of it (DESIGN decision 9).

The store lets one request start it, of however many; what is sent is the canonical call that was approved. A client
that goes away does not stop it: its answer is kept for the same call, sent again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import StrEnum
from typing import Any, Final

import msgspec

from twogate.core.approval import State as Approved
from twogate.core.errors import ErrorCode, GateError
from twogate.core.operation import State
from twogate.flows.approvals.parked import MAX_RESULT, Parked, Parking
from twogate.flows.environment import Clock
from twogate.flows.gateway.approval_exchange import Answered, Captured, Passing
from twogate.flows.gateway.exchange import Refusal
from twogate.flows.operations.store import OperationStore

LINGER: Final = 60.0
"""Seconds that a run may go on whose client went away."""

_LOOK: Final = 0.2
_NONE: Final = msgspec.Raw(b"")
_NULL: Final = msgspec.Raw(b"null")
_ROOM: Final = 4096
"""Bytes of a message around what is kept of it."""


class Standing(StrEnum):
    """What there is to say about a parked call, whether it ran or not."""

    WAITING = "waiting"
    READY = "ready"
    RUNNING = "running"
    ANSWERED = "answered"
    """It ran, and its answer was kept."""
    LOST = "lost"
    """It ran, and its answer was not kept."""
    UNKNOWN = "unknown"
    DENIED = "denied"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer of a run: a result or, if it `failed`, the server's error; or a refusal of Twogate's, by its code."""

    status: int = 200
    failed: bool = False
    payload: msgspec.Raw = _NULL
    refused: ErrorCode | None = None
    data: dict[str, Any] | None = None

    def body(self, request_id: str | int | None) -> bytes:
        """The message that answers a request."""
        member = b"error" if self.failed else b"result"
        return b'{"jsonrpc":"2.0","id":%b,"%b":%b}' % (msgspec.json.encode(request_id), member, bytes(self.payload))


class _Body(msgspec.Struct):
    result: msgspec.Raw = _NONE
    error: msgspec.Raw = _NONE


class ParkedRuns:
    """Tells where parked calls stand, and keeps the answers of those that ran."""

    def __init__(
        self, parking: Parking, store: OperationStore, clock: Clock, closing: tuple[asyncio.Event, ...]
    ) -> None:
        self._parking = parking
        self._store = store
        self._clock = clock
        self._closing = closing
        self._under_way: set[str] = set()

    async def standing(self, parked: Parked) -> Standing:
        """Where a parked call stands. What became of its run counts for more than what was decided later.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        if parked.result is not None:
            return Standing.ANSWERED
        if parked.state is Approved.PENDING:
            return Standing.WAITING
        if parked.state is Approved.DENIED:
            return Standing.DENIED
        match await self._store.state(parked.call.id, self._clock.now()):
            case State.STARTED:
                return Standing.RUNNING
            case State.FINISHED:
                return await self._after_its_end(parked)
            case State.OUTCOME_UNKNOWN:
                return Standing.UNKNOWN
            case _:
                return _NOT_RUN[parked.state]

    async def answer(self, parked: Parked) -> Kept | None:
        """The answer that was kept.

        Raises:
            GateError: KEYS_UNAVAILABLE.
        """
        kept = await self._parking.answer(parked)
        return None if kept is None else msgspec.json.decode(kept, type=Kept)

    def capture(self, passing: Passing | None = None) -> Captured:
        """What catches the answer of a run, as far as it can be kept."""
        return Captured(passing, MAX_RESULT - _ROOM)

    async def run(self, parked: Parked, captured: Captured, go: Callable[[], Awaitable[None]]) -> Kept | None:
        """Run a started call into `captured`, and keep its answer before anybody gets it; None without a whole one.

        It goes on for a while when the client went away meanwhile.
        """
        task = asyncio.ensure_future(self._run(parked, captured, go))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await self._linger(task)
            raise

    async def _run(self, parked: Parked, captured: Captured, go: Callable[[], Awaitable[None]]) -> Kept | None:
        self._under_way.add(parked.call.id)
        try:
            return await self._run_and_keep(parked, captured, go)
        finally:
            self._under_way.discard(parked.call.id)

    async def _run_and_keep(self, parked: Parked, captured: Captured, go: Callable[[], Awaitable[None]]) -> Kept | None:
        await go()
        made = _kept(captured.outcome)
        if made is None:
            return None
        # What cannot be kept is delivered all the same: it is all that is known of the one run.
        with suppress(GateError):
            ran = made.refused is None or await self._store.state(parked.call.id, self._clock.now()) is State.FINISHED
            if ran:
                await self._parking.keep_answer(parked, msgspec.json.encode(made))
        return made

    async def _after_its_end(self, parked: Parked) -> Standing:
        """The end of a run is noted a moment before its answer is kept: whoever asks in between looks again."""
        if parked.call.id in self._under_way:
            return Standing.RUNNING
        now = await self._parking.current(parked.call.id)
        return Standing.LOST if now is None or now.result is None else Standing.RUNNING

    async def _linger(self, task: asyncio.Future[Kept | None]) -> None:
        until = self._clock.monotonic() + LINGER
        try:
            while not task.done() and self._clock.monotonic() < until:
                if any(event.is_set() for event in self._closing):
                    break
                await asyncio.wait({task}, timeout=_LOOK)
        finally:
            if not task.done():
                task.cancel()
            # Its own end is written down, and nobody is left to be told.
            await asyncio.wait({task})
            if not task.cancelled():
                task.exception()


_NOT_RUN: Final = {
    Approved.GRANTED: Standing.READY,
    Approved.EXPIRED: Standing.EXPIRED,
    Approved.CANCELLED: Standing.CANCELLED,
}


def _kept(outcome: Answered | Refusal | None) -> Kept | None:
    if outcome is None:
        return None
    if isinstance(outcome, Refusal):
        return Kept(refused=outcome.error.code, data=None if outcome.error.data is None else dict(outcome.error.data))
    body = msgspec.json.decode(outcome.body, type=_Body)
    failed = not bytes(body.result)
    return Kept(outcome.status, failed, body.error if failed else body.result)
