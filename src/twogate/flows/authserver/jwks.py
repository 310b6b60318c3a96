"""The keys that verify this server's tokens, as a JWK set (RFC 7517)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from twogate.core.keyring import KeyState, PublicKey, published
from twogate.flows.signer import Signer

MAX_AGE: Final = 300
"""Seconds that verifiers may keep the set (R-50)."""


def signer_key(signer: Signer) -> PublicKey:
    """The public half of the key that signs now."""
    return PublicKey(signer.kid, signer.public_jwk(), KeyState.ENABLED)


def jwks_document(keys: Iterable[PublicKey]) -> bytes:
    """The JWK set of every published key, as JSON."""
    return msgspec.json.encode({"keys": [key.jwk for key in published(keys)]})
