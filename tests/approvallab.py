"""Calls that wait and people who decide them, over `peoplelab`: Bob may approve, and has a passkey."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peoplelab import SECRET, PeopleLab, open_people_lab
from softkey import SoftKey
from tokenlab import ISSUER
from twogate.adapters.envelope import LocalEnvelope
from twogate.adapters.passkeys import PasskeyLibrary
from twogate.adapters.rng import SystemRng
from twogate.core.approval import Decision, Duty, Rule
from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.principal import Agent, AgentId, Method, Principal, UserId
from twogate.core.session import Session
from twogate.flows.approvals.parked import Parked, Parking, Target
from twogate.flows.approvals.voting import Approver, Voting
from twogate.flows.authserver.people import User
from twogate.stores.sql.approvals import SqlParkedStore
from twogate.stores.sql.passkeys import SqlPasskeyStore
from twogate.web.console.approvals import ApprovalPages, approval_routes
from twogate.web.console.visit import ConsoleVisits
from twogate.web.pages import Pages

NOW = 1_800_000_000
DUTY = frozenset({Duty.APPROVER})
RULE = Rule(DUTY)
AGENT = Agent(AgentId("acme", "reporter"), "executor", ("release",))
PARAMS = b'{"arguments":{"message":"first"},"name":"git_commit"}'


def principal(user: UserId | None = None) -> Principal:
    return Principal(
        tenant="acme",
        issuer=ISSUER,
        agent=AGENT,
        user=user,
        user_roles=(),
        groups=(),
        scopes=frozenset(),
        method=Method.JWT,
        credential="c",
        session_id=None,
        expires_at=NOW + 300,
    )


@dataclass
class VotingLab:
    """Bob, who may approve, his passkey, and a place to park calls."""

    people: PeopleLab
    parking: Parking
    voting: Voting
    bob: User
    key: SoftKey
    keys: SqlPasskeyStore
    store: SqlParkedStore

    async def park(
        self, digest: str = "cd" * 32, rule: Rule = RULE, user: UserId | None = None, params: bytes = PARAMS
    ) -> Parked:
        made = principal(user)
        now = self.people.lab.clock.now()
        session = Session("s-1", made.key, "release", frozenset({"git.git_commit"}), now, now + 3600)
        return await self.parking.park(made, session, Target("git", "git.git_commit", "", digest, params), rule)

    def approver(self, user: User | None = None, duties: frozenset[Duty] = DUTY) -> Approver:
        return Approver(user or self.bob, ISSUER, duties)

    async def answer(
        self, parked: Parked, decision: Decision = Decision.APPROVE, user: User | None = None, **changes: Any
    ) -> str:
        options = await self.voting.options(parked, self.approver(user), decision)
        return self.key.get(options, **changes)

    def events(self, kind: EventKind) -> list[AuditEvent]:
        return self.people.events(kind)


@asynccontextmanager
async def open_approval_lab(directory: Path) -> AsyncGenerator[VotingLab]:
    """Start a server whose people may decide what waits."""
    async with open_people_lab(directory) as people:
        store, keys, audit = SqlParkedStore(people.lab.engine), people.passkey_store, people.lab.audit
        rng, clock = SystemRng(), people.lab.clock
        parking = Parking(store, LocalEnvelope(bytes(32), rng), audit, clock, rng)
        key = people.key()
        voting = Voting(
            parking, store, keys, PasskeyLibrary(ISSUER, key.rp_id), audit, clock, rp_id=key.rp_id, origin=ISSUER
        )
        bob, _ = await people.add("bob", duties=(Duty.APPROVER,))
        made = VotingLab(people, parking, voting, bob, key, keys, store)
        made.key = await people.with_passkey(bob)
        pages = Pages(ISSUER, SECRET, rng)
        visits = ConsoleVisits(pages, people.logins, people.logins, people.users, clock, ISSUER, {})
        served = ApprovalPages(pages, parking, voting, people.users, clock)
        people.lab.app.router.routes.extend(approval_routes(served, visits, ISSUER))
        yield made
