"""Coalescing of refusals by address, so that a flood of them cannot fill the audit trail.

Within a window, the first refusal of each reason from an address is written as an event of its own, for the first few
reasons; the rest is counted. The table of addresses is bounded: when it is full, the others share one entry.
"""

from __future__ import annotations

from typing import Final

import msgspec

OTHER: Final = "other"
"""The address, or code, under which what has no entry of its own is counted."""


class Coalesced(msgspec.Struct, frozen=True):
    """How many refusals were counted but not written."""

    address: str
    code: str
    count: int


class _Entry:
    __slots__ = ("counts", "ends")

    def __init__(self, ends: float) -> None:
        self.ends = ends
        self.counts: dict[str, int] = {}


class Coalescer:
    """Decides which refusals are written at once. Times are seconds of one monotonic clock."""

    def __init__(self, window: float = 10.0, max_addresses: int = 10_000, max_codes: int = 4) -> None:
        self._window = window
        self._max_addresses = max_addresses
        self._max_codes = max_codes
        # Windows have one length and the clock does not go back: insertion order is the order of ending.
        self._entries: dict[str, _Entry] = {}

    def note(self, address: str, code: str, now: float) -> bool:
        """Take a refusal; True if it must be written as an event of its own, False if it was counted."""
        counts = self._entry(address, now).counts
        seen = counts.get(code)
        if seen is None and len(counts) < self._max_codes:
            counts[code] = 0
            return True
        key = code if seen is not None else OTHER
        counts[key] = counts.get(key, 0) + 1
        return False

    def give_back(self, address: str, code: str, count: int, now: float) -> None:
        """Count refusals that could not be written, so that they are tried again when the window ends."""
        counts = self._entry(address, now).counts
        key = code if code in counts or len(counts) < self._max_codes else OTHER
        counts[key] = counts.get(key, 0) + count

    def due(self, now: float) -> list[Coalesced]:
        """Take out the counts whose window has ended; `math.inf` takes all."""
        ended: list[str] = []
        for address, entry in self._entries.items():
            if entry.ends > now:
                break
            ended.append(address)
        return [
            Coalesced(address, code, count)
            for address in ended
            for code, count in self._entries.pop(address).counts.items()
            if count
        ]

    def _entry(self, address: str, now: float) -> _Entry:
        entry = self._entries.get(address)
        if entry is None:
            if len(self._entries) >= self._max_addresses:
                address = OTHER
                entry = self._entries.get(OTHER)
            if entry is None:
                entry = self._entries[address] = _Entry(now + self._window)
        return entry
