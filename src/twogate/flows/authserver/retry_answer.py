"""The answer to a rotation, kept so that a client which lost it can have it again (DESIGN; ADR 0010).

It holds tokens, so it is sealed twice: under a key that only the refresh token which it answered gives, of which the
store has a digest, and again in the envelope. Neither the store, nor the store with the envelope's key, opens it.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.access_token import encode_base64url
from twogate.core.oauth.refresh_token import RefreshToken
from twogate.flows.authserver.form import ClientCall
from twogate.flows.envelope import Envelope
from twogate.flows.environment import Rng

RETRY_WINDOW: Final = 10
"""Seconds after a rotation in which the token that was used up is answered as before."""

PURPOSE: Final = "refresh retry"

_SALT_BYTES: Final = 16
_KEY_BYTES: Final = 32
# Every value has a key of its own, by its salt, so no nonce is used twice.
_NONCE: Final = bytes(12)


class Asked(msgspec.Struct, frozen=True):
    """What decides an answer besides the token. A retry asks the same; anything else is another request."""

    proof: str | None
    scope: str | None
    resource: str | None
    details: str | None


class KeptAnswer(msgspec.Struct, frozen=True):
    """An answer and what it answered."""

    asked: Asked
    body: dict[str, Any]


def asked_by(call: ClientCall) -> Asked:
    """What a refresh request asks for."""
    form = call.form
    return Asked(call.proof, form.get("scope"), form.get("resource"), form.get("authorization_details"))


class RetryAnswers:
    """Seals answers for whoever still has the old token."""

    def __init__(self, envelope: Envelope, rng: Rng) -> None:
        self._envelope = envelope
        self._rng = rng

    async def seal(self, grant_id: str, spent: RefreshToken, asked: Asked, body: Mapping[str, object]) -> str:
        """The answer to a request that used up the token `spent`, as it may lie in the store.

        Raises:
            GateError: KEYS_UNAVAILABLE.
        """
        salt = self._rng.token(_SALT_BYTES)
        plaintext = msgspec.json.encode(KeptAnswer(asked, dict(body)))
        sealed = salt + _cipher(spent, salt).encrypt(_NONCE, plaintext, grant_id.encode())
        return encode_base64url(await self._envelope.seal(PURPOSE, grant_id, sealed))

    async def open(self, grant_id: str, spent: RefreshToken, sealed: str) -> KeptAnswer:
        """The answer.

        Raises:
            GateError: KEYS_UNAVAILABLE, also if what lies in the store was altered.
        """
        try:
            opened = await self._envelope.open(PURPOSE, grant_id, urlsafe_b64decode(sealed + "=" * (-len(sealed) % 4)))
            salt, ciphertext = opened[:_SALT_BYTES], opened[_SALT_BYTES:]
            plaintext = _cipher(spent, salt).decrypt(_NONCE, ciphertext, grant_id.encode())
            return msgspec.json.decode(plaintext, type=KeptAnswer)
        except (InvalidTag, ValueError):  # msgspec's errors are ValueErrors too
            raise GateError(ErrorCode.KEYS_UNAVAILABLE, "the kept answer was altered") from None


def _cipher(spent: RefreshToken, salt: bytes) -> AESGCM:
    derived = HKDF(SHA256(), _KEY_BYTES, salt=salt, info=b"twogate-refresh-retry-v1")
    return AESGCM(derived.derive(spent.secret.encode("ascii")))
