"""What the gateway writes down: a call's intent before it is forwarded, its outcome before its answer ends."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import msgspec

from twogate.core.audit.accessor import Accessors
from twogate.core.audit.record import OBSERVE, OBSERVED, AuditEvent, EventKind, Outcome
from twogate.core.errors import FACES, GATE_ONE, ErrorCode, GateError
from twogate.core.message import Message
from twogate.core.principal import Principal
from twogate.core.session import Session
from twogate.flows.audit import AuditSink
from twogate.flows.environment import Clock, Rng
from twogate.flows.gateway.admit import Admitted, Refused
from twogate.flows.gateway.exchange import Head
from twogate.flows.gateway.read import Authenticated, CallError

# What an honest agent does not do: calls that its role, task, user or tenant does not allow.
_ANOMALIES = frozenset(
    {
        ErrorCode.TENANT_SERVER_REFUSED,
        ErrorCode.METHOD_NOT_PERMITTED,
        ErrorCode.TARGET_UNCLASSIFIED,
        ErrorCode.ROLE_NOT_PERMITTED,
        ErrorCode.USER_NOT_PERMITTED,
        ErrorCode.TASK_NOT_PERMITTED,
        ErrorCode.SESSION_MISMATCH,
        ErrorCode.SESSION_CONFLICT,
        ErrorCode.TASK_LIMIT,
        ErrorCode.TASK_UNKNOWN,
        ErrorCode.OPERATION_TOKEN_INVALID,
        ErrorCode.OPERATION_TOKEN_MISMATCH,
        ErrorCode.HEADER_MISMATCH,
        ErrorCode.REQUEST_STATE_UNKNOWN,
        ErrorCode.EVENT_UNKNOWN,
        ErrorCode.SERVER_REQUEST_UNKNOWN,
        ErrorCode.MCP_TASK_UNKNOWN,
    }
)


class Recorded(msgspec.Struct, frozen=True):
    """A call whose intent is on the audit trail: the only kind that may be forwarded.

    `message` is what will be sent and `body` its bytes; the intent holds their keyed digest. `started` is monotonic
    seconds.
    """

    admitted: Admitted
    message: Message
    body: bytes
    intent: AuditEvent
    started: float


def refused_event(error: GateError, *, at: int, address: str, server: str = "", detail: str = "") -> AuditEvent:
    """A refusal from before anybody was authenticated."""
    authentication = FACES[error.code].jsonrpc == GATE_ONE
    return AuditEvent(
        kind=EventKind.AUTHENTICATION_REFUSED if authentication else EventKind.REQUEST_REFUSED,
        at=at,
        address=address,
        server=server,
        decision="deny",
        reason=error.code,
        detail=detail or error.debug,
    )


class Recorder:
    """Turns the pipeline's stages into audit events."""

    def __init__(self, audit: AuditSink, accessors: Accessors, clock: Clock, rng: Rng) -> None:
        self._audit = audit
        self._accessors = accessors
        self._clock = clock
        self._boot = rng.token(6).hex()
        self._count = 0

    async def intent(self, admitted: Admitted, message: Message, body: bytes) -> Recorded:
        """Write that this call is about to be forwarded.

        Raises:
            GateError: AUDIT_UNAVAILABLE; nothing may be forwarded then.
        """
        call = admitted.call
        event = self._event(
            EventKind.CALL_INTENT,
            call.head,
            call.principal,
            admitted.session,
            call.label,
            admitted.target,
            "allow",
            self._accessors.of("arguments", body),
        )
        if admitted.observing:
            code = admitted.observed
            event = msgspec.structs.replace(
                event,
                enforcement=OBSERVE,
                decision="allow" if code is None else OBSERVED,
                reason=code or "",
                anomaly=code in _ANOMALIES,
            )
        if admitted.operation is not None:
            event = msgspec.structs.replace(event, detail=admitted.operation.label)
        recorded = Recorded(admitted, message, body, event, self._clock.monotonic())
        try:
            await self._audit.append(event)
        except asyncio.CancelledError:
            # The intent stands: cancelling does not take it back. Nothing is forwarded any more.
            with suppress(GateError):
                await self.outcome(recorded, Outcome.ABORTED, 0, 0)
            raise
        return recorded

    async def outcome(
        self, recorded: Recorded, outcome: Outcome, status: int, size: int, error: GateError | None = None
    ) -> None:
        """Write how a forwarded call ended, before the last byte of its answer leaves.

        Raises:
            GateError: OUTCOME_UNRECORDED.
        """
        event = msgspec.structs.replace(
            recorded.intent,
            kind=EventKind.CALL_OUTCOME,
            at=self._clock.now_us(),
            arguments="",
            decision="",
            anomaly=False,
            outcome=outcome,
            status=status,
            answer_bytes=size,
            duration_us=int((self._clock.monotonic() - recorded.started) * 1_000_000),
            reason="" if error is None else error.code,
            detail="" if error is None else error.debug,
        )
        try:
            await self._append_later(event)
        finally:
            if (operation := recorded.admitted.operation) is not None:
                await operation.settle(outcome, error)

    async def server_request(self, recorded: Recorded, method: str, *, passed: bool) -> None:
        """Write that the server asks something of the client, before it is passed on or refused.

        Raises:
            GateError: OUTCOME_UNRECORDED.
        """
        event = msgspec.structs.replace(
            recorded.intent,
            kind=EventKind.SERVER_REQUEST,
            at=self._clock.now_us(),
            arguments="",
            method=method,
            decision="allow" if passed else "deny",
            reason="" if passed else ErrorCode.METHOD_NOT_PERMITTED,
            anomaly=False,  # of the agent's; what a call is observed for stands in its intent
        )
        await self._append_later(event)

    async def _append_later(self, event: AuditEvent) -> None:
        # After the call was forwarded nobody may be told any more that nothing was run.
        try:
            await self._audit.append(event)
        except GateError as unavailable:
            raise GateError(ErrorCode.OUTCOME_UNRECORDED, unavailable.debug) from unavailable

    async def refused(self, refused: Refused) -> None:
        """Write that gate two refused a call.

        Raises:
            GateError: AUDIT_UNAVAILABLE.
        """
        call, error = refused.call, refused.error
        event = self._event(
            EventKind.CALL_REFUSED,
            call.head,
            call.principal,
            refused.session,
            call.label,
            refused.target,
            "deny",
        )
        await self._audit.append(
            msgspec.structs.replace(
                event,
                reason=error.code,
                detail=error.debug,
                enforcement=OBSERVE if refused.observing else "",
                anomaly=error.code in _ANOMALIES,
            )
        )

    async def invalid(self, authenticated: Authenticated, error: GateError) -> None:
        """Write that an authenticated request was no acceptable message.

        Raises:
            GateError: AUDIT_UNAVAILABLE.
        """
        method = error.message.method if isinstance(error, CallError) else ""
        event = self._event(
            EventKind.CALL_REFUSED, authenticated.head, authenticated.principal, None, method, "", "deny"
        )
        await self._audit.append(
            msgspec.structs.replace(
                event,
                reason=error.code,
                detail=error.debug,
                anomaly=error.code in _ANOMALIES,
            )
        )

    def _event(
        self,
        kind: EventKind,
        head: Head,
        principal: Principal,
        session: Session | None,
        method: str,
        target: str,
        decision: str,
        arguments: str = "",
    ) -> AuditEvent:
        self._count += 1
        return msgspec.structs.replace(
            principal.named,
            kind=kind,
            at=self._clock.now_us(),
            request=f"{self._boot}-{self._count:x}",
            address=head.address,
            session="" if session is None else session.id,
            task="" if session is None else session.task,
            server=head.server,
            method=method,
            target=target,
            decision=decision,
            arguments=arguments,
        )
