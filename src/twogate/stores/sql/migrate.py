"""Bringing a database to the tables that this version of Twogate knows (Alembic, without its configuration file)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, column, func, inspect, select, table
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from twogate.core.errors import ErrorCode, GateError
from twogate.stores.sql.engine import is_postgresql, lock_key, reading, writing

if TYPE_CHECKING:
    from alembic.config import Config

TURN_ATTEMPTS: Final = 1200
"""How often a process on PostgreSQL asks whether another one is done migrating, every `_PAUSE` seconds."""

_PAUSE: Final = 0.05
_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_VERSION: Final = table("alembic_version", column("version_num"))


async def upgrade(engine: AsyncEngine) -> None:
    """Run the migrations that the database lacks, all or none.

    The transaction that runs them excludes others that do, so of processes that start together one migrates and the
    others then find nothing to do. A database that has the latest version is only read.

    Raises:
        GateError: STORE_UNAVAILABLE; also when a newer Twogate has migrated this database.
    """
    # A version is committed together with its tables, so whoever reads the latest one has them all.
    if await current_version(engine) == latest_version():
        return
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
    """The version that `upgrade` leads to: the migrations' files are named by version and what they do."""
    versions = [path.name.partition("_")[0] for path in (_MIGRATIONS / "versions").glob("[0-9]*_*.py")]
    if not versions:
        raise RuntimeError("the migrations are missing from this installation")
    return max(versions)


async def _take_turn(connection: AsyncConnection) -> None:
    # By asking again and again, since migrations may take longer than any statement may wait for a lock.
    attempt = select(func.pg_try_advisory_xact_lock(lock_key("migrations")))
    for _ in range(TURN_ATTEMPTS):
        if await connection.scalar(attempt):
            return
        await asyncio.sleep(_PAUSE)
    raise GateError(ErrorCode.STORE_UNAVAILABLE, "another process has been migrating the database for a minute")


def _upgrade(connection: Connection) -> None:
    # Here, because a start that has nothing to migrate would wait for Alembic.
    from alembic import command  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415
    from alembic.util import CommandError  # noqa: PLC0415

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
    if not inspect(connection).has_table(_VERSION.name):
        return None
    found: str | None = connection.scalars(select(_VERSION.c.version_num)).one_or_none()
    return found


def _config() -> Config:
    from alembic.config import Config  # noqa: PLC0415 - as above

    config = Config()
    # Config interpolates: a % of the path is written twice.
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config
