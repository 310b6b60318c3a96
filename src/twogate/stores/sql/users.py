"""People in SQL; implements `flows.authserver.people.People`."""

from __future__ import annotations

import msgspec
from sqlalchemy import RowMapping, select
from sqlalchemy.ext.asyncio import AsyncEngine

from twogate.flows.authserver.people import User
from twogate.stores.sql.engine import reading
from twogate.stores.sql.tables import users


class SqlUserStore:
    """Keeps people; of a password it knows the argon2id hash only."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def user(self, tenant: str, subject: str) -> User | None:
        """A person as of now, disabled or not.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        async with reading(self._engine) as connection:
            found = await connection.execute(select(users).where(users.c.tenant == tenant, users.c.subject == subject))
            row = found.mappings().one_or_none()
            return None if row is None else _user(row)


def _user(row: RowMapping) -> User:
    return User(
        tenant=row["tenant"],
        subject=row["subject"],
        name=row["name"],
        display_name=row["display_name"],
        roles=msgspec.json.decode(row["roles"], type=tuple[str, ...]),
        groups=msgspec.json.decode(row["groups"], type=tuple[str, ...]),
        disabled=row["disabled_at"] is not None,
        provider=row["provider"] or None,
        created_at=row["created_at"],
    )
