"""One call's way through both gates. Read this first.

    head -> address limit -> one credential -> gate one: authenticate -> read and parse the body
         -> gate two: session and decision -> audit intent -> upstream -> filtered answer -> audit outcome

Each stage takes what the stage before gives (`BearerToken`, `Authenticated`, `Call`, `Admitted`, `Recorded`), so that
leaving one out does not type-check. Nothing of the body is read before gate one, nothing reaches an upstream before
its intent is on the audit trail, and every refusal is written down before it is answered.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Final

import msgspec

from twogate.core.access import Policy
from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import encode_message
from twogate.flows.audit import Refusals
from twogate.flows.environment import Clock
from twogate.flows.gateway.admit import Admitted, Refused, admit
from twogate.flows.gateway.authenticate import Authenticator
from twogate.flows.gateway.credential import BearerToken, parse_credential
from twogate.flows.gateway.exchange import Exchange, Head, Refusal
from twogate.flows.gateway.forward import Forwarder
from twogate.flows.gateway.limit import AddressLimit, UnderWay
from twogate.flows.gateway.meta import forwarded
from twogate.flows.gateway.read import SESSION_END, Authenticated, Call, CallError, read_call, read_session_end
from twogate.flows.gateway.record import Recorded, Recorder, refused_event
from twogate.flows.gateway.upstream_session import UpstreamSessions
from twogate.flows.registry import Registry
from twogate.flows.sessions import Sessions

PROVEN_FOR: Final = 0.01
"""Seconds after which a caller is proven again: a client decides how long its body takes, and within that time its
token may expire or an operator may cut it off."""


class Pipeline:
    """The data plane: both gates in front of every configured MCP server."""

    def __init__(  # noqa: PLR0913 - one per stage
        self,
        *,
        resource: Callable[[str], str],
        limit: AddressLimit,
        under_way: UnderWay,
        refusals: Refusals,
        authenticator: Authenticator,
        registry: Registry,
        sessions: Sessions,
        policy: Policy,
        recorder: Recorder,
        sealed: UpstreamSessions,
        forwarder: Forwarder,
        clock: Clock,
        max_body: int,
    ) -> None:
        self._resource = resource
        self._limit = limit
        self._under_way = under_way
        self._refusals = refusals
        self._authenticator = authenticator
        self._registry = registry
        self._sessions = sessions
        self._policy = policy
        self._recorder = recorder
        self._sealed = sealed
        self._forwarder = forwarder
        self._clock = clock
        self._max_body = max_body

    async def handle(self, head: Head, exchange: Exchange) -> None:
        """Take one request through both gates and answer it, whatever the outcome."""
        now, began = self._clock.now(), self._clock.monotonic()
        try:
            bearer = self._meet(head)
            authenticated = await self._authenticate(head, bearer, now)
        except GateError as error:
            await self.refuse_stranger(head, error, exchange)
            return
        try:
            call = await self._read(authenticated, exchange)
            if self._clock.monotonic() - began > PROVEN_FOR:
                now = self._clock.now()
                call = await self._proven_again(call, bearer, now)
            decided = await admit(call, self._sessions, self._policy, now)
        except GateError as error:
            await self._refuse_message(authenticated, error, exchange)
            return
        if isinstance(decided, Admitted) and not self._under_way.begin(call.principal.key):
            limited = GateError(
                ErrorCode.RATE_LIMITED, "too many calls of this agent under way", data={"retry_after": 1}
            )
            decided = Refused(call, decided.session, decided.target, limited)
        if isinstance(decided, Refused):
            await self._refuse(decided, exchange)
            return
        try:
            await self._run(decided, exchange)
        finally:
            self._under_way.end(call.principal.key)

    def take(self, address: str) -> None:
        """Count one request of an address; every request is counted once, whatever comes of it.

        Raises:
            GateError: RATE_LIMITED.
        """
        if wait := self._limit.take(address, self._clock.monotonic()):
            raise GateError(
                ErrorCode.RATE_LIMITED, "too many requests of this address", data={"retry_after": ceil(wait)}
            )

    def _meet(self, head: Head) -> BearerToken:
        self.take(head.address)
        if not self._forwarder.knows(head.server):
            raise GateError(ErrorCode.NOT_FOUND, "no such server")
        if head.query:
            # RFC 9700 section 4.3.2: no tokens in the query; MCP endpoints have no other use for one.
            raise GateError(ErrorCode.REQUEST_MALFORMED, "a query string")
        return parse_credential(head.headers)

    async def _authenticate(self, head: Head, bearer: BearerToken, now: int) -> Authenticated:
        view = await self._registry.view()
        principal = await self._authenticator.authenticate(bearer, self._resource(head.server), view, now)
        return Authenticated(head, principal)

    async def _proven_again(self, call: Call, bearer: BearerToken, now: int) -> Call:
        principal = (await self._authenticate(call.head, bearer, now)).principal
        if principal.key != call.principal.key:
            # What was opened for the one (an MCP session) must not serve the other.
            raise GateError(ErrorCode.AGENT_UNBOUND, "the identity was bound to another agent meanwhile")
        return msgspec.structs.replace(call, principal=principal)

    async def _read(self, authenticated: Authenticated, exchange: Exchange) -> Call:
        match authenticated.head.method:
            case "POST":
                return await read_call(authenticated, exchange, self._sealed, self._max_body)
            case "DELETE":
                return read_session_end(authenticated, self._sealed)
            case _:
                raise GateError(ErrorCode.METHOD_NOT_ALLOWED, "neither POST nor DELETE")

    async def _run(self, admitted: Admitted, exchange: Exchange) -> None:
        try:
            recorded = await self._record(admitted)
        except GateError as error:
            await exchange.refuse(Refusal(error, admitted.call.message.id))
            return
        await self._forwarder.forward(recorded, exchange)

    async def _record(self, admitted: Admitted) -> Recorded:
        # From here on only this re-encoded message exists: the upstream sees what was decided on and nothing else.
        message = forwarded(admitted.call.message)
        body = b"" if message.method == SESSION_END else encode_message(message)
        return await self._recorder.intent(admitted, message, body)

    async def refuse_stranger(self, head: Head, error: GateError, exchange: Exchange) -> None:
        """Write down and answer a refusal from before anybody was authenticated."""
        try:
            await self._refusals.record(
                refused_event(error, at=self._clock.now_us(), address=head.address, server=head.server)
            )
        except GateError as unrecorded:
            error = unrecorded
        await exchange.refuse(Refusal(error))

    async def _refuse_message(self, authenticated: Authenticated, error: GateError, exchange: Exchange) -> None:
        message_id = error.message.id if isinstance(error, CallError) else None
        try:
            await self._recorder.invalid(authenticated, error)
        except GateError as unrecorded:
            error = unrecorded
        await exchange.refuse(Refusal(error, message_id))

    async def _refuse(self, refused: Refused, exchange: Exchange) -> None:
        error = refused.error
        try:
            await self._recorder.refused(refused)
        except GateError as unrecorded:
            error = unrecorded
        await exchange.refuse(Refusal(error, refused.call.message.id, refused.scopes))
