"""Keys in local files: the signing key (ES256) and secrets of 32 random bytes.

They are kept as plain PEM and plain bytes, protected by the file's owner and mode alone: the process must be able to
read them without a person, so a passphrase would lie in the next file. Envelope encryption under a key that is not on
this disk comes with the key backends (R-52).

Files are made whole or not at all: a temporary file is written and then linked to its name, which fails if the name
exists. So of several processes that start at once one makes the key, and all of them load that one.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from joserfc.jwk import ECKey

from twogate.adapters.rng import SystemRng
from twogate.core.jose.keys import Algorithm
from twogate.flows.environment import Rng

SIGNING_KEY_FILE: Final = "signing-key.pem"
SECRET_BYTES: Final = 32
MAX_FILE: Final = 16 * 1024

_COORDINATE: Final = 32
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


class KeyFileError(Exception):
    """A key file cannot be used; the text says which, why and what to do. It is never fallen back from."""


class LocalSigner:
    """Signs with an ES256 key from a file; implements `flows.signer.Signer`."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        public = ECKey.import_key(key.public_key())
        # The members that make up an EC key and no other: nothing private can slip in here.
        members = public.as_dict(private=False)
        self._kid = public.thumbprint()
        self._jwk: Mapping[str, str] = {
            **{name: str(members[name]) for name in ("kty", "crv", "x", "y")},
            "kid": self._kid,
            "use": "sig",
            "alg": Algorithm.ES256.value,
        }

    @classmethod
    def open(cls, directory: Path) -> LocalSigner:
        """Load the signing key of a directory, making it (and the directory) on first use.

        Raises:
            KeyFileError: file or directory is open to others, belongs to somebody else, or holds no P-256 key.
        """
        path = directory / SIGNING_KEY_FILE
        pem = _load_or_make(path, _new_pem)
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError) as error:
            raise KeyFileError(f"{path}: not an unencrypted PEM private key; restore it from a backup") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise KeyFileError(f"{path}: not a P-256 key; ES256 needs one")
        return cls(key)

    @property
    def kid(self) -> str:
        """The key's RFC 7638 thumbprint."""
        return self._kid

    @property
    def algorithm(self) -> Algorithm:
        """Always ES256."""
        return Algorithm.ES256

    def public_jwk(self) -> Mapping[str, str]:
        """The public key as a JWK."""
        return dict(self._jwk)

    async def sign(self, signing_input: bytes) -> bytes:
        """The 64 bytes r and s (RFC 7518 section 3.4). About 30 microseconds, so not worth a thread."""
        r, s = decode_dss_signature(self._key.sign(signing_input, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(_COORDINATE, "big") + s.to_bytes(_COORDINATE, "big")


class LocalSecret:
    """Random bytes that only this installation knows, for sealing and for keyed digests."""

    @staticmethod
    def open(directory: Path, name: str, rng: Rng | None = None) -> bytes:
        """Load the 32 secret bytes of this name (a plain file name), making them on first use.

        Raises:
            KeyFileError: file or directory is open to others, belongs to somebody else, or is not 32 bytes long.
            ValueError: the name is not a plain file name.
        """
        if Path(name).name != name or name in ("", ".", ".."):
            raise ValueError("the name of a secret is a plain file name")
        source = rng or SystemRng()
        path = directory / name
        secret = _load_or_make(path, lambda: source.token(SECRET_BYTES))
        if len(secret) != SECRET_BYTES:
            raise KeyFileError(f"{path}: not {SECRET_BYTES} bytes long; restore it from a backup")
        return secret


def read_private(path: Path) -> bytes:
    """The content of a small file that nobody but its owner may read.

    Raises:
        KeyFileError: it is open to others, belongs to somebody else, is too large or cannot be read.
    """
    try:
        return _load(path)
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror or type(error).__name__}") from error


def _new_pem() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _load_or_make(path: Path, make: Callable[[], bytes]) -> bytes:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check(path.parent, path.parent.stat(), _OTHERS_WRITE)
        try:
            return _load(path)
        except FileNotFoundError:
            _make(path, make())
        return _load(path)
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror or type(error).__name__}") from error


def _load(path: Path) -> bytes:
    # What is checked is what is read: the open file, never a link to another.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE:
            raise KeyFileError(f"{path}: not a regular file of a sensible size")
        _check(path, status, _OTHERS)
        return file.read(MAX_FILE)


def _check(path: Path, status: os.stat_result, refused: int) -> None:
    if status.st_uid not in (os.geteuid(), 0):
        raise KeyFileError(f"{path}: belongs to another user (uid {status.st_uid}); chown it to the one that serves")
    if status.st_mode & refused:
        right = "chmod 700" if stat.S_ISDIR(status.st_mode) else "chmod 600"
        raise KeyFileError(f"{path}: open to other users (mode {stat.S_IMODE(status.st_mode):o}); {right} it")


def _make(path: Path, content: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # O_EXCL, mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return  # Another process was first; its key is the key.
    finally:
        Path(temporary).unlink()
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
