"""Parked calls: kept until people decided or the time is over (row R-34; DESIGN decisions 7 to 10).

What waits is the canonical call itself, encrypted. An identical call of the same caller in the same session finds the
same parked one, whatever became of it, until its deadline: asking again changes nothing and bothers nobody.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import msgspec

from twogate.core.approval import Decision, ParkedCall, Rule, State, Step, Vote
from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.access_token import encode_base64url
from twogate.core.principal import Principal
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

MAX_PARAMS: Final = 256 * 1024
"""Bytes of a call that may wait: what nobody can read, nobody can approve."""

_ID_BYTES: Final = 16
_NONCE_BYTES: Final = 32

Announce = Callable[[], Awaitable[None]]
"""Writes the audit event of a change, within its transaction and before it is committed."""


AnnounceVote = Callable[[State], Awaitable[None]]
"""The same for a vote; given the state that it brings."""


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

    async def park(self, call: ParkedCall, sealed: bytes, live: str, most: int, announce: Announce) -> Parked | None:
        """Keep a call unless one with the same `live` is there, which then is the answer.

        None, and nothing is kept, if `most` calls of its agent wait already. Of several at once, one is kept.
        """
        ...

    async def get(self, approval: str) -> Parked | None:
        """A parked call as of now, whatever became of it."""
        ...

    async def list(self, tenant: str, states: frozenset[State], most: int) -> Sequence[Parked]:
        """A tenant's parked calls in any of these states, newest first; `sealed` and `result` are left out."""
        ...

    async def vote(self, approval: str, vote: Vote, assertion: str, announce: AnnounceVote) -> Parked | None:
        """Count a vote on a pending call and decide it if that does; None if it is not pending, or past its deadline.

        One vote a person: a second one changes nothing, and is None too. `announce` is told the state after it.
        """
        ...

    async def step(self, approval: str, step: Step, now: int, announce: Announce) -> bool:
        """Make a step, if it is possible now. Of several at once, one is made."""
        ...

    async def approved_since(self, tenant: str, approver: str, since: int) -> int:
        """How many calls a person approved from `since` (Unix seconds) on."""
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

    def __init__(self, store: ParkedStore, envelope: Envelope, audit: AuditSink, clock: Clock, rng: Rng) -> None:
        self._store = store
        self._envelope = envelope
        self._audit = audit
        self._clock = clock
        self._rng = rng

    async def park(self, principal: Principal, session: Session, target: Target, rule: Rule) -> Parked:
        """The parked call that this one is; parked now if it was not yet.

        The deadline is the rule's, or the session's if that is nearer.

        Raises:
            GateError: TOO_LARGE; RATE_LIMITED if too many calls of this agent wait; STORE_UNAVAILABLE,
                AUDIT_UNAVAILABLE, KEYS_UNAVAILABLE.
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

        parked = await self._store.park(call, sealed, live_key(call), MAX_WAITING, announce)
        if parked is None:
            raise GateError(
                ErrorCode.RATE_LIMITED, f"{MAX_WAITING} calls of this agent wait for people", data={"retry_after": 30}
            )
        return await self._in_time(parked, now)

    async def current(self, approval: str) -> Parked | None:
        """A parked call as of now; one past its deadline is expired.

        Raises:
            GateError: STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        parked = await self._store.get(approval)
        return None if parked is None else await self._in_time(parked, self._clock.now())

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

    async def _in_time(self, parked: Parked, now: int) -> Parked:
        if now < parked.call.deadline or parked.state not in (State.PENDING, State.GRANTED):
            return parked
        await self._step(parked, Step.EXPIRE, EventKind.APPROVAL_EXPIRED, "")
        return await self._store.get(parked.call.id) or msgspec.structs.replace(parked, state=State.EXPIRED)

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
