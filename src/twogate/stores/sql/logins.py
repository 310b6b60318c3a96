"""Logins in SQL; implements `flows.authserver.logins.LoginStore`."""

from __future__ import annotations

from typing import Final

import msgspec
from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from twogate.flows.authserver.logins import Login
from twogate.stores.sql.engine import reading, writing
from twogate.stores.sql.tables import logins, users

PURGE_EVERY: Final = 64
"""New logins between two purges."""

PURGE_BATCH: Final = 256
"""Rows that one purge deletes at most: more than were added since the last, few enough to go unnoticed."""


class SqlLoginStore:
    """Keeps logins; of their cookies it knows digests only."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._added = 0

    async def add(self, digest: str, login: Login, expires_at: int, now: int, replaces: str | None) -> bool:
        """Keep a login, and end the one of the digest `replaces`; False if the person is disabled or gone.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        async with writing(self._engine) as connection:
            # The person's row first, as whoever disables them does: a login is either refused or found and deleted.
            admitted = await connection.execute(
                update(users)
                .where(users.c.tenant == login.tenant, users.c.subject == login.subject, users.c.disabled_at.is_(None))
                .values(last_login_at=now)
                .returning(users.c.subject)
            )
            if replaces is not None:
                await connection.execute(delete(logins).where(logins.c.digest == replaces))
            if admitted.one_or_none() is None:
                return False
            await connection.execute(
                insert(logins).values(
                    digest=digest,
                    tenant=login.tenant,
                    subject=login.subject,
                    method=login.method,
                    authenticated_at=login.authenticated_at,
                    expires_at=expires_at,
                    upstream=login.upstream or "",
                    ends_at=login.ends_at,
                )
            )
            self._added += 1
            if self._added % PURGE_EVERY == 0:
                await _purge(connection, now)
            return True

    async def get(self, digest: str, now: int) -> Login | None:
        """The login of this digest, if it has not expired and its person may log in.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        person = (users.c.tenant == logins.c.tenant) & (users.c.subject == logins.c.subject)
        statement = (
            select(logins)
            .select_from(logins.join(users, person))
            .where(logins.c.digest == digest, logins.c.expires_at > now, users.c.disabled_at.is_(None))
        )
        async with reading(self._engine) as connection:
            row = (await connection.execute(statement)).mappings().one_or_none()
            if row is None:
                return None
            return msgspec.convert(
                {
                    "tenant": row["tenant"],
                    "subject": row["subject"],
                    "method": row["method"],
                    "authenticated_at": row["authenticated_at"],
                    "upstream": row["upstream"] or None,
                    "ends_at": row["ends_at"],
                },
                Login,
            )

    async def end(self, digest: str) -> bool:
        """End a login; False if there was none.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        async with writing(self._engine) as connection:
            ended = await connection.execute(delete(logins).where(logins.c.digest == digest).returning(logins.c.digest))
            return ended.one_or_none() is not None

    async def end_all(self, tenant: str, subject: str, keep: str | None) -> int:
        """End every login of a person but the one of the digest `keep`; how many there were.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        statement = delete(logins).where(logins.c.tenant == tenant, logins.c.subject == subject)
        if keep is not None:
            statement = statement.where(logins.c.digest != keep)
        async with writing(self._engine) as connection:
            return len((await connection.execute(statement.returning(logins.c.digest))).all())


async def _purge(connection: AsyncConnection, now: int) -> None:
    old = select(logins.c.digest).where(logins.c.expires_at <= now).limit(PURGE_BATCH)
    # Another process may be purging too: neither waits for the other's rows.
    old = old.with_for_update(skip_locked=True)
    await connection.execute(delete(logins).where(logins.c.digest.in_(old)))
