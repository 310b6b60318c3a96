"""Values that may be used once, in SQL; implements `flows.authserver.clients.ReplayStore`."""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from twogate.stores.sql.engine import insert_if_absent, store_errors, writing
from twogate.stores.sql.tables import replay

PURGE_EVERY: Final = 64
"""Redemptions between two purges."""

PURGE_BATCH: Final = 256
"""Rows that one purge deletes at most: more than were added since the last, few enough to go unnoticed."""

PURGE_AFTER: Final = 300
"""Seconds past its expiry that a row is kept, so that a process whose clock is ahead takes nothing from the others."""


class SqlReplayStore:
    """Remembers digests of used values until they expire."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._redemptions = 0

    async def redeem(self, kind: str, issuer: str, value: str, expires_at: int, now: int) -> bool:
        """True exactly once per (kind, issuer, value) until `expires_at`; False ever after, and if that has passed.

        Raises:
            GateError: REQUEST_MALFORMED if the value is not valid Unicode; STORE_UNAVAILABLE.
        """
        if expires_at <= now:
            return False
        with store_errors():
            # A JSON array, so that no two triples run together into one.
            digest = hashlib.sha256(msgspec.json.encode((kind, issuer, value))).hexdigest()
        async with writing(self._engine) as connection:
            # One statement decides: whoever inserts the row has redeemed the value.
            won = await insert_if_absent(connection, replay, digest=digest, expires_at=expires_at)
            self._redemptions += 1
            if self._redemptions % PURGE_EVERY == 0:
                await _purge(connection, now)
        return won


async def _purge(connection: AsyncConnection, now: int) -> None:
    old = select(replay.c.digest).where(replay.c.expires_at <= now - PURGE_AFTER).limit(PURGE_BATCH)
    # Another process may be purging too: neither waits for the other's rows.
    old = old.with_for_update(skip_locked=True)
    await connection.execute(delete(replay).where(replay.c.digest.in_(old)))
