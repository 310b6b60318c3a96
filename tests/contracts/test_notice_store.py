"""What every NoticeStore does, and so what telling people can rely on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from noticelab import Dying, Kept, NoticeLab, listener, open_notice_lab
from twogate.core.approval import Decision, Duty, Rule, State, Step, Vote
from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.notices import MAX_ATTEMPTS, PER_MINUTE, Kind
from twogate.flows.approvals.notices import LEASE, Ended, Planned
from twogate.stores.sql.notices import KEEP

HEAD = Planned("a-1", Kind.REQUESTED, "ops", "acme")


@pytest.fixture
async def lab(url: str) -> AsyncIterator[NoticeLab]:
    async with open_notice_lab(url) as made:
        yield made


async def nothing(_state: State | None = None) -> None:
    """Announce to nobody."""


async def test_people_are_told_at_once_reminded_escalated_and_told_the_end(lab: NoticeLab) -> None:
    ops = Kept()
    notices = lab.telling(ops=ops)
    call = await lab.park()
    for seconds in (0, 1, 599, 1, 599, 1, 1):
        lab.clock.advance(seconds)
        await notices.tick()
    assert ops.kinds == [Kind.REQUESTED, Kind.REMINDED, Kind.ESCALATED]
    assert [[duty.value for duty in notice.may_decide] for notice in ops.got] == [
        ["approver"],
        ["approver"],
        ["administrator", "approver"],
    ]
    kept = await lab.parked.get(call.id)
    assert kept is not None
    assert (kept.reminded_at, kept.escalated_at) == (call.created_at + 600, call.created_at + 1200)
    await lab.parked.vote(call.id, Vote("bob", Decision.APPROVE, lab.clock.now()), "{}", nothing)
    await notices.tick()
    await notices.tick()
    assert ops.kinds[3:] == [Kind.DECIDED]
    assert ops.got[3].state is State.GRANTED


async def test_a_restart_loses_nothing(lab: NoticeLab) -> None:
    await lab.park()
    await lab.telling(ops=Kept(down=True)).tick()
    lab.clock.advance(700)
    ops = Kept()
    await lab.telling(ops=ops).tick()
    assert sorted(ops.kinds) == [Kind.REMINDED, Kind.REQUESTED]


async def test_of_many_replicas_one_tells(lab: NoticeLab) -> None:
    ops = Kept()
    for _ in range(4):
        await lab.park()
    await asyncio.gather(*(lab.telling(ops=ops).tick() for _ in range(5)))
    assert sorted(notice.approval for notice in ops.got) == ["a-1", "a-2", "a-3", "a-4"]


async def test_of_many_claims_at_once_one_is_made(lab: NoticeLab) -> None:
    now = lab.clock.now()
    await asyncio.gather(*(lab.store.plan([HEAD], now) for _ in range(4)))
    claims = await asyncio.gather(*(lab.store.claim("ops", now, now + LEASE) for _ in range(6)))
    assert [claim.attempts for claim in claims if claim is not None] == [1]
    assert await lab.store.claim("ops", now + LEASE - 1, now + 2 * LEASE) is None
    again = await lab.store.claim("ops", now + LEASE, now + 2 * LEASE)
    assert again is not None
    assert again.attempts == 2


async def test_who_was_too_late_changes_nothing(lab: NoticeLab) -> None:
    now = lab.clock.now()
    await lab.store.plan([HEAD], now)
    first = await lab.store.claim("ops", now, now + LEASE)
    second = await lab.store.claim("ops", now + LEASE, now + 2 * LEASE)
    assert first is not None
    assert second is not None
    await lab.store.retry(first, now)
    assert await lab.store.claim("ops", now + LEASE, now + 2 * LEASE) is None
    assert await lab.store.end(first, Ended.FAILED, now, nothing) is False
    assert await lab.store.end(second, Ended.SENT, now, nothing) is True
    assert await lab.store.end(second, Ended.SENT, now, nothing) is False


async def test_what_cannot_be_announced_is_not_noted(lab: NoticeLab) -> None:
    async def unwritable() -> None:
        raise GateError(ErrorCode.AUDIT_UNAVAILABLE, "told to")

    now = lab.clock.now()
    await lab.store.plan([HEAD], now)
    claimed = await lab.store.claim("ops", now, now + LEASE)
    assert claimed is not None
    with pytest.raises(GateError) as caught:
        await lab.store.end(claimed, Ended.FAILED, now, unwritable)
    assert caught.value.code is ErrorCode.AUDIT_UNAVAILABLE
    assert await lab.store.end(claimed, Ended.FAILED, now, nothing) is True


async def test_who_dies_between_sending_and_noting_is_followed_by_few_more(lab: NoticeLab) -> None:
    dying = Dying()
    await lab.park()
    for _ in range(3 * MAX_ATTEMPTS):
        try:
            await lab.telling(ops=dying).tick()
        except asyncio.CancelledError:
            lab.clock.advance(1)
        lab.clock.advance(LEASE)
    requested = [notice for notice in dying.got if notice.kind is Kind.REQUESTED]
    assert len(requested) == MAX_ATTEMPTS
    assert len({notice.id for notice in requested}) == 1
    assert len(lab.failed()) >= 1


async def test_a_tenant_has_so_many_messages_a_minute_and_the_last_stands_for_the_rest(lab: NoticeLab) -> None:
    ops = Kept()
    notices = lab.telling(ops=ops)
    for _ in range(PER_MINUTE + 12):
        await lab.park()
    await lab.park(tenant="globex")
    for _ in range(3):
        await notices.tick()
    told = [notice for notice in ops.got if notice.tenant == "acme"]
    assert [notice.more for notice in told] == [0] * (PER_MINUTE - 1) + [12]
    assert [notice.more for notice in ops.got if notice.tenant == "globex"] == [0]
    lab.clock.advance(61)
    await lab.park()
    await notices.tick()
    assert len([notice for notice in ops.got if notice.tenant == "acme"]) == PER_MINUTE + 1


async def test_what_stands_for_others_but_fails_leaves_them_due(lab: NoticeLab) -> None:
    ops = Kept()
    notices = lab.telling(ops=ops)
    for _ in range(PER_MINUTE - 1):
        await lab.park()
    await notices.tick()
    await lab.park()
    await lab.park()
    ops.down = True
    await notices.tick()
    ops.down = False
    lab.clock.advance(61)
    await notices.tick()
    assert sorted(notice.approval for notice in ops.got) == sorted(
        f"a-{number + 1}" for number in range(PER_MINUTE + 1)
    )


async def test_a_dead_channel_holds_up_no_other_and_the_trail_says_what_it_missed(lab: NoticeLab) -> None:
    dead, ops = Kept(down=True), Kept()
    notices = lab.telling(dead=dead, ops=ops)
    call = await lab.park(rule=Rule(frozenset({Duty.APPROVER})))
    # Longer than all pauses together, however they are drawn.
    for _ in range(45):
        await notices.tick()
        lab.clock.advance(15)
    assert ops.kinds == [Kind.REQUESTED]
    assert dead.tried == MAX_ATTEMPTS
    assert lab.failed() == [f"dead: requested, tried {MAX_ATTEMPTS} times: down"]
    assert lab.audit.events[-1].request == call.id
    # The call waits all the same.
    counted = await lab.parked.vote(call.id, Vote("bob", Decision.APPROVE, lab.clock.now()), "{}", nothing)
    assert counted is not None
    assert counted.state is State.GRANTED


async def test_nobody_is_asked_to_decide_what_is_decided(lab: NoticeLab) -> None:
    ops = Kept()
    notices = lab.notices({"ops": listener(ops, events=(Kind.REQUESTED,))})
    call = await lab.park()
    await notices.plan()
    await lab.parked.step(call.id, Step.CANCEL, lab.clock.now(), nothing)
    await notices.tick()
    assert ops.tried == 0


async def test_a_call_past_its_deadline_expires_once(lab: NoticeLab) -> None:
    ops = Kept()
    notices = lab.telling(ops=ops)
    call = await lab.park()
    await notices.tick()
    lab.clock.advance(3600)
    await notices.tick()
    await notices.tick()
    kept = await lab.parked.get(call.id)
    assert kept is not None
    assert kept.state is State.EXPIRED
    assert lab.audit.kinds == [EventKind.APPROVAL_EXPIRED]
    assert ops.kinds == [Kind.REQUESTED, Kind.DECIDED]


async def test_tenants_and_events_are_kept_apart(lab: NoticeLab) -> None:
    acme, late = Kept(), Kept()
    notices = lab.notices({"acme": listener(acme, "acme"), "late": listener(late, events=(Kind.ESCALATED,))})
    await lab.park()
    await lab.park(tenant="globex")
    await notices.tick()
    assert [notice.tenant for notice in acme.got] == ["acme"]
    assert late.got == []
    lab.clock.advance(1200)
    await notices.tick()
    assert late.kinds == [Kind.ESCALATED, Kind.ESCALATED]


async def test_what_is_old_is_forgotten(lab: NoticeLab) -> None:
    now = lab.clock.now()
    await lab.store.plan([HEAD], now)
    await lab.store.plan([Planned("a-2", Kind.REQUESTED, "ops", "acme")], now + KEEP)
    claimed = await lab.store.claim("ops", now + KEEP, now + KEEP + LEASE)
    assert claimed is not None
    assert claimed.approval == "a-2"
    assert await lab.store.claim("ops", now + KEEP, now + KEEP + LEASE) is None
