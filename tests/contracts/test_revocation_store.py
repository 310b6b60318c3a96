"""What every RevocationStore does, as the registry's view shows it (DESIGN decision 18)."""

from __future__ import annotations

import asyncio

import pytest

from contracts.stores import NOW, Stores, open_stores, race
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.registry import Registry
from twogate.stores.sql.revocations import PURGE_AFTER, PURGE_BATCH

UNTIL = NOW + 300


async def revoked(stores: Stores) -> frozenset[tuple[str, str]]:
    return (await stores.registry.load()).revoked


async def test_what_was_revoked_is_in_the_registrys_view_and_nothing_else_is(stores: Stores) -> None:
    assert await revoked(stores) == frozenset()
    await stores.revocations.add("token", "abc", UNTIL, NOW)
    await stores.revocations.add("user", "abc", UNTIL, NOW)
    assert await revoked(stores) == {("token", "abc"), ("user", "abc")}


async def test_a_cached_view_shows_a_revocation_at_the_next_look(stores: Stores) -> None:
    registry = Registry(stores.registry, stores.revision, {}, {})
    before = await registry.view()
    assert await registry.view() is before
    await stores.revocations.add("grant", "g-1", UNTIL, NOW)
    after = await registry.view()
    assert before.revoked == frozenset()
    assert after.revoked == {("grant", "g-1")}


async def test_a_cached_view_shows_a_revocation_of_another_process_at_the_next_look(stores: Stores) -> None:
    registry = Registry(stores.registry, stores.revision, {}, {})
    assert (await registry.view()).revoked == frozenset()
    assert await race(stores.url, "revoke", processes=1, each=1) == [True]
    # The other process only said so after its revocation was in force here.
    assert (await registry.view()).revoked == {("token", "the-one")}


async def test_every_other_replica_acts_on_a_revocation_when_it_returns(stores: Stores) -> None:
    async with open_stores(stores.url) as other:
        registry = Registry(other.registry, other.revision, {}, {})
        for number in range(10):
            await registry.view()
            await stores.revocations.add("token", f"t-{number}", UNTIL, NOW)
            assert ("token", f"t-{number}") in (await registry.view()).revoked


async def test_revoking_the_same_twice_keeps_the_later_end(stores: Stores) -> None:
    late = UNTIL + PURGE_AFTER + 1000
    await stores.revocations.add("client", "c", late, NOW)
    await stores.revocations.add("client", "c", UNTIL, NOW)
    await stores.revocations.add("token", "news", late, UNTIL + PURGE_AFTER)
    assert ("client", "c") in await revoked(stores)


async def test_of_two_ends_the_later_one_also_wins_when_it_comes_second(stores: Stores) -> None:
    await stores.revocations.add("client", "c", UNTIL, NOW)
    await stores.revocations.add("client", "c", UNTIL + 1000, NOW)
    await stores.revocations.add("token", "news", UNTIL + 1000, UNTIL + PURGE_AFTER)
    assert ("client", "c") in await revoked(stores)


async def test_what_has_expired_for_everybodys_clock_is_dropped_by_the_next_revocation(stores: Stores) -> None:
    await stores.revocations.add("token", "old", UNTIL, NOW)
    await stores.revocations.add("token", "a", UNTIL + 1000, UNTIL + PURGE_AFTER - 1)
    assert ("token", "old") in await revoked(stores)
    await stores.revocations.add("token", "b", UNTIL + 1000, UNTIL + PURGE_AFTER)
    assert await revoked(stores) == {("token", "a"), ("token", "b")}


async def test_dropping_keeps_pace_with_whoever_revokes(stores: Stores) -> None:
    for number in range(PURGE_BATCH // 16):
        await stores.revocations.add("token", str(number), UNTIL, NOW)
    await stores.revocations.add("token", "b", UNTIL + 1000, UNTIL + PURGE_AFTER)
    assert await revoked(stores) == {("token", "b")}


async def test_parallel_revocations_of_one_and_of_many_all_hold(stores: Stores) -> None:
    await asyncio.gather(
        *(stores.revocations.add("token", "same", UNTIL, NOW) for _ in range(20)),
        *(stores.revocations.add("token", f"t-{number}", UNTIL, NOW) for number in range(20)),
    )
    assert await revoked(stores) == {("token", "same"), *(("token", f"t-{number}") for number in range(20))}


async def test_revocations_of_two_processes_at_once_all_return_and_hold(stores: Stores) -> None:
    assert await race(stores.url, "revoke") == [True] * 50
    assert await revoked(stores) == {("token", "the-one")}


async def test_revocations_survive_reopening(stores: Stores) -> None:
    await stores.revocations.add("user", "u", UNTIL, NOW)
    async with open_stores(stores.url) as again:
        assert await revoked(again) == {("user", "u")}


async def test_a_value_that_the_database_cannot_hold_is_refused(stores: Stores) -> None:
    with pytest.raises(GateError) as refused:
        await stores.revocations.add("token", "\ud800", UNTIL, NOW)
    assert refused.value.code is ErrorCode.REQUEST_MALFORMED
