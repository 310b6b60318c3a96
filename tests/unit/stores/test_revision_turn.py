"""Within one turn of the event loop the revision is read once; nobody is shown a state older than their request."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from twogate.core.errors import ErrorCode, GateError
from twogate.stores.sql.migrate import upgrade
from twogate.stores.sql.opening import open_engine
from twogate.stores.sql.revision import SqliteRevision


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    engine = open_engine(f"sqlite:///{tmp_path}/twogate.db")
    await upgrade(engine)
    await engine.dispose()
    return tmp_path / "twogate.db"


async def test_one_turn_reads_once_and_what_is_started_later_sees_a_change(path: Path) -> None:
    with closing(SqliteRevision(path)) as revision, closing(sqlite3.connect(path, isolation_level=None)) as other:
        read: list[str] = []
        revision._connection.set_trace_callback(read.append)
        await asyncio.sleep(0)
        seen: list[int] = []
        asyncio.get_running_loop().call_soon(lambda: seen.append(revision.current()))
        asyncio.get_running_loop().call_soon(lambda: seen.append(revision.current()))
        await asyncio.sleep(0)
        assert (seen, len(read)) == ([1, 1], 1)
        other.execute("UPDATE revision SET value = 2")
        # As a request that arrives now: its task is queued behind the end of the turn that read.
        asyncio.get_running_loop().call_soon(lambda: seen.append(revision.current()))
        await asyncio.sleep(0)
        assert seen == [1, 1, 2]


async def test_a_closed_revision_refuses_in_the_same_turn(path: Path) -> None:
    revision = SqliteRevision(path)
    assert revision.current() == 1
    revision.close()
    with pytest.raises(GateError) as refused:
        revision.current()
    assert refused.value.code is ErrorCode.STORE_UNAVAILABLE
