"""The revision of a replica on PostgreSQL: known without asking while its lease lasts, asked for otherwise."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.stores import AGENT, NOW, until_leased
from harness.postgres import Cluster
from twogate.adapters.clock import SystemClock
from twogate.adapters.rng import SystemRng
from twogate.core.errors import ErrorCode, GateError
from twogate.core.principal import AgentId
from twogate.stores.sql.leased_revision import LeasedRevision
from twogate.stores.sql.leases import LAPSE, LEASE
from twogate.stores.sql.migrate import upgrade
from twogate.stores.sql.opening import open_engine
from twogate.stores.sql.registry import SqlRegistryStore

OTHER = AgentId("acme", "other")


class Clock(SystemClock):
    """The system's clock, which may jump ahead as it does for a process that was stopped."""

    ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


class Replica:
    """A replica with its own connections."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.clock = Clock()
        self.revision = LeasedRevision(engine, self.clock, SystemRng())
        self.registry = SqlRegistryStore(engine)


@pytest.fixture
async def user(cluster: Cluster) -> str:
    return await asyncio.to_thread(cluster.new_user)


@asynccontextmanager
async def replicas(cluster: Cluster, user: str, number: int) -> AsyncIterator[list[Replica]]:
    made = [Replica(open_engine(cluster.url(user))) for _ in range(number)]
    await upgrade(made[0].engine)
    try:
        yield made
    finally:
        for replica in made:
            await replica.revision.aclose()
            await replica.engine.dispose()


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not check():
            await asyncio.sleep(0.005)


def held(cluster: Cluster, user: str) -> int:
    ((count,),) = cluster.run("SELECT count(*) FROM leases", user)
    assert isinstance(count, int)
    return count


async def test_without_a_lease_the_store_is_asked(cluster: Cluster, user: str) -> None:
    async with replicas(cluster, user, 2) as (one, other):
        assert one.revision.current() is None
        assert await one.revision.read() == 1
        await other.registry.disable_agent(AGENT.id, NOW)
        assert await one.revision.read() == 2
        assert held(cluster, user) == 0


async def test_with_a_lease_it_is_known_and_a_change_is_known_once_it_is_in_force(cluster: Cluster, user: str) -> None:
    async with replicas(cluster, user, 3) as (one, two, other):
        for replica in (one, two):
            replica.revision.start()
            replica.revision.start()
            await until_leased(replica.revision)
        assert held(cluster, user) == 2
        for number in range(20):
            before = [replica.revision.current() for replica in (one, two)]
            await other.registry.disable_agent(AgentId("acme", f"agent-{number}"), NOW)
            # No waiting here: that is the guarantee. A slow machine may have cost a lease, but never the truth.
            for replica, earlier in zip((one, two), before, strict=True):
                current = replica.revision.current()
                assert current is None or earlier is None or current > earlier
            await until_leased(one.revision)
            await until_leased(two.revision)


async def test_a_change_does_not_wait_for_a_replica_that_went_in_order(cluster: Cluster, user: str) -> None:
    async with replicas(cluster, user, 2) as (one, other):
        one.revision.start()
        await until_leased(one.revision)
        await one.revision.aclose()
        assert held(cluster, user) == 0
        assert one.revision.current() is None
        with pytest.raises(GateError) as error:
            await one.revision.read()
        assert error.value.code is ErrorCode.STORE_UNAVAILABLE
        await one.revision.aclose()
        one.revision.start()
        assert await other.registry.disable_agent(AGENT.id, NOW) is True


async def test_a_change_waits_out_the_lease_of_a_replica_that_is_gone_and_strikes_it_off(
    cluster: Cluster, user: str
) -> None:
    async with replicas(cluster, user, 1) as (one,):
        cluster.run("INSERT INTO leases VALUES ('gone', 1); COMMIT", user)
        began = time.monotonic()
        assert await one.registry.disable_agent(AGENT.id, NOW) is True
        assert time.monotonic() - began >= LAPSE
        assert held(cluster, user) == 0


async def test_a_repeated_change_waits_too_since_the_first_may_not_have(cluster: Cluster, user: str) -> None:
    async with replicas(cluster, user, 1) as (one,):
        await one.registry.disable_agent(AGENT.id, NOW)
        cluster.run("INSERT INTO leases VALUES ('slow', 1); COMMIT", user)
        began = time.monotonic()
        assert await one.registry.disable_agent(AGENT.id, NOW) is False
        assert time.monotonic() - began >= LAPSE


async def test_a_replica_that_was_struck_off_is_waited_for_again_once_it_is_back(cluster: Cluster, user: str) -> None:
    async with replicas(cluster, user, 2) as (one, other):
        one.revision.start()
        await until_leased(one.revision)
        cluster.run("DELETE FROM leases; COMMIT", user)
        await until(lambda: held(cluster, user) == 1)
        before = one.revision.current() or 0
        await other.registry.disable_agent(AGENT.id, NOW)
        current = one.revision.current()
        assert current is None or current > before


async def test_a_process_that_was_stopped_for_longer_than_its_lease_asks_before_it_acts(
    cluster: Cluster, user: str
) -> None:
    async with replicas(cluster, user, 1) as (one,):
        one.revision.start()
        await until_leased(one.revision)
        one.clock.ahead += LEASE
        assert one.revision.current() is None
        assert await one.revision.read() > 1  # another number, since nothing remembered may be taken for current
        await until_leased(one.revision)


async def test_a_lost_channel_ends_the_lease_and_is_opened_anew(cluster: Cluster, user: str) -> None:
    async with replicas(cluster, user, 1) as (one,):
        one.revision.start()
        await until_leased(one.revision)
        before = one.revision.current()
        cluster.cut_off(user)
        await until(lambda: one.revision.current() not in (None, before))


async def test_announcements_that_anybody_makes_up_change_nothing(cluster: Cluster, user: str) -> None:
    async with replicas(cluster, user, 1) as (one,):
        one.revision.start()
        await until_leased(one.revision)
        before = one.revision.current()
        for payload in ("", "7", "x" * 5000):
            cluster.run(f"SELECT pg_notify('twogate', '{payload}')")
        assert one.revision.current() in (None, before)


async def test_without_announcements_a_change_is_in_force_all_the_same(cluster: Cluster, user: str) -> None:
    async with replicas(cluster, user, 2) as (one, other):
        one.revision._wake = lambda *_: None  # type: ignore[method-assign] # deaf
        one.revision.start()
        await until_leased(one.revision)
        for number in range(3):
            before = one.revision.current()
            await other.registry.disable_agent(AgentId("acme", f"agent-{number}"), NOW)
            current = one.revision.current()
            assert current is None or before is None or current > before
            await until_leased(one.revision)


async def test_a_missing_counter_gives_no_lease_and_refuses(cluster: Cluster, user: str) -> None:
    async with replicas(cluster, user, 1) as (one,):
        cluster.run("DELETE FROM revision; COMMIT", user)
        with pytest.raises(GateError) as error:
            await one.revision.read()
        assert error.value.code is ErrorCode.STORE_UNAVAILABLE
        one.revision.start()
        cluster.run("INSERT INTO revision VALUES (1, 5); COMMIT", user)
        await until_leased(one.revision)
        assert one.revision.current() == 5
