"""Device codes in SQL; implements `flows.authserver.device.DeviceStore`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from sqlalchemy import ColumnElement, RowMapping, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from twogate.core.oauth.device import DeviceState
from twogate.flows.authserver.device import DeviceCode, DeviceRequest
from twogate.flows.authserver.grant import Authorization
from twogate.stores.sql.engine import insert_if_absent, reading, writing
from twogate.stores.sql.tables import device_codes

KEEP_EXPIRED: Final = 300
"""Seconds that an expired code is kept, so that its device learns that it expired, and clocks may differ."""

PURGE_BATCH: Final = 100
"""Codes that one addition deletes at most: more than it adds, and few enough to go unnoticed."""


class SqlDeviceStore:
    """Keeps device codes by their digest, and the user codes that stand for them meanwhile."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def add(self, code: DeviceCode, now: int) -> bool:
        """Keep a new code; False if its user code is taken, and nothing was kept.

        Raises:
            GateError: STORE_UNAVAILABLE; so everywhere here.
        """
        async with writing(self._engine) as connection:
            await _purge(connection, now)
            return await insert_if_absent(
                connection,
                device_codes,
                digest=code.digest,
                user_code=code.user_code,
                client_id=code.client_id,
                request=_json(code.request),
                state=code.state.value,
                authorization="" if code.authorization is None else _json(code.authorization),
                interval=code.interval,
                polled_at=code.polled_at,
                expires_at=code.expires_at,
            )

    async def get(self, digest: str) -> DeviceCode | None:
        """A code as of now, whatever became of it."""
        return await self._one(device_codes.c.digest == digest)

    async def waiting(self, user_code: str, now: int) -> DeviceCode | None:
        """The code that waits for a person's decision."""
        return await self._one(*_waits(user_code, now))

    async def decide(
        self, user_code: str, authorization: Authorization | None, now: int, announce: Callable[[], Awaitable[None]]
    ) -> bool:
        """Allow a waiting code, or deny it (None); False if it does not wait. Of several at once, one decides.

        `announce` is awaited before the decision is committed; if it fails, nothing was decided.
        """
        state = DeviceState.DENIED if authorization is None else DeviceState.ALLOWED
        async with writing(self._engine) as connection:
            decided = await connection.execute(
                update(device_codes)
                .where(*_waits(user_code, now))
                .values(state=state.value, authorization="" if authorization is None else _json(authorization))
                .returning(device_codes.c.digest)
            )
            if decided.one_or_none() is None:
                return False
            await announce()
        return True

    async def note_poll(self, digest: str, interval: int, now: int) -> None:
        """Note a poll of a waiting code, and how far apart its polls must be from now on."""
        async with writing(self._engine) as connection:
            await connection.execute(
                update(device_codes)
                .where(device_codes.c.digest == digest, device_codes.c.state == DeviceState.PENDING.value)
                .values(polled_at=now, interval=interval)
            )

    async def redeem(self, digest: str, now: int) -> bool:
        """Take what was allowed; True exactly once, and never once the code has expired."""
        async with writing(self._engine) as connection:
            redeemed = await connection.execute(
                update(device_codes)
                .where(
                    device_codes.c.digest == digest,
                    device_codes.c.state == DeviceState.ALLOWED.value,
                    device_codes.c.expires_at > now,
                )
                .values(state=DeviceState.REDEEMED.value)
                .returning(device_codes.c.digest)
            )
            return redeemed.one_or_none() is not None

    async def forget(self, tenant: str, subject: str, client_id: str) -> None:
        """Forget what a person allowed devices of a client, and what was not redeemed."""
        async with writing(self._engine) as connection:
            await forget_device_codes(connection, tenant, subject, client_id)

    async def _one(self, *conditions: ColumnElement[bool]) -> DeviceCode | None:
        async with reading(self._engine) as connection:
            row = (await connection.execute(select(device_codes).where(*conditions))).mappings().one_or_none()
            return None if row is None else _code(row)


def _waits(user_code: str, now: int) -> tuple[ColumnElement[bool], ...]:
    return (
        device_codes.c.user_code == user_code,
        device_codes.c.state == DeviceState.PENDING.value,
        device_codes.c.expires_at > now,
    )


def _code(row: RowMapping) -> DeviceCode:
    authorization = row["authorization"]
    return DeviceCode(
        digest=row["digest"],
        user_code=row["user_code"],
        client_id=row["client_id"],
        request=msgspec.json.decode(row["request"], type=DeviceRequest),
        expires_at=row["expires_at"],
        state=DeviceState(row["state"]),
        authorization=msgspec.json.decode(authorization, type=Authorization) if authorization else None,
        interval=row["interval"],
        polled_at=row["polled_at"],
    )


def _json(value: msgspec.Struct) -> str:
    return msgspec.json.encode(value).decode()


async def forget_device_codes(
    connection: AsyncConnection, tenant: str, subject: str, client_id: str | None = None
) -> None:
    """Forget a person's device codes that nobody redeemed yet, as `codes.forget_codes` does."""
    is_allowed = device_codes.c.state == DeviceState.ALLOWED.value
    waiting = select(device_codes.c.digest, device_codes.c.authorization).where(is_allowed)
    if client_id is not None:
        waiting = waiting.where(device_codes.c.client_id == client_id)
    found = [
        row.digest
        for row in await connection.execute(waiting)
        if msgspec.json.decode(row.authorization, type=Authorization).is_by(tenant, subject)
    ]
    await connection.execute(delete(device_codes).where(device_codes.c.digest.in_(found), is_allowed))


async def _purge(connection: AsyncConnection, now: int) -> None:
    old = select(device_codes.c.digest).where(device_codes.c.expires_at <= now - KEEP_EXPIRED).limit(PURGE_BATCH)
    # Another process may be purging too: neither waits for the other's rows.
    old = old.with_for_update(skip_locked=True)
    await connection.execute(delete(device_codes).where(device_codes.c.digest.in_(old)))
