"""Audit events: what is written down of every authentication, decision, call and change.

An event holds names, codes and keyed digests; never a token, secret, argument or result.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec


class EventKind(StrEnum):
    """What happened."""

    PROCESS_STARTED = "process.started"
    PROCESS_STOPPED = "process.stopped"
    REQUEST_REFUSED = "request.refused"
    REFUSALS_COALESCED = "request.refusals_coalesced"
    AUTHENTICATION_REFUSED = "authentication.refused"
    CALL_REFUSED = "call.refused"
    CALL_INTENT = "call.intent"
    CALL_OUTCOME = "call.outcome"
    SERVER_REQUEST = "server.request"
    SESSION_OPENED = "session.opened"
    SESSION_REFUSED = "session.refused"
    SESSION_ENDED = "session.ended"
    TOKEN_ISSUED = "token.issued"
    TOKEN_REFUSED = "token.refused"
    AGENT_ADDED = "agent.added"
    AGENT_DISABLED = "agent.disabled"
    AGENT_ENABLED = "agent.enabled"
    TOKEN_REVOKED = "token.revoked"
    GRANT_REVOKED = "grant.revoked"
    AUTHORIZATION_GRANTED = "authorization.granted"
    AUTHORIZATION_REFUSED = "authorization.refused"
    CONSENT_WITHDRAWN = "consent.withdrawn"
    CLIENT_ADDED = "client.added"
    CLIENT_CHANGED = "client.changed"
    CLIENT_REMOVED = "client.removed"
    REGISTRATION_REFUSED = "registration.refused"
    USER_ADDED = "user.added"
    USER_CHANGED = "user.changed"
    USER_DISABLED = "user.disabled"
    LINK_ISSUED = "link.issued"
    PASSKEY_ADDED = "passkey.added"
    PASSKEY_REMOVED = "passkey.removed"
    LOGIN_SUCCEEDED = "login.succeeded"
    LOGIN_REFUSED = "login.refused"
    LOGOUT = "logout"
    TOOL_APPROVED = "tool.approved"
    TOOL_UNAPPROVED = "tool.unapproved"
    TOOL_CHANGED = "tool.changed"
    SECRET_SET = "secret.set"
    SECRET_REMOVED = "secret.removed"
    OPERATION_ISSUED = "operation.issued"
    OPERATION_REFUSED = "operation.refused"
    OPERATION_LOST = "operation.lost"
    APPROVAL_REQUESTED = "approval.requested"
    APPROVAL_VOTED = "approval.voted"
    APPROVAL_REFUSED = "approval.refused"
    APPROVAL_EXPIRED = "approval.expired"
    APPROVAL_CANCELLED = "approval.cancelled"
    APPROVAL_WITHDRAWN = "approval.withdrawn"
    NOTICE_FAILED = "notice.failed"
    APPROVAL_ANSWERED = "approval.answered"
    CONFIGURATION_RELOADED = "configuration.reloaded"
    CONFIGURATION_REFUSED = "configuration.refused"


class Outcome(StrEnum):
    """How a forwarded call ended."""

    ANSWERED = "answered"
    UPSTREAM_ERROR = "upstream_error"
    SUSPENDED = "suspended"
    ABORTED = "aborted"
    FAILED = "failed"


OBSERVED: Final = "observed"
"""The `decision` on a call that ran although gate two would have refused it for the `reason`, had it been enforced."""
OBSERVE: Final = "observe"
"""The `enforcement` of every event written while gate two is only observed; nothing else stands there."""


class AuditEvent(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """One event. `at` is Unix microseconds; `request` ties intent and outcome; empty fields are left out.

    `client` is an OAuth client's id, of the embedded server's own events.
    `credential` and `arguments` are accessors (`core.audit.accessor`): keyed digests that name without revealing.
    `detail` is the exact reason in words for the analyst. `anomaly` marks what an honest agent does not do, such as an
    unauthorized call. `count` is how many refusals a coalesced event stands for. `decision` is `allow`, `deny` or
    OBSERVED. `evidence` is what a person signed, as JSON: enough to verify it offline (`core.approval`).
    """

    kind: EventKind
    at: int
    request: str = ""
    address: str = ""
    tenant: str = ""
    issuer: str = ""
    agent: str = ""
    client: str = ""
    user_issuer: str = ""
    user: str = ""
    role: str = ""
    session: str = ""
    task: str = ""
    server: str = ""
    method: str = ""
    target: str = ""
    decision: str = ""
    reason: str = ""
    detail: str = ""
    credential: str = ""
    arguments: str = ""
    outcome: str = ""
    status: int = 0
    duration_us: int = 0
    answer_bytes: int = 0
    count: int = 0
    anomaly: bool = False
    enforcement: str = ""
    evidence: str = ""
