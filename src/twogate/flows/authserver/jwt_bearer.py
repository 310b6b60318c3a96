"""The `jwt-bearer` grant: an assertion by somebody whom the operator lets vouch, for a token (RFC 7523 section 2.1).

The unverified `iss` selects who vouches and with it the one profile that the assertion must follow: a workload's own
token, which needs no client and may be used until it expires, or an ID-JAG, which an authenticated client uses once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.jwt import UnverifiedJwt
from twogate.core.oauth.grant_type import GrantType
from twogate.core.oauth.id_jag import VerifiedIdJag
from twogate.core.oauth.jwt_bearer import parse_assertion
from twogate.core.oauth.token_request import Wanted, parse_wanted, verify_wanted
from twogate.flows.authserver.access_tokens import AccessTokens
from twogate.flows.authserver.clients import Client, ClientAuth
from twogate.flows.authserver.form import ClientCall, JsonAnswer
from twogate.flows.authserver.grant import Authorization
from twogate.flows.authserver.identity_assertions import IdentityAssertions
from twogate.flows.authserver.presented import told_as
from twogate.flows.authserver.workloads import Workloads, workload_client

METHOD = "workload"
"""How the audit trail calls the authentication of a workload that is no registered client."""

_REFUSED = "The assertion is not valid here."


class JwtBearer:
    """Implements `grant.Grant`; a workload need not be a registered client."""

    type: ClassVar[GrantType] = GrantType.JWT_BEARER
    anonymous: ClassVar[bool] = True

    def __init__(self, tokens: AccessTokens, workloads: Workloads, identities: IdentityAssertions) -> None:
        self._tokens = tokens
        self._workloads = workloads
        self._identities = identities

    async def issue(self, call: ClientCall) -> JsonAnswer:
        """A token for what the assertion says, and no refresh token (RFC 7521 section 4.1).

        Raises:
            GateError: REQUEST_MALFORMED, CLIENT_INVALID, CLIENT_UNAUTHORIZED, RESOURCE_INVALID, SCOPE_INVALID,
                DETAILS_INVALID; any code of gate one, told as GRANT_INVALID; see `AccessTokens.issue`.
        """
        # "the value of the "error" parameter MUST be the "invalid_grant" error code" (RFC 7523 section 3.1).
        with told_as(ErrorCode.GRANT_INVALID, _REFUSED):
            assertion = parse_assertion(call.form)
            known = self._workloads.select(assertion) or self._identities.select(assertion)
            if known is None:
                raise GateError(ErrorCode.ISSUER_UNKNOWN, "iss is nobody who vouches here")
        if self._identities.select(assertion) is None:
            return await self._for_workload(call, assertion)
        return await self._for_person(call, assertion)

    async def _for_workload(self, call: ClientCall, assertion: UnverifiedJwt) -> JsonAnswer:
        with told_as(ErrorCode.GRANT_INVALID, _REFUSED):
            workload = await self._workloads.verify(assertion, call.proof, call.now)
            if call.client is not None and (call.agent is None or call.agent.id != workload.agent.id):
                raise GateError(ErrorCode.AGENT_UNBOUND, "the workload is another agent than the client")
        # Not before: who cannot show a good assertion can make the store remember nothing.
        await call.use_proof()
        client = call.client
        if client is None:
            client = workload_client(workload)
            call.trace.client, call.trace.tenant, call.trace.method = client.client_id, client.tenant, METHOD
            call.trace.agent = workload.agent.id.agent
        wanted = parse_wanted(call.form)
        self._verify(wanted, client)
        issued = await self._tokens.issue(
            Authorization(client.tenant, client.client_id, wanted.resource, wanted.scopes, task=wanted.task),
            client,
            workload.agent,
            method=call.trace.method,
            address=call.address,
            proof=call.proof,
            # What the platform lets run for so long must not act here for longer.
            not_after=workload.verified.expires_at,
        )
        return JsonAnswer(issued.as_json())

    async def _for_person(self, call: ClientCall, assertion: UnverifiedJwt) -> JsonAnswer:
        client = call.client
        if client is None:
            raise GateError(ErrorCode.CLIENT_INVALID, "an ID-JAG is presented by the client that it names")
        if client.auth is ClientAuth.NONE:
            # The assertion is worth as much as the client's authentication, which a public client does not have.
            raise GateError(ErrorCode.CLIENT_UNAUTHORIZED, "only a client that authenticates")
        with told_as(ErrorCode.GRANT_INVALID, _REFUSED):
            verified = await self._identities.verify(assertion, client, call.proof, call.now)
        wanted = _within(verified, call.form)
        self._verify(wanted, client)
        scopes = _granted(wanted.scopes, verified, self._tokens.settings.scopes)
        with told_as(ErrorCode.GRANT_INVALID, _REFUSED):
            user = await self._identities.redeem(verified, client.tenant, call.now)
        call.trace.user = user.subject
        issued = await self._tokens.issue(
            Authorization(
                tenant=client.tenant,
                client_id=client.client_id,
                resource=wanted.resource,
                scopes=scopes,
                user=user.subject,
                task=wanted.task,
                authenticated_at=verified.authenticated_at,
            ),
            client,
            call.agent,
            method=call.trace.method,
            address=call.address,
            proof=call.proof,
        )
        return JsonAnswer(issued.as_json())

    def _verify(self, wanted: Wanted, client: Client) -> None:
        settings = self._tokens.settings
        # Whoever vouches for somebody else must not open the way to operation tokens (decision 7).
        verify_wanted(wanted, settings.resources_of(client) - {settings.operations}, settings.scopes)


def _within(verified: VerifiedIdJag, form: Mapping[str, str]) -> Wanted:
    """What a form asks for within an assertion; what the form leaves out, the assertion says."""
    if "resource" not in form and len(verified.resources) == 1:
        form = {**form, "resource": verified.resources[0]}
    wanted = parse_wanted(form)
    if wanted.resource not in verified.resources:
        raise GateError(ErrorCode.RESOURCE_INVALID, "the assertion is for other resources")
    return wanted


def _granted(requested: tuple[str, ...], verified: VerifiedIdJag, known: frozenset[str]) -> tuple[str, ...]:
    """The scopes that are requested and granted, in the assertion's order; all of its own if none is requested."""
    granted = tuple(scope for scope in verified.scopes if scope in known and (not requested or scope in requested))
    if requested and not granted:
        # An answer without `scope` would mean that all of them were granted (RFC 6749 section 5.1).
        raise GateError(ErrorCode.SCOPE_INVALID, "none of the requested scopes is granted by the assertion")
    return granted
