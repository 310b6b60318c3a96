"""Handles: what an upstream names, sealed for one principal and one server before a client sees it.

Session ids, event ids, ids of the server's own requests, task ids and request states are an upstream's names for
things that belong to one caller, and many servers believe whoever presents them. So a client gets each sealed, together
with what it takes to decide about it when it comes back. Nothing is stored: any replica opens what another sealed. A
handle of another principal, of another server or of another kind does not open: all three are authenticated with the
ciphertext (AES-SIV, RFC 5297). Sealing is deterministic, so that one thing keeps one name.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final, TypeVar

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from twogate.core.principal import PrincipalKey

MAX_HANDLE: Final = 64 * 1024
"""Characters that a handle may have; a server's request state is the only one that grows long."""

_KEY_BYTES: Final = 64  # AES-256-SIV takes two keys of 256 bits


class McpSession(msgspec.Struct, frozen=True, array_like=True):
    """`Mcp-Session-Id`: the upstream's session if it keeps one, Twogate's bound at `initialize`, the version.

    `url`: the client declared that it can have its user open a URL; `client` then tells it from others of its principal
    whose server keeps no session.
    """

    upstream: str | None
    session: str | None
    version: str
    url: bool = False
    client: str = ""


class StreamEvent(msgspec.Struct, frozen=True, array_like=True):
    """An event's id: the upstream's own, its session, and the request whose answer the stream carries, if it does."""

    id: str
    upstream: str | None
    request: str | int | None = None
    method: str = ""
    target: str = ""


class ServerRequest(msgspec.Struct, frozen=True, array_like=True):
    """The id of a request that a server makes of a client."""

    id: str | int
    method: str
    upstream: str | None


class TaskId(msgspec.Struct, frozen=True, array_like=True):
    """A task's id, and the target of the call that made it."""

    id: str
    target: str


class RequestState(msgspec.Struct, frozen=True, array_like=True):
    """The state with which a server asks for input (MCP 2026-07-28), and the one call it belongs to.

    `base` is the digest of a call that a token or an approval started, without what was answered to the server.
    """

    state: str
    method: str
    target: str
    base: str = ""


class ApprovalState(msgspec.Struct, frozen=True, array_like=True):
    """The state with which Twogate asks for an approval: the parked call, and the one call it belongs to.

    `state` is the server's own, if the call goes on with what the server asked, and `base` as there.
    """

    approval: str
    method: str
    target: str
    digest: str
    state: str | None = None
    base: str = ""


class ApprovalTask(msgspec.Struct, frozen=True, array_like=True):
    """A task of Twogate's own: a parked call, and its target."""

    approval: str
    target: str


Sealed = McpSession | StreamEvent | ServerRequest | TaskId | RequestState | ApprovalState | ApprovalTask
Handle = TypeVar("Handle", bound=Sealed)


class Seal:
    """Seals and opens handles with a 32-byte key."""

    def __init__(self, key: bytes) -> None:
        derived = HKDF(SHA256(), _KEY_BYTES, salt=None, info=b"twogate-handles-v1").derive(key)
        self._cipher = AESSIV(derived)

    def seal(self, handle: Sealed, owner: PrincipalKey, server: str) -> str:
        """The handle as visible ASCII, URL-safe."""
        sealed = self._cipher.encrypt(msgspec.json.encode(handle), _bound_to(type(handle), owner, server))
        return urlsafe_b64encode(sealed).decode().rstrip("=")

    def open(self, presented: str, kind: type[Handle], owner: PrincipalKey, server: str) -> Handle | None:
        """The handle, or None if it was not sealed as this kind for this owner and server."""
        if len(presented) > MAX_HANDLE:
            return None
        try:
            raw = urlsafe_b64decode(presented.encode("ascii") + b"=" * (-len(presented) % 4))
            return msgspec.json.decode(self._cipher.decrypt(raw, _bound_to(kind, owner, server)), type=kind)
        except (InvalidTag, ValueError):  # msgspec's errors are ValueErrors too
            return None


def _bound_to(kind: type[object], owner: PrincipalKey, server: str) -> list[bytes]:
    return [b"twogate-handle-v1", kind.__name__.encode(), msgspec.json.encode([owner, server])]
