"""Secrets in files that another system rotates, one a file; implements `flows.secrets.SecretSource`."""

from __future__ import annotations

from pathlib import Path

from twogate.adapters.secrets.watched_file import Mark, WatchedFileError, current_mark, read_watched
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.secrets import MAX_SECRET, Secret, parse_secret


class FileSecrets:
    """Reads each file once, and again as soon as another one is there. A name is an absolute path."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[Mark, Secret]] = {}

    async def read(self, tenant: str, name: str) -> Secret:
        """See `SecretSource.read`.

        Raises:
            GateError: SECRET_UNAVAILABLE: the file is missing, open to others, or holds no secret.
        """
        path = Path(name)
        try:
            known = self._read.get(name)
            if known is not None and known[0] == current_mark(path):
                return known[1]
            raw, mark = read_watched(path, MAX_SECRET + 2)
            secret = Secret(parse_secret(raw))
        except WatchedFileError as error:
            raise GateError(ErrorCode.SECRET_UNAVAILABLE, f"{tenant}: {error}") from error
        except GateError as error:
            raise GateError(ErrorCode.SECRET_UNAVAILABLE, f"{tenant}: {path}: {error.debug}") from error
        self._read[name] = (mark, secret)
        return secret
