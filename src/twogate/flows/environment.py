"""Time and randomness as every flow takes them; the real ones live in `adapters/`, fixed ones in the tests."""

from __future__ import annotations

from base64 import urlsafe_b64encode
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


def random_name(rng: Rng, size: int) -> str:
    """`size` random bytes as base64url without padding, for names that people hand to commands.

    It never begins with a dash, which a command line would take for an option.
    """
    while True:
        name = urlsafe_b64encode(rng.token(size)).rstrip(b"=").decode()
        if name[0] != "-":
            return name
