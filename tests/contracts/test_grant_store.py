"""What every FamilyStore does: refresh tokens that are replaced once, and families that end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from contracts.stores import NOW, Stores, race
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.authserver.families import Family, FamilyStore, Rotation
from twogate.flows.authserver.grant import Authorization
from twogate.stores.sql.grants import PURGE_AFTER, PURGE_EVERY, SqlGrantStore
from twogate.stores.sql.opening import open_engine

LATER = NOW + 60


def family(
    grant_id: str = "the-one",
    *,
    user: str | None = "alice",
    client_id: str = "client-1",
    created_at: int = NOW,
    expires_at: int = LATER,
) -> Family:
    """A family as a flow would start it."""
    authorization = Authorization("acme", client_id, "https://mcp.example.com/mcp/files", ("reports",), user=user)
    return Family(
        id=grant_id,
        authorization=authorization,
        handle=f"handle of {grant_id}",
        current="secret",
        created_at=created_at,
        last_used_at=created_at,
        expires_at=expires_at,
    )


def rotation(current: str, at: int = NOW + 1) -> Rotation:
    return Rotation(current, f"answer with {current}", "jkt", at, at + 60)


@pytest.fixture
async def store(stores: Stores) -> AsyncIterator[FamilyStore]:
    engine = open_engine(stores.url)
    yield SqlGrantStore(engine)
    await engine.dispose()


async def test_a_family_is_found_by_its_id_and_by_its_handle(store: FamilyStore) -> None:
    await store.add(family(), NOW)
    assert await store.get("the-one") == family()
    assert await store.by_handle("handle of the-one") == family()
    assert await store.get("handle of the-one") is None
    assert await store.by_handle("the-one") is None


async def test_a_second_family_of_one_id_or_handle_is_refused(store: FamilyStore) -> None:
    await store.add(family(), NOW)
    for other in (family(), msgspec.structs.replace(family("another"), handle="handle of the-one")):
        with pytest.raises(GateError) as refused:
            await store.add(other, NOW)
        assert refused.value.code is ErrorCode.STORE_UNAVAILABLE


async def test_a_rotation_keeps_everything_that_a_retry_needs(store: FamilyStore) -> None:
    await store.add(family(), NOW)
    assert await store.rotate("the-one", "secret", rotation("second")) is True
    expected = msgspec.structs.replace(
        family(),
        current="second",
        previous="secret",
        rotated_at=NOW + 1,
        retry_answer="answer with second",
        proof_key="jkt",
        generation=1,
        last_used_at=NOW + 1,
        expires_at=NOW + 61,
    )
    assert await store.get("the-one") == expected


async def test_a_secret_is_replaced_once(store: FamilyStore) -> None:
    await store.add(family(), NOW)
    assert await store.rotate("the-one", "secret", rotation("second")) is True
    assert await store.rotate("the-one", "secret", rotation("third")) is False
    assert await store.rotate("the-one", "second", rotation("third")) is True
    found = await store.get("the-one")
    assert found is not None
    assert (found.current, found.previous, found.generation) == ("third", "second", 2)


async def test_a_family_without_refresh_token_never_has_one(store: FamilyStore) -> None:
    await store.add(msgspec.structs.replace(family(), current=""), NOW)
    assert await store.rotate("the-one", "", rotation("second")) is False


async def test_an_expired_or_ended_or_unknown_family_is_not_rotated(store: FamilyStore) -> None:
    await store.add(family(), NOW)
    assert await store.rotate("the-one", "secret", rotation("second", LATER)) is False
    assert await store.rotate("another", "secret", rotation("second")) is False
    await store.revoke("the-one", NOW)
    assert await store.rotate("the-one", "secret", rotation("second")) is False


async def test_a_family_ends_once_and_its_answer_is_forgotten(store: FamilyStore) -> None:
    await store.add(family(), NOW)
    await store.rotate("the-one", "secret", rotation("second"))
    assert await store.revoke("the-one", NOW + 2) is True
    assert await store.revoke("the-one", NOW + 3) is False
    assert await store.revoke("another", NOW) is False
    found = await store.get("the-one")
    assert found is not None
    assert (found.revoked_at, found.retry_answer) == (NOW + 2, "")


async def test_families_are_listed_by_owner_alive_ones_newest_first(store: FamilyStore) -> None:
    await store.add(family("old"), NOW)
    await store.add(family("new", created_at=NOW + 1), NOW)
    await store.add(family("of another client", client_id="client-2", created_at=NOW + 2), NOW)
    await store.add(family("of another person", user="bob"), NOW)
    await store.add(family("of nobody", user=None), NOW)
    await store.add(family("expired", expires_at=NOW + 5), NOW)
    await store.add(family("ended"), NOW)
    await store.revoke("ended", NOW)

    async def ids(**owner: str) -> list[str]:
        return [each.id for each in await store.list_alive(NOW + 5, **owner)]

    assert await ids(tenant="acme", subject="alice") == ["of another client", "new", "old"]
    assert await ids(tenant="globex", subject="alice") == []
    assert sorted(await ids(client_id="client-1")) == ["new", "of another person", "of nobody", "old"]
    assert await ids(client_id="client-2") == ["of another client"]


@pytest.mark.parametrize("owner", [{}, {"id": "the-one"}, {"tenant": "acme", "handle": "x"}])
async def test_families_are_listed_for_somebody(store: FamilyStore, owner: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="listed by"):
        await store.list_alive(NOW, **owner)


async def test_of_twenty_parallel_rotations_one_wins(store: FamilyStore) -> None:
    await store.add(family(), NOW)
    results = await asyncio.gather(
        *(store.rotate("the-one", "secret", rotation(f"second-{number}")) for number in range(20))
    )
    assert sorted(results) == [False] * 19 + [True]
    found = await store.get("the-one")
    assert found is not None
    assert (found.current, found.generation) == (f"second-{results.index(True)}", 1)


async def test_of_rotations_in_two_processes_one_wins(stores: Stores, store: FamilyStore) -> None:
    await store.add(family(), NOW)
    results = await race(stores.url, "rotate")
    assert results.count(True) == 1
    assert results.count(False) == 49


async def test_of_a_rotation_and_the_end_of_the_family_the_end_holds(store: FamilyStore) -> None:
    for number in range(10):
        await store.add(family(f"grant-{number}"), NOW)
        _, ended = await asyncio.gather(
            store.rotate(f"grant-{number}", "secret", rotation("second")), store.revoke(f"grant-{number}", NOW + 1)
        )
        assert ended is True
        found = await store.get(f"grant-{number}")
        assert found is not None
        assert (found.revoked_at, found.retry_answer) == (NOW + 1, "")


async def test_families_survive_reopening(stores: Stores, store: FamilyStore) -> None:
    await store.add(family(), NOW)
    await store.rotate("the-one", "secret", rotation("second"))
    engine = open_engine(stores.url)
    try:
        assert await SqlGrantStore(engine).get("the-one") == await store.get("the-one")
    finally:
        await engine.dispose()


async def test_families_are_forgotten_a_day_after_they_expired(store: FamilyStore) -> None:
    async def add_until_purged(now: int) -> None:
        for number in range(PURGE_EVERY):
            await store.add(family(f"filler-{now}-{number}", expires_at=now + PURGE_AFTER), now)

    await store.add(family("ended"), NOW)
    await store.revoke("ended", NOW)
    await add_until_purged(LATER + PURGE_AFTER - 1)
    assert await store.get("ended") is not None
    await add_until_purged(LATER + PURGE_AFTER)
    assert await store.get("ended") is None
