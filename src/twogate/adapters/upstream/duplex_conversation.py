"""Whose message is whose, where many callers share one line to a server. No I/O: bytes go out through `offer`.

Invariants:
1. A request id on the line is an integer of ours, never used twice; only its answer reaches the caller, with the
   caller's own id. The same integer stands for the caller's progress token and for its subscription.
2. A request of the server's reaches a client only if the client's capabilities allow it and somebody listens: the
   latest call, else the stream. The id that the client sees is ours, and never the same for two questions, so that a
   late answer cannot become the answer to another one.
3. Every question is answered once: by the client, or refused here as soon as nobody is left who could answer.
4. What belongs to nobody (late answers, progress without our token) is dropped and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import msgspec

from twogate.adapters.upstream.duplex_channel import DuplexLimits
from twogate.adapters.upstream.duplex_mailbox import Mailbox
from twogate.core.errors import METHOD_NOT_FOUND, UNAVAILABLE, ErrorCode, GateError
from twogate.core.message import Kind, Message, encode_message
from twogate.flows.gateway.meta import ASKS

LISTEN: Final = "subscriptions/listen"
_CANCELLED: Final = "notifications/cancelled"
_PROGRESS: Final = "notifications/progress"
_LOG: Final = "notifications/message"
_SUBSCRIPTION: Final = "io.modelcontextprotocol/subscriptionId"
# What belongs to no call, and so to the stream of the client.
_UNSOLICITED: Final = frozenset(
    {
        _LOG,
        "notifications/tools/list_changed",
        "notifications/prompts/list_changed",
        "notifications/resources/list_changed",
        "notifications/resources/updated",
        "notifications/tasks/status",
        "notifications/elicitation/complete",
    }
)


class OpenCall:
    """One open request of a client. `carries` says whether the server's questions and logs may travel with it."""

    def __init__(self, number: int, message: Message, max_bytes: int, *, carries: bool) -> None:
        self.number = number
        self.identifier = message.id
        self.token = progress_token(message)
        self.listens = message.method == LISTEN
        self.carries = carries and not self.listens
        self.mailbox = Mailbox(max_bytes)
        self.answered: Message | None = None


class _Question(msgspec.Struct):
    """An open request of the server's: its own id, its progress token, and where the client was asked."""

    identifier: str | int
    token: str | float | None
    carrier: Mailbox


class Conversation:
    """The open calls, questions and the stream of one link.

    `capabilities` are the client's; None if the server was told of no client, so that there is nobody to ask. `serial`
    tells this link's questions from those of every other one.
    """

    def __init__(
        self,
        *,
        modern: bool,
        capabilities: Mapping[str, Any] | None,
        serial: str,
        limits: DuplexLimits,
        offer: Callable[[bytes], None],
    ) -> None:
        self.stream: Mailbox | None = None
        self.dropped = 0
        self._modern = modern
        self._capabilities = capabilities
        self._serial = serial
        self._limits = limits
        self._offer = offer
        self._calls: dict[int, OpenCall] = {}
        self._last_call = 0
        self._questions: dict[str, _Question] = {}  # by the name that the client knows
        self._names: dict[str | int, str] = {}  # the same, by the server's own id
        self._last_question = 0

    # Calls.

    def begin(self, message: Message, *, ours: bool = False) -> tuple[OpenCall, bytes]:
        """Open a call for a client's request (or one of `ours`), and what is to be sent for it.

        Raises:
            GateError: INVALID_PARAMS for a progress token that is none.
        """
        self._last_call += 1
        number = self._last_call
        call = self._calls[number] = OpenCall(number, message, self._limits.queued_bytes, carries=not ours)
        params = message.params
        if call.token is not None:
            params = {**params, "_meta": {**params["_meta"], "progressToken": number}}
        return call, encode_message(Message(Kind.REQUEST, number, message.method, params, canonical=message.canonical))

    def abandon(self, call: OpenCall) -> bool:
        """The caller has gone. If the call is still open, which is returned, the server is told so."""
        unread = call.mailbox.close()
        still_open = self._calls.pop(call.number, None) is not None
        if still_open:
            self._offer(_cancelled(call.number))
            self._refuse_all(call.mailbox)
        for question in unread:
            self._refuse(question)
        return still_open

    # The stream.

    def attach(self, stream: Mailbox) -> None:
        """From here on this stream gets what belongs to no call."""
        self.stream = stream

    def detach(self, stream: Mailbox) -> None:
        """The stream's reader has gone."""
        stream.close()
        if self.stream is stream:
            self.dropped += stream.dropped
            self.stream = None
            self._refuse_all(stream)

    # What clients send besides requests.

    def answer(self, message: Message) -> bytes | None:
        """What to send for a client's response to a question; None if no such question is open."""
        question = self._close(message.id) if isinstance(message.id, str) else None
        if question is None:
            return None
        return encode_message(msgspec.structs.replace(message, id=question.identifier))

    def notify(self, message: Message) -> None:
        """Pass a client's notification on, unless it concerns nothing that is open, or what the link does itself."""
        match message.method:
            case "notifications/initialized":
                return
            case "notifications/cancelled":
                self._cancel(message.params.get("requestId"))
                return
            case "notifications/progress":
                token: object = message.params.get("progressToken")
                if not any(_same(token, question.token) for question in self._questions.values()):
                    return
            case _:
                pass
        self._offer(encode_message(message))

    def _cancel(self, wanted: object) -> None:
        found = [number for number, call in self._calls.items() if _same(call.identifier, wanted)]
        # Two clients of one principal may use one id. Which of them cancels cannot be seen here, so neither call ends.
        if len(found) == 1:
            self._offer(_cancelled(found[0]))

    # What the server sends.

    def take(self, message: Message) -> None:
        """Bring one message of the server's to whom it belongs."""
        match message.kind:
            case Kind.REQUEST:
                self._asked(message)
            case Kind.RESPONSE:
                self._answered(message)
            case Kind.NOTIFICATION:
                if not self._told(message):
                    self.dropped += 1

    def fail(self, code: ErrorCode, why: str) -> None:
        """The link has failed: every call does, and the stream ends."""
        for call in self._calls.values():
            call.mailbox.fail(code, why)
        self._calls.clear()
        self._questions.clear()
        self._names.clear()
        if self.stream is not None:
            self.dropped += self.stream.dropped
            self.stream.end()

    def _asked(self, message: Message) -> None:
        identifier = message.id
        if not isinstance(identifier, str | int):
            return
        if not self._modern and message.method == "ping":
            self._offer(encode_message(Message(Kind.RESPONSE, identifier, "", {}, {})))
            return
        if identifier in self._names:
            # Refusing it would answer the first.
            self.dropped += 1
            return
        carrier = self._carrier() or self.stream
        if carrier is None or not self._may_ask(message.method):
            self._offer(_refusal(identifier, METHOD_NOT_FOUND, "Method not found"))
            return
        self._last_question += 1
        name = f"{self._serial}.{self._last_question:x}"
        shown = encode_message(msgspec.structs.replace(message, id=name))
        if len(self._questions) >= self._limits.questions or not carrier.put(shown, name):
            self._offer(_refusal(identifier, UNAVAILABLE, "Too much is waiting for the client"))
            return
        self._questions[name] = _Question(identifier, _token(message.params), carrier)
        self._names[identifier] = name
        carrier.waiting += 1

    def _may_ask(self, method: str) -> bool:
        # The stateless era has no requests of servers (MCP 2026-07-28).
        if self._modern or self._capabilities is None:
            return False
        return method not in ASKS or ASKS[method] in self._capabilities

    def _carrier(self) -> Mailbox | None:
        """Where the latest call's caller reads."""
        return next((call.mailbox for call in reversed(self._calls.values()) if call.carries), None)

    def _answered(self, message: Message) -> None:
        call = self._calls.pop(message.id, None) if isinstance(message.id, int) else None
        if call is None:
            self.dropped += 1
            return
        if not call.carries:
            call.answered = message
        if call.listens and not message.is_error:
            message = msgspec.structs.replace(message, payload=_subscribed(message.payload, call.identifier))
        call.mailbox.end(encode_message(msgspec.structs.replace(message, id=call.identifier)))
        if self._questions:
            self._hand_over(call.mailbox)

    def _hand_over(self, ended: Mailbox) -> None:
        # The client has been asked already. Which call the server asked for is not known, so its question stays open
        # while anybody is there to answer it.
        carrier = self._carrier() or self.stream
        if carrier is None:
            self._refuse_all(ended)
            return
        for question in self._questions.values():
            if question.carrier is ended:
                question.carrier = carrier
                carrier.waiting += 1

    def _told(self, message: Message) -> bool:
        if message.method == _PROGRESS:
            return self._progressed(message)
        if message.method == _CANCELLED:
            return self._withdrawn(message.params.get("requestId"), message)
        call = self._subscription(message)
        if call is not None:
            params = _subscribed(message.params, call.identifier)
            return call.mailbox.put(encode_message(msgspec.structs.replace(message, params=params)))
        if message.method not in _UNSOLICITED:
            return False
        reader = self.stream
        if reader is None and message.method == _LOG:
            reader = self._carrier()
        return reader is not None and reader.put(encode_message(message))

    def _progressed(self, message: Message) -> bool:
        token: object = message.params.get("progressToken")
        # `type`, because True and 1.0 find the key 1 too.
        call = self._calls.get(token) if type(token) is int else None
        if call is None or call.token is None:
            return False
        # Beyond the bound: the caller does not read, and the other calls must not wait for it.
        params = {**message.params, "progressToken": call.token}
        return call.mailbox.put(encode_message(msgspec.structs.replace(message, params=params)))

    def _subscription(self, message: Message) -> OpenCall | None:
        meta: object = message.params.get("_meta")
        if not self._modern or not isinstance(meta, dict):
            return None
        return self._listening(cast("dict[str, Any]", meta).get(_SUBSCRIPTION))

    def _listening(self, identifier: object) -> OpenCall | None:
        # Some peers keep every id as text.
        if isinstance(identifier, str) and identifier.isdecimal() and len(identifier) < 16:  # noqa: PLR2004
            identifier = int(identifier)
        call = self._calls.get(identifier) if type(identifier) is int else None
        return call if call is not None and call.listens else None

    def _withdrawn(self, identifier: object, message: Message) -> bool:
        """The server cancels: a question of its own, or in the stateless era a subscription (MCP, "Cancellation")."""
        if (call := self._listening(identifier)) is not None:
            del self._calls[call.number]
            call.mailbox.end()
            return True
        if not isinstance(identifier, str | int) or isinstance(identifier, bool):
            return False
        name = self._names.get(identifier, "")
        question = self._close(name)
        if question is None:
            return False
        params = {**message.params, "requestId": name}
        return question.carrier.put(encode_message(msgspec.structs.replace(message, params=params)))

    # Questions that end.

    def _close(self, name: str) -> _Question | None:
        question = self._questions.pop(name, None)
        if question is not None:
            del self._names[question.identifier]
            question.carrier.waiting -= 1
            question.carrier.touch()
        return question

    def _refuse_all(self, carrier: Mailbox) -> None:
        for name in [name for name, question in self._questions.items() if question.carrier is carrier]:
            self._refuse(name)

    def _refuse(self, name: str) -> None:
        question = self._close(name)
        if question is not None:
            self._offer(_refusal(question.identifier, UNAVAILABLE, "The client has gone"))


def progress_token(message: Message) -> str | float | None:
    """The progress token of a client's request.

    Raises:
        GateError: INVALID_PARAMS if it is neither string nor number.
    """
    meta: Any = message.params.get("_meta")
    token: Any = cast("dict[str, Any]", meta).get("progressToken") if isinstance(meta, dict) else None
    if token is not None and (isinstance(token, bool) or not isinstance(token, str | int | float)):
        raise GateError(ErrorCode.INVALID_PARAMS, "the progress token is neither string nor number")
    return token


def _token(params: Mapping[str, Any]) -> str | float | None:
    meta: Any = params.get("_meta")
    token: Any = cast("dict[str, Any]", meta).get("progressToken") if isinstance(meta, dict) else None
    return token if isinstance(token, str | int | float) and not isinstance(token, bool) else None


def _same(one: object, other: object) -> bool:
    # 1, 1.0 and True are equal, but not the same id.
    return one is not None and type(one) is type(other) and one == other


def _subscribed(params: Mapping[str, Any], identifier: str | int | None) -> dict[str, Any]:
    """The same with the caller's own id for the subscription."""
    meta: Any = params.get("_meta")
    if not isinstance(meta, dict) or _SUBSCRIPTION not in meta:
        return dict(params)
    return {**params, "_meta": {**cast("dict[str, Any]", meta), _SUBSCRIPTION: identifier}}


def _cancelled(identifier: int) -> bytes:
    return encode_message(Message(Kind.NOTIFICATION, None, _CANCELLED, {"requestId": identifier}))


def _refusal(identifier: str | int, code: int, text: str) -> bytes:
    return encode_message(Message(Kind.RESPONSE, identifier, "", {}, {"code": code, "message": text}, is_error=True))
