"""An issuer's keys in a file that its platform keeps up to date, such as a SPIFFE bundle or a mounted key set."""

from __future__ import annotations

from pathlib import Path

from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.keys import FOR_SIGNATURES, MAX_DOCUMENT, VerificationKey, parse_jwks


class FileKeys:
    """Implements `flows.gateway.issuers.KeySource`: the keys as the file has them now.

    The file is read again once it is another one or was changed. While it cannot be read, nothing verifies.
    """

    def __init__(self, path: Path, uses: frozenset[str] = FOR_SIGNATURES) -> None:
        self._path = path
        self._uses = uses
        self._seen: tuple[int, int, int] | None = None
        self._keys: tuple[VerificationKey, ...] = ()

    async def keys(self, unverified_kid: str | None) -> tuple[VerificationKey, ...]:  # noqa: ARG002 - see KeySource
        """The keys, looked up anew; a local file costs less than being behind a rotation.

        Raises:
            GateError: KEYS_UNAVAILABLE.
        """
        try:
            status = self._path.stat()
            seen = (status.st_ino, status.st_mtime_ns, status.st_size)
            if seen != self._seen:
                with self._path.open("rb") as file:
                    document = file.read(MAX_DOCUMENT + 1)
                self._keys = parse_jwks(document, self._uses)
                self._seen = seen
        except OSError as error:
            raise GateError(ErrorCode.KEYS_UNAVAILABLE, f"the key file cannot be read: {error.strerror}") from error
        return self._keys
