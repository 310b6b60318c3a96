from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.stores import race
from harness.postgres import Cluster
from twogate.core.errors import ErrorCode, GateError
from twogate.stores.sql import migrate
from twogate.stores.sql.engine import reading, writing
from twogate.stores.sql.migrate import current_version, latest_version, upgrade
from twogate.stores.sql.opening import open_engine
from twogate.stores.sql.tables_approvals import approvals
from twogate.stores.sql.tables_gates import pins

MIGRATIONS = Path(migrate.__file__).with_name("migrations")

metadata = pins.metadata  # the same for all; complete, because every module of tables is loaded here
assert approvals.metadata is metadata


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/50%25 off/twogate.db"
    cluster: Cluster = request.getfixturevalue("cluster")
    return cluster.url(cluster.new_user())


@pytest.fixture
async def engine(url: str) -> AsyncIterator[AsyncEngine]:
    opened = open_engine(url)
    yield opened
    await opened.dispose()


async def tables(engine: AsyncEngine) -> set[str]:
    async with reading(engine) as connection:
        return set(await connection.run_sync(lambda sync: inspect(sync).get_table_names()))


async def test_a_new_database_has_no_version_and_then_the_latest(engine: AsyncEngine) -> None:
    assert await current_version(engine) is None
    await upgrade(engine)
    assert await current_version(engine) == latest_version()


async def test_upgrading_again_changes_nothing(engine: AsyncEngine) -> None:
    await upgrade(engine)
    async with writing(engine) as connection:
        await connection.execute(text("UPDATE revision SET value = 7"))
    await upgrade(engine)
    async with reading(engine) as connection:
        assert (await connection.execute(text("SELECT id, value FROM revision"))).all() == [(1, 7)]


async def test_migrations_and_tables_describe_the_same_database(engine: AsyncEngine) -> None:
    await upgrade(engine)

    def differences(connection: Connection) -> object:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        return compare_metadata(context, metadata)

    async with reading(engine) as connection:
        assert await connection.run_sync(differences) == []
    assert await tables(engine) == {*metadata.tables, "alembic_version"}


async def test_a_database_of_a_newer_twogate_is_refused_untouched_and_the_error_says_what_to_do(
    engine: AsyncEngine,
) -> None:
    await upgrade(engine)
    async with writing(engine) as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(GateError, match=r"version 9999.*upgrade Twogate") as refused:
        await upgrade(engine)
    assert refused.value.code is ErrorCode.STORE_UNAVAILABLE
    assert await current_version(engine) == "9999"


async def test_a_migration_that_fails_halfway_leaves_nothing_behind(engine: AsyncEngine) -> None:
    async with writing(engine) as connection:
        await connection.execute(text("CREATE TABLE sessions (stranger TEXT)"))
    with pytest.raises(GateError) as refused:
        await upgrade(engine)
    assert refused.value.code is ErrorCode.STORE_UNAVAILABLE
    assert await tables(engine) == {"sessions"}


async def test_processes_that_start_together_on_nothing_all_find_the_latest_version(url: str, tmp_path: Path) -> None:
    assert await race(url, "start", processes=4, each=2) == [latest_version()] * 8
    assert [name for _, _, files in os.walk(tmp_path) for name in files] == ["twogate.db"] * url.startswith("sqlite")


def test_the_files_names_say_which_version_is_the_latest() -> None:
    assert latest_version() == ScriptDirectory(str(MIGRATIONS)).get_current_head()


async def test_a_database_that_has_the_latest_version_is_only_read(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/state/twogate.db"
    first, second = open_engine(url), open_engine(url, busy_timeout=0.01)
    try:
        await upgrade(first)
        async with writing(first):
            await upgrade(second)
            with pytest.raises(GateError):
                async with writing(second):
                    pass
    finally:
        await first.dispose()
        await second.dispose()
