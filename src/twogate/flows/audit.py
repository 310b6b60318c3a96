"""Where every flow writes its audit events."""

from __future__ import annotations

from typing import Protocol

from twogate.core.audit.record import AuditEvent


class AuditSink(Protocol):
    """An append-only trail. Returning means that the event survives a kill of this process."""

    async def append(self, event: AuditEvent) -> None:
        """Write one event.

        Raises:
            GateError: AUDIT_UNAVAILABLE; the caller must then refuse what it was about to do.
        """
        ...


class Refusals(Protocol):
    """Where refusals of callers that nobody proved go, coalesced so that strangers cannot fill the disk."""

    async def record(self, event: AuditEvent) -> None:
        """Write the refusal if it is news of its address, else count it; counts are written later.

        Raises:
            GateError: AUDIT_UNAVAILABLE.
        """
        ...
