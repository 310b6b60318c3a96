"""People in SQL; implements `flows.authserver.users.UserStore`, `passwords.PasswordStore` and `user_admin.Doors`."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import ColumnElement, RowMapping, delete, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from twogate.core.approval import Duty
from twogate.flows.authserver.people import User
from twogate.flows.authserver.users import Identity
from twogate.stores.sql.codes import forget_codes
from twogate.stores.sql.device_codes import forget_device_codes
from twogate.stores.sql.engine import insert_if_absent, reading, writing
from twogate.stores.sql.revision import bump, changing
from twogate.stores.sql.revocations import insert_revocation
from twogate.stores.sql.tables import consents, grants, identities, links, logins, revocations, users


class SqlUserStore:
    """Keeps people; of a password it knows the argon2id hash only."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def user(self, tenant: str, subject: str) -> User | None:
        """A person as of now, disabled or not.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        return await self._one(_is(tenant, subject))

    async def by_name(self, tenant: str, name: str) -> User | None:
        """The person who logs in with this name.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        return await self._one((users.c.tenant == tenant) & (users.c.name == name))

    async def by_identity(self, identity: Identity, tenant: str) -> User | None:
        """The person that a provider's subject is in this tenant.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        joined = users.join(
            identities, (identities.c.tenant == users.c.tenant) & (identities.c.subject == users.c.subject)
        )
        statement = (
            select(users)
            .select_from(joined)
            .where(
                identities.c.issuer == identity.issuer,
                identities.c.provider_subject == identity.subject,
                identities.c.tenant == tenant,
            )
        )
        async with reading(self._engine) as connection:
            row = (await connection.execute(statement)).mappings().one_or_none()
            return None if row is None else _user(row)

    async def identities(self, tenant: str, subject: str) -> Sequence[Identity]:
        """The identities that lead to a person.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        wanted = select(identities).where(identities.c.tenant == tenant, identities.c.subject == subject)
        async with reading(self._engine) as connection:
            rows = (await connection.execute(wanted)).mappings().all()
        return [Identity(row["issuer"], row["provider_subject"]) for row in rows]

    async def list(self, tenant: str | None = None) -> Sequence[User]:
        """Everybody, or everybody of a tenant, by tenant and name.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        statement = select(users).order_by(users.c.tenant, users.c.name)
        if tenant is not None:
            statement = statement.where(users.c.tenant == tenant)
        async with reading(self._engine) as connection:
            return [_user(row) for row in (await connection.execute(statement)).mappings()]

    async def add(self, user: User, identity: Identity | None = None) -> bool:
        """Add a person, with the identity that leads to them; all or nothing. False if name or identity is taken.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        async with writing(self._engine) as connection:
            added = await insert_if_absent(
                connection,
                users,
                tenant=user.tenant,
                subject=user.subject,
                name=user.name,
                display_name=user.display_name,
                roles=_json(user.roles),
                groups=_json(user.groups),
                password_hash="",
                provider=user.provider or "",
                disabled_at=None,
                created_at=user.created_at,
                last_login_at=None,
                duties=_json(user.duties),
            )
            if added and identity is not None:
                added = await insert_if_absent(
                    connection,
                    identities,
                    issuer=identity.issuer,
                    provider_subject=identity.subject,
                    tenant=user.tenant,
                    subject=user.subject,
                    created_at=user.created_at,
                )
                if not added:
                    await connection.execute(delete(users).where(_is(user.tenant, user.subject)))
            return added

    async def describe(self, user: User) -> None:
        """Keep the display name and the groups that the person's provider tells; nothing else changes.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        values = {"display_name": user.display_name, "groups": _json(user.groups)}
        async with writing(self._engine) as connection:
            await connection.execute(update(users).where(_is(user.tenant, user.subject)).values(**values))

    async def change(self, user: User) -> None:
        """Keep what an operator says of a person: display name, roles, groups, duties.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        values = {
            "display_name": user.display_name,
            "roles": _json(user.roles),
            "groups": _json(user.groups),
            "duties": _json(user.duties),
        }
        async with writing(self._engine) as connection:
            await connection.execute(update(users).where(_is(user.tenant, user.subject)).values(**values))

    async def password_hash(self, tenant: str, subject: str) -> str:
        """The hash of a person's password; '' if they have none.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        async with reading(self._engine) as connection:
            row = await connection.execute(select(users.c.password_hash).where(_is(tenant, subject)))
            return row.scalar_one_or_none() or ""

    async def set_password_hash(self, tenant: str, subject: str, new: str, *, instead_of: str | None = None) -> bool:
        """Keep the hash of a new password; with `instead_of` only if that is still the one kept.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        condition = _is(tenant, subject)
        if instead_of is not None:
            condition &= users.c.password_hash == instead_of
        statement = update(users).where(condition).values(password_hash=new).returning(users.c.subject)
        async with writing(self._engine) as connection:
            return (await connection.execute(statement)).one_or_none() is not None

    async def disable(self, tenant: str, subject: str, until: int, now: int) -> bool:
        """Lock a person out, in force everywhere on return; False if they were out already.

        Their access tokens are refused until `until`; their browsers' logins, operators' links, grants and what they
        allowed clients end.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        async with changing(self._engine) as connection:
            disabled = await connection.execute(
                update(users)
                .where(_is(tenant, subject), users.c.disabled_at.is_(None))
                .values(disabled_at=now)
                .returning(users.c.subject)
            )
            for table in (logins, links, consents):
                await connection.execute(delete(table).where(table.c.tenant == tenant, table.c.subject == subject))
            ended = await connection.execute(
                update(grants)
                .where(grants.c.tenant == tenant, grants.c.subject == subject, grants.c.revoked_at.is_(None))
                .values(revoked_at=now, retry_answer="")
                .returning(grants.c.id)
            )
            # What is not redeemed yet would be a grant only later, perhaps when the person is let in again.
            await forget_codes(connection, tenant, subject)
            await forget_device_codes(connection, tenant, subject)
            # Each by its id too, so that letting the person back in brings no token back.
            for grant_id in ended.scalars().all():
                await insert_revocation(connection, "grant", grant_id, until, now)
            await insert_revocation(connection, "user", subject, until, now)
            await bump(connection)
            return disabled.one_or_none() is not None

    async def enable(self, tenant: str, subject: str) -> bool:
        """Let a person back in; False if they were not locked out. What ended stays ended.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        async with changing(self._engine) as connection:
            enabled = await connection.execute(
                update(users)
                .where(_is(tenant, subject), users.c.disabled_at.is_not(None))
                .values(disabled_at=None)
                .returning(users.c.subject)
            )
            await connection.execute(
                delete(revocations).where(revocations.c.kind == "user", revocations.c.value == subject)
            )
            await bump(connection)
            return enabled.one_or_none() is not None

    async def last_logins(self, tenant: str | None = None) -> dict[tuple[str, str], int]:
        """When people last logged in, Unix seconds, by tenant and subject; without those who never did.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        statement = select(users.c.tenant, users.c.subject, users.c.last_login_at).where(
            users.c.last_login_at.is_not(None)
        )
        if tenant is not None:
            statement = statement.where(users.c.tenant == tenant)
        async with reading(self._engine) as connection:
            return {(row[0], row[1]): row[2] for row in await connection.execute(statement)}

    async def _one(self, condition: ColumnElement[bool]) -> User | None:
        async with reading(self._engine) as connection:
            row = (await connection.execute(select(users).where(condition))).mappings().one_or_none()
            return None if row is None else _user(row)


def _is(tenant: str, subject: str) -> ColumnElement[bool]:
    return (users.c.tenant == tenant) & (users.c.subject == subject)


def _json(values: Sequence[str]) -> str:
    return msgspec.json.encode(list(values)).decode()


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
        duties=msgspec.json.decode(row["duties"], type=tuple[Duty, ...]),
    )
