"""Credentials of ours at other servers, in files that an operator put there: a private key, or a secret.

They are read when they are used, so that they can be changed while the process runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from joserfc.jwk import ECKey, RSAKey

from twogate.adapters.signers.local import KeyFileError, read_private
from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.keys import MIN_RSA_BITS, Algorithm

MAX_SECRET: Final = 512

_COORDINATE: Final = 32

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class PemSigner:
    """Signs with a P-256 (ES256) or RSA (RS256) key from a PEM file; implements `flows.signer.Signer`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def kid(self) -> str:
        """The key's RFC 7638 thumbprint.

        Raises:
            GateError: KEYS_UNAVAILABLE.
        """
        return self._public().thumbprint()

    @property
    def algorithm(self) -> Algorithm:
        """The one algorithm that this key signs with.

        Raises:
            GateError: KEYS_UNAVAILABLE.
        """
        return Algorithm.ES256 if isinstance(self._load(), ec.EllipticCurvePrivateKey) else Algorithm.RS256

    def public_jwk(self) -> Mapping[str, str]:
        """The public key as a JWK.

        Raises:
            GateError: KEYS_UNAVAILABLE.
        """
        members: dict[str, object] = dict(self._public().as_dict(private=False))
        kept = {name: str(value) for name, value in members.items() if name in ("kty", "crv", "x", "y", "n", "e")}
        return {**kept, "kid": self.kid, "use": "sig", "alg": self.algorithm.value}

    async def sign(self, signing_input: bytes) -> bytes:
        """The signature as JWS has it (RFC 7518 sections 3.3 and 3.4).

        Raises:
            GateError: KEYS_UNAVAILABLE.
        """
        key = self._load()
        if isinstance(key, rsa.RSAPrivateKey):
            return key.sign(signing_input, padding.PKCS1v15(), hashes.SHA256())
        r, s = decode_dss_signature(key.sign(signing_input, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(_COORDINATE, "big") + s.to_bytes(_COORDINATE, "big")

    def _public(self) -> ECKey | RSAKey:
        key = self._load()
        if isinstance(key, rsa.RSAPrivateKey):
            return RSAKey.import_key(key.public_key())
        return ECKey.import_key(key.public_key())

    def _load(self) -> PrivateKey:
        try:
            key = serialization.load_pem_private_key(read_private(self._path), password=None)
        except KeyFileError as error:
            raise GateError(ErrorCode.KEYS_UNAVAILABLE, str(error)) from error
        except (ValueError, TypeError):
            # Not "from": whatever it says, it says of a private key.
            raise self._unusable("not an unencrypted PEM private key") from None
        if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
            return key
        if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= MIN_RSA_BITS:
            return key
        raise self._unusable(f"neither a P-256 key nor an RSA key of at least {MIN_RSA_BITS} bits")

    def _unusable(self, reason: str) -> GateError:
        return GateError(ErrorCode.KEYS_UNAVAILABLE, f"{self._path}: {reason}")


def read_secret(path: Path) -> str:
    """The secret in a file: its first line, printable ASCII.

    Raises:
        GateError: KEYS_UNAVAILABLE.
    """
    try:
        secret = read_private(path).decode("ascii").removesuffix("\n").removesuffix("\r")
    except KeyFileError as error:
        raise GateError(ErrorCode.KEYS_UNAVAILABLE, str(error)) from error
    except UnicodeDecodeError:
        secret = ""
    if not 0 < len(secret) <= MAX_SECRET or not secret.isprintable():
        raise GateError(ErrorCode.KEYS_UNAVAILABLE, f"{path} must hold the secret as one line of ASCII text")
    return secret
