"""Registered agents and their bindings, from the configuration and the store, as one view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from twogate.core.principal import Agent, AgentId, Binding


class RegistryState(msgspec.Struct, frozen=True):
    """What the store knows of agents: those added there, their bindings, and every disabled one."""

    agents: Mapping[AgentId, Agent]
    bindings: Mapping[Binding, AgentId]
    disabled: frozenset[AgentId]


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


class Revision(Protocol):
    """Tells, cheaply and synchronously, whether security state changed since it was last asked."""

    def current(self) -> int:
        """A number that grows whenever an agent, binding or session was changed by any process.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...
