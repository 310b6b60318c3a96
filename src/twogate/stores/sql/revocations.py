"""Revocations in SQL; implements `flows.authserver.revocations.RevocationStore`."""

from __future__ import annotations

from typing import Final

from sqlalchemy import delete, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from twogate.flows.authserver.revocations import RevocationKind
from twogate.stores.sql.engine import is_postgresql
from twogate.stores.sql.revision import bump, changing
from twogate.stores.sql.tables import revocations

PURGE_AFTER: Final = 300
"""Seconds past its end that a revocation is kept, for gateways whose clocks are behind."""

PURGE_BATCH: Final = 256
"""Rows that one revocation deletes at most: more than it adds, few enough to go unnoticed."""


class SqlRevocationStore:
    """Keeps revocations; the registry's store reads them (`registry.SqlRegistryStore.load`)."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def add(self, kind: RevocationKind, value: str, until: int, now: int) -> None:
        """Revoke until `until`; in force everywhere on return.

        Raises:
            GateError: REQUEST_MALFORMED if the value cannot be stored; STORE_UNAVAILABLE.
        """
        async with changing(self._engine) as connection:
            await insert_revocation(connection, kind, value, until, now)
            await bump(connection)


async def insert_revocation(
    connection: AsyncConnection, kind: RevocationKind, value: str, until: int, now: int
) -> None:
    """Revoke in the caller's `changing` transaction; the caller bumps the revision."""
    await _purge(connection, now)
    values = {"kind": kind, "value": value, "revoked_at": now, "expires_at": until}
    insert = postgresql.insert if is_postgresql(connection) else sqlite.insert
    statement = insert(revocations).values(**values)
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=[revocations.c.kind, revocations.c.value],
            set_={"expires_at": until, "revoked_at": now},
            where=revocations.c.expires_at < until,
        )
    )


async def _purge(connection: AsyncConnection, now: int) -> None:
    key = tuple_(revocations.c.kind, revocations.c.value)
    old = (
        select(revocations.c.kind, revocations.c.value)
        .where(revocations.c.expires_at <= now - PURGE_AFTER)
        .limit(PURGE_BATCH)
    )
    await connection.execute(delete(revocations).where(key.in_(old)))
