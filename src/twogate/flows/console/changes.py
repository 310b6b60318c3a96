"""What tells open pages that something changed: one small stream for each, which says that and no more.

One task looks for all of them, once a second and only while somebody waits: at the number that moves with sessions and
agents, and at a mark of each watching tenant's approvals.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

from twogate.core.errors import ErrorCode, GateError
from twogate.flows.environment import Clock
from twogate.flows.registry import Revision

INTERVAL: Final = 1.0
"""Seconds between two looks."""
MAX_STREAMS: Final = 200
"""Streams of this process."""
MAX_OF_TENANT: Final = 100
"""Those of one tenant, so that no tenant's people take all."""
MAX_OF_PERSON: Final = 4
"""Streams of one person: browsers allow six connections to a site, and pages need some."""

Mark = Callable[[str, int], Awaitable[str]]
"""A text for a tenant, at a time in Unix seconds, that is another one once its approvals are."""


class Watch:
    """One open page's view: `changed` is set when there is something new to fetch."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.changed = asyncio.Event()


class Changes:
    """Watches for pages. `closing` ends every stream."""

    def __init__(self, revision: Revision, mark: Mark, clock: Clock, closing: Sequence[asyncio.Event]) -> None:
        self._revision = revision
        self._mark = mark
        self._clock = clock
        self.closing = closing
        self._watches: dict[Watch, tuple[str, str]] = {}
        self._task: asyncio.Task[None] | None = None
        self._marks: dict[str, str] = {}

    @asynccontextmanager
    async def watch(self, tenant: str, subject: str) -> AsyncGenerator[Watch]:
        """Watch for one page of a person, as long as the block lasts.

        Raises:
            GateError: RATE_LIMITED.
        """
        person = (tenant, subject)
        mine = sum(1 for other in self._watches.values() if other == person)
        ours = sum(1 for other in self._watches if other.tenant == tenant)
        if mine >= MAX_OF_PERSON or ours >= MAX_OF_TENANT or len(self._watches) >= MAX_STREAMS:
            raise GateError(ErrorCode.RATE_LIMITED, "too many pages are watched", data={"wait": 30})
        watch = Watch(tenant)
        self._watches[watch] = person
        if tenant in self._marks:
            # The page may be older than the last look.
            watch.changed.set()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._look())
        try:
            yield watch
        finally:
            del self._watches[watch]
            if not self._watches:
                self._stop()

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._marks.clear()

    async def _look(self) -> None:
        while self._watches:
            # While the store is away nothing is known to have changed, and a later look tells.
            with suppress(GateError):
                revision = await self._revision.read()
                for tenant in {watch.tenant for watch in self._watches}:
                    self._compare(tenant, f"{revision} {await self._mark(tenant, self._clock.now())}")
            await asyncio.sleep(INTERVAL)

    def _compare(self, tenant: str, mark: str) -> None:
        before = self._marks.get(tenant)
        self._marks[tenant] = mark
        # The first look counts as a change: nobody knows what happened between the page and its stream.
        if before != mark:
            for watch in self._watches:
                if watch.tenant == tenant:
                    watch.changed.set()
