"""What a person does for a device: enter its code, look at what it asks for, decide (RFC 8628 section 3.3).

Entering comes before the login, because only the code says which tenant's login that is. A decision holds for this one
code and is never remembered: whoever began may have sent the code to this person (section 5.4, remote phishing), so it
is asked anew each time.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth import device
from twogate.core.oauth.grant_type import GrantType
from twogate.core.principal import Agent
from twogate.flows.audit import AuditSink, Refusals
from twogate.flows.authserver.clients import Client, ClientDirectory
from twogate.flows.authserver.device import DeviceCode, DeviceLimits, DeviceStore
from twogate.flows.authserver.grant import Authorization
from twogate.flows.environment import Clock


class Login(Protocol):
    """Who is logged in, and how. Times are Unix seconds."""

    @property
    def tenant(self) -> str:
        """The person's tenant."""
        ...

    @property
    def subject(self) -> str:
        """The person."""
        ...

    @property
    def method(self) -> str:
        """How the person logged in."""
        ...

    @property
    def authenticated_at(self) -> int:
        """When the person last proved to be there."""
        ...

    @property
    def upstream(self) -> str | None:
        """The upstream login behind it, if any."""
        ...

    @property
    def ends_at(self) -> int | None:
        """When all that comes of it ends; None leaves that to the settings."""
        ...


class Logins(Protocol):
    """Finds who is logged in."""

    async def current(self, cookie: str | None, tenant: str, now: int) -> Login | None:
        """The live login that a cookie stands for, if it is one of this tenant.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...


class AgentOf(Protocol):
    """Tells whom a client acts as."""

    async def agent_of(self, client: Client) -> Agent | None:
        """The enabled agent that a client acts as; None for an authorizer.

        Raises:
            GateError: AGENT_UNBOUND, AGENT_DISABLED, STORE_UNAVAILABLE.
        """
        ...


class Waiting(msgspec.Struct, frozen=True):
    """A device code that waits for a decision, and who asks by it."""

    code: DeviceCode
    client: Client
    agent: Agent


class DeviceDecisions:
    """Lets people decide on device codes. `issuer` names the authorization server in audit events."""

    def __init__(
        self,
        issuer: str,
        store: DeviceStore,
        directory: ClientDirectory,
        agents: AgentOf,
        limits: DeviceLimits,
        audit: AuditSink,
        refusals: Refusals,
        clock: Clock,
    ) -> None:
        self._issuer = issuer
        self._store = store
        self._directory = directory
        self._agents = agents
        self._limits = limits
        self._audit = audit
        self._refusals = refusals
        self._clock = clock

    async def enter(self, entered: str, address: str) -> Waiting:
        """The waiting code that somebody typed in. Wrong tries are limited by address, and on the audit trail.

        Raises:
            GateError: RATE_LIMITED, DEVICE_CODE_EXPIRED if no such code waits; see `find`.
        """
        try:
            # Counted before looking, so that tries made all at once are counted too.
            self._limits.enter(address, self._clock.monotonic())
            user_code = device.parse_user_code(entered)
            found = None if user_code is None else await self.find(user_code)
            if found is None:
                raise GateError(ErrorCode.DEVICE_CODE_EXPIRED, "no device code with this user code waits")
        except GateError as error:
            await self._refusals.record(
                AuditEvent(
                    kind=EventKind.AUTHORIZATION_REFUSED,
                    at=self._clock.now_us(),
                    address=address,
                    issuer=self._issuer,
                    reason=error.code.value,
                    detail=error.debug,
                )
            )
            raise
        self._limits.entered_rightly(address)
        return found

    async def find(self, user_code: str) -> Waiting | None:
        """The code as it waits now; None if it does not wait (any more), or its client is gone or may not any more.

        Raises:
            GateError: AGENT_UNBOUND, AGENT_DISABLED, CLIENT_METADATA_INVALID, STORE_UNAVAILABLE.
        """
        now = self._clock.now()
        code = await self._store.waiting(user_code, now)
        client = None if code is None else await self._directory.find(code.client_id, now)
        if code is None or client is None or GrantType.DEVICE_CODE not in client.grants:
            return None
        agent = await self._agents.agent_of(client)
        return None if agent is None else Waiting(code, client, agent)

    async def decide(self, waiting: Waiting, login: Login, *, allow: bool, address: str) -> None:
        """Allow what a device asked for, or say no. The audit trail has it before the device learns it.

        Raises:
            GateError: LOGIN_REQUIRED if the person is another tenant's; INTERACTION_EXPIRED if the code does not wait
                any more; AUDIT_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        code, client, request = waiting.code, waiting.client, waiting.code.request
        if login.tenant != client.tenant:
            raise GateError(ErrorCode.LOGIN_REQUIRED, "the person is of another tenant")
        authorization = Authorization(
            client.tenant,
            client.client_id,
            request.resource,
            request.scopes,
            user=login.subject,
            task=request.task,
            upstream=login.upstream,
            authenticated_at=login.authenticated_at,
            ends_at=login.ends_at,
            agent=waiting.agent.id.agent,
        )
        event = AuditEvent(
            kind=EventKind.AUTHORIZATION_GRANTED if allow else EventKind.AUTHORIZATION_REFUSED,
            at=self._clock.now_us(),
            address=address,
            tenant=client.tenant,
            issuer=self._issuer,
            agent=waiting.agent.id.agent,
            client=client.client_id,
            user_issuer=self._issuer,
            user=login.subject,
            task=request.task or "",
            method=login.method,
            reason="" if allow else ErrorCode.ACCESS_DENIED.value,
            detail=f"device code from {request.address or 'unknown'} for {request.resource} "
            f"scope {' '.join(request.scopes) or '(none)'}",
        )

        async def announce() -> None:
            await self._audit.append(event)

        now = self._clock.now()
        if not await self._store.decide(code.user_code, authorization if allow else None, now, announce):
            raise GateError(ErrorCode.INTERACTION_EXPIRED, "the device code does not wait any more")
