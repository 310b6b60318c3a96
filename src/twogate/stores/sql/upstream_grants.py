"""What upstream providers gave, in SQL; implements `flows.authserver.upstream_grants.UpstreamGrantStore`."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final

from sqlalchemy import RowMapping, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from twogate.flows.authserver.upstream_grants import UpstreamGrant
from twogate.stores.sql.engine import reading, writing
from twogate.stores.sql.tables import logins, upstream_grants

PURGE_BATCH: Final = 64
"""Expired rows that adding one deletes at most."""


class SqlUpstreamGrantStore:
    """Keeps upstream grants; their refresh tokens are sealed before they come here."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def add(self, grant: UpstreamGrant, now: int) -> None:
        """Keep a new grant.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        table = upstream_grants
        old = select(table.c.id).where(table.c.expires_at <= now).limit(PURGE_BATCH)
        old = old.with_for_update(skip_locked=True)
        async with writing(self._engine) as connection:
            await connection.execute(delete(table).where(table.c.id.in_(old)))
            await connection.execute(
                insert(table).values(
                    id=grant.id,
                    tenant=grant.tenant,
                    subject=grant.subject,
                    provider=grant.issuer,
                    client_id=grant.client_id,
                    refresh_token=_text(grant.refresh_token),
                    confirmed_at=grant.confirmed_at,
                    asked_by="",
                    asked_until=0,
                    expires_at=grant.expires_at,
                    ended_at=grant.ended_at,
                )
            )

    async def get(self, grant_id: str) -> UpstreamGrant | None:
        """The grant of this id, ended or not.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        async with reading(self._engine) as connection:
            rows = await connection.execute(select(upstream_grants).where(upstream_grants.c.id == grant_id))
            row = rows.mappings().one_or_none()
            return None if row is None else _grant(row)

    async def ask(self, grant_id: str, asker: str, confirmed_at: int, now: int, until: int) -> UpstreamGrant | None:
        """Give the provider to one asker until `until`: the grant as it is now, or None.

        None if somebody else has it, or if the grant ended or was confirmed at another moment than `confirmed_at`.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        table = upstream_grants
        statement = (
            update(table)
            .where(
                table.c.id == grant_id,
                table.c.ended_at.is_(None),
                table.c.confirmed_at == confirmed_at,
                table.c.asked_until <= now,
            )
            .values(asked_by=asker, asked_until=until)
            .returning(table)
        )
        async with writing(self._engine) as connection:
            row = (await connection.execute(statement)).mappings().one_or_none()
            return None if row is None else _grant(row)

    async def keep(self, grant_id: str, asker: str, refresh_token: bytes) -> bool:
        """Replace the refresh token; False if the grant is not this asker's any more.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        table = upstream_grants
        statement = (
            update(table)
            .where(table.c.id == grant_id, table.c.asked_by == asker, table.c.ended_at.is_(None))
            .values(refresh_token=_text(refresh_token))
            .returning(table.c.id)
        )
        async with writing(self._engine) as connection:
            return (await connection.execute(statement)).one_or_none() is not None

    async def settle(self, grant_id: str, asker: str, confirmed_at: int | None) -> None:
        """Let others ask again; with `confirmed_at`, the person was there then.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        table = upstream_grants
        statement = update(table).where(table.c.id == grant_id, table.c.asked_by == asker)
        values: dict[str, object] = {"asked_by": "", "asked_until": 0}
        if confirmed_at is not None:
            values["confirmed_at"] = confirmed_at
        async with writing(self._engine) as connection:
            await connection.execute(statement.values(values))

    async def end(self, grant_id: str, now: int) -> bool:
        """End a grant for ever, and every browser's login that came from it; whether it had not ended yet.

        The refresh token goes with it.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        table = upstream_grants
        statement = (
            update(table)
            .where(table.c.id == grant_id, table.c.ended_at.is_(None))
            .values(ended_at=now, refresh_token="")
            .returning(table.c.id)
        )
        async with writing(self._engine) as connection:
            ended = (await connection.execute(statement)).one_or_none() is not None
            await connection.execute(delete(logins).where(logins.c.upstream == grant_id))
            return ended


def _text(sealed: bytes) -> str:
    return urlsafe_b64encode(sealed).decode("ascii")


def _grant(row: RowMapping) -> UpstreamGrant:
    return UpstreamGrant(
        id=row["id"],
        tenant=row["tenant"],
        subject=row["subject"],
        issuer=row["provider"],
        client_id=row["client_id"],
        confirmed_at=row["confirmed_at"],
        expires_at=row["expires_at"],
        refresh_token=urlsafe_b64decode(row["refresh_token"]),
        ended_at=row["ended_at"],
    )
