"""What every ParkedStore does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from contracts.stores import AGENT, ALICE, NOW, Stores, open_stores, session
from twogate.core.approval import Decision, Duty, ParkedCall, Rule, State, Step, Vote
from twogate.core.approval_grounds import Grounds, Voter
from twogate.core.errors import ErrorCode, GateError
from twogate.core.operation import State as Ran
from twogate.core.principal import AgentId, PrincipalKey
from twogate.flows.approvals.parked import Limit, Parked, live_key
from twogate.flows.authserver.people import User
from twogate.flows.operations.store import Operation
from twogate.stores.sql.approvals import KEEP, SqlParkedStore
from twogate.stores.sql.opening import open_engine
from twogate.stores.sql.operations import PURGE_EVERY, SqlOperationStore
from twogate.stores.sql.users import SqlUserStore

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
RELEASER = msgspec.structs.replace(AGENT, concurrent_tasks=2)
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


async def test_a_person_approves_so_many_within_a_time_and_is_told_when_one_more_is_possible(
    parked: SqlParkedStore,
) -> None:
    limit = Limit(2, 300)

    async def vote(number: int, at: int, who: str = "bob", decision: Decision = Decision.APPROVE) -> Parked | None:
        most = limit if decision is Decision.APPROVE else None
        return await parked.vote(f"a-{number}", Vote(who, decision, at), "{}", nothing, most)

    for number in range(1, 7):
        await park(parked, other(number, tenant="globex" if number == 3 else "acme"))
    assert await vote(3, NOW) is not None
    assert await vote(1, NOW) is not None
    assert await vote(4, NOW, decision=Decision.DENY) is not None
    assert await vote(2, NOW + 100) is not None
    for at in (NOW + 101, NOW + 299):
        with pytest.raises(GateError, match="approvals_limited") as refused:
            await vote(5, at)
        assert refused.value.data == {"most": 2, "within": 300, "again_at": NOW + 300}
    assert await vote(6, NOW + 101, decision=Decision.DENY) is not None
    assert await vote(5, NOW + 101, "eve") is not None
    assert await vote(5, NOW + 300) is not None


async def test_of_many_approvals_of_one_person_at_once_no_more_are_counted_than_may_be(parked: SqlParkedStore) -> None:
    for number in range(12):
        await park(parked, other(number), most=20)
    limit = Limit(5, 3600)
    said = (parked.vote(f"a-{number}", YES, "{}", nothing, limit) for number in range(12))
    counted = await asyncio.gather(*said, return_exceptions=True)
    refused = [one for one in counted if isinstance(one, GateError)]
    assert {one.code for one in refused} == {ErrorCode.APPROVALS_LIMITED}
    assert (len(counted) - len(refused), len(refused)) == (5, 7)
    found = [await parked.get(f"a-{number}") for number in range(12)]
    assert sum(bool(one and one.votes) for one in found) == 5


async def test_an_agent_asks_so_often_within_a_time_whatever_becomes_of_it(parked: SqlParkedStore) -> None:
    limit = Limit(3, 300)

    async def ask(number: int, at: int = NOW, agent: str = "builder") -> Parked | None:
        call = other(number, created_at=at, deadline=at + 600, agent=agent)
        return await parked.park(call, SEALED, live_key(call), 10, nothing, limit)

    said = await asyncio.gather(*(ask(number, NOW) for number in range(8)), return_exceptions=True)
    assert sum(isinstance(one, Parked) for one in said) == 3
    kept = next(number for number, one in enumerate(said) if isinstance(one, Parked))
    await parked.vote(f"a-{kept}", Vote("bob", Decision.DENY, NOW), "", nothing)
    with pytest.raises(GateError, match="rate_limited") as refused:
        await ask(9, NOW + 100)
    assert refused.value.data == {"retry_after": 200}
    # The same call again is no new one, and other agents ask for themselves.
    again = await ask(kept, NOW + 100)
    assert again is not None
    assert again.state is State.DENIED
    assert await ask(9, NOW + 100, "another") is not None
    assert await ask(10, NOW + 300) is not None


async def test_a_vote_is_taken_back_while_its_call_waits_and_can_be_given_anew(parked: SqlParkedStore) -> None:
    await park(parked)
    await parked.vote("a-1", YES, "{}", nothing)
    with pytest.raises(GateError):
        await parked.withdraw("a-1", "bob", unwritable)
    assert await parked.get("a-1") == Parked(CALL, State.PENDING, (YES,), SEALED)
    taken = await asyncio.gather(*(parked.withdraw("a-1", "bob", nothing) for _ in range(4)))
    assert sum(taken) == 1
    assert await parked.withdraw("a-1", "eve", nothing) is False
    assert await parked.withdraw("a-9", "bob", nothing) is False
    assert await parked.get("a-1") == Parked(CALL, State.PENDING, sealed=SEALED)
    for who in ("bob", "eve"):
        await parked.vote("a-1", msgspec.structs.replace(YES, approver=who), "{}", nothing)
    assert await parked.withdraw("a-1", "bob", nothing) is False
    granted = await parked.get("a-1")
    assert granted is not None
    assert (granted.state, len(granted.votes)) == (State.GRANTED, 2)


async def test_what_a_call_stands_on_is_read_as_of_now(parked: SqlParkedStore, stores: Stores) -> None:
    mine = PrincipalKey(CALL.tenant, CALL.issuer, CALL.agent, ALICE)
    await stores.sessions.open(session("s-1", "release", mine), RELEASER, NOW)
    await park(parked)
    await parked.vote("a-1", YES, "{}", nothing)
    engine = open_engine(stores.url)
    users = SqlUserStore(engine)
    bare = Grounds("a-1", "acme", "builder", State.PENDING, RULE, NOW, NOW + 600, voters=(Voter("bob"),))
    assert await parked.grounds("a-1") == bare
    assert await parked.grounds("a-9") is None
    duties = (Duty.APPROVER, Duty.VIEWER)
    await users.add(User("acme", "bob", "robert", groups=("finance",), duties=duties))
    # Somebody of the same name elsewhere is somebody else.
    await users.add(User("globex", "alice", "alice"))
    await users.disable("globex", "alice", NOW, NOW)
    present = msgspec.structs.replace(bare, voters=(Voter("bob", "robert", True, duties, ("finance",)),))
    assert await parked.grounds("a-1") == present
    await users.disable("acme", "bob", NOW, NOW)
    gone = msgspec.structs.replace(bare, voters=(Voter("bob", "robert", False, duties, ("finance",)),))
    assert await parked.grounds("a-1") == gone
    await stores.registry.disable_agent(AgentId("globex", "builder"), NOW)
    assert await parked.grounds("a-1") == gone
    await stores.registry.disable_agent(AgentId("acme", "builder"), NOW)
    await stores.sessions.end("s-1", NOW)
    await users.add(User("acme", "alice", "alice"))
    await users.disable("acme", "alice", NOW, NOW)
    await SqlOperationStore(engine).start(Operation("a-1", "acme", "d", NOW + 600), "event", "me", NOW)
    await engine.dispose()
    over = msgspec.structs.replace(gone, ran=True, session_ended=True, agent_disabled=True, user_disabled=True)
    assert await parked.grounds("a-1") == over


async def test_what_may_be_over_is_found_and_what_surely_is_first(parked: SqlParkedStore, stores: Stores) -> None:
    async def found(now: int = NOW, most: int = 10, *dropped: AgentId) -> list[str]:
        return [one.approval for one in await parked.doubtful(now, most, dropped)]

    one = Rule(frozenset({Duty.APPROVER}))
    await park(parked, other(1))
    await park(parked, other(2, agent="tester", deadline=NOW + 900))
    await park(parked, other(3, agent="porter", deadline=NOW + 300, rule=one))
    await park(parked, other(4, tenant="globex"))
    assert await found() == []
    await parked.vote("a-3", YES, "{}", nothing)
    assert await found() == ["a-3"]
    await stores.registry.disable_agent(AgentId("acme", "tester"), NOW)
    assert await found() == ["a-2", "a-3"]
    assert await found(NOW, 1) == ["a-2"]
    assert await found(NOW, 10, AgentId("globex", "builder"), AgentId("globex", "tester")) == ["a-4", "a-2", "a-3"]
    assert await found(NOW + 300) == ["a-3", "a-2"]
    await parked.step("a-2", Step.CANCEL, NOW, nothing)
    engine = open_engine(stores.url)
    await SqlOperationStore(engine).start(Operation("a-3", "acme", "d", NOW + 600), "event", "me", NOW)
    await engine.dispose()
    assert await found(NOW + 300) == []


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


async def test_of_a_start_and_a_cancellation_at_once_the_later_sees_the_earlier(
    parked: SqlParkedStore, stores: Stores
) -> None:
    await park(parked, other(1, rule=Rule(frozenset({Duty.APPROVER}))))
    await parked.vote("a-1", YES, "{}", nothing)
    engine = open_engine(stores.url)
    operations, started = SqlOperationStore(engine), asyncio.Event()

    async def start() -> None:
        assert await operations.start(Operation("a-1", "acme", "d", NOW + 600), "event", "me", NOW) is None
        started.set()

    async def while_it_is_cancelled() -> None:
        # Who starts it now must find it cancelled afterwards: a call that runs is never called cancelled.
        starting.append(asyncio.create_task(start()))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(started.wait(), 0.3)

    starting: list[asyncio.Task[None]] = []
    assert await parked.step("a-1", Step.CANCEL, NOW, while_it_is_cancelled) is True
    await asyncio.gather(*starting)
    await engine.dispose()
    found = await parked.get("a-1")
    assert found is not None
    assert found.state is State.CANCELLED


async def test_of_a_vote_and_a_cancellation_at_once_the_vote_sees_that_it_is_too_late(
    parked: SqlParkedStore, stores: Stores
) -> None:
    await park(parked, other(1, rule=Rule(frozenset({Duty.APPROVER}))))
    engine = open_engine(stores.url)
    told: list[State] = []
    voting: list[asyncio.Task[Parked | None]] = []

    async def announced(state: State) -> None:
        told.append(state)

    async def while_it_is_cancelled() -> None:
        # Where writers run side by side this vote is under way now, and waits for the cancellation.
        voting.append(asyncio.create_task(SqlParkedStore(engine).vote("a-1", YES, "{}", announced)))
        assert await asyncio.wait(voting, timeout=0.3) == (set(), set(voting))

    assert await parked.step("a-1", Step.CANCEL, NOW, while_it_is_cancelled) is True
    assert await asyncio.gather(*voting) == [None]
    await engine.dispose()
    found = await parked.get("a-1")
    assert found is not None
    # A vote of which nothing was written down was not counted either, nor against what its person may approve.
    assert (found.state, found.votes, told) == (State.CANCELLED, (), [])


async def test_what_ran_is_known_to_have_run_as_long_as_the_call_is_kept(
    parked: SqlParkedStore, stores: Stores
) -> None:
    await park(parked, other(1, rule=Rule(frozenset({Duty.APPROVER}))))
    await parked.vote("a-1", YES, "{}", nothing)
    engine = open_engine(stores.url)
    operations = SqlOperationStore(engine)
    assert await operations.start(Operation("a-1", "acme", "d", NOW + 600), "event", "gone", NOW) is None
    # Long after, when uses of tokens are forgotten.
    later = NOW + 20 * 24 * 3600
    for number in range(PURGE_EVERY + 1):
        await operations.start(Operation(f"n-{number}", "acme", "d", later + 60), "e", "me", later)
    assert await operations.state("a-1", later) is Ran.OUTCOME_UNKNOWN
    assert await parked.step("a-1", Step.EXPIRE, later, nothing) is False
    # It is forgotten with its call.
    later = NOW + 600 + KEEP
    await park(parked, other(2, created_at=later, deadline=later + 60))
    for number in range(PURGE_EVERY + 1):
        await operations.start(Operation(f"m-{number}", "acme", "d", later + 60), "e", "me", later)
    assert await operations.state("a-1", later) is None
    await engine.dispose()


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
    # Its votes too: one of the same id would have none.
    await park(parked, msgspec.structs.replace(CALL, created_at=NOW + KEEP, deadline=NOW + 700 + KEEP))
    assert (await parked.get("a-1") or pytest.fail("not parked")).votes == ()


async def test_another_process_sees_it(parked: SqlParkedStore, stores: Stores) -> None:
    await park(parked)
    async with open_stores(stores.url):
        engine = open_engine(stores.url)
        assert await SqlParkedStore(engine).get("a-1") == Parked(CALL, State.PENDING, sealed=SEALED)
        await engine.dispose()
