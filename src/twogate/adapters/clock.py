"""The system's clock."""

from __future__ import annotations

import time


class SystemClock:
    """Reads the operating system's clocks; implements `flows.environment.Clock`."""

    def now(self) -> int:
        """Unix time in whole seconds."""
        return int(time.time())  # noqa: TID251 - the one place that reads it

    def now_us(self) -> int:
        """Unix time in microseconds."""
        return time.time_ns() // 1000

    # Seconds on a clock that never goes back. Not wrapped: a call asks for it half a dozen times.
    monotonic = staticmethod(time.monotonic)  # noqa: TID251 - the one place that reads it
