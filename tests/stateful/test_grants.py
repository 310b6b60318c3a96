"""Codes and refresh families under any order of redeeming, refreshing, stealing, waiting and crashing.

The model knows what an honest reading of the RFCs says of each code and token. Crashes come at the moments that matter:
before and after the one transaction of a redemption or a rotation, and between the two steps of a revocation.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

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

from contracts.stores import NOW
from grantlab import ALICE, OTHER_VERIFIER, VERIFIER, claims_of
from grantserver import Replica, open_replica
from harness.postgres import Cluster
from tokenlab import CODE_LIFETIME, LIFESPANS, StepClock
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.authserver.families import Family, Rotation
from twogate.flows.authserver.retry_answer import RETRY_WINDOW
from twogate.flows.authserver.revocations import RevocationKind
from twogate.stores.sql.codes import SqlCodeStore
from twogate.stores.sql.grants import SqlGrantStore
from twogate.stores.sql.registry import SqlRegistryStore
from twogate.stores.sql.revocations import SqlRevocationStore

T = TypeVar("T")
Given = dict[str, Any] | ErrorCode | type["CrashError"]

CLIENTS = ("web", "native", "native with a key")
KEY = "thumbprint"
PAUSES = (0, 0, 0, 1, RETRY_WINDOW - 1, RETRY_WINDOW)
WAITS = (1, RETRY_WINDOW, CODE_LIFETIME - 1, CODE_LIFETIME, LIFESPANS.unused - 1, LIFESPANS.unused)
MOST_ALIVE = 4

BEFORE, AFTER = "before", "after"


class CrashError(Exception):
    """The process dies here."""


class Crashes:
    """When the process dies next; for all stores, as there is one process."""

    code = rotation = revocation = ""


class CrashingCodes(SqlCodeStore):
    """Dies around the transaction of a redemption."""

    async def redeem(self, digest: str, family: Family | None, now: int) -> bool:
        if Crashes.code == BEFORE:
            raise CrashError
        redeemed = await super().redeem(digest, family, now)
        if Crashes.code == AFTER:
            raise CrashError
        return redeemed


class CrashingGrants(SqlGrantStore):
    """Dies around the transaction of a rotation, and between the revocation of access tokens and of the family."""

    async def rotate(self, grant_id: str, spent: str, rotation: Rotation) -> bool:
        if Crashes.rotation == BEFORE:
            raise CrashError
        rotated = await super().rotate(grant_id, spent, rotation)
        if Crashes.rotation == AFTER:
            raise CrashError
        return rotated

    async def revoke(self, grant_id: str, now: int) -> bool:
        if Crashes.revocation == AFTER:
            raise CrashError
        return await super().revoke(grant_id, now)


class CrashingRevocations(SqlRevocationStore):
    """Dies before access tokens are revoked."""

    async def add(self, kind: RevocationKind, value: str, until: int, now: int) -> None:
        if Crashes.revocation == BEFORE:
            raise CrashError
        await super().add(kind, value, until, now)


@dataclass
class Grant:
    """What the model knows of one grant. `tokens` are its refresh tokens as clients got them, oldest first.

    `lost`: a rotation committed and its answer was never seen, so there is a current token that nobody has yet.
    `answer` is what the last rotation gave, None if it was lost.
    """

    code: str
    client: str
    issued_at: int
    used: bool = False
    burnt: bool = False
    grant_id: str | None = None
    tokens: list[str] = field(default_factory=list[str])
    lost: bool = False
    rotated_at: int | None = None
    answer: dict[str, Any] | None = None
    created_at: int = 0
    used_at: int = 0
    revoked: bool = False

    @property
    def client_id(self) -> str:
        return self.client.partition(" ")[0]

    @property
    def proof(self) -> str | None:
        return KEY if "key" in self.client else None

    @property
    def can_prove(self) -> bool:
        return self.client != "native"

    def expires_at(self) -> int:
        return min(self.used_at + LIFESPANS.unused, self.created_at + LIFESPANS.whole)


class Grants(RuleBasedStateMachine):
    """`model` holds every grant; the replica is real, and restarted when it crashes."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.url = url
        self.clock = StepClock(NOW)
        self.model: list[Grant] = []
        self.stack: AsyncExitStack | None = None
        self.replica: Replica | None = None

    @initialize()
    def start(self) -> None:
        Crashes.code = Crashes.rotation = Crashes.revocation = ""
        self.restart()
        for client in CLIENTS:
            self.issue(client, redeemed=True)

    @rule()
    def restart(self) -> None:
        self.close()
        self.stack = AsyncExitStack()
        opening = open_replica(
            self.url, self.clock, codes=CrashingCodes, grants=CrashingGrants, revocations=CrashingRevocations
        )
        self.replica = self.runner.run(self.stack.enter_async_context(opening))

    @rule(seconds=st.sampled_from(WAITS))
    def wait(self, seconds: int) -> None:
        self.clock.seconds += seconds

    @precondition(lambda self: len(self.alive()) < MOST_ALIVE)
    @rule(client=st.sampled_from(CLIENTS), redeemed=st.sampled_from([True, True, False]))
    def issue(self, client: str, redeemed: bool) -> None:
        code = self.runner.run(self.server.code(client.partition(" ")[0]))
        grant = Grant(code, client, self.clock.now())
        self.model.append(grant)
        if redeemed:
            got = self.attempt(self.server.redeem(code, grant.client_id, grant.proof))
            assert isinstance(got, dict)
            grant.used = True
            self.begin(grant, got)

    @precondition(lambda self: not all(grant.used for grant in self.model))
    @rule(data=st.data(), right=st.booleans(), crash=st.sampled_from(["", "", BEFORE, AFTER]))
    def redeem(self, data: st.DataObject, right: bool, crash: str) -> None:
        self.redeem_one(data.draw(st.sampled_from([grant for grant in self.model if not grant.used])), right, crash)

    @precondition(lambda self: any(grant.used for grant in self.model))
    @rule(data=st.data(), right=st.booleans())
    def redeem_again(self, data: st.DataObject, right: bool) -> None:
        # Of all that were used, so that it does not end the living ones all the time.
        self.redeem_one(data.draw(st.sampled_from([grant for grant in self.model if grant.used])), right, "")

    def redeem_one(self, grant: Grant, right: bool, crash: str) -> None:
        verifier = VERIFIER if right else OTHER_VERIFIER
        Crashes.code = crash
        got = self.attempt(self.server.redeem(grant.code, grant.client_id, grant.proof, verifier=verifier))
        expected = self.expect_redemption(grant, right)
        committed = got is not CrashError or crash == AFTER
        reached = expected in (None, ErrorCode.GRANT_INVALID) and self.clock.now() < grant.issued_at + CODE_LIFETIME
        if crash and reached and not grant.used:
            assert got is CrashError
        elif expected is None:
            assert isinstance(got, dict)
        else:
            assert got is expected
        if grant.used:
            grant.revoked = grant.grant_id is not None
        elif reached and committed:
            grant.used, grant.burnt = True, not right
            if right:
                self.begin(grant, got)

    def expect_redemption(self, grant: Grant, right: bool) -> ErrorCode | None:
        if grant.used:
            return ErrorCode.GRANT_REUSED
        if self.clock.now() >= grant.issued_at + CODE_LIFETIME or not right:
            return ErrorCode.GRANT_INVALID
        return None

    def begin(self, grant: Grant, got: Given) -> None:
        grant.created_at = grant.used_at = self.clock.now()
        grant.rotated_at, grant.lost, grant.answer = None, True, None
        # After a crash nobody knows the family's name but the store.
        grant.grant_id = self.name_of(grant)
        if isinstance(got, dict):
            grant.tokens, grant.lost = [got["refresh_token"]], False
            assert claims_of(got["access_token"])["grant_id"] == grant.grant_id

    @precondition(lambda self: any(grant.tokens for grant in self.model))
    @rule(data=st.data(), crash=st.sampled_from(["", "", "", BEFORE, AFTER]))
    def refresh(self, data: st.DataObject, crash: str) -> None:
        """Use the newest token that the client has."""
        self.use(self.draw_grant(data), 0, crash)

    @precondition(lambda self: any(len(grant.tokens) > 1 for grant in self.model))
    @rule(data=st.data(), pause=st.sampled_from(PAUSES), age=st.sampled_from([1, 1, 1, 2]))
    def use_an_older_token(self, data: st.DataObject, pause: int, age: int) -> None:
        """Retry, or replay."""
        self.clock.seconds += pause
        grant = self.draw_grant(data, 2)
        self.use(grant, min(age, len(grant.tokens) - 1), "")

    def draw_grant(self, data: st.DataObject, tokens: int = 1) -> Grant:
        """A grant with so many tokens, one that has not ended if there is one."""
        grants = [grant for grant in self.model if len(grant.tokens) >= tokens]
        return data.draw(st.sampled_from([grant for grant in grants if grant in self.alive()] or grants))

    def use(self, grant: Grant, age: int, crash: str) -> None:
        token = grant.tokens[-1 - age]
        Crashes.rotation = crash
        got = self.attempt(self.server.refresh(token, grant.client_id, grant.proof))
        now = self.clock.now()
        if grant.revoked or now >= grant.expires_at():
            assert got is ErrorCode.GRANT_INVALID
        elif age == 0 and not grant.lost:
            if crash:
                assert got is CrashError
            if not crash or crash == AFTER:
                grant.used_at = grant.rotated_at = now
                self.rotated(grant, got)
        elif self.may_retry(grant, age, now):
            assert isinstance(got, dict)
            if grant.answer is None:
                # The answer that the crash swallowed.
                self.rotated(grant, got)
            assert got == grant.answer
        else:
            assert got is ErrorCode.GRANT_REUSED
            grant.revoked = True

    def may_retry(self, grant: Grant, age: int, now: int) -> bool:
        if not grant.can_prove or grant.rotated_at is None or now >= grant.rotated_at + RETRY_WINDOW:
            return False
        return age == (0 if grant.lost else 1)

    def rotated(self, grant: Grant, got: Given) -> None:
        grant.answer, grant.lost = None, True
        if isinstance(got, dict):
            assert got["refresh_token"] not in {token for each in self.model for token in each.tokens}
            grant.tokens.append(got["refresh_token"])
            grant.answer, grant.lost = got, False

    @precondition(lambda self: any(grant.tokens for grant in self.model))
    @rule(data=st.data(), count=st.integers(2, 5))
    def refresh_at_once(self, data: st.DataObject, count: int) -> None:
        grant = data.draw(st.sampled_from([grant for grant in self.model if grant.tokens]))
        if grant.revoked or grant.lost or self.clock.now() >= grant.expires_at():
            return

        async def all_of_them() -> list[dict[str, Any] | BaseException]:
            token = grant.tokens[-1]
            calls = (self.server.refresh(token, grant.client_id, grant.proof) for _ in range(count))
            return await asyncio.gather(*calls, return_exceptions=True)

        results = self.runner.run(all_of_them())
        given = [result for result in results if isinstance(result, dict)]
        assert all(result == given[0] for result in given)
        grant.used_at = grant.rotated_at = self.clock.now()
        self.rotated(grant, given[0])
        assert len(given) == (count if grant.can_prove else 1)
        grant.revoked = not grant.can_prove

    @precondition(lambda self: any(grant.tokens for grant in self.model))
    @rule(data=st.data())
    def another_client_tries(self, data: st.DataObject) -> None:
        grant = data.draw(st.sampled_from([grant for grant in self.model if grant.tokens]))
        token = data.draw(st.sampled_from(grant.tokens))
        thief = "native" if grant.client_id == "web" else "web"
        assert self.attempt(self.server.refresh(token, thief)) is ErrorCode.GRANT_INVALID
        assert self.attempt(self.server.redeem(grant.code, thief)) is ErrorCode.GRANT_INVALID

    @precondition(lambda self: any(grant.tokens and grant.proof for grant in self.model))
    @rule(data=st.data())
    def the_newest_token_comes_without_its_key(self, data: st.DataObject) -> None:
        grant = data.draw(st.sampled_from([grant for grant in self.model if grant.tokens and grant.proof]))
        if not grant.lost:
            for proof in (None, "another thumbprint"):
                got = self.attempt(self.server.refresh(grant.tokens[-1], grant.client_id, proof))
                assert got is ErrorCode.GRANT_INVALID

    @precondition(lambda self: any(grant.grant_id for grant in self.model))
    @rule(data=st.data(), crash=st.sampled_from(["", BEFORE, AFTER]))
    def revoke(self, data: st.DataObject, crash: str) -> None:
        grant = data.draw(st.sampled_from([grant for grant in self.model if grant.grant_id]))
        assert grant.grant_id is not None
        Crashes.revocation = crash
        got = self.attempt(self.server.families.revoke(grant.grant_id, self.clock.now(), "account"))
        if crash and not grant.revoked:
            assert got is CrashError
            # What was begun can be finished.
            got = self.attempt(self.server.families.revoke(grant.grant_id, self.clock.now(), "account"))
        assert got is not grant.revoked
        grant.revoked = True

    @invariant()
    def exactly_the_living_grants_are_alive(self) -> None:
        if self.replica is None:
            return
        now = self.clock.now()
        alive = self.runner.run(self.server.families.list_for_user("acme", ALICE, now))
        assert {family.id for family in alive} == {
            grant.grant_id
            for grant in self.model
            if grant.grant_id is not None and not grant.revoked and now < grant.expires_at()
        }

    @invariant()
    def no_access_token_outlives_its_grant(self) -> None:
        if self.replica is not None:
            revoked = self.runner.run(SqlRegistryStore(self.server.engine).load()).revoked
            ended = {("grant", grant.grant_id) for grant in self.model if grant.revoked}
            # Those whose access tokens have all expired may be forgotten.
            assert revoked <= ended
            recent = {("grant", each.grant_id) for each in self.model if each.revoked and self.is_recent(each)}
            assert recent <= revoked

    @invariant()
    def a_code_that_was_used_up_for_nothing_gave_nothing(self) -> None:
        assert not any(grant.burnt and grant.tokens for grant in self.model)

    def alive(self) -> list[Grant]:
        return [grant for grant in self.model if not grant.revoked and not grant.burnt]

    def is_recent(self, grant: Grant) -> bool:
        return self.clock.now() < grant.used_at + 900

    def name_of(self, grant: Grant) -> str:
        known = {each.grant_id for each in self.model if each is not grant}
        alive = self.runner.run(self.server.families.list_for_user("acme", ALICE, self.clock.now()))
        [name] = [family.id for family in alive if family.id not in known]
        return name

    def attempt(self, call: Coroutine[Any, Any, T]) -> T | ErrorCode | type[CrashError]:
        """What a call gives; after a crash there is a new process."""
        try:
            return self.runner.run(call)
        except GateError as error:
            return error.code
        except CrashError:
            self.restart()
            return CrashError
        finally:
            Crashes.code = Crashes.rotation = Crashes.revocation = ""

    @property
    def server(self) -> Replica:
        assert self.replica is not None
        return self.replica

    def close(self) -> None:
        if self.stack is not None:
            self.runner.run(self.stack.aclose())
        self.stack = self.replica = None

    def teardown(self) -> None:
        self.close()
        self.runner.close()


def run(examples: int, new_url: Callable[[], str]) -> None:
    class Here(Grants):
        def __init__(self) -> None:
            super().__init__(new_url())

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=examples, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        ),
    )


def test_grants_on_sqlite_are_as_the_model_says(tmp_path: Path) -> None:
    numbers = itertools.count()
    run(15, lambda: f"sqlite:///{tmp_path}/{next(numbers)}.db")


def test_grants_on_postgresql_are_as_the_model_says(cluster: Cluster) -> None:
    run(8, lambda: cluster.url(cluster.new_user()))
