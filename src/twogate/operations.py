"""The composition of operation tokens: who issues them, and the calls that they let start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
from starlette.routing import Route

from twogate.adapters.refusal_log import RefusalLog
from twogate.adapters.signers.local import LocalSigner
from twogate.config import Settings
from twogate.config.client_records import configured_clients
from twogate.config.tenants import tenant_tools
from twogate.core.access import Policy
from twogate.core.audit.accessor import Accessors
from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.errors import GateError
from twogate.core.jose.keys import parse_jwks
from twogate.core.oauth.resource import OPERATIONS_PATH, server_path
from twogate.core.operation import DEFAULT_LIFETIME
from twogate.flows.authserver.directory import Directory
from twogate.flows.authserver.jwks import jwks_document
from twogate.flows.gateway.issuers import Issuers
from twogate.flows.gateway.operation import Operations, OwnKeys
from twogate.flows.gateway.possession import Possession
from twogate.flows.list_sessions import Hosts
from twogate.flows.operations.mint import MintSettings, MintToken
from twogate.flows.operations.minter import Minters
from twogate.flows.operations.store import Lost
from twogate.flows.registry import Registry
from twogate.state import State
from twogate.stores.sql.operations import SqlOperationStore
from twogate.stores.sql.revision import call_the_roll
from twogate.stores.sql.users import SqlUserStore
from twogate.web.operations import operation_routes

log = structlog.get_logger("twogate")


@dataclass(frozen=True)
class OperationParts:
    """What operation tokens take from the process and the generation around them."""

    state: State
    settings: Settings
    policy: Policy
    registry: Registry
    signer: LocalSigner
    accessors: Accessors
    issuers: Issuers
    possession: Possession
    refusals: RefusalLog
    owner: str
    """This process, as the store knows who started what."""


def process_name(state: State) -> str:
    """How the store knows this process: as a replica where there are several, else by a name of its own."""
    return state.revision.replica or state.rng.token(12).hex()


def open_operations(parts: OperationParts, asks: Callable[[str], frozenset[str]]) -> Operations:
    """What lets calls with tokens start; `asks` is `Forwarder.asks`."""
    state, public_url, signer = parts.state, parts.settings.public_url, parts.signer
    own = OwnKeys(public_url, parse_jwks(jwks_document([signer.public_jwk()])), frozenset([signer.algorithm]))
    return Operations(
        own,
        lambda server: public_url + server_path(server),
        asks,
        SqlOperationStore(state.engine),
        parts.registry,
        state.clock,
        state.rng,
        parts.owner,
    )


def minting_routes(parts: OperationParts, mint: MintToken | None) -> list[Route]:
    """Where tokens are issued over HTTP."""
    return [] if mint is None else operation_routes(mint, parts.settings.public_url)


def open_mint(parts: OperationParts) -> MintToken | None:
    """What issues tokens; None without the embedded server, since nobody could be a minter."""
    settings, state = parts.settings, parts.state
    if not settings.embedded.enabled:
        return None
    public_url, people = settings.public_url, SqlUserStore(state.engine)
    minters = Minters(
        public_url + OPERATIONS_PATH,
        parts.issuers.only(public_url),
        parts.possession,
        parts.registry,
        _clients(parts),
        people,
        state.replay,
        parts.accessors,
    )

    def lifetime(tenant: str, entry: str) -> int:
        tool = tenant_tools(settings, tenant).get(entry)
        return DEFAULT_LIFETIME if tool is None else tool.token_lifetime

    return MintToken(
        settings=MintSettings(public_url, parts.policy, lifetime),
        minters=minters,
        sessions=state.sessions,
        registry=parts.registry,
        people=people,
        signer=parts.signer,
        accessors=parts.accessors,
        audit=state.audit,
        refusals=parts.refusals,
        clock=state.clock,
        rng=state.rng,
    )


def open_hosts(parts: OperationParts) -> Hosts | None:
    """What tells hosts; None without the embedded server."""
    if not parts.settings.embedded.enabled:
        return None
    return Hosts(parts.issuers.only(parts.settings.public_url), _clients(parts))


async def give_up_lost(state: State, owner: str) -> None:
    """Give up the calls of processes that are gone. What cannot be given up now never runs again all the same.

    A process that was killed a moment ago still has its lease on PostgreSQL, so the roll is called first if it matters.
    """
    store = SqlOperationStore(state.engine)

    async def announce(lost: Sequence[Lost]) -> None:
        for one in lost:
            detail = f"operation {one.jti}: its process is gone, and it may have run"
            await state.audit.append(
                AuditEvent(kind=EventKind.OPERATION_LOST, at=state.clock.now_us(), tenant=one.tenant, detail=detail)
            )

    try:
        if await store.started_elsewhere(owner):
            await call_the_roll(state.engine)
        lost = await store.give_up(owner, state.clock.now(), announce)
    except GateError as error:
        log.warning("operations_not_given_up", reason=error.code.value)
        return
    if lost:
        log.warning("operations_lost", count=len(lost))


def _clients(parts: OperationParts) -> Directory:
    # No documents: nobody who comes with one may issue tokens.
    return Directory(parts.state.clients, configured_clients(parts.settings))
