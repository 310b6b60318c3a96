"""How we authenticate at an upstream provider's token endpoint, where we are the client."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from typing import Final, Protocol
from urllib.parse import quote_plus

import msgspec

from twogate.core.oauth.access_token import encode_base64url, join_signature
from twogate.core.oauth.client_auth import ASSERTION_TYPE, AuthMethod
from twogate.core.oauth.provider import ProviderMetadata
from twogate.flows.environment import Rng
from twogate.flows.signer import Signer

ASSERTION_LIFETIME: Final = 60
"""Seconds that a client assertion of ours is good for."""

JTI_BYTES: Final = 16


class Presentation(msgspec.Struct, frozen=True):
    """What a token request carries to authenticate: form fields, and the value of an `Authorization` header."""

    form: dict[str, str]
    authorization: str | None = None

    def __repr__(self) -> str:
        """Leave out the credential."""
        return f"Presentation({sorted(self.form)})"


class ClientCredential(Protocol):
    """A credential of ours at one provider."""

    async def present(self, metadata: ProviderMetadata, now: int) -> Presentation:
        """What one request carries.

        Raises:
            GateError: KEYS_UNAVAILABLE.
        """
        ...


class SecretCredential:
    """A client secret: `client_secret_basic`, or `client_secret_post` at a provider that takes nothing else."""

    def __init__(self, client_id: str, read_secret: Callable[[], str]) -> None:
        """`read_secret` raises KEYS_UNAVAILABLE."""
        self._client_id = client_id
        self._read_secret = read_secret

    async def present(self, metadata: ProviderMetadata, now: int) -> Presentation:  # noqa: ARG002 - ClientCredential
        """The secret, by the method that the provider takes (RFC 6749 section 2.3.1).

        Raises:
            GateError: KEYS_UNAVAILABLE.
        """
        secret = self._read_secret()
        if AuthMethod.BASIC.value not in metadata.methods and AuthMethod.POST.value in metadata.methods:
            return Presentation({"client_id": self._client_id, "client_secret": secret})
        # "The client identifier is encoded using the "application/x-www-form-urlencoded" encoding algorithm".
        pair = f"{quote_plus(self._client_id)}:{quote_plus(secret)}"
        return Presentation({}, f"Basic {b64encode(pair.encode()).decode('ascii')}")


class KeyCredential:
    """A private key: `private_key_jwt` (RFC 7523 section 2.2, OpenID Connect Core section 9).

    The assertion is for the issuer unless `for_endpoint`: only the issuer's name cannot be made to mean another server.
    """

    def __init__(
        self, client_id: str, signer: Signer, rng: Rng, *, key_id: str | None = None, for_endpoint: bool = False
    ) -> None:
        """`key_id` is what the provider calls the key; without one the assertion names none, and any fits."""
        self._client_id = client_id
        self._key_id = key_id
        self._signer = signer
        self._rng = rng
        self._for_endpoint = for_endpoint

    async def present(self, metadata: ProviderMetadata, now: int) -> Presentation:
        """A fresh assertion.

        Raises:
            GateError: KEYS_UNAVAILABLE.
        """
        claims = {
            "iss": self._client_id,
            "sub": self._client_id,
            "aud": metadata.token_endpoint if self._for_endpoint else metadata.issuer,
            "iat": now,
            "exp": now + ASSERTION_LIFETIME,
            "jti": encode_base64url(self._rng.token(JTI_BYTES)),
        }
        header = {"alg": self._signer.algorithm.value, "typ": "JWT"}
        if self._key_id is not None:
            header["kid"] = self._key_id
        signed = ".".join(encode_base64url(msgspec.json.encode(part)) for part in (header, claims)).encode("ascii")
        assertion = join_signature(signed, await self._signer.sign(signed))
        return Presentation(
            {
                "client_id": self._client_id,
                "client_assertion_type": ASSERTION_TYPE,
                "client_assertion": assertion,
            }
        )
