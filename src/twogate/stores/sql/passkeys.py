"""Passkeys in SQL; implements `flows.authserver.passkeys.PasskeyStore`."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from twogate.flows.authserver.passkeys import Passkey
from twogate.stores.sql.engine import exclude, insert_if_absent, reading, writing
from twogate.stores.sql.tables import passkeys, users


class SqlPasskeyStore:
    """Keeps passkeys."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def get(self, credential_id: str) -> Passkey | None:
        """The passkey of this id.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        async with reading(self._engine) as connection:
            rows = await connection.execute(select(passkeys).where(passkeys.c.credential_id == credential_id))
            row = rows.mappings().one_or_none()
            return None if row is None else Passkey(**row)

    async def list(self, tenant: str, subject: str) -> Sequence[Passkey]:
        """A person's passkeys, oldest first.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        statement = (
            select(passkeys)
            .where(passkeys.c.tenant == tenant, passkeys.c.subject == subject)
            .order_by(passkeys.c.created_at, passkeys.c.credential_id)
        )
        async with reading(self._engine) as connection:
            return [Passkey(**row) for row in (await connection.execute(statement)).mappings()]

    async def add(self, passkey: Passkey, most: int) -> bool:
        """Keep a new passkey; False if its id is taken, or the person has `most` already, or is disabled or gone.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        owner = (passkeys.c.tenant == passkey.tenant) & (passkeys.c.subject == passkey.subject)
        admitted = select(users.c.subject).where(
            users.c.tenant == passkey.tenant, users.c.subject == passkey.subject, users.c.disabled_at.is_(None)
        )
        async with writing(self._engine) as connection:
            await exclude(connection, "passkeys", passkey.tenant, passkey.subject)
            if (await connection.execute(admitted)).one_or_none() is None:
                return False
            count = (await connection.execute(select(func.count()).select_from(passkeys).where(owner))).scalar_one()
            if count >= most:
                return False
            return await insert_if_absent(
                connection,
                passkeys,
                credential_id=passkey.credential_id,
                tenant=passkey.tenant,
                subject=passkey.subject,
                public_key=passkey.public_key,
                sign_count=passkey.sign_count,
                label=passkey.label,
                created_at=passkey.created_at,
                last_used_at=passkey.last_used_at,
            )

    async def used(self, credential_id: str, sign_count: int, now: int) -> bool:
        """Note a use; False if the passkey is gone, or another use with the same or a higher count came first.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        # Some authenticators never count (WebAuthn Level 3, section 6.1.1).
        follows = passkeys.c.sign_count < sign_count if sign_count else passkeys.c.sign_count == 0
        statement = (
            update(passkeys)
            .where(passkeys.c.credential_id == credential_id, follows)
            .values(sign_count=sign_count, last_used_at=now)
            .returning(passkeys.c.credential_id)
        )
        async with writing(self._engine) as connection:
            return (await connection.execute(statement)).one_or_none() is not None

    async def remove(self, tenant: str, subject: str, credential_id: str) -> bool:
        """Forget a person's passkey; False if they have none of this id.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        mine = (
            passkeys.c.credential_id == credential_id,
            passkeys.c.tenant == tenant,
            passkeys.c.subject == subject,
        )
        async with writing(self._engine) as connection:
            removed = await connection.execute(delete(passkeys).where(*mine).returning(passkeys.c.credential_id))
            return removed.one_or_none() is not None
