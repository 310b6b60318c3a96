"""What every ReplayStore does."""

from __future__ import annotations

import asyncio

import pytest

from contracts.stores import NOW, Stores, open_stores, race
from twogate.core.errors import ErrorCode, GateError
from twogate.stores.sql.replay import PURGE_AFTER, PURGE_EVERY

LATER = NOW + 60


async def test_a_value_can_be_redeemed_once(stores: Stores) -> None:
    assert await stores.replay.redeem("jti", "client-1", "abc", LATER, NOW) is True
    assert await stores.replay.redeem("jti", "client-1", "abc", LATER, NOW) is False
    assert await stores.replay.redeem("jti", "client-1", "abc", LATER, LATER - 1) is False


async def test_a_used_value_stays_used_whatever_expiry_comes_with_it_later(stores: Stores) -> None:
    assert await stores.replay.redeem("jti", "client-1", "abc", LATER, NOW) is True
    assert await stores.replay.redeem("jti", "client-1", "abc", LATER + 9_000, LATER - 1) is False


async def test_an_expired_value_is_never_redeemed(stores: Stores) -> None:
    for now in (LATER, LATER + 1, LATER + 9_000):
        assert await stores.replay.redeem("jti", "client-1", "abc", LATER, now) is False


@pytest.mark.parametrize(
    "other",
    [("nonce", "client-1", "abc"), ("jti", "client-2", "abc"), ("jti", "client-1", "abd"), ("jti", "client-1a", "bc")],
)
async def test_kind_issuer_and_value_are_all_part_of_what_is_used(stores: Stores, other: tuple[str, str, str]) -> None:
    assert await stores.replay.redeem("jti", "client-1", "abc", LATER, NOW) is True
    assert await stores.replay.redeem(*other, LATER, NOW) is True


async def test_parts_do_not_run_together(stores: Stores) -> None:
    for parts in (("a", "b", "c"), ("a", 'b","c', ""), ("ab", "", "c"), ("a", "", "bc"), ("a", "b\x00c", "")):
        assert await stores.replay.redeem(*parts, LATER, NOW) is True


@pytest.mark.parametrize(("value", "expires_at"), [("\ud800", LATER), ("abc", 2**70)])
async def test_what_cannot_be_stored_is_refused(stores: Stores, value: str, expires_at: int) -> None:
    with pytest.raises(GateError) as refused:
        await stores.replay.redeem("jti", "client-1", value, expires_at, NOW)
    assert refused.value.code is ErrorCode.REQUEST_MALFORMED


async def test_of_fifty_parallel_redemptions_one_wins(stores: Stores) -> None:
    results = await asyncio.gather(*(stores.replay.redeem("jti", "client-1", "abc", LATER, NOW) for _ in range(50)))
    assert sorted(results) == [False] * 49 + [True]


async def test_of_redemptions_in_two_processes_one_wins(stores: Stores) -> None:
    results = await race(stores.url, "redeem")
    assert results.count(True) == 1
    assert results.count(False) == 49


async def test_used_values_survive_reopening(stores: Stores) -> None:
    await stores.replay.redeem("jti", "client-1", "abc", LATER, NOW)
    async with open_stores(stores.url) as again:
        assert await again.replay.redeem("jti", "client-1", "abc", LATER, NOW) is False


async def test_values_are_forgotten_only_well_after_they_expired(stores: Stores) -> None:
    async def redeem_until_purged(now: int) -> None:
        for number in range(PURGE_EVERY):
            await stores.replay.redeem("jti", f"filler-{now}", str(number), now + 1, now)

    await stores.replay.redeem("jti", "client-1", "abc", LATER, NOW)
    await redeem_until_purged(LATER + PURGE_AFTER - 1)
    # A process whose clock is slow would still accept the value, so it must still be known to be used.
    assert await stores.replay.redeem("jti", "client-1", "abc", LATER, NOW) is False
    await redeem_until_purged(LATER + PURGE_AFTER)
    assert await stores.replay.redeem("jti", "client-1", "abc", LATER, NOW) is True
