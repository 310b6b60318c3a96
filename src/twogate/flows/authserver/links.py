"""Operators' one-time links: what lets a person set a password or enrol a passkey without having either (row R-24).

The secret is in the link's fragment, which browsers send to nobody: neither a log nor a preview of the link sees it,
and only the form that the person submits uses it up. It is exchanged for a setup, a cookie of that one browser which
is good for a quarter of an hour and for each step once. A setup is no login.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Protocol

import msgspec

from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.access_token import encode_base64url
from twogate.flows.authserver.logins import digest_of, is_handle
from twogate.flows.authserver.people import User
from twogate.flows.authserver.person_trail import PersonTrail
from twogate.flows.environment import Clock, Rng

LINK_PATH: Final = "/link"
SECRET_BYTES: Final = 32
SETUP_LIFETIME: Final = 15 * 60
"""Seconds between opening a link and the last step that it allows."""


class LinkPurpose(StrEnum):
    """What a link, or what is left of a setup, allows."""

    WELCOME = "welcome"
    """A new person: one password and one passkey."""
    PASSWORD = "password"
    PASSKEY = "passkey"
    DONE = "done"

    @property
    def password(self) -> bool:
        """Whether a password may be set."""
        return self in (LinkPurpose.WELCOME, LinkPurpose.PASSWORD)

    @property
    def passkey(self) -> bool:
        """Whether a passkey may be enrolled."""
        return self in (LinkPurpose.WELCOME, LinkPurpose.PASSKEY)

    def after(self, step: LinkPurpose) -> LinkPurpose:
        """What is left after a step, PASSWORD or PASSKEY."""
        if self is not LinkPurpose.WELCOME:
            return LinkPurpose.DONE
        return LinkPurpose.PASSKEY if step is LinkPurpose.PASSWORD else LinkPurpose.PASSWORD


class Link(msgspec.Struct, frozen=True):
    """A link as the store knows it. `expires_at` is Unix seconds."""

    digest: str
    tenant: str
    subject: str
    purpose: LinkPurpose
    expires_at: int


class Setup(msgspec.Struct, frozen=True):
    """What one browser may still do for one person, by a link that was used up. `ends_at` is Unix seconds."""

    digest: str
    tenant: str
    subject: str
    purpose: LinkPurpose
    ends_at: int


class LinkStore(Protocol):
    """Keeps links and setups, by digests."""

    async def add(self, link: Link, now: int) -> None:
        """Keep a link; those that the person had, used or not, end.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def redeem(self, digest: str, setup: str, ends_at: int, now: int) -> Setup | None:
        """Use a link up, for the setup of the digest `setup`; None if it is unknown, used or expired.

        Not None for exactly one of any number of callers.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def setup(self, digest: str, now: int) -> Setup | None:
        """The setup of this digest, if it has not ended and its person may log in.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def step(self, setup: Setup, left: LinkPurpose, now: int) -> bool:
        """Take a step of a setup that is as given; True for exactly one of any number of callers.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...


class Links:
    """Issues links and lets people use them. `issuer` is the public URL; `lifetime` in seconds."""

    def __init__(
        self,
        issuer: str,
        store: LinkStore,
        trail: PersonTrail,
        clock: Clock,
        rng: Rng,
        lifetime: int,
    ) -> None:
        self._issuer = issuer
        self._store = store
        self._trail = trail
        self._clock = clock
        self._rng = rng
        self._lifetime = lifetime

    async def issue(self, user: User, purpose: LinkPurpose) -> tuple[str, int]:
        """A new link for a person, and when it expires (Unix seconds). Every earlier one of theirs ends.

        Raises:
            GateError: AUDIT_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        secret = encode_base64url(self._rng.token(SECRET_BYTES))
        now = self._clock.now()
        link = Link(digest_of(secret), user.tenant, user.subject, purpose, now + self._lifetime)
        await self._trail.done(EventKind.LINK_ISSUED, user, detail=purpose.value)
        await self._store.add(link, now)
        return f"{self._issuer}{LINK_PATH}#{secret}", link.expires_at

    async def open(self, secret: str, address: str) -> tuple[str, Setup]:
        """Use a link up; the value of the setup's cookie, and the setup.

        Raises:
            GateError: LINK_INVALID; AUDIT_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        now = self._clock.now()
        handle = encode_base64url(self._rng.token(SECRET_BYTES))
        setup = None
        if is_handle(secret):
            setup = await self._store.redeem(digest_of(secret), digest_of(handle), now + SETUP_LIFETIME, now)
        if setup is None:
            error = GateError(ErrorCode.LINK_INVALID, "the link is unknown, used or expired")
            await self._trail.refused(error, None, address=address, method="link")
            raise error
        return handle, setup

    async def current(self, handle: str | None) -> Setup | None:
        """The setup that a cookie stands for.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        if handle is None or not is_handle(handle):
            return None
        return await self._store.setup(digest_of(handle), self._clock.now())

    async def take(self, setup: Setup, step: LinkPurpose) -> Setup:
        """Take a step, PASSWORD or PASSKEY, which the setup then allows no more; what is left.

        Raises:
            GateError: LINK_INVALID if it does not allow it (any more); STORE_UNAVAILABLE.
        """
        allowed = setup.purpose.password if step is LinkPurpose.PASSWORD else setup.purpose.passkey
        left = setup.purpose.after(step)
        if not allowed or not await self._store.step(setup, left, self._clock.now()):
            raise GateError(ErrorCode.LINK_INVALID, f"the link does not allow setting a {step.value} (any more)")
        return msgspec.structs.replace(setup, purpose=left)
