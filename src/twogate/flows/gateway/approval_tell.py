"""What the caller of a call that waits is told, and that it is written down first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, cast

import msgspec

from twogate.core import strict_json
from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import Message, encode_error
from twogate.core.protocol import MethodKind
from twogate.flows.approvals.parked import Parked, Parking
from twogate.flows.audit import AuditSink
from twogate.flows.gateway import approval_forms as forms
from twogate.flows.gateway.admit import Admitted, Refused
from twogate.flows.gateway.approval_exchange import HeldExchange
from twogate.flows.gateway.approval_forms import Form, TaskState, form_of
from twogate.flows.gateway.exchange import Refusal
from twogate.flows.gateway.parked_run import Kept, Standing
from twogate.flows.gateway.read import Call
from twogate.flows.gateway.record import Recorder
from twogate.flows.gateway.seal import ApprovalState, ApprovalTask, Seal, Sealed

APPROVALS_PATH: Final = "/approvals/"
"""Before an approval's id: the page on which people decide it."""

Words = Callable[[int], dict[str, Any] | None]
"""What to send for the n-th time while a client waits: a notification, or None for a comment."""

_TOOL: Final = "tools/call"
_NO_TASKS: Final[Mapping[str, str]] = MappingProxyType({})
_OK: Final = 200
_OVER: Final[Mapping[Standing, ErrorCode]] = MappingProxyType(
    {
        Standing.DENIED: ErrorCode.APPROVAL_DENIED,
        Standing.EXPIRED: ErrorCode.APPROVAL_EXPIRED,
        Standing.CANCELLED: ErrorCode.APPROVAL_CANCELLED,
        Standing.LOST: ErrorCode.APPROVAL_DECIDED,
        Standing.UNKNOWN: ErrorCode.OPERATION_OUTCOME_UNKNOWN,
    }
)
# Results that are no end, and cannot be a task's.
_NO_END: Final = frozenset({"input_required", "task"})


class Teller:
    """Tells callers. `public_url` is where people find the pages."""

    def __init__(self, public_url: str, seal: Seal, recorder: Recorder, parking: Parking, audit: AuditSink) -> None:
        self._public_url = public_url
        self._seal = seal
        self._recorder = recorder
        self._parking = parking
        self._audit = audit

    def holds(self, call: Call, *, told: bool) -> bool:
        """Whether the answer to a call that waits is held: its client knows already, or cannot be told otherwise."""
        match form_of(call):
            case Form.TASK:
                return False
            case Form.INPUT:
                return call.approval is not None
            case Form.ERROR:
                return told
            case Form.HELD:
                return True

    def waits(self, call: Call) -> bool:
        """Whether the answer to a call whose run is under way is held; a task's client asks again."""
        return form_of(call) is not Form.TASK

    def words(self, call: Call) -> Words | None:
        """What to tell a client whose answer is held for long; None if it knows where to go."""
        if form_of(call) is not Form.HELD:
            return None
        meta: Any = call.message.params.get("_meta")
        token: object = cast("dict[str, Any]", meta).get("progressToken") if isinstance(meta, dict) else None
        if not isinstance(token, str | int) or isinstance(token, bool):
            return lambda _: None

        def progress(count: int) -> dict[str, Any]:
            params = {"progressToken": token, "progress": count, "message": "waiting for a person to approve this call"}
            return {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}

        return progress

    async def pending(self, admitted: Admitted, parked: Parked, base: str, exchange: HeldExchange) -> None:
        """Say that people must approve it, and where.

        Raises:
            GateError: AUDIT_UNAVAILABLE.
        """
        call, approval, url = admitted.call, parked.call.id, self._url(parked)
        code = ErrorCode.APPROVAL_PENDING
        match form_of(call):
            case Form.TASK:
                task_id = self._sealed(call, ApprovalTask(approval, parked.call.tool))
                words = forms.words_for(code, url)
                made = forms.task(parked.call, task_id, TaskState.WORKING, words, parked.call.created_at, created=True)
                made["_meta"] = {forms.AUTHORIZATION: forms.envelope(code, approval, url)}
                await self._result(call, made, exchange)
            case Form.INPUT:
                own: Any = call.message.params.get("requestState")
                state = ApprovalState(
                    approval,
                    call.message.method,
                    parked.call.tool,
                    parked.call.digest,
                    own if isinstance(own, str) else None,
                    base if isinstance(own, str) else "",
                )
                await self._result(call, forms.input_required(approval, url, self._sealed(call, state)), exchange)
            case Form.ERROR:
                await self._recorder.refused(_refused(admitted, code, f"approval {approval}"))
                error = forms.elicitation_error(approval, url)
                body = strict_json.encode({"jsonrpc": "2.0", "id": call.message.id, "error": error})
                await exchange.answer(_OK, body)
            case Form.HELD:
                await self._refuse(admitted, parked, code, exchange)

    async def over(self, admitted: Admitted, parked: Parked, standing: Standing, exchange: HeldExchange) -> None:
        """Say that it will not run, or not again, and why.

        Raises:
            GateError: AUDIT_UNAVAILABLE.
        """
        await self._refuse(admitted, parked, _OVER[standing], exchange)

    async def kept(self, admitted: Admitted, parked: Parked, kept: Kept | None, exchange: HeldExchange) -> None:
        """Give the answer of the one run again.

        Raises:
            GateError: AUDIT_UNAVAILABLE.
        """
        if kept is None:
            await self.over(admitted, parked, Standing.LOST, exchange)
            return
        await self._audit.append(self._parking.event(EventKind.APPROVAL_ANSWERED, parked.call, "its kept answer"))
        await self.deliver(admitted.call, kept, exchange)

    async def deliver(self, call: Call, kept: Kept, exchange: HeldExchange) -> None:
        """Give an answer."""
        if kept.refused is None:
            await exchange.answer(kept.status, kept.body(call.message.id))
        else:
            await exchange.refuse(Refusal(GateError(kept.refused, data=kept.data), call.message.id))

    async def task(
        self, admitted: Admitted, task_id: str, parked: Parked, standing: Standing, kept: Kept | None
    ) -> dict[str, Any]:
        """How a task of ours stands: what `tasks/get` answers.

        Raises:
            GateError: AUDIT_UNAVAILABLE.
        """
        url, approval = self._url(parked), parked.call.id
        updated = parked.decided_at or parked.call.created_at
        failed: dict[str, object] | None = None
        result: object = None
        state, words = TaskState.WORKING, forms.words_for(ErrorCode.APPROVAL_PENDING, url)
        if standing in (Standing.RUNNING, Standing.READY):
            words = "it was approved, and runs"
        elif standing is Standing.ANSWERED and kept is not None:
            result, failed = _outcome(kept)
            state = TaskState.COMPLETED if failed is None else TaskState.FAILED
            words = "it was approved, and ran"
        elif standing is not Standing.WAITING:
            code = _OVER.get(standing, ErrorCode.APPROVAL_DECIDED)
            await self._recorder.refused(_refused(admitted, code, f"approval {approval}"))
            state = TaskState.CANCELLED if standing is Standing.CANCELLED else TaskState.FAILED
            words = forms.words_for(code, url)
            if state is TaskState.FAILED:
                failed = forms.error_object(code, forms.refused_data(code, approval, url))
        told = forms.task(parked.call, task_id, state, words, updated)
        if failed is not None:
            told["error"] = failed
        elif state is TaskState.COMPLETED:
            told["result"] = result
        code = _OVER.get(standing, ErrorCode.APPROVAL_PENDING)
        if standing is not Standing.ANSWERED:
            told["_meta"] = {forms.AUTHORIZATION: forms.envelope(code, approval, url)}
        return told

    async def answer(self, call: Call, result: Mapping[str, Any], exchange: HeldExchange) -> None:
        """Answer with a result of Twogate's own."""
        await self._result(call, result, exchange)

    async def note(self, refused: Refused) -> None:
        """Write down what was refused within a stream, where nobody is answered.

        Raises:
            GateError: AUDIT_UNAVAILABLE.
        """
        await self._recorder.refused(refused)

    async def cancelled(self, call: Call, exchange: HeldExchange) -> None:
        """Acknowledge that a task was asked to be cancelled; what runs already is not stopped."""
        await self._result(call, {"resultType": "complete"}, exchange)

    def alone(self, message: Message) -> Message:
        """A message that runs within a task: its server is not told that the client takes tasks."""
        return msgspec.structs.replace(message, params=forms.without_tasks(message.params))

    def as_call(self, call: Call, message: Message, target: str) -> Call:
        """The call that a task stands for, made by the request that asks about the task, or listens to it."""
        return msgspec.structs.replace(
            call, message=message, kind=MethodKind.TARGET, targets=(target,), tasks=_NO_TASKS, approval=None, base=""
        )

    async def _refuse(self, admitted: Admitted, parked: Parked, code: ErrorCode, exchange: HeldExchange) -> None:
        call, approval, url = admitted.call, parked.call.id, self._url(parked)
        await self._recorder.refused(_refused(admitted, code, f"approval {approval}"))
        if call.message.method == _TOOL:
            await self._result(call, forms.refused_tool(code, approval, url, modern=call.modern), exchange)
            return
        data = forms.refused_data(code, approval, url)
        await exchange.refuse(Refusal(GateError(code, data=data), call.message.id))

    async def _result(self, call: Call, result: Mapping[str, Any], exchange: HeldExchange) -> None:
        body = strict_json.encode({"jsonrpc": "2.0", "id": call.message.id, "result": result})
        await exchange.answer(_OK, body)

    def _sealed(self, call: Call, handle: Sealed) -> str:
        return self._seal.seal(handle, call.principal.key, call.head.server)

    def _url(self, parked: Parked) -> str:
        return self._public_url + APPROVALS_PATH + parked.call.id


def _refused(admitted: Admitted, code: ErrorCode, why: str) -> Refused:
    return Refused(admitted.call, admitted.session, admitted.target, GateError(code, why), observing=admitted.observing)


def _outcome(kept: Kept) -> tuple[object, dict[str, object] | None]:
    """The result of a finished task, or its error."""
    if kept.refused is not None:
        made: dict[str, Any] = msgspec.json.decode(encode_error(None, kept.refused, kept.data))
        return None, made["error"]
    result: Any = msgspec.json.decode(kept.payload)
    if kept.failed:
        return None, result
    members: dict[str, Any] = cast("dict[str, Any]", result) if isinstance(result, dict) else {}
    if members.get("resultType") in _NO_END:
        return None, forms.error_object(ErrorCode.UPSTREAM_INVALID, {})
    return cast("object", result), None
