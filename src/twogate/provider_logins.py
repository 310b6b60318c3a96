"""The composition of logins through upstream providers; part of `authserver.py`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from twogate.adapters.fetch import GuardedFetch
from twogate.adapters.signers.pem import PemSigner, read_secret
from twogate.config import Settings
from twogate.config.logins import LoginProvider
from twogate.config.upstream_providers import provider_rules
from twogate.flows.audit import Refusals
from twogate.flows.authserver.confirmed_logins import ConfirmedLogins
from twogate.flows.authserver.logins import is_local_target
from twogate.flows.authserver.upstream_client_auth import ClientCredential, KeyCredential, SecretCredential
from twogate.flows.authserver.upstream_grants import UpstreamGrants
from twogate.flows.authserver.upstream_login import BrowserLogins, LoginSettings, UpstreamLogins
from twogate.flows.authserver.upstream_pending import PendingLogins
from twogate.flows.authserver.upstream_provider import UpstreamProvider
from twogate.flows.authserver.users import Users
from twogate.flows.envelope import Envelope
from twogate.flows.environment import Rng
from twogate.flows.gateway.issuers import RemoteKeys
from twogate.state import State
from twogate.stores.sql.logins import SqlLoginStore
from twogate.stores.sql.upstream_grants import SqlUpstreamGrantStore
from twogate.stores.sql.upstream_logins import SqlUpstreamLoginStore


@dataclass(frozen=True)
class ProviderLogins:
    """Logging in at providers, and asking them again."""

    logins: UpstreamLogins
    grants: UpstreamGrants
    confirmed: ConfirmedLogins
    """For where new access begins."""


def provider_logins(
    state: State,
    settings: Settings,
    fetch: GuardedFetch,
    envelope: Envelope,
    refusals: Refusals,
    users: Users,
    logins: BrowserLogins,
) -> ProviderLogins:
    """Wire the configured providers, of which there may be none. Nothing is connected yet."""
    clock, rng, lifetimes = state.clock, state.rng, settings.embedded.lifetimes
    providers = [_provider(provider, state, settings, fetch) for provider in settings.logins]
    issuer, store = settings.public_url, SqlUpstreamGrantStore(state.engine)
    grants = UpstreamGrants(issuer, providers, store, users, envelope, state.audit, clock, rng)
    pending = PendingLogins(SqlUpstreamLoginStore(state.engine), envelope, rng, lifetimes.interaction)
    terms = LoginSettings(issuer, lifetimes.login, lifetimes.grant, lifetimes.grant_without_refresh)
    trail = (state.audit, refusals)
    return ProviderLogins(
        UpstreamLogins(terms, providers, pending, grants, users, logins, is_local_target, trail, clock),
        grants,
        ConfirmedLogins(SqlLoginStore(state.engine), rng, lifetimes.login, grants),
    )


def _provider(provider: LoginProvider, state: State, settings: Settings, fetch: GuardedFetch) -> UpstreamProvider:
    keys = RemoteKeys(provider.issuer, None, provider.ca, fetch, state.clock)
    credential = _credential(provider, state.rng)
    return UpstreamProvider(provider_rules(provider, settings), credential, keys, fetch, fetch, state.clock)


def _credential(provider: LoginProvider, rng: Rng) -> ClientCredential:
    if provider.private_key_file is not None:
        return KeyCredential(
            provider.client_id,
            PemSigner(provider.private_key_file),
            rng,
            key_id=provider.private_key_id,
            for_endpoint=provider.assertion_audience == "token_endpoint",
        )
    # Every provider has one of the two: the configuration has checked it.
    path = provider.client_secret_file or Path()
    return SecretCredential(provider.client_id, lambda: read_secret(path))
