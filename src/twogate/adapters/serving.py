"""Which process serves over a state directory, and how its last reload ended: for `twogate reload`.

Two files of mode 0600. `serve.lock` is locked by the serving process for as long as it lives, however it ends, so a
`serve.json` that nobody holds the lock for is what a killed process left. It is never removed: a lock on a removed file
would keep nobody out. `serve.json` is replaced whole with each change, so a reader sees all of it or nothing.

A reader trusts them only if they are its own user's: who may write them says which process gets the signal.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import tempfile
import time
from pathlib import Path
from typing import Final

import msgspec

LOCK: Final = "serve.lock"
STATUS: Final = "serve.json"
MAX_STATUS: Final = 1024 * 1024
"""Bytes of the status; a longer one is not read."""
PATIENCE: Final = 1.0
"""Seconds that a starting process waits for the lock, which a reader holds for a moment when it asks who serves."""
_TICK: Final = 0.02
_NOT_OURS: Final = stat.S_IRWXG | stat.S_IRWXO


class ServingError(Exception):
    """The state directory cannot be served over, or its files cannot be trusted; the text says why and what to do."""


class Problem(msgspec.Struct, frozen=True):
    """One thing wrong with a configuration file, as `twogate check` reports it."""

    file: str
    line: int
    key: str
    message: str


class Reload(msgspec.Struct, frozen=True):
    """How one attempt to reload ended. `generation` is in force now; `code` is empty if it was taken."""

    number: int
    before: str
    generation: str
    code: str = ""
    message: str = ""
    problems: tuple[Problem, ...] = ()


class Status(msgspec.Struct, frozen=True):
    """The serving process. `started` is Unix seconds, `config` the file it loads, as an absolute path.

    `begun` counts the attempts to reload: whoever reads it, then asks for a reload, is answered by a `last` whose
    number is greater, because that attempt read the file after they did.
    """

    pid: int
    started: int
    generation: str
    config: str
    begun: int = 0
    last: Reload | None = None


class Serving:
    """The one process that serves over a state directory."""

    def __init__(self, directory: Path) -> None:
        """Take the lock; the directory is made if it is missing.

        Raises:
            ServingError: another process serves over it.
            OSError: the lock cannot be made.
        """
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = _open_own(directory / LOCK, os.O_RDWR | os.O_CREAT)
        deadline = time.monotonic() + PATIENCE  # noqa: TID251 - an adapter
        while not _locked(self._lock, fcntl.LOCK_EX):
            if time.monotonic() >= deadline:  # noqa: TID251 - as above
                os.close(self._lock)
                raise ServingError(_occupied(directory))
            time.sleep(_TICK)
        # What a killed process left; only we may write now.
        (directory / STATUS).unlink(missing_ok=True)

    def publish(self, status: Status) -> None:
        """Replace the status.

        Raises:
            OSError: it cannot be written; the old one stands.
        """
        descriptor, temporary = tempfile.mkstemp(prefix=f".{STATUS}.", dir=self._directory)  # O_EXCL, mode 0600
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.encode(status))
            Path(temporary).replace(self._directory / STATUS)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
            raise

    def close(self) -> None:
        """Remove the status and give up the lock."""
        with contextlib.suppress(OSError):
            (self._directory / STATUS).unlink(missing_ok=True)
        os.close(self._lock)


def find_serving(directory: Path) -> Status | None:
    """The process that serves over a state directory now, if there is one that is ready.

    Raises:
        ServingError: a file is not this user's own, or holds something else.
        OSError: a file cannot be read.
    """
    try:
        lock = _open_own(directory / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        if _locked(lock, fcntl.LOCK_SH):
            return None
        return _read_status(directory / STATUS)
    finally:
        os.close(lock)


def _read_status(path: Path) -> Status | None:
    try:
        descriptor = _open_own(path, os.O_RDONLY)
    except FileNotFoundError:
        return None  # it is still starting
    with os.fdopen(descriptor, "rb") as file:
        raw = file.read(MAX_STATUS + 1)
    try:
        status = msgspec.json.decode(raw, type=Status)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ServingError(f"{path} is not what twogate serve writes; restart it") from error
    # To kill(2), 0 and negative numbers mean many processes.
    if len(raw) > MAX_STATUS or status.pid < 1:
        raise ServingError(f"{path} is not what twogate serve writes; restart it")
    return status


def _open_own(path: Path, flags: int) -> int:
    """Open a regular file that belongs to this user alone; never a link to another."""
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ServingError(f"{path} is a symbolic link; remove it") from error
        raise
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & _NOT_OURS:
        return descriptor
    os.close(descriptor)
    raise ServingError(
        f"{path} is not a file of this user alone (uid {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o}); run "
        "as the user that serves"
    )


def _locked(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _occupied(directory: Path) -> str:
    try:
        status = _read_status(directory / STATUS)
    except (OSError, ServingError):
        status = None
    who = "another process" if status is None else f"process {status.pid}"
    return f"{who} serves over {directory} already; stop it, or give this one a `state` and `store` of its own"
