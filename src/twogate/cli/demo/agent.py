"""The demo's agent: built on the official MCP client, it goes through both gates and tries what it should not."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, cast

import httpx2
import msgspec
from mcp import Client, MCPError
from mcp.client.auth import OAuthFlowError
from mcp.client.auth.extensions.client_credentials import PrivateKeyJWTOAuthProvider, SignedJWTParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken

from twogate.adapters.audit_tail import Filter, tail
from twogate.cli.demo.stage import RETIRED, TASK, AgentKey, Stage, run

_CALL: dict[str, Any] = {
    "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "git_log", "arguments": {}},
}  # fmt: skip
_PING: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
_HEADERS = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-11-25"}


class Step(msgspec.Struct, frozen=True):
    """One thing that the agent tried. `expected` says whether Twogate did what it must."""

    name: str
    gate: str
    decision: str
    why: str
    expected: bool


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


class DemoAgent:
    """Plays the steps in order; each looks up the exact reason on the audit trail."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._session = ""
        self._tokens = MemoryTokens()

    async def play(self) -> list[Step]:
        """Try everything, in order; a step that breaks is one that did not go as it must."""
        return [await _tried(step) for step in self.steps()]

    def steps(self) -> list[Callable[[], Awaitable[Step]]]:
        """The steps, in order."""
        return [
            self.no_token,
            self.token,
            self.declare,
            self.listed,
            self.read_repository,
            self.read_database,
            self.outside_the_task,
            self.write,
            self.other_audience,
            self.disabled,
        ]

    async def no_token(self) -> Step:
        """A call without any credential."""
        async with self._http() as http:
            response = await http.post(self._stage.server_url("git"), json=_CALL, headers=_HEADERS)
        return self._refused("call without a token", "one", response.status_code, 401, "credential_missing")

    async def token(self) -> Step:
        """The SDK discovers the authorization server and gets a token with its signed assertion."""
        async with self._connected("git"):
            pass
        tokens = self._tokens.tokens
        got = tokens is not None and tokens.expires_in is not None
        why = f"private_key_jwt; the token lives {tokens.expires_in} s" if tokens is not None else "no token"
        return Step("get a token, connect", "one", "allow", why, got)

    async def declare(self) -> Step:
        """The agent declares its task and gets a session for it."""
        url = f"{self._stage.public_url}/sessions"
        async with self._http(self._auth(self._stage.reporter, url, MemoryTokens())) as http:
            response = await http.post(url, json={"task": TASK})
        if not response.is_success:
            return Step(f"declare the task {TASK}", "two", "refuse", response.text, expected=False)
        answer: dict[str, Any] = response.json()
        self._session = answer["session"]
        minutes = (answer["deadline"] - answer["created_at"]) // 60
        return Step(
            f"declare the task {TASK}", "two", "allow", f"a session of {minutes} minutes at most", expected=True
        )

    async def listed(self) -> Step:
        """The list shows what role and task both hold, and nothing else."""
        async with self._connected("git") as client:
            names = sorted(tool.name for tool in (await client.list_tools()).tools)
        expected = names == ["git_commit", "git_log"]
        return Step("list the tools of git", "two", "filter", f"shown: {', '.join(names)}", expected)

    async def read_repository(self) -> Step:
        """An allowed read of the real repository."""
        async with self._connected("git") as client:
            text = _text(await client.call_tool("git_log", {"repo_path": str(self._stage.repository)}))
        found = "Add the summary" in text
        return Step(
            "git_log", "two", "allow", "3 commits read" if found else text[:60], found and text.count("Ada") > 1
        )

    async def read_database(self) -> Step:
        """An allowed query of the real database, at a server that speaks an older protocol version."""
        async with self._connected("sqlite") as client:
            query = {"query": "SELECT customer, total FROM orders ORDER BY total DESC"}
            text = _text(await client.call_tool("read_query", query))
        found = "Hooli" in text and "4300" in text
        return Step("read_query", "two", "allow", "3 orders read" if found else text[:60], found)

    async def outside_the_task(self) -> Step:
        """A tool that the role has but the task does not."""
        arguments = {"repo_path": str(self._stage.repository), "revision": "HEAD"}
        return await self._refused_call(
            "git", "git_show (not in the task)", "git_show", arguments, "task_not_permitted"
        )

    async def write(self) -> Step:
        """A write that the task names, which needs an operation token all the same."""
        before = self._head()
        arguments = {"repo_path": str(self._stage.repository), "message": "Injected"}
        step = await self._refused_call(
            "git", "git_commit (a write)", "git_commit", arguments, "operation_token_required"
        )
        return msgspec.structs.replace(step, expected=step.expected and self._head() == before)

    async def other_audience(self) -> Step:
        """The token for git, presented at sqlite."""
        tokens = self._tokens.tokens
        headers = {**_HEADERS, "authorization": f"Bearer {'' if tokens is None else tokens.access_token}"}
        async with self._http() as http:
            response = await http.post(self._stage.server_url("sqlite"), json=_CALL, headers=headers)
        return self._refused("git's token at sqlite", "one", response.status_code, 401, "audience_mismatch")

    async def disabled(self) -> Step:
        """An agent that worked a moment ago is disabled: its unexpired token is refused at the next request."""
        url, tokens = self._stage.server_url("git"), MemoryTokens()
        async with self._http(self._auth(self._stage.retired, url, tokens), session="") as http:
            before = await http.post(url, json=_PING, headers=_HEADERS)
        done = self._stage.twogate("agent", "disable", RETIRED)
        token = "" if tokens.tokens is None else tokens.tokens.access_token
        headers = {**_HEADERS, "authorization": f"Bearer {token}"}
        async with self._http(session="") as http:
            response = await http.post(url, json=_PING, headers=headers)
        step = self._refused("call of a disabled agent", "one", response.status_code, 401, "agent_disabled")
        return msgspec.structs.replace(step, expected=step.expected and before.is_success and done.returncode == 0)

    async def _refused_call(self, server: str, name: str, tool: str, arguments: dict[str, Any], reason: str) -> Step:
        async with self._connected(server) as client:
            try:
                text = _text(await client.call_tool(tool, arguments))
            except MCPError as error:
                told = cast("dict[str, Any]", error.error.data or {}).get("reason", "")
                exact = self._last_reason()
                return Step(name, "two", "refuse", f"{exact} (the agent is told: {told})", exact == reason)
        return Step(name, "two", "ALLOWED", text[:60], expected=False)

    def _refused(self, name: str, gate: str, status: int, wanted: int, reason: str) -> Step:
        exact = self._last_reason()
        return Step(name, gate, "refuse", f"{exact} (HTTP {status})", status == wanted and exact == reason)

    def _last_reason(self) -> str:
        entries = [entry.event for entry in tail(self._stage.audit, 20, where=Filter()) if entry.event is not None]
        return next((event.reason for event in reversed(entries) if event.reason), "")

    def _head(self) -> str:
        return run(["git", "rev-parse", "HEAD"], self._stage.repository).stdout

    def _http(self, auth: httpx2.Auth | None = None, session: str | None = None) -> httpx2.AsyncClient:
        session = self._session if session is None else session
        headers = {"twogate-session": session} if session else {}
        return httpx2.AsyncClient(verify=self._stage.tls, auth=auth, headers=headers, timeout=30, trust_env=False)

    def _auth(self, agent: AgentKey, url: str, tokens: MemoryTokens) -> httpx2.Auth:
        signer = SignedJWTParameters(
            issuer=agent.client_id,
            subject=agent.client_id,
            signing_key=agent.private_key_pem,
            signing_algorithm="ES256",
        )
        return PrivateKeyJWTOAuthProvider(
            server_url=url,
            storage=tokens,
            client_id=agent.client_id,
            assertion_provider=signer.create_assertion_provider(),
            issuer=agent.issuer,
        )

    @contextlib.asynccontextmanager
    async def _connected(self, server: str) -> AsyncGenerator[Client]:
        url = self._stage.server_url(server)
        tokens = self._tokens if server == "git" else MemoryTokens()
        async with (
            self._http(self._auth(self._stage.reporter, url, tokens)) as http,
            Client(streamable_http_client(url, http_client=http)) as client,
        ):
            yield client


def _text(result: object) -> str:
    content = cast("list[Any]", getattr(result, "content", []))
    return "\n".join(str(getattr(item, "text", "")) for item in content)


async def _tried(step: Callable[[], Awaitable[Step]]) -> Step:
    try:
        return await step()
    except (MCPError, OAuthFlowError, httpx2.HTTPError, ExceptionGroup) as error:
        causes = error.exceptions if isinstance(error, ExceptionGroup) else (error,)
        return Step(step.__name__, "-", "failed", "; ".join(str(cause) for cause in causes), expected=False)
