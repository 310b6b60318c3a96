"""Where the keys of every issuer that the settings name come from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from twogate.config.settings import Settings
from twogate.core.jose.keys import FOR_SIGNATURES
from twogate.core.oauth.workload_token import key_uses


class KeyPlace(msgspec.Struct, frozen=True):
    """An issuer's keys: at `jwks_uri`, in `jwks_file`, or, with neither, where its metadata says.

    `uses` are the values of `use` that its keys for tokens have.
    """

    issuer: str
    jwks_uri: str | None
    jwks_file: Path | None = None
    ca: Path | None = None
    uses: frozenset[str] = FOR_SIGNATURES


def workload_keys(issuer: str) -> str:
    """The name of a workload issuer's keys among `key_places`; it is no issuer's."""
    return f"workloads {issuer}"


def identity_keys(issuer: str) -> str:
    """The name of the keys of an issuer of identity assertions among `key_places`; it is no issuer's."""
    return f"identity_assertions {issuer}"


def key_places(settings: Settings) -> Mapping[str, KeyPlace]:
    """All of them by name: an issuer's own for `issuers`, `workload_keys` and `identity_keys` for the others.

    One issuer may be listed in several sections, each with another way to its keys.
    """
    places = {item.issuer: KeyPlace(item.issuer, item.jwks_uri, None, item.ca) for item in settings.issuers}
    for workloads in settings.workloads:
        places[workload_keys(workloads.issuer)] = KeyPlace(
            workloads.issuer, workloads.jwks_uri, workloads.jwks_file, workloads.ca, key_uses(workloads.kind)
        )
    for identities in settings.identity_assertions:
        places[identity_keys(identities.issuer)] = KeyPlace(identities.issuer, identities.jwks_uri, None, identities.ca)
    return places
