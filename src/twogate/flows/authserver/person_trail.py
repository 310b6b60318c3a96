"""What people do, and what is refused to those who claim to be people, on the audit trail."""

from __future__ import annotations

from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.audit import AuditSink, Refusals
from twogate.flows.authserver.people import User
from twogate.flows.environment import Clock


class PersonTrail:
    """Writes events. `issuer` names the authorization server in them."""

    def __init__(self, issuer: str, audit: AuditSink, refusals: Refusals, clock: Clock) -> None:
        self._issuer = issuer
        self._audit = audit
        self._refusals = refusals
        self._clock = clock

    async def done(
        self, kind: EventKind, user: User, *, address: str = "", method: str = "", detail: str = "", client: str = ""
    ) -> None:
        """Write what a person, or an operator for them, is about to do.

        Raises:
            GateError: AUDIT_UNAVAILABLE; then it must not be done.
        """
        await self._audit.append(
            AuditEvent(
                kind=kind,
                at=self._clock.now_us(),
                address=address,
                tenant=user.tenant,
                issuer=self._issuer,
                client=client,
                user_issuer=self._issuer,
                user=user.subject,
                method=method,
                detail=detail,
            )
        )

    async def refused(
        self, error: GateError, user: User | None, *, address: str, method: str, detail: str | None = None
    ) -> None:
        """Write a refusal, coalesced by address: anybody can cause it. `user` is whom it was for, if there is one.

        Raises:
            GateError: AUDIT_UNAVAILABLE.
        """
        await self._refusals.record(
            AuditEvent(
                kind=EventKind.LOGIN_REFUSED,
                at=self._clock.now_us(),
                address=address,
                tenant="" if user is None else user.tenant,
                issuer=self._issuer,
                user_issuer="" if user is None else self._issuer,
                user="" if user is None else user.subject,
                method=method,
                decision="deny",
                reason=error.code.value,
                detail=error.debug if detail is None else detail,
                anomaly=error.code is ErrorCode.PASSKEY_REFUSED,
            )
        )
