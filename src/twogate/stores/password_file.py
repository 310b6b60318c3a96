"""Passwords of the stores, each in a file of its own that only its owner may read."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from twogate.core.errors import ErrorCode, GateError

MAX_PASSWORD_FILE: Final = 1024

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def read_password(path: Path, code: ErrorCode = ErrorCode.STORE_UNAVAILABLE) -> str:
    """The first line of a password file.

    Raises:
        GateError: `code`; it cannot be read, others may reach it, or it is no line of text.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            content = file.read(MAX_PASSWORD_FILE + 1) if stat.S_ISREG(status.st_mode) else b""
    except OSError as error:
        raise GateError(code, f"{type(error).__name__}: {path}: {error.strerror}") from error
    if os.name == "posix" and (status.st_uid not in (0, os.geteuid()) or status.st_mode & _OTHERS):
        raise GateError(code, f"others may reach {path}; chown it to this user and chmod 600 it")
    line = content.removesuffix(b"\n").removesuffix(b"\r")
    if not line or len(content) > MAX_PASSWORD_FILE or not line.isascii() or b"\n" in line or b"\0" in line:
        raise GateError(code, f"{path} must hold the password as one line of ASCII text")
    return line.decode("ascii")
