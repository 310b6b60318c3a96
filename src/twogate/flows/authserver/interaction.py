"""Authorization requests under way: pushed by a client, or in front of a person in one browser (ADR 0011).

States: live -> used (once, by the one who may), live -> expired (by the clock). There is no way back.
"""

from __future__ import annotations

import base64
import hashlib
from enum import StrEnum
from typing import Final, Protocol

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.authorize_request import AuthorizeRequest, Parameters, is_handle
from twogate.flows.authserver.begin_limit import BeginLimit
from twogate.flows.environment import Rng

HANDLE_BYTES: Final = 32
_NO_BROWSER: Final = ""


class RequestKind(StrEnum):
    """Who holds the handle of a request."""

    PUSHED = "pushed"
    """The client: a `request_uri` (RFC 9126)."""
    INTERACTION = "interaction"
    """The browser that the person is asked in."""


class RequestStore(Protocol):
    """Keeps requests by the digest of their handle; never the handle itself."""

    async def add(
        self, kind: RequestKind, digest: str, *, client_id: str, browser: str, request: str, expires_at: int, now: int
    ) -> None:
        """Keep a request until `expires_at` (Unix seconds).

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def get(self, kind: RequestKind, digest: str, browser: str, now: int) -> str | None:
        """The live, unused request of this handle and browser.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def redeem(self, kind: RequestKind, digest: str, *, client_id: str, browser: str, now: int) -> str | None:
        """Use the live request of this handle, client and browser up; None ever after, and for anybody else.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...


class Interaction(msgspec.Struct, frozen=True):
    """A request that waits for a person. `begun_at` is Unix seconds."""

    request: AuthorizeRequest
    begun_at: int


class Requests:
    """Gives out handles and takes them back, as many as `limit` lets an address have. Lifetimes in seconds."""

    def __init__(self, store: RequestStore, rng: Rng, limit: BeginLimit, *, pushed: int, interaction: int) -> None:
        self._store = store
        self._rng = rng
        self._limit = limit
        self.pushed_lifetime = pushed
        self._interaction_lifetime = interaction

    async def push(self, parameters: Parameters, client_id: str, now: int, stranger: str | None = None) -> str:
        """Keep a pushed request; its handle. `stranger` is the address of a client that did not authenticate.

        Raises:
            GateError: RATE_LIMITED, STORE_UNAVAILABLE.
        """
        if stranger is not None:
            self._limit.count(stranger)
        raw = msgspec.json.encode(parameters.values)
        return await self._add(RequestKind.PUSHED, raw, client_id, _NO_BROWSER, now + self.pushed_lifetime, now)

    async def take_pushed(self, handle: str, client_id: str, now: int) -> Parameters:
        """Use a pushed request of this client up.

        Raises:
            GateError: REQUEST_URI_INVALID if it is unknown, used, expired or another client's; STORE_UNAVAILABLE.
        """
        found = await self._store.redeem(
            RequestKind.PUSHED, _digest(handle), client_id=client_id, browser=_NO_BROWSER, now=now
        )
        if found is None:
            raise GateError(ErrorCode.REQUEST_URI_INVALID, "unknown, used, expired or another client's")
        return Parameters(msgspec.json.decode(found, type=dict[str, str]))

    async def begin(self, interaction: Interaction, browser: str, address: str, now: int) -> str:
        """Keep a request for the person in this browser (the digest of its cookie) at this address; its handle.

        Raises:
            GateError: RATE_LIMITED, STORE_UNAVAILABLE.
        """
        self._limit.count(address)
        raw, client_id = msgspec.json.encode(interaction), interaction.request.client_id
        expires_at = now + self._interaction_lifetime
        return await self._add(RequestKind.INTERACTION, raw, client_id, browser, expires_at, now)

    async def interaction(self, handle: str, browser: str, now: int) -> Interaction:
        """The live request of this handle and browser.

        Raises:
            GateError: INTERACTION_EXPIRED, STORE_UNAVAILABLE.
        """
        found = None
        if is_handle(handle):
            found = await self._store.get(RequestKind.INTERACTION, _digest(handle), browser, now)
        if found is None:
            raise GateError(ErrorCode.INTERACTION_EXPIRED, "unknown, used, expired or another browser's")
        return msgspec.json.decode(found, type=Interaction)

    async def use_up(self, handle: str, interaction: Interaction, browser: str, now: int) -> None:
        """Answer a request: of several answers at once, one passes.

        Raises:
            GateError: INTERACTION_EXPIRED, STORE_UNAVAILABLE.
        """
        found = await self._store.redeem(
            RequestKind.INTERACTION,
            _digest(handle),
            client_id=interaction.request.client_id,
            browser=browser,
            now=now,
        )
        if found is None:
            raise GateError(ErrorCode.INTERACTION_EXPIRED, "answered already, or expired")

    async def _add(self, kind: RequestKind, raw: bytes, client_id: str, browser: str, expires_at: int, now: int) -> str:
        handle = base64.urlsafe_b64encode(self._rng.token(HANDLE_BYTES)).decode().rstrip("=")
        await self._store.add(
            kind,
            _digest(handle),
            client_id=client_id,
            browser=browser,
            request=raw.decode(),
            expires_at=expires_at,
            now=now,
        )
        return handle


def _digest(handle: str) -> str:
    return hashlib.sha256(handle.encode()).hexdigest()
