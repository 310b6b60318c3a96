"""What every ReplayStore does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from contracts.shared import open_replay
from contracts.stores import NOW, VALKEY, race
from harness.valkey import Valkey
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.authserver.clients import ReplayStore
from twogate.stores.sql.replay import PURGE_AFTER, PURGE_EVERY

LATER = NOW + 60


@pytest.fixture
async def replay(url: str) -> AsyncIterator[ReplayStore]:
    async with open_replay(url) as opened:
        yield opened


async def test_a_value_can_be_redeemed_once(replay: ReplayStore) -> None:
    assert await replay.redeem("jti", "client-1", "abc", LATER, NOW) is True
    assert await replay.redeem("jti", "client-1", "abc", LATER, NOW) is False
    assert await replay.redeem("jti", "client-1", "abc", LATER, LATER - 1) is False


async def test_a_used_value_stays_used_whatever_expiry_comes_with_it_later(replay: ReplayStore) -> None:
    assert await replay.redeem("jti", "client-1", "abc", LATER, NOW) is True
    assert await replay.redeem("jti", "client-1", "abc", LATER + 9_000, LATER - 1) is False


async def test_an_expired_value_is_never_redeemed(replay: ReplayStore) -> None:
    for now in (LATER, LATER + 1, LATER + 9_000):
        assert await replay.redeem("jti", "client-1", "abc", LATER, now) is False


@pytest.mark.parametrize(
    "other",
    [("nonce", "client-1", "abc"), ("jti", "client-2", "abc"), ("jti", "client-1", "abd"), ("jti", "client-1a", "bc")],
)
async def test_kind_issuer_and_value_are_all_part_of_what_is_used(
    replay: ReplayStore, other: tuple[str, str, str]
) -> None:
    assert await replay.redeem("jti", "client-1", "abc", LATER, NOW) is True
    assert await replay.redeem(*other, LATER, NOW) is True


async def test_parts_do_not_run_together(replay: ReplayStore) -> None:
    for parts in (("a", "b", "c"), ("a", 'b","c', ""), ("ab", "", "c"), ("a", "", "bc"), ("a", "b\x00c", "")):
        assert await replay.redeem(*parts, LATER, NOW) is True


@pytest.mark.parametrize(("value", "expires_at"), [("\ud800", LATER), ("abc", 2**70)])
async def test_what_cannot_be_stored_is_refused(replay: ReplayStore, value: str, expires_at: int) -> None:
    with pytest.raises(GateError) as refused:
        await replay.redeem("jti", "client-1", value, expires_at, NOW)
    assert refused.value.code is ErrorCode.REQUEST_MALFORMED


async def test_of_fifty_parallel_redemptions_one_wins(replay: ReplayStore) -> None:
    results = await asyncio.gather(*(replay.redeem("jti", "client-1", "abc", LATER, NOW) for _ in range(50)))
    assert sorted(results) == [False] * 49 + [True]


async def test_of_redemptions_in_two_processes_one_wins(url: str, replay: ReplayStore) -> None:
    assert await replay.redeem("jti", "client-1", "another", LATER, NOW) is True
    results = await race(url, "redeem")
    assert results.count(True) == 1
    assert results.count(False) == 49


async def test_used_values_survive_reopening(url: str, replay: ReplayStore) -> None:
    await replay.redeem("jti", "client-1", "abc", LATER, NOW)
    async with open_replay(url) as again:
        assert await again.redeem("jti", "client-1", "abc", LATER, NOW) is False


async def test_values_are_forgotten_only_well_after_they_expired(
    kind: str, replay: ReplayStore, request: pytest.FixtureRequest
) -> None:
    if kind == VALKEY:
        # It keeps time by itself, so what counts is what it is told.
        valkey: Valkey = request.getfixturevalue("valkey")
        before = valkey.every_key()
        await replay.redeem("jti", "client-1", "abc", LATER, NOW)
        (added,) = (key for key in valkey.every_key() - before if b":used:" in key)
        assert (LATER - NOW + PURGE_AFTER - 60) * 1000 < int(str(valkey.run("PTTL", added))) <= 360_000
        return

    async def redeem_until_purged(now: int) -> None:
        for number in range(PURGE_EVERY):
            await replay.redeem("jti", f"filler-{now}", str(number), now + 1, now)

    await replay.redeem("jti", "client-1", "abc", LATER, NOW)
    await redeem_until_purged(LATER + PURGE_AFTER - 1)
    # A process whose clock is slow would still accept the value, so it must still be known to be used.
    assert await replay.redeem("jti", "client-1", "abc", LATER, NOW) is False
    await redeem_until_purged(LATER + PURGE_AFTER)
    assert await replay.redeem("jti", "client-1", "abc", LATER, NOW) is True
