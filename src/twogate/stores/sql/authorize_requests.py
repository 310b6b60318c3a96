"""Authorization requests under way, in SQL; implements `flows.authserver.interaction.RequestStore`."""

from __future__ import annotations

from typing import Final

from sqlalchemy import ColumnElement, and_, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from twogate.flows.authserver.interaction import RequestKind
from twogate.stores.sql.engine import reading, writing
from twogate.stores.sql.tables import authorize_requests

PURGE_BATCH: Final = 16
"""Rows that one addition deletes at most: more than it adds, and few enough to go unnoticed."""

PURGE_AFTER: Final = 300
"""Seconds past its expiry that a row is kept, so that a process whose clock is ahead takes nothing from the others."""


class SqlAuthorizeRequestStore:
    """Keeps requests by the digest of their handle."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def add(
        self, kind: RequestKind, digest: str, *, client_id: str, browser: str, request: str, expires_at: int, now: int
    ) -> None:
        """Keep a request until `expires_at` (Unix seconds).

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        async with writing(self._engine) as connection:
            await connection.execute(
                insert(authorize_requests).values(
                    digest=digest,
                    kind=kind.value,
                    client_id=client_id,
                    browser=browser,
                    request=request,
                    expires_at=expires_at,
                    used_at=None,
                )
            )
            await _purge(connection, now)

    async def get(self, kind: RequestKind, digest: str, browser: str, now: int) -> str | None:
        """The live, unused request of this handle and browser.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        statement = select(authorize_requests.c.request).where(
            _live(kind, digest, now), authorize_requests.c.browser == browser
        )
        async with reading(self._engine) as connection:
            found: str | None = (await connection.execute(statement)).scalar_one_or_none()
            return found

    async def redeem(self, kind: RequestKind, digest: str, *, client_id: str, browser: str, now: int) -> str | None:
        """Use the live request of this handle, client and browser up; None ever after, and for anybody else.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        # One statement decides: whoever marks the row has redeemed it.
        statement = (
            update(authorize_requests)
            .where(
                _live(kind, digest, now),
                authorize_requests.c.client_id == client_id,
                authorize_requests.c.browser == browser,
            )
            .values(used_at=now)
            .returning(authorize_requests.c.request)
        )
        async with writing(self._engine) as connection:
            won: str | None = (await connection.execute(statement)).scalar_one_or_none()
            return won


def _live(kind: RequestKind, digest: str, now: int) -> ColumnElement[bool]:
    return and_(
        authorize_requests.c.digest == digest,
        authorize_requests.c.kind == kind.value,
        authorize_requests.c.used_at.is_(None),
        authorize_requests.c.expires_at > now,
    )


async def _purge(connection: AsyncConnection, now: int) -> None:
    old = (
        select(authorize_requests.c.digest)
        .where(authorize_requests.c.expires_at <= now - PURGE_AFTER)
        .limit(PURGE_BATCH)
    )
    # Another process may be purging too: neither waits for the other's rows.
    old = old.with_for_update(skip_locked=True)
    await connection.execute(delete(authorize_requests).where(authorize_requests.c.digest.in_(old)))
