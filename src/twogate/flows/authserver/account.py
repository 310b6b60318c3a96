"""What people do for themselves once they are logged in: passwords, passkeys, and the access they gave to applications.

A password alone never leads to a passkey: who stole one could make themselves an approver. Passkeys are added and
removed only by who has just used one, or by an operator's link (`setup.py`).
"""

from __future__ import annotations

from typing import Final

import msgspec

from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.authserver.given_access import Access, GivenAccess
from twogate.flows.authserver.lockout import Lockout
from twogate.flows.authserver.logins import Login, Logins
from twogate.flows.authserver.passkeys import Passkey, Passkeys
from twogate.flows.authserver.passwords import Passwords
from twogate.flows.authserver.people import User
from twogate.flows.authserver.person_trail import PersonTrail
from twogate.flows.authserver.sign_in import Visitor, locked
from twogate.flows.authserver.users import Users
from twogate.flows.environment import Clock

FRESH_FOR: Final = 5 * 60
"""Seconds after a passkey login in which passkeys may be changed."""


class Overview(msgspec.Struct, frozen=True):
    """What the account page shows. `fresh`: passkeys may be changed now."""

    user: User
    login: Login
    has_password: bool
    passkeys: tuple[Passkey, ...]
    access: tuple[Access, ...]
    fresh: bool


class Account:
    """Serves people who are logged in. `passkeys` is None where the server's address cannot have any."""

    def __init__(
        self,
        users: Users,
        passwords: Passwords,
        passkeys: Passkeys | None,
        lockout: Lockout,
        logins: Logins,
        given: GivenAccess,
        trail: PersonTrail,
        clock: Clock,
    ) -> None:
        self._users = users
        self._passwords = passwords
        self._passkeys = passkeys
        self._lockout = lockout
        self._logins = logins
        self._given = given
        self._trail = trail
        self._clock = clock

    async def overview(self, login: Login) -> Overview:
        """Everything that the account page shows.

        Raises:
            GateError: LOGIN_REQUIRED, STORE_UNAVAILABLE.
        """
        user, now = await self._user(login), self._clock.now()
        passkeys = () if self._passkeys is None else tuple(await self._passkeys.list(user))
        return Overview(
            user,
            login,
            await self._passwords.has_one(user),
            passkeys,
            await self._given.list(user, now),
            is_fresh(login, now),
        )

    async def change_password(self, login: Login, old: str, new: str, visitor: Visitor) -> str | None:
        """Change the password by the old one; what is wrong with the new one, None if it was changed.

        Other browsers are logged out.

        Raises:
            GateError: LOGIN_REFUSED if the old one is wrong, LOGIN_LOCKED (`wait`); LOGIN_REQUIRED, RATE_LIMITED,
                STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        user, now = await self._user(login), self._clock.now()
        one = await self._lockout.begin_change(user.tenant, user.subject, now)
        proof = None if one.wait else await self._passwords.prove(user, old)
        if proof is None:
            error = locked(one) if one.wait else GateError(ErrorCode.LOGIN_REFUSED, "wrong old password")
            await self._trail.refused(error, user, address=visitor.address, method=login.method)
            raise error
        await self._lockout.succeeded(one, now)
        if (problem := self._passwords.judge(user, new)) is not None:
            return problem
        await self._trail.done(
            EventKind.USER_CHANGED,
            user,
            address=visitor.address,
            method=login.method,
            detail="password, by the old one",
        )
        if not await self._passwords.set(user, new, instead_of=proof):
            # What an operator has set meanwhile stays.
            raise GateError(ErrorCode.LOGIN_REFUSED, "the password was replaced meanwhile")
        await self._logins.end_all(user.tenant, user.subject, keep=visitor.login)
        return None

    async def enrol_options(self, login: Login, browser: str) -> dict[str, object]:
        """What the browser is asked to make.

        Raises:
            GateError: LOGIN_REQUIRED unless a passkey was just used; PASSKEY_REFUSED, STORE_UNAVAILABLE.
        """
        passkeys, user = await self._may_change(login)
        return await passkeys.enrol_options(user, browser, self._clock.now())

    async def enrol(self, login: Login, answer: str, label: str, visitor: Visitor) -> None:
        """Enrol another passkey.

        Raises:
            GateError: LOGIN_REQUIRED unless a passkey was just used; PASSKEY_REFUSED, INTERACTION_EXPIRED,
                STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        passkeys, user = await self._may_change(login)
        now = self._clock.now()
        try:
            new, challenge = passkeys.verify_new(answer, user, visitor.browser, now)
        except GateError as error:
            await self._trail.refused(error, user, address=visitor.address, method=login.method)
            raise
        await self._trail.done(
            EventKind.PASSKEY_ADDED, user, address=visitor.address, method=login.method, detail=new.credential_id
        )
        passkey = await passkeys.keep(new, challenge, user, label, now)
        # Whoever ended this login meanwhile, as removing a stolen passkey does, wanted nothing more to come of it.
        if await self._logins.current(visitor.login, login.tenant, now) is None:
            await passkeys.remove(user, passkey.credential_id)
            raise GateError(ErrorCode.LOGIN_REQUIRED, "the login was ended meanwhile")

    async def remove_passkey(self, login: Login, credential_id: str, visitor: Visitor) -> None:
        """Remove a passkey of the person's own. Other browsers are logged out: who has it may have logged in by it.

        Raises:
            GateError: LOGIN_REQUIRED unless a passkey was just used; STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        passkeys, user = await self._may_change(login)
        if all(passkey.credential_id != credential_id for passkey in await passkeys.list(user)):
            return
        await self._trail.done(
            EventKind.PASSKEY_REMOVED, user, address=visitor.address, method=login.method, detail=credential_id
        )
        await passkeys.remove(user, credential_id)
        await self._logins.end_all(user.tenant, user.subject, keep=visitor.login)

    async def withdraw(self, login: Login, client_id: str, visitor: Visitor) -> None:
        """Take back all access that the person gave to an application: its tokens, and what would give it new ones.

        Raises:
            GateError: LOGIN_REQUIRED, STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        await self._given.withdraw(await self._user(login), client_id, self._clock.now(), visitor.address)

    async def log_out_everywhere(self, login: Login, visitor: Visitor) -> None:
        """End every login of the person, in this browser too.

        Raises:
            GateError: LOGIN_REQUIRED, STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        user = await self._user(login)
        await self._trail.done(
            EventKind.LOGOUT, user, address=visitor.address, method=login.method, detail="every browser"
        )
        await self._logins.end_all(user.tenant, user.subject)

    async def _user(self, login: Login) -> User:
        user = await self._users.user(login.tenant, login.subject)
        if user is None or user.disabled:
            raise GateError(ErrorCode.LOGIN_REQUIRED, "the person is gone or disabled")
        return user

    async def _may_change(self, login: Login) -> tuple[Passkeys, User]:
        if self._passkeys is None:
            raise GateError(ErrorCode.PASSKEY_REFUSED, "the server's address cannot have passkeys")
        user = await self._user(login)
        if not is_fresh(login, self._clock.now()):
            raise GateError(ErrorCode.LOGIN_REQUIRED, "changing passkeys needs a login by passkey just before")
        return self._passkeys, user


def is_fresh(login: Login, now: int) -> bool:
    """Whether somebody has just proven by a passkey that they are there."""
    return login.method == "passkey" and now - login.authenticated_at < FRESH_FOR
