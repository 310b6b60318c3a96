"""Opening the store, and the audit trail where something changes, for one command."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TypeVar

from twogate.config import Settings, load_settings
from twogate.config.policy import configured_agents
from twogate.core.principal import Agent, AgentId, Binding
from twogate.state import State, Store, open_state, open_store, store_exists

T = TypeVar("T")


def with_state(config: Path, use: Callable[[State], Awaitable[T]]) -> T:
    """Load the configuration, open store and audit trail, run `use`, close them.

    Raises:
        ConfigError, GateError: the command line's frame shows them.
    """

    async def run() -> T:
        state = await open_state(load_settings(config))
        try:
            return await use(state)
        finally:
            await state.close()

    return asyncio.run(run())


def with_store(settings: Settings, use: Callable[[Store], Awaitable[T]]) -> T:
    """Open the store, run `use`, close it: for commands that only look, and leave no trace on the audit trail.

    Raises:
        GateError: the command line's frame shows it.
    """

    async def run() -> T:
        store = await open_store(settings)
        try:
            return await use(store)
        finally:
            await store.close()

    return asyncio.run(run())


def known_agents(settings: Settings) -> tuple[Mapping[AgentId, Agent], Mapping[Binding, AgentId]]:
    """Every agent and binding: the configuration's, and the store's if there is a store already.

    Raises:
        GateError: the command line's frame shows it.
    """
    if not asyncio.run(store_exists(settings)):
        return configured_agents(settings)
    view = with_store(settings, lambda store: store.registry.view())
    return view.agents, view.bindings
