"""Signing, wherever the private key lives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from twogate.core.jose.keys import Algorithm
from twogate.core.oauth.access_token import join_signature, signing_input


class Signer(Protocol):
    """A private key that never leaves its place."""

    @property
    def kid(self) -> str:
        """The key's identifier: its RFC 7638 thumbprint."""
        ...

    @property
    def algorithm(self) -> Algorithm:
        """The one algorithm that this key signs with."""
        ...

    def public_jwk(self) -> Mapping[str, str]:
        """The public key as a JWK with `kid`, `use` and `alg`."""
        ...

    async def sign(self, signing_input: bytes) -> bytes:
        """The signature as JWS has it (RFC 7518 section 3; for ES256 the 64 bytes of r and s).

        Raises:
            GateError: KEYS_UNAVAILABLE if the key cannot be reached.
        """
        ...


async def sign_jwt(signer: Signer, claims: Mapping[str, object], typ: str) -> str:
    """A compact JWT of these claims and this type.

    Raises:
        GateError: KEYS_UNAVAILABLE.
    """
    signed = signing_input(claims, algorithm=signer.algorithm.value, kid=signer.kid, typ=typ)
    return join_signature(signed, await signer.sign(signed))
