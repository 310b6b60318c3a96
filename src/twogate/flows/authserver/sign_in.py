"""Logging in by password or passkey, and logging out (row R-24)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import msgspec

from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.access_token import encode_base64url
from twogate.core.user_name import MAX_NAME, parse_user_name
from twogate.flows.authserver.lockout import Lockout, Try, network_of
from twogate.flows.authserver.logins import Login, LoginMethod, Logins, is_handle
from twogate.flows.authserver.passkeys import Passkeys
from twogate.flows.authserver.passwords import Passwords
from twogate.flows.authserver.people import User
from twogate.flows.authserver.person_trail import PersonTrail
from twogate.flows.authserver.users import Users
from twogate.flows.environment import Clock, Rng

DEVICE_BYTES: Final = 32

AT_ONCE: Final = 16
"""Passwords from one address that may be under way at once, so that no address takes every turn."""


class Visitor(msgspec.Struct, frozen=True):
    """Who comes: the digest of the browser's cookie, the cookies of its login and of logins before, and its address."""

    browser: str
    address: str
    login: str | None = None
    device: str | None = None

    def __repr__(self) -> str:
        """Say where from; cookies are credentials."""
        return f"Visitor(address={self.address!r})"


class SignedIn(msgspec.Struct, frozen=True):
    """A login that began: whose it is, and the values of the cookies that the browser gets for it."""

    user: User
    login: str
    device: str | None = None

    def __repr__(self) -> str:
        """Say who; cookies are credentials."""
        return f"SignedIn({self.user.subject!r})"


class SignIn:
    """Logs people in and out. `passkeys` is None where the server's address cannot have any."""

    def __init__(
        self,
        users: Users,
        passwords: Passwords,
        passkeys: Passkeys | None,
        lockout: Lockout,
        logins: Logins,
        trail: PersonTrail,
        clock: Clock,
        rng: Rng,
    ) -> None:
        self._users = users
        self._passwords = passwords
        self._passkeys = passkeys
        self._lockout = lockout
        self._logins = logins
        self._trail = trail
        self._clock = clock
        self._rng = rng
        self._under_way: Counter[str] = Counter()

    async def with_password(self, tenant: str, name: str, password: str, visitor: Visitor) -> SignedIn:
        """Log a person in by name and password. Nobody learns whether tenant or person exist.

        Raises:
            GateError: LOGIN_REFUSED; LOGIN_LOCKED, whose data has the seconds to wait as `wait`; RATE_LIMITED,
                STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        now = self._clock.now()
        tenant = tenant if len(tenant) <= MAX_NAME and tenant.isprintable() else ""
        known_as = parse_user_name(name) or ""
        device = visitor.device if is_handle(visitor.device) else None
        with self._counted(visitor.address):
            one = await self._lockout.begin(tenant, known_as, visitor.address, device, now)
            user = await self._users.by_name(tenant, known_as)
            if one.wait:
                raise await self._refusal(locked(one), user, visitor, "password")
            admitted = user if user is not None and not user.disabled and user.provider is None else None
            proof = await self._passwords.prove(admitted, password)
            if proof is None or admitted is None:
                await self._lockout.failed(one, now)
                why = "unknown name" if user is None else "disabled, or another's to vouch for"
                if admitted is not None:
                    why = "wrong password"
                raise await self._refusal(GateError(ErrorCode.LOGIN_REFUSED, why), user, visitor, "password")
        if device is None:
            device = encode_base64url(self._rng.token(DEVICE_BYTES))
            one = msgspec.structs.replace(
                one, places=(*one.places, self._lockout.device_place(tenant, known_as, device))
            )
        await self._lockout.succeeded(one, now)
        signed_in = await self._begin(admitted, "password", visitor, device)
        # Whoever replaces a password ends the logins that there are, and verifying the old one takes its time: a login
        # that comes after that, by a password from before, is none.
        if not await self._passwords.is_still(admitted, proof):
            await self._logins.end(signed_in.login)
            error = GateError(ErrorCode.LOGIN_REFUSED, "the password was replaced meanwhile")
            raise await self._refusal(error, admitted, visitor, "password")
        return signed_in

    async def with_passkey(self, tenant: str, answer: str, visitor: Visitor) -> SignedIn:
        """Log a person in by a passkey, of the tenant `tenant` unless that is ''. It is never locked.

        Raises:
            GateError: PASSKEY_REFUSED, INTERACTION_EXPIRED; STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        user = None
        try:
            if self._passkeys is None:
                raise GateError(ErrorCode.PASSKEY_REFUSED, "the server's address cannot have passkeys")
            now = self._clock.now()
            claimed, passkey = await self._passkeys.find_claimed(answer, visitor.browser, now)
            user = await self._users.user(passkey.tenant, passkey.subject)
            await self._passkeys.verify_claimed(claimed, passkey, now)
            if user is None or user.disabled or user.provider is not None:
                raise GateError(ErrorCode.PASSKEY_REFUSED, "the person is gone, disabled or another's to vouch for")
            if tenant not in ("", user.tenant):
                raise GateError(ErrorCode.PASSKEY_REFUSED, "the passkey is another tenant's")
            signed_in = await self._begin(user, "passkey", visitor, None)
            # Removing a passkey ends the logins that there are; this one may have come after that.
            if not await self._passkeys.is_kept(passkey):
                await self._logins.end(signed_in.login)
                raise GateError(ErrorCode.PASSKEY_REFUSED, "the passkey was removed meanwhile")
        except GateError as error:
            raise await self._refusal(error, user, visitor, "passkey") from None
        return signed_in

    async def log_out(self, visitor: Visitor) -> None:
        """End the browser's login, if it has one.

        Raises:
            GateError: STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        login = await self._logins.current(visitor.login, None, self._clock.now())
        user = None if login is None else await self._users.user(login.tenant, login.subject)
        if login is not None and user is not None:
            await self._trail.done(EventKind.LOGOUT, user, address=visitor.address, method=login.method)
        await self._logins.end(visitor.login)

    async def _begin(self, user: User, method: LoginMethod, visitor: Visitor, device: str | None) -> SignedIn:
        await self._trail.done(EventKind.LOGIN_SUCCEEDED, user, address=visitor.address, method=method)
        now = self._clock.now()
        login = Login(user.tenant, user.subject, method, now)
        return SignedIn(user, await self._logins.begin(login, now, visitor.login), device)

    async def _refusal(self, error: GateError, user: User | None, visitor: Visitor, method: str) -> GateError:
        await self._trail.refused(error, user, address=visitor.address, method=method)
        return error

    @contextmanager
    def _counted(self, address: str) -> Generator[None]:
        network = network_of(address)
        if self._under_way[network] >= AT_ONCE:
            raise GateError(ErrorCode.RATE_LIMITED, "too many passwords of this address are being verified")
        self._under_way[network] += 1
        try:
            yield
        finally:
            self._under_way[network] -= 1
            if not self._under_way[network]:
                del self._under_way[network]


def locked(one: Try) -> GateError:
    """The refusal of a try that must wait."""
    return GateError(ErrorCode.LOGIN_LOCKED, f"wait {one.wait} s", data={"wait": one.wait})
