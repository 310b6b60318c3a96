"""Looking at the audit trail from a page: what may be asked, and how much of it is read for one answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.errors import ErrorCode, GateError


class TrailQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which of a tenant's events; empty members let all pass. `after` and `before` are Unix microseconds, 0: any."""

    tenant: str
    kind: EventKind | None = None
    agent: str = ""
    session: str = ""
    reason: str = ""
    request: str = ""
    anomalies: bool = False
    after: int = 0
    before: int = 0


class TrailPage(msgspec.Struct, frozen=True):
    """Events, newest first. `more`: older ones pass too. `cut`: reading ended before the trail did."""

    events: tuple[AuditEvent, ...] = ()
    more: bool = False
    cut: bool = False


class Recent(msgspec.Struct, frozen=True):
    """A tenant's last day: how many alerts, the newest of them, and refused calls by session.

    `cut`: there was more than is read for a page, so that the numbers may be higher.
    """

    alerts: int = 0
    newest: tuple[AuditEvent, ...] = ()
    refused: Mapping[str, int] = msgspec.field(default_factory=dict[str, int])
    cut: bool = False


class Trail(Protocol):
    """Reads the trail that this process and its neighbours on this machine write."""

    async def page(self, query: TrailQuery, count: int) -> TrailPage:
        """The newest `count` events of a tenant that pass.

        Raises:
            GateError: RATE_LIMITED while too many wait to read; AUDIT_UNAVAILABLE if it cannot be read.
        """
        ...

    async def recent(self, tenant: str) -> Recent:
        """A tenant's last day, a few seconds old at most.

        Raises:
            GateError: as `page`.
        """
        ...


async def recent_if_read(trail: Trail, tenant: str) -> Recent | None:
    """A tenant's last day, None while it cannot be read: who must end a session now does not wait for the trail."""
    try:
        return await trail.recent(tenant)
    except GateError as error:
        if error.code not in (ErrorCode.RATE_LIMITED, ErrorCode.AUDIT_UNAVAILABLE):
            raise
        return None
