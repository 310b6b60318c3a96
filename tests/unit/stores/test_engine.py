from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import threading
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.stores import AGENT, BINDING, CLIENT, NOW, open_stores, session
from twogate.core.errors import ErrorCode, GateError
from twogate.stores.sql.clients import SqlClientStore
from twogate.stores.sql.engine import reading, writing
from twogate.stores.sql.migrate import current_version, upgrade
from twogate.stores.sql.opening import open_engine
from twogate.stores.sql.registry import SqlRegistryStore
from twogate.stores.sql.replay import SqlReplayStore
from twogate.stores.sql.sessions import SqlSessionStore
from twogate.stores.sql.sqlite import database_path

USES: dict[str, Callable[[AsyncEngine], Awaitable[object]]] = {
    "sessions.open": lambda engine: SqlSessionStore(engine).open(session("s1"), AGENT, NOW),
    "sessions.get": lambda engine: SqlSessionStore(engine).get("s1"),
    "sessions.list_unexpired": lambda engine: SqlSessionStore(engine).list_unexpired(NOW),
    "sessions.end": lambda engine: SqlSessionStore(engine).end("s1", NOW),
    "registry.load": lambda engine: SqlRegistryStore(engine).load(),
    "registry.add_agent": lambda engine: SqlRegistryStore(engine).add_agent(AGENT, [BINDING], NOW),
    "registry.disable_agent": lambda engine: SqlRegistryStore(engine).disable_agent(AGENT.id, NOW),
    "clients.get": lambda engine: SqlClientStore(engine).get("c"),
    "clients.add": lambda engine: SqlClientStore(engine).add(CLIENT, None, [], NOW),
    "clients.list": lambda engine: SqlClientStore(engine).list(),
    "clients.touch": lambda engine: SqlClientStore(engine).touch("c", NOW),
    "replay.redeem": lambda engine: SqlReplayStore(engine).redeem("jti", "c", "v", NOW + 1, NOW),
}
WRITES = ["sessions.open", "sessions.end", "registry.add_agent", "clients.add", "replay.redeem"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "twogate.db"


@pytest.fixture
async def engine(path: Path) -> AsyncIterator[AsyncEngine]:
    opened = open_engine(f"sqlite:///{path}", busy_timeout=0.05)
    yield opened
    await opened.dispose()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def overwrite(path: Path, data: bytes, start: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(data)


@contextmanager
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


async def unavailable(use: Awaitable[object]) -> GateError:
    with pytest.raises(GateError) as refused:
        await use
    assert refused.value.code is ErrorCode.STORE_UNAVAILABLE
    return refused.value


def assert_ended(threads: set[threading.Thread]) -> None:
    # A connection counts as closed a moment before its thread is gone.
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)


# The file and who may reach it.


async def test_the_database_and_everything_beside_it_are_private_even_under_an_open_umask(path: Path) -> None:
    with open_umask():
        engine = open_engine(f"sqlite:///{path}")
        await upgrade(engine)
        files = {file.name: mode(file) for file in path.parent.iterdir()}
        await engine.dispose()
    assert files == dict.fromkeys(["twogate.db", "twogate.db-wal", "twogate.db-shm"], 0o600)
    assert mode(path.parent) == 0o700


def test_nothing_but_the_database_is_left_after_creating_it(path: Path) -> None:
    open_engine(f"sqlite:///{path}")
    open_engine(f"sqlite:///{path}")
    assert [file.name for file in path.parent.iterdir()] == ["twogate.db"]


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620, 0o610])
def test_a_database_that_others_may_reach_is_refused_with_what_to_do(path: Path, bits: int) -> None:
    open_engine(f"sqlite:///{path}")
    path.chmod(bits)
    with pytest.raises(GateError, match="chmod 600") as refused:
        open_engine(f"sqlite:///{path}")
    assert refused.value.code is ErrorCode.STORE_UNAVAILABLE


@pytest.mark.parametrize("bits", [0o750, 0o705, 0o701])
def test_a_directory_that_others_may_reach_is_refused_with_what_to_do(path: Path, bits: int) -> None:
    path.parent.mkdir()
    path.parent.chmod(bits)
    with pytest.raises(GateError, match="chmod 700") as refused:
        open_engine(f"sqlite:///{path}")
    assert refused.value.code is ErrorCode.STORE_UNAVAILABLE


def test_a_symbolic_link_or_a_directory_in_place_of_the_database_is_refused(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    path.symlink_to(path.parent / "elsewhere")
    with pytest.raises(GateError, match="regular file") as link:
        open_engine(f"sqlite:///{path}")
    path.unlink()
    path.mkdir()
    with pytest.raises(GateError, match="regular file") as directory:
        open_engine(f"sqlite:///{path}")
    assert link.value.code is directory.value.code is ErrorCode.STORE_UNAVAILABLE


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_database_of_another_user_is_refused(path: Path) -> None:
    open_engine(f"sqlite:///{path}")
    os.chown(path, 4242, 4242)
    with pytest.raises(GateError, match="another user") as refused:
        open_engine(f"sqlite:///{path}")
    assert refused.value.code is ErrorCode.STORE_UNAVAILABLE


def test_a_directory_whose_parent_does_not_exist_is_not_invented(tmp_path: Path) -> None:
    with pytest.raises(GateError) as refused:
        open_engine(f"sqlite:///{tmp_path}/no/such/twogate.db")
    assert refused.value.code is ErrorCode.STORE_UNAVAILABLE
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:///twogate.db", "twogate.db"),
        ("sqlite:////var/lib/twogate.db", "/var/lib/twogate.db"),
        ("sqlite:///50%25 off#1.db", "50%25 off#1.db"),
        ("sqlite+aiosqlite:////var/lib/twogate.db", "/var/lib/twogate.db"),
    ],
)
def test_a_sqlite_url_names_a_file(url: str, expected: str) -> None:
    assert database_path(url) == Path(expected)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "twogate.db",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:///file:x?mode=memory",
        "sqlite:///x.db?mode=ro",
        "sqlite://host/x.db",
        "postgresql://user:hunter2@host/db",
        "mysql://user:hunter2@host/db",
        "sqlite+pysqlcipher:///x.db",
        "post gres://user:hunter2@host",
        "http://user:hunter2@host:port/db",
    ],
)
def test_any_other_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match="sqlite:///path") as refused:
        open_engine(url)
    assert "hunter2" not in str(refused.value)


# How connections are set up.


@pytest.mark.parametrize(("full_sync", "synchronous"), [(False, 1), (True, 2)])
async def test_connections_use_wal_foreign_keys_and_no_trusted_schema(
    path: Path, full_sync: bool, synchronous: int
) -> None:
    engine = open_engine(f"sqlite:///{path}", full_sync=full_sync)
    pragmas = {}
    async with reading(engine) as connection:
        for name in ("journal_mode", "synchronous", "foreign_keys", "trusted_schema", "busy_timeout"):
            pragmas[name] = (await connection.execute(text(f"PRAGMA {name}"))).scalar_one()
    await engine.dispose()
    assert pragmas == {
        "journal_mode": "wal",
        "synchronous": synchronous,
        "foreign_keys": 1,
        "trusted_schema": 0,
        "busy_timeout": 5000,
    }


async def test_disposing_of_an_engine_ends_its_threads(path: Path) -> None:
    before = set(threading.enumerate())
    engine = open_engine(f"sqlite:///{path}")
    await upgrade(engine)
    await asyncio.gather(*(current_version(engine) for _ in range(20)))
    opened = set(threading.enumerate()) - before
    assert opened
    await engine.dispose()
    assert_ended(set(threading.enumerate()) - before)


# What happens when the database cannot serve.


@pytest.mark.parametrize("use", USES)
async def test_a_file_that_is_no_database_makes_every_store_unavailable(
    path: Path, engine: AsyncEngine, use: str
) -> None:
    before = set(threading.enumerate())
    overwrite(path, b"this is not a database, it is a poem " * 400)
    await unavailable(USES[use](engine))
    await engine.dispose()
    assert_ended(set(threading.enumerate()) - before)


@pytest.mark.parametrize("use", USES)
async def test_a_damaged_database_makes_every_store_unavailable(path: Path, use: str) -> None:
    async with open_stores(f"sqlite:///{path}"):
        pass
    overwrite(path, b"\x99" * 200_000, start=4096)  # the header stays, every page after the first is noise
    engine = open_engine(f"sqlite:///{path}")
    await unavailable(USES[use](engine))
    await engine.dispose()


@pytest.mark.parametrize("use", USES)
async def test_a_database_that_was_never_migrated_makes_every_store_unavailable(engine: AsyncEngine, use: str) -> None:
    assert "no such table" in (await unavailable(USES[use](engine))).debug


@pytest.mark.parametrize("use", WRITES)
async def test_a_locked_database_is_unavailable_and_serves_again_once_it_is_free(
    path: Path, engine: AsyncEngine, use: str
) -> None:
    await upgrade(engine)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert "locked" in (await unavailable(USES[use](engine))).debug
        assert await SqlSessionStore(engine).get("s1") is None  # reading goes on
        other.execute("ROLLBACK")
    await USES[use](engine)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE sessions SET targets = '[1'",
        "UPDATE sessions SET targets = '\"git.git_push\"'",
        "UPDATE sessions SET targets = X'ff'",
    ],
)
async def test_a_row_that_makes_no_sense_is_not_guessed_at(engine: AsyncEngine, damage: str) -> None:
    await upgrade(engine)
    await SqlSessionStore(engine).open(session("s1"), AGENT, NOW)
    async with writing(engine) as connection:
        await connection.execute(text(damage))
    await unavailable(SqlSessionStore(engine).get("s1"))


async def test_a_binding_by_a_method_that_does_not_exist_is_not_guessed_at(engine: AsyncEngine) -> None:
    await upgrade(engine)
    await SqlRegistryStore(engine).add_agent(AGENT, [BINDING], NOW)
    async with writing(engine) as connection:
        await connection.execute(text("UPDATE bindings SET method = 'palmistry'"))
    await unavailable(SqlRegistryStore(engine).load())


async def test_errors_name_the_cause_and_repeat_no_value(engine: AsyncEngine) -> None:
    await upgrade(engine)
    async with writing(engine) as connection:
        await connection.execute(text("DROP TABLE clients"))
    refused = await unavailable(SqlClientStore(engine).get("sesame"))
    assert refused.debug == "OperationalError: no such table: clients"
    assert "sesame" not in "".join(traceback.format_exception(refused))


# Transactions.


async def test_an_exception_inside_a_writing_transaction_undoes_it(engine: AsyncEngine) -> None:
    await upgrade(engine)

    async def fail() -> None:
        async with writing(engine) as connection:
            await connection.execute(text("INSERT INTO replay VALUES ('x', 1)"))
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    async with reading(engine) as connection:
        assert (await connection.execute(text("SELECT count(*) FROM replay"))).scalar_one() == 0


async def test_a_cancelled_writer_undoes_its_work_and_lets_the_next_one_in(engine: AsyncEngine) -> None:
    await upgrade(engine)
    inside = asyncio.Event()

    async def stuck() -> None:
        async with writing(engine) as connection:
            await connection.execute(text("INSERT INTO replay VALUES ('x', 1)"))
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(stuck())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await SqlReplayStore(engine).redeem("jti", "c", "v", NOW + 1, NOW) is True
    async with reading(engine) as connection:
        assert (await connection.execute(text("SELECT count(*) FROM replay WHERE digest = 'x'"))).scalar_one() == 0


async def test_declarations_cancelled_at_any_point_leave_the_store_working(path: Path) -> None:
    engine = open_engine(f"sqlite:///{path}")
    await upgrade(engine)
    store = SqlSessionStore(engine)
    for steps in range(40):
        task = asyncio.create_task(store.open(session(f"s{steps}"), AGENT, NOW))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    opened = await store.open(session("last"), AGENT, NOW)
    assert await store.list_unexpired(NOW) == [opened]
    await engine.dispose()


async def test_writers_that_wait_for_another_process_leave_connections_for_readers(path: Path) -> None:
    engine = open_engine(f"sqlite:///{path}")
    await upgrade(engine)
    store = SqlReplayStore(engine)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        writers = [asyncio.create_task(store.redeem("jti", "c", str(n), NOW + 1, NOW)) for n in range(20)]
        await asyncio.sleep(0)  # all of them have asked before the reader does
        async with asyncio.timeout(2):
            assert await SqlSessionStore(engine).get("s1") is None
        assert not any(writer.done() for writer in writers)
        other.execute("ROLLBACK")
    assert await asyncio.gather(*writers) == [True] * 20
    await engine.dispose()


async def test_a_reader_sees_one_moment_while_writers_go_on(engine: AsyncEngine) -> None:
    await upgrade(engine)
    count = text("SELECT count(*) FROM replay")
    async with reading(engine) as connection:
        assert (await connection.execute(count)).scalar_one() == 0
        await SqlReplayStore(engine).redeem("jti", "c", "v", NOW + 1, NOW)
        assert (await connection.execute(count)).scalar_one() == 0
    async with reading(engine) as connection:
        assert (await connection.execute(count)).scalar_one() == 1
