"""A stdio server as an upstream: one process for each principal and protocol era (DESIGN decision 13).

A process is never shared by two principals, because a stdio server may keep state between calls. It is not shared by
the eras either: a server settles on one with the first message it reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from twogate.adapters.upstream.stdio_process import StdioCommand, StdioLimits
from twogate.adapters.upstream.stdio_relay import FixedAnswer, Relay
from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import Kind, Message
from twogate.core.principal import PrincipalKey
from twogate.flows.environment import Clock
from twogate.flows.gateway.upstream import UpstreamAnswer, UpstreamRequest

__all__ = ["StdioLimits", "StdioUpstream"]

_ACCEPTED: Final = FixedAnswer(202)
_NOT_ALLOWED: Final = FixedAnswer(405)

_Key = tuple[PrincipalKey, bool]


class _Slot:
    """A principal's place: its running relay, and when the next may be started if the last one failed."""

    def __init__(self) -> None:
        self.relay: Relay | None = None
        self.started_at = 0.0
        self.backoff = 0.0
        self.not_before = 0.0


class StdioUpstream:
    """Implements `flows.gateway.upstream.Upstream` over child processes. `log` takes the server's name and a line."""

    def __init__(
        self,
        command: tuple[str, ...],
        *,
        cwd: Path | None,
        environment: Mapping[str, str],
        limits: StdioLimits,
        clock: Clock,
        log: Callable[[str, str], None],
        name: str = "",
    ) -> None:
        if not command:
            raise ValueError("the command is empty")
        self._what = StdioCommand(name or Path(command[0]).name, command, cwd, environment)
        self._limits = limits
        self._clock = clock
        self._log = log
        self._slots: dict[_Key, _Slot] = {}
        self._lives: set[asyncio.Task[None]] = set()
        """One task for each process that exists, those that are being ended included."""
        self._sweeper: asyncio.Task[None] | None = None
        self._closed = False

    async def send(self, request: UpstreamRequest) -> UpstreamAnswer:
        """Send one message to the principal's process, which is started if there is none.

        A notification or response of a client is accepted (202) and never starts a process. `GET` and `DELETE` have no
        meaning here (405).

        Raises:
            GateError: what `Relay.call` raises; UPSTREAM_UNAVAILABLE during a back-off, if the command cannot be
                started, and if every process is in use.
        """
        message = request.message
        if request.http_method != "POST" or message is None:
            return _NOT_ALLOWED
        key = (request.owner, request.modern)
        if message.kind is not Kind.REQUEST:
            slot = self._slots.get(key)
            if slot is not None and slot.relay is not None and message.kind is Kind.NOTIFICATION:
                slot.relay.notify(message)
            return _ACCEPTED
        loop = asyncio.get_running_loop()
        until = loop.time() + request.timeout
        try:
            async with asyncio.timeout_at(until):
                relay = await self._relay(key, message)
        except TimeoutError as error:
            raise GateError(ErrorCode.UPSTREAM_UNAVAILABLE, "no process became free in time") from error
        return await relay.call(message, until - loop.time())

    async def aclose(self) -> None:
        """End every process with its grace and return when all are gone."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        for slot in self._slots.values():
            self._retire(slot)
        if self._lives:
            await asyncio.wait(self._lives)

    def sweep(self) -> None:
        """End the processes that were idle too long, and forget principals without any."""
        now = self._clock.monotonic()
        for key, slot in list(self._slots.items()):
            if slot.relay is None:
                if now >= slot.not_before + self._limits.backoff_longest:
                    del self._slots[key]
            elif slot.relay.idle and now - slot.relay.last_used >= self._limits.idle:
                self._retire(slot)

    async def _relay(self, key: _Key, first: Message) -> Relay:
        while True:
            if self._closed:
                raise GateError(ErrorCode.UPSTREAM_UNAVAILABLE, "this server was closed")
            slot = self._slots.get(key)
            if slot is not None and slot.relay is not None:
                return slot.relay
            if slot is not None and self._clock.monotonic() < slot.not_before:
                raise GateError(ErrorCode.UPSTREAM_UNAVAILABLE, f"failed; waiting {slot.backoff} s to start again")
            # Nothing is awaited between the count and the start, so the limit holds.
            if len(self._lives) < self._limits.relays:
                return self._start(self._slots.setdefault(key, slot or _Slot()), modern=key[1], first=first)
            await self._make_room()

    async def _make_room(self) -> None:
        """Wait until some process has ended; end the idle one that was used longest ago if none is ending."""
        running = [slot for slot in self._slots.values() if slot.relay is not None]
        if len(running) == len(self._lives):
            idle = [slot for slot in running if slot.relay is not None and slot.relay.idle]
            if not idle:
                raise GateError(ErrorCode.UPSTREAM_UNAVAILABLE, f"all {len(running)} processes are in use")
            self._retire(min(idle, key=lambda slot: slot.relay.last_used if slot.relay is not None else 0.0))
        await asyncio.wait(self._lives, return_when=asyncio.FIRST_COMPLETED)

    def _start(self, slot: _Slot, *, modern: bool, first: Message) -> Relay:
        relay = Relay(
            modern=modern,
            first=first,
            limits=self._limits,
            clock=self._clock,
            on_failure=lambda: self._failed(slot),
        )
        slot.relay = relay
        slot.started_at = self._clock.monotonic()
        life = relay.start(self._what, self._log)
        self._lives.add(life)
        life.add_done_callback(self._lives.discard)
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().create_task(self._sweep_for_ever())
        return relay

    def _failed(self, slot: _Slot) -> None:
        now = self._clock.monotonic()
        slot.relay = None
        if now - slot.started_at >= self._limits.healthy_after:
            slot.backoff = 0.0
        else:
            slot.backoff = min(self._limits.backoff_longest, slot.backoff * 2 or self._limits.backoff)
        slot.not_before = now + slot.backoff

    @staticmethod
    def _retire(slot: _Slot) -> None:
        if slot.relay is not None:
            slot.relay.end_soon()
            slot.relay = None

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._limits.sweep)
            self.sweep()
