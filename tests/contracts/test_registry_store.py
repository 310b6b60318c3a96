"""What every RegistryStore does (DESIGN decision 1)."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from contracts.stores import AGENT, BINDING, NOW, Stores, open_stores, race
from twogate.core.errors import ErrorCode, GateError
from twogate.core.principal import Agent, AgentId, Binding, Method
from twogate.flows.registry import RegistryState

OTHER = Agent(AgentId("acme", "tester"), "reader", (), None, 3)
OTHER_BINDING = Binding(Method.JWT, "https://as.example", "client-2")
EMPTY = RegistryState({}, {}, frozenset())


async def test_a_new_store_knows_nobody(stores: Stores) -> None:
    assert await stores.registry.load() == EMPTY


async def test_added_agents_come_back_with_every_field_and_binding(stores: Stores) -> None:
    await stores.registry.add_agent(AGENT, [BINDING, OTHER_BINDING], NOW)
    await stores.registry.add_agent(OTHER, [], NOW)
    assert await stores.registry.load() == RegistryState(
        {AGENT.id: AGENT, OTHER.id: OTHER}, {BINDING: AGENT.id, OTHER_BINDING: AGENT.id}, frozenset()
    )


async def test_an_agent_that_exists_is_refused_and_stays_as_it_was(stores: Stores) -> None:
    await stores.registry.add_agent(AGENT, [BINDING], NOW)
    before = await stores.registry.load()
    with pytest.raises(GateError) as refused:
        await stores.registry.add_agent(msgspec.structs.replace(AGENT, role="admin"), [OTHER_BINDING], NOW)
    assert refused.value.code is ErrorCode.REQUEST_MALFORMED
    assert await stores.registry.load() == before


async def test_a_binding_that_leads_to_another_agent_is_refused_with_everything_beside_it(stores: Stores) -> None:
    await stores.registry.add_agent(AGENT, [BINDING], NOW)
    before = await stores.registry.load()
    with pytest.raises(GateError) as refused:
        await stores.registry.add_agent(OTHER, [OTHER_BINDING, BINDING], NOW)
    assert refused.value.code is ErrorCode.REQUEST_MALFORMED
    assert await stores.registry.load() == before


@pytest.mark.parametrize(
    "agent",
    [msgspec.structs.replace(AGENT, concurrent_tasks=0), msgspec.structs.replace(AGENT, default_task="administer")],
    ids=["no task at once", "a default task it does not list"],
)
async def test_an_agent_that_contradicts_itself_is_refused(stores: Stores, agent: Agent) -> None:
    with pytest.raises(GateError) as refused:
        await stores.registry.add_agent(agent, [BINDING], NOW)
    assert refused.value.code is ErrorCode.REQUEST_MALFORMED
    assert await stores.registry.load() == EMPTY


async def test_disabling_an_agent_keeps_it_and_its_bindings_and_happens_once(stores: Stores) -> None:
    await stores.registry.add_agent(AGENT, [BINDING], NOW)
    assert await stores.registry.disable_agent(AGENT.id, NOW) is True
    assert await stores.registry.disable_agent(AGENT.id, NOW + 1) is False
    disabled = msgspec.structs.replace(AGENT, disabled=True)
    assert await stores.registry.load() == RegistryState(
        {AGENT.id: disabled}, {BINDING: AGENT.id}, frozenset({AGENT.id})
    )


async def test_enabling_an_agent_takes_the_disabling_back_and_happens_once(stores: Stores) -> None:
    await stores.registry.add_agent(AGENT, [BINDING], NOW)
    assert await stores.registry.enable_agent(AGENT.id) is False
    await stores.registry.disable_agent(AGENT.id, NOW)
    await stores.registry.disable_agent(OTHER.id, NOW)
    before = await stores.revision.read()
    assert await stores.registry.enable_agent(AGENT.id) is True
    # In force at every replica.
    assert await stores.revision.read() != before
    assert await stores.registry.enable_agent(AGENT.id) is False
    assert await stores.registry.load() == RegistryState({AGENT.id: AGENT}, {BINDING: AGENT.id}, frozenset({OTHER.id}))


async def test_an_agent_that_only_the_configuration_defines_can_be_disabled(stores: Stores) -> None:
    assert await stores.registry.disable_agent(AgentId("acme", "configured"), NOW) is True
    assert (await stores.registry.load()).disabled == {AgentId("acme", "configured")}


async def test_of_fifty_parallel_disablings_one_is_the_first(stores: Stores) -> None:
    results = await asyncio.gather(*(stores.registry.disable_agent(AGENT.id, NOW) for _ in range(50)))
    assert sorted(results) == [False] * 49 + [True]


async def test_of_disablings_in_two_processes_one_is_the_first(stores: Stores) -> None:
    results = await race(stores.url, "disable")
    assert results.count(True) == 1
    assert results.count(False) == 49
    assert (await stores.registry.load()).disabled == {AGENT.id}


async def test_the_registry_survives_reopening(stores: Stores) -> None:
    await stores.registry.add_agent(AGENT, [BINDING], NOW)
    await stores.registry.disable_agent(OTHER.id, NOW)
    before = await stores.registry.load()
    async with open_stores(stores.url) as again:
        assert await again.registry.load() == before


async def test_a_load_beside_writers_never_sees_an_agent_without_its_bindings(stores: Stores) -> None:
    async def add(number: int) -> None:
        agent = msgspec.structs.replace(AGENT, id=AgentId("acme", f"agent-{number}"))
        await stores.registry.add_agent(agent, [Binding(Method.JWT, "i", f"{number}-{n}") for n in range(3)], NOW)

    async def look() -> None:
        state = await stores.registry.load()
        assert len(state.bindings) == 3 * len(state.agents)

    await asyncio.gather(*(work for number in range(20) for work in (add(number), look())))
    assert len((await stores.registry.load()).agents) == 20
