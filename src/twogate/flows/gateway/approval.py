"""Gate two's people: a call with an approval rule waits until they decided, and runs once (row R-34).

In this order, and the first failure is the reason:

1. the call is a request, and brings no operation token: that is no replacement for an approval
2. it is canonical and digested as it will run; what it brings back (a request state, a task) belongs to this very call
3. the same call of the same caller in the same session is parked, or found parked, whatever became of it
4. what was parked is what is called now: the same pin, under the same rule; else it is cancelled
5. undecided, it is waited for in the best form that the client speaks; decided, that is told
6. granted, the request that asks now is decided once more, in full, and lets the call start: one of however many

An approval stands in the store as an operation whose `jti` is the approval's id; from its start on the call may have
run, and the answer of the one run is what every later identical call gets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, cast

import msgspec

from twogate.core.access import Policy
from twogate.core.approval import Rule, State
from twogate.core.approval_rules import Rules, rule_for
from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import NAMED_METHODS, Kind, Message
from twogate.core.operation import WITH_ARGUMENTS, Digested, canonical_message, digest_call
from twogate.flows.approvals.parked import Parked, Parking, Target
from twogate.flows.gateway.admit import Admitted, Refused
from twogate.flows.gateway.approval_exchange import Captured, HeldExchange
from twogate.flows.gateway.approval_listen import Line, Listening, Stood, require_tasks
from twogate.flows.gateway.approval_tell import Teller
from twogate.flows.gateway.approval_wait import UNDECIDED, Waits
from twogate.flows.gateway.exchange import Exchange
from twogate.flows.gateway.meta import forwarded
from twogate.flows.gateway.operation import Operations, brings_token, settle
from twogate.flows.gateway.parked_run import Kept, ParkedRuns, Standing
from twogate.flows.gateway.read import Call
from twogate.flows.gateway.seal import ApprovalState, ApprovalTask
from twogate.flows.operations.store import Operation

_SESSION_OVER: Final = frozenset(
    {ErrorCode.SESSION_ENDED, ErrorCode.SESSION_EXPIRED, ErrorCode.SESSION_UNKNOWN, ErrorCode.SESSION_MISMATCH}
)
_TELLS_TASK: Final = "tasks/update"


class Wanted(msgspec.Struct, frozen=True):
    """A call as it would run, its digest, and the digest without what was answered to its server."""

    message: Message
    digested: Digested
    base: str


class Turn(msgspec.Struct, frozen=True):
    """One request about a parked call."""

    admitted: Admitted
    wanted: Wanted
    parked: Parked


class Approvals:
    """Lets calls wait for people. `rules` are each tenant's, by classified entry."""

    def __init__(
        self,
        *,
        rules: Mapping[str, Rules],
        policy: Policy,
        parking: Parking,
        runs: ParkedRuns,
        operations: Operations,
        asks: Callable[[str], frozenset[str]],
        teller: Teller,
        waits: Waits,
        listening: Listening,
    ) -> None:
        self._rules = rules
        self._policy = policy
        self._parking = parking
        self._runs = runs
        self._operations = operations
        self._asks = asks
        self._teller = teller
        self._waits = waits
        self._listening = listening

    def waits(self, admitted: Admitted) -> bool:
        """Whether people must approve what this call does, or it asks about calls that wait, or listens to them."""
        call = admitted.call
        return call.approval is not None or self._rule(call) is not None or self._listening.hears(call)

    async def take(self, admitted: Admitted, line: Line, outer: Exchange) -> None:
        """Take a call on that waits, or a stream about such, and answer it, whatever the outcome."""
        if admitted.call.stream:
            await self._listening.take(admitted, line, outer, self._ask)
            return
        exchange = HeldExchange(outer)
        try:
            if admitted.call.message.kind is not Kind.REQUEST:
                raise GateError(ErrorCode.INVALID_REQUEST, "a call that must be approved is a request")
            if brings_token(admitted.call):
                raise GateError(ErrorCode.OPERATION_TOKEN_INVALID, "an approval is needed, which no token replaces")
            if admitted.call.message.method == _TELLS_TASK:
                raise GateError(ErrorCode.METHOD_NOT_PERMITTED, "input to a task that nobody approved")
            exchange.begin()
            if admitted.call.message.method in NAMED_METHODS:
                await self._call(admitted, line, exchange)
            else:
                await self._task(admitted, line, exchange)
        except GateError as error:
            await line.refuse(_refused(admitted, error), exchange)

    async def ended(self, refused: Refused) -> None:
        """Told of a refused request about a call that waits: if its session is over, so is the waiting."""
        brought = refused.call.approval
        if not isinstance(brought, ApprovalState | ApprovalTask) or refused.error.code not in _SESSION_OVER:
            return
        # The refusal stands, whether or not this can be written. The session that was named need not be the call's.
        with suppress(GateError):
            await self._parking.current(brought.approval)

    # A call that waits.

    async def _call(self, admitted: Admitted, line: Line, exchange: HeldExchange) -> None:
        rule, session = self._rule(admitted.call), admitted.session
        if rule is None:
            raise GateError(ErrorCode.REQUEST_STATE_UNKNOWN, "a state of an approval that is not needed any more")
        if session is None:
            raise GateError(ErrorCode.SESSION_REQUIRED, "what waits for people belongs to a session")
        brought = admitted.call.approval
        if isinstance(brought, ApprovalState):
            parked = await self._own(brought.approval, session.id, ErrorCode.REQUEST_STATE_UNKNOWN)
            wanted = self._wanted(admitted, await self._responses(parked))
            if not wanted.digested.digest == brought.digest == parked.call.digest:
                raise GateError(ErrorCode.REQUEST_STATE_UNKNOWN, "a requestState of a call with other parameters")
        else:
            wanted = self._wanted(admitted, None)
            target = Target(
                admitted.call.head.server,
                admitted.call.targets[0],
                admitted.pin,
                wanted.digested.digest,
                wanted.digested.form,
            )
            parked = await self._parking.park(admitted.call.principal, session, target, rule)
        turn = Turn(admitted, wanted, parked)
        await self._same(turn, admitted)
        turn, standing = await self._settled(turn, exchange)
        while standing is Standing.READY:
            if await self._start(turn, line, exchange):
                return
            # Another request was faster, or it may not run any more.
            turn, standing = await self._settled(turn, exchange)
        await self._tell(turn, standing, line, exchange)

    async def _settled(self, turn: Turn, exchange: HeldExchange) -> tuple[Turn, Standing]:
        parked, standing = await self._waits.settled(turn.admitted.call, turn.parked, exchange)
        return msgspec.structs.replace(turn, parked=parked), standing

    async def _tell(self, turn: Turn, standing: Standing, line: Line, exchange: HeldExchange) -> None:
        """Say how it stands, to a caller who still may know."""
        again = await line.again(turn.admitted.call)
        if isinstance(again, Refused):
            await self._gone(turn, again, line, exchange)
        elif standing is Standing.ANSWERED:
            await self._teller.kept(again, turn.parked, await self._runs.answer(turn.parked), exchange)
        elif standing in UNDECIDED:
            self._waits.note_told(turn.admitted.call, turn.parked)
            await self._teller.pending(again, turn.parked, turn.wanted.base, exchange)
        else:
            await self._teller.over(again, turn.parked, standing, exchange)

    # The one run.

    async def _start(self, turn: Turn, line: Line, exchange: HeldExchange) -> bool:
        """Run it, or refuse it, and answer; False if it was not to start now."""
        captured = self._runs.capture(exchange)
        made = await self._run(turn, line, captured)
        if made is None:
            return False
        if isinstance(made, Refused):
            await self._gone(turn, made, line, exchange)
        elif made.kept is not None:
            await self._teller.deliver(turn.admitted.call, made.kept, exchange)
        elif captured.broken or not captured.long:
            await exchange.abort()
        return True

    async def _run(self, turn: Turn, line: Line, captured: Captured) -> _Ran | Refused | None:
        """Decide the call again, let it start, decide it once more, and run it; None if it was not to start now."""
        call, parked = turn.admitted.call, turn.parked
        again = await line.again(call)
        if isinstance(again, Refused):
            return again
        if not await self._same(turn, again):
            return None
        operation = Operation(parked.call.id, parked.call.tenant, parked.call.digest, parked.call.deadline)
        label = f"approval {parked.call.id} by {', '.join(vote.approver for vote in parked.votes)}"
        try:
            started = await self._operations.begin(again, operation, turn.wanted.message, label)
        except GateError as error:
            if error.code in (ErrorCode.OPERATION_TOKEN_USED, ErrorCode.OPERATION_OUTCOME_UNKNOWN):
                return None
            raise
        try:
            # The store may have taken its time, and people may have changed their minds.
            again = await line.again(call)
            if isinstance(again, Refused):
                return again
            if not await self._same(turn, again):
                return None
            admitted = msgspec.structs.replace(again, operation=started.operation, base=turn.wanted.base)

            async def go() -> None:
                try:
                    await line.run(admitted, captured)
                finally:
                    await settle(started)

            return _Ran(await self._runs.run(parked, captured, go))
        finally:
            await settle(started)

    async def _gone(self, turn: Turn, refused: Refused, line: Line, exchange: HeldExchange) -> None:
        if refused.error.code in _SESSION_OVER and await self._runs.standing(turn.parked) in (
            Standing.WAITING,
            Standing.READY,
        ):
            with suppress(GateError):
                await self._parking.cancel(turn.parked, "its session is over")
        await line.refuse(refused, exchange)

    # A task of ours.

    async def _task(self, admitted: Admitted, line: Line, exchange: HeldExchange) -> None:
        call, session = admitted.call, admitted.session
        brought = call.approval
        asks = call.message.method in ("tasks/get", "tasks/cancel")
        if not isinstance(brought, ApprovalTask) or session is None or not asks:
            raise GateError(ErrorCode.METHOD_NOT_PERMITTED, "a task that waits is only asked about, or cancelled")
        require_tasks(call)
        if call.message.method == "tasks/cancel":
            parked, standing = await self._waits.now(await self._own_task(brought.approval, session.id))
            if standing in (Standing.WAITING, Standing.READY):
                await self._parking.cancel(parked, "the agent cancelled it")
            await self._teller.cancelled(call, exchange)
            return
        stood = await self._ask(call, brought.approval, session.id, line)
        if isinstance(stood, Refused):
            await line.refuse(stood, exchange)
        elif stood.kept is not None and stood.standing is Standing.READY:
            # Nothing was sent, so the task did not fail: this question did.
            await self._teller.deliver(call, stood.kept, exchange)
        else:
            await self._teller.answer(
                call, await self._teller.task(admitted, call.message.params["taskId"], *stood), exchange
            )

    async def _ask(self, call: Call, approval: str, session: str, line: Line) -> Refused | Stood:
        """How a task stands; within this request it runs, if it may run now."""
        parked, standing = await self._waits.now(await self._own_task(approval, session))
        kept: Kept | None = None
        if standing is Standing.READY:
            made = await self._run_inner(call, parked, line)
            if isinstance(made, Refused):
                return made
            kept = None if made is None else made.kept
            parked, standing = await self._waits.now(parked)
            if kept is not None and standing is not Standing.READY:
                # What could not be kept is told to who ran it, if to nobody else.
                standing = Standing.ANSWERED
        elif standing is Standing.ANSWERED:
            kept = await self._runs.answer(parked)
        return Stood(parked, standing, kept)

    async def _run_inner(self, call: Call, parked: Parked, line: Line) -> _Ran | Refused | None:
        decided = await line.again(await self._inner(call, parked))
        if isinstance(decided, Refused):
            return decided
        turn = Turn(decided, self._wanted(decided, await self._responses(parked)), parked)
        if turn.wanted.digested.digest != parked.call.digest:
            raise GateError(ErrorCode.INTERNAL, "a parked call is not what was digested")
        return await self._run(turn, line, self._runs.capture())

    async def _inner(self, call: Call, parked: Parked) -> Call:
        """The parked call, as this request would make it."""
        form = await self._form(parked)
        name = parked.call.tool.removeprefix(f"{parked.call.server}.").removeprefix("tool:")
        params = {**cast("dict[str, Any]", form["params"]), NAMED_METHODS[form["method"]]: name}
        if "_meta" in call.message.params:
            params["_meta"] = {
                key: value for key, value in call.message.params["_meta"].items() if key != "progressToken"
            }
        message = self._teller.alone(Message(Kind.REQUEST, call.message.id, form["method"], params))
        return self._teller.as_call(call, message, parked.call.tool)

    # What is asked for.

    def _rule(self, call: Call) -> Rule | None:
        rules = self._rules.get(call.principal.tenant)
        if not rules or call.message.method not in _RULED:
            return None
        tenant, message = call.principal.tenant, call.message
        found = self._policy.of(tenant).classify(call.targets[0])
        entry = None if found is None else rules.get(found.entry)
        if entry is None:
            return None
        # A member of that name in another method is none of what runs, and the caller's to choose.
        arguments: object = message.params.get("arguments", {}) if message.method in WITH_ARGUMENTS else {}
        return rule_for(entry, tenant, call.principal.agent.role, arguments)

    def _wanted(self, admitted: Admitted, responses: object) -> Wanted:
        call = admitted.call
        message = forwarded(call.message, call.version, self._asks(call.head.server))
        if responses is not None:
            params = {**message.params, "inputResponses": responses}
            message = msgspec.structs.replace(message, params=params)
        message = canonical_message(message)
        target, params = call.targets[0], message.params
        digested = digest_call(message.method, target, params)
        base = digested.digest
        if "inputResponses" in params:
            rest = {name: value for name, value in params.items() if name != "inputResponses"}
            base = digest_call(message.method, target, rest).digest
        if "requestState" in params and call.base != base:
            raise GateError(ErrorCode.REQUEST_STATE_UNKNOWN, "the server's requestState is of a call nobody approved")
        return Wanted(message, digested, base)

    async def _own(self, approval: str, session: str, unknown: ErrorCode) -> Parked:
        """The parked call of a handle that this principal brought, in the session that it belongs to."""
        parked = await self._parking.current(approval)
        if parked is None or parked.call.session != session:
            raise GateError(unknown, "a parked call of another session, or long gone")
        return parked

    async def _own_task(self, approval: str, session: str) -> Parked:
        return await self._own(approval, session, ErrorCode.MCP_TASK_UNKNOWN)

    async def _responses(self, parked: Parked) -> object:
        return (await self._form(parked))["params"].get("inputResponses")

    async def _form(self, parked: Parked) -> dict[str, Any]:
        return cast("dict[str, Any]", msgspec.json.decode(await self._parking.params(parked)))

    async def _same(self, turn: Turn, admitted: Admitted) -> bool:
        """Whether what was parked still waits or is granted, and is what is called now; if not, it is cancelled."""
        parked = await self._parking.current(turn.parked.call.id)
        if parked is None or parked.state not in (State.PENDING, State.GRANTED):
            return False
        if not await self._parking.stands(parked):
            # It was started meanwhile, and is given up: who approved it may not any more.
            return False
        rule = self._rule(turn.admitted.call)
        if parked.call.pin != admitted.pin:
            why = "the tool is not what it was when the call was parked"
        elif rule is not None and rule != parked.call.rule:
            why = "who must approve it was changed"
        else:
            return True
        # What runs already, or did, cannot be cancelled.
        if await self._runs.standing(parked) in (Standing.WAITING, Standing.READY):
            await self._parking.cancel(parked, why)
        return False


class _Ran(msgspec.Struct, frozen=True):
    kept: Kept | None


_RULED: Final = frozenset({"tools/call", "prompts/get", "resources/read", _TELLS_TASK})


def _refused(admitted: Admitted, error: GateError) -> Refused:
    return Refused(admitted.call, admitted.session, admitted.target, error, observing=admitted.observing)


def no_approvals(admitted: Admitted) -> Refused:
    """The refusal of what comes back for an approval where nothing needs one any more."""
    state = isinstance(admitted.call.approval, ApprovalState)
    code = ErrorCode.REQUEST_STATE_UNKNOWN if state else ErrorCode.MCP_TASK_UNKNOWN
    return _refused(admitted, GateError(code, "nothing here needs an approval"))
