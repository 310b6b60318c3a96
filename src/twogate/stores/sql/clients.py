"""OAuth clients in SQL; implements `flows.authserver.clients.ClientStore`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

import msgspec
from sqlalchemy import RowMapping, and_, delete, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.grant_type import GrantType
from twogate.core.principal import Agent, AgentId, Binding
from twogate.flows.authserver.clients import Client, ClientAuth, ClientKind, ClientSource, SecretDigest
from twogate.stores.sql.engine import reading, writing
from twogate.stores.sql.registry import insert_agent, insert_bindings
from twogate.stores.sql.revision import bump, changing
from twogate.stores.sql.tables import bindings as bindings_table
from twogate.stores.sql.tables import clients, consents

TOUCH_EVERY: Final = 60
"""Seconds between two notes of a client's use, so that a busy client does not write on every token request."""


class SqlClientStore:
    """Keeps clients; of a secret it knows the digest only."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def get(self, client_id: str) -> Client | None:
        """The client of this id.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        async with reading(self._engine) as connection:
            rows = await connection.execute(select(clients).where(clients.c.client_id == client_id))
            row = rows.mappings().one_or_none()
            return None if row is None else client_of(row)

    async def add(self, client: Client, agent: Agent | None, bindings: Sequence[Binding], now: int) -> None:
        """Add a client with its agent (None if that exists) and the bindings that lead to it; all or nothing.

        It counts as created at `now`.

        Raises:
            GateError: REQUEST_MALFORMED if the client, the agent or a binding exists already; STORE_UNAVAILABLE.
            ValueError: the agent is not the client's.
        """
        if agent is not None and agent.id != client.agent:
            raise ValueError("the client acts as another agent")
        conflict = GateError(
            ErrorCode.REQUEST_MALFORMED, f"client {client.client_id}, its agent or one of its bindings exists already"
        )
        async with changing(self._engine, conflict) as connection:
            if agent is not None:
                await insert_agent(connection, agent, now)
            if client.agent is not None:
                await insert_bindings(connection, client.agent, bindings)
            await insert_client(connection, client, now)
            if agent is not None or bindings:
                await bump(connection)

    async def list(self, tenant: str | None = None) -> Sequence[Client]:
        """All clients, or a tenant's, oldest first.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        statement = select(clients).order_by(clients.c.created_at, clients.c.client_id)
        if tenant is not None:
            statement = statement.where(clients.c.tenant == tenant)
        async with reading(self._engine) as connection:
            return [client_of(row) for row in (await connection.execute(statement)).mappings()]

    async def of_agents(self, tenant: str, agents: Collection[str], most: int) -> Sequence[Client]:
        """A tenant's clients that act as one of these agents, the last used first.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        columns = clients.c
        used = func.coalesce(columns.last_used_at, columns.created_at)
        wanted = select(clients).where(columns.tenant == tenant, columns.agent.in_(sorted(agents)))
        async with reading(self._engine) as connection:
            rows = await connection.execute(wanted.order_by(used.desc(), columns.client_id).limit(most))
            return [client_of(row) for row in rows.mappings()]

    async def existing(self, client_ids: Collection[str]) -> Sequence[str]:
        """Those of the ids that are taken, in order.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        if not client_ids:
            return []
        statement = select(clients.c.client_id).where(clients.c.client_id.in_(sorted(client_ids)))
        async with reading(self._engine) as connection:
            return sorted((await connection.execute(statement)).scalars())

    async def remove(self, client_id: str, bindings: Sequence[Binding]) -> bool:
        """Remove a client, these bindings, and what people allowed it, in force everywhere on return.

        False if there was no such client.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        table = bindings_table.c
        async with changing(self._engine) as connection:
            gone = await connection.execute(
                delete(clients).where(clients.c.client_id == client_id).returning(clients.c.client_id)
            )
            removed = gone.one_or_none() is not None
            # Nobody has agreed to the next one that is given this id.
            await connection.execute(delete(consents).where(consents.c.client_id == client_id))
            for binding in bindings:
                same = and_(
                    table.method == binding.method.value,
                    table.issuer == binding.issuer,
                    table.identifier == binding.identifier,
                )
                await connection.execute(delete(bindings_table).where(same))
            if bindings:
                await bump(connection)
        return removed

    async def touch(self, client_id: str, now: int) -> None:
        """Note that the client was used, to the minute.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        used = clients.c.last_used_at
        async with writing(self._engine) as connection:
            await connection.execute(
                update(clients)
                .where(clients.c.client_id == client_id, or_(used.is_(None), used <= now - TOUCH_EVERY))
                .values(last_used_at=now)
            )


async def insert_client(connection: AsyncConnection, client: Client, now: int, registration: str = "") -> None:
    """Insert a client in the caller's transaction, as created at `now`; `registration` is JSON (`registrations`)."""
    await connection.execute(
        insert(clients).values(
            client_id=client.client_id,
            tenant=client.tenant,
            created_at=now,
            last_used_at=None,
            registration=registration,
            **changeable(client),
        )
    )


def changeable(client: Client) -> dict[str, object]:
    """The columns of what may change of a client."""
    return {
        "agent": "" if client.agent is None else client.agent.agent,
        "method": client.auth.value,
        "secret_digests": msgspec.json.encode(client.secret_digests).decode(),
        "jwks": client.jwks,
        "kind": client.kind.value,
        "grants": msgspec.json.encode(sorted(client.grants)).decode(),
        "name": client.name,
        "redirect_uris": msgspec.json.encode(client.redirect_uris).decode(),
        "source": client.source.value,
        "jwks_uri": client.jwks_uri,
        "expires_at": client.expires_at,
        "may_act": client.may_act,
        "agents": msgspec.json.encode(sorted(agent.agent for agent in client.agents)).decode(),
        "tools": msgspec.json.encode(sorted(client.tools)).decode(),
    }


def client_of(row: RowMapping) -> Client:
    """The client of a row."""
    return Client(
        client_id=row["client_id"],
        tenant=row["tenant"],
        agent=AgentId(row["tenant"], row["agent"]) if row["agent"] else None,
        auth=ClientAuth(row["method"]),
        secret_digests=msgspec.json.decode(row["secret_digests"], type=tuple[SecretDigest, ...]),
        jwks=row["jwks"],
        created_at=row["created_at"],
        last_used_at=row["last_used_at"],
        kind=ClientKind(row["kind"]),
        grants=msgspec.json.decode(row["grants"], type=frozenset[GrantType]),
        name=row["name"],
        redirect_uris=msgspec.json.decode(row["redirect_uris"], type=tuple[str, ...]),
        source=ClientSource(row["source"]),
        jwks_uri=row["jwks_uri"],
        expires_at=row["expires_at"],
        may_act=row["may_act"],
        agents=frozenset(AgentId(row["tenant"], name) for name in msgspec.json.decode(row["agents"], type=list[str])),
        tools=msgspec.json.decode(row["tools"], type=frozenset[str]),
    )
