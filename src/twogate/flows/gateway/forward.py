"""The call's way to its MCP server. The caller's credential is not here: the parsed message alone goes upstream."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

import msgspec

from twogate.core.access import Policy
from twogate.core.errors import GateError
from twogate.flows.gateway.exchange import Exchange
from twogate.flows.gateway.headers import upstream_headers
from twogate.flows.gateway.record import Recorded, Recorder
from twogate.flows.gateway.relay import Relay
from twogate.flows.gateway.upstream import Upstream, UpstreamAnswer, UpstreamRequest
from twogate.flows.gateway.upstream_session import UpstreamSessions


class Server(msgspec.Struct, frozen=True):
    """One configured MCP server: its connection and, in seconds, how long it may be silent within an answer."""

    upstream: Upstream
    timeout: float


class Forwarder:
    """Forwards recorded calls to the configured servers."""

    def __init__(
        self, servers: Mapping[str, Server], recorder: Recorder, sealed: UpstreamSessions, policy: Policy
    ) -> None:
        self._servers = servers
        self._recorder = recorder
        self._sealed = sealed
        self._policy = policy

    def knows(self, server: str) -> bool:
        """Whether a server of this name is configured."""
        return server in self._servers

    async def forward(self, recorded: Recorded, exchange: Exchange) -> None:
        """Send the call on and its answer back; record how it ended, whatever happens.

        A failure is answered here too, so nothing is raised but what the exchange itself raises.
        """
        call = recorded.admitted.call
        server = self._servers[call.head.server]
        message = recorded.message if recorded.body else None
        relay = Relay(recorded, exchange, self._recorder, self._sealed, self._policy)
        answer: UpstreamAnswer | None = None
        try:
            answer = await server.upstream.send(
                UpstreamRequest(
                    owner=call.principal.key,
                    http_method=call.head.method,
                    headers=upstream_headers(message, call.version, call.upstream_session, call.param_headers),
                    body=recorded.body,
                    message=message,
                    modern=call.modern,
                    timeout=server.timeout,
                    session=call.upstream_session,
                )
            )
            await relay.run(answer)
        except asyncio.CancelledError:
            # Nobody is left to be told that the outcome could not be written; the cancellation itself must go on.
            with suppress(GateError):
                await relay.aborted()
            raise
        except GateError as error:
            await relay.failed(error)
        finally:
            if answer is not None:
                await answer.aclose()
            if not relay.settled:
                await relay.settle()
