"""Authorization codes in SQL; implements `flows.authserver.code.CodeStore`."""

from __future__ import annotations

from typing import Final

import msgspec
from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from twogate.flows.authserver.code import AuthorizationCode, IssuedCode
from twogate.flows.authserver.families import Family
from twogate.stores.sql.engine import reading, writing
from twogate.stores.sql.grants import insert_family, purge_families
from twogate.stores.sql.tables import codes

PURGE_EVERY: Final = 64
"""New codes between two purges."""

PURGE_BATCH: Final = 256
"""Rows that one purge deletes at most: more than were added since the last, few enough to go unnoticed."""

PURGE_AFTER: Final = 24 * 3600
"""Seconds past its expiry that a code is kept: so long its second use still ends what came from the first."""


class SqlCodeStore:
    """Keeps codes; of a code itself it knows the digest only."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._added = 0

    async def add(self, digest: str, issued: IssuedCode, now: int) -> None:
        """Keep a new code.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        async with writing(self._engine) as connection:
            await connection.execute(
                insert(codes).values(
                    digest=digest,
                    client_id=issued.code.authorization.client_id,
                    code=msgspec.json.encode(issued.code).decode(),
                    expires_at=issued.expires_at,
                    used_at=issued.used_at,
                    grant_id=issued.grant_id,
                )
            )
            self._added += 1
            if self._added % PURGE_EVERY == 0:
                await _purge(connection, now)
                # Each code may have become a family.
                await purge_families(connection, now)

    async def get(self, digest: str) -> IssuedCode | None:
        """The code of this digest, used or not, for a day after it expired.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        async with reading(self._engine) as connection:
            found = await connection.execute(select(codes).where(codes.c.digest == digest))
            row = found.mappings().one_or_none()
            if row is None:
                return None
            code = msgspec.json.decode(row["code"], type=AuthorizationCode)
            return IssuedCode(code, row["grant_id"], row["expires_at"], row["used_at"])

    async def redeem(self, digest: str, family: Family | None, now: int) -> bool:
        """True exactly once per code, and only before it expires; the family is then kept in the same transaction.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        # One statement decides: whoever marks the row has redeemed the code.
        statement = (
            update(codes)
            .where(codes.c.digest == digest, codes.c.used_at.is_(None), codes.c.expires_at > now)
            .values(used_at=now)
            .returning(codes.c.digest)
        )
        async with writing(self._engine) as connection:
            if (await connection.execute(statement)).one_or_none() is None:
                return False
            if family is not None:
                await insert_family(connection, family)
            return True

    async def forget(self, tenant: str, subject: str, client_id: str) -> None:
        """Forget the codes that a person gave to a client and that were not redeemed.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        async with writing(self._engine) as connection:
            await forget_codes(connection, tenant, subject, client_id)


async def forget_codes(connection: AsyncConnection, tenant: str, subject: str, client_id: str | None = None) -> None:
    """Forget a person's codes that nobody redeemed yet, those of one client if it is given, in a `writing` transaction.

    What they would have become could not be taken back by its id, which nobody knows yet.
    """
    waiting = select(codes.c.digest, codes.c.code).where(codes.c.used_at.is_(None))
    if client_id is not None:
        waiting = waiting.where(codes.c.client_id == client_id)
    found = [
        row.digest
        for row in await connection.execute(waiting)
        if msgspec.json.decode(row.code, type=AuthorizationCode).authorization.is_by(tenant, subject)
    ]
    await connection.execute(delete(codes).where(codes.c.digest.in_(found), codes.c.used_at.is_(None)))


async def _purge(connection: AsyncConnection, now: int) -> None:
    old = select(codes.c.digest).where(codes.c.expires_at <= now - PURGE_AFTER).limit(PURGE_BATCH)
    # Another process may be purging too: neither waits for the other's rows.
    old = old.with_for_update(skip_locked=True)
    await connection.execute(delete(codes).where(codes.c.digest.in_(old)))
