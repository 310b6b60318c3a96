"""The `Mcp-Session-Id` that clients see: the upstream's own, sealed for one principal and one server.

Nothing is stored, so any replica can open what another sealed. An id taken from another principal, or carried to
another server, does not open: the owner is authenticated with the ciphertext (AES-256-GCM, RFC 5116).
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from twogate.core.errors import ErrorCode, GateError
from twogate.core.principal import PrincipalKey
from twogate.flows.environment import Rng

_NONCE: Final = 12
_MAX: Final = 4096


class UpstreamSessions:
    """Seals and opens upstream session ids with a 32-byte key."""

    def __init__(self, key: bytes, rng: Rng) -> None:
        self._cipher = AESGCM(key)
        self._rng = rng

    def seal(self, upstream_id: str, owner: PrincipalKey, server: str) -> str:
        """The id to give to the client: visible ASCII, as MCP asks."""
        nonce = self._rng.token(_NONCE)
        sealed = self._cipher.encrypt(nonce, upstream_id.encode(), _owner(owner, server))
        return urlsafe_b64encode(nonce + sealed).decode().rstrip("=")

    def open(self, presented: str, owner: PrincipalKey, server: str) -> str:
        """The upstream's id.

        Raises:
            GateError: MCP_SESSION_UNKNOWN if it was not sealed for this owner and server.
        """
        try:
            raw = urlsafe_b64decode(presented[:_MAX].encode("ascii") + b"=" * (-len(presented) % 4))
            return self._cipher.decrypt(raw[:_NONCE], raw[_NONCE:], _owner(owner, server)).decode()
        except (InvalidTag, ValueError) as error:
            raise GateError(ErrorCode.MCP_SESSION_UNKNOWN, "not a session id of this principal and server") from error


def _owner(owner: PrincipalKey, server: str) -> bytes:
    return b"twogate-mcp-session-v1" + msgspec.json.encode([owner, server])
