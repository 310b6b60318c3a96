"""Logins under way at upstream providers, in SQL; implements `flows.authserver.upstream_pending.UpstreamLoginStore`."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final

from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from twogate.flows.authserver.upstream_pending import PendingLogin
from twogate.stores.sql.engine import writing
from twogate.stores.sql.tables import upstream_logins

PURGE_BATCH: Final = 64
"""Expired rows that adding one deletes at most: more than are added, few enough to go unnoticed."""


class SqlUpstreamLoginStore:
    """Keeps logins by the digest of their `state`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def add(self, pending: PendingLogin, now: int) -> None:
        """Keep a login until it expires.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        table = upstream_logins
        old = select(table.c.digest).where(table.c.expires_at <= now).limit(PURGE_BATCH)
        old = old.with_for_update(skip_locked=True)
        async with writing(self._engine) as connection:
            await connection.execute(delete(table).where(table.c.digest.in_(old)))
            await connection.execute(
                insert(table).values(
                    digest=pending.digest,
                    provider=pending.provider,
                    browser=pending.browser,
                    login=urlsafe_b64encode(pending.sealed).decode("ascii"),
                    expires_at=pending.expires_at,
                    used_at=None,
                )
            )

    async def redeem(self, digest: str, browser: str, now: int) -> PendingLogin | None:
        """The login of this state and browser: once, and not after it expired; else None.

        Another browser gets nothing and uses nothing up.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        table = upstream_logins
        # One statement decides: of several at once, one gets the row.
        statement = (
            update(table)
            .where(
                table.c.digest == digest,
                table.c.browser == browser,
                table.c.used_at.is_(None),
                table.c.expires_at > now,
            )
            .values(used_at=now)
            .returning(table)
        )
        async with writing(self._engine) as connection:
            row = (await connection.execute(statement)).mappings().one_or_none()
            if row is None:
                return None
            return PendingLogin(
                row["digest"],
                row["provider"],
                row["browser"],
                urlsafe_b64decode(row["login"]),
                row["expires_at"],
            )
