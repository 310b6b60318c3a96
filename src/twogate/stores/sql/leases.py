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
from typing import Final

from sqlalchemy import delete, exists, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from twogate.core.errors import ErrorCode, GateError
from twogate.stores.sql.engine import is_postgresql, reading, writing
from twogate.stores.sql.tables import leases, revision

LEASE: Final = 1.0
"""Seconds that a replica may go without asking."""

LAPSE: Final = 1.1
"""Seconds after which every lease of before has ended; the difference is what two clocks may drift apart meanwhile."""

CHANNEL: Final = "twogate"
"""Where a change is announced."""

_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.02


async def read_value(connection: AsyncConnection, *, lock: bool = False) -> int:
    """The counter; with `lock`, whoever else locks it waits until the transaction ends.

    Raises:
        GateError: STORE_UNAVAILABLE if it is missing.
    """
    statement = select(revision.c.value).where(revision.c.id == 1)
    return _present(await connection.scalar(statement.with_for_update() if lock else statement))


async def look(connection: AsyncConnection, replica: str) -> tuple[int, int | None]:
    """The counter and what the replica has acknowledged (None: it holds no lease), both of one moment.

    Raises:
        GateError: STORE_UNAVAILABLE if the counter is missing.
    """
    acknowledged = select(leases.c.acknowledged).where(leases.c.replica == replica).scalar_subquery()
    row = (await connection.execute(select(revision.c.value, acknowledged).where(revision.c.id == 1))).one_or_none()
    return (_present(None), None) if row is None else (row[0], row[1])


async def acknowledge(connection: AsyncConnection, replica: str, value: int) -> None:
    """Say that the replica acts on nothing older than this value."""
    statement = insert(leases).values(replica=replica, acknowledged=value)
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=[leases.c.replica], set_={"acknowledged": statement.excluded.acknowledged}
        )
    )


async def release(engine: AsyncEngine, replica: str) -> None:
    """Forget a replica that acts on caches no longer, so that nobody waits for it.

    Raises:
        GateError: STORE_UNAVAILABLE.
    """
    async with writing(engine) as connection:
        await connection.execute(delete(leases).where(leases.c.replica == replica))


async def settle(engine: AsyncEngine) -> None:
    """Return when no replica acts on an older state than the one that is committed now.

    With replicas that answer it takes milliseconds, else `LAPSE` seconds, and twice that if the database is slow. If
    the database cannot be asked, time alone makes it true. SQLite needs no waiting: there every call looks.
    """
    if not is_postgresql(engine):
        return
    value: int | None = None
    until, pause = _now() + LAPSE, _FIRST_PAUSE
    while (left := until - _now()) > 0:
        try:
            async with asyncio.timeout(left), reading(engine) as connection:
                if value is None:
                    value = await read_value(connection)
                    # Counted from here, since the value may be that of somebody's later change.
                    until = _now() + LAPSE
                if not await connection.scalar(select(exists().where(leases.c.acknowledged < value))):
                    return
        except (GateError, TimeoutError):
            pause = _LONGEST_PAUSE
        await asyncio.sleep(min(pause, left))
        pause = min(2 * pause, _LONGEST_PAUSE)
    if value is not None:
        await _strike_off(engine, value)


async def _strike_off(engine: AsyncEngine, value: int) -> None:
    # Those that are gone, or were cut off: whoever comes back finds its row missing and begins anew.
    try:
        async with writing(engine) as connection:
            await connection.execute(delete(leases).where(leases.c.acknowledged < value))
    except GateError:
        pass  # the next change waits for them once more


def _now() -> float:
    # The loop's clock is monotonic.
    return asyncio.get_running_loop().time()


def _present(value: int | None) -> int:
    if value is None:
        raise GateError(ErrorCode.STORE_UNAVAILABLE, "the revision counter is missing")
    return value
