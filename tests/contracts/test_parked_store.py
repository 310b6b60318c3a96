"""What every ParkedStore does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from contracts.stores import ALICE, NOW, Stores, open_stores
from twogate.core.approval import Decision, Duty, ParkedCall, Rule, State, Step, Vote
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.approvals.parked import Parked, live_key
from twogate.flows.operations.store import Operation
from twogate.stores.sql.approvals import KEEP, SqlParkedStore
from twogate.stores.sql.opening import open_engine
from twogate.stores.sql.operations import SqlOperationStore

RULE = Rule(frozenset({Duty.APPROVER, Duty.OPERATOR}), people=2, remind_after=60)
CALL = ParkedCall(
    id="a-1",
    nonce="n-1",
    tenant="acme",
    issuer="https://as.example",
    agent="builder",
    user=ALICE,
    session="s-1",
    task="release",
    server="git",
    tool="git.git_commit",
    pin="ab" * 32,
    digest="cd" * 32,
    created_at=NOW,
    deadline=NOW + 600,
    rule=RULE,
)
SEALED = b"\x00sealed\xff"
YES = Vote("bob", Decision.APPROVE, NOW + 1, "looks right")


@pytest.fixture
async def parked(stores: Stores) -> AsyncIterator[SqlParkedStore]:
    engine = open_engine(stores.url)
    yield SqlParkedStore(engine)
    await engine.dispose()


async def nothing(_state: State | None = None) -> None:
    """Announce to nobody."""


async def unwritable(_state: State | None = None) -> None:
    raise GateError(ErrorCode.AUDIT_UNAVAILABLE, "told to")


async def park(store: SqlParkedStore, call: ParkedCall = CALL, most: int = 10) -> Parked | None:
    return await store.park(call, SEALED, live_key(call), most, nothing)


def other(number: int, **changes: object) -> ParkedCall:
    return msgspec.structs.replace(CALL, id=f"a-{number}", digest=f"{number:064x}", **changes)


async def test_a_call_is_kept_whole(parked: SqlParkedStore) -> None:
    kept = await park(parked)
    assert kept == Parked(CALL, State.PENDING, sealed=SEALED)
    assert await parked.get("a-1") == kept
    assert await parked.get("a-2") is None
    agents = msgspec.structs.replace(other(2), user=None)
    await park(parked, agents)
    assert await parked.get("a-2") == Parked(agents, State.PENDING, sealed=SEALED)


async def test_the_same_call_of_one_caller_is_one_parked_call_until_its_deadline(
    parked: SqlParkedStore,
) -> None:
    await park(parked)
    again = msgspec.structs.replace(CALL, id="a-2", nonce="n-2", created_at=NOW + 5)
    assert await park(parked, again) == Parked(CALL, State.PENDING, sealed=SEALED)
    await parked.vote("a-1", msgspec.structs.replace(YES, decision=Decision.DENY), "", nothing)
    denied = await park(parked, again)
    assert denied is not None
    assert (denied.call.id, denied.state) == ("a-1", State.DENIED)
    later = msgspec.structs.replace(again, created_at=NOW + 600, deadline=NOW + 1200)
    assert await park(parked, later) == Parked(later, State.PENDING, sealed=SEALED)


async def test_another_caller_session_or_call_is_another(parked: SqlParkedStore) -> None:
    await park(parked)
    others: list[dict[str, object]] = [
        {"tenant": "globex"},
        {"issuer": "https://i"},
        {"agent": "x"},
        {"user": None},
        {"session": "s-2"},
        {"digest": "0"},
    ]
    for number, changes in enumerate(others):
        call = msgspec.structs.replace(CALL, id=f"b-{number}", **changes)
        kept = await park(parked, call)
        assert kept is not None
        assert kept.call.id == call.id


async def test_of_many_at_once_one_is_parked(parked: SqlParkedStore) -> None:
    calls = [msgspec.structs.replace(CALL, id=f"a-{number}") for number in range(8)]
    kept = await asyncio.gather(*(park(parked, call) for call in calls))
    assert len({one.call.id for one in kept if one is not None}) == 1
    assert None not in kept


async def test_only_so_many_of_an_agent_wait(parked: SqlParkedStore) -> None:
    kept = await asyncio.gather(*(park(parked, other(number), most=2) for number in range(6)))
    assert sum(one is not None for one in kept) == 2
    assert await park(parked, other(7, agent="another"), most=2) is not None
    # What was decided, or whose time is over, does not wait.
    waiting = next(one for one in kept if one is not None)
    await parked.step(waiting.call.id, Step.CANCEL, NOW, nothing)
    assert await park(parked, other(8), most=2) is not None
    assert await park(parked, other(9, created_at=NOW + 600, deadline=NOW + 900), most=2) is not None


async def test_what_cannot_be_announced_is_not_done(parked: SqlParkedStore) -> None:
    with pytest.raises(GateError):
        await parked.park(CALL, SEALED, live_key(CALL), 10, unwritable)
    assert await parked.get("a-1") is None
    await park(parked)
    with pytest.raises(GateError):
        await parked.vote("a-1", YES, "{}", unwritable)
    with pytest.raises(GateError):
        await parked.step("a-1", Step.EXPIRE, NOW, unwritable)
    assert await parked.get("a-1") == Parked(CALL, State.PENDING, sealed=SEALED)


async def test_votes_are_counted_once_a_person_and_decide_together(parked: SqlParkedStore) -> None:
    await park(parked)
    states: list[State] = []

    async def note(state: State) -> None:
        states.append(state)

    first = await parked.vote("a-1", YES, "{}", note)
    assert first == Parked(CALL, State.PENDING, (YES,), SEALED)
    assert await parked.vote("a-1", YES, "{}", note) is None
    eve = Vote("eve", Decision.APPROVE, NOW + 2)
    second = await parked.vote("a-1", eve, "{}", note)
    assert second == Parked(CALL, State.GRANTED, (YES, eve), SEALED, decided_at=NOW + 2)
    assert await parked.get("a-1") == second
    assert await parked.vote("a-1", Vote("zoe", Decision.DENY, NOW + 3), "", note) is None
    assert states == [State.PENDING, State.GRANTED]


async def test_of_two_people_at_once_both_are_counted(parked: SqlParkedStore) -> None:
    await park(parked)
    said = [Vote(who, Decision.APPROVE, NOW) for who in ("bob", "eve")]
    counted = await asyncio.gather(*(parked.vote("a-1", vote, "{}", nothing) for vote in said))
    assert sorted(one.state.value for one in counted if one is not None) == ["granted", "pending"]
    kept = await parked.get("a-1")
    assert kept is not None
    assert kept.state is State.GRANTED


async def test_nobody_votes_past_the_deadline_or_on_what_is_not_there(parked: SqlParkedStore) -> None:
    await park(parked)
    assert await parked.vote("a-1", msgspec.structs.replace(YES, at=NOW + 600), "{}", nothing) is None
    assert await parked.vote("a-9", YES, "{}", nothing) is None
    assert await parked.get("a-1") == Parked(CALL, State.PENDING, sealed=SEALED)


async def test_a_step_is_made_once_and_only_where_it_is_possible(parked: SqlParkedStore) -> None:
    await park(parked)
    made = await asyncio.gather(*(parked.step("a-1", Step.EXPIRE, NOW, nothing) for _ in range(5)))
    assert sum(made) == 1
    assert await parked.step("a-1", Step.CANCEL, NOW, nothing) is False
    assert await parked.step("a-9", Step.CANCEL, NOW, nothing) is False
    await park(parked, other(2, rule=Rule(frozenset({Duty.APPROVER}))))
    await parked.vote("a-2", YES, "{}", nothing)
    assert await parked.step("a-2", Step.CANCEL, NOW, nothing) is True


async def test_a_tenant_sees_its_own_newest_first_and_the_clockwork_every_tenants_oldest_first(
    parked: SqlParkedStore,
) -> None:
    for number in range(3):
        await park(parked, other(number, created_at=NOW + number))
    await park(parked, other(4, tenant="globex", created_at=NOW - 1))
    await parked.step("a-1", Step.CANCEL, NOW, nothing)
    pending = frozenset({State.PENDING})
    assert [one.call.id for one in await parked.list("acme", pending, 10)] == ["a-2", "a-0"]
    assert [one.call.id for one in await parked.list("acme", frozenset(State), 2)] == ["a-2", "a-1"]
    assert [one.call.id for one in await parked.waiting(10)] == ["a-4", "a-0", "a-2"]


async def test_a_list_leaves_out_what_is_sealed(parked: SqlParkedStore) -> None:
    await park(parked, other(1))
    (listed,) = await parked.list("acme", frozenset(State), 10)
    found = await parked.get("a-1")
    assert found is not None
    assert found.sealed != b""
    assert listed == msgspec.structs.replace(found, sealed=b"", result=None)


async def test_waiting_calls_are_counted_and_marked_by_tenant(parked: SqlParkedStore) -> None:
    assert await parked.count("acme", NOW) == 0
    marks = [await parked.mark("acme", NOW)]
    foreign = await parked.mark("globex", NOW)
    await park(parked, other(1))
    await park(parked, other(2))
    assert await parked.count("acme", NOW) == 2
    marks.append(await parked.mark("acme", NOW))
    await parked.vote("a-1", msgspec.structs.replace(YES, at=NOW), "{}", nothing)
    marks.append(await parked.mark("acme", NOW))
    # Time alone: what waited is over.
    assert await parked.count("acme", NOW + 10**6) == 0
    marks.append(await parked.mark("acme", NOW + 10**6))
    assert len(set(marks)) == len(marks)
    assert (await parked.count("globex", NOW), await parked.mark("globex", NOW)) == (0, foreign)


async def test_approvals_of_a_person_are_counted_within_their_tenant(parked: SqlParkedStore) -> None:
    for number, tenant in ((1, "acme"), (2, "acme"), (3, "globex")):
        await park(parked, other(number, tenant=tenant))
        await parked.vote(f"a-{number}", msgspec.structs.replace(YES, at=NOW + number), "{}", nothing)
    await park(parked, other(4))
    await parked.vote("a-4", Vote("bob", Decision.DENY, NOW + 4), "", nothing)
    assert await parked.approved_since("acme", "bob", NOW) == 2
    assert await parked.approved_since("acme", "bob", NOW + 2) == 1
    assert await parked.approved_since("acme", "eve", NOW) == 0


async def test_people_are_reminded_and_others_told_once(parked: SqlParkedStore) -> None:
    await park(parked)
    assert await parked.note("a-1", reminded_at=NOW + 60) is True
    assert await parked.note("a-1", reminded_at=NOW + 61) is False
    assert await parked.note("a-1", escalated_at=NOW + 90) is True
    kept = await parked.get("a-1")
    assert kept is not None
    assert (kept.reminded_at, kept.escalated_at) == (NOW + 60, NOW + 90)


async def test_what_was_started_neither_expires_nor_is_cancelled(parked: SqlParkedStore, stores: Stores) -> None:
    for number in (1, 2):
        await park(parked, other(number, rule=Rule(frozenset({Duty.APPROVER}))))
        await parked.vote(f"a-{number}", YES, "{}", nothing)
    engine = open_engine(stores.url)
    operations = SqlOperationStore(engine)
    await operations.deposit(Operation("a-1", "acme", "d", NOW + 600))
    await operations.deposit(Operation("a-2", "acme", "d", NOW + 600))
    assert await operations.start(Operation("a-1", "acme", "d", NOW + 600), "event", "me", NOW) is None
    await engine.dispose()
    assert await parked.step("a-1", Step.EXPIRE, NOW + 600, nothing) is False
    assert await parked.step("a-1", Step.CANCEL, NOW + 600, nothing) is False
    assert await parked.keep_result("a-1", b"late") is True
    assert await parked.step("a-2", Step.EXPIRE, NOW + 600, nothing) is True


async def test_the_answer_of_a_granted_call_is_kept_once(parked: SqlParkedStore) -> None:
    await park(parked, other(1, rule=Rule(frozenset({Duty.APPROVER}))))
    assert await parked.keep_result("a-1", b"\x00one") is False
    await parked.vote("a-1", YES, "{}", nothing)
    kept = await asyncio.gather(*(parked.keep_result("a-1", bytes([number])) for number in range(4)))
    assert sum(kept) == 1
    found = await parked.get("a-1")
    assert found is not None
    assert found.result == bytes([kept.index(True)])
    assert await parked.keep_result("a-9", b"x") is False


async def test_what_is_long_over_is_forgotten_with_its_votes(parked: SqlParkedStore) -> None:
    await park(parked)
    await parked.vote("a-1", YES, "{}", nothing)
    await park(parked, other(2, created_at=NOW + 600 + KEEP, deadline=NOW + 700 + KEEP))
    assert await parked.get("a-1") is None
    assert await parked.approved_since("acme", "bob", NOW) == 0


async def test_another_process_sees_it(parked: SqlParkedStore, stores: Stores) -> None:
    await park(parked)
    async with open_stores(stores.url):
        engine = open_engine(stores.url)
        assert await SqlParkedStore(engine).get("a-1") == Parked(CALL, State.PENDING, sealed=SEALED)
        await engine.dispose()
