"""`flows.sessions.Sessions` under any order of declaring, finding, ending, policy changes and time passing."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gatelab import AGENT, ALICE, POLICY, PRINCIPAL, CountingRng, FakeClock, MemorySessions, RecordingAudit
from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.principal import Principal
from twogate.core.session import MAX_LIFETIME, Session
from twogate.flows.sessions import Sessions

TASKS = ("report", "edit", "all")
AGENT_OF_THREE = msgspec.structs.replace(AGENT, tasks=TASKS)
PRINCIPALS = (
    msgspec.structs.replace(PRINCIPAL, agent=AGENT_OF_THREE),
    msgspec.structs.replace(PRINCIPAL, agent=AGENT_OF_THREE, user=ALICE),
    msgspec.structs.replace(PRINCIPAL, agent=AGENT_OF_THREE, issuer="https://other.example.com"),
)


class Machine(RuleBasedStateMachine):
    """`first` holds each session as it was when it was first given out; nothing may ever differ but `ended_at`."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.store = MemorySessions()
        self.audit = RecordingAudit()
        self.policy = POLICY
        self.limit = 1
        self.first: dict[str, Session] = {}
        self.owner: dict[str, Principal] = {}
        self.ended: set[str] = set()
        # Two replicas with caches of their own, on one store.
        self.replicas = [
            Sessions(self.store, self.store, lambda: self.policy, self.audit, self.clock, CountingRng(number * 10**6))
            for number in range(2)
        ]

    @initialize(limit=st.sampled_from([1, 1, 2]))
    def start(self, limit: int) -> None:
        self.limit = limit

    @rule(seconds=st.sampled_from([1, 60, MAX_LIFETIME // 2, MAX_LIFETIME - 1, MAX_LIFETIME]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(task=st.sampled_from(TASKS), entries=st.frozensets(st.sampled_from(["read", "search", "files.change"])))
    def the_configuration_changes(self, task: str, entries: frozenset[str]) -> None:
        self.policy = msgspec.structs.replace(self.policy, tasks={**self.policy.tasks, task: entries})

    @rule(replica=st.sampled_from([0, 1]), who=st.sampled_from(PRINCIPALS), task=st.sampled_from((*TASKS, "unlisted")))
    def declare(self, replica: int, who: Principal, task: str) -> None:
        now = self.clock.now()
        # Whichever issuer named the agent: with a credential of each it must not hold one task through each.
        same_agent = [each for other in PRINCIPALS if other.user == who.user for each in self.unexpired(other)]
        others = [session for session in same_agent if session.task != task]
        mine = [session for session in self.unexpired(who) if session.task == task]
        ended = any(session.task == task and session.id in self.ended for session in same_agent)
        got = self.outcome(self.replicas[replica].declare(task, self.limited(who), now))
        if task not in TASKS:
            assert got is ErrorCode.TASK_UNKNOWN
        elif ended:
            assert got is ErrorCode.SESSION_ENDED
        elif mine:
            assert got == self.first[mine[0].id]
        elif len(others) >= self.limit:
            assert got is ErrorCode.TASK_LIMIT
        else:
            assert isinstance(got, Session)
            assert got.id not in self.first
            assert (got.created_at, got.deadline) == (now, now + MAX_LIFETIME)
            self.first[got.id], self.owner[got.id] = got, who

    @precondition(lambda self: self.first)
    @rule(data=st.data(), replica=st.sampled_from([0, 1]), who=st.sampled_from(PRINCIPALS))
    def find(self, data: st.DataObject, replica: int, who: Principal) -> None:
        session = self.first[data.draw(st.sampled_from(sorted(self.first)))]
        now = self.clock.now()
        got = self.outcome(self.replicas[replica].find(session.id, self.limited(who), now))
        if self.owner[session.id] is not who:
            assert got is ErrorCode.SESSION_MISMATCH
        elif session.id in self.ended:
            assert got is ErrorCode.SESSION_ENDED
        elif now >= session.deadline:
            assert got is ErrorCode.SESSION_EXPIRED
        else:
            assert got == session

    @precondition(lambda self: self.first)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        session = self.first[data.draw(st.sampled_from(sorted(self.first)))]
        if self.clock.now() < session.deadline:
            self.ended.add(session.id)
        self.outcome(self.store.end(session.id, self.clock.now()))

    @rule(replica=st.sampled_from([0, 1]), who=st.sampled_from(PRINCIPALS), made_up=st.text(max_size=5))
    def find_nothing(self, replica: int, who: Principal, made_up: str) -> None:
        assert self.outcome(self.replicas[replica].find(made_up, who, self.clock.now())) is ErrorCode.SESSION_UNKNOWN

    @invariant()
    def tools_and_deadlines_never_change_and_what_is_ended_stays_ended(self) -> None:
        for session_id, session in self.first.items():
            row = self.store.rows[session_id]
            assert (row.targets, row.deadline, row.task) == (session.targets, session.deadline, session.task)
            assert (row.ended_at is not None) == (session_id in self.ended)

    @invariant()
    def no_principal_has_more_tasks_than_it_may(self) -> None:
        for who in PRINCIPALS:
            tasks = {each.task for other in PRINCIPALS if other.user == who.user for each in self.unexpired(other)}
            assert len(tasks) <= self.limit

    @invariant()
    def every_session_was_written_down_exactly_once(self) -> None:
        opened = [event.session for event in self.audit.events if event.kind is EventKind.SESSION_OPENED]
        assert sorted(opened) == sorted(self.first)

    def limited(self, who: Principal) -> Principal:
        return msgspec.structs.replace(who, agent=msgspec.structs.replace(who.agent, concurrent_tasks=self.limit))

    def unexpired(self, who: Principal) -> list[Session]:
        now = self.clock.now()
        return [each for each in self.first.values() if self.owner[each.id] is who and now < each.deadline]

    def outcome(self, work: Any) -> Session | ErrorCode | None:
        try:
            got: Session | None = asyncio.run(work)
        except GateError as error:
            return error.code
        return got


TestSessions = Machine.TestCase
TestSessions.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
