"""Operators' one-time links in SQL; implements `flows.authserver.links.LinkStore`.

A row is a link until it is used; then it is the setup that it was exchanged for.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import RowMapping, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from twogate.flows.authserver.links import Link, LinkPurpose, Setup
from twogate.stores.sql.engine import reading, writing
from twogate.stores.sql.tables import links, users

PURGE_BATCH: Final = 256
"""Rows that one new link deletes at most."""

_ADMITTED: Final = (
    select(users.c.subject)
    .where(users.c.tenant == links.c.tenant, users.c.subject == links.c.subject, users.c.disabled_at.is_(None))
    .exists()
)


class SqlLinkStore:
    """Keeps links and setups; of their secrets it knows digests only."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def add(self, link: Link, now: int) -> None:
        """Keep a link; those that the person had, used or not, end.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        mine = (links.c.tenant == link.tenant) & (links.c.subject == link.subject)
        old = select(links.c.digest).where(links.c.expires_at <= now).limit(PURGE_BATCH)
        # Another process may be purging too: neither waits for the other's rows.
        old = old.with_for_update(skip_locked=True)
        async with writing(self._engine) as connection:
            await connection.execute(delete(links).where(links.c.digest.in_(old)))
            await connection.execute(delete(links).where(mine))
            await connection.execute(
                insert(links).values(
                    digest=link.digest,
                    tenant=link.tenant,
                    subject=link.subject,
                    purpose=link.purpose.value,
                    expires_at=link.expires_at,
                    used_at=None,
                    setup="",
                )
            )

    async def redeem(self, digest: str, setup: str, ends_at: int, now: int) -> Setup | None:
        """Use a link up, for the setup of the digest `setup`; None if it is unknown, used or expired.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        # One statement decides: of any number at once, one finds the link unused.
        statement = (
            update(links)
            .where(links.c.digest == digest, links.c.used_at.is_(None), links.c.expires_at > now, _ADMITTED)
            .values(used_at=now, setup=setup, expires_at=ends_at)
            .returning(links)
        )
        async with writing(self._engine) as connection:
            row = (await connection.execute(statement)).mappings().one_or_none()
            return None if row is None else _setup(row)

    async def setup(self, digest: str, now: int) -> Setup | None:
        """The setup of this digest, if it has not ended and its person may log in.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        statement = select(links).where(
            links.c.setup == digest, links.c.used_at.is_not(None), links.c.expires_at > now, _ADMITTED
        )
        async with reading(self._engine) as connection:
            row = (await connection.execute(statement)).mappings().one_or_none()
            return None if row is None else _setup(row)

    async def step(self, setup: Setup, left: LinkPurpose, now: int) -> bool:
        """Take a step of a setup that is as given; True for exactly one of any number of callers.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        statement = (
            update(links)
            .where(
                links.c.setup == setup.digest,
                links.c.purpose == setup.purpose.value,
                links.c.used_at.is_not(None),
                links.c.expires_at > now,
                _ADMITTED,
            )
            .values(purpose=left.value)
            .returning(links.c.digest)
        )
        async with writing(self._engine) as connection:
            return (await connection.execute(statement)).one_or_none() is not None


def _setup(row: RowMapping) -> Setup:
    return Setup(row["setup"], row["tenant"], row["subject"], LinkPurpose(row["purpose"]), row["expires_at"])
