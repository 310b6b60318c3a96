"""What every CodeStore does: codes that are redeemed once, together with what comes from them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from sqlalchemy import func, select

from contracts.stores import NOW, Stores, race
from contracts.test_grant_store import family
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.authserver.code import AuthorizationCode, CodeStore, IssuedCode
from twogate.flows.authserver.grant import Authorization
from twogate.stores.sql.codes import PURGE_AFTER, PURGE_EVERY, SqlCodeStore
from twogate.stores.sql.engine import reading
from twogate.stores.sql.grants import SqlGrantStore
from twogate.stores.sql.opening import open_engine
from twogate.stores.sql.tables import codes

LATER = NOW + 60
AUTHORIZATION = Authorization(
    "acme",
    "client-1",
    "https://mcp.example.com/mcp/files",
    ("reports", "admin"),
    user="alice",
    task="review",
    act={"sub": "agent", "act": {"sub": "inner"}},
    upstream="login-1",
    authenticated_at=NOW - 5,
    ends_at=NOW + 9_000,
)
CODE = AuthorizationCode(AUTHORIZATION, "https://app.example/cb?x=é", True, "challenge", proof="jkt", refresh=True)
ISSUED = IssuedCode(CODE, "grant-1", LATER)


@pytest.fixture
async def store(stores: Stores) -> AsyncIterator[CodeStore]:
    engine = open_engine(stores.url)
    yield SqlCodeStore(engine)
    await engine.dispose()


@pytest.fixture
async def families(stores: Stores) -> AsyncIterator[SqlGrantStore]:
    engine = open_engine(stores.url)
    yield SqlGrantStore(engine)
    await engine.dispose()


async def test_a_code_is_found_as_it_was_issued(store: CodeStore) -> None:
    await store.add("the-one", ISSUED, NOW)
    assert await store.get("the-one") == ISSUED
    assert await store.get("another") is None


async def test_a_code_can_be_redeemed_once(store: CodeStore) -> None:
    await store.add("the-one", ISSUED, NOW)
    assert await store.redeem("the-one", None, NOW + 1) is True
    assert await store.redeem("the-one", None, NOW + 1) is False
    assert await store.get("the-one") == msgspec.structs.replace(ISSUED, used_at=NOW + 1)


async def test_a_code_is_not_redeemed_once_it_has_expired(store: CodeStore) -> None:
    await store.add("the-one", ISSUED, NOW)
    assert await store.redeem("the-one", None, LATER) is False
    assert await store.redeem("the-one", None, LATER - 1) is True


async def test_an_unknown_code_is_not_redeemed(store: CodeStore, families: SqlGrantStore) -> None:
    assert await store.redeem("another", family("grant-1"), NOW) is False
    assert await families.get("grant-1") is None


async def test_what_comes_from_a_code_is_kept_with_its_redemption(store: CodeStore, families: SqlGrantStore) -> None:
    await store.add("the-one", ISSUED, NOW)
    assert await store.redeem("the-one", family("grant-1"), NOW) is True
    assert await families.get("grant-1") == family("grant-1")


async def test_what_a_loser_made_is_not_kept(store: CodeStore, families: SqlGrantStore) -> None:
    await store.add("the-one", ISSUED, NOW)
    await store.redeem("the-one", family("grant-1"), NOW)
    assert await store.redeem("the-one", family("grant-2"), NOW) is False
    assert await families.get("grant-2") is None


async def test_a_code_whose_family_cannot_be_kept_is_not_used_up(store: CodeStore, families: SqlGrantStore) -> None:
    await families.add(family("grant-1"), NOW)
    await store.add("the-one", ISSUED, NOW)
    with pytest.raises(GateError) as refused:
        await store.redeem("the-one", family("grant-1"), NOW)
    assert refused.value.code is ErrorCode.STORE_UNAVAILABLE
    assert await store.redeem("the-one", None, NOW) is True


async def test_of_fifty_parallel_redemptions_one_wins(store: CodeStore, families: SqlGrantStore) -> None:
    await store.add("the-one", ISSUED, NOW)
    made = [family(f"grant-{number}") for number in range(50)]
    results = await asyncio.gather(*(store.redeem("the-one", each, NOW) for each in made))
    assert sorted(results) == [False] * 49 + [True]
    kept = [each.id for each in made if await families.get(each.id) is not None]
    assert kept == [f"grant-{results.index(True)}"]


async def test_of_redemptions_in_two_processes_one_wins(stores: Stores, store: CodeStore) -> None:
    await store.add("the-one", ISSUED, NOW)
    results = await race(stores.url, "code")
    assert results.count(True) == 1
    assert results.count(False) == 49


async def test_codes_survive_reopening(stores: Stores, store: CodeStore) -> None:
    await store.add("the-one", ISSUED, NOW)
    await store.redeem("the-one", None, NOW)
    engine = open_engine(stores.url)
    try:
        assert await SqlCodeStore(engine).redeem("the-one", None, NOW) is False
    finally:
        await engine.dispose()


async def test_codes_are_forgotten_a_day_after_they_expired(stores: Stores, store: CodeStore) -> None:
    async def add_until_purged(now: int) -> None:
        for number in range(PURGE_EVERY):
            filler = msgspec.structs.replace(ISSUED, expires_at=now + PURGE_AFTER)
            await store.add(f"filler-{now}-{number}", filler, now)

    await store.add("the-one", ISSUED, NOW)
    await add_until_purged(LATER + PURGE_AFTER - 1)
    # Its second use must still be known as one.
    assert await store.get("the-one") == ISSUED
    await add_until_purged(LATER + PURGE_AFTER)
    assert await store.get("the-one") is None
    engine = open_engine(stores.url)
    try:
        async with reading(engine) as connection:
            assert (await connection.execute(select(func.count()).select_from(codes))).scalar_one() == 2 * PURGE_EVERY
    finally:
        await engine.dispose()


async def test_forgetting_takes_a_persons_unredeemed_codes_of_one_client_and_no_other(
    store: CodeStore, families: SqlGrantStore
) -> None:
    def given(**changes: str) -> IssuedCode:
        authorization = msgspec.structs.replace(AUTHORIZATION, **changes)
        return msgspec.structs.replace(ISSUED, code=msgspec.structs.replace(CODE, authorization=authorization))

    others = {
        "bobs": given(user="bob"),
        "elsewhere": given(tenant="globex"),
        "to-another": given(client_id="client-2"),
        "used": ISSUED,
    }
    for digest, issued in {"the-one": ISSUED, **others}.items():
        await store.add(digest, issued, NOW)
    assert await store.redeem("used", family("grant-1"), NOW + 1) is True
    await store.forget("acme", "alice", "client-1")
    assert await store.get("the-one") is None
    assert [digest for digest in others if await store.get(digest) is None] == []
    assert await families.get("grant-1") is not None
