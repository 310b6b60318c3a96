"""An answer's way back to the caller.

The outcome is on the audit trail before the last byte leaves, and an answer that fails half-way is never made to look
complete: a stream ends with an error for this call, or without its end where the caller may resume it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

from twogate.core.audit.record import Outcome
from twogate.core.errors import ErrorCode, GateError
from twogate.core.json_stream import ResponseScanner
from twogate.core.message import MAX_ANSWER, Kind, Message, encode_error, encode_message, parse_answer
from twogate.core.protocol import MethodKind
from twogate.core.sse import SseEvent, SsePart, SsePartParser, encode_event, encode_part
from twogate.flows.gateway.answers import Shown
from twogate.flows.gateway.bodies import EVENTS_IN_A_ROW, FEED, collect, collect_small, scan
from twogate.flows.gateway.exchange import EVENT_ANSWER, JSON_ANSWER, Exchange, Header, Refusal
from twogate.flows.gateway.headers import resumable
from twogate.flows.gateway.mcp_session import opened_session
from twogate.flows.gateway.read import SESSION_END, STREAM
from twogate.flows.gateway.record import Recorded, Recorder
from twogate.flows.gateway.seal import Seal
from twogate.flows.gateway.streams import KEEP_ALIVE_TICKS, Looks, Renew, paced
from twogate.flows.gateway.upstream import UpstreamAnswer

WHOLE: Final = 1024 * 1024
"""Bytes up to which a response is parsed as a whole; a larger one is checked while it passes, in flat memory."""

LAST_WORD_SECONDS: Final = 1.0
"""How long a caller is tried to be told that Twogate stops."""

_KEEP_ALIVE: Final = b":\n\n"

_OK: Final = 200
_STREAM_REFUSALS: Final = MappingProxyType(
    {405: ErrorCode.METHOD_NOT_ALLOWED, 409: ErrorCode.STREAM_CONFLICT, 404: ErrorCode.METHOD_NOT_ALLOWED}
)
_PIECEWISE: Final = (MethodKind.TARGET, MethodKind.TASK)  # not lists, which are filtered, nor what opens a session
_LISTS_CHANGED: Final = frozenset({"notifications/tools/list_changed", "notifications/prompts/list_changed"})
_NOT_FOUND: Final = 404
_NOT_ALLOWED: Final = 405


class _Response(NamedTuple):
    """A response, written. What it was parsed into takes twenty times the memory, and a client may read slowly."""

    body: bytes
    outcome: Outcome
    headers: tuple[Header, ...]


class ServerSide(Protocol):
    """What the relay tells the other side."""

    async def refuse(self, request: Message) -> None:
        """Refuse a request of the server's in the client's place, so that it does not wait for an answer."""
        ...

    def list_changed(self) -> None:
        """The server's tools or prompts changed."""
        ...

    @property
    def quiet(self) -> bool:
        """Whether the server may ask this client nothing now."""
        ...


class Relay:
    """Brings one answer back. Ends in exactly one of: answered, `failed`, `aborted`.

    `renew` and `closing` are for long-lived streams. `remembers`: sessions keep what the client declared.
    """

    def __init__(
        self,
        recorded: Recorded,
        exchange: Exchange,
        recorder: Recorder,
        seal: Seal,
        shown: Shown,
        server: ServerSide,
        renew: Renew,
        closing: tuple[asyncio.Event, ...],
        *,
        remembers: bool = False,
    ) -> None:
        self._recorded = recorded
        self._call = recorded.admitted.call
        self._exchange = exchange
        self._recorder = recorder
        self._seal = seal
        self._shown = shown
        self._server = server
        self._renew = renew
        self._looks = Looks(renew)
        self._closing = closing
        self._remembers = remembers
        self._answer_media = ""
        self._upstream_session: str | None = None
        self._started = False
        self._resumable = False
        self._large = False
        self._arriving: ResponseScanner | None = None
        self._silent = 0
        self._recorded_outcome = False
        self._sent = 0

    async def run(self, answer: UpstreamAnswer) -> None:
        """Pass the answer on.

        Raises:
            GateError: MCP_SESSION_UNKNOWN, METHOD_NOT_ALLOWED, STREAM_CONFLICT, UPSTREAM_INVALID, UPSTREAM_BROKEN,
                UPSTREAM_TIMEOUT, OUTCOME_UNRECORDED, and what ends a stream; `failed` takes it.
        """
        self._answer_media, self._upstream_session = answer.content_type, answer.session_id
        status, media = answer.status, answer.content_type
        if status == _NOT_FOUND and self._call.upstream_session is not None:
            # MCP 2025-11-25, "Session Management": it tells the client to initialize again.
            raise GateError(ErrorCode.MCP_SESSION_UNKNOWN, "the upstream does not know its session any more")
        if self._call.message.method != STREAM and self._call.message.kind is not Kind.REQUEST:
            await self._acknowledge(answer)
        elif status == _OK and media == "text/event-stream":
            await self._events(answer)
        elif self._call.message.method == STREAM:
            raise GateError(_STREAM_REFUSALS.get(status, ErrorCode.UPSTREAM_INVALID), f"status {status} to GET")
        elif status == _OK and media == "application/json":
            await self._json(answer)
        elif status in (400, _NOT_FOUND):
            message = parse_answer(await collect_small(answer))
            await self._complete(status, await self._judged(self._shown.error, message))
        else:
            raise GateError(ErrorCode.UPSTREAM_INVALID, f"status {status}, type {media!r}")

    async def failed(self, error: GateError) -> None:
        """Record and answer a failure, in the form that the answer has taken so far."""
        # What runs on at the server, and can be resumed there, has not failed.
        suspended = self._resumable and error.code in (ErrorCode.UPSTREAM_BROKEN, ErrorCode.UPSTREAM_TIMEOUT)
        try:
            await self._outcome(Outcome.SUSPENDED if suspended else Outcome.FAILED, 0, error)
        except GateError as unrecorded:
            error = unrecorded
        await self._tell(error, suspended=suspended)

    async def aborted(self) -> None:
        """Record that the caller went away, or that Twogate stops and could not wait longer; then it is told so.

        Raises:
            GateError: OUTCOME_UNRECORDED.
        """
        if self._recorded_outcome:
            return  # the last piece is on its way already
        await self._outcome(Outcome.ABORTED, 0)
        # The exchange drops what a caller that went away cannot be told; one that does not read may not delay the stop.
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORD_SECONDS):
                stopping = GateError(ErrorCode.UPSTREAM_TIMEOUT, "Twogate is stopping")
                await self._tell(stopping, suspended=self._resumable)

    @property
    def settled(self) -> bool:
        """Whether the outcome is recorded, or was tried to be."""
        return self._recorded_outcome

    async def settle(self) -> None:
        """Leave no call without an outcome, should a mistake of ours have ended it."""
        await self._outcome(Outcome.FAILED, 0, GateError(ErrorCode.INTERNAL))

    async def _tell(self, error: GateError, *, suspended: bool = False) -> None:
        call = self._call
        if not self._started:
            await self._exchange.refuse(Refusal(error, call.origin.id, notification=call.message.kind != Kind.REQUEST))
        elif error.code is ErrorCode.OUTCOME_UNRECORDED or self._large or not self._as_events:
            await self._exchange.abort()
        elif call.stream or suspended or call.origin.id is None:
            await self._exchange.send(b"", more=False)
        else:
            body = encode_error(call.origin.id, error.code, error.data)
            await self._exchange.send(encode_event(SseEvent(event="message", data=body)), more=False)

    async def _acknowledge(self, answer: UpstreamAnswer) -> None:
        await collect_small(answer)
        if answer.status == _NOT_ALLOWED:
            raise GateError(ErrorCode.METHOD_NOT_ALLOWED, "the upstream keeps no sessions to end")
        if not 200 <= answer.status < 300:  # noqa: PLR2004
            raise GateError(ErrorCode.UPSTREAM_INVALID, f"status {answer.status} to a notification")
        # A session that ended is 204: the official client takes a 202 for a failed end.
        ended = self._call.message.method == SESSION_END
        status = 204 if ended else 202
        await self._outcome(Outcome.ANSWERED, status)
        await self._exchange.start(status, (), length=None if ended else 0)
        await self._exchange.send(b"", more=False)

    # An answer as JSON.

    async def _json(self, answer: UpstreamAnswer) -> None:
        chunks = answer.chunks()
        begun = await collect(chunks, self._whole)
        if begun.complete:
            await self._complete(_OK, await self._judged(self._shown.response, parse_answer(begun.data)))
            return
        scanner = self._scanner()
        await self._send_large(await scan(scanner, begun.data))
        async for chunk in chunks:
            await self._looks.again()
            await self._send_large(await scan(scanner, chunk))
        await self._finish_large(scanner)

    async def _judged(self, judge: Callable[[Message], Message], message: Message) -> _Response:
        """The response as the caller may see it; what it asks of the client is written down first, passed or not."""
        try:
            await self._shown.prepare(message)
            message = judge(message)
        finally:
            for method, passes in self._shown.questions:
                await self._recorder.server_request(self._recorded, method, passed=passes)
            if await self._shown.note_changes():
                self._server.list_changed()
        outcome = Outcome.UPSTREAM_ERROR if message.is_error else Outcome.ANSWERED
        return _Response(encode_message(message), outcome, self._session_header(message))

    async def _complete(self, status: int, response: _Response) -> None:
        self._sent += len(response.body)
        await self._outcome(response.outcome, status)
        self._started = True
        await self._exchange.start(status, JSON_ANSWER + response.headers, length=len(response.body))
        await self._exchange.send(response.body, more=False)

    # An answer as events.

    async def _events(self, answer: UpstreamAnswer) -> None:
        parser = SsePartParser(self._whole)
        chunks = answer.chunks()
        if self._call.stream:
            # Something to send, so that the client has its head now and not with the first event.
            await self._send_event(_KEEP_ALIVE)
            chunks = paced(chunks, self._still, self._closing)
        try:
            async for chunk in chunks:
                if not chunk:
                    await self._tick()
                for start in range(0, len(chunk), FEED):
                    for count, event in enumerate(parser.feed(chunk[start : start + FEED])):
                        if await self._event(event):
                            return
                        if count % EVENTS_IN_A_ROW == EVENTS_IN_A_ROW - 1:
                            await asyncio.sleep(0)
        finally:
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()
        if not (self._call.stream or self._resumable):
            raise GateError(ErrorCode.UPSTREAM_BROKEN, "the stream ended before the response")
        # MCP 2025-11-25, "Sending Messages to the Server": a server may close a stream that the client can resume.
        await self._outcome(Outcome.ANSWERED if self._call.stream else Outcome.SUSPENDED, _OK)
        await self._start_events()
        await self._exchange.send(b"", more=False)

    async def _event(self, event: SseEvent | SsePart) -> bool:
        """Pass one event on; True after the response, which ends the stream."""
        if not self._call.stream:
            await self._looks.again()
        if isinstance(event, SsePart):
            return await self._part(event)
        if not event.data:
            # Comments, and the empty event that gives a client the id to resume from.
            named = self._named(event)
            await self._send_event(_KEEP_ALIVE if named.id is None else encode_event(named))
            return False
        message = parse_answer(event.data)
        if message.kind is Kind.RESPONSE:
            response = await self._judged(self._shown.response, message)
            del message
            if not self._exchange.events:
                await self._complete(_OK, response)
                return True
            encoded = self._encoded(event, response.body)
            self._sent += len(encoded)
            await self._outcome(response.outcome, _OK)
            await self._start_events(response.headers)
            await self._exchange.send(encoded, more=False)
            return True
        if message.kind is Kind.REQUEST:
            await self._ask(event, message)
        else:
            if message.method in _LISTS_CHANGED:
                self._server.list_changed()
            shown = self._shown.notification(message)
            if shown is not None:
                await self._send_event(self._encoded(event, encode_message(shown)))
        return False

    async def _ask(self, event: SseEvent, message: Message) -> None:
        """A request of the server's: passed on with an id of ours, or refused to the server in the client's place."""
        shown = self._shown.request(message, quiet=self._server.quiet) if self._exchange.events else None
        await self._recorder.server_request(self._recorded, message.method, passed=shown is not None)
        if shown is None:
            await self._server.refuse(message)
        else:
            await self._send_event(self._encoded(event, encode_message(shown)))

    async def _send_event(self, encoded: bytes) -> None:
        # The head of the answer to `initialize` names the session, which its response decides on: nothing goes before.
        if self._exchange.events and self._call.message.method != "initialize":
            await self._start_events()
            self._sent += len(encoded)
            await self._exchange.send(encoded, more=True)

    async def _start_events(self, headers: tuple[Header, ...] = ()) -> None:
        if not self._started:
            self._started = True
            await self._exchange.start(_OK, EVENT_ANSWER + headers, length=None)

    def _encoded(self, event: SseEvent, message: bytes) -> bytes:
        named = self._named(event)
        return encode_event(SseEvent(message, "message", named.id, named.retry))

    def _named(self, event: SseEvent) -> SseEvent:
        """The event with the id under which this caller may resume; later versions resume nothing."""
        unnamed = self._call.modern or not self._exchange.events or self._call.message.method == "initialize"
        if not event.id or unnamed or not resumable(event.id):
            return SseEvent(event.data, retry=event.retry)
        self._resumable = True
        return SseEvent(event.data or b"", "", self._shown.event_id(event.id), event.retry)

    # Long-lived streams.

    async def _still(self) -> None:
        self._shown.renewed(await self._renew())

    async def _tick(self) -> None:
        self._silent += 1
        # In a large event it would end that, and let the server begin a line of the stream as it likes.
        if self._silent % KEEP_ALIVE_TICKS == 0 and not self._large:
            await self._send_event(_KEEP_ALIVE)

    # Responses too large to be parsed as a whole: checked piece by piece while they pass.

    @property
    def _whole(self) -> int:
        return WHOLE if self._call.answer_kind in _PIECEWISE else MAX_ANSWER

    @property
    def _as_events(self) -> bool:
        return self._exchange.events and self._answer_media == "text/event-stream"

    def _scanner(self) -> ResponseScanner:
        if self._whole == MAX_ANSWER or self._call.origin.id is None:
            raise GateError(ErrorCode.UPSTREAM_INVALID, f"an answer of more than {MAX_ANSWER} bytes")
        return ResponseScanner(self._call.origin.id, meta=self._shown.meta)

    async def _part(self, part: SsePart) -> bool:
        if part.first:
            self._arriving = self._scanner()
        scanner = self._arriving
        if scanner is None:
            raise GateError(ErrorCode.INTERNAL, "a part of an event that did not begin")
        await self._send_large(await scan(scanner, part.data))
        if part.last:
            await self._finish_large(scanner)
        return part.last

    async def _send_large(self, piece: bytes, *, last: bool = False) -> None:
        if not piece:
            return
        first, self._large = not self._large, True
        events = self._as_events
        if not self._started:
            self._started = True
            await self._exchange.start(_OK, EVENT_ANSWER if events else JSON_ANSWER, length=None)
        self._sent += len(piece)
        chunk = encode_part(SsePart(piece, first=first, last=last, event="message")) if events else piece
        await self._exchange.send(chunk, more=not last)

    async def _finish_large(self, scanner: ResponseScanner) -> None:
        last = scanner.finish()
        await self._outcome(Outcome.ANSWERED, _OK)
        await self._send_large(last, last=True)

    def _session_header(self, message: Message) -> tuple[Header, ...]:
        """`Mcp-Session-Id` of the answer to `initialize`, if there is something to remember."""
        if message.is_error or self._call.message.method != "initialize":
            return ()
        upstream = self._upstream_session
        handle = opened_session(self._recorded, upstream, message.payload, remembers=self._remembers)
        if handle is None:
            return ()
        sealed = self._seal.seal(handle, self._call.principal.key, self._call.head.server)
        return ((b"mcp-session-id", sealed.encode()),)

    async def _outcome(self, outcome: Outcome, status: int, error: GateError | None = None) -> None:
        if not self._recorded_outcome:
            self._recorded_outcome = True
            await self._recorder.outcome(self._recorded, outcome, status, self._sent, error)
