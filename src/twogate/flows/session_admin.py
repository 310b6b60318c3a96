"""What operators do with sessions: look at them, and end them (row R-73)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.session import Session
from twogate.flows.audit import AuditSink
from twogate.flows.environment import Clock


class AdministeredSessions(Protocol):
    """Finds and ends sessions. Every method may raise GateError STORE_UNAVAILABLE."""

    async def get(self, session_id: str) -> Session | None:
        """The session, live or not."""
        ...

    async def newest(self, now: int, tenant: str, most: int, skip: int = 0) -> Sequence[Session]:
        """A tenant's live sessions, newest first, without the first `skip`."""
        ...

    async def count(self, now: int, tenant: str) -> int:
        """How many live sessions a tenant has."""
        ...

    async def end(self, session_id: str, now: int) -> Session | None:
        """End a live session and return it; None if there is none of this id."""
        ...


class SessionAdmin:
    """Operators' use cases on sessions."""

    def __init__(self, store: AdministeredSessions, audit: AuditSink, clock: Clock) -> None:
        self._store = store
        self._audit = audit
        self._clock = clock

    async def newest(self, tenant: str, most: int, skip: int = 0) -> tuple[Sequence[Session], int]:
        """A tenant's live sessions, newest first, without the first `skip`; and how many there are in all.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        now = self._clock.now()
        found = await self._store.newest(now, tenant, most, skip)
        if len(found) < most and (found or not skip):
            return found, skip + len(found)
        return found, await self._store.count(now, tenant)

    async def count(self, tenant: str) -> int:
        """How many live sessions a tenant has.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        return await self._store.count(self._clock.now(), tenant)

    async def end(self, session_id: str, by: str = "", tenant: str | None = None) -> Session:
        """End a session now, everywhere; one that is over stays as it is. `by` is the person, if one is known.

        Raises:
            GateError: NOT_FOUND, also for a session of another tenant than the one given; STORE_UNAVAILABLE,
                AUDIT_UNAVAILABLE (nothing is ended then).
        """
        session = await self._store.get(session_id)
        if session is None or tenant not in (None, session.principal.tenant):
            raise GateError(ErrorCode.NOT_FOUND, f"there is no session {session_id}; `twogate session list` shows them")
        now = self._clock.now()
        if session.ended_at is not None or now >= session.deadline:
            return session
        principal = session.principal
        await self._audit.append(
            AuditEvent(
                kind=EventKind.SESSION_ENDED,
                at=self._clock.now_us(),
                tenant=principal.tenant,
                issuer=principal.issuer,
                agent=principal.agent,
                client=by,
                session=session.id,
                task=session.task,
                detail="ended by an operator",
            )
        )
        return await self._store.end(session_id, now) or session
