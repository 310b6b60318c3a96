"""The demo's agent: built on the official MCP client, with a key of its own and one session."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final, Self, cast

import httpx2
import mcp_types as types
import msgspec
from mcp import Client, MCPError
from mcp.client.auth import OAuthFlowError
from mcp.client.auth.extensions.client_credentials import PrivateKeyJWTOAuthProvider, SignedJWTParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken

from twogate.adapters.audit_tail import Filter, tail
from twogate.cli.demo.stage import Stage
from twogate.core.operation import META
from twogate.flows.gateway.approval_forms import REASON

HEADERS: Final = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-11-25"}
"""What a client of MCP 2025-11-25 sends with a message."""

BROKEN: Final = (MCPError, OAuthFlowError, httpx2.HTTPError)
"""How a step breaks that did not go as it must."""

_TIMEOUT: Final = 60.0
_RECENT: Final = 20


class Answer(msgspec.Struct, frozen=True):
    """What came of a call: its text if it ran, else the reason that the agent was told and the exact one."""

    text: str = ""
    told: str = ""
    exact: str = ""

    @property
    def ran(self) -> bool:
        """Whether it ran."""
        return not self.told

    @property
    def why(self) -> str:
        """Why not, as the trail and the agent have it."""
        return f"{self.exact} (the agent is told the same)" if self.exact == self.told else (
            f"{self.exact} (the agent is told: {self.told})"
        )  # fmt: skip


class MemoryTokens:
    """Keeps tokens for the SDK, in memory."""

    def __init__(self) -> None:
        self.tokens: OAuthToken | None = None
        self.client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        """The tokens, if any."""
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        """Keep them."""
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        """The registration, if any."""
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        """Keep it."""
        self.client = client_info


class Agent:
    """Calls tools as the official client does, and stays connected until the block ends.

    `session` is empty until it has declared its task. `visit` is what its user does when a page is to be opened.
    """

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.session = ""
        self.visit: Callable[[str], Awaitable[None]] | None = None
        self._kept: dict[str, MemoryTokens] = {}
        self._clients: dict[str, Client] = {}
        self._connections: list[asyncio.Task[None]] = []
        self._leaving = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Nothing is connected yet."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leave every server."""
        await self.leave()

    async def leave(self) -> None:
        """End every connection, and the session that its calls were in."""
        self._leaving.set()
        await asyncio.gather(*self._connections, return_exceptions=True)
        self.session = ""

    def tokens(self, url: str) -> OAuthToken | None:
        """The tokens that it got for an address so far."""
        kept = self._kept.get(url)
        return None if kept is None else kept.tokens

    def bearer(self, url: str) -> dict[str, str]:
        """The header that presents the token for an address, wherever it is sent."""
        tokens = self.tokens(url)
        return {"authorization": f"Bearer {'' if tokens is None else tokens.access_token}"}

    def http(self, url: str = "") -> httpx2.AsyncClient:
        """An HTTP client in its session; for an address, with the SDK's OAuth: discovery, assertion, token."""
        headers = {"twogate-session": self.session} if self.session else {}
        auth = self._auth(url) if url else None
        return httpx2.AsyncClient(verify=self.stage.tls, auth=auth, headers=headers, timeout=_TIMEOUT, trust_env=False)

    async def client(self, server: str) -> Client:
        """The official client, connected to a server in the session."""
        if server not in self._clients:
            ready = asyncio.Event()
            # A task of its own, because a connection must end in the task that it began in.
            connection = asyncio.create_task(self._stay(server, ready))
            self._connections.append(connection)
            await either(ready, connection)
        return self._clients[server]

    @contextlib.asynccontextmanager
    async def connected(self, server: str) -> AsyncGenerator[Client]:
        """The official client, connected to a server until the block ends."""
        url = self.stage.server_url(server)
        async with (
            self.http(url) as http,
            Client(streamable_http_client(url, http_client=http), elicitation_callback=self._elicit) as client,
        ):
            yield client

    async def call(self, server: str, tool: str, arguments: dict[str, Any], *, token: str = "") -> Answer:
        """Call a tool, with an operation token if it has one."""
        meta: Any = {META: token} if token else None
        client = await self.client(server)
        try:
            result = await client.call_tool(tool, arguments, meta=meta)
        except MCPError as error:
            data = cast("dict[str, Any]", error.error.data or {})
            return self._refused(str(data.get("reason", error.error.message)))
        told = (result.meta or {}).get(REASON)
        text = "\n".join(str(getattr(item, "text", "")) for item in cast("list[Any]", result.content))
        return self._refused(str(told)) if told is not None else Answer(text)

    def last_reason(self) -> str:
        """The exact reason of the last refusal, from the audit trail."""
        recent = [entry.event for entry in tail(self.stage.audit, _RECENT, where=Filter()) if entry.event is not None]
        return next((event.reason for event in reversed(recent) if event.reason), "")

    async def _stay(self, server: str, ready: asyncio.Event) -> None:
        async with self.connected(server) as client:
            self._clients[server] = client
            ready.set()
            await self._leaving.wait()

    async def _elicit(self, context: object, params: types.ElicitRequestParams) -> types.ElicitResult:  # noqa: ARG002
        """The SDK's callback, named as it names it."""
        if self.visit is None or not isinstance(params, types.ElicitRequestURLParams):
            return types.ElicitResult(action="cancel")
        await self.visit(params.url)
        return types.ElicitResult(action="accept")

    def _refused(self, told: str) -> Answer:
        return Answer(told=told, exact=self.last_reason())

    def _auth(self, url: str) -> httpx2.Auth:
        key = self.stage.reporter
        signer = SignedJWTParameters(
            issuer=key.client_id, subject=key.client_id, signing_key=key.private_key_pem, signing_algorithm="ES256"
        )
        return PrivateKeyJWTOAuthProvider(
            server_url=url,
            storage=self._kept.setdefault(url, MemoryTokens()),
            client_id=key.client_id,
            assertion_provider=signer.create_assertion_provider(),
            issuer=key.issuer,
        )


async def either(event: asyncio.Event, task: asyncio.Task[Any]) -> bool:
    """Wait for an event or the end of a task; whether it was the event. If the task failed, so does this."""
    waiting = asyncio.create_task(event.wait())
    await asyncio.wait({waiting, task}, return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        return True
    waiting.cancel()
    await task
    return False
