"""Grant families in SQL; implements `flows.authserver.families.FamilyStore`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from sqlalchemy import ColumnElement, RowMapping, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from twogate.flows.authserver.families import Family, Rotation
from twogate.flows.authserver.grant import Authorization
from twogate.stores.sql.engine import reading, writing
from twogate.stores.sql.tables import grants

PURGE_EVERY: Final = 64
"""New families between two purges."""

PURGE_BATCH: Final = 256
"""Rows that one purge deletes at most: more than were added since the last, few enough to go unnoticed."""

PURGE_AFTER: Final = 24 * 3600
"""Seconds past its expiry that a family is kept, so that using it is answered, and written down, as what it is."""

_OWNERS: Final = frozenset({"tenant", "subject", "client_id"})


class SqlGrantStore:
    """Keeps families; of their refresh tokens it knows digests only."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._added = 0

    async def add(self, family: Family, now: int) -> None:
        """Keep a new family.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        async with writing(self._engine) as connection:
            await insert_family(connection, family)
            self._added += 1
            if self._added % PURGE_EVERY == 0:
                await purge_families(connection, now)

    async def get(self, grant_id: str) -> Family | None:
        """The family of this id, alive or not.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        return await self._one(grants.c.id == grant_id)

    async def by_handle(self, handle: str) -> Family | None:
        """The family whose refresh tokens have the handle of this digest, alive or not.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        return await self._one(grants.c.handle == handle)

    async def rotate(self, grant_id: str, spent: str, rotation: Rotation) -> bool:
        """Replace the secret of digest `spent` if it is the current one of a family alive at `rotation.at`.

        True for exactly one of any number of callers.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        # One statement decides: it sees the secret that it replaces, or another caller's.
        statement = (
            update(grants)
            .where(
                grants.c.id == grant_id,
                grants.c.current == spent,
                grants.c.current != "",
                grants.c.revoked_at.is_(None),
                grants.c.expires_at > rotation.at,
            )
            .values(
                current=rotation.current,
                previous=spent,
                rotated_at=rotation.at,
                retry_answer=rotation.retry_answer,
                proof_key=rotation.proof_key or "",
                generation=grants.c.generation + 1,
                last_used_at=rotation.at,
                expires_at=rotation.expires_at,
            )
            .returning(grants.c.id)
        )
        async with writing(self._engine) as connection:
            return (await connection.execute(statement)).one_or_none() is not None

    async def revoke(self, grant_id: str, now: int) -> bool:
        """End a family; False if it was ended or there is none. Its retry answer is forgotten.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        statement = (
            update(grants)
            .where(grants.c.id == grant_id, grants.c.revoked_at.is_(None))
            .values(revoked_at=now, retry_answer="")
            .returning(grants.c.id)
        )
        async with writing(self._engine) as connection:
            return (await connection.execute(statement)).one_or_none() is not None

    async def list_alive(self, now: int, **owner: str) -> Sequence[Family]:
        """Families alive at `now`, newest first, of the `tenant` and `subject`, or the `client_id`, given.

        Raises:
            GateError: STORE_UNAVAILABLE.
            ValueError: nobody is given, or by a column that says nothing of an owner.
        """
        if not owner or not owner.keys() <= _OWNERS:
            raise ValueError("families are listed by tenant, subject or client_id")
        mine = [grants.c[name] == value for name, value in owner.items()]
        statement = (
            select(grants)
            .where(*mine, grants.c.revoked_at.is_(None), grants.c.expires_at > now)
            .order_by(grants.c.created_at.desc(), grants.c.id)
        )
        async with reading(self._engine) as connection:
            return [_family(row) for row in (await connection.execute(statement)).mappings()]

    async def _one(self, condition: ColumnElement[bool]) -> Family | None:
        async with reading(self._engine) as connection:
            row = (await connection.execute(select(grants).where(condition))).mappings().one_or_none()
            return None if row is None else _family(row)


async def insert_family(connection: AsyncConnection, family: Family) -> None:
    """Insert a family in a `writing` transaction."""
    authorization = family.authorization
    await connection.execute(
        insert(grants).values(
            id=family.id,
            tenant=authorization.tenant,
            client_id=authorization.client_id,
            subject=authorization.user or "",
            authorization=msgspec.json.encode(authorization).decode(),
            proof_key=family.proof_key or "",
            handle=family.handle,
            current=family.current,
            previous=family.previous,
            rotated_at=family.rotated_at,
            retry_answer=family.retry_answer,
            generation=family.generation,
            created_at=family.created_at,
            last_used_at=family.last_used_at,
            expires_at=family.expires_at,
            revoked_at=family.revoked_at,
        )
    )


async def purge_families(connection: AsyncConnection, now: int) -> None:
    """Delete some families that expired long ago."""
    old = select(grants.c.id).where(grants.c.expires_at <= now - PURGE_AFTER).limit(PURGE_BATCH)
    # Another process may be purging too: neither waits for the other's rows.
    old = old.with_for_update(skip_locked=True)
    await connection.execute(delete(grants).where(grants.c.id.in_(old)))


def _family(row: RowMapping) -> Family:
    return Family(
        id=row["id"],
        authorization=msgspec.json.decode(row["authorization"], type=Authorization),
        handle=row["handle"],
        current=row["current"],
        created_at=row["created_at"],
        last_used_at=row["last_used_at"],
        expires_at=row["expires_at"],
        proof_key=row["proof_key"] or None,
        previous=row["previous"],
        rotated_at=row["rotated_at"],
        retry_answer=row["retry_answer"],
        generation=row["generation"],
        revoked_at=row["revoked_at"],
    )
