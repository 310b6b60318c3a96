"""Shows the audit trail: the last events of all segments in order of time, and those that follow."""

from __future__ import annotations

import heapq
import os
import unicodedata
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

from twogate.adapters.audit_files import find_segments, open_segment
from twogate.core.audit.chain import MAX_LINE, Line, parse_line
from twogate.core.audit.record import AuditEvent, EventKind

_BLOCK: Final = 16 * 1024
_ESCAPED: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


class Entry(msgspec.Struct, frozen=True):
    """One line as it stands in the file. `event` is None if this version cannot decode it; it is shown all the same."""

    segment: str
    at: int
    raw: bytes
    event: Line | None


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which events to show; empty members let everything pass. Times are Unix microseconds."""

    kinds: frozenset[EventKind] = frozenset()
    tenant: str = ""
    agent: str = ""
    session: str = ""
    request: str = ""
    address: str = ""
    target: str = ""
    reason: str = ""
    since: int = 0
    until: int = 0
    anomalies: bool = False

    def passes(self, entry: Entry) -> bool:
        """Whether to show a line; one that cannot be decoded is shown unless something is asked for."""
        if entry.event is None:
            return self == _EVERYTHING
        event: AuditEvent = entry.event
        wanted = (
            (self.tenant, event.tenant),
            (self.agent, event.agent),
            (self.session, event.session),
            (self.request, event.request),
            (self.address, event.address),
            (self.target, event.target),
            (self.reason, event.reason),
        )
        return (
            all(not want or want == have for want, have in wanted)
            and (not self.kinds or event.kind in self.kinds)
            and event.at >= self.since
            and (not self.until or event.at < self.until)
            and (event.anomaly or not self.anomalies)
        )


_EVERYTHING: Final = Filter()


def tail(
    directory: Path, count: int, *, where: Filter = _EVERYTHING, idle: Callable[[], bool] | None = None
) -> Iterator[Entry]:
    """The last `count` events that pass, oldest first; with `idle`, then every new one as it is written.

    `idle` is called whenever there is nothing new: it waits a moment and returns True, or False to end. Nothing here
    verifies the chain. Segments are merged by time; within one, lines stay in the order of the file.

    Raises:
        OSError: the directory or a segment cannot be read.
    """
    ends = {segment: _size(directory, segment) for segment in find_segments(directory)}
    readers = (backwards(directory, segment, end) for segment, end in ends.items())
    merged = heapq.merge(*readers, key=lambda entry: entry.at, reverse=True)
    yield from reversed(list(islice(filter(where.passes, merged), count)))
    if idle is None:
        return
    # A line that was being written counts as new: go back to where it begins.
    ends = {segment: _line_start(directory, segment, end) for segment, end in ends.items()}
    while True:
        fresh: list[Entry] = []
        for segment in find_segments(directory):
            entries, ends[segment] = _forwards(directory, segment, ends.get(segment, 0))
            fresh += entries
        if fresh:
            yield from filter(where.passes, sorted(fresh, key=lambda entry: entry.at))
        elif not idle():
            return


def printable(text: str) -> str:
    r"""Text that is safe on a terminal: control, direction and invisible characters become `\u{…}` escapes."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(f"\\u{{{ord(char):x}}}" if unicodedata.category(char) in _ESCAPED else char for char in text)


def _entry(segment: str, raw: bytes, at: int) -> Entry:
    try:
        line = parse_line(raw)
    except ValueError:
        return Entry(segment, at, raw, None)
    return Entry(segment, line.at, raw, line)


def backwards(directory: Path, segment: str, end: int) -> Iterator[Entry]:
    """The complete lines of a segment before byte `end`, the last one first.

    Raises:
        OSError: the segment cannot be read.
    """
    # Opens the file for each block only, so that thousands of segments need no thousands of descriptors.
    rest, at = b"", 0
    torn = True
    while end > 0:
        start = max(0, end - _BLOCK)
        with open_segment(directory, segment) as fd:
            data = os.pread(fd, end - start, start) + rest
        end = start
        first, *lines = data.split(b"\n")
        if torn and lines:
            torn = False
            lines.pop()  # behind the last newline: empty, or a line not written to its end
        for raw in reversed(lines):
            entry = _entry(segment, raw, at)
            at = entry.at
            yield entry
        rest = first[-MAX_LINE:]
    if rest and not torn:
        yield _entry(segment, rest, at)


def _forwards(directory: Path, segment: str, start: int) -> tuple[list[Entry], int]:
    # At most one read of a line's greatest size at a time; the next call takes what follows.
    with open_segment(directory, segment) as fd:
        data = os.pread(fd, 2 * MAX_LINE, start)
    *lines, rest = data.split(b"\n")
    if not lines and len(rest) >= MAX_LINE:
        return [], start + len(rest)
    entries: list[Entry] = []
    for raw in lines:
        entries.append(_entry(segment, raw, entries[-1].at if entries else 0))
    return entries, start + len(data) - len(rest)


def _line_start(directory: Path, segment: str, end: int) -> int:
    start = max(0, end - MAX_LINE)
    with open_segment(directory, segment) as fd:
        return start + os.pread(fd, end - start, start).rfind(b"\n") + 1


def _size(directory: Path, segment: str) -> int:
    with open_segment(directory, segment) as fd:
        return os.fstat(fd).st_size
