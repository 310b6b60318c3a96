"""Gate two's token: a call that needs one runs once, as exactly what was signed for (DESIGN decisions 7 and 9).

In this order, and the first failure is the reason:

1. the call brings one token, in `_meta` or the header; without one it is refused, if it needs one
2. our own key signed it as an operation token, and neither it nor its minter was revoked
3. it is bound to this resource, tenant, agent, user, session and target, and to the digest of this call; what the call
   goes on with (a request state) was given to a call with a token, too, that said the same
4. it is in time; of one that is not, what became of it is told
5. nobody used it: one compare-and-set in the store lets one call start, of however many

From step 5 on the call may have run unless nothing was sent, and the token says so to whoever tries it again. A call
that needs no token and brings one is judged alike: an agent must not rely on what nobody checked.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, Final, cast

import msgspec

from twogate.core.audit.record import Outcome
from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.keys import Algorithm, VerificationKey
from twogate.core.message import Kind, Message, encode_message
from twogate.core.operation import (
    HEADER,
    LEEWAY,
    MAX_LIFETIME,
    META,
    Bound,
    OperationToken,
    State,
    base_digest,
    canonical_message,
    digest_call,
    presented_token,
    read_operation_token,
)
from twogate.flows.environment import Clock, Rng
from twogate.flows.gateway.admit import Admitted, Refused
from twogate.flows.gateway.meta import forwarded
from twogate.flows.gateway.read import Call
from twogate.flows.operations.started import StartedOperation
from twogate.flows.operations.store import Operation, OperationStore
from twogate.flows.registry import Registry

_EVENT_BYTES: Final = 12

_STANDING: Final[Mapping[State, ErrorCode]] = MappingProxyType(
    {
        State.STARTED: ErrorCode.OPERATION_TOKEN_USED,
        State.FINISHED: ErrorCode.OPERATION_TOKEN_USED,
        State.OUTCOME_UNKNOWN: ErrorCode.OPERATION_OUTCOME_UNKNOWN,
        # Deposited, and for another call.
        State.READY: ErrorCode.OPERATION_TOKEN_MISMATCH,
    }
)


class OwnKeys(msgspec.Struct, frozen=True):
    """How this server's operation tokens are told: who signs them, with which keys and algorithms."""

    issuer: str
    keys: Collection[VerificationKey]
    algorithms: frozenset[Algorithm]


def brings_token(call: Call) -> bool:
    """Whether a call brings a token, or something in its place."""
    if HEADER in call.head.headers:
        return True
    meta = call.message.params.get("_meta")
    return meta is not None and META in meta


async def start_operation(admitted: Admitted, operations: Operations | None) -> Admitted | Refused:
    """Start a call with the token that it brings; where there are no such tokens, none is good."""
    try:
        if operations is None:
            raise GateError(ErrorCode.OPERATION_TOKEN_REQUIRED, "no operation tokens here")
        return await operations.start(admitted)
    except GateError as error:
        return _refused(admitted, error)


def same_call(admitted: Admitted, asks: frozenset[str]) -> Admitted | Refused:
    """A call that needs no token, whose request state is of one that a token or an approval started: this very call.

    Else what nobody needs to sign for would go on with what somebody signed for.
    """
    call = admitted.call
    try:
        message = canonical_message(forwarded(call.message, call.version, asks))
        if base_digest(message.method, admitted.target, message.params) != call.base:
            raise GateError(ErrorCode.REQUEST_STATE_UNKNOWN, "a requestState of a call with other parameters")
    except GateError as error:
        return _refused(admitted, error)
    return msgspec.structs.replace(admitted, base=call.base)


def _refused(admitted: Admitted, error: GateError) -> Refused:
    return Refused(admitted.call, admitted.session, admitted.target, error, observing=admitted.observing)


async def settle(admitted: Admitted) -> None:
    """Take a start back whose call was not sent; nothing changes if it was."""
    if admitted.operation is not None:
        await admitted.operation.settle(Outcome.ABORTED)


def _as_given(params: Mapping[str, Any], call: Call) -> Mapping[str, Any]:
    """The parameters with a task's id as the caller, and who signs, know it."""
    task = params.get("taskId")
    sealed = call.tasks.get(task) if isinstance(task, str) else None
    return params if sealed is None else {**params, "taskId": sealed}


class Operations:
    """Lets calls with a token start. `resource` names a server's endpoint, `owner` this process in the store."""

    def __init__(
        self,
        own: OwnKeys,
        resource: Callable[[str], str],
        asks: Callable[[str], frozenset[str]],
        store: OperationStore,
        registry: Registry,
        clock: Clock,
        rng: Rng,
        owner: str,
    ) -> None:
        """`asks` says what a server may ask of clients, as `Forwarder.asks`."""
        self._own = own
        self._resource = resource
        self._asks = asks
        self._store = store
        self._registry = registry
        self._clock = clock
        self._rng = rng
        self._owner = owner

    async def start(self, admitted: Admitted) -> Admitted:
        """Start an admitted call with the token that it brings.

        Raises:
            GateError: OPERATION_TOKEN_REQUIRED, OPERATION_TOKEN_INVALID, OPERATION_TOKEN_MISMATCH,
                OPERATION_TOKEN_USED, OPERATION_OUTCOME_UNKNOWN; TOO_LARGE, BAD_NUMBER, NOT_UTF8; STORE_UNAVAILABLE.
        """
        call = admitted.call
        # 1.
        meta = cast("dict[str, object]", call.message.params.get("_meta", {}))
        token = presented_token(meta, call.head.headers.get(HEADER))
        if token is None:
            raise GateError(ErrorCode.OPERATION_TOKEN_REQUIRED)
        # 2.
        read = read_operation_token(token, self._own.keys, self._own.algorithms, self._own.issuer)
        await self._require_unrevoked(read)
        # 3.
        message = canonical_message(forwarded(call.message, call.version, self._asks(call.head.server)))
        params = _as_given(message.params, call)
        digest = digest_call(message.method, admitted.target, params).digest
        if (field := read.bound.differs(self._bound(admitted, digest))) is not None:
            raise GateError(ErrorCode.OPERATION_TOKEN_MISMATCH, f"operation {read.jti} is for another {field}")
        base = base_digest(message.method, admitted.target, params) if "inputResponses" in params else digest
        if "requestState" in params and call.base != base:
            # Its server would believe the state, and do what was said, and signed for, in another call.
            raise GateError(ErrorCode.OPERATION_TOKEN_MISMATCH, f"operation {read.jti} goes on with another call")
        # 4.
        await self._require_in_time(read)
        # 5.
        operation = Operation(read.jti, read.bound.tenant, digest, read.expires_at)
        begun = await self.begin(admitted, operation, message, f"operation {read.jti} by {read.minter}")
        return msgspec.structs.replace(begun, base=base)

    async def begin(self, admitted: Admitted, operation: Operation, message: Message, label: str) -> Admitted:
        """Step 5, for a token that was presented or deposited: let this call start, and no other one.

        `message` is the canonical call (`core.operation.canonical_message`), `label` names the token in the trail.

        Raises:
            GateError: OPERATION_TOKEN_USED, OPERATION_OUTCOME_UNKNOWN, OPERATION_TOKEN_MISMATCH; STORE_UNAVAILABLE.
        """
        if message.kind is not Kind.REQUEST:
            raise GateError(ErrorCode.OPERATION_TOKEN_MISMATCH, "a token is for a request")
        body = encode_message(message)
        event = self._rng.token(_EVENT_BYTES).hex()
        standing = await self._store.start(operation, event, self._owner, self._clock.now())
        if standing is not None:
            raise GateError(_STANDING[standing], f"{label} is {standing.value}")
        started = StartedOperation(self._store, self._clock, operation.jti, event, label, message, body)
        return msgspec.structs.replace(admitted, operation=started)

    def _bound(self, admitted: Admitted, digest: str) -> Bound:
        call, session = admitted.call, admitted.session
        key = call.principal.key
        return Bound(
            audience=self._resource(call.head.server),
            tenant=key.tenant,
            agent_issuer=key.issuer,
            agent=key.agent,
            user=key.user,
            # No token is for no session.
            session="" if session is None else session.id,
            tool=admitted.target,
            digest=digest,
        )

    async def _require_unrevoked(self, token: OperationToken) -> None:
        named = {("token", token.jti), ("client", token.minter)}
        user = token.bound.user
        if user is not None and user.issuer == self._own.issuer:
            named.add(("user", user.subject))
        if not named.isdisjoint((await self._registry.view()).revoked):
            raise GateError(ErrorCode.OPERATION_TOKEN_INVALID, f"operation {token.jti} was revoked, or its minter")

    async def _require_in_time(self, token: OperationToken) -> None:
        now = self._clock.now()
        if token.issued_at > now + LEEWAY or token.expires_at - token.issued_at > MAX_LIFETIME:
            raise GateError(ErrorCode.OPERATION_TOKEN_INVALID, f"operation {token.jti} has impossible times")
        if now < token.expires_at:
            return
        # Too late to start anything, but not to be told that something may have run.
        standing = await self._store.state(token.jti, now)
        if standing in (None, State.READY):
            raise GateError(ErrorCode.OPERATION_TOKEN_INVALID, f"operation {token.jti} has expired")
        raise GateError(_STANDING[standing], f"operation {token.jti} is {standing.value}")
