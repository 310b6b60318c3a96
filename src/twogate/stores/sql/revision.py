"""The counter of security changes: written with each of them, read on every call (DESIGN decision 18)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from twogate.core.errors import ErrorCode, GateError
from twogate.stores.sql.engine import is_postgresql, store_errors, writing
from twogate.stores.sql.leases import CHANNEL, SqlReplicas, read_value, settle
from twogate.stores.sql.tables import revision

BUSY_TIMEOUT: Final = 0.05
"""Seconds that a reading may wait. It holds up the whole process, and in WAL mode writers do not block readers."""


@asynccontextmanager
async def changing(engine: AsyncEngine, conflict: GateError | None = None) -> AsyncGenerator[AsyncConnection]:
    """A `writing` transaction for changes of security state; such changes exclude each other.

    After it, when this returns, no replica acts on what was true before (DESIGN decision 18). That also holds if the
    transaction found nothing to change: an earlier attempt may have committed and then not have waited.

    Raises:
        GateError: see `store_errors`.
    """
    async with writing(engine, conflict) as connection:
        if is_postgresql(connection):
            # Taken first and by everybody, so that the order of changes is the counter's, and nobody deadlocks.
            await read_value(connection, lock=True)
        yield connection
    if is_postgresql(engine):
        # SQLite needs no waiting: there every call looks.
        await settle(SqlReplicas(engine))


async def bump(connection: AsyncConnection) -> None:
    """Grow the counter in the transaction of the change that it announces.

    Raises:
        GateError: STORE_UNAVAILABLE if the counter is missing.
    """
    result = await connection.execute(
        update(revision).where(revision.c.id == 1).values(value=revision.c.value + 1).returning(revision.c.value)
    )
    if result.one_or_none() is None:
        raise GateError(ErrorCode.STORE_UNAVAILABLE, "the revision counter is missing")
    if is_postgresql(connection):
        # Sent when the transaction commits. It only wakes the replicas: what they hear, anybody might have said.
        await connection.execute(select(func.pg_notify(CHANNEL, "")))


async def call_the_roll(engine: AsyncEngine) -> None:
    """Return when only replicas that live have leases: whoever does not answer is struck off.

    Takes milliseconds if all answer, else `leases.LAPSE` seconds. On SQLite there are no leases.

    Raises:
        GateError: STORE_UNAVAILABLE.
    """
    if is_postgresql(engine):
        async with changing(engine) as connection:
            await bump(connection)


class SqliteRevision:
    """Reads the counter; implements `flows.registry.Revision`. For one thread, which is the event loop's.

    `PRAGMA data_version` tells in a few microseconds whether any other connection has committed since; only then is
    the counter read. It does not see commits of its own connection, so this one never writes.

    Within one turn of the event loop it is read once: whatever asks later in the turn serves a request that had
    arrived before that reading, so nobody can be shown a state older than their request.
    """

    def __init__(self, path: Path) -> None:
        """Open a connection of its own to an existing database.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        with store_errors():
            # mode=rw and not ro: to read a WAL database, SQLite may have to create its shared memory.
            self._connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_TIMEOUT, isolation_level=None
            )
        try:
            with store_errors():
                self._connection.execute("PRAGMA query_only=ON")
                self._connection.execute("PRAGMA trusted_schema=OFF")
            self._cursor = self._connection.cursor()
            self._path = str(path.absolute())
            self._identity = _identity(self._path)
            self._data_version: int | None = None
            self._value = 0
            self._read_this_turn = False
            self.current()
        except BaseException:
            self._connection.close()
            raise

    @property
    def replica(self) -> str:
        """Empty: SQLite knows of no replicas."""
        return ""

    def current(self) -> int:
        """The counter as of the last commit of any process.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        if self._read_this_turn:
            return self._value
        try:
            # A database that was removed or replaced goes on as it was for whoever has it open: nothing that anybody
            # changes in the new one would ever be seen here.
            if _identity(self._path) != self._identity:
                raise GateError(ErrorCode.STORE_UNAVAILABLE, "the database was replaced; restart Twogate")
            # fetchall ends the statement; a reader left open would keep the WAL from being reset.
            ((data_version,),) = self._cursor.execute("PRAGMA data_version").fetchall()
            if data_version != self._data_version:
                ((self._value,),) = self._cursor.execute("SELECT value FROM revision WHERE id = 1").fetchall()
                # Noted last: if the counter could not be read, the next call tries again.
                self._data_version = data_version
        except (sqlite3.Error, ValueError, OSError) as error:
            raise GateError(ErrorCode.STORE_UNAVAILABLE, f"the revision cannot be read: {error}") from error
        with contextlib.suppress(RuntimeError):  # without a running loop there are no turns
            asyncio.get_running_loop().call_soon(self._end_turn)
            self._read_this_turn = True
        return self._value

    def _end_turn(self) -> None:
        # Requests that arrive after the reading are started by the loop behind this callback.
        self._read_this_turn = False

    async def read(self) -> int:
        """The same: `current` always knows.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        return self.current()

    def start(self) -> None:
        """Nothing: each reading asks the database."""

    def close(self) -> None:
        """Close the connection; `current` then refuses."""
        self._read_this_turn = False
        self._connection.close()

    async def aclose(self) -> None:
        """The same."""
        self.close()


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)  # noqa: PTH116 - Path.stat costs twice as much, and this is asked on every call
    return status.st_dev, status.st_ino
