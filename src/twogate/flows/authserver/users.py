"""Finding people, and knowing them again who come from an identity provider."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.access_token import encode_base64url
from twogate.core.user_name import MAX_NAME, name_of_stranger
from twogate.flows.authserver.people import User
from twogate.flows.authserver.person_trail import PersonTrail
from twogate.flows.environment import Rng

SUBJECT_BYTES: Final = 16
_SUFFIX_BYTES: Final = 4
_ATTEMPTS: Final = 4


class Identity(msgspec.Struct, frozen=True):
    """A person as a provider knows them: its issuer and the `sub` of its tokens."""

    issuer: str
    subject: str


class UserStore(Protocol):
    """Keeps people."""

    async def user(self, tenant: str, subject: str) -> User | None:
        """A person as of now, disabled or not.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def by_name(self, tenant: str, name: str) -> User | None:
        """The person who logs in with this name.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def by_identity(self, identity: Identity, tenant: str) -> User | None:
        """The person that a provider's subject is in this tenant.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def identities(self, tenant: str, subject: str) -> Sequence[Identity]:
        """The identities that lead to a person.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def list(self, tenant: str | None = None) -> Sequence[User]:
        """Everybody, or everybody of a tenant, by tenant and name.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def add(self, user: User, identity: Identity | None = None) -> bool:
        """Add a person, with the identity that leads to them; all or nothing. False if name or identity is taken.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def describe(self, user: User) -> None:
        """Keep the display name and the groups that the person's provider tells; nothing else changes.

        What an operator gives meanwhile must not be undone by a login.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def change(self, user: User) -> None:
        """Keep what an operator says of a person: display name, roles, groups, duties.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...


class Users:
    """Finds people; implements `people.People`."""

    def __init__(self, store: UserStore, rng: Rng, trail: PersonTrail) -> None:
        self._store = store
        self._rng = rng
        self._trail = trail

    async def user(self, tenant: str, subject: str) -> User | None:
        """A person as of now, disabled or not.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        return await self._store.user(tenant, subject)

    async def by_name(self, tenant: str, name: str) -> User | None:
        """The person who logs in with this name (`parse_user_name`).

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        return await self._store.by_name(tenant, name)

    async def by_identity(self, issuer: str, provider_subject: str, tenant: str) -> User | None:
        """The person of a tenant that a provider's subject is, disabled or not.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        return await self._store.by_identity(Identity(issuer, provider_subject), tenant)

    async def identities(self, user: User) -> Sequence[Identity]:
        """Who a person is at the providers that vouch for them.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        return [] if user.provider is None else await self._store.identities(user.tenant, user.subject)

    async def upstream_user(
        self,
        provider_issuer: str,
        provider_subject: str,
        tenant: str,
        name: str,
        display_name: str,
        groups: Sequence[str],
        now: int,
    ) -> User:
        """The person that a provider vouches for, with the groups and the name that it says; added if new.

        Only issuer and subject say who it is. A name proves nothing: if somebody else has it, this person gets another.
        Disabled people are returned too. The audit trail has a new person first.

        Raises:
            GateError: STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        identity = Identity(provider_issuer, provider_subject)
        seen = "".join(char if char.isprintable() else " " for char in display_name[:MAX_NAME]).strip()
        said = (seen, tuple(sorted(set(groups))))
        for attempt in range(_ATTEMPTS):
            known = await self._store.by_identity(identity, tenant)
            if known is not None:
                current = msgspec.structs.replace(known, display_name=said[0], groups=said[1])
                if current != known:
                    await self._store.describe(current)
                return current
            subject = new_subject(self._rng)
            wanted = name_of_stranger(name, f"person-{subject}".casefold())
            if attempt:
                # Taken, by somebody else or by this very person in another browser: the next look tells.
                suffix = encode_base64url(self._rng.token(_SUFFIX_BYTES)).casefold()
                wanted = f"{wanted[: MAX_NAME - len(suffix) - 1]}~{suffix}"
            user = User(
                tenant=tenant,
                subject=subject,
                name=wanted,
                display_name=said[0],
                groups=said[1],
                provider=provider_issuer,
                created_at=now,
            )
            await self._trail.done(EventKind.USER_ADDED, user, method="upstream", detail=provider_issuer)
            if await self._store.add(user, identity):
                return user
        raise GateError(ErrorCode.STORE_UNAVAILABLE, "no free name was found for a person of a provider")


def new_subject(rng: Rng) -> str:
    """A subject for a person: random, so that it says nothing and is never given out again."""
    return encode_base64url(rng.token(SUBJECT_BYTES))
