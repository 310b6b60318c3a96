"""What every RequestStore does: handles that one browser or client may use once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import func, select

from contracts.stores import NOW, Stores, race
from twogate.flows.authserver.interaction import RequestKind, RequestStore
from twogate.stores.sql.authorize_requests import PURGE_AFTER, SqlAuthorizeRequestStore
from twogate.stores.sql.engine import reading
from twogate.stores.sql.opening import open_engine
from twogate.stores.sql.tables import authorize_requests

LATER = NOW + 600
REQUEST = '{"state":"a\\u0000b"}'


@pytest.fixture
async def store(stores: Stores) -> AsyncIterator[RequestStore]:
    engine = open_engine(stores.url)
    yield SqlAuthorizeRequestStore(engine)
    await engine.dispose()


async def add(
    store: RequestStore,
    digest: str = "the-one",
    kind: RequestKind = RequestKind.INTERACTION,
    *,
    browser: str = "browser-1",
    expires_at: int = LATER,
    now: int = NOW,
) -> None:
    await store.add(
        kind, digest, client_id="client-1", browser=browser, request=REQUEST, expires_at=expires_at, now=now
    )


async def redeem(
    store: RequestStore,
    digest: str = "the-one",
    kind: RequestKind = RequestKind.INTERACTION,
    *,
    client_id: str = "client-1",
    browser: str = "browser-1",
    now: int = NOW,
) -> str | None:
    return await store.redeem(kind, digest, client_id=client_id, browser=browser, now=now)


async def test_a_request_can_be_read_until_it_is_used(store: RequestStore) -> None:
    await add(store)
    for _ in range(2):
        assert await store.get(RequestKind.INTERACTION, "the-one", "browser-1", NOW) == REQUEST
    assert await redeem(store) == REQUEST
    assert await store.get(RequestKind.INTERACTION, "the-one", "browser-1", NOW) is None
    assert await redeem(store) is None


async def test_nobody_else_can_read_it_or_use_it_up(store: RequestStore) -> None:
    await add(store)
    assert await store.get(RequestKind.INTERACTION, "the-one", "browser-2", NOW) is None
    assert await store.get(RequestKind.PUSHED, "the-one", "browser-1", NOW) is None
    assert await store.get(RequestKind.INTERACTION, "another", "browser-1", NOW) is None
    assert await redeem(store, browser="browser-2") is None
    assert await redeem(store, client_id="client-2") is None
    assert await redeem(store, kind=RequestKind.PUSHED) is None
    assert await redeem(store, "another") is None
    assert await redeem(store) == REQUEST


async def test_it_ends_with_its_lifetime(store: RequestStore) -> None:
    await add(store)
    assert await store.get(RequestKind.INTERACTION, "the-one", "browser-1", LATER - 1) == REQUEST
    assert await store.get(RequestKind.INTERACTION, "the-one", "browser-1", LATER) is None
    assert await redeem(store, now=LATER) is None


async def test_of_fifty_parallel_answers_one_passes(store: RequestStore) -> None:
    await add(store)
    results = await asyncio.gather(*(redeem(store) for _ in range(50)))
    assert results.count(REQUEST) == 1
    assert results.count(None) == 49


async def test_of_answers_in_two_processes_one_passes(stores: Stores, store: RequestStore) -> None:
    await add(store)
    results = await race(stores.url, "answer")
    assert results.count(REQUEST) == 1
    assert results.count(None) == 49


async def test_old_rows_go_as_new_ones_come_but_not_before_every_clock_is_past_them(
    stores: Stores, store: RequestStore
) -> None:
    engine = open_engine(stores.url)

    async def kept() -> int:
        async with reading(engine) as connection:
            return int((await connection.execute(select(func.count()).select_from(authorize_requests))).scalar_one())

    try:
        for number in range(5):
            await add(store, f"old-{number}")
        await add(store, "new-1", now=LATER + PURGE_AFTER - 1, expires_at=LATER * 2)
        assert await kept() == 6
        await add(store, "new-2", now=LATER + PURGE_AFTER, expires_at=LATER * 2)
        assert await kept() == 2
    finally:
        await engine.dispose()
