"""Parked calls: kept until people decided or the time is over (row R-34; DESIGN decisions 7 to 10).

What waits is the canonical call itself, encrypted. An identical call of the same caller in the same session finds the
same parked one, whatever became of it, until its deadline: asking again changes nothing and bothers nobody.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Final, Protocol

import msgspec

from twogate.core.approval import Decision, Duty, ParkedCall, Rule, State, Step, Vote
from twogate.core.approval_grounds import Grounds, Voter, named_voter, unable, why_over
from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.access_token import encode_base64url
from twogate.core.principal import AgentId, Principal
from twogate.core.session import Session
from twogate.flows.audit import AuditSink
from twogate.flows.envelope import Envelope
from twogate.flows.environment import Clock, Rng, random_name

SEALED: Final = "parked-call"
"""The purpose under which parameters are sealed; their owner is the approval."""

ANSWERED: Final = "parked-answer"
"""The purpose under which answers are sealed."""

MAX_RESULT: Final = 1024 * 1024
"""Bytes of an answer that is kept."""

MAX_WAITING: Final = 10
"""Calls of one agent that may wait at the same time: more would make people stop reading (consent fatigue)."""

MAX_ASKED: Final = 60
"""Calls of one agent that may begin to wait within ASKED_WITHIN, whatever becomes of them: who is denied asks again."""

ASKED_WITHIN: Final = 3600
"""Seconds."""

MAX_PARAMS: Final = 256 * 1024
"""Bytes of a call that may wait: what nobody can read, nobody can approve."""

_ID_BYTES: Final = 16
_NONCE_BYTES: Final = 32

Announce = Callable[[], Awaitable[None]]
"""Writes the audit event of a change, within its transaction and before it is committed."""


AnnounceVote = Callable[[State], Awaitable[None]]
"""The same for a vote; given the state that it brings."""


class Limit(msgspec.Struct, frozen=True):
    """How many there may be within so many seconds."""

    most: int
    within: int


class Target(msgspec.Struct, frozen=True):
    """The very call that is parked: `digest` is its call digest in hex, `params` the canonical bytes under it.

    `pin` is the digest in hex of what was approved of the tool, '' without a pin.
    """

    server: str
    tool: str
    pin: str
    digest: str
    params: bytes


class Parked(msgspec.Struct, frozen=True):
    """A parked call as of now: where it stands, who said what; its parameters and, once it ran, its answer, sealed."""

    call: ParkedCall
    state: State
    votes: tuple[Vote, ...] = ()
    sealed: bytes = b""
    result: bytes | None = None
    decided_at: int | None = None
    reminded_at: int | None = None
    escalated_at: int | None = None


class ParkedStore(Protocol):
    """Keeps parked calls. Every method may raise GateError STORE_UNAVAILABLE."""

    async def park(
        self,
        call: ParkedCall,
        sealed: bytes,
        live: str,
        most: int,
        announce: Announce,
        limit: Limit | None = None,
    ) -> Parked | None:
        """Keep a call unless one with the same `live` is there, which then is the answer.

        None, and nothing is kept, if `most` calls of its agent wait already. Of several at once, one is kept.

        Raises:
            GateError: RATE_LIMITED if its agent asked as often as `limit` says; `retry_after` says when it may again.
        """
        ...

    async def get(self, approval: str) -> Parked | None:
        """A parked call as of now, whatever became of it."""
        ...

    async def list(self, tenant: str, states: frozenset[State], most: int) -> Sequence[Parked]:
        """A tenant's parked calls in any of these states, newest first; `sealed` and `result` are left out."""
        ...

    async def vote(
        self, approval: str, vote: Vote, assertion: str, announce: AnnounceVote, limit: Limit | None = None
    ) -> Parked | None:
        """Count a vote on a pending call and decide it if that does; None if it is not pending, or past its deadline.

        One vote a person: a second one changes nothing, and is None too. `announce` is told the state after it.

        Raises:
            GateError: APPROVALS_LIMITED if the person approved as many calls as `limit` says, of however many that
                they approve at once; `again_at` (Unix seconds) says when one more is possible.
        """
        ...

    async def withdraw(self, approval: str, approver: str, announce: Announce) -> bool:
        """Take an approving vote on a pending call back, so that it can be given anew; False if there is none."""
        ...

    async def grounds(self, approval: str) -> Grounds | None:
        """What a call stands on as of now, whatever became of it."""
        ...

    async def doubtful(self, now: int, most: int, dropped: Collection[AgentId] = ()) -> Sequence[Grounds]:
        """What calls stand on that wait, or may run and did not, if it may be gone.

        Those first that surely are over: their time, their session, their agent or their user; or the agent is one of
        the `dropped`. Then those on which somebody has voted.
        """
        ...

    async def step(self, approval: str, step: Step, now: int, announce: Announce) -> bool:
        """Make a step, if it is possible now. Of several at once, one is made."""
        ...

    async def waiting(self, most: int) -> Sequence[Parked]:
        """Every tenant's pending calls, oldest first, those past their deadline included."""
        ...

    async def keep_result(self, approval: str, sealed: bytes) -> bool:
        """Keep how a granted call was answered; False if that was kept before, or the call was not granted."""
        ...

    async def note(self, approval: str, *, reminded_at: int | None = None, escalated_at: int | None = None) -> bool:
        """Note that people were told again; False if another process noted the same first."""
        ...


class Parking:
    """Parks calls and tells how they stand."""

    def __init__(
        self,
        store: ParkedStore,
        envelope: Envelope,
        audit: AuditSink,
        clock: Clock,
        rng: Rng,
        by_group: Mapping[str, Sequence[Duty]] = MappingProxyType({}),
    ) -> None:
        """`by_group` are the duties that membership of a group brings."""
        self._store = store
        self._by_group = by_group
        self._envelope = envelope
        self._audit = audit
        self._clock = clock
        self._rng = rng

    async def park(self, principal: Principal, session: Session, target: Target, rule: Rule) -> Parked:
        """The parked call that this one is; parked now if it was not yet.

        The deadline is the rule's, or the session's if that is nearer.

        Raises:
            GateError: TOO_LARGE; RATE_LIMITED if too many calls of this agent wait, or began to within the hour;
                STORE_UNAVAILABLE, AUDIT_UNAVAILABLE, KEYS_UNAVAILABLE.
        """
        if len(target.params) > MAX_PARAMS:
            raise GateError(ErrorCode.TOO_LARGE, f"a call of more than {MAX_PARAMS} bytes cannot wait for people")
        now = self._clock.now()
        call = ParkedCall(
            id=random_name(self._rng, _ID_BYTES),
            nonce=encode_base64url(self._rng.token(_NONCE_BYTES)),
            tenant=principal.tenant,
            issuer=principal.issuer,
            agent=principal.agent.id.agent,
            user=principal.user,
            session=session.id,
            task=session.task,
            server=target.server,
            tool=target.tool,
            pin=target.pin,
            digest=target.digest,
            created_at=now,
            deadline=min(now + rule.within, session.deadline),
            rule=rule,
        )
        sealed = await self._envelope.seal(SEALED, call.id, target.params)

        async def announce() -> None:
            await self._audit.append(self.event(EventKind.APPROVAL_REQUESTED, call))

        limit = Limit(MAX_ASKED, ASKED_WITHIN)
        parked = await self._store.park(call, sealed, live_key(call), MAX_WAITING, announce, limit)
        if parked is None:
            raise GateError(
                ErrorCode.RATE_LIMITED, f"{MAX_WAITING} calls of this agent wait for people", data={"retry_after": 30}
            )
        return await self._as_of(parked, now)

    async def current(self, approval: str) -> Parked | None:
        """A parked call as of now.

        One past its deadline is expired. One that did not run and has lost what it stands on (its session, its agent,
        its user, or somebody who approved it) is cancelled; while it waits, it loses the votes of those who could not
        approve it any more.

        Raises:
            GateError: STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        parked = await self._store.get(approval)
        return None if parked is None else await self._as_of(parked, self._clock.now())

    async def stands(self, parked: Parked) -> bool:
        """Whether a call still stands on what it stood on when it was granted; asked also of one that was started.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        grounds = await self._store.grounds(parked.call.id)
        return grounds is not None and not why_over(grounds, self._by_group, self._clock.now())

    def is_shaken(self, grounds: Grounds, now: int) -> bool:
        """Whether `current` would change something about an open call."""
        over = now >= grounds.deadline or why_over(grounds, self._by_group, now) != ""
        return over or bool(unable(grounds, self._by_group, now))

    async def list(self, tenant: str, states: frozenset[State], most: int) -> Sequence[Parked]:
        """A tenant's parked calls in these states, newest first; without what is sealed, for which `current` is.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        return await self._store.list(tenant, states, most)

    async def params(self, parked: Parked) -> bytes:
        """What waits: the canonical parameters.

        Raises:
            GateError: KEYS_UNAVAILABLE.
        """
        return await self._envelope.open(SEALED, parked.call.id, parked.sealed)

    async def keep_answer(self, parked: Parked, answer: bytes) -> bool:
        """Keep the answer of the one run, for whoever sends the same call again before the deadline.

        False if it is too long to be kept, or one was kept already.

        Raises:
            GateError: STORE_UNAVAILABLE, KEYS_UNAVAILABLE.
        """
        if len(answer) > MAX_RESULT:
            return False
        sealed = await self._envelope.seal(ANSWERED, parked.call.id, answer)
        return await self._store.keep_result(parked.call.id, sealed)

    async def answer(self, parked: Parked) -> bytes | None:
        """The answer that was kept; None without one.

        Raises:
            GateError: KEYS_UNAVAILABLE.
        """
        if parked.result is None:
            return None
        return await self._envelope.open(ANSWERED, parked.call.id, parked.result)

    async def cancel(self, parked: Parked, why: str) -> bool:
        """End a call that has not run: its session ended, its agent was disabled. False if it is too late.

        Raises:
            GateError: STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        return await self._step(parked, Step.CANCEL, EventKind.APPROVAL_CANCELLED, why)

    def event(self, kind: EventKind, call: ParkedCall, detail: str = "") -> AuditEvent:
        """An event about a parked call."""
        user = call.user
        return AuditEvent(
            kind=kind,
            at=self._clock.now_us(),
            request=call.id,
            tenant=call.tenant,
            issuer=call.issuer,
            agent=call.agent,
            user_issuer="" if user is None else user.issuer,
            user="" if user is None else user.subject,
            session=call.session,
            task=call.task,
            server=call.server,
            target=call.tool,
            detail=detail,
        )

    async def _as_of(self, parked: Parked, now: int) -> Parked:
        if parked.state not in (State.PENDING, State.GRANTED) or parked.result is not None:
            return parked
        if now >= parked.call.deadline:
            await self._step(parked, Step.EXPIRE, EventKind.APPROVAL_EXPIRED, "")
            return await self._store.get(parked.call.id) or msgspec.structs.replace(parked, state=State.EXPIRED)
        grounds = await self._store.grounds(parked.call.id)
        if grounds is None or grounds.ran or not self.is_shaken(grounds, now):
            return parked
        why = why_over(grounds, self._by_group, now)
        if why:
            await self.cancel(parked, why)
        else:
            for voter in unable(grounds, self._by_group, now):
                await self._withdraw(parked, grounds, voter)
        return await self._store.get(parked.call.id) or msgspec.structs.replace(parked, state=State.CANCELLED)

    async def _withdraw(self, parked: Parked, grounds: Grounds, voter: Voter) -> None:
        async def announce() -> None:
            event = self.event(EventKind.APPROVAL_WITHDRAWN, parked.call, "they may not approve any more")
            await self._audit.append(msgspec.structs.replace(event, client=named_voter(grounds, voter)))

        await self._store.withdraw(parked.call.id, voter.subject, announce)

    async def _step(self, parked: Parked, step: Step, kind: EventKind, why: str) -> bool:
        async def announce() -> None:
            await self._audit.append(self.event(kind, parked.call, why))

        return await self._store.step(parked.call.id, step, self._clock.now(), announce)


def live_key(call: ParkedCall) -> str:
    """What makes two calls the same one: caller, session and digest, as SHA-256 in hex."""
    user = None if call.user is None else (call.user.issuer, call.user.subject)
    key = ("twogate-parked-v1", call.tenant, call.issuer, call.agent, user, call.session, call.digest)
    return hashlib.sha256(msgspec.json.encode(key)).hexdigest()


def approvers(parked: Parked) -> tuple[str, ...]:
    """Who approved."""
    return tuple(vote.approver for vote in parked.votes if vote.decision is Decision.APPROVE)
