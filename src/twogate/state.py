"""Opening what the server and the command line share: the store, the registry over it, and the audit trail.

The other half of the composition root, apart from `app.py` because most commands need no HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from sqlalchemy.ext.asyncio import AsyncEngine

from twogate.adapters.audit_log import AuditLog
from twogate.adapters.clock import SystemClock
from twogate.adapters.rng import SystemRng
from twogate.config import Settings
from twogate.config.policy import configured_agents
from twogate.flows.authserver.clients import ReplayStore
from twogate.flows.authserver.directory import check_clients
from twogate.flows.registry import Registry, check_definitions
from twogate.stores.shared.opening import Shared, open_shared
from twogate.stores.sql.clients import SqlClientStore
from twogate.stores.sql.migrate import current_version, upgrade
from twogate.stores.sql.opening import OpenRevision, open_engine, open_revision
from twogate.stores.sql.registry import SqlRegistryStore
from twogate.stores.sql.replay import SqlReplayStore
from twogate.stores.sql.sessions import SqlSessionStore


@dataclass(frozen=True)
class Store:
    """The opened store, and the agents of configuration and store as one registry."""

    settings: Settings
    engine: AsyncEngine
    revision: OpenRevision
    registry_store: SqlRegistryStore
    sessions: SqlSessionStore
    clients: SqlClientStore
    replay: ReplayStore
    shared: Shared | None
    """What replicas share beside the database; None if that is the database itself."""
    registry: Registry
    clock: SystemClock
    rng: SystemRng

    async def close(self) -> None:
        """Let go of the database."""
        if self.shared is not None:
            await self.shared.aclose()
        await self.revision.aclose()
        await self.engine.dispose()


@dataclass(frozen=True)
class State(Store):
    """The store with an open audit trail: what it takes to change something or to serve."""

    audit: AuditLog

    async def close(self) -> None:
        """Write what is pending and let go of everything."""
        await self.audit.close()
        await super().close()


async def open_store(settings: Settings) -> Store:
    """Open the store, brought up to this version.

    Raises:
        GateError: STORE_UNAVAILABLE; REQUEST_MALFORMED if configuration and store define the same agent or binding;
            SHARED_UNAVAILABLE if what a Redis or Valkey server needs is missing here. It is not asked yet.
    """
    clock, rng = SystemClock(), SystemRng()
    shared = open_shared(settings, clock, rng)
    engine = open_engine(settings.store, password=settings.store_password, ca=settings.store_ca)
    try:
        await upgrade(engine)
        registry_store = SqlRegistryStore(engine)
        agents, bindings = configured_agents(settings)
        check_definitions(await registry_store.load(), agents, bindings)
        await check_clients(SqlClientStore(engine), settings.clients)
        revision = open_revision(engine, settings.store, clock, rng)
    except BaseException:
        await engine.dispose()
        raise
    return Store(
        settings=settings,
        engine=engine,
        revision=revision,
        registry_store=registry_store,
        sessions=SqlSessionStore(engine),
        clients=SqlClientStore(engine),
        replay=SqlReplayStore(engine) if shared is None else shared.replay,
        shared=shared,
        registry=Registry(registry_store, revision, agents, bindings),
        clock=clock,
        rng=rng,
    )


async def store_exists(settings: Settings) -> bool:
    """Whether the store was made already, by a command that needs one; asking does not make it.

    Raises:
        GateError: STORE_UNAVAILABLE.
    """
    if settings.store_path is not None:
        return settings.store_path.exists()
    engine = open_engine(settings.store, password=settings.store_password, ca=settings.store_ca)
    try:
        return await current_version(engine) is not None
    finally:
        await engine.dispose()


async def open_state(settings: Settings) -> State:
    """Open the store and the audit trail.

    Raises:
        GateError: as `open_store`; AUDIT_UNAVAILABLE.
    """
    store = await open_store(settings)
    try:
        audit = AuditLog(
            settings.state_directory / "audit",
            store.clock,
            store.rng,
            instance=settings.public_url,
            fsync=settings.audit.fsync,
            observe_until=settings.observe_until,
        )
    except BaseException:
        await store.close()
        raise
    return State(**{field.name: getattr(store, field.name) for field in fields(store)}, audit=audit)
