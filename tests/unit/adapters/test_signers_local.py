"""Keys in local files: made once, kept private, never fallen back from."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jws
from joserfc.jwk import ECKey

from twogate.adapters.signers.local import SIGNING_KEY_FILE, KeyFileError, LocalSecret, LocalSigner
from twogate.core.oauth.access_token import join_signature, signing_input
from twogate.flows.signer import Signer

RACER = """
import sys
from pathlib import Path
from twogate.adapters.signers.local import LocalSecret, LocalSigner
print("ready", flush=True)
sys.stdin.readline()
directory = Path(sys.argv[1])
print(LocalSigner.open(directory).kid, LocalSecret.open(directory, "seal").hex())
"""


def pem(key: ec.EllipticCurvePrivateKey, password: bytes | None = None) -> bytes:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "keys"


async def test_it_signs_what_an_independent_library_verifies(directory: Path) -> None:
    signer: Signer = LocalSigner.open(directory)
    signed = signing_input({"iss": "x"}, algorithm=signer.algorithm.value, kid=signer.kid, typ="at+jwt")
    key = ECKey.import_key(dict(signer.public_jwk()))
    # Enough of them to meet an r or s with a leading zero byte now and then.
    for _ in range(300):
        signature = await signer.sign(signed)
        assert len(signature) == 64
        assert jws.deserialize_compact(join_signature(signed, signature), key, algorithms=["ES256"]).payload


def test_the_public_key_has_no_private_member_and_is_named_by_its_thumbprint(directory: Path) -> None:
    signer = LocalSigner.open(directory)
    jwk = signer.public_jwk()
    assert jwk.keys() == {"kty", "crv", "x", "y", "kid", "use", "alg"}
    assert jwk["kid"] == signer.kid == ECKey.import_key(dict(jwk)).thumbprint()


def test_the_key_is_made_once_and_kept(directory: Path) -> None:
    assert LocalSigner.open(directory).kid == LocalSigner.open(directory).kid
    assert LocalSecret.open(directory, "seal") == LocalSecret.open(directory, "seal")
    assert LocalSecret.open(directory, "seal") != LocalSecret.open(directory, "audit")


def test_nobody_else_can_read_what_was_made_and_nothing_is_left_over(directory: Path) -> None:
    LocalSigner.open(directory)
    LocalSecret.open(directory, "seal")
    assert directory.stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in directory.iterdir()) == ["seal", SIGNING_KEY_FILE]
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o600}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644, 0o610])
def test_a_file_that_is_open_to_others_is_refused(directory: Path, mode: int) -> None:
    LocalSigner.open(directory)
    LocalSecret.open(directory, "seal")
    (directory / SIGNING_KEY_FILE).chmod(mode)
    (directory / "seal").chmod(mode)
    with pytest.raises(KeyFileError, match=r"open to other users .* chmod 600"):
        LocalSigner.open(directory)
    with pytest.raises(KeyFileError, match=r"open to other users .* chmod 600"):
        LocalSecret.open(directory, "seal")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(directory: Path) -> None:
    LocalSigner.open(directory)
    os.chown(directory / SIGNING_KEY_FILE, 12345, -1)
    with pytest.raises(KeyFileError, match="belongs to another user"):
        LocalSigner.open(directory)


@pytest.mark.parametrize("mode", [0o770, 0o777, 0o702])
def test_a_directory_in_which_others_could_swap_the_key_is_refused(directory: Path, mode: int) -> None:
    LocalSigner.open(directory)
    directory.chmod(mode)
    with pytest.raises(KeyFileError, match=r"open to other users .* chmod 700"):
        LocalSigner.open(directory)


def test_a_link_to_a_key_is_refused(directory: Path, tmp_path: Path) -> None:
    LocalSigner.open(tmp_path / "other")
    directory.mkdir(mode=0o700)
    (directory / SIGNING_KEY_FILE).symlink_to(tmp_path / "other" / SIGNING_KEY_FILE)
    with pytest.raises(KeyFileError, match=SIGNING_KEY_FILE):
        LocalSigner.open(directory)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a key",
        pem(ec.generate_private_key(ec.SECP384R1())),
        pem(ec.generate_private_key(ec.SECP256R1()), b"pass"),
        b"\n" * 20_000,
    ],
)
def test_a_broken_key_file_is_refused_and_not_replaced(directory: Path, content: bytes) -> None:
    directory.mkdir(mode=0o700)
    path = directory / SIGNING_KEY_FILE
    path.touch(mode=0o600)
    path.write_bytes(content)
    with pytest.raises(KeyFileError, match=SIGNING_KEY_FILE):
        LocalSigner.open(directory)
    assert path.read_bytes() == content


def test_a_secret_of_another_length_is_refused(directory: Path) -> None:
    LocalSecret.open(directory, "seal")
    (directory / "seal").write_bytes(b"short")
    with pytest.raises(KeyFileError, match="32 bytes"):
        LocalSecret.open(directory, "seal")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "/a"])
def test_the_name_of_a_secret_cannot_leave_its_directory(directory: Path, name: str) -> None:
    with pytest.raises(ValueError, match="plain file name"):
        LocalSecret.open(directory, name)


async def test_processes_that_start_at_once_agree_on_one_key(directory: Path) -> None:
    racers = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", RACER, str(directory), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(4)
    ]
    try:
        for racer in racers:
            assert racer.stdout is not None
            assert await racer.stdout.readline() == b"ready\n"
        outputs = await asyncio.gather(*(racer.communicate(b"go\n") for racer in racers))
    finally:
        for racer in racers:
            if racer.returncode is None:
                racer.kill()
                await racer.wait()
    assert len({stdout for stdout, _ in outputs}) == 1
    assert outputs[0][0].split()[0].decode() == LocalSigner.open(directory).kid
