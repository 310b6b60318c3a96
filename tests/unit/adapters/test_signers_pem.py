"""Credentials of ours at other servers: keys and secrets in files that an operator put there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from twogate.adapters.rng import SystemRng
from twogate.adapters.signers.pem import PemSigner, read_secret
from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.jwt import parse_jwt, verify_jwt
from twogate.core.jose.keys import Algorithm, parse_jwks
from twogate.core.oauth.client_auth import ASSERTION_TYPE
from twogate.core.oauth.provider import ProviderMetadata
from twogate.flows.authserver.upstream_client_auth import KeyCredential

NOW = 1_800_000_000
METADATA = ProviderMetadata(
    "https://idp.example", "https://idp.example/auth", "https://idp.example/token", True, frozenset()
)
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def write(path: Path, key: Key, password: bytes | None = None) -> Path:
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None:
        encryption = serialization.BestAvailableEncryption(password)
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [(ec.generate_private_key(ec.SECP256R1()), "ES256"), (rsa.generate_private_key(65537, 2048), "RS256")],
    ids=["ES256", "RS256"],
)
@pytest.mark.parametrize("kid", [None, "my-key"])
@pytest.mark.parametrize("for_endpoint", [False, True])
async def test_an_assertion_is_signed_with_the_key_in_the_file(
    tmp_path: Path,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
    algorithm: str,
    kid: str | None,
    *,
    for_endpoint: bool,
) -> None:
    signer = PemSigner(write(tmp_path / "login.pem", key))
    credential = KeyCredential("twogate", signer, SystemRng(), key_id=kid, for_endpoint=for_endpoint)
    first, second = await credential.present(METADATA, NOW), await credential.present(METADATA, NOW)
    assert first.authorization is None
    assert (first.form["client_id"], first.form["client_assertion_type"]) == ("twogate", ASSERTION_TYPE)
    jwt = parse_jwt(first.form["client_assertion"])
    keys = parse_jwks(json.dumps({"keys": [{**signer.public_jwk(), "kid": kid or signer.kid}]}).encode())
    assert jwt.unverified_kid == kid
    claims = dict(verify_jwt(jwt, keys, frozenset({Algorithm(algorithm)})).claims)
    jti = claims.pop("jti")
    assert claims == {
        "iss": "twogate",
        "sub": "twogate",
        "aud": "https://idp.example/token" if for_endpoint else "https://idp.example",
        "iat": NOW,
        "exp": NOW + 60,
    }
    assert jti not in second.form["client_assertion"]
    assert "client_assertion" not in repr(first).replace("'client_assertion", "")


async def refusal(signer: PemSigner) -> str:
    with pytest.raises(GateError) as refused:
        await signer.sign(b"x")
    assert refused.value.code is ErrorCode.KEYS_UNAVAILABLE
    return refused.value.debug


async def test_a_key_that_cannot_be_used_is_told_of_and_nothing_of_it(tmp_path: Path) -> None:
    path = tmp_path / "login.pem"
    assert "No such file" in await refusal(PemSigner(path))
    write(path, ec.generate_private_key(ec.SECP256R1()), b"a passphrase")
    assert "unencrypted PEM" in await refusal(PemSigner(path))
    for key in (
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 1024),  # noqa: S505 - refused for that
        ed25519.Ed25519PrivateKey.generate(),
    ):
        write(path, key)
        assert "neither a P-256 key nor an RSA key" in await refusal(PemSigner(path))
    path.write_text("-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n")
    assert "secret" not in await refusal(PemSigner(path))
    write(path, ec.generate_private_key(ec.SECP256R1())).chmod(0o640)
    assert "open to other users" in await refusal(PemSigner(path))


async def test_a_key_that_is_replaced_counts_from_then_on(tmp_path: Path) -> None:
    path = tmp_path / "login.pem"
    signer = PemSigner(write(path, ec.generate_private_key(ec.SECP256R1())))
    before = signer.kid
    write(path, rsa.generate_private_key(65537, 2048))
    assert signer.kid != before
    assert signer.algorithm is Algorithm.RS256


@pytest.mark.parametrize(
    ("content", "secret"), [(b"s3cret\n", "s3cret"), (b"s3cret", "s3cret"), (b"with blanks \r\n", "with blanks ")]
)
def test_a_secret_is_one_line(tmp_path: Path, content: bytes, secret: str) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    path.chmod(0o600)
    assert read_secret(path) == secret


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines\n", "sécret".encode(), b"a" * 513, b"nul\0"])
def test_a_secret_that_is_none_is_told_of_and_not_repeated(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(GateError) as refused:
        read_secret(path)
    assert refused.value.code is ErrorCode.KEYS_UNAVAILABLE
    assert "one line" in refused.value.debug


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"s3cret")
    path.chmod(0o644)
    with pytest.raises(GateError, match="open to other users"):
        read_secret(path)
