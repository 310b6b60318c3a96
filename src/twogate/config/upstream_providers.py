"""What a login needs of the settings of a provider, in its own terms."""

from __future__ import annotations

from types import MappingProxyType

from twogate.config.logins import LoginProvider
from twogate.config.settings import Settings
from twogate.core.oauth.id_token import IdTokenRules
from twogate.flows.authserver.upstream_provider import CALLBACK_PATH, ProviderRules


def provider_rules(provider: LoginProvider, settings: Settings) -> ProviderRules:
    """What the operator lets this provider do."""
    return ProviderRules(
        name=provider.name,
        label=provider.label,
        id_token=IdTokenRules(provider.issuer, provider.client_id, frozenset(provider.algorithms)),
        tenants=frozenset(provider.tenants),
        allowed_groups=None if provider.allow.anyone else frozenset(provider.allow.groups),
        known_groups=frozenset(settings.groups),
        redirect_uri=f"{settings.public_url}{CALLBACK_PATH}/{provider.name}",
        scopes=provider.scopes,
        parameters=MappingProxyType(dict(provider.parameters)),
        name_claim=provider.claims.name,
        display_name_claim=provider.claims.display_name,
        groups_claim=provider.claims.groups,
        ca_file=provider.ca,
    )
