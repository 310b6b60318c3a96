"""Consents in SQL; implements `flows.authserver.consent.ConsentStore`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from sqlalchemy import ColumnElement, RowMapping, and_, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from twogate.flows.authserver.consent import Consent
from twogate.stores.sql.engine import exclude, reading, writing
from twogate.stores.sql.tables import consents

MAX_LISTED: Final = 500
"""Consents that a listing returns at most, so that a page stays one."""


class SqlConsentStore:
    """Keeps consents, one for each person, client, resource and task."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def get(self, tenant: str, subject: str, client_id: str, resource: str, task: str) -> Consent | None:
        """The consent for exactly this.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        async with reading(self._engine) as connection:
            rows = await connection.execute(select(consents).where(_key(tenant, subject, client_id, resource, task)))
            row = rows.mappings().one_or_none()
            return None if row is None else _consent(row)

    async def put(self, consent: Consent) -> None:
        """Keep a consent. Scopes of an earlier one stay allowed if the client is as it was then.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        key = (consent.tenant, consent.subject, consent.client_id, consent.resource, consent.task)
        values = _values(consent)
        async with writing(self._engine) as connection:
            # A row that does not exist yet cannot be locked, so its name is.
            await exclude(connection, "consents", *key)
            rows = await connection.execute(select(consents).where(_key(*key)))
            row = rows.mappings().one_or_none()
            if row is None:
                await connection.execute(insert(consents).values(**values))
                return
            before = _consent(row)
            if before.client_digest == consent.client_digest:
                values["scopes"] = _encode({*before.scopes, *consent.scopes})
            await connection.execute(update(consents).where(_key(*key)).values(**values))

    async def withdraw(self, tenant: str, subject: str, client_id: str) -> int:
        """Forget all that a person allowed a client; how many consents that were.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        whose = (consents.c.tenant == tenant, consents.c.subject == subject, consents.c.client_id == client_id)
        async with writing(self._engine) as connection:
            gone = await connection.execute(delete(consents).where(*whose).returning(consents.c.task))
            return len(gone.all())

    async def list_for_user(self, tenant: str, subject: str) -> Sequence[Consent]:
        """A person's consents, newest first.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        order = (consents.c.granted_at.desc(), consents.c.client_id, consents.c.resource, consents.c.task)
        whose = (consents.c.tenant == tenant, consents.c.subject == subject)
        async with reading(self._engine) as connection:
            rows = await connection.execute(select(consents).where(*whose).order_by(*order).limit(MAX_LISTED))
            return [_consent(row) for row in rows.mappings()]


def _key(tenant: str, subject: str, client_id: str, resource: str, task: str) -> ColumnElement[bool]:
    return and_(
        consents.c.tenant == tenant,
        consents.c.subject == subject,
        consents.c.client_id == client_id,
        consents.c.resource == resource,
        consents.c.task == task,
    )


def _values(consent: Consent) -> dict[str, object]:
    return {**msgspec.structs.asdict(consent), "scopes": _encode(set(consent.scopes))}


def _encode(scopes: set[str]) -> str:
    return msgspec.json.encode(sorted(scopes)).decode()


def _consent(row: RowMapping) -> Consent:
    return Consent(
        tenant=row["tenant"],
        subject=row["subject"],
        client_id=row["client_id"],
        resource=row["resource"],
        task=row["task"],
        scopes=msgspec.json.decode(row["scopes"], type=tuple[str, ...]),
        client_digest=row["client_digest"],
        granted_at=row["granted_at"],
    )
