"""An agent that declares task after task, to collect the union of their tools (DESIGN decision 6)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contracts.stores import NOW, PRINCIPAL, Stores, open_stores, race, session
from twogate.core.errors import ErrorCode, GateError
from twogate.core.principal import Agent, AgentId

TOOLS = {"review": frozenset({"git.git_log"}), "release": frozenset({"git.git_push"}), "clean": frozenset({"fs.rm"})}
AGENT = Agent(AgentId("acme", "builder"), "developer", tuple(TOOLS))


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[Stores]:
    async with open_stores(f"sqlite:///{tmp_path}/state/twogate.db") as opened:
        yield opened


async def declare(stores: Stores, name: str, task: str, now: int) -> ErrorCode | None:
    try:
        await stores.sessions.open(session(name, task, targets=TOOLS[task], start=now), AGENT, now)
    except GateError as error:
        return error.code
    return None


async def reachable(stores: Stores, now: int) -> frozenset[str]:
    live = [each for each in await stores.sessions.list_unexpired(now) if each.principal == PRINCIPAL]
    return frozenset().union(*(each.targets for each in live))


async def test_declaring_every_task_in_turn_reaches_the_tools_of_the_first_only(stores: Stores) -> None:
    assert await declare(stores, "s1", "review", NOW) is None
    assert await declare(stores, "s2", "release", NOW + 1) is ErrorCode.TASK_LIMIT
    assert await declare(stores, "s3", "clean", NOW + 2) is ErrorCode.TASK_LIMIT
    assert await reachable(stores, NOW + 3) == TOOLS["review"]


async def test_declaring_every_task_at_once_reaches_the_tools_of_one_only(stores: Stores) -> None:
    await asyncio.gather(*(declare(stores, f"s{n}-{task}", task, NOW) for n in range(20) for task in TOOLS))
    assert await reachable(stores, NOW) in TOOLS.values()


async def test_declaring_tasks_from_several_processes_opens_one_session(stores: Stores) -> None:
    results = await race(stores.url, "open", processes=3, each=10)
    assert results.count(ErrorCode.TASK_LIMIT.value) == 29
    assert len(await stores.sessions.list_unexpired(NOW)) == 1


async def test_having_a_session_ended_and_declaring_the_next_task_gains_nothing(stores: Stores) -> None:
    assert await declare(stores, "s1", "review", NOW) is None
    await stores.sessions.end("s1", NOW + 1)
    assert await declare(stores, "s2", "release", NOW + 2) is ErrorCode.TASK_LIMIT
    assert await declare(stores, "s3", "review", NOW + 2) is ErrorCode.SESSION_ENDED
    assert [each.id for each in await stores.sessions.list_unexpired(NOW + 3)] == ["s1"]


async def test_declaring_the_same_task_over_and_over_prolongs_and_widens_nothing(stores: Stores) -> None:
    assert await declare(stores, "s1", "review", NOW) is None
    for later in range(1, 899, 100):
        wider = session(f"s-{later}", "review", targets=frozenset({"git.git_log", "fs.rm"}), start=NOW + later)
        given = await stores.sessions.open(wider, AGENT, NOW + later)
        assert (given.id, given.deadline, given.targets) == ("s1", NOW + 900, TOOLS["review"])
    assert await reachable(stores, NOW + 900) == frozenset()


async def test_a_restart_between_two_declarations_gains_nothing(stores: Stores) -> None:
    assert await declare(stores, "s1", "review", NOW) is None
    async with open_stores(stores.url) as restarted:
        assert await declare(restarted, "s2", "release", NOW + 1) is ErrorCode.TASK_LIMIT


async def test_tasks_follow_one_another_only_deadline_by_deadline(stores: Stores) -> None:
    now = NOW
    for task, tools in TOOLS.items():
        assert await declare(stores, f"s-{task}", task, now) is None
        assert await reachable(stores, now) == tools
        now += 900
