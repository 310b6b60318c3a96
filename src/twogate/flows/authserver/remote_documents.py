"""Documents that clients keep elsewhere, fetched when they are needed: bounded in number, rate and memory.

Whoever can name a client can make us fetch its document. So that nobody can make us hammer another host, or fill our
memory: each document is fetched once at a time and not again while it is fresh; after a failure not before a moment has
passed; few are fetched at once; and each allowlist entry has a budget.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.limits import TokenBuckets
from twogate.flows.environment import Clock
from twogate.flows.fetch import Fetch, Fetched, FetchError, Trust

MIN_AGE: Final = 60.0
"""Seconds that a document is kept at least, whatever its headers say."""

DEFAULT_AGE: Final = 600.0
"""Seconds that it is kept when they say nothing."""

MAX_AGE: Final = 24 * 3600.0
"""Seconds that it is kept at most."""

RETRY_AFTER: Final = 5.0
"""Seconds after a failure in which the document is not fetched again. What was wrong is kept that long, to be told."""

REFRESH_AFTER: Final = 30.0
"""Seconds after which a fresh document is fetched again because something is missing in it, such as a new key."""

MAX_KEPT: Final = 1000
"""Documents, and failures, that are remembered."""

MAX_AT_ONCE: Final = 8
"""Fetches under way at once; who comes then is told to try again."""

BUDGET_RATE: Final = 1.0
BUDGET_BURST: Final = 30
"""Fetches that one budget allows: as many at once, then this many a second."""

T = TypeVar("T")


class _Kept(msgspec.Struct, Generic[T]):
    value: T
    fetched_at: float
    expires_at: float


class _Failure(msgspec.Struct):
    error: GateError
    until: float


class FetchLimits:
    """What all documents share: how many fetches are under way, and the budgets."""

    def __init__(self) -> None:
        self.under_way = 0
        self._budgets = TokenBuckets(rate=BUDGET_RATE, burst=BUDGET_BURST)

    def begin(self, budget: str, now: float) -> None:
        """Count a fetch in.

        Raises:
            GateError: RATE_LIMITED.
        """
        if self.under_way >= MAX_AT_ONCE:
            raise GateError(ErrorCode.RATE_LIMITED, "too many documents are being fetched")
        if self._budgets.take(budget, now):
            raise GateError(ErrorCode.RATE_LIMITED, "too many documents of this allowlist entry were fetched")
        self.under_way += 1


class RemoteDocuments(Generic[T]):
    """Fetches and judges documents of one kind, and keeps the good ones while they are fresh.

    Args:
        fetch: Downloads, within the rules for whoever named the URL.
        limits: Shared by every kind.
        clock: For ages.
        max_bytes: The cap on a document.
        judge: Turns what was fetched into what is kept; raises GateError if it is wrong.
        unavailable: The refusal when nothing usable could be fetched; its argument is for the audit trail only.
    """

    def __init__(
        self,
        fetch: Fetch,
        limits: FetchLimits,
        clock: Clock,
        *,
        max_bytes: int,
        judge: Callable[[str, Fetched], T],
        unavailable: Callable[[str], GateError],
    ) -> None:
        self._fetch = fetch
        self._limits = limits
        self._clock = clock
        self._max_bytes = max_bytes
        self._judge = judge
        self._unavailable = unavailable
        self._kept: OrderedDict[str, _Kept[T]] = OrderedDict()
        self._failures: OrderedDict[str, _Failure] = OrderedDict()
        self._under_way: dict[str, asyncio.Task[_Kept[T] | GateError]] = {}

    async def get(self, url: str, *, trust: Trust, budget: str, lacks: Callable[[T], bool] | None = None) -> T:
        """The document, as it was fetched not too long ago. `lacks` says of what it might be fetched anew.

        Raises:
            GateError: what `judge` and `unavailable` raise, RATE_LIMITED.
        """
        now = self._clock.monotonic()
        kept = self._kept.get(url)
        if kept is None or now >= kept.expires_at:
            return await self._fetch_once(url, trust, budget, now)
        self._kept.move_to_end(url)
        if lacks is None or not lacks(kept.value) or now < kept.fetched_at + REFRESH_AFTER:
            return kept.value
        try:
            return await self._fetch_once(url, trust, budget, now)
        except GateError:
            # It is fresh: what somebody thinks is missing in it takes it from nobody.
            return kept.value

    async def _fetch_once(self, url: str, trust: Trust, budget: str, now: float) -> T:
        failure = self._failures.get(url)
        if failure is not None:
            if now < failure.until:
                raise _copy(failure.error)
            del self._failures[url]
        task = self._under_way.get(url)
        if task is None:
            self._limits.begin(budget, now)
            task = asyncio.get_running_loop().create_task(self._download(url, trust))
            self._under_way[url] = task
            task.add_done_callback(lambda _: self._under_way.pop(url, None))
        # Shielded: a caller that goes away takes nothing from the others who wait for the same document.
        outcome = await asyncio.shield(task)
        if isinstance(outcome, GateError):
            raise _copy(outcome)
        return outcome.value

    async def _download(self, url: str, trust: Trust) -> _Kept[T] | GateError:
        # Returned and not raised, because nobody may be waiting any more.
        try:
            fetched = await self._fetch.get(url, trust=trust, max_bytes=self._max_bytes)
            value = self._judge(url, fetched)
        except FetchError as error:
            return self._failed(url, self._unavailable(str(error)))
        except GateError as error:
            return self._failed(url, error)
        finally:
            self._limits.under_way -= 1
        age = DEFAULT_AGE if fetched.cache_max_age is None else float(fetched.cache_max_age)
        now = self._clock.monotonic()
        kept = _Kept(value, now, now + min(max(age, MIN_AGE), MAX_AGE))
        _remember(self._kept, url, kept)
        return kept

    def _failed(self, url: str, error: GateError) -> GateError:
        # From its end, so that those who waited for a slow failure do not repeat it one after the other.
        _remember(self._failures, url, _Failure(error, self._clock.monotonic() + RETRY_AFTER))
        return error


def _copy(error: GateError) -> GateError:
    # An exception that is raised again and again would collect the traceback of each time.
    return GateError(error.code, error.debug, data=error.data)


V = TypeVar("V")


def _remember(table: OrderedDict[str, V], url: str, value: V) -> None:
    table[url] = value
    table.move_to_end(url)
    while len(table) > MAX_KEPT:
        table.popitem(last=False)
