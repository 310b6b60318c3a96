"""The composition root: where flows meet adapters and HTTP, over the state that `state.py` opens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import structlog
from starlette.applications import Starlette

from twogate.adapters.argument_schema import ArgumentSchema
from twogate.adapters.envelope import KEY_FILE, LocalEnvelope
from twogate.adapters.fetch import GuardedFetch
from twogate.adapters.refusal_log import RefusalLog
from twogate.adapters.signers.local import LocalSecret, LocalSigner
from twogate.approvals import open_waiting
from twogate.authserver import Parts, authserver_routes
from twogate.carried import (
    authorities_in_use,
    carried_keys,
    carried_limits,
    carried_rates,
    carried_upstreams,
    trusted_issuers,
)
from twogate.config import Settings
from twogate.config.approval_rules import approval_rules
from twogate.config.client_records import configured_clients
from twogate.config.pins import approval_required, arguments_validated
from twogate.config.policy import compile_policy, configured_agents
from twogate.config.servers import HttpServer, LibraryServer, StdioServer
from twogate.console import Shown
from twogate.core.audit.accessor import Accessors
from twogate.core.oauth.resource import SESSIONS_PATH, server_path
from twogate.flows.authserver.device import DeviceLimits
from twogate.flows.authserver.dpop import DpopProofs
from twogate.flows.authserver.workloads import with_workloads
from twogate.flows.declare import DeclareTask
from twogate.flows.environment import Clock
from twogate.flows.gateway.approval_elicited import Elicited
from twogate.flows.gateway.arguments import ArgumentChecks
from twogate.flows.gateway.authenticate import Authenticator
from twogate.flows.gateway.catalogue import Catalogue
from twogate.flows.gateway.forward import Forwarder, Server
from twogate.flows.gateway.identify import Identifier
from twogate.flows.gateway.issuers import Issuers
from twogate.flows.gateway.pins import PinBook
from twogate.flows.gateway.pipeline import Pipeline
from twogate.flows.gateway.possession import Possession
from twogate.flows.gateway.record import Recorder
from twogate.flows.gateway.seal import Seal
from twogate.flows.gateway.tool_check import ToolCheck
from twogate.flows.gateway.upstream import Upstream
from twogate.flows.list_sessions import ListSessions
from twogate.flows.registry import Registry
from twogate.flows.sessions import Sessions
from twogate.introspectors import introspectors
from twogate.notices import Clockwork
from twogate.operations import (
    OperationParts,
    give_up_lost,
    minting_routes,
    open_hosts,
    open_mint,
    open_operations,
    process_name,
)
from twogate.policies import conditions_of
from twogate.state import State
from twogate.stores.sql.pins import SqlPinStore
from twogate.web.edge_limits import EdgeLimits
from twogate.web.gateway import GatewayApp
from twogate.web.generation import Generation
from twogate.web.legacy import LegacyStreams
from twogate.web.root import RootApp, health_routes, plain_refusals
from twogate.web.sessions import session_routes

log = structlog.get_logger("twogate")


@dataclass(frozen=True)
class Process:
    """What every configuration generation of one process shares, and what outlives each of them."""

    state: State
    signer: LocalSigner
    accessors: Accessors
    seal: Seal
    envelope: LocalEnvelope
    page_secret: bytes
    refusals: RefusalLog
    recorder: Recorder
    pins: PinBook
    arguments: ArgumentChecks
    legacy: LegacyStreams
    new_fetch: Callable[[Clock], GuardedFetch]
    """Makes one for each generation: it remembers what CA files held."""
    device_limits: DeviceLimits
    elicited: Elicited
    draining: asyncio.Event
    """Set when the process begins to stop: what is long-lived ends itself then."""
    guarded: Mapping[str, Upstream]
    """The servers within this process, by name (library mode)."""
    name: str
    """How the store knows this process."""


class Application(RootApp):
    """Every face of one process: data plane, authorization server, sessions, health."""

    def __init__(self, process: Process, generation: Generation) -> None:
        refusals = process.refusals

        async def start() -> None:
            process.state.revision.start()
            refusals.start()
            await give_up_lost(process.state, process.name)
            clockwork.start()

        async def stop() -> None:
            await clockwork.close()
            await refusals.close()

        super().__init__(
            generation,
            refusals=refusals,
            clock=process.state.clock,
            on_refusal=lambda address, code: refusals.note(address, code, "HTTP"),
            start=start,
            stop=stop,
        )
        clockwork = Clockwork(process.state, lambda: self.current.settings, process.new_fetch, process.envelope)
        self._process = process
        self.state = process.state
        self.draining = process.draining

    def build_next(self, settings: Settings) -> Generation:
        """The generation of other settings, to be adopted or thrown away; safe to call in a thread.

        It takes over the connections to the servers, and the keys of the issuers, whose settings are the same.

        Raises:
            OSError: a CA file cannot be read.
        """
        return _build_generation(self._process, settings, self.current)


def build_app(
    state: State,
    new_fetch: Callable[[Clock], GuardedFetch] = GuardedFetch,
    guarded: Mapping[str, Upstream] = MappingProxyType({}),
) -> Application:
    """Wire a process over its opened state. `new_fetch` is for compositions with a resolver of their own.

    `guarded` are the servers within this process, by name (library mode).

    Raises:
        KeyFileError: a key file is missing its protection.
        OSError: a CA file cannot be read.
    """
    keys_directory = state.settings.state_directory / "keys"
    pins = PinBook(SqlPinStore(state.engine), state.revision, state.audit, state.clock)
    accessors = Accessors("a1", LocalSecret.open(keys_directory, "accessors.key"))
    process = Process(
        state=state,
        signer=LocalSigner.open(keys_directory),
        accessors=accessors,
        seal=Seal(LocalSecret.open(keys_directory, "mcp-sessions.key")),
        envelope=LocalEnvelope(LocalSecret.open(keys_directory, KEY_FILE), state.rng),
        page_secret=LocalSecret.open(keys_directory, "pages.key"),
        refusals=RefusalLog(state.audit, state.clock),
        recorder=Recorder(state.audit, accessors, state.clock, state.rng),
        pins=pins,
        arguments=ArgumentChecks(pins, ArgumentSchema),
        legacy=LegacyStreams(state.rng),
        new_fetch=new_fetch,
        device_limits=DeviceLimits(),
        elicited=Elicited(),
        draining=asyncio.Event(),
        guarded=guarded,
        name=process_name(state),
    )
    return Application(process, _build_generation(process, state.settings, None))


def _build_generation(process: Process, settings: Settings, last: Generation | None) -> Generation:
    """Wire the faces of one configuration. Nothing is connected, started or changed yet."""
    state, refusals, clock = process.state, process.refusals, process.state.clock
    policy = compile_policy(settings)
    agents, bindings = configured_agents(settings)
    platforms = [item.issuer for item in settings.workloads]
    registry = Registry(
        state.registry_store, state.revision, agents, with_workloads(bindings, platforms, settings.public_url)
    )
    limit, under_way, streams = carried_limits(settings, last)
    rates = carried_rates(settings, None if state.shared is None else state.shared.buckets, last)
    authorities = authorities_in_use(settings)
    upstreams = carried_upstreams(settings, clock, authorities, process.envelope, process.guarded, last)
    fetch = process.new_fetch(clock)
    keys = carried_keys(settings, process.signer, clock, fetch, authorities, last)
    servers = {name: _server(upstream, settings.servers[name]) for name, upstream in upstreams.items()}
    catalogue = Catalogue(servers, clock)
    required, validated = approval_required(settings), arguments_validated(settings)
    superseded = asyncio.Event()
    closing = (process.draining, superseded)
    issuers = Issuers(trusted_issuers(settings, process.signer), keys, introspectors(settings, fetch, clock))
    authenticator = Authenticator(issuers, process.accessors)
    possession = Possession(DpopProofs(settings.public_url, state.replay, process.page_secret), state.replay)
    sessions = Sessions(state.sessions, state.revision, lambda: policy, state.audit, clock, state.rng)
    operations = OperationParts(
        state=state,
        settings=settings,
        policy=policy,
        registry=registry,
        signer=process.signer,
        accessors=process.accessors,
        issuers=issuers,
        possession=possession,
        refusals=refusals,
        owner=process.name,
    )
    forwarder = Forwarder(
        servers,
        process.recorder,
        process.seal,
        policy,
        catalogue.note_changed,
        closing,
        Identifier(settings.public_url, process.signer, clock, state.rng),
        process.pins,
        required,
        remembers=any(approval_rules(settings).values()),
    )
    tokens, mint = open_operations(operations, forwarder.asks), open_mint(operations)
    pipeline = Pipeline(
        resource=lambda server: settings.public_url + server_path(server),
        limit=limit,
        under_way=under_way,
        rates=rates,
        streams=streams,
        refusals=refusals,
        authenticator=authenticator,
        possession=possession,
        registry=registry,
        sessions=sessions,
        policy=policy,
        conditions=conditions_of(settings),
        recorder=process.recorder,
        tools=ToolCheck(process.pins, process.arguments, catalogue, required=required, validated=validated),
        seal=process.seal,
        forwarder=forwarder,
        operations=tokens,
        approvals=open_waiting(
            state,
            settings,
            policy,
            process.envelope,
            process.seal,
            process.recorder,
            tokens,
            forwarder.asks,
            elicited=process.elicited,
            closing=closing,
            draining=process.draining,
        ),
        clock=clock,
        max_body=settings.limits.body,
    )
    scopes = frozenset(settings.scopes)
    gateway = GatewayApp(
        pipeline,
        process.legacy,
        public_url=settings.public_url,
        allowed_origins=frozenset(settings.allowed_origins),
        scopes=scopes,
        closing=closing,
    )
    declare = DeclareTask(
        resource=settings.public_url + SESSIONS_PATH,
        authenticator=authenticator,
        possession=possession,
        registry=registry,
        sessions=sessions,
        refusals=refusals,
        clock=clock,
    )
    listing = ListSessions(
        resource=settings.public_url + SESSIONS_PATH,
        authenticator=authenticator,
        possession=possession,
        registry=registry,
        sessions=state.sessions,
        hosts=open_hosts(operations),
        refusals=refusals,
        clock=clock,
    )

    async def ready() -> None:
        await registry.view()
        state.audit.check()
        if state.shared is not None:
            await state.shared.check()

    control = Starlette(
        routes=[
            *authserver_routes(
                Parts(
                    state=state,
                    settings=settings,
                    policy=policy,
                    registry=registry,
                    sessions=sessions,
                    signer=process.signer,
                    refusals=refusals,
                    envelope=process.envelope,
                    page_secret=process.page_secret,
                    issuers=issuers,
                    fetch=fetch,
                    device_limits=process.device_limits,
                    seen=Shown(policy, registry, catalogue, process.pins, configured_clients(settings), closing, mint),
                )
            ),
            *session_routes(declare, listing, settings.public_url, scopes),
            *minting_routes(operations, mint),
            *health_routes(ready, process.draining.is_set, settings.public_url),
        ],
        exception_handlers=plain_refusals(settings.public_url),
    )
    # A redirect would be built from the request's Host.
    control.router.redirect_slashes = False
    return Generation(
        settings,
        gateway,
        control,
        limit,
        under_way,
        rates,
        streams,
        upstreams,
        keys,
        authorities,
        catalogue,
        superseded,
    )


def _server(upstream: Upstream, server: HttpServer | StdioServer | LibraryServer) -> Server:
    identified = isinstance(server, HttpServer) and server.identity
    return Server(upstream, server.timeout, frozenset(server.client_requests), identified)


def edge_limits(settings: Settings) -> EdgeLimits:
    """The caps of the HTTP edge, from the settings."""
    return EdgeLimits(
        max_body_bytes=settings.limits.body + 64 * 1024,
        max_connections=settings.limits.connections,
        max_connections_per_address=settings.limits.connections_per_address,
    )
