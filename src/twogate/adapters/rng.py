"""The operating system's random generator."""

from __future__ import annotations

import os


class SystemRng:
    """Draws from the operating system; implements `flows.environment.Rng`."""

    def token(self, size: int) -> bytes:
        """`size` unpredictable bytes."""
        return os.urandom(size)  # noqa: TID251 - the one place that draws them
