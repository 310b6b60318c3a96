"""Encryption of what the store must keep but nobody who reads the store may see (R-52, R-63; DESIGN, "Security rules").

Upstream refresh tokens and other secrets lie in the store under a key that is elsewhere: in a local file now, in a key
manager later. So whoever copies the database has ciphertext.
"""

from __future__ import annotations

from typing import Protocol


class Envelope(Protocol):
    """Seals values under a key that never leaves its place."""

    async def seal(self, purpose: str, owner: str, plaintext: bytes) -> bytes:
        """Encrypt; only `open` with the same purpose and owner gives it back.

        `purpose` says what the value is, `owner` to which row it belongs, so that ciphertexts cannot be exchanged.

        Raises:
            GateError: KEYS_UNAVAILABLE.
        """
        ...

    async def open(self, purpose: str, owner: str, sealed: bytes) -> bytes:
        """The plaintext.

        Raises:
            GateError: KEYS_UNAVAILABLE, also if the value was altered or sealed under another key.
        """
        ...
