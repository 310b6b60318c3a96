"""One small file that somebody else replaces: read again whenever it is another one than before."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO

Mark = tuple[int, int, int, int, int]
"""What tells a file from the one that was there before: device, number, size, and both times in nanoseconds."""


class WatchedFileError(Exception):
    """A file cannot be used; the text says which and why, never what it holds."""


def mark_of(status: os.stat_result) -> Mark:
    """The mark of a file."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def current_mark(path: Path) -> Mark | None:
    """The mark of the file that is there now, if one is: one system call, some microseconds.

    Raises:
        WatchedFileError: it cannot be looked at.
    """
    try:
        return mark_of(path.stat())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise WatchedFileError(f"{path}: {error.strerror or type(error).__name__}") from error


def read_watched(path: Path, max_bytes: int) -> tuple[bytes, Mark]:
    """The content of a regular file that only this user may use, and its mark.

    A link is followed: Kubernetes and others replace a whole directory behind one. What is checked is what is read.

    Raises:
        WatchedFileError: it is missing, open to others, somebody else's, too large, or being replaced without end.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise WatchedFileError(f"{path}: not a regular file")
            if status.st_uid not in (os.geteuid(), 0):
                raise WatchedFileError(f"{path}: belongs to another user (uid {status.st_uid})")
            if status.st_mode & OTHERS:
                mode = stat.S_IMODE(status.st_mode)
                raise WatchedFileError(f"{path}: open to other users (mode {mode:04o}); chmod 600 it")
            if status.st_size > max_bytes:
                raise WatchedFileError(f"{path}: larger than {max_bytes} bytes")
            raw = file.read(max_bytes + 1)
            # Written in place meanwhile, half of it may be of before; replaced by rename, it never is.
            if mark_of(os.fstat(descriptor)) != mark_of(status) or len(raw) != status.st_size:
                raise WatchedFileError(f"{path}: changed while it was read; replace it by rename")
    except OSError as error:
        raise WatchedFileError(f"{path}: {error.strerror or type(error).__name__}") from error
    return raw, mark_of(status)
