"""Databases that are migrated already: migrating takes longer than most tests.

The migrations run for real, once a test process and database system; every further database gets what they made. The
product's own `upgrade` still runs on each and finds it complete. Tests of migrating itself start from nothing.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from twogate.stores.sql.engine import is_postgresql, writing
from twogate.stores.sql.migrate import current_version, upgrade
from twogate.stores.sql.opening import open_engine
from twogate.stores.sql.sqlite import database_path


def place_database(path: Path) -> None:
    """Put a migrated SQLite database at a path where none is, private, in a private directory."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if not path.exists():
        path.touch(0o600)
        path.write_bytes(_migrated())


async def open_migrated(url: str) -> AsyncEngine:
    """The engine of a database, made and migrated if need be; the caller disposes of it."""
    if url.startswith("sqlite"):
        place_database(database_path(url))
    engine = open_engine(url)
    try:
        if is_postgresql(engine) and await current_version(engine) is None:
            await _migrate_postgres(engine)
        await upgrade(engine)
    except BaseException:
        await engine.dispose()
        raise
    return engine


_statements: list[tuple[str, Sequence[object]]] = []
"""What migrating a new PostgreSQL database executes, with its arguments."""


async def _migrate_postgres(engine: AsyncEngine) -> None:
    if _statements:
        async with writing(engine) as connection:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            for together, part in groupby(_statements, key=lambda item: not item[1]):
                if together:
                    await driver.execute(";".join(statement for statement, _ in part))
                else:
                    for statement, arguments in part:
                        await driver.execute(statement, *arguments)
        return
    made: list[tuple[str, Sequence[object]]] = []

    def note(_connection: object, _cursor: object, statement: str, arguments: Sequence[object], *_: object) -> None:
        if not statement.startswith("SELECT"):
            made.append((statement, arguments))

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    await upgrade(engine)
    event.remove(engine.sync_engine, "before_cursor_execute", note)
    _statements.extend(made)


@cache
def _migrated() -> bytes:
    with tempfile.TemporaryDirectory(prefix="twogate-migrated-") as directory:
        path = Path(directory) / "state" / "twogate.db"

        async def make() -> None:
            engine = open_engine(f"sqlite:///{path}")
            try:
                await upgrade(engine)
            finally:
                await engine.dispose()

        # In a thread, because a loop may be running here.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, make()).result()
        # The last connection's close has moved everything from the -wal file into the database.
        return path.read_bytes()
