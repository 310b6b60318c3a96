"""`flows.authserver.lockout.Lockout` under any order of guesses, logins and time passing, by owners and strangers."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from functools import cache
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from twogate.flows.authserver.lockout import (
    ADDRESS_TRIES,
    ATTACKED_AFTER,
    FORGET_AFTER,
    FREE_TRIES,
    FREE_TRIES_ATTACKED,
    KNOWN_FOR,
    KNOWN_TRIES,
    LONGEST_WAIT,
    SHARED_WAIT,
    Lockout,
)
from twogate.stores.sql.login_failures import SqlFailureStore
from twogate.stores.sql.migrate import upgrade
from twogate.stores.sql.opening import open_engine

NAMES = ("alice", "bob")
STRANGERS = ("198.51.100.1", "198.51.100.2", "2001:db8::1")
HOME = "203.0.113.7"
DEVICE = {name: letter * 43 for name, letter in zip(NAMES, "DE", strict=True)}
MADE_UP = "X" * 43
START = 1_800_000_000
# What a series of guesses of one rule does at most, so that the counts of an address fill up.
SERIES = 40


@cache
def empty_database() -> Path:
    """A migrated database to copy: migrating takes longer than a whole run."""
    path = Path(tempfile.mkdtemp(prefix="lockout")) / "twogate.db"

    async def make() -> None:
        engine = open_engine(f"sqlite:///{path}")
        await upgrade(engine)
        await engine.dispose()

    asyncio.run(make())
    return path


class Machine(RuleBasedStateMachine):
    """`failed` counts a place's own failures for a name since its last success; `at` is when the last one was."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directory = Path(tempfile.mkdtemp(prefix="lockout"))
        shutil.copy(empty_database(), self.directory / "twogate.db")
        self.engine = open_engine(f"sqlite:///{self.directory / 'twogate.db'}")
        self.lockout = Lockout(SqlFailureStore(self.engine), bytes(32))
        self.now = START
        self.failed: dict[tuple[str, str], int] = {}
        self.at: dict[tuple[str, str], int] = {}
        self.by_address: dict[str, int] = {}
        self.known_since: dict[str, int] = {}
        self.shared: set[tuple[str, str]] = set()
        self.longest = 0

    def teardown(self) -> None:
        self.runner.run(self.engine.dispose())
        self.runner.close()
        shutil.rmtree(self.directory)

    def attempt(self, name: str, address: str, device: str | None, *, right: bool) -> int:
        """One try at the login page; the seconds to wait if it was not looked at."""

        async def run() -> int:
            one = await self.lockout.begin("acme", name, address, device, self.now)
            if not one.wait:
                await (self.lockout.succeeded if right else self.lockout.failed)(one, self.now)
            return one.wait

        wait = self.runner.run(run())
        self.longest = max(self.longest, wait)
        return wait

    def is_known(self, name: str) -> bool:
        return name in self.known_since and self.now < self.known_since[name] + KNOWN_FOR

    @rule(seconds=st.sampled_from([1, 2, 30, LONGEST_WAIT, FORGET_AFTER, KNOWN_FOR]))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule(
        name=st.sampled_from(NAMES),
        address=st.sampled_from(STRANGERS),
        device=st.sampled_from([None, MADE_UP]),
        times=st.integers(1, SERIES),
    )
    def a_stranger_guesses(self, name: str, address: str, device: str | None, times: int) -> None:
        looked_at = 0
        for _ in range(times):
            place = (name, address)
            fresh = self.now - self.at.get(place, 0) >= FORGET_AFTER
            count = 0 if fresh else self.failed.get(place, 0)
            wait = self.attempt(name, address, device, right=False)
            if wait:
                # Whoever must wait has failed before, more often than is free, or shares an address with who has.
                assert count > FREE_TRIES_ATTACKED or self.by_address.get(address, 0) > ADDRESS_TRIES
                continue
            looked_at += 1
            self.failed[place] = count + 1
            self.at[place] = self.now
            self.by_address[address] = self.by_address.get(address, 0) + 1
        # However many are sent in one moment, few are looked at.
        assert looked_at <= (KNOWN_TRIES if (name, address) in self.shared else FREE_TRIES) + 1

    @rule(name=st.sampled_from(NAMES), number=st.integers(1, 254))
    def a_crowd_guesses_from_everywhere(self, name: str, number: int) -> None:
        for host in range(ATTACKED_AFTER + 5):
            self.attempt(name, f"192.0.{number}.{host}", None, right=False)

    @rule(name=st.sampled_from(NAMES))
    def the_owner_logs_in_with_a_browser_that_is_known(self, name: str) -> None:
        if self.is_known(name):
            # Nothing that strangers did, here or elsewhere, keeps the owner out.
            assert self.attempt(name, HOME, DEVICE[name], right=True) == 0
            self.known_since[name] = self.now

    @rule(name=st.sampled_from(NAMES))
    def the_owner_logs_in_for_the_first_time(self, name: str) -> None:
        if not self.is_known(name):
            # From an address that never failed: one try is always free.
            assert self.attempt(name, HOME, DEVICE[name], right=True) == 0
            self.known_since[name] = self.now

    @rule(name=st.sampled_from(NAMES), number=st.integers(1, 60000))
    def the_owner_comes_from_an_address_never_seen(self, name: str, number: int) -> None:
        assert self.attempt(name, f"2001:db8:ffff:{number:x}::1", None, right=True) == 0

    @rule(name=st.sampled_from(NAMES), address=st.sampled_from(STRANGERS))
    def the_owner_logs_in_where_strangers_guess(self, name: str, address: str) -> None:
        if self.is_known(name):
            assert self.attempt(name, address, DEVICE[name], right=True) == 0
            self.known_since[name] = self.now
            # The address has logged this person in, and may fail a little more often from now on.
            self.shared.add((name, address))

    @rule(name=st.sampled_from(NAMES))
    def the_owner_mistypes(self, name: str) -> None:
        if self.is_known(name):
            waits = [self.attempt(name, HOME, DEVICE[name], right=False) for _ in range(KNOWN_TRIES)]
            assert waits == [0] * KNOWN_TRIES
            assert self.attempt(name, HOME, DEVICE[name], right=True) == 0
            self.known_since[name] = self.now

    @invariant()
    def nobody_waits_longer_than_the_cap(self) -> None:
        assert self.longest <= max(LONGEST_WAIT, SHARED_WAIT)


TestLockout = Machine.TestCase
TestLockout.settings = settings(max_examples=15, stateful_step_count=15, deadline=None)
