"""The two kinds of transaction, and the one place where the database's errors become ours.

`reading` sees one snapshot. `writing` is all or nothing: an error or a cancellation inside rolls back. On SQLite it
excludes every other writer, of any process, from before its first statement. On PostgreSQL writers run side by side;
what must not is kept apart by `exclude`, a unique key, or the row of the revision (`revision.changing`).
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Final

import msgspec
from sqlalchemy import Table, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from twogate.core.errors import ErrorCode, GateError

BUSY_TIMEOUT: Final = 5.0
"""Seconds that a transaction waits for other processes, and again for its turn within this one."""

# SQLSTATE class 22: data exception. PostgreSQL's texts of classes 22 and 23 quote values.
_DATA_EXCEPTION: Final = "22"
_QUOTING: Final = ("22", "23")
_TRANSACTIONS: Final = "twogate_transactions"


@dataclass(frozen=True)
class Transactions:
    """How an engine begins its transactions: the execution options of each kind, and how many may write at once.

    Writers queue for `turn` without a connection, so that readers find one.
    """

    turn: asyncio.Semaphore
    reading: Mapping[str, object] = field(default_factory=dict[str, object])
    writing: Mapping[str, object] = field(default_factory=dict[str, object])

    def as_options(self) -> dict[str, object]:
        """The engine's execution options, by which `reading` and `writing` find this."""
        return {_TRANSACTIONS: self}


@asynccontextmanager
async def reading(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
    """A transaction over one snapshot of the database.

    Raises:
        GateError: see `store_errors`.
    """
    with store_errors():
        async with engine.connect() as connection:
            await connection.execution_options(**_transactions(engine).reading)
            yield connection


@asynccontextmanager
async def writing(engine: AsyncEngine, conflict: GateError | None = None) -> AsyncGenerator[AsyncConnection]:
    """A transaction that changes something; committed at the end, rolled back by any exception.

    Raises:
        GateError: see `store_errors`.
    """
    transactions = _transactions(engine)
    with store_errors(conflict):
        async with asyncio.timeout(BUSY_TIMEOUT):
            await transactions.turn.acquire()
        try:
            async with engine.connect() as connection:
                await connection.execution_options(**transactions.writing)
                async with connection.begin():
                    yield connection
        finally:
            transactions.turn.release()


async def exclude(connection: AsyncConnection, *name: str) -> None:
    """Keep out whoever else excludes others under this name, until the `writing` transaction ends.

    Names may collide, and those transactions then only wait for each other.
    """
    if is_postgresql(connection):
        await connection.execute(select(func.pg_advisory_xact_lock(lock_key(*name))))


def lock_key(*name: str) -> int:
    """The number by which PostgreSQL knows an advisory lock: 64 bits, signed."""
    return int.from_bytes(hashlib.sha256(msgspec.json.encode(name)).digest()[:8], signed=True)


async def insert_if_absent(connection: AsyncConnection, table: Table, **values: object) -> bool:
    """Insert a row unless one of its unique keys exists; whether it was inserted. Of several at once, one inserts."""
    key = next(iter(table.primary_key))
    if is_postgresql(connection):
        statement = postgresql.insert(table).values(**values).on_conflict_do_nothing().returning(key)
        return (await connection.execute(statement)).one_or_none() is not None
    inserted = sqlite.insert(table).values(**values).on_conflict_do_nothing().returning(key)
    return (await connection.execute(inserted)).one_or_none() is not None


def is_postgresql(where: AsyncConnection | AsyncEngine) -> bool:
    """Whether the database is PostgreSQL; else it is SQLite."""
    return where.dialect.name == "postgresql"


@contextmanager
def store_errors(conflict: GateError | None = None) -> Generator[None]:
    """Turn what a database raises into ours; `conflict` is what a violated unique key means to the caller.

    Raises:
        GateError: `conflict`; REQUEST_MALFORMED for values that this database cannot hold; else STORE_UNAVAILABLE.
    """
    try:
        yield
    except IntegrityError as error:
        raise conflict or _unavailable(error) from error
    except (UnicodeEncodeError, OverflowError) as error:
        raise GateError(ErrorCode.REQUEST_MALFORMED, f"a value cannot be stored: {type(error).__name__}") from error
    except DBAPIError as error:
        if _sqlstate(error.orig).startswith(_DATA_EXCEPTION):
            # Not "from": its text quotes the value.
            raise GateError(ErrorCode.REQUEST_MALFORMED, f"a value cannot be stored: {_sqlstate(error.orig)}") from None
        raise _unavailable(error) from error
    except (SQLAlchemyError, sqlite3.Error, msgspec.MsgspecError, ValueError, OSError) as error:
        raise _unavailable(error) from error


def _unavailable(error: Exception) -> GateError:
    # Only the driver's own words: SQLAlchemy's add the statement, and other errors may quote values.
    cause = getattr(error, "orig", None) or error
    state = _sqlstate(cause)
    if isinstance(cause, sqlite3.Error) or (state and not state.startswith(_QUOTING)):
        words: object = cause
    else:
        words = getattr(cause, "strerror", None)
    return GateError(ErrorCode.STORE_UNAVAILABLE, f"{type(cause).__name__}: {words or 'see its cause'}")


def _sqlstate(error: object) -> str:
    return getattr(error, "sqlstate", None) or ""


def _transactions(engine: AsyncEngine) -> Transactions:
    transactions: Transactions = engine.sync_engine.get_execution_options()[_TRANSACTIONS]
    return transactions
