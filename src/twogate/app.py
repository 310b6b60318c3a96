"""The composition root: where flows meet adapters and HTTP, over the state that `state.py` opens."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog
from starlette.applications import Starlette

from twogate.adapters.clock import SystemClock
from twogate.adapters.envelope import KEY_FILE, LocalEnvelope
from twogate.adapters.fetch import GuardedFetch
from twogate.adapters.jwks_file import FileKeys
from twogate.adapters.refusal_log import RefusalLog
from twogate.adapters.signers.local import LocalSecret, LocalSigner
from twogate.authserver import Parts, authserver_routes
from twogate.config import Settings
from twogate.config.issuer_keys import KeyPlace, key_places
from twogate.config.issuers import embedded_issuer, trusted_issuer
from twogate.config.policy import compile_policy, configured_agents
from twogate.config.settings import HttpServer, StdioServer
from twogate.core.audit.accessor import Accessors
from twogate.core.jose.keys import parse_jwks
from twogate.core.oauth.resource import SESSIONS_PATH, server_path
from twogate.flows.authserver.device import DeviceLimits
from twogate.flows.authserver.dpop import DpopProofs
from twogate.flows.authserver.jwks import jwks_document
from twogate.flows.authserver.workloads import with_workloads
from twogate.flows.declare import DeclareTask
from twogate.flows.environment import Clock
from twogate.flows.gateway.authenticate import Authenticator
from twogate.flows.gateway.catalogue import Catalogue
from twogate.flows.gateway.forward import Forwarder, Server
from twogate.flows.gateway.identify import Identifier
from twogate.flows.gateway.issuers import FixedKeys, Issuers, KeySource, RemoteKeys, TrustedIssuer
from twogate.flows.gateway.limit import AddressLimit, CallRates, Rate, UnderWay
from twogate.flows.gateway.pipeline import Pipeline
from twogate.flows.gateway.possession import Possession
from twogate.flows.gateway.record import Recorder
from twogate.flows.gateway.seal import Seal
from twogate.flows.gateway.upstream import Upstream
from twogate.flows.registry import Registry
from twogate.flows.sessions import Sessions
from twogate.introspectors import introspectors
from twogate.sandboxes import sandbox_plan
from twogate.state import State
from twogate.upstreams import open_upstream
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
    legacy: LegacyStreams
    new_fetch: Callable[[Clock], GuardedFetch]
    """Makes one for each generation: it remembers what CA files held."""
    device_limits: DeviceLimits
    draining: asyncio.Event
    """Set when the process begins to stop: what is long-lived ends itself then."""


class Application(RootApp):
    """Every face of one process: data plane, authorization server, sessions, health."""

    def __init__(self, process: Process, generation: Generation) -> None:
        refusals = process.refusals

        async def start() -> None:
            process.state.revision.start()
            refusals.start()

        super().__init__(
            generation,
            refusals=refusals,
            clock=process.state.clock,
            on_refusal=lambda address, code: refusals.note(address, code, "HTTP"),
            start=start,
            stop=refusals.close,
        )
        self._process = process
        self.draining = process.draining

    def build_next(self, settings: Settings) -> Generation:
        """The generation of other settings, to be adopted or thrown away; safe to call in a thread.

        It takes over the connections to the servers, and the keys of the issuers, whose settings are the same.

        Raises:
            OSError: a CA file cannot be read.
        """
        return _build_generation(self._process, settings, self.current)


def build_app(state: State, new_fetch: Callable[[Clock], GuardedFetch] = GuardedFetch) -> Application:
    """Wire a process over its opened state. `new_fetch` is for compositions with a resolver of their own.

    Raises:
        KeyFileError: a key file is missing its protection.
        OSError: a CA file cannot be read.
    """
    keys_directory = state.settings.state_directory / "keys"
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
        legacy=LegacyStreams(state.rng),
        new_fetch=new_fetch,
        device_limits=DeviceLimits(),
        draining=asyncio.Event(),
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
    limit, under_way, streams = _limits(settings, last)
    rates = _rates(settings, last)
    authorities = _authorities(settings)
    upstreams = _upstreams(settings, clock, authorities, last)
    fetch = process.new_fetch(clock)
    keys = _keys(settings, process.signer, clock, fetch, authorities, last)
    servers = {name: _server(upstream, settings.servers[name]) for name, upstream in upstreams.items()}
    catalogue = Catalogue(servers, clock)
    superseded = asyncio.Event()
    closing = (process.draining, superseded)
    issuers = Issuers(_trusted(settings, process.signer), keys, introspectors(settings, fetch, clock))
    authenticator = Authenticator(issuers, process.accessors)
    possession = Possession(DpopProofs(settings.public_url, state.replay, process.page_secret))
    sessions = Sessions(state.sessions, state.revision, lambda: policy, state.audit, clock, state.rng)
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
        recorder=process.recorder,
        catalogue=catalogue,
        seal=process.seal,
        forwarder=Forwarder(
            servers,
            process.recorder,
            process.seal,
            policy,
            catalogue.note_changed,
            closing,
            Identifier(settings.public_url, process.signer, clock, state.rng),
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

    async def ready() -> None:
        await registry.view()
        state.audit.check()

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
                )
            ),
            *session_routes(declare, settings.public_url, scopes),
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


def _server(upstream: Upstream, server: HttpServer | StdioServer) -> Server:
    identified = isinstance(server, HttpServer) and server.identity
    return Server(upstream, server.timeout, frozenset(server.client_requests), identified)


def edge_limits(settings: Settings) -> EdgeLimits:
    """The caps of the HTTP edge, from the settings."""
    return EdgeLimits(
        max_body_bytes=settings.limits.body + 64 * 1024,
        max_connections=settings.limits.connections,
        max_connections_per_address=settings.limits.connections_per_address,
    )


def _limits(settings: Settings, last: Generation | None) -> tuple[AddressLimit, UnderWay, UnderWay]:
    """The limits, with what is counted already: a reload frees nobody."""
    limits = settings.limits
    limit = AddressLimit(rate=limits.requests, burst=limits.burst)
    if last is None:
        return limit, UnderWay(limits.calls_per_agent), UnderWay(limits.streams_per_agent)
    under_way = last.under_way.resized(limits.calls_per_agent)
    streams = last.streams.resized(limits.streams_per_agent)
    before = last.settings.limits
    if (before.requests, before.burst) == (limits.requests, limits.burst):
        limit = last.limit
    return limit, under_way, streams


def _rates(settings: Settings, last: Generation | None) -> CallRates:
    """How often agents, their tools and tenants may be served, with what is counted already."""
    limits = settings.limits
    agent, tool, tenant = (
        None if rate is None else Rate(rate.rate, rate.burst) for rate in (limits.agent, limits.tool, limits.tenant)
    )
    if last is None:
        return CallRates(agent=agent, tool=tool, tenant=tenant)
    return last.rates.successor(agent=agent, tool=tool, tenant=tenant)


def _authorities(settings: Settings) -> dict[Path, bytes]:
    """The digest of every CA file in use."""
    files = {server.ca for server in settings.servers.values() if isinstance(server, HttpServer)}
    files |= {place.ca for place in key_places(settings).values()}
    return {file: hashlib.sha256(file.read_bytes()).digest() for file in files if file is not None}


def _upstreams(
    settings: Settings, clock: SystemClock, authorities: Mapping[Path, bytes], last: Generation | None
) -> dict[str, Upstream]:
    def opened(name: str) -> Upstream:
        if last is not None and _same_server(name, settings, authorities, last):
            return last.upstreams[name]
        return open_upstream(name, settings, clock, lambda server, line: log.info("stdio", server=server, line=line))

    return {name: opened(name) for name in settings.servers}


def _same_server(name: str, settings: Settings, authorities: Mapping[Path, bytes], last: Generation) -> bool:
    server, before = settings.servers[name], last.settings.servers.get(name)
    # All but what is asked anew for each call. A setting that this line does not know makes a new connection.
    per_call = {"timeout", "client_requests", "identity"}
    if before is None or server.model_dump(exclude=per_call) != before.model_dump(exclude=per_call):
        return False
    if isinstance(server, StdioServer) and isinstance(before, StdioServer):
        # Other settings may name a new secret, which its sandbox then has to hide.
        return sandbox_plan(server, settings) == sandbox_plan(before, last.settings)
    ca = server.ca if isinstance(server, HttpServer) else None
    return ca is None or authorities[ca] == last.authorities.get(ca)


def _keys(
    settings: Settings,
    signer: LocalSigner,
    clock: SystemClock,
    fetch: GuardedFetch,
    authorities: Mapping[Path, bytes],
    last: Generation | None,
) -> dict[str, KeySource]:
    before: Mapping[str, KeyPlace] = {} if last is None else key_places(last.settings)
    keys: dict[str, KeySource] = {}
    for name, place in key_places(settings).items():
        known = before.get(name) == place
        if last is not None and known and (place.ca is None or authorities[place.ca] == last.authorities[place.ca]):
            # Fetching anew would let a reload, or many of them, burden the issuer, and fail while it is away.
            keys[name] = last.keys[name]
        elif place.jwks_file is not None:
            keys[name] = FileKeys(place.jwks_file, place.uses)
        else:
            keys[name] = RemoteKeys(place.issuer, place.jwks_uri, place.ca, fetch, clock, place.uses)
    if settings.embedded.enabled:
        keys[settings.public_url] = FixedKeys(parse_jwks(jwks_document([signer.public_jwk()])))
    return keys


def _trusted(settings: Settings, signer: LocalSigner) -> dict[str, TrustedIssuer]:
    trusted: dict[str, TrustedIssuer] = {}
    for issuer in settings.issuers:
        trusted[issuer.issuer] = trusted_issuer(issuer, settings.public_url)
    if settings.embedded.enabled:
        trusted[settings.public_url] = embedded_issuer(
            settings.public_url,
            signer.algorithm,
            settings.tenants,
            settings.roles,
            settings.embedded.lifetimes.access_token,
        )
    return trusted
