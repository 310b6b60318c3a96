"""The counter of security changes as a replica on PostgreSQL knows it, while it holds a lease (see `leases`)."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final, Protocol

from asyncpg import InterfaceError, PostgresError
from sqlalchemy.ext.asyncio import AsyncEngine

from twogate.core.errors import ErrorCode, GateError
from twogate.flows.environment import Clock, Rng
from twogate.stores.sql.engine import reading, store_errors
from twogate.stores.sql.leases import CHANNEL, LEASE, SqlLease, SqlReplicas, read_value

RENEW_EVERY: Final = 0.3
"""Seconds between two renewals while nothing is announced: three tries within one lease."""

RETRY_AFTER: Final = 0.2
"""Seconds after which a lost channel is opened anew."""

REPLICA_BYTES: Final = 12

_EPOCH: Final = 1 << 64


class Lease(Protocol):
    """What a renewal asks of the store."""

    async def look(self) -> tuple[int, int | None]:
        """The counter, and what this replica has acknowledged."""
        ...

    async def acknowledge(self, value: int) -> None:
        """Say that this replica acts on nothing older."""
        ...


class LeasedRevision:
    """Knows the counter without asking while its lease lasts; implements `flows.registry.Revision`.

    Without a lease (not started, or the store or the channel is gone) `current` knows nothing, and `read` asks the
    store. For one event loop.
    """

    def __init__(self, engine: AsyncEngine, clock: Clock, rng: Rng) -> None:
        self._engine = engine
        self._clock = clock
        self._replica = rng.token(REPLICA_BYTES).hex()
        self._value = 0
        self._until = 0.0
        self._epoch = 0
        self._news = asyncio.Event()
        self._holder: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def replica(self) -> str:
        """This process among the leases."""
        return self._replica

    def current(self) -> int | None:
        """The counter, if the lease lasts; else None."""
        return self._epoch + self._value if self._clock.monotonic() < self._until else None

    async def read(self) -> int:
        """The counter as the store has it now.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        if self._closed:
            raise GateError(ErrorCode.STORE_UNAVAILABLE, "the store is closed")
        if self._clock.monotonic() >= self._until:
            self._lose()
        epoch = self._epoch
        async with reading(self._engine) as connection:
            return epoch + await read_value(connection)

    def start(self) -> None:
        """Hold a lease from soon on until `aclose`. Starting again changes nothing."""
        if self._holder is None and not self._closed:
            self._holder = asyncio.get_running_loop().create_task(self._hold(), name="store lease")

    async def aclose(self) -> None:
        """Give the lease back; `current` then knows nothing and `read` refuses."""
        self._closed = True
        if self._holder is None:
            return
        self._holder.cancel()
        await asyncio.gather(self._holder, return_exceptions=True)
        self._lose()
        with suppress(GateError):  # the lease lapses by itself
            await SqlReplicas(self._engine).release(self._replica)

    async def renew(self, lease: Lease) -> None:
        """Extend the lease, acting on and acknowledging every change until there is none.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        while True:
            asked = self._clock.monotonic()
            value, acknowledged = await lease.look()
            self._value = value
            if value == acknowledged:
                # True when the store answered, so at the latest it counts from the question.
                self._until = asked + LEASE
                return
            await lease.acknowledge(value)

    async def keep(self, lease: Lease) -> None:
        """Renew, now, every so often and whenever a change is announced, until that fails.

        Raises:
            GateError: STORE_UNAVAILABLE.
            TimeoutError: the store took longer than a lease lasts.
        """
        while True:
            self._news.clear()
            async with asyncio.timeout(LEASE):
                await self.renew(lease)
            with suppress(TimeoutError):
                async with asyncio.timeout(RENEW_EVERY):
                    await self._news.wait()

    async def _hold(self) -> None:
        while True:
            with suppress(GateError, PostgresError, InterfaceError):
                await self._listen()
            self._lose()
            await asyncio.sleep(RETRY_AFTER)

    async def _listen(self) -> None:
        with store_errors():
            async with self._engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                driver = (await connection.get_raw_connection()).driver_connection
                if driver is None:
                    return
                try:
                    driver.add_termination_listener(self._cut_off)
                    await driver.add_listener(CHANNEL, self._wake)
                    await self.keep(SqlLease(connection, self._replica))
                finally:
                    # Closed, never given back to the pool: it still listens.
                    await connection.invalidate()

    def _wake(self, *_announcement: object) -> None:
        self._news.set()

    def _cut_off(self, *_connection: object) -> None:
        self._lose()
        self._news.set()

    def _lose(self) -> None:
        if self._until:
            self._until = 0.0
            # The next answer may come from a server that took over and counts differently: no number is used twice.
            self._epoch += _EPOCH
