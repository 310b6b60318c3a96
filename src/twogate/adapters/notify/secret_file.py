"""The one line of a channel's secret file, read each time it is needed, so that it can be replaced while serving."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from twogate.adapters.secrets.watched_file import WatchedFileError, read_watched
from twogate.flows.approvals.notices import ChannelError

MAX_SECRET: Final = 2048


def read_line(path: Path) -> str:
    """What the file holds: one line of visible ASCII, with or without its end.

    Raises:
        ChannelError: it is missing, open to others, or holds something else. The text never holds what it holds.
    """
    try:
        raw, _ = read_watched(path, MAX_SECRET + 2)
    except WatchedFileError as error:
        raise ChannelError(str(error)) from error
    line = raw.removesuffix(b"\n").removesuffix(b"\r")
    if not line or len(line) > MAX_SECRET or any(not 0x21 <= byte <= 0x7E for byte in line):  # noqa: PLR2004 - ASCII
        raise ChannelError(f"{path}: must hold one line of visible ASCII characters, without blanks")
    return line.decode("ascii")
