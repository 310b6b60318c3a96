"""Registered clients as they are kept, how long, and the tokens that let them register (RFC 7591, RFC 7592)."""

from __future__ import annotations

import base64
import hashlib
from typing import Final, Protocol

import msgspec

from twogate.core.oauth.client_auth import AuthMethod
from twogate.flows.authserver.clients import Client
from twogate.flows.environment import Rng

KEEP_STEP: Final = 3600
"""Seconds by which a client's end must move before it is written down again, so that busy clients write seldom."""

TOKEN_BYTES: Final = 32


class Registered(msgspec.Struct, frozen=True):
    """What is kept of a registration besides the client. `digest` is its registration access token's, SHA-256 hex."""

    digest: str
    method: AuthMethod
    application_type: str | None = None


class RegistrationStore(Protocol):
    """Keeps registered clients, and the tokens that let them register."""

    async def is_allowed(self, digest: str, tenant: str, now: int) -> bool:
        """Whether such a token could be used now; that takes nothing of it."""
        ...

    async def add(self, client: Client, registered: Registered, *, by: str | None, most: int | None, now: int) -> None:
        """Add a client; `by` is the digest of the token that allows it and is used up, `most` how many there may be.

        Raises:
            GateError: REGISTRATION_REFUSED if the token is unknown, used or expired; RATE_LIMITED if there are `most`
                already; STORE_UNAVAILABLE.
        """
        ...

    async def get(self, client_id: str) -> tuple[Client, Registered] | None:
        """A registered client, expired or not."""
        ...

    async def replace(self, client: Client, registered: Registered) -> bool:
        """Replace what may change of a registered client; False if there is none."""
        ...

    async def keep(self, client_id: str, until: int, now: int) -> None:
        """Move a registered client's expiry to `until`, if that is later and it has not expired."""
        ...


class KeepUsed:
    """Keeps registered clients that are used; the token endpoint tells it of each token."""

    def __init__(self, store: RegistrationStore, unused: int) -> None:
        self._store = store
        self._unused = unused

    async def __call__(self, client: Client, now: int) -> None:
        """Note that a client got a token.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        if client.expires_at is not None and client.expires_at < now + self._unused - KEEP_STEP:
            await self._store.keep(client.client_id, now + self._unused, now)


def new_registration_token(rng: Rng) -> tuple[str, str]:
    """A token that lets one client register, and the digest by which it is kept."""
    token = text_of(rng.token(TOKEN_BYTES))
    return token, digest_of(token)


def text_of(raw: bytes) -> str:
    """Random bytes as base64url without padding."""
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def digest_of(text: str) -> str:
    """The SHA-256 of a random text, in lower-case hex: all that is kept of it."""
    return hashlib.sha256(text.encode()).hexdigest()
