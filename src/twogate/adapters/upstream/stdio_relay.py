"""One stdio process serving one principal: the handshake, whose answer is whose, and what the server may not ask.

Invariants:
1. A request id on the pipe is an integer of ours, never used twice; only its answer reaches the caller, with the
   caller's own id. The same integer stands for the caller's progress token.
2. What belongs to no open call (late answers, notifications without our token) is dropped and counted.
3. A request of the server's never reaches a client: `ping` is answered here, everything else refused.
4. After the first line that is no JSON-RPC message nothing from this process is used any more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, cast

import msgspec

from twogate import __version__
from twogate.adapters.upstream.stdio_process import StdioCommand, StdioLimits, StdioProcess
from twogate.core.errors import METHOD_NOT_FOUND, ErrorCode, GateError
from twogate.core.message import Kind, Message, encode_message, parse_answer
from twogate.core.protocol import HANDSHAKE_VERSIONS
from twogate.core.sse import SseEvent, encode_event
from twogate.flows.environment import Clock
from twogate.flows.gateway.upstream import UpstreamAnswer

_INITIALIZED: Final = Message(Kind.NOTIFICATION, None, "notifications/initialized", {})
_CANCELLED: Final = "notifications/cancelled"
_JSON: Final = "application/json"
_FOR_US: Final = frozenset({"notifications/initialized", "notifications/progress"})
# Valid inside JSON strings, but line ends for servers that split lines as Unicode does.
_LINE_SEPARATORS: Final = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))


def encode_line(message: Message) -> bytes:
    """A message as one line, however the reader splits lines."""
    line = encode_message(message)
    for raw, escaped in _LINE_SEPARATORS:
        line = line.replace(raw, escaped)
    return line + b"\n"


class FixedAnswer(msgspec.Struct, frozen=True):
    """An answer that is complete already; implements `UpstreamAnswer`."""

    status: int
    body: bytes = b""
    content_type: str = ""
    session_id: str | None = None

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body, if there is one."""
        if self.body:
            yield self.body

    async def aclose(self) -> None:
        """Nothing is held."""


class _Call:
    """One open request: what has arrived for it and not been read."""

    def __init__(self, identifier: str | int | None, token: str | float | None) -> None:
        self.identifier = identifier
        self.token = token
        self.progress: deque[bytes] = deque()
        self.progress_bytes = 0
        self.response: bytes | None = None
        self.failure: tuple[ErrorCode, str] | None = None
        self.changed = asyncio.Event()

    async def next(self) -> tuple[bytes, bool]:
        """The next message, and whether it is the response.

        Raises:
            GateError: how the relay failed.
        """
        while True:
            if self.progress:
                event = self.progress.popleft()
                self.progress_bytes -= len(event)
                return event, False
            if self.response is not None:
                return self.response, True
            if self.failure is not None:
                raise GateError(*self.failure)
            self.changed.clear()
            await self.changed.wait()


class _StreamAnswer:
    """Progress and the response of one call as server-sent events; implements `UpstreamAnswer`."""

    status = 200
    content_type = "text/event-stream"
    session_id: str | None = None

    def __init__(self, call: _Call, timeout: float, close: Callable[[], None]) -> None:
        self._call = call
        self._timeout = timeout
        self._close: Callable[[], None] | None = close

    async def chunks(self) -> AsyncIterator[bytes]:
        """One event a chunk, the response last."""
        try:
            last = False
            while not last:
                try:
                    async with asyncio.timeout(self._timeout):
                        data, last = await self._call.next()
                except TimeoutError as error:
                    raise GateError(ErrorCode.UPSTREAM_TIMEOUT, f"no event for {self._timeout} s") from error
                yield encode_event(SseEvent(data, "message"))
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Cancel the call at the server if it is still open."""
        close, self._close = self._close, None
        if close is not None:
            close()


class Relay:
    """A process and its open calls. `on_failure` is told once if the process fails rather than is ended by us."""

    def __init__(
        self, *, modern: bool, first: Message, limits: StdioLimits, clock: Clock, on_failure: Callable[[], None]
    ) -> None:
        self.users = 0
        self.last_used = clock.monotonic()
        self.dropped = 0
        self._modern = modern
        self._limits = limits
        self._clock = clock
        self._on_failure = on_failure
        wanted = first.params.get("protocolVersion") if first.method == "initialize" else None
        self._version = wanted if wanted in HANDSHAKE_VERSIONS else HANDSHAKE_VERSIONS[-1]
        self._calls: dict[int, _Call] = {}
        self._last_id = 0
        self._process: StdioProcess | None = None
        self._failure: tuple[ErrorCode, str] | None = None
        self._ready = asyncio.Event()
        self._welcome: dict[str, Any] = {}
        self._handshake: int | None = None
        self._ours = False

    @property
    def idle(self) -> bool:
        """Whether no call is open or about to be."""
        return self.users == 0

    @property
    def pid(self) -> int | None:
        """The server's process id, once it runs."""
        return self._process.pid if self._process is not None else None

    def start(self, what: StdioCommand, log: Callable[[str, str], None]) -> asyncio.Task[None]:
        """Begin to run the process; the task ends when everything it started is gone."""
        return asyncio.get_running_loop().create_task(self._live(what, log))

    def end_soon(self) -> None:
        """Begin to end the process with its grace; open calls fail with UPSTREAM_BROKEN."""
        self._fail(ErrorCode.UPSTREAM_BROKEN, "the server is being ended", ours=True)

    async def call(self, message: Message, timeout: float) -> UpstreamAnswer:  # noqa: ASYNC109 - of `UpstreamRequest`
        """Pass a request on; the answer is complete, unless the caller asked for progress.

        Raises:
            GateError: UPSTREAM_UNAVAILABLE (nothing was sent), UPSTREAM_TIMEOUT, UPSTREAM_BROKEN, UPSTREAM_INVALID;
                INVALID_PARAMS for a progress token that is none.
        """
        if self.users >= self._limits.pending:
            raise GateError(ErrorCode.UPSTREAM_UNAVAILABLE, f"{self.users} calls of this principal are open")
        self.users += 1
        streaming = False
        try:
            async with asyncio.timeout(timeout):
                await self._ready.wait()
                if self._process is None or self._failure is not None:
                    raise GateError(*(self._failure or (ErrorCode.UPSTREAM_UNAVAILABLE, "the server is being ended")))
                if message.method == "initialize" and not self._modern:
                    welcome = Message(Kind.RESPONSE, message.id, "", {}, self._welcome)
                    return FixedAnswer(200, encode_message(welcome), _JSON)
                answer = await self._exchange(self._process, message, timeout)
                streaming = isinstance(answer, _StreamAnswer)
                return answer
        except TimeoutError as error:
            raise GateError(ErrorCode.UPSTREAM_TIMEOUT, f"no answer for {timeout} s") from error
        finally:
            if not streaming:
                self._release()

    async def _exchange(self, process: StdioProcess, message: Message, pause: float) -> UpstreamAnswer:
        token = _progress_token(message)
        self._last_id += 1
        identifier = self._last_id
        call = self._calls[identifier] = _Call(message.id, token)
        params = message.params
        if token is not None:
            params = {**params, "_meta": {**params["_meta"], "progressToken": identifier}}
        keep = False
        try:
            await process.write(encode_line(Message(Kind.REQUEST, identifier, message.method, params)))
            if token is not None:
                keep = True
                return _StreamAnswer(call, pause, lambda: self._close(identifier))
            body, _ = await call.next()
            return FixedAnswer(200, body, _JSON)
        finally:
            if not keep:
                self._abandon(identifier)

    def _close(self, identifier: int) -> None:
        self._abandon(identifier)
        self._release()

    def _release(self) -> None:
        self.users -= 1
        self.last_used = self._clock.monotonic()

    def _abandon(self, identifier: int) -> None:
        """Forget a call; if it is not answered yet, tell the server so."""
        if self._calls.pop(identifier, None) is not None and self._process is not None and self._failure is None:
            self._process.offer(_cancelled(identifier))

    def notify(self, message: Message) -> None:
        """Pass a client's notification on, unless it concerns what the relay does itself."""
        if self._process is None or self._failure is not None or not self._ready.is_set() or message.method in _FOR_US:
            return
        if message.method != _CANCELLED:
            self._process.offer(encode_line(message))
            return
        wanted = message.params.get("requestId")
        found = [
            i for i, call in self._calls.items() if (type(call.identifier), call.identifier) == (type(wanted), wanted)
        ]
        # Two clients of one principal may use one id. Which of them cancels cannot be seen here, so neither call ends.
        if len(found) == 1:
            self._process.offer(_cancelled(found[0]))

    async def _live(self, what: StdioCommand, log: Callable[[str, str], None]) -> None:
        try:
            self._process = await StdioProcess.start(what, self._limits, self._clock, log)
            try:
                await self._serve(self._process)
            finally:
                await self._process.end(now=not self._ours)
        except GateError as error:
            self._fail(error.code, error.debug)
        finally:
            self._fail(ErrorCode.UPSTREAM_BROKEN, "the relay was stopped")
            if self.dropped:
                log(what.name, f"({self.dropped} messages of the server belonged to no open call)")

    async def _serve(self, process: StdioProcess) -> None:
        if self._failure is not None:
            return
        timer = asyncio.get_running_loop().call_later(
            self._limits.handshake, self._fail_handshake, f"no answer to initialize in {self._limits.handshake} s"
        )
        try:
            self._greet(process)
            async for line in process.lines():
                self._take(process, parse_answer(line, max_bytes=self._limits.line_bytes))
            self._fail(ErrorCode.UPSTREAM_BROKEN, "the server ended or closed its stdout")
        except GateError as error:
            self._fail(error.code, error.debug)
        finally:
            timer.cancel()

    def _greet(self, process: StdioProcess) -> None:
        if self._modern:
            self._ready.set()
            return
        self._last_id += 1
        self._handshake = self._last_id
        hello = {
            "protocolVersion": self._version,
            "capabilities": {},
            "clientInfo": {"name": "twogate", "version": __version__},
        }
        process.offer(encode_line(Message(Kind.REQUEST, self._handshake, "initialize", hello)))

    def _welcomed(self, process: StdioProcess, answer: Message) -> None:
        self._handshake = None
        if answer.is_error:
            self._fail_handshake("initialize was answered with an error")
            return
        self._welcome = answer.payload
        process.offer(encode_line(_INITIALIZED))
        self._ready.set()

    def _take(self, process: StdioProcess, message: Message) -> None:
        """Bring one message of the server's to whom it belongs."""
        if self._failure is not None:
            return
        if message.kind is Kind.REQUEST:
            if message.method == "ping":
                reply = Message(Kind.RESPONSE, message.id, "", {}, {})
            else:
                refusal = {"code": METHOD_NOT_FOUND, "message": "Method not found"}
                reply = Message(Kind.RESPONSE, message.id, "", {}, refusal, is_error=True)
            process.offer(encode_line(reply))
        elif message.kind is Kind.RESPONSE:
            call = self._calls.pop(message.id, None) if isinstance(message.id, int) else None
            if call is not None:
                call.response = encode_message(msgspec.structs.replace(message, id=call.identifier))
                call.changed.set()
            elif message.id is not None and message.id == self._handshake:
                self._welcomed(process, message)
            else:
                self.dropped += 1
        elif not self._progressed(message):
            self.dropped += 1

    def _progressed(self, message: Message) -> bool:
        token = message.params.get("progressToken")
        # `type`, because True and 1.0 find the key 1 too.
        if message.method != "notifications/progress" or type(token) is not int:
            return False
        call = self._calls.get(token)
        if call is None or call.token is None:
            return False
        event = encode_message(msgspec.structs.replace(message, params={**message.params, "progressToken": call.token}))
        if call.progress_bytes + len(event) > self._limits.queued_progress_bytes:
            return False  # the caller does not read; the other calls must not wait for it
        call.progress.append(event)
        call.progress_bytes += len(event)
        call.changed.set()
        return True

    def _fail_handshake(self, why: str) -> None:
        if not self._ready.is_set():
            self._fail(ErrorCode.UPSTREAM_UNAVAILABLE, why)

    def _fail(self, code: ErrorCode, why: str, *, ours: bool = False) -> None:
        """End every open call with this error, and the process."""
        if self._failure is not None:
            return
        # Before the handshake is done no call was sent.
        if code is ErrorCode.UPSTREAM_BROKEN and not self._ready.is_set():
            code = ErrorCode.UPSTREAM_UNAVAILABLE
        self._failure = (code, why)
        self._ours = ours
        self._ready.set()
        for call in self._calls.values():
            call.failure = self._failure
            call.changed.set()
        self._calls.clear()
        if self._process is not None:
            self._process.end_soon(now=not ours)
        if not ours:
            self._on_failure()


def _progress_token(message: Message) -> str | float | None:
    meta: Any = message.params.get("_meta")
    token: Any = cast("dict[str, Any]", meta).get("progressToken") if isinstance(meta, dict) else None
    if token is not None and (isinstance(token, bool) or not isinstance(token, str | int | float)):
        raise GateError(ErrorCode.INVALID_PARAMS, "the progress token is neither string nor number")
    return token


def _cancelled(identifier: int) -> bytes:
    return encode_line(Message(Kind.NOTIFICATION, None, _CANCELLED, {"requestId": identifier}))
