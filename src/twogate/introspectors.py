"""Wiring what asks external issuers about their tokens; part of `app.py`, by its size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from twogate.adapters.fetch import GuardedFetch
from twogate.adapters.rng import SystemRng
from twogate.adapters.signers.pem import PemSigner, read_secret
from twogate.config.issuer import Issuer
from twogate.config.settings import Settings
from twogate.flows.authserver.upstream_client_auth import ClientCredential, KeyCredential, SecretCredential
from twogate.flows.environment import Clock
from twogate.flows.gateway.introspection import Introspector


def introspectors(settings: Settings, fetch: GuardedFetch, clock: Clock) -> Mapping[str, Introspector]:
    """One for each issuer that is to be asked, by issuer."""
    made = {issuer.issuer: _introspector(issuer, fetch, clock) for issuer in settings.issuers}
    return {name: introspector for name, introspector in made.items() if introspector is not None}


def _introspector(issuer: Issuer, fetch: GuardedFetch, clock: Clock) -> Introspector | None:
    asked = issuer.introspection
    if asked is None:
        return None
    if asked.private_key_file is not None:
        signer = PemSigner(asked.private_key_file)
        credential: ClientCredential = KeyCredential(asked.client_id, signer, SystemRng(), key_id=asked.private_key_id)
    else:
        # There is one of the two: the configuration has checked it.
        path = asked.client_secret_file or Path()
        credential = SecretCredential(asked.client_id, lambda: read_secret(path))
    return Introspector(issuer.issuer, asked.endpoint, issuer.ca, asked.cache, credential, fetch, fetch, clock)
