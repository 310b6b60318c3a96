"""What holds on PostgreSQL beyond the contracts: how it is reached, what its errors become, who waits for whom."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import event, text
from sqlalchemy.engine.interfaces import AdaptedConnection
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.stores import AGENT, BINDING, NOW, session
from harness.postgres import SUPERUSER, Cluster
from harness.tls_relay import SSL_REQUEST, make_certificate, relaying
from twogate.config import parse_settings
from twogate.core.errors import ErrorCode, GateError
from twogate.core.principal import Agent, AgentId, PrincipalKey
from twogate.state import open_store, store_exists
from twogate.stores.password_file import read_password
from twogate.stores.sql.clients import SqlClientStore
from twogate.stores.sql.engine import exclude, reading, writing
from twogate.stores.sql.migrate import upgrade
from twogate.stores.sql.opening import open_engine
from twogate.stores.sql.postgres import WRITERS, open_postgres
from twogate.stores.sql.registry import SqlRegistryStore
from twogate.stores.sql.replay import PURGE_EVERY, SqlReplayStore
from twogate.stores.sql.revision import changing
from twogate.stores.sql.sessions import KEEP_EXPIRED, SqlSessionStore

PHRASE = "sesame"


@pytest.fixture
def user(cluster: Cluster) -> str:
    return cluster.new_user()


@pytest.fixture
async def engine(cluster: Cluster, user: str) -> AsyncIterator[AsyncEngine]:
    opened = open_engine(cluster.url(user))
    await upgrade(opened)
    yield opened
    await opened.dispose()


async def refused(url: str, *, password: Path | None = None, ca: Path | None = None) -> str:
    engine = open_engine(url, password=password, ca=ca)
    try:
        with pytest.raises(GateError) as error:
            await SqlSessionStore(engine).get("s1")
    finally:
        await engine.dispose()
    assert error.value.code is ErrorCode.STORE_UNAVAILABLE
    return error.value.debug


def secret(directory: Path, content: bytes, mode: int = 0o600) -> Path:
    path = directory / "password"
    path.write_bytes(content)
    path.chmod(mode)
    return path


# Who may in.


async def test_the_password_comes_from_its_file_and_is_read_anew_for_each_connection(
    cluster: Cluster, tmp_path: Path
) -> None:
    user = cluster.new_user(password="sesame")
    path = secret(tmp_path, b"sesame\n")
    engine = open_engine(cluster.url(user), password=path)
    await upgrade(engine)
    cluster.run(f"ALTER ROLE {user} PASSWORD 'barley'")
    cluster.cut_off(user)
    path.write_bytes(b"barley")
    async with asyncio.timeout(30):
        while True:
            try:
                assert await SqlSessionStore(engine).get("s1") is None
            except GateError:
                continue  # the end of the old connections has not arrived yet
            break
    await engine.dispose()


async def test_a_wrong_password_or_none_is_refused_whatever_the_environment_offers(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = cluster.new_user(password="sesame")
    (tmp_path / ".pgpass").write_text("*:*:*:*:sesame\n")
    (tmp_path / ".pgpass").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / ".pgpass"))
    monkeypatch.setenv("PGPASSWORD", "sesame")
    assert "password" in await refused(cluster.url(user))
    told = await refused(cluster.url(user), password=secret(tmp_path, b"barley"))
    assert "password authentication failed" in told
    assert "barley" not in told


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
async def test_a_password_file_that_others_may_reach_is_refused_with_what_to_do(
    cluster: Cluster, tmp_path: Path, mode: int
) -> None:
    user = cluster.new_user(password="sesame")
    assert "chmod 600" in await refused(cluster.url(user), password=secret(tmp_path, b"sesame", mode))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_password_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = secret(tmp_path, b"sesame")
    os.chown(path, 4242, 4242)
    with pytest.raises(GateError, match="chown"):
        read_password(path)


@pytest.mark.parametrize("content", [b"", b"\n", b"a\nb", b"a\x00", b"s\xc3\xa9same", b"x" * 1025])
def test_a_password_is_one_line_of_ascii_text(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(GateError, match="one line") as error:
        read_password(secret(tmp_path, content))
    assert error.value.code is ErrorCode.STORE_UNAVAILABLE


def test_a_password_file_that_is_none_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path / "missing", tmp_path, tmp_path / "pipe"):
        with pytest.raises(GateError) as error:
            read_password(path)
        assert error.value.code is ErrorCode.STORE_UNAVAILABLE


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+asyncpg://gate:sesame@localhost/db",
        "postgresql+asyncpg://gate@/db",
        "postgresql+asyncpg://gate@localhost/db?host=/run",
        "postgresql+asyncpg://gate@localhost:sesame/db",
    ],
)
def test_a_url_that_the_configuration_would_not_give_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="URL") as error:
        open_postgres(url)
    assert PHRASE not in "".join(traceback.format_exception(error.value))


def test_a_ca_for_a_unix_socket_is_refused(tmp_path: Path) -> None:
    ca, _ = make_certificate(tmp_path, "localhost")
    with pytest.raises(ValueError, match="TLS"):
        open_postgres("postgresql+asyncpg://gate@/db?host=/run", ca=ca)


def test_a_ca_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("poem")
    for path in (tmp_path / "ca.pem", tmp_path / "missing.pem"):
        with pytest.raises(GateError) as error:
            open_postgres("postgresql+asyncpg://gate@localhost/db", ca=path)
        assert error.value.code is ErrorCode.STORE_UNAVAILABLE


async def test_a_server_elsewhere_that_speaks_no_tls_is_told_nothing(cluster: Cluster) -> None:
    # 0.0.0.0 leads here, but is no address of this machine's own.
    async with relaying(cluster.socket, None) as relay:
        await refused(f"postgresql+asyncpg://{SUPERUSER}@0.0.0.0:{relay.port}/{SUPERUSER}")
    assert relay.plain == [SSL_REQUEST, b""]


async def test_over_tls_the_servers_name_and_its_ca_are_verified(cluster: Cluster, user: str, tmp_path: Path) -> None:
    ca, server = make_certificate(tmp_path / "right", "localhost")
    other_ca, _ = make_certificate(tmp_path / "other", "localhost")
    foreign_ca, foreign = make_certificate(tmp_path / "foreign", "db.example.com")
    async with relaying(cluster.socket, server) as relay:
        url = f"postgresql+asyncpg://{user}@localhost:{relay.port}/{SUPERUSER}"
        engine = open_engine(url, ca=ca)
        await upgrade(engine)
        assert await SqlSessionStore(engine).get("s1") is None
        await engine.dispose()
        assert "certificate" in (await refused(url, ca=other_ca)).lower()
        assert "certificate" in (await refused(url.replace("localhost", "0.0.0.0"))).lower()
        assert set(relay.plain) == {SSL_REQUEST}
    async with relaying(cluster.socket, foreign) as relay:
        url = f"postgresql+asyncpg://{user}@localhost:{relay.port}/{SUPERUSER}"
        assert "certificate" in (await refused(url, ca=foreign_ca)).lower()


async def test_nobody_there_is_unavailable(tmp_path: Path) -> None:
    await refused(f"postgresql+asyncpg://gate@/db?host={tmp_path}")
    await refused("postgresql+asyncpg://gate@127.0.0.1:1/db")


def test_a_missing_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(GateError, match=r"pip install 'twogate\[postgres\]'") as error:
        open_postgres("postgresql+asyncpg://gate@localhost/db")
    assert error.value.code is ErrorCode.STORE_UNAVAILABLE


async def test_looking_whether_there_is_a_store_makes_none(cluster: Cluster, user: str, tmp_path: Path) -> None:
    document = {
        "public_url": "http://localhost:8443", "listen": "127.0.0.1:8443", "state": "state", "tenants": {"acme": {}},
        "store": cluster.url(user),
    }  # fmt: skip
    settings = parse_settings(json.dumps(document), tmp_path / "twogate.yaml")  # JSON is YAML
    assert await store_exists(settings) is False
    assert cluster.run("SELECT 1 FROM pg_tables WHERE schemaname = current_user", user) == []
    await (await open_store(settings)).close()
    assert await store_exists(settings) is True


# What its errors become.


@pytest.mark.parametrize("use", ["read", "write", "change"])
async def test_a_database_that_was_never_migrated_makes_every_store_unavailable(
    cluster: Cluster, user: str, use: str
) -> None:
    engine = open_engine(cluster.url(user))
    uses: dict[str, Callable[[], Awaitable[object]]] = {
        "read": lambda: SqlSessionStore(engine).get("s1"),
        "write": lambda: SqlReplayStore(engine).redeem("jti", "c", "v", NOW + 1, NOW),
        "change": lambda: SqlRegistryStore(engine).disable_agent(AGENT.id, NOW),
    }
    with pytest.raises(GateError, match="does not exist") as error:
        await uses[use]()
    assert error.value.code is ErrorCode.STORE_UNAVAILABLE
    await engine.dispose()


async def test_errors_name_the_cause_and_repeat_no_value(engine: AsyncEngine) -> None:
    async with writing(engine) as connection:
        await connection.execute(text("DROP TABLE clients"))
    with pytest.raises(GateError) as error:
        await SqlClientStore(engine).get(PHRASE)
    assert error.value.code is ErrorCode.STORE_UNAVAILABLE
    assert 'relation "clients" does not exist' in error.value.debug
    assert PHRASE not in "".join(traceback.format_exception(error.value))


@pytest.mark.parametrize("value", [f"{PHRASE}\x00", f"{PHRASE}\ud800"])
async def test_a_value_that_the_database_cannot_hold_is_refused_and_not_repeated(
    engine: AsyncEngine, value: str
) -> None:
    with pytest.raises(GateError) as error:
        await SqlSessionStore(engine).get(value)
    assert error.value.code is ErrorCode.REQUEST_MALFORMED
    assert PHRASE not in "".join(traceback.format_exception(error.value))


async def test_a_row_that_makes_no_sense_is_not_guessed_at(engine: AsyncEngine) -> None:
    await SqlSessionStore(engine).open(session("s1"), AGENT, NOW)
    async with writing(engine) as connection:
        await connection.execute(text("UPDATE sessions SET targets = '[1'"))
    with pytest.raises(GateError) as error:
        await SqlSessionStore(engine).get("s1")
    assert error.value.code is ErrorCode.STORE_UNAVAILABLE


async def test_a_missing_counter_refuses_every_change(engine: AsyncEngine) -> None:
    async with writing(engine) as connection:
        await connection.execute(text("DELETE FROM revision"))
    store = SqlRegistryStore(engine)
    with pytest.raises(GateError) as error:
        await store.add_agent(AGENT, [BINDING], NOW)
    assert error.value.code is ErrorCode.STORE_UNAVAILABLE
    assert (await store.load()).agents == {}


# Transactions.


async def test_a_reader_sees_one_moment_while_writers_go_on_and_cannot_write(engine: AsyncEngine) -> None:
    count = text("SELECT count(*) FROM replay")
    async with reading(engine) as connection:
        assert (await connection.execute(count)).scalar_one() == 0
        await SqlReplayStore(engine).redeem("jti", "c", "v", NOW + 1, NOW)
        assert (await connection.execute(count)).scalar_one() == 0

    async def write() -> None:
        async with reading(engine) as connection:
            await connection.execute(text("DELETE FROM replay"))

    with pytest.raises(GateError, match="read-only"):
        await write()


async def test_a_cancelled_writer_undoes_its_work_and_lets_go_of_what_it_excluded(engine: AsyncEngine) -> None:
    inside = asyncio.Event()

    async def stuck() -> None:
        async with writing(engine) as connection:
            await exclude(connection, "x")
            await connection.execute(text("INSERT INTO replay VALUES ('x', 1)"))
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(stuck())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with writing(engine) as connection:
        await exclude(connection, "x")
        assert (await connection.execute(text("SELECT count(*) FROM replay"))).scalar_one() == 0


async def test_declarations_of_one_principal_wait_for_each_other_and_those_of_others_do_not(
    engine: AsyncEngine,
) -> None:
    store = SqlSessionStore(engine)
    inside, go = asyncio.Event(), asyncio.Event()

    async def announce() -> None:
        inside.set()
        await go.wait()

    first = asyncio.create_task(store.open(session("s1"), AGENT, NOW, announce))
    await inside.wait()
    second = asyncio.create_task(store.open(session("s2", "release"), AGENT, NOW))
    other = PrincipalKey("acme", "https://as.example", "tester", None)
    await store.open(session("s3", principal=other), _agent("tester"), NOW)
    assert not second.done()
    go.set()
    assert (await first).id == "s1"
    with pytest.raises(GateError) as error:
        await second
    assert error.value.code is ErrorCode.TASK_LIMIT


async def test_as_many_stuck_writers_as_there_may_be_leave_connections_for_readers(engine: AsyncEngine) -> None:
    go = asyncio.Event()

    async def stuck() -> None:
        async with writing(engine):
            await go.wait()

    writers = [asyncio.create_task(stuck()) for _ in range(3 * WRITERS)]
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        assert await SqlSessionStore(engine).get("s1") is None
    go.set()
    await asyncio.gather(*writers)


async def test_a_process_stopped_within_a_change_does_not_keep_others_from_making_theirs(
    cluster: Cluster, user: str, engine: AsyncEngine
) -> None:
    frozen = open_engine(cluster.url(user))
    holding, go = asyncio.Event(), asyncio.Event()

    async def stopped() -> None:
        async with changing(frozen) as connection:
            await connection.execute(text("DELETE FROM agents"))
            holding.set()
            await go.wait()

    task = asyncio.create_task(stopped())
    await holding.wait()
    assert await SqlRegistryStore(engine).disable_agent(AGENT.id, NOW) is True
    go.set()
    with pytest.raises(GateError) as error:
        await task
    assert error.value.code is ErrorCode.STORE_UNAVAILABLE
    await frozen.dispose()


@pytest.mark.parametrize("table", ["sessions", "replay"])
async def test_a_purge_leaves_out_rows_that_another_process_is_purging(engine: AsyncEngine, table: str) -> None:
    sessions, replay, later = SqlSessionStore(engine), SqlReplayStore(engine), NOW + KEEP_EXPIRED + 10_000
    await sessions.open(session("old"), AGENT, NOW)
    await replay.redeem("jti", "c", "old", NOW + 1, NOW)
    async with writing(engine) as connection:
        await connection.execute(text(f"SELECT * FROM {table} FOR UPDATE"))  # noqa: S608 - of the two above
        if table == "sessions":
            other = PrincipalKey("acme", "https://as.example", "tester", None)
            await sessions.open(session("new", principal=other, start=later), _agent("tester"), later)
        else:
            for number in range(PURGE_EVERY):
                assert await replay.redeem("jti", "c", str(number), later + 1, later) is True
        count = text(f"SELECT count(*) FROM {table}")  # noqa: S608
        assert (await connection.execute(count)).scalar_one() == (2 if table == "sessions" else PURGE_EVERY + 1)


def _agent(name: str) -> Agent:
    return msgspec.structs.replace(AGENT, id=AgentId("acme", name))


# A server that comes and goes.


async def test_connections_that_the_server_ended_are_replaced_without_a_refusal(cluster: Cluster, user: str) -> None:
    engine = open_engine(cluster.url(user))
    made: list[AdaptedConnection] = []
    event.listen(engine.sync_engine, "connect", lambda connection, _record: made.append(connection))
    await upgrade(engine)
    store = SqlSessionStore(engine)
    for _ in range(2):
        assert await asyncio.gather(*(store.get("s1") for _ in range(5))) == [None] * 5
        cluster.cut_off(user)
        async with asyncio.timeout(30):
            while not all(connection.driver_connection.is_closed() for connection in made):
                await asyncio.sleep(0.01)
    assert await asyncio.gather(*(store.get("s1") for _ in range(5))) == [None] * 5
    assert len(made) > 2
    await engine.dispose()
