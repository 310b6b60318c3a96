"""Opening PostgreSQL: over TLS with a verified certificate unless it is on this machine, the password from a file."""

from __future__ import annotations

import asyncio
import ssl
from functools import partial
from pathlib import Path
from typing import Final

from sqlalchemy import event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from twogate.config.values import is_loopback
from twogate.core.errors import ErrorCode, GateError
from twogate.stores.password_file import read_password
from twogate.stores.sql.engine import BUSY_TIMEOUT, Transactions, store_errors

POOL_SIZE: Final = 8
"""Connections of one process; one of them brings the announcements of changes."""

WRITERS: Final = 4
"""Of these, how many may write at once, so that readers find one."""

CONNECT_TIMEOUT: Final = 5.0

_SETTINGS: Final = {
    "application_name": "twogate",
    # A process that is stopped within a transaction must not hold up the others for longer than they wait.
    "idle_in_transaction_session_timeout": "2s",
    "lock_timeout": "4s",
}


def open_postgres(
    url: str, *, password: Path | None = None, ca: Path | None = None, busy_timeout: float = BUSY_TIMEOUT
) -> AsyncEngine:
    """Open the database of a URL as the configuration writes it (`config.store_url.parse_store`).

    The password is the content of a file that only its owner may read; it is read for each connection, so it can be
    changed while the process runs. `ca` is a file of CAs trusted instead of the system's. Neither is ever taken from
    the environment. Connections are made when first used. The caller disposes of the engine.

    Raises:
        ValueError: the URL is refused.
        GateError: STORE_UNAVAILABLE; the driver is missing, or the CA file cannot be used.
    """
    try:
        address = make_url(url)
    except (ArgumentError, ValueError):
        raise ValueError("the store's URL cannot be read") from None
    socket = address.query.get("host")
    if address.password is not None or (address.host is None) == (socket is None):
        # Not repeated here: it may hold a password.
        raise ValueError("the store's URL needs either a host or the directory of a socket, and no password")
    if address.host is None and ca is not None:
        raise ValueError("PostgreSQL speaks no TLS over a Unix socket")
    local = address.host is None or is_loopback(address.host)
    with store_errors():
        tls = False if local and ca is None else ssl.create_default_context(cafile=ca)
    try:
        engine = create_async_engine(
            address.set(query={}),
            connect_args={
                **({} if socket is None else {"host": socket, "port": int(str(address.query.get("port", 5432)))}),
                # Always something: left out, the driver would look for them in the environment and the home directory.
                "password": partial(read_password, password) if password is not None else "",
                "ssl": tls,
                "timeout": CONNECT_TIMEOUT,
                "command_timeout": busy_timeout,
                # A standby may be behind without knowing it.
                "target_session_attrs": "primary",
                "server_settings": _SETTINGS,
            },
            execution_options=Transactions(
                asyncio.Semaphore(WRITERS),
                reading={"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
                writing={"isolation_level": "READ COMMITTED"},
            ).as_options(),
            hide_parameters=True,
            max_overflow=0,
            pool_size=POOL_SIZE,
            pool_timeout=BUSY_TIMEOUT,
        )
    except ModuleNotFoundError as error:
        raise GateError(
            ErrorCode.STORE_UNAVAILABLE, "PostgreSQL needs the driver asyncpg: pip install 'twogate[postgres]'"
        ) from error
    event.listen(engine.sync_engine, "checkout", _still_open)
    return engine


def _still_open(connection: DBAPIConnection, _record: object, _proxy: object) -> None:
    # After a restart of the server this finds the old connections without a round trip; the pool makes new ones.
    driver = getattr(connection, "driver_connection", None)
    if driver is None or driver.is_closed():
        raise DisconnectionError
