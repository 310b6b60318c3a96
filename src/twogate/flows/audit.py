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
