"""A key pair for a new agent, made here so that its operator need not; the private half is given out, never kept."""

from __future__ import annotations

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc.jwk import ECKey

from twogate.core.jose.keys import Algorithm


def new_agent_key() -> tuple[str, str]:
    """A fresh ES256 key: the private key as PEM (PKCS #8) and the public one as a JWK set."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    public = ECKey.import_key(key.public_key())
    members = {**public.as_dict(private=False), "use": "sig", "alg": Algorithm.ES256.value}
    # No `kid`: OAuth clients commonly sign assertions without one, and the only key needs no name.
    members.pop("kid", None)
    return pem, msgspec.json.encode({"keys": [members]}).decode()
