"""Argon2id (RFC 9106) in threads; implements `flows.authserver.passwords.PasswordHasher`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

import argon2
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError

from twogate.core.errors import ErrorCode, GateError

T = TypeVar("T")

PARAMETERS: Final = argon2.profiles.RFC_9106_LOW_MEMORY
"""The second recommended option of RFC 9106 section 4: 64 MiB, three passes, four lanes."""

AT_ONCE: Final = 2
"""Hashes computed at the same time: what they need of memory, and of the processor, is that much and no more."""

WAITING: Final = 64
"""Callers that may wait for their turn."""


class Argon2Hasher:
    """Hashes and verifies, `AT_ONCE` at a time."""

    def __init__(self, parameters: argon2.Parameters = PARAMETERS, *, waiting: int = WAITING) -> None:
        self._hasher = argon2.PasswordHasher.from_parameters(parameters)
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._under_way = 0
        self._most = AT_ONCE + waiting
        # What a password is compared with when there is nothing to compare it with.
        self._nobody: str | None = None

    async def hash(self, password: str) -> str:
        """A new hash of a password, with its salt and parameters.

        Raises:
            GateError: RATE_LIMITED if too many wait already.
        """
        return await self._in_turn(lambda: self._hasher.hash(password))

    async def verify(self, known: str, password: str) -> bool:
        """Whether the password has this hash. An empty hash takes as long as any, and no password has it.

        Raises:
            GateError: RATE_LIMITED if too many wait already; STORE_UNAVAILABLE if the hash is none of ours.
        """
        return await self._in_turn(lambda: self._matches(known, password))

    def is_outdated(self, known: str) -> bool:
        """Whether a hash was made with other parameters than new ones are."""
        return self._hasher.check_needs_rehash(known)

    def _matches(self, known: str, password: str) -> bool:
        if not known and self._nobody is None:
            self._nobody = self._hasher.hash("nobody")
        try:
            self._hasher.verify(known or self._nobody or "", password)
            return bool(known)
        except VerifyMismatchError:
            return False
        except (InvalidHashError, VerificationError) as error:
            raise GateError(ErrorCode.STORE_UNAVAILABLE, f"a password's hash: {type(error).__name__}") from None

    async def _in_turn(self, work: Callable[[], T]) -> T:
        if self._under_way >= self._most:
            raise GateError(ErrorCode.RATE_LIMITED, "too many passwords are being verified")
        self._under_way += 1
        try:
            async with self._turn:
                return await asyncio.to_thread(work)
        finally:
            self._under_way -= 1
