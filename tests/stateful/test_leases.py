"""Leases under every delay, failure and race that chance finds: after `settle` nobody acts on what was before.

The real replica and the real waiting run over a store in memory whose every answer may be late, lost or ambiguous, on
an event loop whose time is virtual. Row R-61, DESIGN decision 18.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Callable
from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine

from twogate.core.errors import ErrorCode, GateError
from twogate.stores.sql.leased_revision import LeasedRevision
from twogate.stores.sql.leases import settle

LONG = 12.0
"""Virtual seconds of one world."""

DRIFT = (0.92, 1.1)
"""How slow and how fast a replica's clock may be."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop that, instead of waiting, lets the time pass."""

    def __init__(self) -> None:
        super().__init__(_Skipping(self))
        self.virtual = 100.0

    def time(self) -> float:
        return self.virtual


class _Skipping(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self.loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everybody waits for something that will not happen"
        self.loop.virtual += max(0.0, timeout)
        return super().select(0)


class Clock:
    """A replica's monotonic clock, which may be fast or slow."""

    def __init__(self, loop: VirtualLoop, rate: float) -> None:
        self.loop = loop
        self.rate = rate

    def monotonic(self) -> float:
        return self.loop.time() * self.rate

    def now(self) -> int:
        raise NotImplementedError

    def now_us(self) -> int:
        raise NotImplementedError


class Rng:
    def __init__(self, chance: random.Random) -> None:
        self.chance = chance

    def token(self, size: int) -> bytes:
        return self.chance.randbytes(size)


class World:
    """The store, the replicas, and what has been promised to whoever changed something."""

    def __init__(self, loop: VirtualLoop, chance: random.Random) -> None:
        self.loop = loop
        self.chance = chance
        self.counter = 1
        self.rows: dict[str, int] = {}
        self.replicas: list[LeasedRevision] = []
        self.promised = 0
        self.held = 0
        self.weather = chance.choice((0.02, 0.1, 0.4))

    async def step(self, effect: Callable[[], object]) -> object:
        """Something that the store does at one moment, between the way there and the way back."""
        await self.delay()
        if self.chance.random() < 0.02:
            raise GateError(ErrorCode.STORE_UNAVAILABLE)
        result = effect()
        await self.delay()
        if self.chance.random() < 0.02:
            raise GateError(ErrorCode.STORE_UNAVAILABLE)
        return result

    async def delay(self) -> None:
        slow = self.chance.random() < self.weather
        await asyncio.sleep(self.chance.uniform(0, 1.2) if slow else 0.001)

    # As `settle` sees it.

    async def value(self) -> int:
        return cast("int", await self.step(lambda: self.counter))

    async def behind(self, value: int) -> bool:
        return cast("bool", await self.step(lambda: any(row < value for row in self.rows.values())))

    async def strike_off(self, value: int) -> None:
        await self.step(lambda: [self.rows.pop(name) for name, row in [*self.rows.items()] if row < value])

    # Who acts.

    async def replica(self) -> None:
        clock = Clock(self.loop, self.chance.uniform(*DRIFT))
        revision = LeasedRevision(cast("AsyncEngine", None), clock, Rng(self.chance))
        await asyncio.sleep(self.chance.uniform(0, LONG / 2))
        self.replicas.append(revision)
        while True:
            try:
                await revision.keep(Lease(self, revision._replica))
            except (GateError, TimeoutError):
                if self.chance.random() < 0.5:  # whether the loss is noticed at once
                    revision._lose()
                await asyncio.sleep(0.2)

    async def operator(self) -> None:
        while True:
            await asyncio.sleep(self.chance.uniform(0, 1.5))
            try:
                number = cast("int", await self.step(self.change))
            except GateError:
                continue
            await settle(self)
            self.promised = max(self.promised, number)
            self.check()

    def change(self) -> int:
        self.counter += 1
        for revision in self.replicas:
            if self.chance.random() < 0.7:
                self.loop.call_later(self.chance.uniform(0, 0.3), revision._wake)
        return self.counter

    async def watch(self) -> None:
        while True:
            self.check()
            await asyncio.sleep(0.01)

    def check(self) -> None:
        for revision in self.replicas:
            if revision.current() is not None:
                self.held += 1
                assert revision._value >= self.promised, "a replica acts on what was before a change that is in force"

    async def run(self) -> None:
        tasks = [asyncio.create_task(self.replica()) for _ in range(3)]
        tasks += [asyncio.create_task(self.operator()) for _ in range(2)]
        tasks.append(asyncio.create_task(self.watch()))
        done, _ = await asyncio.wait(tasks, timeout=LONG, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()


class Lease:
    """As a replica sees the store."""

    def __init__(self, world: World, replica: str) -> None:
        self.world = world
        self.replica = replica

    async def look(self) -> tuple[int, int | None]:
        world = self.world
        return cast("tuple[int, int | None]", await world.step(lambda: (world.counter, world.rows.get(self.replica))))

    async def acknowledge(self, value: int) -> None:
        await self.world.step(lambda: self.world.rows.update({self.replica: value}))


def run(seed: int) -> World:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        world = World(cast("VirtualLoop", runner.get_loop()), random.Random(seed))  # noqa: S311 - must repeat itself
        runner.run(world.run())
    return world


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_once_a_change_is_in_force_no_replica_acts_on_what_was_before(seed: int) -> None:
    run(seed)


def test_in_these_worlds_changes_are_made_and_leases_are_held() -> None:
    worlds = [run(seed) for seed in range(10)]
    assert all(world.promised > 1 for world in worlds)
    assert sum(world.held for world in worlds) > 3000
