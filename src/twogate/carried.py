"""What one configuration generation takes over from the one before, and what it makes anew (DESIGN decision 22).

A part of the composition root: what is counted or connected already must outlive a reload, which frees nobody.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import structlog

from twogate.adapters.clock import SystemClock
from twogate.adapters.fetch import GuardedFetch
from twogate.adapters.jwks_file import FileKeys
from twogate.adapters.signers.local import LocalSigner
from twogate.config import Settings
from twogate.config.issuer_keys import KeyPlace, key_places
from twogate.config.issuers import embedded_issuer, trusted_issuer
from twogate.config.secrets import SecretReference
from twogate.config.servers import HttpServer, LibraryServer, Server, StdioServer
from twogate.config.tenants import every_role
from twogate.core.jose.keys import parse_jwks
from twogate.flows.authserver.jwks import jwks_document
from twogate.flows.envelope import Envelope
from twogate.flows.gateway.issuers import FixedKeys, KeySource, RemoteKeys, TrustedIssuer
from twogate.flows.gateway.limit import AddressLimit, CallRates, Rate, SharedBuckets, UnderWay
from twogate.flows.gateway.upstream import Upstream
from twogate.sandboxes import sandbox_plan
from twogate.upstreams import open_secrets, open_upstream, tenants_of
from twogate.web.generation import Generation

log = structlog.get_logger("twogate")


def carried_limits(settings: Settings, last: Generation | None) -> tuple[AddressLimit, UnderWay, UnderWay]:
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


def carried_rates(settings: Settings, shared: SharedBuckets | None, last: Generation | None) -> CallRates:
    """How often agents, their tools and tenants may be served, with what is counted already."""
    limits = settings.limits
    agent, tool, tenant = (
        None if rate is None else Rate(rate.rate, rate.burst) for rate in (limits.agent, limits.tool, limits.tenant)
    )
    if last is None:
        return CallRates(agent=agent, tool=tool, tenant=tenant, shared=shared)
    return last.rates.successor(agent=agent, tool=tool, tenant=tenant)


def authorities_in_use(settings: Settings) -> dict[Path, bytes]:
    """The digest of every CA file in use."""
    files = {server.ca for server in settings.servers.values() if isinstance(server, HttpServer)}
    files |= {place.ca for place in key_places(settings).values()}
    return {file: hashlib.sha256(file.read_bytes()).digest() for file in files if file is not None}


def carried_upstreams(
    settings: Settings,
    clock: SystemClock,
    authorities: Mapping[Path, bytes],
    envelope: Envelope,
    guarded: Mapping[str, Upstream],
    last: Generation | None,
) -> dict[str, Upstream]:
    """The ways to the servers: those of the last generation where nothing about them changed.

    `guarded` are those within this process. Those within other processes are left out: they are not served here.
    """
    secrets = open_secrets(settings, envelope)

    def opened(name: str) -> Upstream:
        if name in guarded:
            return guarded[name]
        if last is not None and _same_server(name, settings, authorities, last):
            return last.upstreams[name]
        return open_upstream(
            name, settings, clock, lambda server, line: log.info("stdio", server=server, line=line), secrets
        )

    return {
        name: opened(name)
        for name, server in settings.servers.items()
        if name in guarded or not isinstance(server, LibraryServer)
    }


def _same_server(name: str, settings: Settings, authorities: Mapping[Path, bytes], last: Generation) -> bool:
    server, before = settings.servers[name], last.settings.servers.get(name)
    # All but what is asked anew for each call. A setting that this line does not know makes a new connection.
    per_call = {"timeout", "client_requests", "identity", "arguments"}
    if before is None or server.model_dump(exclude=per_call) != before.model_dump(exclude=per_call):
        return False
    if _has_links(server) and len(tenants_of(name, settings)) != len(tenants_of(name, last.settings)):
        return False  # they are divided otherwise
    if server.credential is not None and _references(name, settings) != _references(name, last.settings):
        return False
    if isinstance(server, StdioServer) and isinstance(before, StdioServer):
        # Other settings may name a new secret, which its sandbox then has to hide.
        return sandbox_plan(server, settings) == sandbox_plan(before, last.settings)
    ca = server.ca if isinstance(server, HttpServer) else None
    return ca is None or authorities[ca] == last.authorities.get(ca)


def _has_links(server: Server) -> bool:
    """Whether its tenants share out processes or streams among them."""
    return isinstance(server, StdioServer) or (isinstance(server, HttpServer) and server.transport == "sse")


def _references(server: str, settings: Settings) -> dict[str, SecretReference]:
    return {name: tenant.secrets[server] for name, tenant in settings.tenants.items() if server in tenant.secrets}


def carried_keys(
    settings: Settings,
    signer: LocalSigner,
    clock: SystemClock,
    fetch: GuardedFetch,
    authorities: Mapping[Path, bytes],
    last: Generation | None,
) -> dict[str, KeySource]:
    """The keys of every issuer: those of the last generation where they come from the same place."""
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


def trusted_issuers(settings: Settings, signer: LocalSigner) -> dict[str, TrustedIssuer]:
    """The issuers of the settings, and our own server if it is on."""
    trusted: dict[str, TrustedIssuer] = {}
    for issuer in settings.issuers:
        trusted[issuer.issuer] = trusted_issuer(issuer, settings.public_url)
    if settings.embedded.enabled:
        trusted[settings.public_url] = embedded_issuer(
            settings.public_url,
            signer.algorithm,
            settings.tenants,
            every_role(settings),
            settings.embedded.lifetimes.access_token,
            one_time=settings.embedded.one_time,
        )
    return trusted
