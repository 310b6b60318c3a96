"""Opening, finding and ending sessions (DESIGN decision 6)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, TypeVar

import msgspec

from twogate.core.access import Policy, session_targets
from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.principal import Agent, Principal, PrincipalKey
from twogate.core.session import MAX_LIFETIME, Session, verify_session
from twogate.flows.audit import AuditSink
from twogate.flows.environment import Clock, Rng, random_name
from twogate.flows.registry import Revision

_ID_BYTES: Final = 18
CACHE_ENTRIES: Final = 20_000

_K = TypeVar("_K")


class Grantee(msgspec.Struct, frozen=True):
    """Whom a token is about to name; `credential` names, for the audit trail, by what that was proven."""

    key: PrincipalKey
    agent: Agent
    credential: str = ""


Holder = Principal | Grantee
"""Whose session it is."""


async def nothing() -> None:
    """Announce a session to nobody."""


class SessionStore(Protocol):
    """Keeps sessions. `open` decides inside one transaction, so that parallel declarations cannot pass the limit."""

    async def open(
        self, candidate: Session, agent: Agent, now: int, announce: Callable[[], Awaitable[None]] = nothing
    ) -> Session:
        """Return the principal's session for the candidate's task, storing the candidate if there is none.

        `announce` is awaited before a stored candidate is committed; if it fails, nothing is stored.

        Raises:
            GateError: what `core.session.find_or_refuse` and `announce` raise; STORE_UNAVAILABLE.
        """
        ...

    async def get(self, session_id: str) -> Session | None:
        """The session, live or not."""
        ...

    async def list_unexpired(self, now: int, tenant: str | None = None) -> Sequence[Session]:
        """Sessions before their deadline, ended ones included, oldest first."""
        ...

    async def end(self, session_id: str, now: int) -> Session | None:
        """End a live session and return it; None if there is none of this id. Ending twice changes nothing."""
        ...


class Sessions:
    """Sessions as the gateway and the control API use them, with a cache that any change in the store empties."""

    def __init__(
        self,
        store: SessionStore,
        revision: Revision,
        policy: Callable[[], Policy],
        audit: AuditSink,
        clock: Clock,
        rng: Rng,
    ) -> None:
        self._store = store
        self._revision = revision
        self._policy = policy
        self._audit = audit
        self._clock = clock
        self._rng = rng
        self._seen = -1
        self._by_id: OrderedDict[str, Session] = OrderedDict()
        self._by_task: OrderedDict[tuple[PrincipalKey, str], Session] = OrderedDict()

    async def find(self, session_id: str, principal: Principal, now: int) -> Session:
        """The principal's live session of this id. The id is a handle, not a credential.

        Raises:
            GateError: SESSION_UNKNOWN, SESSION_MISMATCH, SESSION_ENDED, SESSION_EXPIRED, STORE_UNAVAILABLE.
        """
        revision = self._revision.current()
        if revision is None:
            revision = await self._revision.read()
        self._forget_if_changed(revision)
        session = self._by_id.get(session_id)
        if session is None:
            session = await self._store.get(session_id)
            if session is None:
                raise GateError(ErrorCode.SESSION_UNKNOWN)
            self._remember(self._by_id, session_id, session, revision)
        return verify_session(session, principal.key, now)

    async def declare(self, task: str, holder: Holder, now: int, address: str = "") -> Session:
        """The holder's session for a task, opened now if there is none (DESIGN decision 6).

        Raises:
            GateError: TASK_UNKNOWN, TASK_LIMIT, SESSION_ENDED, STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        revision = self._revision.current()
        if revision is None:
            revision = await self._revision.read()
        self._forget_if_changed(revision)
        cached = self._by_task.get((holder.key, task))
        if cached is not None and now < cached.deadline:
            return verify_session(cached, holder.key, now)
        if task not in holder.agent.tasks:
            # Before the store, so that guessing tasks costs nobody else a transaction.
            error = GateError(ErrorCode.TASK_UNKNOWN, f"agent {holder.agent.id} has no task {task[:64]!r}")
            await self._audit.append(self._event(EventKind.SESSION_REFUSED, holder, task[:64], address, error))
            raise error
        candidate = Session(
            id=random_name(self._rng, _ID_BYTES),
            principal=holder.key,
            task=task,
            targets=session_targets(self._policy().of(holder.key.tenant), holder.agent.role, task),
            created_at=now,
            deadline=now + MAX_LIFETIME,
        )

        async def announce() -> None:
            await self._audit.append(self._event(EventKind.SESSION_OPENED, holder, task, address, session=candidate))

        try:
            session = await self._store.open(candidate, holder.agent, now, announce)
        except GateError as error:
            await self._audit.append(self._event(EventKind.SESSION_REFUSED, holder, task, address, error))
            raise
        self._remember(self._by_task, (holder.key, task), session, revision)
        return session

    def _forget_if_changed(self, revision: int) -> None:
        if revision != self._seen:
            self._by_id.clear()
            self._by_task.clear()
            self._seen = revision

    def _remember(self, cache: OrderedDict[_K, Session], key: _K, session: Session, revision: int) -> None:
        # Read under an older revision than the cache's, the session may have been ended since.
        if revision != self._seen:
            return
        cache[key] = session
        while len(cache) > CACHE_ENTRIES:
            cache.popitem(last=False)

    def _event(
        self,
        kind: EventKind,
        holder: Holder,
        task: str,
        address: str,
        error: GateError | None = None,
        session: Session | None = None,
    ) -> AuditEvent:
        return AuditEvent(
            kind=kind,
            at=self._clock.now_us(),
            address=address,
            tenant=holder.key.tenant,
            issuer=holder.key.issuer,
            agent=holder.agent.id.agent,
            user_issuer="" if holder.key.user is None else holder.key.user.issuer,
            user="" if holder.key.user is None else holder.key.user.subject,
            role=holder.agent.role,
            task=task,
            session="" if session is None else session.id,
            credential=holder.credential,
            reason="" if error is None else error.code,
            detail="" if error is None else error.debug,
            # Declaring other tasks while one lives is how a hijacked agent would collect the union of their tools.
            anomaly=error is not None and error.code in (ErrorCode.TASK_LIMIT, ErrorCode.TASK_UNKNOWN),
        )
