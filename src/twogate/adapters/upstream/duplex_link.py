"""One running server on a channel of its own: the handshake, the calls that are under way, and how it all fails.

After the first thing that is no JSON-RPC message nothing from this channel is used any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

from twogate import __version__
from twogate.adapters.upstream.duplex_channel import Channel, DuplexLimits
from twogate.adapters.upstream.duplex_conversation import LISTEN, Conversation, OpenCall
from twogate.adapters.upstream.duplex_mailbox import FixedAnswer, Mailbox, StreamAnswer
from twogate.adapters.upstream.duplex_session import ClientSession
from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import Kind, Message, encode_message, parse_answer
from twogate.core.protocol import HANDSHAKE_VERSIONS
from twogate.flows.environment import Clock
from twogate.flows.gateway.upstream import UpstreamAnswer

_INITIALIZED: Final = encode_message(Message(Kind.NOTIFICATION, None, "notifications/initialized", {}))
_JSON: Final = "application/json"
_RECEIPT_SECONDS: Final = 5.0
_TURN: Final = 32


class Link:
    """A channel and its conversation.

    `session` is what a client's `initialize` settled; without one, or in the `modern` era, nothing was. `on_failure` is
    told once if the channel fails rather than is ended by us, `on_idle` whenever the last call has ended.
    """

    def __init__(
        self,
        *,
        modern: bool,
        session: ClientSession | None,
        serial: str,
        limits: DuplexLimits,
        clock: Clock,
        on_failure: Callable[[], None],
        on_idle: Callable[[], None],
    ) -> None:
        self.calls = 0
        self.listens = 0
        self.last_used = clock.monotonic()
        self._modern = modern
        self._session = session
        self._limits = limits
        self._clock = clock
        self._on_failure = on_failure
        self._on_idle = on_idle
        self._conversation = Conversation(
            modern=modern,
            capabilities=None if session is None else session.capabilities,
            serial=serial,
            limits=limits,
            offer=self._offer,
        )
        self._channel: Channel | None = None
        self._failure: tuple[ErrorCode, str] | None = None
        self._ready = asyncio.Event()
        self._welcome: dict[str, Any] = {}
        self._ours = False
        self._writing: set[asyncio.Task[None]] = set()

    @property
    def idle(self) -> bool:
        """Whether nobody uses it: no call, no subscription, no stream."""
        return self.spare and self.listens == 0 and self._conversation.stream is None

    @property
    def spare(self) -> bool:
        """Whether no call is open or about to be; streams may be."""
        return self.calls == 0

    def start(self, connect: Callable[[], Awaitable[Channel]], log: Callable[[str], None]) -> asyncio.Task[None]:
        """Begin to run it; the task ends when nothing of the channel is left."""
        return asyncio.get_running_loop().create_task(self._live(connect, log))

    def end_soon(self) -> None:
        """Begin to end it, with its grace; open calls fail with UPSTREAM_BROKEN, streams end."""
        self._fail(ErrorCode.UPSTREAM_BROKEN, "the server is being ended", ours=True)

    # What clients send.

    async def call(self, message: Message, timeout: float) -> UpstreamAnswer:  # noqa: ASYNC109 - of `UpstreamRequest`
        """Pass a request on. The answer is JSON if the response is the first that comes, else a stream of events.

        Raises:
            GateError: UPSTREAM_UNAVAILABLE (nothing was sent), UPSTREAM_TIMEOUT, UPSTREAM_BROKEN, UPSTREAM_INVALID;
                INVALID_PARAMS for a progress token that is none.
        """
        listens = self._modern and message.method == LISTEN
        self._claim(listens)
        streaming = False
        try:
            async with asyncio.timeout(timeout):
                answer = await self._exchange(message, None if listens else timeout)
                streaming = isinstance(answer, StreamAnswer)
                return answer
        except TimeoutError as error:
            raise GateError(ErrorCode.UPSTREAM_TIMEOUT, f"no answer for {timeout} s") from error
        finally:
            if not streaming:
                self._release(listens)

    async def respond(self, message: Message, timeout: float) -> None:  # noqa: ASYNC109 - as above
        """Pass on a client's response to a question of the server's; one that nobody asked is dropped.

        Raises:
            GateError: UPSTREAM_TIMEOUT, UPSTREAM_BROKEN.
        """
        data = self._conversation.answer(message)
        if data is None or self._channel is None or self._failure is not None:
            return
        try:
            async with asyncio.timeout(timeout):
                await self._channel.write(data)
        except TimeoutError as error:
            raise GateError(ErrorCode.UPSTREAM_TIMEOUT, f"the server took no message for {timeout} s") from error

    def notify(self, message: Message) -> None:
        """Pass a client's notification on, if the server is there and it concerns the server."""
        if self._ready.is_set():
            self._conversation.notify(message)

    def attach(self, stream: Mailbox) -> None:
        """Give what belongs to no call to this stream."""
        self._conversation.attach(stream)

    def detach(self, stream: Mailbox) -> None:
        """The stream's reader has gone."""
        self._conversation.detach(stream)
        self.last_used = self._clock.monotonic()

    def _claim(self, listens: bool) -> None:
        limit = self._limits.listens if listens else self._limits.pending
        if (self.listens if listens else self.calls) >= limit:
            kind = "subscriptions" if listens else "calls"
            raise GateError(ErrorCode.UPSTREAM_UNAVAILABLE, f"{limit} {kind} of this principal are open")
        if listens:
            self.listens += 1
        else:
            self.calls += 1

    def _release(self, listens: bool) -> None:
        if listens:
            self.listens -= 1
        else:
            self.calls -= 1
        self.last_used = self._clock.monotonic()
        if self.spare:
            self._on_idle()

    async def _exchange(self, message: Message, silence: float | None) -> UpstreamAnswer:
        await self._ready.wait()
        channel = self._usable()
        if message.method == "initialize" and not self._modern and self._session is not None:
            welcome = Message(Kind.RESPONSE, message.id, "", {}, self._welcome)
            return FixedAnswer(200, encode_message(welcome), _JSON, self._session.id)
        call, data = self._conversation.begin(message)
        # Beside the answer, not before it: a server may take the message only after it has asked the client something.
        writing = asyncio.get_running_loop().create_task(self._write(channel, call, data))
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)
        keep = False
        try:
            response = await call.mailbox.arrived()
            if response is not None:
                return FixedAnswer(200, response, _JSON)
            keep = True
        finally:
            if not keep:
                self._give_up(call, writing)
        return StreamAnswer(
            call.mailbox, silence=silence, patience=self._limits.patience, close=lambda: self._close(call, writing)
        )

    @staticmethod
    async def _write(channel: Channel, call: OpenCall, data: bytes) -> None:
        try:
            await channel.write(data)
        except GateError as error:
            call.mailbox.fail(error.code, error.debug)

    def _give_up(self, call: OpenCall, writing: asyncio.Task[None]) -> None:
        if self._conversation.abandon(call):
            writing.cancel()
        elif not writing.done():
            # An answer may overtake the server's word that it took the request.
            asyncio.get_running_loop().call_later(_RECEIPT_SECONDS, writing.cancel)

    def _close(self, call: OpenCall, writing: asyncio.Task[None]) -> None:
        self._give_up(call, writing)
        self._release(call.listens)

    def _usable(self) -> Channel:
        if self._channel is None or self._failure is not None:
            raise GateError(*(self._failure or (ErrorCode.UPSTREAM_UNAVAILABLE, "the server is being ended")))
        return self._channel

    def _offer(self, data: bytes) -> None:
        if self._channel is not None and self._failure is None:
            self._channel.offer(data)

    # Its life.

    async def _live(self, connect: Callable[[], Awaitable[Channel]], log: Callable[[str], None]) -> None:
        try:
            self._channel = channel = await connect()
            try:
                if self._failure is None:
                    await self._serve(channel)
            finally:
                await channel.end(now=not self._ours)
                for writing in self._writing:
                    writing.cancel()
                await asyncio.gather(*self._writing, return_exceptions=True)
        except GateError as error:
            self._fail(error.code, error.debug)
        finally:
            self._fail(ErrorCode.UPSTREAM_BROKEN, "the link was stopped")
            if self._conversation.dropped:
                log(f"({self._conversation.dropped} messages of the server belonged to nobody)")

    async def _serve(self, channel: Channel) -> None:
        greeting = asyncio.get_running_loop().create_task(self._greet(channel))
        try:
            taken = 0
            async for data in channel.messages():
                taken += 1
                if taken % _TURN == 0:
                    await asyncio.sleep(0)  # a flood must not hold the event loop
                # What a server still writes while it is being ended is read, so that it can end.
                if self._failure is None:
                    self._conversation.take(parse_answer(data, max_bytes=self._limits.message_bytes))
            self._fail(ErrorCode.UPSTREAM_BROKEN, "the server ended or closed its stream")
        except GateError as error:
            self._fail(error.code, error.debug)
        finally:
            greeting.cancel()
            with suppress(asyncio.CancelledError):
                await greeting

    async def _greet(self, channel: Channel) -> None:
        """Shake hands as a client with this session does; the stateless era needs nothing of the kind."""
        if self._modern:
            self._ready.set()
            return
        hello = {
            "protocolVersion": HANDSHAKE_VERSIONS[-1] if self._session is None else self._session.version,
            "capabilities": {} if self._session is None else dict(self._session.capabilities),
            "clientInfo": {"name": "twogate", "version": __version__},
        }
        try:
            async with asyncio.timeout(self._limits.handshake):
                call, data = self._conversation.begin(Message(Kind.REQUEST, 0, "initialize", hello), ours=True)
                await channel.write(data)
                await call.mailbox.arrived()
                if call.answered is None or call.answered.is_error:
                    self._fail(ErrorCode.UPSTREAM_UNAVAILABLE, "initialize was answered with an error")
                    return
                self._welcome = call.answered.payload
                await channel.write(_INITIALIZED)
        except TimeoutError:
            self._fail(ErrorCode.UPSTREAM_UNAVAILABLE, f"no handshake in {self._limits.handshake} s")
        except GateError as error:
            self._fail(error.code, error.debug)
        else:
            self._ready.set()

    def _fail(self, code: ErrorCode, why: str, *, ours: bool = False) -> None:
        """End every open call with this error, the streams, and the channel."""
        if self._failure is not None:
            return
        # Before the handshake is done no call was sent.
        if code is ErrorCode.UPSTREAM_BROKEN and not self._ready.is_set():
            code = ErrorCode.UPSTREAM_UNAVAILABLE
        self._failure = (code, why)
        self._ours = ours
        self._ready.set()
        self._conversation.fail(code, why)
        if self._channel is not None:
            self._channel.end_soon(now=not ours)
        if not ours:
            self._on_failure()
