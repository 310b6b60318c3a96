"""What a stdio server writes to stderr, as log lines: cut, bounded in rate, and without control characters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from twogate.flows.environment import Clock

if TYPE_CHECKING:
    from twogate.adapters.upstream.stdio_process import StdioLimits

_CHUNK_BYTES: Final = 64 * 1024
_WINDOW_SECONDS: Final = 1.0


class StderrLines:
    """Splits stderr into lines for `log`. It always reads on, so a server can never block on its stderr."""

    def __init__(self, name: str, limits: StdioLimits, clock: Clock, log: Callable[[str, str], None]) -> None:
        self._name = name
        self._limits = limits
        self._clock = clock
        self._log = log
        self._line = bytearray()
        self._window_from = clock.monotonic()
        self._left = limits.stderr_lines_per_second
        self._suppressed = 0

    async def read(self, stderr: asyncio.StreamReader) -> None:
        """Read to the end."""
        try:
            while chunk := await stderr.read(_CHUNK_BYTES):
                self.feed(chunk)
                await asyncio.sleep(0)  # a flood must not hold the event loop
        finally:
            if self._line:
                self._emit()
            self._report_suppressed()

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes and log every line that they complete."""
        now = self._clock.monotonic()
        if now - self._window_from >= _WINDOW_SECONDS:
            self._report_suppressed()
            self._window_from = now
            self._left = self._limits.stderr_lines_per_second
        start = 0
        while self._left > 0 and (end := chunk.find(b"\n", start)) >= 0:
            self._hold(chunk[start:end])
            self._emit()
            start = end + 1
        # Beyond the rate lines are only counted.
        beyond = chunk.count(b"\n", start)
        if beyond:
            self._suppressed += beyond
            self._line.clear()
            start = chunk.rfind(b"\n") + 1
        self._hold(chunk[start:])

    def _hold(self, part: bytes) -> None:
        self._line += part[: self._limits.stderr_line_bytes - len(self._line)]

    def _emit(self) -> None:
        text = self._line.decode("utf-8", "backslashreplace").rstrip("\r")
        self._line.clear()
        self._left -= 1
        # Escape sequences and line separators would forge other log lines.
        self._log(self._name, "".join(c if c.isprintable() or c == "\t" else f"\\u{ord(c):04x}" for c in text))

    def _report_suppressed(self) -> None:
        if self._suppressed:
            self._log(self._name, f"({self._suppressed} more lines on stderr were dropped)")
            self._suppressed = 0
