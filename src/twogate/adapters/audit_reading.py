"""The audit trail for pages: read backwards in a thread, by one reader at a time and never more than a cap.

One process serves the data plane and the pages, so whoever looks must not slow who calls.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

from twogate.adapters.audit_files import NAME_ENDING, find_segments
from twogate.adapters.audit_tail import Entry, Filter, backwards
from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.console.trail import Recent, TrailPage, TrailQuery
from twogate.flows.environment import Clock

MAX_LINES: Final = 20_000
"""Lines that are read for one page, whether they pass or not."""
MAX_SEGMENTS: Final = 64
"""Segments that are read for one page: those that were written to last."""
MAX_WAITING: Final = 8
"""Pages that may wait for their turn; more are refused."""
MAX_OF_TENANT: Final = 4
"""Those of one tenant, so that no tenant's people keep another's from looking."""
FRESH: Final = 5.0
"""Seconds that what was found of a tenant's last day is shown again."""
ALERTS: Final = 5
"""Alerts that are shown of it."""

_DAY: Final = 24 * 3600 * 1_000_000
_KNOWN: Final = 256
_BREATH: Final = 64  # lines after which other threads get their turn

_T = TypeVar("_T")


class AuditReader:
    """Implements `flows.console.trail.Trail` over one directory."""

    def __init__(self, directory: Path, clock: Clock, *, max_lines: int = MAX_LINES) -> None:
        self._directory = directory
        self._clock = clock
        self._max_lines = max_lines
        self._turn = asyncio.Semaphore(1)
        self._waiting = Counter[str]()
        self._recent: OrderedDict[str, tuple[float, Recent]] = OrderedDict()

    async def page(self, query: TrailQuery, count: int) -> TrailPage:
        """The newest `count` events of a tenant that pass; all of the last one's microsecond, so that none is lost.

        Raises:
            GateError: RATE_LIMITED, AUDIT_UNAVAILABLE.
        """
        return await self._in_turn(query.tenant, lambda: self._page(query, count))

    async def recent(self, tenant: str) -> Recent:
        """A tenant's last day.

        Raises:
            GateError: RATE_LIMITED, AUDIT_UNAVAILABLE.
        """
        known = self._recent.get(tenant)
        if known is not None and self._clock.monotonic() - known[0] < FRESH:
            return known[1]
        since = self._clock.now_us() - _DAY
        found = await self._in_turn(tenant, lambda: self._last(tenant, since))
        self._recent[tenant] = (self._clock.monotonic(), found)
        self._recent.move_to_end(tenant)
        while len(self._recent) > _KNOWN:
            self._recent.popitem(last=False)
        return found

    async def _in_turn(self, tenant: str, read: Callable[[], _T]) -> _T:
        if self._waiting[tenant] >= MAX_OF_TENANT or self._waiting.total() >= MAX_WAITING:
            raise GateError(ErrorCode.RATE_LIMITED, "too many pages read the audit trail", data={"wait": 1})
        self._waiting[tenant] += 1
        try:
            async with self._turn:
                return await asyncio.to_thread(read)
        except OSError as error:
            raise GateError(
                ErrorCode.AUDIT_UNAVAILABLE, f"the trail cannot be read: {error.strerror or type(error).__name__}"
            ) from error
        finally:
            self._waiting[tenant] -= 1
            if not self._waiting[tenant]:
                del self._waiting[tenant]

    def _page(self, query: TrailQuery, count: int) -> TrailPage:
        where = Filter(
            kinds=frozenset() if query.kind is None else frozenset({query.kind}),
            tenant=query.tenant,
            agent=query.agent,
            session=query.session,
            reason=query.reason,
            request=query.request,
            until=query.before,
            anomalies=query.anomalies,
        )
        found: list[AuditEvent] = []
        for lines, entry in enumerate(self._newest(), 1):
            if entry.at <= query.after:
                break
            event = entry.event
            if event is not None and where.passes(entry):
                if len(found) >= count and event.at != found[-1].at:
                    return TrailPage(tuple(found), more=True)
                found.append(event)
            if lines >= self._max_lines or len(found) >= 2 * count:
                return TrailPage(tuple(found), more=len(found) >= count, cut=True)
        return TrailPage(tuple(found))

    def _last(self, tenant: str, since: int) -> Recent:
        alerts, newest, refused = 0, list[AuditEvent](), Counter[str]()
        for lines, entry in enumerate(self._newest()):
            if entry.at < since:
                break
            if lines >= self._max_lines:
                return Recent(alerts, tuple(newest), dict(refused), cut=True)
            event = entry.event
            # An event without a tenant is nobody's: a stranger's, or the process's own.
            if event is None or event.tenant != tenant:
                continue
            if event.session and event.kind is EventKind.CALL_REFUSED:
                refused[event.session] += 1
            if event.anomaly:
                alerts += 1
                if len(newest) < ALERTS:
                    newest.append(event)
        return Recent(alerts, tuple(newest), dict(refused))

    def _newest(self) -> Iterator[Entry]:
        written: list[tuple[int, str, int]] = []
        for segment in find_segments(self._directory):
            found = (self._directory / (segment + NAME_ENDING)).lstat()
            written.append((found.st_mtime_ns, segment, found.st_size))
        last = heapq.nlargest(MAX_SEGMENTS, written)
        readers = (backwards(self._directory, segment, size) for _, segment, size in last)
        for line, entry in enumerate(heapq.merge(*readers, key=lambda entry: entry.at, reverse=True)):
            if line % _BREATH == 0:
                time.sleep(0)
            yield entry
