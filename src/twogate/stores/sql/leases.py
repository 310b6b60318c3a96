"""Who may act on what they remember of the store: the replicas' leases on PostgreSQL (DESIGN decision 18).

A replica may use its caches for `LEASE` seconds after it last saw, in one statement, that the counter's value is the
one it had acknowledged before. Whoever changes security state waits in `settle` until every replica has acknowledged
the new value, or `LAPSE` seconds have passed since its commit. Why that is enough:

- A lease that ignores a change was seen to be good before the change was committed, so it ends before `LAPSE` does.
- Its row was there at that moment, so `settle` knows of it: only a `settle` of a later value takes away a row, and
  only after having waited that long itself.
- A replica acknowledges a value after it has begun to act on it, never before.

All waiting is by monotonic clocks and by durations; no process believes another's clock. Notifications only make it
fast: lost or forged, they change nothing.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final, Protocol

from sqlalchemy import delete, exists, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from twogate.core.errors import ErrorCode, GateError
from twogate.stores.sql.engine import reading, writing
from twogate.stores.sql.tables import leases, revision

LEASE: Final = 1.0
"""Seconds that a replica may go without asking."""

LAPSE: Final = 1.1
"""Seconds after which every lease of before has ended; the difference is what two clocks may drift apart meanwhile."""

CHANNEL: Final = "twogate"
"""Where a change is announced."""

_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.02


class Replicas(Protocol):
    """What `settle` asks of the store, each in a transaction of its own."""

    async def value(self) -> int:
        """The counter."""
        ...

    async def behind(self, value: int) -> bool:
        """Whether a replica has not acknowledged this value yet."""
        ...

    async def strike_off(self, value: int) -> None:
        """Forget those replicas."""
        ...


async def settle(replicas: Replicas) -> None:
    """Return when no replica acts on an older state than the one that is committed now.

    With replicas that answer it takes milliseconds, else `LAPSE` seconds, and twice that if the database is slow. If
    the database cannot be asked, time alone makes it true.
    """
    value: int | None = None
    until, pause = _now() + LAPSE, _FIRST_PAUSE
    while (left := until - _now()) > 0:
        try:
            async with asyncio.timeout(left):
                if value is None:
                    value = await replicas.value()
                    # Counted from here, since the value may be that of somebody's later change.
                    until = _now() + LAPSE
                if not await replicas.behind(value):
                    return
        except (GateError, TimeoutError):
            pause = _LONGEST_PAUSE
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
    if value is not None:
        # They are gone or cut off: whoever comes back finds its row missing and begins anew.
        with suppress(GateError):
            await replicas.strike_off(value)


class SqlReplicas:
    """The table of leases as whoever changes something sees it."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def value(self) -> int:
        """The counter.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        async with reading(self._engine) as connection:
            return await read_value(connection)

    async def behind(self, value: int) -> bool:
        """Whether a replica has not acknowledged this value yet.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        async with reading(self._engine) as connection:
            return bool(await connection.scalar(select(exists().where(leases.c.acknowledged < value))))

    async def strike_off(self, value: int) -> None:
        """Forget those replicas.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        async with writing(self._engine) as connection:
            await connection.execute(delete(leases).where(leases.c.acknowledged < value))

    async def release(self, replica: str) -> None:
        """Forget a replica that acts on caches no longer, so that nobody waits for it.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        async with writing(self._engine) as connection:
            await connection.execute(delete(leases).where(leases.c.replica == replica))


class SqlLease:
    """The table of leases as one replica sees it, over its own connection and without transactions."""

    def __init__(self, connection: AsyncConnection, replica: str) -> None:
        self._connection = connection
        self._replica = replica

    async def look(self) -> tuple[int, int | None]:
        """The counter and what this replica has acknowledged (None: nothing yet), both of one moment.

        Raises:
            GateError: STORE_UNAVAILABLE if the counter is missing.
        """
        acknowledged = select(leases.c.acknowledged).where(leases.c.replica == self._replica).scalar_subquery()
        answer = await self._connection.execute(select(revision.c.value, acknowledged).where(revision.c.id == 1))
        row = answer.one_or_none()
        return (_present(None), None) if row is None else (row[0], row[1])

    async def acknowledge(self, value: int) -> None:
        """Say that this replica acts on nothing older than this value."""
        statement = insert(leases).values(replica=self._replica, acknowledged=value)
        await self._connection.execute(
            statement.on_conflict_do_update(
                index_elements=[leases.c.replica], set_={"acknowledged": statement.excluded.acknowledged}
            )
        )


async def read_value(connection: AsyncConnection, *, lock: bool = False) -> int:
    """The counter; with `lock`, whoever else locks it waits until the transaction ends.

    Raises:
        GateError: STORE_UNAVAILABLE if it is missing.
    """
    statement = select(revision.c.value).where(revision.c.id == 1)
    return _present(await connection.scalar(statement.with_for_update() if lock else statement))


def _now() -> float:
    # The loop's clock is monotonic.
    return asyncio.get_running_loop().time()


def _present(value: int | None) -> int:
    if value is None:
        raise GateError(ErrorCode.STORE_UNAVAILABLE, "the revision counter is missing")
    return value
