"""The keys that verify this server's tokens, as a JWK set (RFC 7517)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

MAX_AGE: Final = 300
"""Seconds that verifiers may keep the set (R-50)."""


def jwks_document(keys: Iterable[Mapping[str, str]]) -> bytes:
    """The JWK set of these public keys (`Signer.public_jwk`), as JSON."""
    return msgspec.json.encode({"keys": list(keys)})
