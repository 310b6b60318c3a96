"""Twogate's own store of secrets: a sealed file for each tenant; implements `SecretSource` and `SecretStore`.

    STATE/secrets/TENANT.sealed      {"version": 1, "secrets": {NAME: {"value": …, "set_at": Unix seconds}}}, sealed
    STATE/secrets/TENANT.lock        held by whoever changes it

The whole is sealed for its tenant, so one tenant's file is of no use in another's place. It is replaced by rename:
processes that share the directory see the old secrets or the new ones, and never wait.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal

import msgspec

from twogate.adapters.secrets.watched_file import Mark, WatchedFileError, current_mark, read_watched
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.envelope import Envelope
from twogate.flows.secret_admin import KeptSecret
from twogate.flows.secrets import Secret

DIRECTORY: Final = "secrets"
MAX_FILE: Final = 4 * 1024 * 1024
MAX_SECRETS: Final = 256
"""Secrets of one tenant."""

PURPOSE: Final = "upstream secrets"


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    value: str
    set_at: int

    def __repr__(self) -> str:
        return "_Kept(…)"


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: Literal[1]
    secrets: dict[str, _Kept]


_NOTHING: Final = _Content(1, {})


class SealedSecrets:
    """The secrets below a state directory."""

    def __init__(self, state: Path, envelope: Envelope) -> None:
        self._directory = state / DIRECTORY
        self._envelope = envelope
        self._opened: dict[str, tuple[Mark, dict[str, Secret]]] = {}

    async def read(self, tenant: str, name: str) -> Secret:
        """See `SecretSource.read`.

        Raises:
            GateError: SECRET_UNAVAILABLE.
        """
        try:
            mark = current_mark(self._path(tenant))
        except WatchedFileError as error:
            raise _unavailable(tenant, str(error)) from error
        opened = self._opened.get(tenant)
        if mark is None:
            opened = None
        elif opened is None or opened[0] != mark:
            content, read = await self._load(tenant)
            secrets = {key: Secret(kept.value) for key, kept in content.secrets.items()}
            opened = self._opened[tenant] = (read, secrets)
        secret = None if opened is None else opened[1].get(name)
        if secret is None:
            raise _unavailable(tenant, f"there is no secret {name}; `twogate secret set {tenant} {name}` keeps one")
        return secret

    async def put(self, tenant: str, name: str, value: str, now: int) -> None:
        """See `SecretStore.put`.

        Raises:
            GateError: SECRET_UNAVAILABLE: what is there cannot be read, or too many are kept.
            OSError: it cannot be written.
        """
        with self._locked(tenant):
            secrets = {**(await self._content(tenant)).secrets, name: _Kept(value, now)}
            if len(secrets) > MAX_SECRETS:
                raise _unavailable(tenant, f"{MAX_SECRETS} secrets are kept already")
            await self._save(tenant, secrets)

    async def remove(self, tenant: str, name: str) -> bool:
        """See `SecretStore.remove`.

        Raises:
            GateError: SECRET_UNAVAILABLE.
            OSError: it cannot be written.
        """
        with self._locked(tenant):
            secrets = dict((await self._content(tenant)).secrets)
            if secrets.pop(name, None) is None:
                return False
            await self._save(tenant, secrets)
            return True

    async def list(self, tenant: str) -> Sequence[KeptSecret]:
        """See `SecretStore.list`.

        Raises:
            GateError: SECRET_UNAVAILABLE.
        """
        content = await self._content(tenant)
        return [KeptSecret(tenant, name, kept.set_at) for name, kept in sorted(content.secrets.items())]

    def _path(self, tenant: str) -> Path:
        return self._directory / f"{tenant}.sealed"

    async def _content(self, tenant: str) -> _Content:
        return (await self._load(tenant))[0] if self._path(tenant).exists() else _NOTHING

    async def _load(self, tenant: str) -> tuple[_Content, Mark]:
        try:
            sealed, mark = read_watched(self._path(tenant), MAX_FILE)
            raw = await self._envelope.open(PURPOSE, tenant, sealed)
            return msgspec.json.decode(raw, type=_Content), mark
        except WatchedFileError as error:
            raise _unavailable(tenant, str(error)) from error
        except GateError as error:
            raise _unavailable(tenant, error.debug) from error
        except msgspec.MsgspecError:
            # Not the parser's text: it may quote.
            raise _unavailable(tenant, "the sealed file is of another version") from None

    async def _save(self, tenant: str, secrets: dict[str, _Kept]) -> None:
        sealed = await self._envelope.seal(PURPOSE, tenant, msgspec.json.encode(_Content(1, secrets)))
        self._replace(self._path(tenant), sealed)

    def _replace(self, path: Path, sealed: bytes) -> None:
        # Made with mode 0600, so it is at no moment open to anybody else.
        descriptor, temporary = tempfile.mkstemp(dir=self._directory, prefix=".secrets-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(sealed)
                file.flush()
                os.fsync(descriptor)
            Path(temporary).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(temporary).unlink()
            raise
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    @contextmanager
    def _locked(self, tenant: str) -> Generator[None]:
        """Keep others from changing what this process is about to replace."""
        for place in (self._directory.parent, self._directory):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._directory / f"{tenant}.lock", flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _unavailable(tenant: str, why: str) -> GateError:
    return GateError(ErrorCode.SECRET_UNAVAILABLE, f"{tenant}: {why}")
