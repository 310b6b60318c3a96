"""The call's way to its MCP server. The caller's credential is not here: the parsed message alone goes upstream."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Container, Mapping
from contextlib import suppress
from typing import Final

import msgspec

from twogate.core.access import Policy
from twogate.core.errors import METHOD_NOT_FOUND, GateError
from twogate.core.message import Kind, Message, encode_message
from twogate.core.principal import PrincipalKey
from twogate.flows.gateway.answers import Shown
from twogate.flows.gateway.exchange import Exchange, Header
from twogate.flows.gateway.headers import upstream_headers
from twogate.flows.gateway.identify import Identifier
from twogate.flows.gateway.meta import ASKS
from twogate.flows.gateway.pins import AnswerPins, PinBook
from twogate.flows.gateway.read import Call
from twogate.flows.gateway.record import Recorded, Recorder
from twogate.flows.gateway.relay import Relay
from twogate.flows.gateway.seal import Seal
from twogate.flows.gateway.streams import Renew
from twogate.flows.gateway.upstream import Upstream, UpstreamAnswer, UpstreamRequest

_NOTHING: Final[frozenset[str]] = frozenset()


class Server(msgspec.Struct, frozen=True):
    """One configured MCP server: its connection, in seconds how long it may be silent within an answer, and `asks`.

    `asks` is what it may ask of clients: `sampling`, `elicitation`, `roots`. `identified`: it is told who calls.
    """

    upstream: Upstream
    timeout: float
    asks: frozenset[str] = _NOTHING
    identified: bool = False


class Forwarder:
    """Forwards recorded calls to the configured servers; `required` ones show nothing that nobody approved.

    `on_list_changed` is told the name of a server whose tools or prompts changed; `closing` ends every long-lived
    stream; with `remembers`, sessions keep that a client can have its user open URLs, for calls that wait.
    """

    def __init__(  # noqa: PLR0913 - what each call's relay needs
        self,
        servers: Mapping[str, Server],
        recorder: Recorder,
        seal: Seal,
        policy: Policy,
        on_list_changed: Callable[[str], None],
        closing: tuple[asyncio.Event, ...],
        identifier: Identifier,
        pins: PinBook,
        required: frozenset[str],
        *,
        remembers: bool = False,
    ) -> None:
        self._servers = servers
        self._identifier = identifier
        self._pins = pins
        self._required = required
        self._recorder = recorder
        self._seal = seal
        self._policy = policy
        self._on_list_changed = on_list_changed
        self._closing = closing
        self._remembers = remembers
        # By caller and server: calls under way that a token or an approval let run.
        self._signed_for = Counter[tuple[PrincipalKey, str]]()

    def knows(self, server: str) -> bool:
        """Whether a server of this name is configured."""
        return server in self._servers

    def asks(self, server: str) -> frozenset[str]:
        """What a configured server may ask of clients."""
        return self._servers[server].asks

    def may_ask(self, server: str, method: str) -> bool:
        """Whether a configured server may make this request of clients."""
        return method == "ping" or ASKS.get(method) in self.asks(server)

    async def forward(self, recorded: Recorded, exchange: Exchange, renew: Renew) -> None:
        """Send the call on and its answer back; record how it ended, whatever happens.

        A failure is answered here too, so nothing is raised but what the exchange itself raises.
        """
        call = recorded.admitted.call
        name = call.head.server
        server = self._servers[name]
        pins = AnswerPins(self._pins, call.principal.tenant, name, required=name in self._required)
        shown = Shown(recorded.admitted, self._seal, self._policy, server.asks, pins)
        identity: tuple[Header, ...] = ()
        side = _ServerSide(server, call, lambda: self._on_list_changed(name), self._signed_for)
        relay = Relay(
            recorded,
            exchange,
            self._recorder,
            self._seal,
            shown,
            side,
            renew,
            self._closing,
            remembers=self._remembers,
        )
        answer: UpstreamAnswer | None = None
        signed_for = None if recorded.admitted.operation is None else (call.principal.key, name)
        if signed_for is not None:
            self._signed_for[signed_for] += 1
        try:
            if server.identified:
                side.identity = identity = (await self._identifier.header(recorded.admitted),)
            answer = await server.upstream.send(_request(server, call, recorded, identity))
            if recorded.admitted.operation is not None:
                recorded.admitted.operation.answered()
            await relay.run(answer)
        except asyncio.CancelledError:
            # Nobody is left to be told that the outcome could not be written; the cancellation itself must go on.
            with suppress(GateError):
                await relay.aborted()
            raise
        except GateError as error:
            await relay.failed(error)
        finally:
            if signed_for is not None:
                self._signed_for[signed_for] -= 1
                self._signed_for += Counter()  # keeps what is above zero
            if answer is not None:
                await answer.aclose()
            if not relay.settled:
                await relay.settle()


class _ServerSide:
    """What the relay of one call tells its server; implements `relay.ServerSide`."""

    def __init__(
        self,
        server: Server,
        call: Call,
        list_changed: Callable[[], None],
        signed_for: Container[tuple[PrincipalKey, str]],
    ) -> None:
        self._server = server
        self._call = call
        self.list_changed = list_changed
        self.identity: tuple[Header, ...] = ()
        self._signed_for = signed_for

    @property
    def quiet(self) -> bool:
        # Nobody signed for what the agent would answer; and which call a question is about, not every server says.
        return (self._call.principal.key, self._call.head.server) in self._signed_for

    async def refuse(self, request: Message) -> None:
        refusal = {"code": METHOD_NOT_FOUND, "message": "Method not found"}
        message = Message(Kind.RESPONSE, request.id, "", {}, refusal, is_error=True)
        # A server that cannot be told waits for its own time limit; the call goes on.
        with suppress(GateError):
            answer = await self._server.upstream.send(
                UpstreamRequest(
                    owner=self._call.principal.key,
                    http_method="POST",
                    headers=(
                        *upstream_headers(message, self._call.version, self._call.upstream_session),
                        *self.identity,
                    ),
                    body=encode_message(message),
                    message=message,
                    modern=self._call.modern,
                    timeout=self._server.timeout,
                    session=self._call.upstream_session,
                )
            )
            await answer.aclose()


def _request(server: Server, call: Call, recorded: Recorded, identity: tuple[Header, ...]) -> UpstreamRequest:
    message = recorded.message if recorded.body else None
    last_event = None if call.resumed is None else call.resumed.id
    return UpstreamRequest(
        owner=call.principal.key,
        http_method=call.head.method,
        headers=(
            *upstream_headers(
                message, call.version, call.upstream_session, recorded.admitted.param_headers, last_event
            ),
            *identity,
        ),
        body=recorded.body,
        message=message,
        modern=call.modern,
        timeout=server.timeout,
        session=call.upstream_session,
        stream=call.stream,
        admitted=recorded.admitted,
    )
