"""What becomes of a person's decision: a code or a refusal, on the audit trail first."""

from __future__ import annotations

from typing import Protocol

import msgspec

from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.authorize_request import AuthorizeRequest
from twogate.core.oauth.grant_type import GrantType
from twogate.core.principal import Agent
from twogate.flows.audit import AuditSink, Refusals
from twogate.flows.authserver.clients import Client
from twogate.flows.authserver.code import AuthorizationCode
from twogate.flows.authserver.consent import Consents
from twogate.flows.authserver.grant import Authorization
from twogate.flows.authserver.logins import Login
from twogate.flows.authserver.visit import Granted, Refused
from twogate.flows.environment import Clock


class CodeIssuer(Protocol):
    """Issues authorization codes; implemented by `code.Codes`."""

    async def issue(self, code: AuthorizationCode, now: int) -> str:
        """A code for what was granted.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...


class Asked(msgspec.Struct):
    """Whom a request names, as far as it is known, for the audit trail; a client id alone is a claim."""

    address: str
    client_id: str = ""
    client: Client | None = None
    request: AuthorizeRequest | None = None
    subject: str = ""


class Decisions:
    """Grants and refuses. `issuer` names the authorization server in audit events."""

    def __init__(
        self,
        issuer: str,
        consents: Consents,
        codes: CodeIssuer,
        audit: AuditSink,
        refusals: Refusals,
        clock: Clock,
    ) -> None:
        self._issuer = issuer
        self._consents = consents
        self._codes = codes
        self._audit = audit
        self._refusals = refusals
        self._clock = clock

    async def grant(
        self,
        request: AuthorizeRequest,
        client: Client,
        agent: Agent,
        login: Login,
        asked: Asked,
        now: int,
        *,
        decided: bool,
    ) -> Granted:
        """A code for what was asked; `decided` by the person just now, which is remembered, or by what is remembered.

        Raises:
            GateError: AUDIT_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        detail = f"{request.resource} scope {' '.join(request.scopes) or '(none)'}"
        event = self._event(EventKind.AUTHORIZATION_GRANTED, asked)
        await self._audit.append(
            msgspec.structs.replace(
                event,
                agent=agent.id.agent,
                detail=detail if decided else f"{detail}, by an earlier consent",
            )
        )
        if decided:
            await self._consents.remember(client, login.subject, request.resource, request.task, request.scopes, now)
        authorization = Authorization(
            tenant=client.tenant,
            client_id=client.client_id,
            resource=request.resource,
            scopes=request.scopes,
            user=login.subject,
            task=request.task,
            upstream=login.upstream,
            authenticated_at=login.authenticated_at,
            ends_at=login.ends_at,
            agent=agent.id.agent,
        )
        code = AuthorizationCode(
            authorization=authorization,
            redirect_uri=request.redirect_uri,
            redirect_uri_given=request.redirect_uri_given,
            code_challenge=request.code_challenge,
            proof=request.proof,
            refresh=GrantType.REFRESH_TOKEN in client.grants,
        )
        return Granted(request.redirect_uri, request.state, await self._codes.issue(code, now))

    async def deny(self, request: AuthorizeRequest, asked: Asked) -> Refused:
        """The answer of a person who said no.

        Raises:
            GateError: AUDIT_UNAVAILABLE.
        """
        error = GateError(ErrorCode.ACCESS_DENIED, "the person said no")
        await self._audit.append(self._event(EventKind.AUTHORIZATION_REFUSED, asked, error))
        return Refused(request.redirect_uri, request.state, error.code, trusted=True)

    async def record(self, error: GateError, asked: Asked) -> None:
        """Put a refusal that nobody decided on the trail.

        Raises:
            GateError: AUDIT_UNAVAILABLE.
        """
        # Anybody may write such addresses, so these are coalesced: a stranger must not be able to fill the disk.
        await self._refusals.record(self._event(EventKind.AUTHORIZATION_REFUSED, asked, error))

    def _event(self, kind: EventKind, asked: Asked, error: GateError | None = None) -> AuditEvent:
        client, request = asked.client, asked.request
        return AuditEvent(
            kind=kind,
            at=self._clock.now_us(),
            address=asked.address,
            issuer=self._issuer,
            tenant="" if client is None else client.tenant,
            agent="" if client is None or client.agent is None else client.agent.agent,
            client=asked.client_id,
            user_issuer=self._issuer if asked.subject else "",
            user=asked.subject,
            task="" if request is None else request.task or "",
            reason="" if error is None else error.code.value,
            detail="" if error is None else error.debug,
        )
