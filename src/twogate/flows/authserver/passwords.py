"""Passwords of people: verified with the same work for everybody, and kept only as hashes (row R-24)."""

from __future__ import annotations

from typing import Protocol

from twogate.core.password import judge_password, normalize_password
from twogate.flows.authserver.people import User


class PasswordHasher(Protocol):
    """Hashes passwords with a function that is slow on purpose, off the event loop, few at once."""

    async def hash(self, password: str) -> str:
        """A new hash of a password, with its salt and parameters.

        Raises:
            GateError: RATE_LIMITED if too many wait already.
        """
        ...

    async def verify(self, known: str, password: str) -> bool:
        """Whether the password has this hash. An empty hash takes as long as any, and no password has it.

        Raises:
            GateError: RATE_LIMITED if too many wait already.
        """
        ...

    def is_outdated(self, known: str) -> bool:
        """Whether a hash was made with other parameters than new ones are."""
        ...


class PasswordStore(Protocol):
    """Keeps hashes of passwords."""

    async def password_hash(self, tenant: str, subject: str) -> str:
        """The hash of a person's password; '' if they have none.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def set_password_hash(self, tenant: str, subject: str, new: str, *, instead_of: str | None = None) -> bool:
        """Keep the hash of a new password; with `instead_of` only if that is still the one kept.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...


class Passwords:
    """Verifies and sets passwords."""

    def __init__(self, store: PasswordStore, hasher: PasswordHasher) -> None:
        self._store = store
        self._hasher = hasher

    async def has_one(self, user: User) -> bool:
        """Whether the person can log in with a password at all.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        return bool(await self._store.password_hash(user.tenant, user.subject))

    async def verify(self, user: User | None, typed: str) -> bool:
        """Whether this is the person's password; for nobody (None) it is not, after the same work.

        Raises:
            GateError: RATE_LIMITED, STORE_UNAVAILABLE.
        """
        return await self.prove(user, typed) is not None

    async def prove(self, user: User | None, typed: str) -> str | None:
        """As `verify`; if it is the person's password, the hash that proves it, by which `is_still` knows it again.

        Raises:
            GateError: RATE_LIMITED, STORE_UNAVAILABLE.
        """
        password = normalize_password(typed)
        # Asked for nobody too, so that the store's answer takes its time either way.
        tenant, subject = ("", "") if user is None else (user.tenant, user.subject)
        known = await self._store.password_hash(tenant, subject)
        if not await self._hasher.verify(known, password) or user is None:
            return None
        if not self._hasher.is_outdated(known):
            return known
        # Unless it was changed meanwhile.
        new = await self._hasher.hash(password)
        return new if await self._store.set_password_hash(tenant, subject, new, instead_of=known) else known

    async def is_still(self, user: User, proof: str) -> bool:
        """Whether the person's password is the one of this hash, and was not replaced since.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        return await self._store.password_hash(user.tenant, user.subject) == proof

    def judge(self, user: User, typed: str) -> str | None:
        """What is wrong with a new password for this person, as a sentence for them; None if it is good."""
        return judge_password(typed, user.name, user.name.partition("@")[0], user.display_name)

    async def set(self, user: User, typed: str, *, instead_of: str | None = None) -> bool:
        """Give the person this password, which `judge` found good; with `instead_of` only if `is_still` that one.

        Raises:
            GateError: RATE_LIMITED, STORE_UNAVAILABLE.
            ValueError: it is not good.
        """
        if (problem := self.judge(user, typed)) is not None:
            raise ValueError(problem)
        new = await self._hasher.hash(normalize_password(typed))
        return await self._store.set_password_hash(user.tenant, user.subject, new, instead_of=instead_of)
