"""One call's way through both gates. Read this first.

    head -> address limit -> one credential, its proof -> gate one: authenticate -> read and parse the body, open its
         handles -> gate two: session and decision -> limits -> pin, header parameters, arguments -> people's
         approval, or operation token -> audit intent -> upstream -> filtered answer -> audit outcome

Each stage takes what the stage before gives (`BearerToken`, `Authenticated`, `Call`, `Admitted`, `Recorded`), so that
leaving one out does not type-check. Nothing of the body is read before gate one, nothing reaches an upstream before
its intent is on the audit trail, and every refusal is written down before it is answered. A batch is its members, each
on its own way from the parsed message on; a long-lived stream is decided anew as long as it lasts, and an answer in
pieces as long as they come.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import ceil

import msgspec

from twogate.core.access import Policy
from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import Kind, Message, encode_message
from twogate.core.principal import Principal
from twogate.flows.audit import Refusals
from twogate.flows.environment import Clock
from twogate.flows.gateway.admit import Admitted, Conditions, Refused, admit
from twogate.flows.gateway.approval import Approvals, no_approvals
from twogate.flows.gateway.approval_listen import Line
from twogate.flows.gateway.authenticate import Authenticator
from twogate.flows.gateway.batch import BatchExchange, alone
from twogate.flows.gateway.caller import Caller
from twogate.flows.gateway.credential import parse_credential
from twogate.flows.gateway.exchange import Exchange, Head, Refusal
from twogate.flows.gateway.forward import Forwarder
from twogate.flows.gateway.limit import AddressLimit, CallRates, UnderWay
from twogate.flows.gateway.meta import forwarded
from twogate.flows.gateway.operation import Operations, brings_token, same_call, settle, start_operation
from twogate.flows.gateway.possession import Possession, proven_by
from twogate.flows.gateway.read import (
    SESSION_END,
    STREAM,
    Authenticated,
    Call,
    CallError,
    read_call,
    read_messages,
    read_session_end,
    read_stream,
)
from twogate.flows.gateway.record import Recorded, Recorder, refused_event
from twogate.flows.gateway.seal import Seal
from twogate.flows.gateway.tool_check import ToolCheck
from twogate.flows.registry import Registry
from twogate.flows.sessions import Sessions


class Pipeline:
    """The data plane: both gates in front of every configured MCP server."""

    def __init__(  # noqa: PLR0913 - one per stage
        self,
        *,
        resource: Callable[[str], str],
        limit: AddressLimit,
        under_way: UnderWay,
        rates: CallRates,
        streams: UnderWay,
        refusals: Refusals,
        authenticator: Authenticator,
        possession: Possession,
        registry: Registry,
        sessions: Sessions,
        policy: Policy,
        conditions: Conditions | None = None,
        tools: ToolCheck,
        recorder: Recorder,
        seal: Seal,
        forwarder: Forwarder,
        operations: Operations | None = None,
        approvals: Approvals | None = None,
        clock: Clock,
        max_body: int,
    ) -> None:
        self._resource = resource
        self._limit = limit
        self._under_way = under_way
        self._rates = rates
        self._streams = streams
        self._refusals = refusals
        self._authenticator = authenticator
        self._possession = possession
        self._registry = registry
        self._sessions = sessions
        self._policy = policy
        self._conditions = conditions
        self._tools = tools
        self._recorder = recorder
        self._seal = seal
        self._forwarder = forwarder
        self._operations = operations
        self._approvals = approvals
        self._clock = clock
        self._max_body = max_body

    @property
    def tenants(self) -> int:
        """How many tenants share what there is."""
        return len(self._policy.tenants)

    async def handle(self, head: Head, exchange: Exchange) -> None:
        """Take one request through both gates and answer it, whatever the outcome."""
        caller = await self.meet(head, exchange)
        if caller is not None:
            await self.serve(caller, exchange)

    async def meet(self, head: Head, exchange: Exchange) -> Caller | None:
        """Take the caller of a request through gate one; None if it was refused, and the request answered."""
        try:
            return await self._meet(head)
        except GateError as error:
            await self.refuse_stranger(head, error, exchange)
            return None

    async def serve(self, caller: Caller, exchange: Exchange) -> None:
        """Take a request whose caller was proven through gate two, and answer it, whatever the outcome."""
        try:
            read = await self._read(caller.authenticated, exchange)
        except GateError as error:
            await self.refuse(caller, error, exchange)
            return
        if isinstance(read, tuple):
            batch = BatchExchange(exchange)
            for place, member in enumerate(read):
                await self._one(caller, self._counted(alone(member), caller, place), batch.member())
            await batch.finish()
        else:
            await self._one(caller, read, exchange)

    async def enter(self, caller: Caller, exchange: Exchange) -> bool:
        """Whether a caller may open a stream of the old transport; if not, it is refused, and the request answered."""
        try:
            decided = await self._admit(
                await caller.current(), caller.now, read_stream(caller.authenticated, self._seal)
            )
        except GateError as error:
            await self.refuse(caller, error, exchange)
            return False
        if isinstance(decided, Refused):
            await self._refuse(decided, exchange)
        return isinstance(decided, Admitted)

    def take(self, address: str) -> None:
        """Count one request of an address; every request is counted once, whatever comes of it.

        Raises:
            GateError: RATE_LIMITED.
        """
        if wait := self._limit.take(address, self._clock.monotonic()):
            raise GateError(
                ErrorCode.RATE_LIMITED, "too many requests of this address", data={"retry_after": ceil(wait)}
            )

    async def _meet(self, head: Head) -> Caller:
        self.take(head.address)
        if not self._forwarder.knows(head.server):
            raise GateError(ErrorCode.NOT_FOUND, "no such server")
        if head.query:
            # RFC 9700 section 4.3.2: no tokens in the query; MCP endpoints have no other use for one.
            raise GateError(ErrorCode.REQUEST_MALFORMED, "a query string")
        bearer, resource = parse_credential(head.headers), self._resource(head.server)
        proof = self._possession.verify(bearer, head.method, resource, self._clock.now())
        proven = proven_by(proof, head.certificate)

        async def prove(now: int) -> Principal:
            view = await self._registry.view()
            return await self._authenticator.authenticate(bearer, resource, view, now, proven)

        caller = await Caller.prove(head, prove, self._clock)
        await self._possession.redeem(proof, caller.authenticated.principal, caller.now)
        return caller

    async def _read(
        self, authenticated: Authenticated, exchange: Exchange
    ) -> Call | Message | tuple[Message | GateError, ...]:
        match authenticated.head.method:
            case "POST":
                return await read_messages(authenticated, exchange, self._seal, self._max_body)
            case "GET":
                return read_stream(authenticated, self._seal)
            case "DELETE":
                return read_session_end(authenticated, self._seal)
            case _:
                raise GateError(ErrorCode.METHOD_NOT_ALLOWED, "neither POST, GET nor DELETE")

    def _counted(self, member: Message | GateError, caller: Caller, place: int) -> Message | GateError:
        # A batch must not be a way to send more: its first member was counted as the request.
        try:
            if place:
                self.take(caller.authenticated.head.address)
        except GateError as error:
            return CallError(error, member) if isinstance(member, Message) else error
        return member

    async def _one(self, caller: Caller, read: Call | Message | GateError, exchange: Exchange) -> None:
        """Take one message on from where it was read."""
        try:
            if isinstance(read, GateError):
                raise read
            call = read if isinstance(read, Call) else read_call(caller.authenticated, read, self._seal)
            if call.answered is not None and not self._forwarder.may_ask(call.head.server, call.answered.method):
                raise GateError(ErrorCode.METHOD_NOT_PERMITTED, "an answer to what this server may not ask any more")
            decided = await self._admit(await caller.current(), caller.now, call)
        except GateError as error:
            await self.refuse(caller, error, exchange)
            return
        under_way = self._streams if call.stream else self._under_way
        if isinstance(decided, Admitted):
            decided = self._begin(decided, under_way)
        if isinstance(decided, Refused):
            if decided.call.approval is not None and self._approvals is not None:
                await self._approvals.ended(decided)
            await self._refuse(decided, exchange)
            return
        try:
            if self._rates.any:
                decided = await self._within_rates(decided)
            if isinstance(decided, Admitted):
                decided = await self._check_tool(caller, decided)
            await self._go_on(caller, decided, exchange)
        finally:
            under_way.end(call.principal.key)

    async def _go_on(self, caller: Caller, decided: Admitted | Refused, exchange: Exchange) -> None:
        """Take a call on that was decided in full: to people, to its token, or to its server."""
        if isinstance(decided, Refused):
            await self._refuse(decided, exchange)
        elif self._approvals is not None and self._approvals.waits(decided):
            await self._approvals.take(decided, self._line(caller), exchange)
        elif decided.call.approval is not None:
            await self._refuse(no_approvals(decided), exchange)
        elif decided.gated or brings_token(decided.call):
            await self._run_once(caller, decided, exchange)
        elif decided.call.base:
            same = same_call(decided, self._forwarder.asks(decided.call.head.server))
            await (self._refuse(same, exchange) if isinstance(same, Refused) else self._run(caller, same, exchange))
        else:
            await self._run(caller, decided, exchange)

    def _begin(self, admitted: Admitted, under_way: UnderWay) -> Admitted | Refused:
        """Count an allowed call in as under way; it was, if it is still admitted after this."""
        if under_way.begin(admitted.call.principal.key):
            return admitted
        error = GateError(ErrorCode.RATE_LIMITED, "too many calls of this agent under way", data={"retry_after": 1})
        return Refused(admitted.call, admitted.session, admitted.target, error)

    async def _within_rates(self, admitted: Admitted) -> Admitted | Refused:
        """Count an allowed call by agent, tool and tenant. A shared store may take its time, or be gone."""
        call, rates = admitted.call, self._rates
        # By its entry, so that what an agent reads by one pattern counts as one, however many URIs it makes up.
        policy = self._policy.of(call.principal.tenant)
        found = policy.classify(admitted.target) if admitted.target else None
        entry = call.message.method or "" if found is None else found.entry
        agent = call.principal.agent.id
        try:
            if rates.shared is None:
                wait = rates.take(agent, entry, self._clock.monotonic())
            else:
                wait = await rates.take_shared(agent, entry)
        except GateError as error:
            return Refused(call, admitted.session, admitted.target, error)
        if not wait:
            return admitted
        limited = GateError(ErrorCode.RATE_LIMITED, "too many calls a second", data={"retry_after": ceil(wait)})
        return Refused(call, admitted.session, admitted.target, limited)

    async def _admit(self, authenticated: Authenticated, now: int, call: Call) -> Admitted | Refused:
        if authenticated.principal is not call.principal:
            call = msgspec.structs.replace(call, principal=authenticated.principal)
        return await admit(call, self._sessions, self._policy, now, self._conditions)

    async def _check_tool(self, caller: Caller, admitted: Admitted) -> Admitted | Refused:
        """Check what is called by what was approved. The server may have to be asked for it, and take its time."""
        before = caller.authenticated
        try:
            checked = await self._tools.check(admitted.call)
            if await caller.current() is not before:
                decided = await self._admit(caller.authenticated, caller.now, admitted.call)
                if isinstance(decided, Refused):
                    return decided
                admitted = decided
        except GateError as error:
            return Refused(admitted.call, admitted.session, admitted.target, error)
        if not (checked.headers or checked.pin):
            return admitted
        return msgspec.structs.replace(admitted, param_headers=checked.headers, pin=checked.pin)

    def _line(self, caller: Caller) -> Line:
        async def again(call: Call) -> Admitted | Refused:
            try:
                decided = await self._admit(await caller.current(), caller.now, call)
            except GateError as error:
                return Refused(call, None, call.targets[0] if call.targets else "", error)
            return decided if isinstance(decided, Refused) else await self._check_tool(caller, decided)

        return Line(again, partial(self._run, caller), self._refuse)

    async def _run_once(self, caller: Caller, admitted: Admitted, exchange: Exchange) -> None:
        """Take a call on that needs an operation token, or brings one: see `operation`."""
        before = caller.authenticated
        started = await start_operation(admitted, self._operations)
        if isinstance(started, Refused):
            await self._refuse(started, exchange)
            return
        try:
            # The store may have taken its time.
            again = await self._again(caller, before, admitted)
            if isinstance(again, Refused):
                await settle(started)
                await self._refuse(again, exchange)
            else:
                await self._run(caller, started, exchange)
        finally:
            await settle(started)

    async def _again(self, caller: Caller, before: Authenticated, admitted: Admitted) -> Admitted | Refused:
        try:
            if await caller.current() is before:
                return admitted
            return await self._admit(caller.authenticated, caller.now, admitted.call)
        except GateError as error:
            return Refused(admitted.call, admitted.session, admitted.target, error)

    async def _run(self, caller: Caller, admitted: Admitted, exchange: Exchange) -> None:
        try:
            recorded = await self._record(admitted)
        except GateError as error:
            await settle(admitted)
            await exchange.refuse(_refusal(admitted.call, error))
            return

        async def renew() -> Admitted:
            proven = await (caller.renewed() if admitted.call.stream else caller.still())
            decided = await self._admit(proven, caller.now, admitted.call)
            if isinstance(decided, Refused):
                raise decided.error
            return decided

        exchange.forwarding()
        if admitted.operation is not None:
            admitted.operation.sending()
        await self._forwarder.forward(recorded, exchange, renew)

    async def _record(self, admitted: Admitted) -> Recorded:
        # From here on only this re-encoded message exists: the upstream sees what was decided on and nothing else.
        call, operation = admitted.call, admitted.operation
        if operation is not None:
            return await self._recorder.intent(admitted, operation.message, operation.body)
        message = forwarded(call.message, call.version, self._forwarder.asks(call.head.server))
        body = b"" if message.method in (SESSION_END, STREAM) else encode_message(message)
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

    async def refuse(self, caller: Caller, error: GateError, exchange: Exchange) -> None:
        """Write down and answer a refusal of what was no acceptable request."""
        message = error.message if isinstance(error, CallError) else None
        try:
            await self._recorder.invalid(caller.authenticated, error)
        except GateError as unrecorded:
            error = unrecorded
        if message is None:
            await exchange.refuse(Refusal(error))
        else:
            await exchange.refuse(Refusal(error, message.id, notification=message.kind is not Kind.REQUEST))

    async def _refuse(self, refused: Refused, exchange: Exchange) -> None:
        error = refused.error
        try:
            await self._recorder.refused(refused)
        except GateError as unrecorded:
            error = unrecorded
        await exchange.refuse(_refusal(refused.call, error, refused.scopes))


def _refusal(call: Call, error: GateError, scopes: tuple[str, ...] = ()) -> Refusal:
    return Refusal(error, call.origin.id, scopes, notification=call.message.kind is not Kind.REQUEST)
