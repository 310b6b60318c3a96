"""Who is at the other end of a connection: the address it is counted under, and the certificate it showed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from cryptography import x509

from twogate.core.oauth.access_token import encode_base64url
from twogate.core.oauth.confirmation import ClientCertificate

UNIX_PEER: Final = "unix"
"""Stands for the peers of a Unix socket: they have no address of their own, and share one."""

PEER_CERTIFICATE: Final = "twogate.peer_certificate"
"""Key in `scope["extensions"]`: the client certificate of the TLS connection (leaf, DER bytes), or None."""

_REMEMBERED: Final = 1024


def peer_address(scope: Mapping[str, Any]) -> str:
    """The address of an ASGI request's peer. Forwarded headers are never looked at."""
    client = scope.get("client")
    return client[0] if client else UNIX_PEER


def peer_certificate(scope: Mapping[str, Any]) -> ClientCertificate | None:
    """The certificate that an ASGI request's peer showed in its TLS handshake with us. No header is looked at."""
    extensions = scope.get("extensions")
    der: bytes | None = None if extensions is None else extensions.get(PEER_CERTIFICATE)
    return None if der is None else _read(der)


@lru_cache(_REMEMBERED)
def _read(der: bytes) -> ClientCertificate:
    # Once for a connection: its requests share the bytes, whose hash Python keeps.
    try:
        not_after = int(x509.load_der_x509_certificate(der).not_valid_after_utc.timestamp())
    except (ValueError, x509.InvalidVersion):
        # OpenSSL is more lenient. Until when it holds is not for guessing, so it holds no longer.
        not_after = -1
    return ClientCertificate(encode_base64url(hashlib.sha256(der).digest()), not_after)
