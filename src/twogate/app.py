"""The composition root: where flows meet adapters and HTTP, over the state that `state.py` opens."""

from __future__ import annotations

import structlog
from starlette.applications import Starlette
from starlette.routing import Route

from twogate.adapters.clock import SystemClock
from twogate.adapters.fetch import GuardedFetch
from twogate.adapters.refusal_log import RefusalLog
from twogate.adapters.signers.local import LocalSecret, LocalSigner
from twogate.adapters.upstream.http import HttpUpstream
from twogate.adapters.upstream.stdio import StdioUpstream
from twogate.adapters.upstream.stdio_process import StdioLimits
from twogate.config import Settings
from twogate.config.policy import compile_policy
from twogate.config.settings import HttpServer, StdioServer
from twogate.core.access import Policy
from twogate.core.audit.accessor import Accessors
from twogate.core.jose.keys import Algorithm, parse_jwks
from twogate.core.oauth.resource import SESSIONS_PATH, server_path, tenant_resources
from twogate.flows.authserver.jwks import jwks_document
from twogate.flows.authserver.metadata import build_documents
from twogate.flows.authserver.token import TokenEndpoint, TokenSettings
from twogate.flows.declare import DeclareTask
from twogate.flows.gateway.authenticate import Authenticator
from twogate.flows.gateway.forward import Forwarder, Server
from twogate.flows.gateway.issuers import ClaimPointers, FixedKeys, Issuers, KeySource, RemoteKeys, TrustedIssuer
from twogate.flows.gateway.limit import AddressLimit, UnderWay
from twogate.flows.gateway.pipeline import Pipeline
from twogate.flows.gateway.record import Recorder
from twogate.flows.gateway.upstream import Upstream
from twogate.flows.gateway.upstream_session import UpstreamSessions
from twogate.flows.sessions import Sessions
from twogate.state import State
from twogate.web.authserver import authserver_routes
from twogate.web.edge_limits import EdgeLimits
from twogate.web.gateway import GatewayApp
from twogate.web.root import RootApp, health_routes, plain_refusals
from twogate.web.sessions import session_routes
from twogate.web.wellknown import wellknown_routes

log = structlog.get_logger("twogate")


def build_app(state: State) -> RootApp:
    """Wire every face of one process: data plane, authorization server, sessions, health.

    Raises:
        KeyFileError: a key file is missing its protection.
    """
    settings, clock, rng = state.settings, state.clock, state.rng
    keys_directory = settings.state_directory / "keys"
    signer = LocalSigner.open(keys_directory)
    accessors = Accessors("a1", LocalSecret.open(keys_directory, "accessors.key"))
    sealed = UpstreamSessions(LocalSecret.open(keys_directory, "mcp-sessions.key"), rng)
    policy = compile_policy(settings)
    refusals = RefusalLog(state.audit, clock)
    limit = AddressLimit(rate=settings.limits.requests, burst=settings.limits.burst)
    upstreams = {name: _upstream(name, settings, clock) for name in settings.servers}
    fetch = GuardedFetch(clock)
    authenticator = Authenticator(_issuers(settings, signer, fetch, clock), accessors)
    sessions = Sessions(state.sessions, state.revision, lambda: policy, state.audit, clock, rng)
    recorder = Recorder(state.audit, accessors, clock, rng)
    pipeline = Pipeline(
        resource=lambda server: settings.public_url + server_path(server),
        limit=limit,
        under_way=UnderWay(settings.limits.calls_per_agent),
        refusals=refusals,
        authenticator=authenticator,
        registry=state.registry,
        sessions=sessions,
        policy=policy,
        recorder=recorder,
        sealed=sealed,
        forwarder=Forwarder(
            {name: Server(upstream, settings.servers[name].timeout) for name, upstream in upstreams.items()},
            recorder,
            sealed,
            policy,
        ),
        clock=clock,
        max_body=settings.limits.body,
    )
    scopes = frozenset(settings.scopes)
    gateway = GatewayApp(
        pipeline,
        public_url=settings.public_url,
        allowed_origins=frozenset(settings.allowed_origins),
        scopes=scopes,
    )
    declare = DeclareTask(
        resource=settings.public_url + SESSIONS_PATH,
        authenticator=authenticator,
        registry=state.registry,
        sessions=sessions,
        refusals=refusals,
        clock=clock,
    )

    async def ready() -> None:
        await state.registry.view()
        state.audit.check()

    async def start() -> None:
        refusals.start()

    async def stop() -> None:
        for upstream in upstreams.values():
            await upstream.aclose()
        await refusals.close()

    control = Starlette(
        routes=[
            *_authserver_routes(state, policy, signer, refusals),
            *session_routes(declare, settings.public_url, scopes),
            *health_routes(ready, settings.public_url),
        ],
        exception_handlers=plain_refusals(settings.public_url),
    )
    # A redirect would be built from the request's Host.
    control.router.redirect_slashes = False
    return RootApp(
        gateway,
        control,
        limit=limit,
        refusals=refusals,
        clock=clock,
        public_url=settings.public_url,
        on_refusal=lambda address, code: refusals.note(address, code, "HTTP"),
        start=start,
        stop=stop,
    )


def edge_limits(settings: Settings) -> EdgeLimits:
    """The caps of the HTTP edge, from the settings."""
    return EdgeLimits(
        max_body_bytes=settings.limits.body + 64 * 1024,
        max_connections=settings.limits.connections,
        max_connections_per_address=settings.limits.connections_per_address,
    )


def _issuers(settings: Settings, signer: LocalSigner, fetch: GuardedFetch, clock: SystemClock) -> Issuers:
    trusted: dict[str, TrustedIssuer] = {}
    keys: dict[str, KeySource] = {}
    for issuer in settings.issuers:
        trusted[issuer.issuer] = TrustedIssuer(
            issuer=issuer.issuer,
            algorithms=frozenset(Algorithm(algorithm) for algorithm in issuer.algorithms),
            types=frozenset(name.lower().removeprefix("application/") for name in issuer.types),
            tenants=frozenset(issuer.tenants),
            roles=frozenset(issuer.roles),
            pointers=ClaimPointers(**issuer.claims.model_dump()),
            max_lifetime=issuer.max_lifetime,
        )
        keys[issuer.issuer] = RemoteKeys(issuer.issuer, issuer.jwks_uri, issuer.ca, fetch, clock)
    if settings.embedded.enabled:
        trusted[settings.public_url] = TrustedIssuer(
            issuer=settings.public_url,
            algorithms=frozenset([signer.algorithm]),
            types=frozenset(["at+jwt"]),
            tenants=frozenset(settings.tenants),
            roles=frozenset(),
            pointers=ClaimPointers(agent="/client_id", tenant="/tenant", scope="/scope"),
            max_lifetime=settings.embedded.token_lifetime,
        )
        keys[settings.public_url] = FixedKeys(parse_jwks(jwks_document([signer.public_jwk()])))
    return Issuers(trusted, keys)


def _upstream(name: str, settings: Settings, clock: SystemClock) -> Upstream:
    match settings.servers[name]:
        case HttpServer(url=url, ca=ca):
            return HttpUpstream(url, ca_file=ca)
        case StdioServer(command=command, cwd=cwd, env=env):
            return StdioUpstream(
                command,
                cwd=cwd,
                environment=env,
                limits=StdioLimits(),
                name=name,
                clock=clock,
                log=lambda server, line: log.info("stdio", server=server, line=line),
            )


def _authserver_routes(state: State, policy: Policy, signer: LocalSigner, refusals: RefusalLog) -> list[Route]:
    settings = state.settings
    resources = tenant_resources(
        settings.public_url, {tenant: entry.servers for tenant, entry in policy.tenants.items()}
    )
    issuers = [issuer.issuer for issuer in settings.issuers]
    routes: list[Route] = []
    if settings.embedded.enabled:
        issuers.insert(0, settings.public_url)
        endpoint = TokenEndpoint(
            TokenSettings(settings.public_url, resources, frozenset(settings.scopes), settings.embedded.token_lifetime),
            state.clients,
            state.replay,
            state.registry,
            signer,
            state.audit,
            refusals,
            state.clock,
            state.rng,
        )
        routes += authserver_routes(endpoint)
    documents = build_documents(
        settings.public_url,
        [signer.public_jwk()],
        sorted(frozenset[str]().union(*resources.values())),
        issuers,
        settings.scopes,
    )
    return [*routes, *wellknown_routes(settings.public_url, lambda: documents)]
