"""Dynamically registered clients and the tokens that let them register, in SQL; implements `RegistrationStore`."""

from __future__ import annotations

from typing import Final

import msgspec
from sqlalchemy import ColumnElement, and_, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from twogate.core.errors import ErrorCode, GateError
from twogate.flows.authserver.clients import Client, ClientSource
from twogate.flows.authserver.registered import Registered
from twogate.stores.sql.clients import changeable, client_of, insert_client
from twogate.stores.sql.engine import exclude, reading, writing
from twogate.stores.sql.tables import clients, registration_tokens

PURGE_BATCH: Final = 256
"""Expired clients that one registration deletes at most: more than it adds, few enough to go unnoticed."""

PURGE_AFTER: Final = 300
"""Seconds past its expiry that a client is kept, so that a process whose clock is ahead takes nothing from others."""

_token: Final = registration_tokens.c
_REGISTERED: Final = clients.c.source == ClientSource.REGISTERED.value


class SqlRegistrationStore:
    """Keeps registered clients beside all others; of a token it knows the digest only."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def allow(self, digest: str, tenant: str, expires_at: int, now: int) -> None:
        """Let whoever holds the token of this digest register one client of the tenant, until `expires_at`.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        async with writing(self._engine) as connection:
            await connection.execute(delete(registration_tokens).where(_token.expires_at <= now - PURGE_AFTER))
            values = {"digest": digest, "tenant": tenant, "expires_at": expires_at, "used_at": None}
            await connection.execute(insert(registration_tokens).values(**values))

    async def is_allowed(self, digest: str, tenant: str, now: int) -> bool:
        """Whether such a token could be used now; that takes nothing of it.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        async with reading(self._engine) as connection:
            found = await connection.execute(select(_token.digest).where(_usable(digest, tenant, now)))
            return found.one_or_none() is not None

    async def add(self, client: Client, registered: Registered, *, by: str | None, most: int | None, now: int) -> None:
        """Add a client; `by` is the digest of the token that allows it and is used up, `most` how many there may be.

        All or nothing. Some of the clients that have expired are deleted first.

        Raises:
            GateError: REGISTRATION_REFUSED if the token is unknown, used or expired; RATE_LIMITED if there are `most`
                already; STORE_UNAVAILABLE.
        """
        async with writing(self._engine) as connection:
            if most is not None:
                # Or else several at once would each see room for one more.
                await exclude(connection, "registration")
            await _purge(connection, now)
            if by is not None:
                spent = update(registration_tokens).where(_usable(by, client.tenant, now)).values(used_at=now)
                if (await connection.execute(spent.returning(_token.digest))).one_or_none() is None:
                    raise GateError(ErrorCode.REGISTRATION_REFUSED, "the token is unknown, used or expired")
            if most is not None:
                count = select(func.count()).select_from(clients).where(_REGISTERED, clients.c.expires_at > now)
                if (await connection.execute(count)).scalar_one() >= most:
                    raise GateError(ErrorCode.RATE_LIMITED, f"there are {most} registered clients already")
            await insert_client(connection, client, now, msgspec.json.encode(registered).decode())

    async def get(self, client_id: str) -> tuple[Client, Registered] | None:
        """A registered client, expired or not.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        statement = select(clients).where(clients.c.client_id == client_id, _REGISTERED)
        async with reading(self._engine) as connection:
            row = (await connection.execute(statement)).mappings().one_or_none()
            if row is None:
                return None
            return client_of(row), msgspec.json.decode(row["registration"], type=Registered)

    async def replace(self, client: Client, registered: Registered) -> bool:
        """Replace what may change of a registered client; False if there is none.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        values = changeable(client) | {"registration": msgspec.json.encode(registered).decode()}
        # A use that came meanwhile may have moved it.
        del values["expires_at"]
        statement = update(clients).where(clients.c.client_id == client.client_id, _REGISTERED).values(**values)
        async with writing(self._engine) as connection:
            return (await connection.execute(statement.returning(clients.c.client_id))).one_or_none() is not None

    async def keep(self, client_id: str, until: int, now: int) -> None:
        """Move a registered client's expiry to `until`, if that is later and it has not expired.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        expiry = clients.c.expires_at
        statement = update(clients).where(clients.c.client_id == client_id, _REGISTERED, expiry > now, expiry < until)
        async with writing(self._engine) as connection:
            await connection.execute(statement.values(expires_at=until))


async def _purge(connection: AsyncConnection, now: int) -> None:
    old = select(clients.c.client_id).where(_REGISTERED, clients.c.expires_at <= now - PURGE_AFTER).limit(PURGE_BATCH)
    # Another process may be purging too: neither waits for the other's rows.
    old = old.with_for_update(skip_locked=True)
    await connection.execute(delete(clients).where(clients.c.client_id.in_(old)))


def _usable(digest: str, tenant: str, now: int) -> ColumnElement[bool]:
    return and_(_token.digest == digest, _token.tenant == tenant, _token.used_at.is_(None), _token.expires_at > now)
