"""The replay store on Valkey for the contract suite: a place for each test, in one string that other processes read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

from harness.valkey import Valkey
from twogate.adapters.clock import SystemClock
from twogate.adapters.rng import SystemRng
from twogate.config.shared_url import PLAIN, shared_address
from twogate.flows.authserver.clients import ReplayStore
from twogate.stores.shared.redis_link import RedisLink
from twogate.stores.shared.redis_replay import RedisReplayStore
from twogate.stores.sql.migrate import upgrade
from twogate.stores.sql.opening import open_engine
from twogate.stores.sql.replay import SqlReplayStore


def shared_url(valkey: Valkey) -> str:
    """A place that is empty: of a deployment that nobody else is."""
    return f"{valkey.url} {valkey.password_file} https://{uuid4()}.example"


@asynccontextmanager
async def open_replay(url: str) -> AsyncIterator[ReplayStore]:
    """The replay store of a place on Valkey, or of a database."""
    if not url.startswith(PLAIN):
        engine = open_engine(url)
        await upgrade(engine)
        try:
            yield SqlReplayStore(engine)
        finally:
            await engine.dispose()
        return
    server, password, public_url = url.split(" ")
    link = RedisLink(shared_address(server), SystemClock(), password=Path(password))
    try:
        yield RedisReplayStore(link, public_url, SystemRng())
    finally:
        await link.aclose()
