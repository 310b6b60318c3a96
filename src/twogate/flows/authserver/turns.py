"""One at a time, by name: requests of one process that would otherwise race each other for one code or family."""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary


class Turns:
    """Locks that exist as long as anybody holds or awaits them.

    They decide nothing: of several processes each has its own, and the store picks the winner. They keep the losers of
    one process from signing, and recording, tokens that nobody would be given.
    """

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def of(self, name: str) -> asyncio.Lock:
        """The lock of this name, to be entered with `async with`."""
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        return lock
