"""What every Revision does: it grows with each security change of any process, and with nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from contracts.stores import AGENT, BINDING, CLIENT, NOW, Stores, open_stores, race, session
from twogate.core.errors import GateError
from twogate.core.principal import AgentId, Binding, Method


@asynccontextmanager
async def grows(stores: Stores) -> AsyncIterator[None]:
    before = await stores.seen()
    yield
    assert await stores.seen() > before


@asynccontextmanager
async def stays(stores: Stores) -> AsyncIterator[None]:
    before = await stores.seen()
    yield
    assert await stores.seen() == before


async def test_the_revision_grows_when_an_agent_is_added_or_disabled(stores: Stores) -> None:
    async with grows(stores):
        await stores.registry.add_agent(AGENT, [BINDING], NOW)
    async with grows(stores):
        await stores.registry.disable_agent(AGENT.id, NOW)
    async with stays(stores):
        await stores.registry.disable_agent(AGENT.id, NOW)


async def test_the_revision_grows_when_a_client_brings_an_agent_or_a_binding(stores: Stores) -> None:
    async with grows(stores):
        await stores.clients.add(CLIENT, AGENT, [], NOW)
    async with grows(stores):
        await stores.clients.add(msgspec.structs.replace(CLIENT, client_id="c2"), None, [BINDING], NOW)
    async with stays(stores):
        await stores.clients.add(msgspec.structs.replace(CLIENT, client_id="c3"), None, [], NOW)


async def test_the_revision_grows_when_a_session_is_ended_and_not_when_one_is_opened(stores: Stores) -> None:
    async with stays(stores):
        await stores.sessions.open(session("s1"), AGENT, NOW)
    async with grows(stores):
        await stores.sessions.end("s1", NOW)
    async with stays(stores):
        await stores.sessions.end("s1", NOW)
        await stores.sessions.end("nobody", NOW)


async def test_the_revision_stays_when_a_change_was_refused_or_is_no_security_change(stores: Stores) -> None:
    await stores.clients.add(CLIENT, AGENT, [BINDING], NOW)
    async with stays(stores):
        with pytest.raises(GateError):
            await stores.registry.add_agent(AGENT, [Binding(Method.JWT, "i", "x")], NOW)
        with pytest.raises(GateError):
            await stores.registry.add_agent(msgspec.structs.replace(AGENT, id=AgentId("a", "b")), [BINDING], NOW)
        await stores.clients.touch("client-1", NOW)
        await stores.replay.redeem("jti", "client-1", "abc", NOW + 60, NOW)
        await stores.registry.load()


async def test_the_revision_shows_a_change_of_another_process_at_once(stores: Stores) -> None:
    async with grows(stores):
        assert await race(stores.url, "disable", processes=1, each=1) == [True]


async def test_the_revision_never_falls_behind_its_value_before_a_restart(stores: Stores) -> None:
    await stores.registry.disable_agent(AGENT.id, NOW)
    before = await stores.seen()
    async with open_stores(stores.url) as again:
        assert await again.seen() == before
        await again.registry.disable_agent(AgentId("acme", "other"), NOW)
    assert await stores.seen() > before
