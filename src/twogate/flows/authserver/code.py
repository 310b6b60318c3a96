"""Authorization codes: what a person granted, on its way from the browser to the client (RFC 6749 section 4.1.2)."""

from __future__ import annotations

import re
from typing import Final, Protocol

import msgspec

from twogate.core.oauth.access_token import encode_base64url
from twogate.core.oauth.refresh_token import digest_of
from twogate.flows.authserver.families import Family, new_grant_id
from twogate.flows.authserver.grant import Authorization
from twogate.flows.environment import Rng

CODE_BYTES: Final = 32

_CODE: Final = re.compile(r"[A-Za-z0-9_-]{43}")


class AuthorizationCode(msgspec.Struct, frozen=True):
    """What a code stands for, and all that its redemption must match.

    `redirect_uri` is where the code was sent, `redirect_uri_given` whether the request named it. `proof` is the
    `dpop_jkt` of the request (RFC 9449 section 10). `refresh`: the client also gets a refresh token, if it may.
    """

    authorization: Authorization
    redirect_uri: str
    redirect_uri_given: bool
    code_challenge: str
    proof: str | None = None
    refresh: bool = False


class IssuedCode(msgspec.Struct, frozen=True):
    """A code as the store knows it. `grant_id` is what its tokens will belong to. Times are Unix seconds."""

    code: AuthorizationCode
    grant_id: str
    expires_at: int
    used_at: int | None = None


class CodeStore(Protocol):
    """Keeps codes by their digest."""

    async def add(self, digest: str, issued: IssuedCode, now: int) -> None:
        """Keep a new code.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def get(self, digest: str) -> IssuedCode | None:
        """The code of this digest, used or not, for a day after it expired.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def redeem(self, digest: str, family: Family | None, now: int) -> bool:
        """True exactly once per code, and only before it expires; the family is then kept in the same transaction.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def forget(self, tenant: str, subject: str, client_id: str) -> None:
        """Forget the codes that a person gave to a client and that were not redeemed.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...


class Codes:
    """Issues codes; `lifetime` in seconds."""

    def __init__(self, store: CodeStore, rng: Rng, lifetime: int) -> None:
        self._store = store
        self._rng = rng
        self._lifetime = lifetime

    async def issue(self, code: AuthorizationCode, now: int) -> str:
        """A code for one redemption by the client of its authorization.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        text = encode_base64url(self._rng.token(CODE_BYTES))
        issued = IssuedCode(code, new_grant_id(self._rng), now + self._lifetime)
        await self._store.add(digest_of(text), issued, now)
        return text


def digest_of_code(unverified_code: str) -> str | None:
    """What finds a code in the store; None for what cannot be one."""
    return digest_of(unverified_code) if _CODE.fullmatch(unverified_code) else None
