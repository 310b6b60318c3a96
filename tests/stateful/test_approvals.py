"""Calls that wait, under any order of asking, deciding, running, failing, crashing and waiting, over the real store.

Never two runs of one approval, no run without one nor after its session, agent or approver was cut off, and a crash
between start and outcome is told as unknown for ever.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from approvallab import RULE, principal
from gatelab import NOW, CountingRng, FakeClock, RecordingAudit
from harness.database import open_migrated
from tokenlab import ISSUER
from twogate.adapters.envelope import LocalEnvelope
from twogate.core.approval import Decision, Duty, State, Vote
from twogate.core.errors import ErrorCode, GateError
from twogate.core.operation import State as Run
from twogate.core.principal import AgentId
from twogate.core.session import Session
from twogate.flows.approvals.parked import Parked, Parking, Target
from twogate.flows.approvals.sweep import Sweep
from twogate.flows.authserver.people import User
from twogate.flows.gateway.approval_exchange import Answered, Captured
from twogate.flows.gateway.exchange import Refusal
from twogate.flows.gateway.parked_run import ParkedRuns, Standing
from twogate.flows.operations.store import Lost, Operation
from twogate.stores.sql.approvals import SqlParkedStore
from twogate.stores.sql.engine import writing
from twogate.stores.sql.operations import SqlOperationStore
from twogate.stores.sql.registry import SqlRegistryStore
from twogate.stores.sql.sessions import SqlSessionStore
from twogate.stores.sql.tables import sessions
from twogate.stores.sql.users import SqlUserStore

WITHIN = 3600
DECIDED = {State.DENIED: Standing.DENIED, State.EXPIRED: Standing.EXPIRED, State.CANCELLED: Standing.CANCELLED}
ENDS = ("answered", "failed", "unsent", "crash unsent", "crash sent", "crash before it is kept", "not kept")
_numbers = itertools.count()


class Machine(RuleBasedStateMachine):
    directory: Path

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        directory = self.directory / str(next(_numbers))
        directory.mkdir(mode=0o700)
        engine = self.runner.run(open_migrated(f"sqlite:///{directory / 'twogate.db'}"))
        self.stack.push_async_callback(engine.dispose)
        self.clock, rng = FakeClock(), CountingRng()
        self.store, self.operations = SqlParkedStore(engine), SqlOperationStore(engine)
        self.audit = RecordingAudit()
        self.parking = Parking(self.store, LocalEnvelope(bytes(32), rng), self.audit, self.clock, rng)
        self.sweep = Sweep(self.parking, self.store, self.clock)
        self.users, self.registry, self.engine = SqlUserStore(engine), SqlRegistryStore(engine), engine
        self.session = 0
        self.voters: dict[str, str] = {}
        self.process = 0
        self.runs: dict[str, int] = {}
        self.approved: set[str] = set()
        self.expected: dict[str, Standing] = {}

    @property
    def parked_runs(self) -> ParkedRuns:
        return ParkedRuns(self.parking, self.operations, self.clock, ())

    @initialize()
    def first(self) -> None:
        self.open_session()
        self.ask()

    def open_session(self) -> None:
        self.session += 1

        async def insert() -> None:
            async with writing(self.engine) as connection:
                values = {
                    "tenant": "acme",
                    "issuer": ISSUER,
                    "agent": "reporter",
                    "user_issuer": "",
                    "user_subject": "",
                }
                times = {"created_at": NOW, "deadline": NOW + 100 * WITHIN}
                made = {"id": f"s-{self.session}", "task": "release", "targets": "[]", **values, **times}
                await connection.execute(sessions.insert().values(**made))

        self.runner.run(insert())

    @rule()
    def ask(self) -> None:
        """The one call is sent again: the same parked call until its deadline, and a new one after it."""
        made = principal()
        name = f"s-{self.session}"
        session = Session(name, made.key, "release", frozenset({"git.git_commit"}), NOW, NOW + 100 * WITHIN)
        target = Target("git", "git.git_commit", "", "cd" * 32, b'{"form":1}')
        parked = self.runner.run(self.parking.park(made, session, target, RULE))
        self.runs.setdefault(parked.call.id, 0)
        self.expected.setdefault(parked.call.id, Standing.WAITING)

    def last(self) -> Parked:
        parked = self.runner.run(self.parking.current(next(reversed(self.runs))))
        assert parked is not None
        if parked.state is State.EXPIRED and self.expected[parked.call.id] in (Standing.WAITING, Standing.READY):
            self.expected[parked.call.id] = Standing.EXPIRED
        return parked

    @rule(decision=st.sampled_from(Decision))
    def decide(self, decision: Decision) -> None:
        parked = self.last()

        async def announce(_: State) -> None:
            pass

        person = f"p{next(_numbers)}"
        self.runner.run(self.users.add(User("acme", person, person, duties=(Duty.APPROVER,))))
        vote = Vote(person, decision, self.clock.now())
        voted = self.runner.run(self.store.vote(parked.call.id, vote, "", announce))
        if voted is not None:
            approved = decision is Decision.APPROVE
            self.expected[parked.call.id] = Standing.READY if approved else Standing.DENIED
            if approved:
                self.approved.add(parked.call.id)
                self.voters[parked.call.id] = person

    @rule()
    def cancel(self) -> None:
        parked = self.last()
        if self.expected[parked.call.id] in (Standing.WAITING, Standing.READY):
            assert self.runner.run(self.parking.cancel(parked, "its session is over"))
            self.expected[parked.call.id] = Standing.CANCELLED

    def cut_off(self, cut: Coroutine[object, object, object], among: tuple[Standing, ...], *, swept: bool) -> None:
        """What the last call stands on ends, by whichever way; a sweep writes that down, or whoever looks next."""
        approval = self.last().call.id
        self.runner.run(cut)
        if self.expected[approval] in among:
            self.expected[approval] = Standing.CANCELLED
        if swept:
            self.runner.run(self.sweep.run())
            self.stored_as_expected(approval)

    def stored_as_expected(self, approval: str) -> None:
        """What the inbox shows, without anybody having asked for this very call."""
        kept = self.runner.run(self.store.get(approval))
        assert kept is not None
        stored = {State.PENDING: Standing.WAITING, State.GRANTED: Standing.READY, **DECIDED}[kept.state]
        if stored is not Standing.READY or self.expected[approval] in (Standing.WAITING, *DECIDED.values()):
            assert stored is self.expected[approval]

    @rule(swept=st.booleans())
    def end_session(self, swept: bool) -> None:
        name = f"s-{self.session}"
        if self.last().call.session == name:
            end = SqlSessionStore(self.engine).end(name, self.clock.now())
            self.cut_off(end, (Standing.WAITING, Standing.READY), swept=swept)
            self.open_session()

    @rule()
    def pause_the_agent_for_a_moment(self) -> None:
        """It is over even if the agent is let in again before anybody asks."""
        agent = AgentId("acme", "reporter")
        self.cut_off(
            self.registry.disable_agent(agent, self.clock.now()), (Standing.WAITING, Standing.READY), swept=True
        )
        self.runner.run(self.registry.enable_agent(agent))

    @rule(swept=st.booleans())
    def disable_who_approved(self, swept: bool) -> None:
        person = self.voters.get(self.last().call.id)
        if person is not None:
            now = self.clock.now()
            self.cut_off(self.users.disable("acme", person, now, now), (Standing.READY,), swept=swept)

    @rule()
    def sweep_alone(self) -> None:
        approval = next(reversed(self.runs))
        self.runner.run(self.sweep.run())
        parked = self.runner.run(self.store.get(approval))
        assert parked is not None
        if self.clock.now() >= parked.call.deadline and self.expected[approval] in (Standing.WAITING, Standing.READY):
            self.expected[approval] = Standing.EXPIRED
        self.stored_as_expected(approval)

    @rule(seconds=st.sampled_from((1, WITHIN)))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(end=st.sampled_from(ENDS))
    def run(self, end: str) -> None:
        """A request finds it ready, and starts it; what comes then may break off at every step."""
        parked = self.last()
        approval = parked.call.id
        if self.runner.run(self.parked_runs.standing(parked)) is not Standing.READY:
            return
        operation = Operation(approval, "acme", parked.call.digest, parked.call.deadline)
        event, owner = f"e{next(_numbers)}", f"process{self.process}"
        assert self.runner.run(self.operations.start(operation, event, owner, self.clock.now())) is None
        # Whoever comes now does not start it.
        again = self.operations.start(operation, f"e{next(_numbers)}", owner, self.clock.now())
        assert self.runner.run(again) is Run.STARTED
        if end == "crash unsent":
            self.crash(approval)
            return
        if end == "unsent":
            captured = self.parked_runs.capture()

            async def undo() -> None:
                assert await self.operations.undo(approval, event)
                captured.outcome = Refusal(GateError(ErrorCode.UPSTREAM_UNAVAILABLE), 1)

            self.runner.run(self.parked_runs.run(parked, captured, undo))
            return
        self.runs[approval] += 1
        if end == "crash sent":
            self.crash(approval)
            return
        self.finish(parked, event, end)

    def finish(self, parked: Parked, event: str, end: str) -> None:
        approval, captured = parked.call.id, Captured(None, 100)

        async def go() -> None:
            assert await self.operations.finish(approval, event, "answered", self.clock.now())
            body = b'{"jsonrpc":"2.0","id":1,"result":{"n":%d}}' % self.runs[approval]
            captured.outcome = Refusal(GateError(ErrorCode.UPSTREAM_BROKEN), 1) if end == "failed" else None
            if end == "answered":
                captured.outcome = Answered(200, body)

        if end == "crash before it is kept":
            self.runner.run(go())
            self.process += 1
        else:
            self.runner.run(self.parked_runs.run(parked, captured, go))
        kept = end in ("answered", "failed")
        self.expected[approval] = Standing.ANSWERED if kept else Standing.LOST

    def crash(self, approval: str) -> None:
        """The process dies, and the next one gives up what it had started."""
        self.process += 1

        async def announce(lost: object) -> None:
            assert [one.jti for one in msgspec.convert(lost, list[Lost])] == [approval]

        self.runner.run(self.operations.give_up(f"process{self.process}", self.clock.now(), announce))
        self.expected[approval] = Standing.UNKNOWN

    @invariant()
    def nothing_runs_twice_or_unapproved_and_everybody_is_told_the_truth(self) -> None:
        for approval, runs in self.runs.items():
            assert runs <= (approval in self.approved)
            parked = self.runner.run(self.parking.current(approval))
            assert parked is not None
            standing = self.runner.run(self.parked_runs.standing(parked))
            if parked.state is State.EXPIRED and self.expected[approval] in (Standing.WAITING, Standing.READY):
                self.expected[approval] = Standing.EXPIRED
            assert standing is self.expected[approval]
            if standing is Standing.ANSWERED:
                kept = self.runner.run(self.parked_runs.answer(parked))
                assert kept is not None
                assert kept.refused is ErrorCode.UPSTREAM_BROKEN or bytes(kept.payload) == b'{"n":1}'

    def teardown(self) -> None:
        self.runner.run(self.stack.aclose())
        self.runner.close()


def test_no_order_of_events_runs_a_call_twice_or_without_an_approval(tmp_path: Path) -> None:
    machine = type("Machine", (Machine,), {"directory": tmp_path})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25, stateful_step_count=15, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        ),
    )
