"""An answer's way back to the caller.

The outcome is on the audit trail before the last byte leaves, and an answer that fails half-way is never made to look
complete: a stream ends with an error for this call.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final

from twogate.core.access import Policy, visible
from twogate.core.audit.record import Outcome
from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import MAX_ANSWER, Kind, Message, encode_error, encode_message, parse_answer
from twogate.core.sse import SseEvent, SseParser, encode_event
from twogate.flows.gateway.answers import check_asks_nothing, passes, shown_response
from twogate.flows.gateway.exchange import Exchange, Refusal
from twogate.flows.gateway.read import SESSION_END
from twogate.flows.gateway.record import Recorded, Recorder
from twogate.flows.gateway.upstream import UpstreamAnswer
from twogate.flows.gateway.upstream_session import UpstreamSessions

MAX_ERROR: Final = 64 * 1024
"""Bytes that the body of an answer other than 200 may have."""

LAST_WORD_SECONDS: Final = 1.0
"""How long a caller is tried to be told that Twogate stops."""

_JSON: Final = ((b"content-type", b"application/json"), (b"cache-control", b"no-store"))
_EVENTS: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)
_KEEP_ALIVE: Final = b":\n\n"


class Relay:
    """Brings one answer back. Ends in exactly one of: answered, `failed`, `aborted`."""

    def __init__(
        self, recorded: Recorded, exchange: Exchange, recorder: Recorder, sealed: UpstreamSessions, policy: Policy
    ) -> None:
        self._recorded = recorded
        self._call = recorded.admitted.call
        self._exchange = exchange
        self._recorder = recorder
        self._sealed = sealed
        self._policy = policy
        self._started = False
        self._recorded_outcome = False
        self._sent = 0

    async def run(self, answer: UpstreamAnswer) -> None:
        """Pass the answer on.

        Raises:
            GateError: UPSTREAM_INVALID, UPSTREAM_BROKEN, UPSTREAM_TIMEOUT, OUTCOME_UNRECORDED; `failed` takes it.
        """
        if self._call.message.kind is Kind.NOTIFICATION:
            await self._acknowledge(answer)
        elif answer.status == 200 and answer.content_type == "application/json":  # noqa: PLR2004
            await self._json(answer)
        elif answer.status == 200 and answer.content_type == "text/event-stream":  # noqa: PLR2004
            await self._events(answer)
        elif answer.status in (400, 404):
            await self._error(answer)
        else:
            raise GateError(ErrorCode.UPSTREAM_INVALID, f"status {answer.status}, type {answer.content_type!r}")

    async def failed(self, error: GateError) -> None:
        """Record and answer a failure, in the form that the answer has taken so far."""
        try:
            await self._outcome(Outcome.FAILED, 0, error)
        except GateError as unrecorded:
            error = unrecorded
        await self._tell(error)

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
                await self._tell(GateError(ErrorCode.UPSTREAM_TIMEOUT, "Twogate is stopping"))

    @property
    def settled(self) -> bool:
        """Whether the outcome is recorded, or was tried to be."""
        return self._recorded_outcome

    async def settle(self) -> None:
        """Leave no call without an outcome, should a mistake of ours have ended it."""
        await self._outcome(Outcome.FAILED, 0, GateError(ErrorCode.INTERNAL))

    async def _tell(self, error: GateError) -> None:
        if not self._started:
            await self._exchange.refuse(Refusal(error, self._call.message.id))
        elif error.code is ErrorCode.OUTCOME_UNRECORDED:
            await self._exchange.abort()
        else:
            body = encode_error(self._call.message.id, error.code, error.data)
            await self._exchange.send(encode_event(SseEvent(event="message", data=body)), more=False)

    async def _acknowledge(self, answer: UpstreamAnswer) -> None:
        await _collect(answer.chunks(), MAX_ERROR)
        if answer.status == 405:  # noqa: PLR2004
            raise GateError(ErrorCode.METHOD_NOT_ALLOWED, "the upstream keeps no sessions to end")
        if not 200 <= answer.status < 300:  # noqa: PLR2004
            raise GateError(ErrorCode.UPSTREAM_INVALID, f"status {answer.status} to a notification")
        # A session that ended is 204: the official client takes a 202 for a failed end.
        ended = self._call.message.method == SESSION_END
        status = 204 if ended else 202
        await self._outcome(Outcome.ANSWERED, status)
        await self._exchange.start(status, (), length=None if ended else 0)
        await self._exchange.send(b"", more=False)

    async def _json(self, answer: UpstreamAnswer) -> None:
        message = shown_response(parse_answer(await _collect(answer.chunks(), MAX_ANSWER)), self._call, self._visible)
        await self._complete(200, message, answer)

    async def _complete(self, status: int, message: Message, answer: UpstreamAnswer | None) -> None:
        body = encode_message(message)
        self._sent += len(body)
        await self._outcome(Outcome.UPSTREAM_ERROR if message.is_error else Outcome.ANSWERED, status)
        self._started = True
        await self._exchange.start(status, _JSON + self._session_header(answer), length=len(body))
        await self._exchange.send(body, more=False)

    async def _events(self, answer: UpstreamAnswer) -> None:
        parser = SseParser(MAX_ANSWER)
        async for chunk in answer.chunks():
            for event in parser.feed(chunk):
                if not event.data:
                    # Comments and priming events. Their ids are not passed on: no stream can be resumed here yet.
                    await self._send_event(_KEEP_ALIVE, answer)
                    continue
                message = parse_answer(event.data)
                if message.kind is Kind.RESPONSE:
                    message = shown_response(message, self._call, self._visible)
                    encoded = encode_event(SseEvent(event="message", data=encode_message(message)))
                    self._sent += len(encoded)
                    await self._outcome(Outcome.UPSTREAM_ERROR if message.is_error else Outcome.ANSWERED, 200)
                    await self._start_events(answer)
                    await self._exchange.send(encoded, more=False)
                    return
                if passes(message):
                    await self._send_event(
                        encode_event(SseEvent(event="message", data=encode_message(message))), answer
                    )
        raise GateError(ErrorCode.UPSTREAM_BROKEN, "the stream ended before the response")

    async def _send_event(self, encoded: bytes, answer: UpstreamAnswer) -> None:
        await self._start_events(answer)
        self._sent += len(encoded)
        await self._exchange.send(encoded, more=True)

    async def _start_events(self, answer: UpstreamAnswer) -> None:
        if not self._started:
            self._started = True
            await self._exchange.start(200, _EVENTS + self._session_header(answer), length=None)

    async def _error(self, answer: UpstreamAnswer) -> None:
        """An error that the upstream states with its HTTP status (MCP 2026-07-28); the id may be missing there."""
        message = parse_answer(await _collect(answer.chunks(), MAX_ERROR))
        if message.kind is not Kind.RESPONSE or not message.is_error:
            raise GateError(ErrorCode.UPSTREAM_INVALID, f"status {answer.status} without a JSON-RPC error")
        check_asks_nothing(message)
        error = Message(Kind.RESPONSE, self._call.message.id, "", {}, message.payload, is_error=True)
        await self._complete(answer.status, error, None)

    def _session_header(self, answer: UpstreamAnswer | None) -> tuple[tuple[bytes, bytes], ...]:
        if answer is None or answer.session_id is None or self._call.message.method != "initialize":
            return ()
        sealed = self._sealed.seal(answer.session_id, self._call.principal.key, self._call.head.server)
        return ((b"mcp-session-id", sealed.encode()),)

    def _visible(self, target: str) -> bool:
        admitted = self._recorded.admitted
        return visible(self._call.principal, admitted.session, self._call.head.server, target, self._policy)

    async def _outcome(self, outcome: Outcome, status: int, error: GateError | None = None) -> None:
        if not self._recorded_outcome:
            self._recorded_outcome = True
            await self._recorder.outcome(self._recorded, outcome, status, self._sent, error)


async def _collect(chunks: AsyncIterator[bytes], limit: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise GateError(ErrorCode.UPSTREAM_INVALID, f"an answer of more than {limit} bytes")
        pieces.append(chunk)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
