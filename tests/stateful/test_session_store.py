"""Sessions under any order of declaring, ending, waiting and restarting, against a model of one dictionary."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path

import msgspec
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
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.stores import ALICE, NOW, PRINCIPAL
from harness.postgres import Cluster
from twogate.core.errors import ErrorCode, GateError
from twogate.core.principal import Agent, AgentId, PrincipalKey
from twogate.core.session import Session
from twogate.stores.sql.migrate import upgrade
from twogate.stores.sql.opening import open_engine
from twogate.stores.sql.sessions import SqlSessionStore

TASKS = ("review", "release", "clean")
PRINCIPALS = (PRINCIPAL, msgspec.structs.replace(PRINCIPAL, user=ALICE))
TARGETS = ("git.git_log", "git.git_push", "fs.rm")
LONGEST = 50


class Sessions(RuleBasedStateMachine):
    """`model` holds every session as the store must have it, by id."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.url = url
        self.model: dict[str, Session] = {}
        self.now = NOW
        self.engine: AsyncEngine | None = None
        self.agent = Agent(AgentId("acme", "builder"), "developer", TASKS)

    @initialize(concurrent=st.integers(1, 2))
    def start(self, concurrent: int) -> None:
        self.agent = msgspec.structs.replace(self.agent, concurrent_tasks=concurrent)
        self.restart()

    @rule()
    def restart(self) -> None:
        self.close()
        self.engine = open_engine(self.url)
        self.runner.run(upgrade(self.engine))

    @rule(seconds=st.integers(1, LONGEST))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule(
        principal=st.sampled_from(PRINCIPALS),
        task=st.sampled_from((*TASKS, "unlisted")),
        tools=st.frozensets(st.sampled_from(TARGETS)),
        lifetime=st.integers(1, LONGEST),
    )
    def declare(self, principal: PrincipalKey, task: str, tools: frozenset[str], lifetime: int) -> None:
        candidate = Session(f"s{self.now}-{len(self.model)}", principal, task, tools, self.now, self.now + lifetime)
        expected = self.expect(candidate)
        got: Session | ErrorCode
        try:
            got = self.runner.run(self.store.open(candidate, self.agent, self.now))
        except GateError as error:
            got = error.code
        assert got == expected
        if got is candidate:
            self.model[candidate.id] = candidate

    @rule(principal=st.sampled_from(PRINCIPALS), tasks=st.lists(st.sampled_from(TASKS), min_size=2, max_size=6))
    def declare_at_once(self, principal: PrincipalKey, tasks: list[str]) -> None:
        async def all_of_them() -> list[Session | BaseException]:
            number = len(self.model)
            candidates = [
                Session(f"p{number}-{index}", principal, task, frozenset({TARGETS[0]}), self.now, self.now + LONGEST)
                for index, task in enumerate(tasks)
            ]
            return await asyncio.gather(
                *(self.store.open(candidate, self.agent, self.now) for candidate in candidates), return_exceptions=True
            )

        for result in self.runner.run(all_of_them()):
            if isinstance(result, GateError):
                assert result.code in {ErrorCode.TASK_LIMIT, ErrorCode.SESSION_ENDED}
            else:
                assert isinstance(result, Session)
                assert self.model.setdefault(result.id, result) == result

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        session = self.model[data.draw(st.sampled_from(sorted(self.model)))]
        if session.ended_at is None and self.now < session.deadline:
            session = self.model[session.id] = msgspec.structs.replace(session, ended_at=self.now)
        assert self.runner.run(self.store.end(session.id, self.now)) == session

    @invariant()
    def the_store_holds_exactly_what_was_given_out(self) -> None:
        # Ended stays ended, and neither targets nor deadlines ever change.
        if self.engine is not None:
            for session in self.model.values():
                assert self.runner.run(self.store.get(session.id)) == session
            unexpired = self.runner.run(self.store.list_unexpired(self.now))
            assert {session.id for session in unexpired} == {
                session.id for session in self.model.values() if self.now < session.deadline
            }

    @invariant()
    def no_principal_has_more_tasks_at_once_than_its_agent_may(self) -> None:
        for principal in PRINCIPALS:
            mine = [session.task for session in self.unexpired(principal)]
            assert len(mine) == len(set(mine)) <= self.agent.concurrent_tasks

    def expect(self, candidate: Session) -> Session | ErrorCode:
        if candidate.task not in self.agent.tasks:
            return ErrorCode.TASK_UNKNOWN
        mine = self.unexpired(candidate.principal)
        for session in mine:
            if session.task == candidate.task:
                return session if session.ended_at is None else ErrorCode.SESSION_ENDED
        return candidate if len(mine) < self.agent.concurrent_tasks else ErrorCode.TASK_LIMIT

    def unexpired(self, principal: PrincipalKey) -> list[Session]:
        return [each for each in self.model.values() if each.principal == principal and self.now < each.deadline]

    @property
    def store(self) -> SqlSessionStore:
        assert self.engine is not None
        return SqlSessionStore(self.engine)

    def close(self) -> None:
        if self.engine is not None:
            self.runner.run(self.engine.dispose())

    def teardown(self) -> None:
        self.close()
        self.runner.close()


def run(examples: int, new_url: Callable[[], str]) -> None:
    class Here(Sessions):
        def __init__(self) -> None:
            super().__init__(new_url())

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=examples, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        ),
    )


def test_sessions_on_sqlite_are_as_the_model_says(tmp_path: Path) -> None:
    numbers = itertools.count()
    run(15, lambda: f"sqlite:///{tmp_path}/{next(numbers)}.db")


def test_sessions_on_postgresql_are_as_the_model_says(cluster: Cluster) -> None:
    run(10, lambda: cluster.url(cluster.new_user()))
