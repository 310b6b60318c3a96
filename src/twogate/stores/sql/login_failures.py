"""Counts of failed logins in SQL; implements `flows.authserver.lockout.FailureStore`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from twogate.flows.authserver.lockout import FORGET_AFTER, Counter
from twogate.stores.sql.engine import exclude, reading, writing
from twogate.stores.sql.tables import login_failures

PURGE_BATCH: Final = 64
"""Rows that one failure deletes at most: more than it adds, so that what strangers add never piles up."""


class SqlFailureStore:
    """Keeps counts by digest. A known place is a row without failures."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def failures(self, digests: Collection[str], now: int) -> Mapping[str, int]:
        """The counts that there are.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        statement = select(login_failures.c.digest, login_failures.c.failures).where(
            login_failures.c.digest.in_(sorted(digests)), login_failures.c.expires_at > now
        )
        async with reading(self._engine) as connection:
            return {row[0]: row[1] for row in await connection.execute(statement)}

    async def begin(self, counted: Counter, checked: Sequence[Counter], now: int) -> int:
        """Seconds that the caller must wait; 0 if it may try, and then the try counts as a failure of `counted`.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        digests = [counted.digest, *(counter.digest for counter in checked)]
        statement = select(login_failures.c.blocked_until).where(
            login_failures.c.digest.in_(digests), login_failures.c.expires_at > now
        )
        async with writing(self._engine) as connection:
            await exclude(connection, "login_failures", counted.digest)
            wait = max([until - now for until in (await connection.execute(statement)).scalars()], default=0)
            if wait > 0:
                return wait
            await _count(connection, counted, now)
            return 0

    async def failed(self, counters: Sequence[Counter], now: int) -> None:
        """Count a failure.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        async with writing(self._engine) as connection:
            # In one order, so that two that count the same never wait for each other in a circle.
            for counter in sorted(counters, key=lambda counter: counter.digest):
                await exclude(connection, "login_failures", counter.digest)
                await _count(connection, counter, now)
            old = select(login_failures.c.digest).where(login_failures.c.expires_at <= now).limit(PURGE_BATCH)
            # Another process may be purging too: neither waits for the other's rows.
            old = old.with_for_update(skip_locked=True)
            await connection.execute(delete(login_failures).where(login_failures.c.digest.in_(old)))

    async def succeeded(self, forget: str, remember: Collection[str], until: int, now: int) -> None:
        """Forget a count, and know these places until `until`; they begin without failures.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        async with writing(self._engine) as connection:
            for digest in sorted({forget, *remember}):
                await exclude(connection, "login_failures", digest)
                await connection.execute(delete(login_failures).where(login_failures.c.digest == digest))
                if digest != forget:
                    await connection.execute(
                        insert(login_failures).values(digest=digest, failures=0, blocked_until=now, expires_at=until)
                    )


async def _count(connection: AsyncConnection, counter: Counter, now: int) -> None:
    found = await connection.execute(
        select(login_failures.c.failures, login_failures.c.expires_at).where(login_failures.c.digest == counter.digest)
    )
    row = found.one_or_none()
    failures = 1 if row is None or row[1] <= now else row[0] + 1
    values = {
        "failures": failures,
        "blocked_until": now + counter.wait_after(failures),
        "expires_at": now + FORGET_AFTER,
    }
    if row is None:
        await connection.execute(insert(login_failures).values(digest=counter.digest, **values))
    else:
        await connection.execute(
            update(login_failures).where(login_failures.c.digest == counter.digest).values(**values)
        )
