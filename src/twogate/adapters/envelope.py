"""The envelope key in a local file; implements `flows.envelope.Envelope`."""

from __future__ import annotations

from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from twogate.core.errors import ErrorCode, GateError
from twogate.flows.environment import Rng

KEY_FILE: Final = "envelope.key"
VERSION: Final = b"\x01"
SALT_BYTES: Final = 16
KEY_BYTES: Final = 32
NONCE: Final = bytes(12)


class LocalEnvelope:
    """AES-256-GCM, every value under a key of its own, derived from the file's by a random salt.

    So no nonce is ever used twice however many values there are: each key encrypts once.
    """

    def __init__(self, key: bytes, rng: Rng) -> None:
        """`key` are 32 random bytes (`LocalSecret`)."""
        self._key = key
        self._rng = rng

    async def seal(self, purpose: str, owner: str, plaintext: bytes) -> bytes:
        """Encrypt; see `Envelope.seal`. The result is a version byte, the salt, and the ciphertext with its tag."""
        salt = self._rng.token(SALT_BYTES)
        return VERSION + salt + self._cipher(salt).encrypt(NONCE, plaintext, _bound_to(purpose, owner))

    async def open(self, purpose: str, owner: str, sealed: bytes) -> bytes:
        """Decrypt; see `Envelope.open`.

        Raises:
            GateError: KEYS_UNAVAILABLE if the value was altered, belongs elsewhere, or was sealed under another key.
        """
        salt = sealed[len(VERSION) : len(VERSION) + SALT_BYTES]
        if sealed[: len(VERSION)] != VERSION or len(salt) != SALT_BYTES:
            raise GateError(ErrorCode.KEYS_UNAVAILABLE, f"{purpose}: not a sealed value of this version")
        try:
            return self._cipher(salt).decrypt(NONCE, sealed[len(VERSION) + SALT_BYTES :], _bound_to(purpose, owner))
        except InvalidTag:
            raise GateError(
                ErrorCode.KEYS_UNAVAILABLE, f"{purpose}: was altered, or sealed under another {KEY_FILE}"
            ) from None

    def _cipher(self, salt: bytes) -> AESGCM:
        return AESGCM(HKDF(SHA256(), KEY_BYTES, salt=salt, info=b"twogate-envelope-v1").derive(self._key))


def _bound_to(purpose: str, owner: str) -> bytes:
    return msgspec.json.encode([purpose, owner])
