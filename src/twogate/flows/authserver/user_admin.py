"""What operators do with people: add, change, lock out, let in again, give links (row R-24)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import msgspec

from twogate.core.approval import Duty
from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.user_name import MAX_NAME
from twogate.flows.authserver.links import LinkPurpose, Links
from twogate.flows.authserver.passkeys import Passkey, PasskeyStore
from twogate.flows.authserver.passwords import Passwords
from twogate.flows.authserver.people import User
from twogate.flows.authserver.person_trail import PersonTrail
from twogate.flows.authserver.revocations import outlasts_tokens
from twogate.flows.authserver.setup import EndsLogins
from twogate.flows.authserver.users import UserStore, new_subject
from twogate.flows.environment import Clock, Rng


class Doors(Protocol):
    """Locks people out and lets them in; the store does, all at once and in force everywhere on return."""

    async def disable(self, tenant: str, subject: str, until: int, now: int) -> bool:
        """Lock a person out, in force everywhere on return; False if they were out already.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def enable(self, tenant: str, subject: str) -> bool:
        """Let a person back in; False if they were not locked out.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...


class Terms(msgspec.Struct, frozen=True):
    """What the configuration lets people be: its tenants, roles and groups, and whether passkeys can work.

    `own_roles` are those that only people of a tenant can have.
    """

    tenants: Collection[str]
    roles: Collection[str]
    groups: Collection[str]
    passkeys: bool
    own_roles: Mapping[str, Collection[str]] = msgspec.field(default_factory=dict[str, Collection[str]])


class NewUser(msgspec.Struct, frozen=True):
    """A person to be added."""

    tenant: str
    name: str
    display_name: str = ""
    roles: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    duties: tuple[Duty, ...] = ()


class UserAdmin:
    """Changes people for operators."""

    def __init__(  # noqa: PLR0913, PLR0917 - one per port
        self,
        terms: Terms,
        store: UserStore,
        doors: Doors,
        links: Links,
        passwords: Passwords,
        passkeys: PasskeyStore,
        logins: EndsLogins,
        trail: PersonTrail,
        clock: Clock,
        rng: Rng,
    ) -> None:
        self._terms = terms
        self._store = store
        self._doors = doors
        self._links = links
        self._passwords = passwords
        self._passkeys = passkeys
        self._logins = logins
        self._trail = trail
        self._clock = clock
        self._rng = rng

    async def find(self, tenant: str, name: str) -> User:
        """The person of this name.

        Raises:
            GateError: NOT_FOUND, STORE_UNAVAILABLE.
        """
        user = await self._store.by_name(tenant, name)
        if user is None:
            raise GateError(ErrorCode.NOT_FOUND, f"there is no user {tenant}/{name}; `twogate user list` shows them")
        return user

    async def add(self, new: NewUser) -> tuple[User, str, int]:
        """Add a person; with the link by which they set a password and a passkey, and when it expires (Unix seconds).

        Raises:
            GateError: REQUEST_MALFORMED with what is wrong; STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        if new.tenant not in self._terms.tenants:
            raise _wrong(f"there is no tenant {new.tenant!r}; tenants: {', '.join(sorted(self._terms.tenants))}")
        user = User(
            tenant=new.tenant,
            subject=new_subject(self._rng),
            name=new.name,
            display_name=_checked_display(new.display_name),
            roles=self._checked_roles(new.roles, new.tenant),
            groups=self._checked_groups(new.groups),
            created_at=self._clock.now(),
            duties=_sorted(new.duties),
        )
        # The store refuses it too, but by then the trail would say that the person was added.
        if (other := await self._store.by_name(new.tenant, new.name)) is not None:
            raise _taken(other)
        await self._trail.done(EventKind.USER_ADDED, user, detail=_described(user))
        if not await self._store.add(user):
            raise _taken(user)
        link, expires_at = await self._links.issue(user, LinkPurpose.WELCOME)
        return user, link, expires_at

    async def change(
        self,
        user: User,
        *,
        display_name: str | None = None,
        roles: tuple[str, ...] | None = None,
        groups: tuple[str, ...] | None = None,
        duties: tuple[Duty, ...] | None = None,
    ) -> User:
        """Change what a person is called and may do; None leaves it as it is.

        Roles and groups are in force from the next token on, duties from the next request of a page.

        Raises:
            GateError: REQUEST_MALFORMED with what is wrong; STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        if user.provider is not None and (display_name is not None or groups is not None):
            raise _wrong(f"{user.provider} says what {user.name} is called and which groups they are in")
        changed = msgspec.structs.replace(
            user,
            display_name=user.display_name if display_name is None else _checked_display(display_name),
            roles=user.roles if roles is None else self._checked_roles(roles, user.tenant),
            groups=user.groups if groups is None else self._checked_groups(groups),
            duties=user.duties if duties is None else _sorted(duties),
        )
        await self._trail.done(EventKind.USER_CHANGED, changed, detail=_described(changed))
        await self._store.change(changed)
        return changed

    async def link(self, user: User, purpose: LinkPurpose) -> tuple[str, int]:
        """A new link for a person, and when it expires (Unix seconds). Every earlier one of theirs ends.

        Raises:
            GateError: REQUEST_MALFORMED with what is wrong; STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        if purpose is LinkPurpose.PASSKEY:
            _must_be_enabled(user)
        else:
            self._must_log_in_here(user)
        if purpose is LinkPurpose.PASSKEY and not self._terms.passkeys:
            raise _wrong("public_url is an address, and passkeys need a name: they cannot be used here")
        return await self._links.issue(user, purpose)

    async def passkeys(self, user: User) -> Sequence[Passkey]:
        """A person's passkeys, oldest first.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        return await self._passkeys.list(user.tenant, user.subject)

    async def remove_passkey(self, user: User, credential_id: str) -> None:
        """Remove a lost or stolen passkey; the person's browsers are logged out, since it may have logged one in.

        Raises:
            GateError: NOT_FOUND; STORE_UNAVAILABLE, AUDIT_UNAVAILABLE (nothing is removed then).
        """
        if all(passkey.credential_id != credential_id for passkey in await self.passkeys(user)):
            text = f"{user.tenant}/{user.name} has no passkey {credential_id}; `twogate user passkeys` shows them"
            raise GateError(ErrorCode.NOT_FOUND, text)
        await self._trail.done(EventKind.PASSKEY_REMOVED, user, detail=f"{credential_id}, by an operator")
        await self._passkeys.remove(user.tenant, user.subject, credential_id)
        await self._logins.end_all(user.tenant, user.subject)

    async def set_password(self, user: User, typed: str) -> None:
        """Set a person's password, as somebody at the operator's keyboard has typed it; their browsers are logged out.

        Raises:
            GateError: REQUEST_MALFORMED with what is wrong; STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        self._must_log_in_here(user)
        if (problem := self._passwords.judge(user, typed)) is not None:
            raise _wrong(problem)
        await self._trail.done(EventKind.USER_CHANGED, user, detail="password, by an operator")
        await self._passwords.set(user, typed)
        await self._logins.end_all(user.tenant, user.subject)

    async def disable(self, user: User) -> bool:
        """Lock a person out of everything, from the next request on; False if they were out already.

        Raises:
            GateError: STORE_UNAVAILABLE, AUDIT_UNAVAILABLE; then it may be repeated.
        """
        await self._trail.done(EventKind.USER_DISABLED, user)
        now = self._clock.now()
        return await self._doors.disable(user.tenant, user.subject, outlasts_tokens(now), now)

    async def enable(self, user: User) -> bool:
        """Let a person in again; False if they were not locked out. What they granted stays revoked.

        Raises:
            GateError: STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        await self._trail.done(EventKind.USER_CHANGED, user, detail="enabled")
        return await self._doors.enable(user.tenant, user.subject)

    def _must_log_in_here(self, user: User) -> None:
        _must_be_enabled(user)
        if user.provider is not None:
            # Else a person whom the provider removed could go on logging in.
            raise _wrong(
                f"{user.tenant}/{user.name} logs in at {user.provider}, and has no password here; "
                "a passkey, which signs approvals and logs nobody in, has the purpose `passkey`"
            )

    def _checked_roles(self, roles: tuple[str, ...], tenant: str) -> tuple[str, ...]:
        known = {*self._terms.roles, *self._terms.own_roles.get(tenant, ())}
        for role in roles:
            if role not in known:
                raise _wrong(f"there is no role {role!r}; roles: {', '.join(sorted(known))}")
        return tuple(dict.fromkeys(roles))

    def _checked_groups(self, groups: tuple[str, ...]) -> tuple[str, ...]:
        for group in groups:
            if group not in self._terms.groups:
                known = ", ".join(sorted(self._terms.groups)) or "none is configured"
                raise _wrong(f"there is no group {group!r}, so it would allow nothing; groups: {known}")
        return tuple(dict.fromkeys(groups))


def _must_be_enabled(user: User) -> None:
    if user.disabled:
        raise _wrong(f"{user.tenant}/{user.name} is disabled; enable them first")


def _checked_display(display_name: str) -> str:
    if len(display_name) > MAX_NAME or not display_name.isprintable():
        raise _wrong(f"a display name has at most {MAX_NAME} characters, none of them invisible")
    return display_name.strip()


def _described(user: User) -> str:
    return "; ".join(
        (
            user.name,
            f"roles {', '.join(user.roles) or '(none)'}",
            f"groups {', '.join(user.groups) or '(none)'}",
            f"duties {', '.join(user.duties) or '(none)'}",
        )
    )


def _sorted(duties: tuple[Duty, ...]) -> tuple[Duty, ...]:
    return tuple(duty for duty in Duty if duty in duties)


def _taken(user: User) -> GateError:
    whose = "" if user.provider is None else f", who logs in at {user.provider}"
    return _wrong(f"there is a user {user.tenant}/{user.name} already{whose}; `twogate user list` shows them")


def _wrong(text: str) -> GateError:
    return GateError(ErrorCode.REQUEST_MALFORMED, text)
