"""What every ClientStore does."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from contracts.stores import AGENT, BINDING, CLIENT, NOW, Stores, open_stores
from twogate.core.errors import ErrorCode, GateError
from twogate.core.principal import AgentId, Binding, Method
from twogate.flows.authserver.clients import Client, ClientAuth, ClientKind, SecretDigest
from twogate.stores.sql.clients import SqlClientStore
from twogate.stores.sql.opening import open_engine

WITH_KEYS = Client(
    "client-2", "acme", AGENT.id, ClientAuth.PRIVATE_KEY_JWT, jwks='{"keys":[{"kty":"EC"}]}', created_at=NOW + 1
)
ROTATING = msgspec.structs.replace(
    CLIENT, secret_digests=(SecretDigest("ab" * 32, NOW + 60), SecretDigest("cd" * 32, None))
)


@pytest.mark.parametrize("client", [CLIENT, ROTATING, WITH_KEYS], ids=["secret", "two secrets", "keys"])
async def test_a_client_comes_back_with_every_field(stores: Stores, client: Client) -> None:
    await stores.clients.add(client, AGENT, [BINDING], client.created_at)
    assert await stores.clients.get(client.client_id) == client
    assert await stores.clients.get("nobody") is None


async def test_adding_a_client_adds_its_agent_and_binding(stores: Stores) -> None:
    await stores.clients.add(CLIENT, AGENT, [BINDING], NOW)
    state = await stores.registry.load()
    assert state.agents == {AGENT.id: AGENT}
    assert state.bindings == {BINDING: AGENT.id}


async def test_a_client_of_a_configured_agent_adds_the_binding_only(stores: Stores) -> None:
    await stores.clients.add(CLIENT, None, [BINDING], NOW)
    state = await stores.registry.load()
    assert state.agents == {}
    assert state.bindings == {BINDING: AGENT.id}


@pytest.mark.parametrize("clash", ["client", "agent", "binding"])
async def test_what_exists_already_is_refused_and_nothing_is_added(stores: Stores, clash: str) -> None:
    await stores.clients.add(CLIENT, AGENT, [BINDING], NOW)
    before = await stores.registry.load()
    other = AgentId("acme", "tester")
    fresh = msgspec.structs.replace(WITH_KEYS, agent=other)
    fresh_agent = msgspec.structs.replace(AGENT, id=other)
    fresh_binding = Binding(Method.JWT, "https://as.example", "client-2")
    with pytest.raises(GateError) as refused:
        await stores.clients.add(
            msgspec.structs.replace(fresh, client_id="client-1")
            if clash == "client"
            else msgspec.structs.replace(fresh, agent=AGENT.id)
            if clash == "agent"
            else fresh,
            AGENT if clash == "agent" else fresh_agent,
            [fresh_binding, BINDING] if clash == "binding" else [fresh_binding],
            NOW,
        )
    assert refused.value.code is ErrorCode.REQUEST_MALFORMED
    assert await stores.registry.load() == before
    assert await stores.clients.list() == [CLIENT]


async def test_an_agent_that_is_not_the_clients_is_our_own_mistake(stores: Stores) -> None:
    with pytest.raises(ValueError, match="another agent"):
        await stores.clients.add(CLIENT, msgspec.structs.replace(AGENT, id=AgentId("acme", "x")), [], NOW)
    assert await stores.clients.list() == []


async def test_the_list_is_oldest_first_and_can_be_a_tenants(stores: Stores) -> None:
    foreign = msgspec.structs.replace(WITH_KEYS, client_id="c3", tenant="umbrella", agent=AgentId("umbrella", "a"))
    await stores.clients.add(foreign, None, [], NOW + 1)
    await stores.clients.add(CLIENT, None, [], NOW)
    assert await stores.clients.list() == [CLIENT, foreign]
    assert await stores.clients.list("umbrella") == [foreign]
    assert await stores.clients.list("nobody") == []


async def test_the_use_of_a_client_is_noted_to_the_minute(stores: Stores) -> None:
    await stores.clients.add(CLIENT, None, [], NOW)

    async def used() -> int | None:
        client = await stores.clients.get("client-1")
        assert client is not None
        return client.last_used_at

    assert await used() is None
    for moment, noted in ((NOW + 5, NOW + 5), (NOW + 64, NOW + 5), (NOW + 65, NOW + 65)):
        await stores.clients.touch("client-1", moment)
        assert await used() == noted
    await stores.clients.touch("nobody", NOW)


async def test_of_fifty_parallel_additions_of_one_client_one_wins(stores: Stores) -> None:
    results = await asyncio.gather(
        *(stores.clients.add(CLIENT, AGENT, [BINDING], NOW) for _ in range(50)), return_exceptions=True
    )
    refusals = [result for result in results if isinstance(result, GateError)]
    assert [refusal.code for refusal in refusals] == [ErrorCode.REQUEST_MALFORMED] * 49
    assert await stores.clients.list() == [CLIENT]


async def test_the_ids_that_are_taken_are_told(stores: Stores) -> None:
    await stores.clients.add(CLIENT, AGENT, [BINDING], NOW)
    await stores.clients.add(WITH_KEYS, None, [], NOW)
    assert await stores.clients.existing(["client-2", "nobody", "client-1"]) == ["client-1", "client-2"]
    assert await stores.clients.existing([]) == []
    assert await stores.clients.existing(["CLIENT-1", "client-1 "]) == []


async def test_removing_a_client_removes_its_bindings_at_once_and_nothing_else(stores: Stores) -> None:
    await stores.clients.add(CLIENT, AGENT, [BINDING], NOW)
    other = msgspec.structs.replace(BINDING, identifier="client-2")
    await stores.clients.add(WITH_KEYS, None, [other], NOW)
    before = await stores.seen()
    assert await stores.clients.remove("client-1", [BINDING])
    assert await stores.seen() != before
    assert await stores.clients.get("client-1") is None
    state = await stores.registry.load()
    assert state.bindings == {other: AGENT.id}
    assert state.agents == {AGENT.id: AGENT}
    assert not await stores.clients.remove("client-1", [BINDING])
    assert await stores.clients.get("client-2") is not None


async def test_a_removed_clients_id_is_free_again(stores: Stores) -> None:
    await stores.clients.add(CLIENT, AGENT, [BINDING], NOW)
    await stores.clients.remove("client-1", [BINDING])
    await stores.clients.add(CLIENT, None, [BINDING], NOW)
    assert await stores.clients.get("client-1") == CLIENT


async def test_clients_survive_reopening(stores: Stores) -> None:
    await stores.clients.add(ROTATING, AGENT, [BINDING], NOW)
    async with open_stores(stores.url) as again:
        assert await again.clients.list() == [ROTATING]


async def test_the_clients_of_some_agents_are_found_the_last_used_first(stores: Stores) -> None:
    clients = SqlClientStore(engine := open_engine(stores.url))
    try:
        for number, (tenant, agent) in enumerate(
            [("acme", "builder"), ("acme", "builder"), ("acme", "tester"), ("acme", "other"), ("globex", "builder")]
        ):
            made = Client(
                f"client-{number}", tenant, AgentId(tenant, agent), ClientAuth.CLIENT_SECRET,
                (SecretDigest("ab" * 32),), created_at=NOW + number,
            )  # fmt: skip
            await clients.add(made, None, [], NOW + number)
        # Who issues operation tokens acts as nobody.
        authorizer = msgspec.structs.replace(CLIENT, client_id="desk", agent=None, kind=ClientKind.AUTHORIZER)
        await clients.add(authorizer, None, [], NOW)

        async def found(*agents: str, most: int = 10) -> list[str]:
            return [client.client_id for client in await clients.of_agents("acme", agents, most)]

        assert await found("builder", "tester") == ["client-2", "client-1", "client-0"]
        await clients.touch("client-0", NOW + 60)
        assert await found("builder", "tester") == ["client-0", "client-2", "client-1"]
        assert await found("builder", "tester", most=2) == ["client-0", "client-2"]
        assert await found("nobody") == await found() == []
        assert await found("builder", "builder") == ["client-0", "client-1"]
        (whole, _) = await clients.of_agents("acme", ["builder"], 10)
        assert whole == await clients.get("client-0")
    finally:
        await engine.dispose()
