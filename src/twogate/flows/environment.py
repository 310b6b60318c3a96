"""Time and randomness as every flow takes them; the real ones live in `adapters/`, fixed ones in the tests."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Reads time. A flow reads it once a request and passes the value on."""

    def now(self) -> int:
        """Unix time in whole seconds."""
        ...

    def now_us(self) -> int:
        """Unix time in microseconds, for audit events."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back, for deadlines and durations."""
        ...


class Rng(Protocol):
    """Draws unpredictable bytes."""

    def token(self, size: int) -> bytes:
        """`size` bytes from the operating system's generator."""
        ...
