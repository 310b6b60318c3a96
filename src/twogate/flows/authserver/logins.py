"""Browsers that are logged in: one random cookie each, of which the store has the digest (row R-24)."""

from __future__ import annotations

import hashlib
import re
from typing import Final, Literal, Protocol

import msgspec

from twogate.core.oauth.access_token import encode_base64url
from twogate.flows.environment import Rng

COOKIE_BYTES: Final = 32
DEFAULT_TARGET: Final = "/account"
"""Where a browser goes after its login if nothing else is asked for."""

LoginMethod = Literal["password", "passkey", "upstream"]

_HANDLE: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_TARGET: Final = re.compile(
    r"/account|/device|/authorize/consent\?request=[A-Za-z0-9_-]{43}|/console(/[a-z]{1,20})?|/approvals/[A-Za-z0-9_-]{22}"
)


class Login(msgspec.Struct, frozen=True):
    """Who is logged in, and how. Times are Unix seconds.

    `upstream` is the upstream login behind it, if any. `ends_at` is when all that comes of it ends, tokens too; None
    leaves that to the settings.
    """

    tenant: str
    subject: str
    method: LoginMethod
    authenticated_at: int
    upstream: str | None = None
    ends_at: int | None = None


class LoginStore(Protocol):
    """Keeps logins by the digest of their cookie."""

    async def add(self, digest: str, login: Login, expires_at: int, now: int, replaces: str | None) -> bool:
        """Keep a login, and end the one of the digest `replaces`; False if the person is disabled or gone.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def get(self, digest: str, now: int) -> Login | None:
        """The login of this digest, if it has not expired and its person may log in.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def end(self, digest: str) -> bool:
        """End a login; False if there was none.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def end_all(self, tenant: str, subject: str, keep: str | None) -> int:
        """End every login of a person but the one of the digest `keep`; how many there were.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...


class Logins:
    """Begins, finds and ends logins. `lifetime` is in seconds."""

    def __init__(self, store: LoginStore, rng: Rng, lifetime: int) -> None:
        self._store = store
        self._rng = rng
        self.lifetime = lifetime

    async def begin(self, login: Login, now: int, replaces: str | None = None) -> str:
        """Begin a login; the value of its cookie, which is always a new one (against session fixation).

        `replaces` is the cookie that the browser had, whose login ends. The audit trail has the login first: that is
        the caller's to do. If the person was disabled meanwhile, the cookie stands for nothing.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        cookie = encode_base64url(self._rng.token(COOKIE_BYTES))
        ends = [now + self.lifetime, login.ends_at]
        expires_at = min(end for end in ends if end is not None)
        await self._store.add(digest_of(cookie), login, expires_at, now, _digest(replaces))
        return cookie

    async def current(self, cookie: str | None, tenant: str | None, now: int) -> Login | None:
        """The live login that a cookie stands for, if it is one of this tenant; None is any tenant.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        digest = _digest(cookie)
        login = None if digest is None else await self._store.get(digest, now)
        return login if login is not None and tenant in (None, login.tenant) else None

    async def end(self, cookie: str | None) -> bool:
        """End the login of a cookie; False if there was none.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        digest = _digest(cookie)
        return digest is not None and await self._store.end(digest)

    async def end_all(self, tenant: str, subject: str, keep: str | None = None) -> int:
        """End every login of a person but the one of the cookie `keep`; how many there were.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        return await self._store.end_all(tenant, subject, _digest(keep))


def is_local_target(to: str) -> bool:
    """Whether a browser may be sent there after its login: one of our own pages, spelled exactly as we spell them."""
    return _TARGET.fullmatch(to) is not None


def digest_of(handle: str) -> str:
    """What is stored of a random handle: its SHA-256, lower-case hex. It has 256 bits, so a fast digest is enough."""
    return hashlib.sha256(handle.encode()).hexdigest()


def is_handle(text: str | None) -> bool:
    """Whether this may be a handle of ours: 32 bytes in base64url."""
    return text is not None and _HANDLE.fullmatch(text) is not None


def _digest(cookie: str | None) -> str | None:
    return digest_of(cookie) if cookie is not None and is_handle(cookie) else None
