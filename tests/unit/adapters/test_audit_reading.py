"""Pages read the audit trail newest first, of one tenant, and never more of it than a cap."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from twogate.adapters.audit_log import AuditLog
from twogate.adapters.audit_reading import MAX_OF_TENANT, MAX_WAITING, AuditReader
from twogate.adapters.clock import SystemClock
from twogate.adapters.rng import SystemRng
from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.console.trail import TrailQuery

CLOCK = SystemClock()
DAY = 24 * 3600 * 1_000_000


async def written(directory: Path, *events: AuditEvent) -> None:
    log = AuditLog(directory, CLOCK, SystemRng(), instance="test")
    for event in events:
        await log.append(event)
    await log.close()


def event(number: int, tenant: str = "acme", **changes: Any) -> AuditEvent:
    values: dict[str, Any] = {"kind": EventKind.CALL_REFUSED, "at": CLOCK.now_us() - 1000 + number}
    return AuditEvent(**{**values, "agent": f"a{number}", "tenant": tenant, **changes})


def agents(events: tuple[AuditEvent, ...]) -> list[str]:
    return [event.agent for event in events]


async def test_pages_are_newest_first_and_follow_each_other_without_a_gap(tmp_path: Path) -> None:
    at = CLOCK.now_us()
    both = (event(2, at=at + 2), event(3, at=at + 2))
    await written(tmp_path, event(1, at=at + 1), *both, event(4, at=at + 4), event(9, "globex", at=at + 5))
    reader = AuditReader(tmp_path, CLOCK)
    first = await reader.page(TrailQuery(tenant="acme"), 2)
    # Those of one microsecond stay together.
    assert (agents(first.events), first.more, first.cut) == (["a4", "a3", "a2"], True, False)
    second = await reader.page(TrailQuery(tenant="acme", before=first.events[-1].at), 2)
    assert (agents(second.events), second.more) == (["a1"], False)


async def test_every_filter_narrows(tmp_path: Path) -> None:
    odd = event(1, session="s", reason="task_not_permitted", anomaly=True)
    await written(tmp_path, odd, event(2, kind=EventKind.CALL_OUTCOME))
    reader = AuditReader(tmp_path, CLOCK)
    for query in (
        TrailQuery(tenant="acme", kind=EventKind.CALL_REFUSED),
        TrailQuery(tenant="acme", agent="a1"),
        TrailQuery(tenant="acme", session="s"),
        TrailQuery(tenant="acme", reason="task_not_permitted"),
        TrailQuery(tenant="acme", anomalies=True),
    ):
        assert agents((await reader.page(query, 10)).events) == ["a1"]
    assert (await reader.page(TrailQuery(tenant="globex"), 10)).events == ()


async def test_only_what_is_newer_is_read_and_found_by_who_has_the_rest(tmp_path: Path) -> None:
    now = CLOCK.now_us()
    await written(tmp_path, *(event(number, at=now + number) for number in range(1, 40)))
    # Two lines are newer and a third tells that the others are not: within the cap, although the trail is longer.
    reader = AuditReader(tmp_path, CLOCK, max_lines=4)
    page = await reader.page(TrailQuery(tenant="acme", after=now + 37), 10)
    assert ([one.at - now for one in page.events], page.cut) == ([39, 38], False)
    assert (await reader.page(TrailQuery(tenant="acme", after=now + 39), 10)).events == ()


async def test_reading_ends_at_the_cap_and_says_so(tmp_path: Path) -> None:
    await written(tmp_path, *(event(number, "globex") for number in range(40)))
    reader = AuditReader(tmp_path, CLOCK, max_lines=10)
    page = await reader.page(TrailQuery(tenant="acme"), 5)
    assert (page.events, page.cut) == ((), True)
    assert (await reader.recent("acme")).cut


async def test_the_last_day_is_counted_by_session_for_one_tenant(tmp_path: Path) -> None:
    old = event(1, at=CLOCK.now_us() - 2 * DAY, anomaly=True, session="s")
    fresh = [event(number, anomaly=True, session="s") for number in range(7)]
    await written(tmp_path, old, *fresh, event(8, "globex", anomaly=True, session="s"), event(9, session="t"))
    reader = AuditReader(tmp_path, CLOCK)
    recent = await reader.recent("acme")
    assert (recent.alerts, len(recent.newest), recent.refused) == (7, 5, {"s": 7, "t": 1})
    assert recent is await reader.recent("acme")
    assert (await reader.recent("globex")).alerts == 1


async def test_more_readers_than_may_wait_are_refused(tmp_path: Path) -> None:
    await written(tmp_path, event(1))
    reader = AuditReader(tmp_path, CLOCK)
    query = TrailQuery(tenant="acme")
    tenants = [f"t{number}" for number in range(MAX_WAITING + 3)]
    asked = (reader.page(TrailQuery(tenant=tenant), 1) for tenant in tenants)
    answers = await asyncio.gather(*asked, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, GateError)]
    assert [error.code for error in refused] == [ErrorCode.RATE_LIMITED] * 3
    assert len((await reader.page(query, 1)).events) == 1


async def test_people_of_one_tenant_keep_nobody_of_another_from_reading(tmp_path: Path) -> None:
    await written(tmp_path, event(1))
    reader = AuditReader(tmp_path, CLOCK)
    mine, theirs = TrailQuery(tenant="acme"), TrailQuery(tenant="globex")
    asked = [*(reader.page(theirs, 1) for _ in range(MAX_WAITING + 3)), reader.page(mine, 1)]
    *greedy, answer = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(isinstance(one, GateError) for one in greedy) == MAX_WAITING + 3 - MAX_OF_TENANT
    assert not isinstance(answer, BaseException)
    assert len(answer.events) == 1


async def test_a_trail_that_cannot_be_read_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(GateError) as caught:
        await AuditReader(tmp_path / "nowhere", CLOCK).page(TrailQuery(tenant="acme"), 1)
    assert caught.value.code is ErrorCode.AUDIT_UNAVAILABLE
