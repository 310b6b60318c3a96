"""Registered agents and their bindings, from the configuration and the store, as one view."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.principal import Agent, AgentId, Binding


class RegistryState(msgspec.Struct, frozen=True):
    """What the store knows of agents: those added there, their bindings, and every disabled one.

    `revoked` is what no token of the embedded server may come from any more (`flows.authserver.revocations`).
    """

    agents: Mapping[AgentId, Agent]
    bindings: Mapping[Binding, AgentId]
    disabled: frozenset[AgentId]
    revoked: frozenset[tuple[str, str]] = frozenset()


class RegistryStore(Protocol):
    """Keeps agents added by the command line, and which agents are disabled (configured ones too)."""

    async def load(self) -> RegistryState:
        """Everything, in one consistent read."""
        ...

    async def add_agent(self, agent: Agent, bindings: Sequence[Binding], now: int) -> None:
        """Add an agent with its bindings; all or nothing.

        Raises:
            GateError: REQUEST_MALFORMED if the agent or a binding exists already.
        """
        ...

    async def disable_agent(self, agent: AgentId, now: int) -> bool:
        """Disable an agent, whoever defined it. False if it was disabled already."""
        ...

    async def enable_agent(self, agent: AgentId) -> bool:
        """Let a disabled agent in again. False if it was not disabled."""
        ...


class Revision(Protocol):
    """Tells, cheaply, whether security state changed since it was last asked.

    The number is another one whenever an agent, binding, session or revocation was changed by any process.
    """

    def current(self) -> int | None:
        """The number as of now, without waiting; None if only `read` can tell.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def read(self) -> int:
        """The number as of now, by asking the store.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...


def check_definitions(
    state: RegistryState, agents: Mapping[AgentId, Agent], bindings: Mapping[Binding, AgentId]
) -> None:
    """See that configuration and store do not define the same agent or binding (DESIGN decision 1).

    Raises:
        GateError: REQUEST_MALFORMED, naming what is defined twice.
    """
    for agent in state.agents.keys() & agents.keys():
        raise GateError(
            ErrorCode.REQUEST_MALFORMED,
            f"agent {agent} is declared in the configuration and was added by `twogate agent add` too; rename one",
        )
    for binding in state.bindings.keys() & bindings.keys():
        raise GateError(
            ErrorCode.REQUEST_MALFORMED,
            f"{binding.identifier!r} of {binding.issuer} is bound to {bindings[binding]} in the configuration and to "
            f"{state.bindings[binding]} in the store; one credential is one agent",
        )


class RegistryView(msgspec.Struct, frozen=True):
    """Every agent, disabled ones marked, every binding, and what was revoked, as of one revision.

    `revoked` are pairs of kind and value: of tokens, grants, clients and users of the embedded server alone.
    """

    revision: int
    agents: Mapping[AgentId, Agent]
    bindings: Mapping[Binding, AgentId]
    revoked: frozenset[tuple[str, str]] = frozenset()


class Registry:
    """The current view, read again whenever the store's revision moved.

    Asking costs one look at the revision; a change by any process holds for the next call of `view`.
    """

    def __init__(
        self,
        store: RegistryStore,
        revision: Revision,
        agents: Mapping[AgentId, Agent],
        bindings: Mapping[Binding, AgentId],
    ) -> None:
        self._store = store
        self._revision = revision
        self._agents = agents
        self._bindings = bindings
        self._lock = asyncio.Lock()
        self._view: RegistryView | None = None

    async def view(self) -> RegistryView:
        """The agents and bindings as of now.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        revision = self._revision.current()
        if revision is None:
            revision = await self._revision.read()
        view = self._view
        if view is not None and view.revision == revision:
            return view
        async with self._lock:
            view = self._view
            if view is None or view.revision != revision:
                # The revision was read before the rows: should they be newer, the next call reads once more.
                view = self._view = self._merge(revision, await self._store.load())
            return view

    async def agent(self, agent: AgentId) -> Agent | None:
        """An agent as of now, disabled or not.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        return (await self.view()).agents.get(agent)

    def _merge(self, revision: int, state: RegistryState) -> RegistryView:
        # At the start nothing was defined twice; should a row appear later, the configuration wins.
        agents = {**state.agents, **self._agents}
        for agent_id in state.disabled & agents.keys():
            agents[agent_id] = msgspec.structs.replace(agents[agent_id], disabled=True)
        bindings = {**state.bindings, **self._bindings}
        return RegistryView(revision, MappingProxyType(agents), MappingProxyType(bindings), state.revoked)
