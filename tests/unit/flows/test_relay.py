"""An answer's way back: in which order what is written, sent and broken off (row R-70)."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from gatelab import (
    NOW,
    POLICY,
    PRINCIPAL,
    CountingRng,
    FakeAnswer,
    FakeClock,
    FakeExchange,
    FakeUpstream,
    RecordingAudit,
    accessors,
    identifier,
    response,
    sse,
)
from pinlab import a_book
from twogate.core.access import session_targets
from twogate.core.audit.record import EventKind, Outcome
from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import Kind, Message, encode_message
from twogate.core.protocol import method_kind
from twogate.core.session import Session
from twogate.flows.gateway import streams
from twogate.flows.gateway.admit import Admitted
from twogate.flows.gateway.bodies import MAX_ERROR
from twogate.flows.gateway.exchange import Head
from twogate.flows.gateway.forward import Forwarder, Server
from twogate.flows.gateway.read import SESSION_END, STREAM, Call
from twogate.flows.gateway.record import Recorder
from twogate.flows.gateway.relay import WHOLE
from twogate.flows.gateway.seal import McpSession, Seal, ServerRequest, StreamEvent, TaskId

RESULT = {"content": [{"type": "text", "text": "done"}]}
SESSION = Session("s1", PRINCIPAL.key, "report", session_targets(POLICY, "executor", "report"), NOW, NOW + 60)
SSE = "text/event-stream"
PROGRESS = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": 1}}


class Lab:
    """One recorded call on its way to an upstream that gives a prepared answer."""

    def __init__(self) -> None:
        self.journal: list[str] = []
        self.audit = RecordingAudit(self.journal)
        self.exchange = FakeExchange(journal=self.journal)
        self.seal = Seal(bytes(32))
        self.closing = asyncio.Event()
        self.renewals = 0
        self.may_stay: GateError | None = None
        self.changed: list[str] = []
        self.clock = FakeClock()
        self.upstream: FakeUpstream | None = None

    async def run(
        self,
        answer: FakeAnswer | GateError | asyncio.Event,
        method: str = "tools/call",
        *,
        request_id: int | str = 1,
        version: str = "2025-11-25",
        asks: frozenset[str] = frozenset(),
        resumed: StreamEvent | None = None,
    ) -> None:
        recorder = Recorder(self.audit, accessors(), self.clock, CountingRng())
        upstream = self.upstream = FakeUpstream(answer, self.journal)
        forwarder = Forwarder(
            {"files": Server(upstream, 30.0, asks)},
            recorder,
            self.seal,
            POLICY,
            self.changed.append,
            (self.closing,),
            identifier(self.clock),
            a_book(),
            frozenset(),
        )
        bodiless = method in (SESSION_END, STREAM)
        notification = bodiless or method.startswith("notifications/")
        params = {"name": "look"} if method == "tools/call" else {}
        kind = Kind.NOTIFICATION if notification else Kind.REQUEST
        message = Message(kind, None if notification else request_id, method, params)
        method_is = method_kind(version, "ping" if bodiless else method)
        assert method_is is not None
        head = Head(method if bodiless else "POST", "files", {}, b"", "192.0.2.1")
        mcp = McpSession("up-1", None, version) if bodiless or resumed else None
        targets = ("files.look",) if method == "tools/call" or resumed else ()
        call = Call(head, PRINCIPAL, message, version, method_is, mcp, targets, resumed=resumed)
        body = b"" if bodiless else encode_message(message)
        admitted = Admitted(call, SESSION, "files.look")
        recorded = await recorder.intent(admitted, message, body)

        async def renew() -> Admitted:
            self.renewals += 1
            if self.may_stay is not None:
                raise self.may_stay
            return admitted

        await forwarder.forward(recorded, self.exchange, renew)

    def outcome(self) -> tuple[str, int, str]:
        """The one outcome: how it ended, the status, the reason."""
        (event,) = [event for event in self.audit.events if event.kind is EventKind.CALL_OUTCOME]
        return event.outcome, event.status, event.reason


@pytest.fixture
def lab() -> Lab:
    return Lab()


def answered(*pieces: bytes, **changes: Any) -> FakeAnswer:
    return FakeAnswer(pieces, **changes)


# The order.


async def test_intent_then_upstream_then_outcome_then_answer(lab: Lab) -> None:
    answer = answered(response(RESULT))
    await lab.run(answer)
    assert lab.journal == ["call.intent", "upstream", "call.outcome", "head", "last piece"]
    assert lab.exchange.message() == {"jsonrpc": "2.0", "id": 1, "result": RESULT}
    assert (lab.exchange.status, lab.exchange.length) == (200, len(lab.exchange.answer))
    assert lab.outcome() == (Outcome.ANSWERED, 200, "")
    assert answer.closed == 1


async def test_a_stream_passes_as_it_comes_and_its_outcome_is_written_before_its_end(lab: Lab) -> None:
    answer = answered(sse(PROGRESS), sse(PROGRESS, response(RESULT)), content_type=SSE)
    await lab.run(answer)
    assert lab.journal == ["call.intent", "upstream", "head", "piece", "piece", "call.outcome", "last piece"]
    assert [event.get("method", "response") for event in lab.exchange.messages()] == [
        "notifications/progress", "notifications/progress", "response",
    ]  # fmt: skip
    assert lab.exchange.headers[b"content-type"] == b"text/event-stream"
    assert lab.outcome() == (Outcome.ANSWERED, 200, "")


async def test_the_outcome_tells_size_and_time_and_repeats_no_digest(lab: Lab) -> None:
    answer = answered(response(RESULT))
    await lab.run(answer)
    intent, outcome = lab.audit.events
    assert outcome.answer_bytes == len(lab.exchange.answer)
    assert (intent.request, intent.target, intent.session) == (outcome.request, outcome.target, outcome.session)
    assert intent.arguments.startswith("a1:")
    assert (outcome.arguments, outcome.decision) == ("", "")


# An audit trail that fails.


async def test_no_part_of_an_answer_leaves_whose_outcome_cannot_be_written(lab: Lab) -> None:
    lab.audit.refuses = frozenset({EventKind.CALL_OUTCOME})
    answer = answered(response(RESULT))
    await lab.run(answer)
    assert lab.exchange.refused is ErrorCode.OUTCOME_UNRECORDED
    assert lab.exchange.refusals[0].request_id == 1
    assert lab.exchange.sent == []
    assert answer.closed == 1


async def test_a_stream_whose_outcome_cannot_be_written_is_broken_off(lab: Lab) -> None:
    lab.audit.refuses = frozenset({EventKind.CALL_OUTCOME})
    await lab.run(answered(sse(PROGRESS), sse(response(RESULT)), content_type=SSE))
    assert lab.exchange.broken_off
    assert not lab.exchange.complete
    assert b"done" not in lab.exchange.answer


async def test_a_failure_whose_outcome_cannot_be_written_does_not_claim_that_nothing_ran(lab: Lab) -> None:
    lab.audit.refuses = frozenset({EventKind.CALL_OUTCOME})
    await lab.run(GateError(ErrorCode.UPSTREAM_TIMEOUT))
    assert lab.exchange.refused is ErrorCode.OUTCOME_UNRECORDED
    assert "nothing was run" not in lab.exchange.refusals[0].error.face.text


# Failures of the upstream.


@pytest.mark.parametrize(
    "code", [ErrorCode.UPSTREAM_UNAVAILABLE, ErrorCode.UPSTREAM_TIMEOUT, ErrorCode.UPSTREAM_BROKEN]
)
async def test_an_upstream_that_gives_no_answer_is_recorded_before_the_caller_is_told(
    lab: Lab, code: ErrorCode
) -> None:
    await lab.run(GateError(code, "why"))
    assert lab.journal == ["call.intent", "upstream", "call.outcome", "refused"]
    assert lab.exchange.refused is code
    assert lab.outcome() == (Outcome.FAILED, 0, code)


async def test_an_answer_that_breaks_off_is_not_delivered(lab: Lab) -> None:
    answer = FakeAnswer([response(RESULT)[:10], GateError(ErrorCode.UPSTREAM_BROKEN)])
    await lab.run(answer)
    assert lab.exchange.refused is ErrorCode.UPSTREAM_BROKEN
    assert answer.closed == 1


@pytest.mark.parametrize(
    "pieces",
    [
        [GateError(ErrorCode.UPSTREAM_BROKEN)],
        [],
        [sse(response(RESULT))[:-1]],
    ],
    ids=["broken", "ended without a response", "ended inside the response"],
)
async def test_a_stream_that_fails_half_way_ends_with_an_error_for_this_call(
    lab: Lab, pieces: list[bytes | GateError]
) -> None:
    await lab.run(FakeAnswer([sse(PROGRESS), *pieces], content_type=SSE))
    assert lab.exchange.complete
    last = lab.exchange.messages()[-1]
    assert (last["id"], last["error"]["data"]["reason"]) == (1, "upstream_broken")
    assert lab.outcome() == (Outcome.FAILED, 0, ErrorCode.UPSTREAM_BROKEN)


INVALID: dict[str, FakeAnswer] = {
    "not json": answered(b"<html>"),
    "another id": answered(response(RESULT, 2)),
    "the id as text": answered(response(RESULT, "1")),
    "a request": answered(b'{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","params":{}}'),
    "a notification": answered(msgspec.json.encode(PROGRESS)),
    "a batch": answered(b"[%b]" % response(RESULT)),
    "html": answered(response(RESULT), content_type="text/html"),
    "no type": answered(response(RESULT), content_type=""),
    "202 to a request": answered(b"", status=202, content_type=""),
    "204": answered(b"", status=204, content_type=""),
    "redirect": answered(b"", status=307),
    "401": answered(b"{}", status=401),
    "500": answered(response(RESULT), status=500),
    "404 without an error": answered(response(RESULT), status=404),
    "404 of a web server": answered(b"<html>", status=404, content_type="text/html"),
    "400 too large": answered(b" " * (MAX_ERROR + 1), status=400),
    "stream with another id": answered(sse(response(RESULT, 2)), content_type=SSE),
    "stream that is not json": answered(sse(b"<html>"), content_type=SSE),
}


@pytest.mark.parametrize("name", INVALID)
async def test_what_does_not_answer_this_call_is_refused_and_not_passed_on(lab: Lab, name: str) -> None:
    await lab.run(INVALID[name])
    assert lab.exchange.refused is ErrorCode.UPSTREAM_INVALID
    assert lab.exchange.answer == b""
    assert lab.outcome() == (Outcome.FAILED, 0, ErrorCode.UPSTREAM_INVALID)


async def test_an_answer_that_is_too_large_is_refused(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twogate.flows.gateway.relay.MAX_ANSWER", 100)
    await lab.run(answered(*[b" " * 60, response({"tools": [{"name": "look", "title": "x" * 60}]})]), "tools/list")
    assert lab.exchange.refused is ErrorCode.UPSTREAM_INVALID


# What passes and what does not.


async def test_what_the_server_may_not_ask_is_refused_to_it_and_does_not_pass(lab: Lab) -> None:
    asks: list[Any] = [
        {"jsonrpc": "2.0", "id": 9, "method": method, "params": {}}
        for method in ("sampling/createMessage", "elicitation/create", "roots/list", "tools/call")
    ]
    steers = {"jsonrpc": "2.0", "method": "notifications/made_up", "params": {}}
    await lab.run(answered(sse(*asks, steers, PROGRESS, response(RESULT)), content_type=SSE))
    assert [event.get("method", "response") for event in lab.exchange.messages()] == [
        "notifications/progress", "response",
    ]  # fmt: skip
    assert lab.upstream is not None
    refusals = [msgspec.json.decode(request.body) for request in lab.upstream.seen[1:]]
    assert [(refusal["id"], refusal["error"]["code"]) for refusal in refusals] == [(9, -32601)] * 4
    asked = [event for event in lab.audit.events if event.kind is EventKind.SERVER_REQUEST]
    assert [(event.method, event.decision) for event in asked] == [(ask["method"], "deny") for ask in asks]


async def test_nothing_after_the_response_passes(lab: Lab) -> None:
    answer = answered(sse(response(RESULT), response({"second": 1}), PROGRESS), content_type=SSE)
    await lab.run(answer)
    assert lab.exchange.messages() == [{"jsonrpc": "2.0", "id": 1, "result": RESULT}]
    assert answer.closed == 1


async def test_comments_keep_the_connection_alive_and_event_ids_of_later_versions_do_not_pass(lab: Lab) -> None:
    await lab.run(
        answered(b": ping\n\nid: 7\ndata:\n\n", b"id: 8\n" + sse(response(RESULT)), content_type=SSE),
        version="2026-07-28",
    )
    assert b"id:" not in lab.exchange.answer
    assert b"ping" not in lab.exchange.answer
    assert lab.exchange.messages()[-1]["result"] == RESULT


async def test_members_that_json_rpc_lacks_do_not_pass(lab: Lab) -> None:
    await lab.run(answered(b'{"jsonrpc":"2.0","id":1,"result":{},"Result":{"x":1},"extra":5}'))
    assert lab.exchange.message() == {"jsonrpc": "2.0", "id": 1, "result": {}}


@pytest.mark.parametrize("content_type", ["application/json", SSE])
async def test_a_list_is_filtered_in_either_form(lab: Lab, content_type: str) -> None:
    body = response({"tools": [{"name": "look"}, {"name": "find"}, {"name": "wipe"}]})
    answer = answered(sse(body) if content_type == SSE else body, content_type=content_type)
    await lab.run(answer, "tools/list")
    message = lab.exchange.messages()[0] if content_type == SSE else lab.exchange.message()
    assert message["result"] == {"tools": [{"name": "look"}]}


@pytest.mark.parametrize("status", [400, 404])
@pytest.mark.parametrize("upstream_id", [None, 1, 77, "x"])
async def test_an_error_with_its_http_status_passes_under_our_id(lab: Lab, status: int, upstream_id: object) -> None:
    body = {"jsonrpc": "2.0", "id": upstream_id, "error": {"code": -32602, "message": "no such tool", "data": 5}}
    await lab.run(answered(msgspec.json.encode(body), status=status))
    assert lab.exchange.status == status
    assert lab.exchange.message() == {**body, "id": 1}
    assert lab.outcome() == (Outcome.UPSTREAM_ERROR, status, "")


async def test_an_error_with_status_200_passes_with_its_own_id_only(lab: Lab) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "error": {"code": 5, "message": "no"}}
    await lab.run(answered(msgspec.json.encode(body)))
    assert lab.exchange.message() == body
    assert lab.outcome() == (Outcome.UPSTREAM_ERROR, 200, "")


async def test_the_upstreams_session_id_is_sealed_at_initialize_and_passes_nowhere_else(lab: Lab) -> None:
    await lab.run(answered(response({}), session_id="up-1"), "initialize")
    sealed = lab.exchange.headers[b"mcp-session-id"].decode()
    assert "up-1" not in sealed
    assert lab.seal.open(sealed, McpSession, PRINCIPAL.key, "files") == McpSession("up-1", SESSION.id, "")
    other = Lab()
    await other.run(answered(response(RESULT), session_id="up-2"))
    assert b"mcp-session-id" not in other.exchange.headers


# Notifications and the end of a session.


@pytest.mark.parametrize("status", [200, 202, 204])
async def test_a_notification_is_answered_202_without_a_body(lab: Lab, status: int) -> None:
    await lab.run(answered(b"ignored", status=status, content_type=""), "notifications/initialized")
    assert (lab.exchange.status, lab.exchange.length, lab.exchange.answer) == (202, 0, b"")
    assert lab.journal == ["call.intent", "upstream", "call.outcome", "head", "last piece"]
    assert lab.outcome() == (Outcome.ANSWERED, 202, "")


@pytest.mark.parametrize("status", [400, 404, 500])
async def test_a_notification_that_the_upstream_refuses_is_refused(lab: Lab, status: int) -> None:
    await lab.run(answered(b"", status=status, content_type=""), "notifications/initialized")
    assert lab.exchange.refused is ErrorCode.UPSTREAM_INVALID


async def test_the_end_of_a_session_goes_upstream_without_a_body(lab: Lab) -> None:
    await lab.run(answered(b"", status=204, content_type=""), SESSION_END)
    assert lab.upstream is not None
    (request,) = lab.upstream.seen
    assert (request.http_method, request.body, request.message) == ("DELETE", b"", None)
    assert (b"mcp-session-id", b"up-1") in request.headers
    assert (lab.exchange.status, lab.exchange.answer, lab.exchange.complete) == (204, b"", True)


async def test_an_upstream_without_sessions_to_end_is_405(lab: Lab) -> None:
    # MCP 2025-11-25, "Session Management": the server MAY answer 405.
    await lab.run(answered(b"", status=405, content_type=""), SESSION_END)
    assert lab.exchange.refused is ErrorCode.METHOD_NOT_ALLOWED


# Cancelling.


async def cancelled(lab: Lab, answer: FakeAnswer | asyncio.Event, until: str) -> None:
    running = asyncio.create_task(lab.run(answer))
    async with asyncio.timeout(5):
        while until not in lab.journal:
            await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_caller_that_goes_away_before_the_answer_is_an_aborted_call(lab: Lab) -> None:
    await cancelled(lab, asyncio.Event(), "upstream")
    assert lab.outcome() == (Outcome.ABORTED, 0, "")
    # If it was Twogate that stopped, the caller is still there, and must not think that nothing ran.
    assert lab.exchange.refused is ErrorCode.UPSTREAM_TIMEOUT
    assert "may have run" in lab.exchange.refusals[0].error.face.text


async def test_a_caller_that_goes_away_during_a_stream_is_an_aborted_call_and_the_upstream_let_go(lab: Lab) -> None:
    answer = FakeAnswer([sse(PROGRESS), asyncio.Event()], content_type=SSE)
    await cancelled(lab, answer, "piece")
    assert lab.outcome() == (Outcome.ABORTED, 0, "")
    assert lab.exchange.messages()[-1]["error"]["data"]["reason"] == "upstream_timeout"
    assert answer.closed == 1


@pytest.mark.parametrize("content_type", ["application/json", SSE])
async def test_nothing_is_added_to_an_answer_that_was_complete_when_the_call_was_cancelled(
    lab: Lab, content_type: str
) -> None:
    lab.exchange.stuck_at_last = asyncio.Event()
    body = sse(response(RESULT)) if content_type == SSE else response(RESULT)
    await cancelled(lab, answered(body, content_type=content_type), "last piece")
    assert lab.journal.count("last piece") == 1
    assert lab.outcome() == (Outcome.ANSWERED, 200, "")


async def test_a_cancellation_goes_on_even_if_it_cannot_be_written_down(lab: Lab) -> None:
    lab.audit.refuses = frozenset({EventKind.CALL_OUTCOME})
    await cancelled(lab, asyncio.Event(), "upstream")
    assert lab.audit.kinds == [EventKind.CALL_INTENT]


async def test_a_mistake_of_ours_leaves_no_call_without_outcome(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> bytes:
        raise RuntimeError("a mistake")

    monkeypatch.setattr("twogate.flows.gateway.relay.encode_message", broken)
    answer = answered(response(RESULT))
    with pytest.raises(RuntimeError, match="a mistake"):
        await lab.run(answer)
    assert lab.outcome() == (Outcome.FAILED, 0, ErrorCode.INTERNAL)
    assert answer.closed == 1


# What a server may ask of the client.

ASK = {"jsonrpc": "2.0", "id": 9, "method": "sampling/createMessage", "params": {"maxTokens": 5}}


async def test_what_the_server_may_ask_passes_under_an_id_that_only_this_caller_can_answer(lab: Lab) -> None:
    await lab.run(answered(sse(ASK, response(RESULT)), content_type=SSE), asks=frozenset({"sampling"}))
    asked, _ = lab.exchange.messages()
    assert asked == {**ASK, "id": asked["id"]}
    opened = lab.seal.open(asked["id"], ServerRequest, PRINCIPAL.key, "files")
    assert opened == ServerRequest(9, "sampling/createMessage", None)
    assert lab.journal.index("server.request") < lab.journal.index("piece")


async def test_nothing_is_asked_whose_record_cannot_be_written(lab: Lab) -> None:
    lab.audit.refuses = frozenset({EventKind.SERVER_REQUEST})
    await lab.run(answered(sse(ASK, response(RESULT)), content_type=SSE), asks=frozenset({"sampling"}))
    assert lab.exchange.refused is ErrorCode.OUTCOME_UNRECORDED
    assert lab.exchange.sent == []


async def test_a_ping_passes_and_a_cancelled_request_is_named_as_the_client_knows_it(lab: Lab) -> None:
    ping = {"jsonrpc": "2.0", "id": "p", "method": "ping"}
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "p"}}
    of_another = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
    await lab.run(answered(sse(ping, cancel, of_another, response(RESULT)), content_type=SSE))
    passed, cancelled_request, _ = lab.exchange.messages()
    assert cancelled_request["params"]["requestId"] == passed["id"] != "p"


async def test_a_later_version_has_no_requests_of_the_server(lab: Lab) -> None:
    await lab.run(
        answered(sse(ASK, response(RESULT)), content_type=SSE), asks=frozenset({"sampling"}), version="2026-07-28"
    )
    assert len(lab.exchange.messages()) == 1


# Streams that can be resumed.


async def test_event_ids_are_sealed_with_the_call_that_they_belong_to(lab: Lab) -> None:
    body = b"id: 7\ndata:\nretry: 500\n\n" + b"id: 8\n" + sse(response(RESULT))
    await lab.run(answered(body, content_type=SSE))
    lines = lab.exchange.answer.decode().split("\n")
    first, second = [line.removeprefix("id: ") for line in lines if line.startswith("id: ")]
    assert lab.seal.open(first, StreamEvent, PRINCIPAL.key, "files") == StreamEvent(
        "7", None, 1, "tools/call", "files.look"
    )
    assert lab.seal.open(second, StreamEvent, PRINCIPAL.key, "files") == StreamEvent(
        "8", None, 1, "tools/call", "files.look"
    )
    assert "retry: 500" in lines


@pytest.mark.parametrize("how", ["ended", "broken", "silent"])
async def test_a_stream_that_can_be_resumed_ends_without_an_error_for_its_call(lab: Lab, how: str) -> None:
    failures = {"broken": [GateError(ErrorCode.UPSTREAM_BROKEN)], "silent": [GateError(ErrorCode.UPSTREAM_TIMEOUT)]}
    more = failures.get(how, [])
    await lab.run(FakeAnswer([b"id: 7\ndata:\n\n", *more], content_type=SSE))
    assert lab.exchange.complete
    assert lab.exchange.messages() == []
    assert lab.outcome()[0] == Outcome.SUSPENDED


async def test_a_resumed_stream_brings_the_response_of_its_own_call_only(lab: Lab) -> None:
    event = StreamEvent("7", "up-1", 5, "tools/call", "files.look")
    await lab.run(answered(sse(response(RESULT, 5)), content_type=SSE), STREAM, resumed=event)
    assert lab.exchange.messages() == [{"jsonrpc": "2.0", "id": 5, "result": RESULT}]
    assert lab.upstream is not None
    assert (b"last-event-id", b"7") in lab.upstream.seen[0].headers
    other = Lab()
    await other.run(answered(sse(response(RESULT, 6)), content_type=SSE), STREAM, resumed=event)
    assert b"done" not in other.exchange.answer


async def test_a_resumed_list_is_filtered_as_the_list_was(lab: Lab) -> None:
    event = StreamEvent("7", "up-1", 5, "tools/list", "")
    body = response({"tools": [{"name": "look"}, {"name": "wipe"}]}, 5)
    await lab.run(answered(sse(body), content_type=SSE), STREAM, resumed=event)
    assert lab.exchange.messages()[0]["result"] == {"tools": [{"name": "look"}]}


# Long-lived streams.

CHANGED = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}


def updated(uri: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": uri}}


async def test_a_stream_brings_notifications_of_what_the_caller_may_see_and_no_responses(lab: Lab) -> None:
    await lab.run(answered(sse(CHANGED, updated("file:///hidden")), sse(response(RESULT)), content_type=SSE), STREAM)
    assert lab.exchange.messages() == [CHANGED]
    assert lab.changed == ["files"]
    assert lab.upstream is not None
    assert lab.upstream.seen[0].stream
    # A response on a stream that answers nothing is no honest server's.
    assert lab.outcome() == (Outcome.FAILED, 0, ErrorCode.UPSTREAM_INVALID)


async def test_nothing_passes_to_a_listener_who_may_not_listen_any_more(lab: Lab) -> None:
    lab.may_stay = GateError(ErrorCode.AGENT_DISABLED)
    await lab.run(answered(sse(CHANGED), content_type=SSE), STREAM)
    assert lab.renewals == 1
    assert lab.exchange.messages() == []
    assert lab.exchange.complete
    assert lab.outcome() == (Outcome.FAILED, 0, ErrorCode.AGENT_DISABLED)


async def test_a_call_that_is_answered_at_once_is_decided_once(lab: Lab) -> None:
    await lab.run(answered(sse(PROGRESS, PROGRESS, response(RESULT)), content_type=SSE))
    assert lab.renewals == 0
    assert lab.outcome() == (Outcome.ANSWERED, 200, "")


@pytest.mark.parametrize("media", [SSE, "application/json"])
async def test_a_large_answer_that_takes_long_is_broken_off_when_its_caller_is_cut_off(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, media: str
) -> None:
    monkeypatch.setattr(streams, "TICK", 0.0)
    lab.may_stay = GateError(ErrorCode.AGENT_DISABLED)
    body = response({"content": [{"type": "text", "text": "x" * (3 * WHOLE)}]})
    whole = sse(body) if media == SSE else body
    pieces = [whole[at : at + WHOLE] for at in range(0, len(whole), WHOLE)]
    await lab.run(FakeAnswer(pieces, content_type=media))
    assert lab.renewals == 1
    # Events arrive in pieces from the first on; of JSON the first piece was whole before there were more.
    assert [refusal.error.code for refusal in lab.exchange.refusals] == ([ErrorCode.AGENT_DISABLED] * (media == SSE))
    assert lab.exchange.broken_off is (media != SSE)
    assert lab.outcome() == (Outcome.FAILED, 0, ErrorCode.AGENT_DISABLED)


async def test_a_stream_ends_at_once_and_whole_when_twogate_stops(lab: Lab) -> None:
    running = asyncio.create_task(lab.run(FakeAnswer([sse(CHANGED), asyncio.Event()], content_type=SSE), STREAM))
    async with asyncio.timeout(5):
        while "piece" not in lab.journal:
            await asyncio.sleep(0)
        lab.closing.set()
        await running
    assert lab.exchange.complete
    assert lab.outcome() == (Outcome.ANSWERED, 200, "")


@pytest.mark.parametrize(
    ("status", "code"),
    [(405, ErrorCode.METHOD_NOT_ALLOWED), (409, ErrorCode.STREAM_CONFLICT), (200, ErrorCode.UPSTREAM_INVALID)],
)
async def test_a_server_without_a_stream_is_refused_in_its_own_words(lab: Lab, status: int, code: ErrorCode) -> None:
    await lab.run(answered(b"{}", status=status), STREAM)
    assert lab.exchange.refused is code


async def test_a_session_that_the_upstream_forgot_makes_the_client_initialize_again(lab: Lab) -> None:
    await lab.run(answered(b"", status=404, content_type=""), STREAM)
    assert lab.exchange.refused is ErrorCode.MCP_SESSION_UNKNOWN


# Tasks.


async def test_a_task_gets_a_name_that_only_its_caller_can_use(lab: Lab) -> None:
    created = {"task": {"taskId": "t-1", "status": "working"}}
    await lab.run(answered(response(created)))
    task = lab.exchange.message()["result"]["task"]
    assert task["status"] == "working"
    assert lab.seal.open(task["taskId"], TaskId, PRINCIPAL.key, "files") == TaskId("t-1", "files.look")


# Answers for those who take no events.


async def test_an_event_stream_becomes_one_message_where_no_events_may_be(lab: Lab) -> None:
    lab.exchange.events_allowed = False
    await lab.run(answered(sse(PROGRESS, ASK, response(RESULT)), content_type=SSE), asks=frozenset({"sampling"}))
    assert lab.exchange.message() == {"jsonrpc": "2.0", "id": 1, "result": RESULT}
    assert lab.upstream is not None
    assert len(lab.upstream.seen) == 2  # the call, and the refusal of what the server asked
