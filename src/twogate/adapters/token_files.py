"""Tokens of the command line's own logins, one file each, for their owner alone.

A file is JSON and named by the digest of issuer and resource:

    {"version": 1, "issuer": …, "client_id": …, "resource": …, "scope": …, "access_token": …, "expires_at": …,
     "refresh_token": … or null}

`expires_at` is Unix seconds. A file is replaced whole. Whoever redeems its refresh token holds its lock: two commands
that redeemed one token would look like a thief and its victim, and the server would end both (RFC 9700 section 4.14).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.strict_json import decode

MAX_FILE: Final = 64 * 1024

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class StoredTokens(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens of one login. `expires_at` is when the access token ends, Unix seconds."""

    issuer: str
    client_id: str
    resource: str
    scope: str
    access_token: str
    expires_at: int
    refresh_token: str | None = None
    version: Literal[1] = 1

    def __repr__(self) -> str:
        """Leave the tokens out."""
        return f"StoredTokens({self.issuer!r}, {self.resource!r})"


class TokenFileError(Exception):
    """A token file cannot be used; the text says which and why."""


def default_directory() -> Path:
    """Where logins are kept: `twogate/logins` in the user's state directory (XDG Base Directory Specification)."""
    configured = os.environ.get("XDG_STATE_HOME", "")  # noqa: TID251 - where the user keeps state is no setting
    # "All paths set in these environment variables must be absolute … consider the path invalid and ignore it."
    state = Path(configured) if configured.startswith("/") else Path.home() / ".local" / "state"
    return state / "twogate" / "logins"


class TokenFiles:
    """The token files of one directory, which is made when it is first needed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, issuer: str, resource: str) -> Path:
        """The file of a login."""
        digest = hashlib.sha256(msgspec.json.encode((issuer, resource))).hexdigest()
        return self._directory / f"{digest[:32]}.json"

    def load(self, issuer: str, resource: str) -> StoredTokens | None:
        """The tokens of a login; None if there is none.

        Raises:
            TokenFileError: others may read the file, it is somebody else's, or it holds no tokens for this.
            OSError: it cannot be read.
        """
        path = self.path(issuer, resource)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & _OTHERS:
                raise TokenFileError(f"{path}: others may read or write it; remove it and log in again")
            raw = file.read(MAX_FILE + 1)
        try:
            tokens = msgspec.convert(decode(raw, max_bytes=MAX_FILE, max_depth=2), StoredTokens)
        except (GateError, msgspec.ValidationError) as error:
            # Not the parser's text: it may quote a token.
            reason = error.code.value if isinstance(error, GateError) else ErrorCode.REQUEST_MALFORMED.value
            raise TokenFileError(f"{path}: no tokens ({reason}); remove it and log in again") from None
        if (tokens.issuer, tokens.resource) != (issuer, resource):
            raise TokenFileError(f"{path}: another login's tokens; remove it and log in again")
        return tokens

    def save(self, tokens: StoredTokens) -> Path:
        """Write the tokens of a login in place of what was there; where they are.

        Raises:
            OSError: the file cannot be written.
        """
        path = self.path(tokens.issuer, tokens.resource)
        self._make_directory()
        # Made with mode 0600, so the tokens are at no moment open to anybody else.
        descriptor, temporary = tempfile.mkstemp(dir=self._directory, prefix=".login-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.encode(tokens))
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(temporary).unlink()
            raise
        return path

    def forget(self, issuer: str, resource: str) -> bool:
        """Remove the tokens of a login; False if there were none.

        Raises:
            OSError: the file cannot be removed.
        """
        try:
            self.path(issuer, resource).unlink()
        except FileNotFoundError:
            return False
        return True

    @contextmanager
    def locked(self, issuer: str, resource: str) -> Generator[None]:
        """Keep every other process from using this login's refresh token until the block ends.

        Raises:
            OSError: the lock cannot be taken.
        """
        self._make_directory()
        lock = self.path(issuer, resource).with_suffix(".lock")
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _make_directory(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
