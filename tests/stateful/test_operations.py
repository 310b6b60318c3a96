"""Operation tokens under any order of starting, failing, sending, answering, crashing and waiting, in two processes.

No token lets two calls run, a call whose end nobody saw is never called unused, and what was never sent can be sent
again unless somebody was told otherwise.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gatelab import NOW, FakeClock
from harness.database import open_migrated
from twogate.core.audit.record import Outcome
from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import Kind, Message
from twogate.core.operation import State
from twogate.flows.operations.started import StartedOperation
from twogate.flows.operations.store import STALE, Lost, Operation
from twogate.stores.sql.operations import SqlOperationStore

TOKENS = ("a", "b")
PROCESSES = (0, 1)
MESSAGE = Message(Kind.REQUEST, 1, "tools/call", {"name": "change"})
_numbers = itertools.count()


@dataclass
class UnderWay:
    """A call in some process, between its start and its end."""

    token: str
    started: StartedOperation
    sent: bool = False


@dataclass
class Process:
    """What dies with a process."""

    name: str
    calls: list[UnderWay] = field(default_factory=list)


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
        self.store = SqlOperationStore(engine)
        self.clock = FakeClock()
        self.processes = [Process("p0"), Process("p1")]
        self.states: dict[str, State] = dict.fromkeys(TOKENS, State.READY)
        self.started_at: dict[str, float] = {}
        self.runs: dict[str, int] = dict.fromkeys(TOKENS, 0)
        self.lost: list[str] = []

    @initialize(deposited=st.sets(st.sampled_from(TOKENS)))
    def deposit(self, deposited: set[str]) -> None:
        for token in sorted(deposited):
            assert self.runner.run(self.store.deposit(operation(token)))

    @rule(process=st.sampled_from(PROCESSES), token=st.sampled_from(TOKENS))
    def start(self, process: int, token: str) -> None:
        mine, event = self.processes[process], f"e{next(_numbers)}"
        found = self.runner.run(self.store.start(operation(token), event, mine.name, self.clock.now()))
        if self.states[token] is State.READY:
            assert found is None
            self.states[token], self.started_at[token] = State.STARTED, self.clock.seconds
            started = StartedOperation(self.store, self.clock, token, event, token, MESSAGE, b"")
            mine.calls.append(UnderWay(token, started))
            return
        if self.states[token] is State.STARTED and self.clock.seconds - self.started_at[token] >= STALE:
            self.states[token] = State.OUTCOME_UNKNOWN
        assert found is self.states[token]

    def under_way(self, process: int, *, sent: bool) -> list[UnderWay]:
        return [call for call in self.processes[process].calls if call.sent is sent]

    @rule(process=st.sampled_from(PROCESSES), why=st.sampled_from(("audit", "unreachable", "cancelled")))
    def fail_unsent(self, process: int, why: str) -> None:
        """The intent cannot be written, the server cannot be reached, or the caller goes away before."""
        for call in self.under_way(process, sent=False):
            error = None
            if why == "unreachable":
                call.started.sending()
                error = GateError(ErrorCode.UPSTREAM_UNAVAILABLE)
            self.runner.run(call.started.settle(Outcome.ABORTED if error is None else Outcome.FAILED, error))
            self.processes[process].calls.remove(call)
            # One that was given up meanwhile stays so: somebody may have been told.
            if self.states[call.token] is State.STARTED:
                self.states[call.token] = State.READY

    @rule(process=st.sampled_from(PROCESSES))
    def send(self, process: int) -> None:
        for call in self.under_way(process, sent=False):
            call.started.sending()
            call.sent = True
            self.runs[call.token] += 1

    @rule(process=st.sampled_from(PROCESSES), how=st.sampled_from(("answered", "broken", "late")))
    def end(self, process: int, how: str) -> None:
        for call in self.under_way(process, sent=True):
            error = None
            if how == "broken":
                error = GateError(ErrorCode.UPSTREAM_BROKEN)
            elif how == "late":
                # Whatever the code says, the server had begun to answer.
                call.started.answered()
                error = GateError(ErrorCode.UPSTREAM_UNAVAILABLE)
            outcome = Outcome.ANSWERED if error is None else Outcome.FAILED
            self.runner.run(call.started.settle(outcome, error))
            # As the pipeline's last resort does, which changes nothing any more.
            self.runner.run(call.started.settle(Outcome.ABORTED))
            self.processes[process].calls.remove(call)
            self.states[call.token] = State.FINISHED

    @rule(process=st.sampled_from(PROCESSES))
    def crash_and_start_again(self, process: int) -> None:
        before = {token for token, state in self.states.items() if state is State.STARTED}
        self.processes[process] = Process(f"p{next(_numbers)}")

        async def announce(lost: Sequence[Lost]) -> None:
            self.lost += [one.jti for one in lost]

        lost = self.runner.run(self.store.give_up(self.processes[process].name, self.clock.now(), announce))
        # SQLite knows of no other process: the other one's calls are given up too, and still end as it says.
        assert {one.jti for one in lost} == before
        for token in before:
            self.states[token] = State.OUTCOME_UNKNOWN

    @precondition(lambda self: self.clock.seconds < NOW + 4 * STALE)
    @rule(seconds=st.sampled_from((1, STALE - 1, STALE)))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @invariant()
    def no_token_lets_two_calls_run(self) -> None:
        assert max(self.runs.values()) <= 1

    @invariant()
    def the_store_says_what_is_true(self) -> None:
        for token, known in self.states.items():
            state = known
            found = self.runner.run(self.store.state(token, self.clock.now()))
            if state is State.STARTED and self.clock.seconds - self.started_at[token] >= STALE:
                state = State.OUTCOME_UNKNOWN
            assert (found or State.READY) is state
            assert not (self.runs[token] and found in (None, State.READY))

    def teardown(self) -> None:
        self.runner.run(self.stack.aclose())
        self.runner.close()


def operation(token: str) -> Operation:
    return Operation(token, "acme", "00", NOW + 900)


def test_no_order_of_events_makes_a_token_run_twice(tmp_path: Path) -> None:
    machine = type("Machine", (Machine,), {"directory": tmp_path})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        ),
    )
