"""Bringing a database to the tables that this version of Twogate knows (Alembic, without its configuration file)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from twogate.core.errors import ErrorCode, GateError
from twogate.stores.sql.engine import is_postgresql, lock_key, reading, writing

TURN_ATTEMPTS: Final = 1200
"""How often a process on PostgreSQL asks whether another one is done migrating, every `_PAUSE` seconds."""

_PAUSE: Final = 0.05
_MIGRATIONS: Final = Path(__file__).parent / "migrations"


async def upgrade(engine: AsyncEngine) -> None:
    """Run the migrations that the database lacks, all or none.

    The transaction that runs them excludes others that do, so of processes that start together one migrates and the
    others then find nothing to do.

    Raises:
        GateError: STORE_UNAVAILABLE; also when a newer Twogate has migrated this database.
    """
    async with writing(engine) as connection:
        if is_postgresql(connection):
            await _take_turn(connection)
        await connection.run_sync(_upgrade)


async def current_version(engine: AsyncEngine) -> str | None:
    """The version of the database, None before the first migration.

    Raises:
        GateError: STORE_UNAVAILABLE.
    """
    async with reading(engine) as connection:
        return await connection.run_sync(_version)


def latest_version() -> str:
    """The version that `upgrade` leads to."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    if head is None:
        raise RuntimeError("the migrations are missing from this installation")
    return head


async def _take_turn(connection: AsyncConnection) -> None:
    # By asking again and again, since migrations may take longer than any statement may wait for a lock.
    attempt = select(func.pg_try_advisory_xact_lock(lock_key("migrations")))
    for _ in range(TURN_ATTEMPTS):
        if await connection.scalar(attempt):
            return
        await asyncio.sleep(_PAUSE)
    raise GateError(ErrorCode.STORE_UNAVAILABLE, "another process has been migrating the database for a minute")


def _upgrade(connection: Connection) -> None:
    config, version = _config(), _version(connection)
    if version is not None:
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if version not in known:
            raise GateError(
                ErrorCode.STORE_UNAVAILABLE,
                f"the database has version {version}, this Twogate knows up to {latest_version()}: upgrade Twogate",
            )
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise GateError(ErrorCode.STORE_UNAVAILABLE, f"the database cannot be migrated: {error}") from error


def _version(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _config() -> Config:
    config = Config()
    # Config interpolates: a % of the path is written twice.
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config
