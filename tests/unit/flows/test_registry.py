"""The view of agents and bindings: configuration and store as one, as of the newest revision."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import pytest

from gatelab import AGENT, BINDING, ROBOT
from twogate.core.errors import ErrorCode, GateError
from twogate.core.principal import Agent, AgentId, Binding, Method
from twogate.flows.registry import Registry, RegistryState

STORED = AgentId("acme", "stored")
STORED_BINDING = Binding(Method.JWT, "https://login.example.com", "stored")


class MemoryRegistry:
    """A registry store and its revision; `hold` makes every read wait."""

    def __init__(self) -> None:
        self.state = RegistryState(
            {STORED: Agent(STORED, "reader", ("report",))}, {STORED_BINDING: STORED}, frozenset()
        )
        self.revision = 1
        self.loads = 0
        self.hold: asyncio.Event | None = None
        self.fails = False
        self.knows = True

    def current(self) -> int | None:
        return self.look() if self.knows else None

    async def read(self) -> int:
        return self.look()

    def look(self) -> int:
        if self.fails:
            raise GateError(ErrorCode.STORE_UNAVAILABLE)
        return self.revision

    async def load(self) -> RegistryState:
        self.loads += 1
        state = self.state
        if self.hold is not None:
            await self.hold.wait()
        return state

    async def add_agent(self, agent: Agent, bindings: Sequence[Binding], now: int) -> None:
        raise NotImplementedError

    async def disable_agent(self, agent: AgentId, now: int) -> bool:
        self.state = msgspec.structs.replace(self.state, disabled=self.state.disabled | {agent})
        self.revision += 1
        return True

    async def enable_agent(self, agent: AgentId) -> bool:
        self.state = msgspec.structs.replace(self.state, disabled=self.state.disabled - {agent})
        self.revision += 1
        return True


@pytest.fixture
def store() -> MemoryRegistry:
    return MemoryRegistry()


@pytest.fixture
def registry(store: MemoryRegistry) -> Registry:
    return Registry(store, store, {ROBOT: AGENT}, {BINDING: ROBOT})


async def test_configured_and_stored_agents_are_one_view(registry: Registry) -> None:
    view = await registry.view()
    assert set(view.agents) == {ROBOT, STORED}
    assert dict(view.bindings) == {BINDING: ROBOT, STORED_BINDING: STORED}


async def test_the_store_is_read_once_a_revision(store: MemoryRegistry, registry: Registry) -> None:
    first = await registry.view()
    assert await registry.view() is first
    assert store.loads == 1
    store.revision += 1
    second = await registry.view()
    assert second is not first
    assert (second.revision, store.loads) == (2, 2)


async def test_many_callers_at_once_read_once(store: MemoryRegistry, registry: Registry) -> None:
    views = await asyncio.gather(*(registry.view() for _ in range(50)))
    assert len({id(view) for view in views}) == 1
    assert store.loads == 1


async def test_disabling_holds_for_the_next_look_whoever_defined_the_agent(
    store: MemoryRegistry, registry: Registry
) -> None:
    for agent in (ROBOT, STORED):
        found = await registry.agent(agent)
        assert found is not None
        assert not found.disabled
        await store.disable_agent(agent, 0)
        found = await registry.agent(agent)
        assert found is not None
        assert found.disabled


async def test_a_disabled_agent_that_nobody_defines_is_no_agent(store: MemoryRegistry, registry: Registry) -> None:
    await store.disable_agent(AgentId("acme", "gone"), 0)
    assert await registry.agent(AgentId("acme", "gone")) is None


async def test_the_configuration_wins_over_a_row_of_the_same_name(store: MemoryRegistry, registry: Registry) -> None:
    mighty = msgspec.structs.replace(AGENT, role="admin")
    store.state = RegistryState({ROBOT: mighty}, {BINDING: STORED}, frozenset())
    view = await registry.view()
    assert view.agents[ROBOT].role == AGENT.role
    assert view.bindings[BINDING] == ROBOT


async def test_a_change_during_a_read_is_seen_by_the_next_look(store: MemoryRegistry, registry: Registry) -> None:
    store.hold = asyncio.Event()
    looking = asyncio.create_task(registry.view())
    await asyncio.sleep(0)
    assert store.loads == 1
    await store.disable_agent(ROBOT, 0)
    newer = asyncio.create_task(registry.view())
    store.hold.set()
    await looking
    assert (await newer).agents[ROBOT].disabled
    assert (await registry.view()).agents[ROBOT].disabled


async def test_a_store_that_cannot_be_asked_refuses_even_with_a_view_at_hand(
    store: MemoryRegistry, registry: Registry
) -> None:
    await registry.view()
    store.fails = True
    with pytest.raises(GateError) as refusal:
        await registry.view()
    assert refusal.value.code is ErrorCode.STORE_UNAVAILABLE


async def test_nobody_can_change_the_view(registry: Registry) -> None:
    view = await registry.view()
    with pytest.raises(TypeError):
        view.agents[ROBOT] = AGENT  # type: ignore[index]  # that it cannot is the point


async def test_a_revision_that_only_the_store_can_tell_is_asked_for_each_time(
    store: MemoryRegistry, registry: Registry
) -> None:
    store.knows = False
    first = await registry.view()
    assert await registry.view() is first
    await store.disable_agent(ROBOT, 0)
    assert (await registry.view()).agents[ROBOT].disabled
    store.fails = True
    with pytest.raises(GateError) as refusal:
        await registry.view()
    assert refusal.value.code is ErrorCode.STORE_UNAVAILABLE
