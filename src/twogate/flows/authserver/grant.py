"""What was granted, and what every grant needs to turn it into tokens."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import msgspec

from twogate.core.oauth.grant_type import GrantType
from twogate.flows.authserver.form import ClientCall, JsonAnswer


class Authorization(msgspec.Struct, frozen=True):
    """What one client may do: for whom, where and what. Times are Unix seconds.

    `user` is the subject of the person who granted it, None if the client acts for itself. `task` is the task of the
    session that its tokens name. `act` are those who act for the user besides the client, as an `act` claim has them
    (RFC 8693 section 4.1). `upstream` is the upstream login that the person came through. `ends_at` is when all of it
    ends, however often it is refreshed; None leaves that to the settings. `agent` is the agent of the tenant that the
    person was told the client acts as; None where no person was.
    """

    tenant: str
    client_id: str
    resource: str
    scopes: tuple[str, ...]
    user: str | None = None
    task: str | None = None
    act: dict[str, Any] | None = None
    upstream: str | None = None
    authenticated_at: int | None = None
    ends_at: int | None = None
    agent: str | None = None

    def is_by(self, tenant: str, subject: str) -> bool:
        """Whether this person granted it."""
        return (self.tenant, self.user) == (tenant, subject)


class Grant(Protocol):
    """One grant type of the token endpoint. `anonymous`: it also serves callers that are no registered client."""

    type: ClassVar[GrantType]
    anonymous: ClassVar[bool]

    async def issue(self, call: ClientCall) -> JsonAnswer:
        """Answer a request of a client that may use this grant. The audit trail has what was issued first.

        Raises:
            GateError: why not.
        """
        ...
