"""Bringing a database to the tables that this version of Twogate knows (Alembic, without its configuration file)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from twogate.core.errors import ErrorCode, GateError
from twogate.stores.sql.engine import reading, writing

_MIGRATIONS: Final = Path(__file__).parent / "migrations"


async def upgrade(engine: AsyncEngine) -> None:
    """Run the migrations that the database lacks, all or none.

    The transaction that runs them excludes other writers, so of processes that start together one migrates and the
    others then find nothing to do.

    Raises:
        GateError: STORE_UNAVAILABLE; also when a newer Twogate has migrated this database.
    """
    async with writing(engine) as connection:
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
