"""Pins in SQL; implements `flows.gateway.pins.PinStore`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from sqlalchemy import RowMapping, and_, delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncEngine

from twogate.core.errors import ErrorCode, GateError
from twogate.core.pins import pin_digest
from twogate.flows.gateway.pins import Pin
from twogate.stores.sql.engine import is_postgresql, reading
from twogate.stores.sql.revision import bump, changing
from twogate.stores.sql.tables_gates import pins as table

BATCH: Final = 100
"""Targets that one statement names: databases limit how many values it may have."""


class SqlPinStore:
    """Keeps what operators approved. Its changes are security changes: every replica sees them at its next request."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def digests(self, tenant: str, server: str) -> Mapping[str, bytes]:
        """The digest of each pinned target of one server.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        statement = select(table.c.target, table.c.digest).where(table.c.tenant == tenant, table.c.server == server)
        async with reading(self._engine) as connection:
            return {row.target: bytes.fromhex(row.digest) for row in await connection.execute(statement)}

    async def get(self, tenant: str, server: str, target: str) -> Pin | None:
        """One pin; its digest is that of its definition.

        Raises:
            GateError: STORE_UNAVAILABLE, also if the digest is not.
        """
        statement = select(table).where(table.c.tenant == tenant, table.c.server == server, table.c.target == target)
        async with reading(self._engine) as connection:
            row = (await connection.execute(statement)).mappings().one_or_none()
            return None if row is None else _pin(row)

    async def list(self, tenant: str | None = None, server: str | None = None) -> Sequence[Pin]:
        """Every pin, by tenant and target.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        statement = select(table)
        if tenant is not None:
            statement = statement.where(table.c.tenant == tenant)
        if server is not None:
            statement = statement.where(table.c.server == server)
        async with reading(self._engine) as connection:
            found = [_pin(row) for row in (await connection.execute(statement)).mappings()]
        # Databases sort text each by rules of their own.
        return sorted(found, key=lambda pin: (pin.tenant, pin.target))

    async def approve(self, pins: Sequence[Pin]) -> None:
        """Keep pins in place of those that their targets have; all or nothing.

        Raises:
            GateError: REQUEST_MALFORMED if a value cannot be stored; STORE_UNAVAILABLE.
        """
        async with changing(self._engine) as connection:
            insert = postgresql.insert if is_postgresql(connection) else sqlite.insert
            for pin in pins:
                values = {
                    "digest": pin.digest.hex(),
                    "definition": pin.definition.decode(),
                    "approved_at": pin.approved_at,
                    "approved_by": pin.approved_by,
                }
                statement = insert(table).values(tenant=pin.tenant, server=pin.server, target=pin.target, **values)
                await connection.execute(
                    statement.on_conflict_do_update(
                        index_elements=[table.c.tenant, table.c.server, table.c.target], set_=values
                    )
                )
            await bump(connection)

    async def withdraw(self, tenant: str, server: str, targets: Sequence[str]) -> None:
        """Forget the pins of these targets; all or nothing.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        async with changing(self._engine) as connection:
            for start in range(0, len(targets), BATCH):
                some = table.c.target.in_(targets[start : start + BATCH])
                await connection.execute(
                    delete(table).where(and_(table.c.tenant == tenant, table.c.server == server, some))
                )
            await bump(connection)


def _pin(row: RowMapping) -> Pin:
    definition, digest = row["definition"].encode(), bytes.fromhex(row["digest"])
    if pin_digest(definition) != digest:
        # Whoever wrote this did not go through an approval; a call must not be judged by it.
        raise GateError(ErrorCode.STORE_UNAVAILABLE, f"the pin of {row['target']} is not the digest of its definition")
    return Pin(row["tenant"], row["server"], row["target"], digest, definition, row["approved_at"], row["approved_by"])
