"""What people do by an operator's link: set a password, enrol a passkey (row R-24)."""

from __future__ import annotations

from typing import Protocol

from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.authserver.links import LinkPurpose, Links, Setup
from twogate.flows.authserver.passkeys import Passkeys
from twogate.flows.authserver.passwords import Passwords
from twogate.flows.authserver.people import User
from twogate.flows.authserver.person_trail import PersonTrail
from twogate.flows.authserver.users import Users
from twogate.flows.environment import Clock

METHOD = "link"
"""How audit events call this way."""


class EndsLogins(Protocol):
    """Ends logins; `logins.Logins` does."""

    async def end_all(self, tenant: str, subject: str, keep: str | None = None) -> int:
        """End every login of a person.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...


class SetUp:
    """Serves browsers that have opened a link. `passkeys` is None where the server's address cannot have any."""

    def __init__(
        self,
        links: Links,
        users: Users,
        passwords: Passwords,
        passkeys: Passkeys | None,
        logins: EndsLogins,
        trail: PersonTrail,
        clock: Clock,
    ) -> None:
        self._links = links
        self._users = users
        self._passwords = passwords
        self._passkeys = passkeys
        self._logins = logins
        self._trail = trail
        self._clock = clock

    async def open(self, secret: str, address: str) -> tuple[str, Setup]:
        """Use a link up; the value of the setup's cookie, and the setup.

        Raises:
            GateError: LINK_INVALID; AUDIT_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        return await self._links.open(secret, address)

    async def current(self, cookie: str | None) -> tuple[Setup, User]:
        """What a browser may do, and for whom.

        Raises:
            GateError: LINK_INVALID, STORE_UNAVAILABLE.
        """
        setup = await self._links.current(cookie)
        user = None if setup is None else await self._users.user(setup.tenant, setup.subject)
        if setup is None or user is None or user.disabled:
            raise GateError(ErrorCode.LINK_INVALID, "no setup is under way in this browser")
        if user.provider is not None and setup.purpose.password:
            # Else a person whom the provider removed could go on logging in.
            raise GateError(ErrorCode.LINK_INVALID, "the person logs in at a provider, and has no password here")
        return setup, user

    async def set_password(self, cookie: str | None, new: str, address: str) -> str | None:
        """Set the password; what is wrong with it, None if it was set. Every browser of the person is logged out.

        Raises:
            GateError: LINK_INVALID; RATE_LIMITED, STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        setup, user = await self.current(cookie)
        if not setup.purpose.password:
            raise GateError(ErrorCode.LINK_INVALID, "the link does not allow setting a password (any more)")
        if (problem := self._passwords.judge(user, new)) is not None:
            return problem
        await self._trail.done(
            EventKind.USER_CHANGED, user, address=address, method=METHOD, detail="password, by an operator's link"
        )
        await self._links.take(setup, LinkPurpose.PASSWORD)
        await self._passwords.set(user, new)
        # Whoever knew the old one may be why it was reset.
        await self._logins.end_all(user.tenant, user.subject)
        return None

    async def enrol_options(self, cookie: str | None, browser: str) -> dict[str, object]:
        """What the browser is asked to make.

        Raises:
            GateError: LINK_INVALID, PASSKEY_REFUSED, STORE_UNAVAILABLE.
        """
        passkeys, _, user = await self._may_enrol(cookie)
        return await passkeys.enrol_options(user, browser, self._clock.now())

    async def enrol(self, cookie: str | None, answer: str, label: str, browser: str, address: str) -> None:
        """Enrol the one passkey that the link allows.

        Raises:
            GateError: LINK_INVALID, PASSKEY_REFUSED, INTERACTION_EXPIRED; STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        passkeys, setup, user = await self._may_enrol(cookie)
        now = self._clock.now()
        try:
            new, challenge = passkeys.verify_new(answer, user, browser, now)
        except GateError as error:
            await self._trail.refused(error, user, address=address, method=METHOD)
            raise
        await self._trail.done(EventKind.PASSKEY_ADDED, user, address=address, method=METHOD, detail=new.credential_id)
        # The step first: of two answers at once one is kept.
        await self._links.take(setup, LinkPurpose.PASSKEY)
        await passkeys.keep(new, challenge, user, label, now)

    async def _may_enrol(self, cookie: str | None) -> tuple[Passkeys, Setup, User]:
        setup, user = await self.current(cookie)
        if not setup.purpose.passkey:
            raise GateError(ErrorCode.LINK_INVALID, "the link does not allow enrolling a passkey (any more)")
        if self._passkeys is None:
            raise GateError(ErrorCode.PASSKEY_REFUSED, "the server's address cannot have passkeys")
        return self._passkeys, setup, user
