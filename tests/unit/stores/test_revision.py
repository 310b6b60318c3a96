from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from twogate.core.errors import ErrorCode, GateError
from twogate.stores.sql.migrate import upgrade
from twogate.stores.sql.opening import open_engine
from twogate.stores.sql.revision import SqliteRevision


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    # Characters that mean something in a URL: the engine and this reader must open the same file.
    path = tmp_path / "a#b%20c d" / "twogate.db"
    engine = open_engine(f"sqlite:///{path}")
    await upgrade(engine)
    await engine.dispose()
    return path


@pytest.fixture
def revision(path: Path) -> Iterator[SqliteRevision]:
    opened = SqliteRevision(path)
    yield opened
    opened.close()


@pytest.fixture
def other(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def refused(revision: SqliteRevision) -> str:
    with pytest.raises(GateError) as error:
        revision.current()
    assert error.value.code is ErrorCode.STORE_UNAVAILABLE
    return error.value.debug


def test_the_counter_is_read_again_only_after_another_connection_committed(
    revision: SqliteRevision, other: sqlite3.Connection
) -> None:
    read: list[str] = []
    revision._connection.set_trace_callback(read.append)
    assert [revision.current() for _ in range(100)] == [1] * 100
    assert set(read) == {"PRAGMA data_version"}
    other.execute("UPDATE revision SET value = 2")
    assert revision.current() == 2


def test_an_uncommitted_change_does_not_show(revision: SqliteRevision, other: sqlite3.Connection) -> None:
    other.execute("BEGIN IMMEDIATE")
    other.execute("UPDATE revision SET value = 2")
    assert revision.current() == 1
    other.execute("COMMIT")
    assert revision.current() == 2


def test_reading_leaves_no_reader_behind_that_would_keep_the_wal_growing(
    revision: SqliteRevision, other: sqlite3.Connection
) -> None:
    other.execute("UPDATE revision SET value = 2")
    assert revision.current() == 2
    busy, _, _ = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert busy == 0


def test_a_missing_counter_refuses_until_it_is_back(revision: SqliteRevision, other: sqlite3.Connection) -> None:
    other.execute("DELETE FROM revision")
    refused(revision)
    refused(revision)
    other.execute("INSERT INTO revision VALUES (1, 9)")
    assert revision.current() == 9


def test_a_missing_table_refuses_until_it_is_back(revision: SqliteRevision, other: sqlite3.Connection) -> None:
    other.execute("ALTER TABLE revision RENAME TO gone")
    assert "no such table" in refused(revision)
    assert "no such table" in refused(revision)
    other.execute("ALTER TABLE gone RENAME TO revision")
    assert revision.current() == 1


def test_the_connection_cannot_write(revision: SqliteRevision) -> None:
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        revision._connection.execute("UPDATE revision SET value = 0")


def test_a_closed_reader_refuses(path: Path) -> None:
    revision = SqliteRevision(path)
    revision.current()
    revision.close()
    refused(revision)
    assert [file.name for file in path.parent.iterdir()] == ["twogate.db"]  # nobody holds its WAL


async def test_another_thread_than_its_own_is_refused(revision: SqliteRevision) -> None:
    assert "thread" in await asyncio.to_thread(refused, revision)


def test_a_database_that_does_not_exist_is_refused_and_not_created(tmp_path: Path) -> None:
    with pytest.raises(GateError) as error:
        SqliteRevision(tmp_path / "none.db")
    assert error.value.code is ErrorCode.STORE_UNAVAILABLE
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "poem.db").write_bytes(b"shall I compare thee " * 500)
    with pytest.raises(GateError) as error:
        SqliteRevision(tmp_path / "poem.db")
    assert error.value.code is ErrorCode.STORE_UNAVAILABLE
