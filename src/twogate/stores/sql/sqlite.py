"""Opening SQLite: a private file, in WAL mode, with transactions that begin as `engine` says."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import tempfile
from pathlib import Path
from typing import Final

from sqlalchemy import URL, Connection, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from twogate.core.errors import ErrorCode, GateError
from twogate.stores.sql.engine import BUSY_TIMEOUT, Transactions, store_errors

POOL_SIZE: Final = 4
"""Connections, each with a thread; more would only queue inside SQLite instead of before it."""

_SCHEMES: Final = ("sqlite", "sqlite+aiosqlite")
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_WRITES: Final = "twogate_writes"


def database_path(url: str) -> Path:
    """The file that `sqlite:///relative`, `sqlite:////absolute` or their `sqlite+aiosqlite` forms name.

    The path is taken as it is written, without percent-decoding, as the configuration takes it.

    Raises:
        ValueError: it is no such URL, or asks for options or a database in memory.
    """
    scheme, found, name = url.partition(":///")
    # The errors do not repeat the URL: one for another database may carry a password.
    if not found or scheme not in _SCHEMES:
        raise ValueError("the store must be a SQLite file: write sqlite:///path/to/twogate.db")
    if not name or "?" in name or name.startswith((":", "file:")):
        raise ValueError("the store's URL must name a file and nothing else: sqlite:///path/to/twogate.db")
    return Path(name)


def open_sqlite(url: str, *, full_sync: bool = False, busy_timeout: float = BUSY_TIMEOUT) -> AsyncEngine:
    """Open the database of a URL, creating file (mode 0600) and directory (0700, its parent must exist).

    Without `full_sync` a commit survives a killed process but the last ones may be lost with the machine's power.
    Connections are made when first used, so a file that is no database shows then. The caller disposes of the engine.

    Raises:
        ValueError: the URL is refused.
        GateError: STORE_UNAVAILABLE; the file cannot be made, or others than its owner may reach it.
    """
    path = database_path(url)
    with store_errors():
        _create_private(path)
    _verify_private(path)
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=str(path)),
        # Transactions are begun by hand (`_begin`), since SQLite can promise `writing` only with BEGIN IMMEDIATE.
        connect_args={"isolation_level": None, "timeout": busy_timeout},
        # SQLite's own waiting is polling, and unfair: writers of one process queue before it, in order.
        execution_options=Transactions(asyncio.Semaphore(1), writing={_WRITES: True}).as_options(),
        hide_parameters=True,
        max_overflow=0,
        pool_size=POOL_SIZE,
        pool_timeout=BUSY_TIMEOUT,
    )
    pragmas = (
        "PRAGMA journal_mode=WAL",
        f"PRAGMA synchronous={'FULL' if full_sync else 'NORMAL'}",
        "PRAGMA foreign_keys=ON",
        "PRAGMA trusted_schema=OFF",
    )

    def _connected(connection: DBAPIConnection, _record: object) -> None:
        # If this fails, SQLAlchemy closes the connection (a test watches that its thread ends).
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(pragma)
        cursor.close()

    event.listen(engine.sync_engine, "connect", _connected)
    event.listen(engine.sync_engine, "begin", _begin)
    return engine


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _create_private(path: Path) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if path.exists():
        # Not even opened: closing a descriptor drops every SQLite lock that this process has on the file.
        return
    # A complete, private database in WAL mode appears at once. Made in place, two processes starting together would
    # meet while it is converted to WAL, where SQLite fails instead of waiting.
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(descriptor)
    draft = Path(name)
    try:
        connection = sqlite3.connect(draft)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        finally:
            connection.close()
        try:
            path.hardlink_to(draft)
        except FileExistsError:
            return  # another process was first
    finally:
        draft.unlink()


def _verify_private(path: Path) -> None:
    # SQLite gives the -wal and -shm files beside it the mode of the database.
    with store_errors():
        directory, file = path.parent.stat(), path.lstat()
    if not stat.S_ISREG(file.st_mode):
        raise GateError(ErrorCode.STORE_UNAVAILABLE, f"{path} must be a regular file")
    if os.name != "posix":
        return  # Windows keeps access lists instead, inherited from the user's profile
    for where, status, mode in ((path.parent, directory, "700"), (path, file, "600")):
        if status.st_uid not in (0, os.geteuid()):
            raise GateError(ErrorCode.STORE_UNAVAILABLE, f"{where} belongs to another user; chown it to this one")
        if status.st_mode & _OTHERS:
            raise GateError(ErrorCode.STORE_UNAVAILABLE, f"others may reach {where}; chmod {mode} {where}")
