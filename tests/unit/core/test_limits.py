"""Token buckets: bursts, refill, bounded memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twogate.core.limits import TokenBuckets, address_key

NOW = 1000.0


def test_a_full_bucket_allows_its_burst_and_then_says_how_long_to_wait() -> None:
    buckets = TokenBuckets(rate=2, burst=3)
    assert [buckets.take("a", NOW) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


def test_waiting_as_long_as_told_is_enough() -> None:
    buckets = TokenBuckets(rate=3, burst=1)
    buckets.take("a", NOW)
    wait = buckets.take("a", NOW)
    assert wait > 0
    assert buckets.take("a", NOW + wait) == 0.0


def test_a_refused_attempt_costs_nothing() -> None:
    buckets = TokenBuckets(rate=1, burst=1)
    buckets.take("a", NOW)
    assert {buckets.take("a", NOW + 0.5) for _ in range(100)} == {0.5}
    assert buckets.take("a", NOW + 1) == 0.0


def test_a_token_that_is_given_back_can_be_taken_again_and_no_other_can() -> None:
    buckets = TokenBuckets(rate=0.01, burst=2, capacity=1)
    assert [buckets.take("a", NOW), buckets.take("a", NOW)] == [0.0, 0.0]
    buckets.give_back("a")
    assert buckets.take("a", NOW) == 0.0
    assert buckets.take("a", NOW) > 0
    # A key that shares the bucket of strangers gets nothing back, nor does one that is not known.
    while buckets.take("stranger", NOW) == 0.0:
        pass
    for key in ("stranger", "nobody"):
        buckets.give_back(key)
    assert buckets.take("stranger", NOW) > 0


def test_keys_do_not_share_a_bucket() -> None:
    buckets = TokenBuckets(rate=1, burst=1)
    assert buckets.take("a", NOW) == 0.0
    assert buckets.take("b", NOW) == 0.0
    assert buckets.take("a", NOW) > 0


def test_a_rested_bucket_holds_no_more_than_its_burst() -> None:
    buckets = TokenBuckets(rate=1, burst=2)
    buckets.take("a", NOW)
    assert [buckets.take("a", NOW + 9999) > 0 for _ in range(3)] == [False, False, True]


def test_the_table_never_outgrows_its_capacity_and_strangers_share_one_bucket() -> None:
    buckets = TokenBuckets(rate=1, burst=2, capacity=10)
    for n in range(10):
        buckets.take(f"known-{n}", NOW)
    granted = [buckets.take(f"stranger-{n}", NOW) == 0.0 for n in range(1000)]
    assert len(buckets) == 10
    assert granted.count(True) == 2


def test_a_flood_of_fresh_keys_frees_nobody() -> None:
    buckets = TokenBuckets(rate=1, burst=1, capacity=10)
    buckets.take("limited", NOW)
    for n in range(1000):
        buckets.take(f"fresh-{n}", NOW)
    assert buckets.take("limited", NOW) > 0


def test_keys_at_rest_make_room_for_new_ones() -> None:
    buckets = TokenBuckets(rate=1, burst=1, capacity=2)
    buckets.take("a", NOW)
    buckets.take("b", NOW)
    assert [buckets.take(key, NOW + 2) for key in "cd"] == [0.0, 0.0]
    assert len(buckets) == 2


@given(
    st.integers(1, 20),
    st.integers(1, 20),
    st.lists(st.floats(0, 0.5, allow_nan=False), max_size=200),
)
def test_no_schedule_gets_more_than_burst_and_rate(rate: int, burst: int, pauses: list[float]) -> None:
    buckets = TokenBuckets(rate=rate, burst=burst)
    now, granted = NOW, 0
    for pause in pauses:
        now += pause
        granted += buckets.take("a", now) == 0.0
    assert granted <= burst + (now - NOW) * rate + 1e-3


@pytest.mark.parametrize(
    ("rate", "burst", "capacity"), [(0, 1, 1), (-1, 1, 1), (1, 0, 1), (1, 1, 0)], ids=["rate", "sign", "burst", "size"]
)
def test_a_limit_that_allows_nothing_is_misuse(rate: float, burst: int, capacity: int) -> None:
    with pytest.raises(ValueError, match="positive"):
        TokenBuckets(rate=rate, burst=burst, capacity=capacity)


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::1", "::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unix", "unix"),
        ("not:an:address", "not:an:address"),
    ],
)
def test_addresses_are_counted_by_who_holds_them(address: str, key: str) -> None:
    assert address_key(address) == key
