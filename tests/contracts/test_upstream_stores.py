"""What every store of logins at upstream providers, and of what these gave, does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.stores import NOW, Stores, race
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.authserver.upstream_grants import UpstreamGrant
from twogate.flows.authserver.upstream_pending import PendingLogin
from twogate.stores.sql.engine import reading, writing
from twogate.stores.sql.opening import open_engine
from twogate.stores.sql.tables import logins, upstream_grants, upstream_logins
from twogate.stores.sql.upstream_grants import SqlUpstreamGrantStore
from twogate.stores.sql.upstream_logins import SqlUpstreamLoginStore

PENDING = PendingLogin("the-one", "acme-idp", "browser-1", bytes(range(256)), NOW + 600)
GRANT = UpstreamGrant(
    "the-one", "acme", "s-1", "https://idp.example", "twogate", NOW - 60, NOW + 9000, bytes(range(256))
)


@pytest.fixture
async def engine(stores: Stores) -> AsyncIterator[AsyncEngine]:
    made = open_engine(stores.url)
    yield made
    await made.dispose()


@pytest.fixture
def pending(engine: AsyncEngine) -> SqlUpstreamLoginStore:
    return SqlUpstreamLoginStore(engine)


@pytest.fixture
def grants(engine: AsyncEngine) -> SqlUpstreamGrantStore:
    return SqlUpstreamGrantStore(engine)


async def test_a_login_comes_back_once_as_it_was(pending: SqlUpstreamLoginStore) -> None:
    await pending.add(PENDING, NOW)
    assert await pending.redeem("the-one", "browser-1", NOW + 599) == PENDING
    assert await pending.redeem("the-one", "browser-1", NOW + 599) is None


async def test_another_browser_gets_nothing_and_uses_nothing_up(pending: SqlUpstreamLoginStore) -> None:
    await pending.add(PENDING, NOW)
    assert await pending.redeem("the-one", "browser-2", NOW) is None
    assert await pending.redeem("the-one", "", NOW) is None
    assert await pending.redeem("the-other", "browser-1", NOW) is None
    assert await pending.redeem("the-one", "browser-1", NOW) == PENDING


async def test_an_expired_login_does_not_come_back_and_goes_with_the_next(
    pending: SqlUpstreamLoginStore, engine: AsyncEngine
) -> None:
    await pending.add(PENDING, NOW)
    assert await pending.redeem("the-one", "browser-1", PENDING.expires_at) is None
    await pending.add(msgspec.structs.replace(PENDING, digest="next", expires_at=NOW + 9000), PENDING.expires_at)
    async with reading(engine) as connection:
        assert (await connection.execute(select(upstream_logins.c.digest))).scalars().all() == ["next"]


async def test_two_logins_with_one_state_cannot_be(pending: SqlUpstreamLoginStore) -> None:
    await pending.add(PENDING, NOW)
    with pytest.raises(GateError) as refused:
        await pending.add(PENDING, NOW)
    assert refused.value.code is ErrorCode.STORE_UNAVAILABLE


async def test_of_fifty_returns_at_once_one_wins(pending: SqlUpstreamLoginStore) -> None:
    await pending.add(PENDING, NOW)
    results = await asyncio.gather(*(pending.redeem("the-one", "browser-1", NOW) for _ in range(50)))
    assert sum(result is not None for result in results) == 1


async def test_of_returns_in_two_processes_one_wins(stores: Stores, pending: SqlUpstreamLoginStore) -> None:
    await pending.add(PENDING, NOW)
    results = await race(stores.url, "come back")
    assert (results.count(True), results.count(False)) == (1, 49)


async def test_a_grant_is_kept_as_it_is(grants: SqlUpstreamGrantStore) -> None:
    await grants.add(GRANT, NOW)
    assert await grants.get("the-one") == GRANT
    assert await grants.get("another") is None
    await grants.add(msgspec.structs.replace(GRANT, id="without", refresh_token=b""), NOW)
    found = await grants.get("without")
    assert found is not None
    assert found.refresh_token == b""


async def test_one_asker_has_a_provider_to_itself_until_it_settles(grants: SqlUpstreamGrantStore) -> None:
    await grants.add(GRANT, NOW)
    assert await grants.ask("the-one", "a", NOW - 60, NOW, NOW + 40) == GRANT
    assert await grants.ask("the-one", "b", NOW - 60, NOW + 39, NOW + 99) is None
    await grants.settle("the-one", "b", NOW)
    assert await grants.ask("the-one", "b", NOW - 60, NOW + 39, NOW + 99) is None
    await grants.settle("the-one", "a", None)
    assert await grants.ask("the-one", "b", NOW - 60, NOW, NOW + 40) == GRANT


async def test_an_asker_that_never_settles_is_passed_over(grants: SqlUpstreamGrantStore) -> None:
    await grants.add(GRANT, NOW)
    assert await grants.ask("the-one", "dead", NOW - 60, NOW, NOW + 40) is not None
    assert await grants.ask("the-one", "next", NOW - 60, NOW + 40, NOW + 80) is not None
    # Whatever the first one still wanted to say, it is not its turn.
    assert await grants.keep("the-one", "dead", b"stale") is False
    await grants.settle("the-one", "dead", NOW + 41)
    found = await grants.get("the-one")
    assert found == GRANT


async def test_who_did_not_see_the_last_confirmation_does_not_ask(grants: SqlUpstreamGrantStore) -> None:
    await grants.add(GRANT, NOW)
    assert await grants.ask("the-one", "a", NOW - 60, NOW, NOW + 40) is not None
    assert await grants.keep("the-one", "a", b"rotated") is True
    await grants.settle("the-one", "a", NOW)
    assert await grants.ask("the-one", "b", NOW - 60, NOW, NOW + 40) is None
    found = await grants.get("the-one")
    assert found == msgspec.structs.replace(GRANT, refresh_token=b"rotated", confirmed_at=NOW)


async def test_of_fifty_askers_one_wins(grants: SqlUpstreamGrantStore) -> None:
    await grants.add(GRANT, NOW)
    asked = await asyncio.gather(
        *(grants.ask("the-one", f"asker-{number}", NOW - 60, NOW, NOW + 40) for number in range(50))
    )
    assert sum(grant is not None for grant in asked) == 1


async def test_of_askers_in_two_processes_one_wins(stores: Stores, grants: SqlUpstreamGrantStore) -> None:
    await grants.add(GRANT, NOW)
    results = await race(stores.url, "ask")
    assert (results.count(True), results.count(False)) == (1, 49)


async def test_an_ended_grant_has_no_token_no_askers_and_no_logins(
    grants: SqlUpstreamGrantStore, engine: AsyncEngine
) -> None:
    await grants.add(GRANT, NOW)
    async with writing(engine) as connection:
        for digest, upstream in (("of it", "the-one"), ("of another", "other"), ("by password", "")):
            row = {"tenant": "acme", "subject": "s-1", "method": "upstream", "authenticated_at": NOW}
            await connection.execute(
                insert(logins).values(digest=digest, upstream=upstream, expires_at=NOW + 900, ends_at=None, **row)
            )
    assert await grants.ask("the-one", "a", NOW - 60, NOW, NOW + 40) is not None
    assert await grants.end("the-one", NOW) is True
    assert await grants.end("the-one", NOW + 1) is False
    assert await grants.keep("the-one", "a", b"too late") is False
    assert await grants.ask("the-one", "b", NOW - 60, NOW + 90, NOW + 99) is None
    found = await grants.get("the-one")
    assert found is not None
    assert (found.ended_at, found.refresh_token) == (NOW, b"")
    async with reading(engine) as connection:
        left = (await connection.execute(select(logins.c.digest).order_by(logins.c.digest))).scalars().all()
    assert left == ["by password", "of another"]


async def test_expired_grants_go_with_the_next(grants: SqlUpstreamGrantStore, engine: AsyncEngine) -> None:
    await grants.add(GRANT, NOW)
    await grants.add(msgspec.structs.replace(GRANT, id="next", expires_at=NOW + 99_999), GRANT.expires_at)
    async with reading(engine) as connection:
        assert (await connection.execute(select(func.count()).select_from(upstream_grants))).scalar_one() == 1
    assert await grants.get("the-one") is None
