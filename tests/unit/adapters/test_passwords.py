"""Argon2id in threads: what it makes, what it takes, and how much at once."""

from __future__ import annotations

import asyncio
import threading
import time

import argon2
import pytest

from twogate.adapters.passwords import AT_ONCE, PARAMETERS, Argon2Hasher
from twogate.core.errors import ErrorCode, GateError

CHEAP = argon2.profiles.CHEAPEST


async def test_hashes_are_argon2id_as_rfc_9106_recommends() -> None:
    assert (PARAMETERS.memory_cost, PARAMETERS.time_cost, PARAMETERS.parallelism) == (64 * 1024, 3, 4)
    hasher = Argon2Hasher()
    known = await hasher.hash("correct horse battery")
    assert known.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert await hasher.verify(known, "correct horse battery") is True
    assert await hasher.verify(known, "correct horse batterz") is False
    assert known != await hasher.hash("correct horse battery")
    assert hasher.is_outdated(known) is False
    assert Argon2Hasher(CHEAP).is_outdated(known) is True


async def test_nobody_has_a_password() -> None:
    hasher = Argon2Hasher(CHEAP)
    for typed in ("", "nobody", "\0"):
        assert await hasher.verify("", typed) is False


async def test_a_broken_hash_is_no_match_and_no_silence() -> None:
    with pytest.raises(GateError) as refused:
        await Argon2Hasher(CHEAP).verify("$argon2id$broken", "x")
    assert refused.value.code is ErrorCode.STORE_UNAVAILABLE


async def test_few_are_computed_at_once_and_not_on_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    most, under_way, lock, threads = 0, 0, threading.Lock(), set[int]()
    real = argon2.PasswordHasher.hash

    def watched(self: argon2.PasswordHasher, password: str) -> str:
        nonlocal most, under_way
        with lock:
            under_way += 1
            most = max(most, under_way)
            threads.add(threading.get_ident())
        time.sleep(0.01)  # long enough for the others to begin, if they may
        made = real(self, password)
        with lock:
            under_way -= 1
        return made

    monkeypatch.setattr(argon2.PasswordHasher, "hash", watched)
    hasher = Argon2Hasher(CHEAP)
    await asyncio.gather(*(hasher.hash("x") for _ in range(12)))
    assert most <= AT_ONCE
    assert threading.get_ident() not in threads


async def test_whoever_comes_when_too_many_wait_is_turned_away_and_nobody_else() -> None:
    hasher = Argon2Hasher(CHEAP, waiting=3)
    results = await asyncio.gather(*(hasher.hash("x") for _ in range(9)), return_exceptions=True)
    refused = [result for result in results if isinstance(result, GateError)]
    # The first may have its hash before the last has come.
    assert 0 < len(refused) <= 9 - AT_ONCE - 3
    assert {error.code for error in refused} == {ErrorCode.RATE_LIMITED}
    assert (await hasher.hash("x")).startswith("$argon2id$")
