"""Agents, bindings, disabled agents and a look at revocations in SQL; implements `flows.registry.RegistryStore`."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import RowMapping, Table, delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from twogate.core.errors import ErrorCode, GateError
from twogate.core.principal import Agent, AgentId, Binding, Method
from twogate.flows.registry import RegistryState
from twogate.stores.sql.engine import insert_if_absent, reading
from twogate.stores.sql.revision import bump, changing
from twogate.stores.sql.tables import agents, bindings, disabled_agents, revocations


class SqlRegistryStore:
    """Keeps the agents that the command line added, and which agents are disabled, configured ones too."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def load(self) -> RegistryState:
        """Everything, in one consistent read.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        async with reading(self._engine) as connection:
            disabled = frozenset(_agent_id(row) for row in await _rows(connection, disabled_agents))
            registered = [_agent(row, disabled) for row in await _rows(connection, agents)]
            bound = {_binding(row): _agent_id(row) for row in await _rows(connection, bindings)}
            # Whoever revokes also deletes what has expired, so the table is never longer than what was in force then.
            found = await connection.execute(select(revocations.c.kind, revocations.c.value))
            revoked = frozenset((row.kind, row.value) for row in found)
        return RegistryState({agent.id: agent for agent in registered}, bound, disabled, revoked)

    async def add_agent(self, agent: Agent, bindings: Sequence[Binding], now: int) -> None:
        """Add an agent with its bindings; all or nothing. That it is disabled is not part of adding it.

        Raises:
            GateError: REQUEST_MALFORMED if the agent or a binding exists already; STORE_UNAVAILABLE.
        """
        conflict = GateError(ErrorCode.REQUEST_MALFORMED, f"agent {agent.id} or one of its bindings exists already")
        async with changing(self._engine, conflict) as connection:
            await insert_agent(connection, agent, now)
            await insert_bindings(connection, agent.id, bindings)
            await bump(connection)

    async def disable_agent(self, agent: AgentId, now: int) -> bool:
        """Disable an agent, whoever defined it; in force everywhere on return. False if it was disabled already.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        async with changing(self._engine) as connection:
            disabled = await insert_if_absent(
                connection, disabled_agents, tenant=agent.tenant, agent=agent.agent, disabled_at=now
            )
            if disabled:
                await bump(connection)
        return disabled

    async def enable_agent(self, agent: AgentId) -> bool:
        """Let a disabled agent in again; in force everywhere on return. False if it was not disabled.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        columns = disabled_agents.c
        removed = delete(disabled_agents).where(columns.tenant == agent.tenant, columns.agent == agent.agent)
        async with changing(self._engine) as connection:
            found = await connection.execute(removed.returning(columns.agent))
            enabled = found.one_or_none() is not None
            if enabled:
                await bump(connection)
        return enabled


async def insert_agent(connection: AsyncConnection, agent: Agent, now: int) -> None:
    """Insert an agent in the caller's transaction; the caller bumps the revision."""
    if agent.concurrent_tasks < 1 or (agent.default_task is not None and agent.default_task not in agent.tasks):
        raise GateError(
            ErrorCode.REQUEST_MALFORMED, f"agent {agent.id} needs concurrent_tasks >= 1 and a default task it lists"
        )
    await connection.execute(
        insert(agents).values(
            tenant=agent.id.tenant,
            agent=agent.id.agent,
            role=agent.role,
            tasks=msgspec.json.encode(agent.tasks).decode(),
            default_task=agent.default_task,
            concurrent_tasks=agent.concurrent_tasks,
            created_at=now,
        )
    )


async def insert_bindings(connection: AsyncConnection, agent: AgentId, new: Sequence[Binding]) -> None:
    """Insert an agent's bindings in the caller's transaction; the caller bumps the revision."""
    for binding in new:
        await connection.execute(
            insert(bindings).values(
                method=binding.method.value,
                issuer=binding.issuer,
                identifier=binding.identifier,
                tenant=agent.tenant,
                agent=agent.agent,
            )
        )


async def _rows(connection: AsyncConnection, table: Table) -> Sequence[RowMapping]:
    return (await connection.execute(select(table))).mappings().all()


def _agent_id(row: RowMapping) -> AgentId:
    return AgentId(row["tenant"], row["agent"])


def _agent(row: RowMapping, disabled: frozenset[AgentId]) -> Agent:
    agent = _agent_id(row)
    return Agent(
        id=agent,
        role=row["role"],
        tasks=msgspec.json.decode(row["tasks"], type=tuple[str, ...]),
        default_task=row["default_task"],
        concurrent_tasks=row["concurrent_tasks"],
        disabled=agent in disabled,
    )


def _binding(row: RowMapping) -> Binding:
    return Binding(Method(row["method"]), row["issuer"], row["identifier"])
