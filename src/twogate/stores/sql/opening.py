"""Opening whichever database the configuration names."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncEngine

from twogate.config import store_url
from twogate.flows.environment import Clock, Rng
from twogate.flows.registry import Revision
from twogate.stores.sql.engine import BUSY_TIMEOUT, is_postgresql
from twogate.stores.sql.postgres import open_postgres
from twogate.stores.sql.revision import SqliteRevision
from twogate.stores.sql.sqlite import database_path, open_sqlite


class OpenRevision(Revision, Protocol):
    """A revision with a life: a process that serves starts it, and whoever opened it closes it."""

    @property
    def replica(self) -> str:
        """This process among those that share the database; empty where it has no name there."""
        ...

    def start(self) -> None:
        """Make asking cheap from soon on; without it, each asking may cost a round trip to the store."""
        ...

    async def aclose(self) -> None:
        """Let go of what it holds."""
        ...


def open_engine(
    url: str,
    *,
    password: Path | None = None,
    ca: Path | None = None,
    full_sync: bool = False,
    busy_timeout: float = BUSY_TIMEOUT,
) -> AsyncEngine:
    """Open the database of a URL: see `open_sqlite` (`full_sync`) and `open_postgres` (`password`, `ca`).

    Raises:
        ValueError: the URL is refused.
        GateError: STORE_UNAVAILABLE.
    """
    if store_url.is_postgresql(url):
        return open_postgres(url, password=password, ca=ca, busy_timeout=busy_timeout)
    return open_sqlite(url, full_sync=full_sync, busy_timeout=busy_timeout)


def open_revision(engine: AsyncEngine, url: str, clock: Clock, rng: Rng) -> OpenRevision:
    """Open the counter of security changes of an engine's database, which is migrated already.

    Raises:
        GateError: STORE_UNAVAILABLE.
    """
    if is_postgresql(engine):
        # Here, because it needs the driver, which comes with an extra.
        from twogate.stores.sql.leased_revision import LeasedRevision  # noqa: PLC0415

        return LeasedRevision(engine, clock, rng)
    return SqliteRevision(database_path(url))
