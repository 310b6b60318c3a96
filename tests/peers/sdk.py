"""The official Python client against a gateway: connecting it, and reading what it makes of a refusal."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.auth import OAuthClientProvider
from mcp.client.auth.extensions.client_credentials import (
    ClientCredentialsOAuthProvider,
    PrivateKeyJWTOAuthProvider,
    SignedJWTParameters,
)
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken
from mcp_types import CallToolResult, TextContent

from processlab import PATIENCE, Gateway

ERAS = {"legacy": "2025-11-25", "2026-07-28": "2026-07-28"}
"""The SDK's connection modes of both eras, with the protocol version that each must settle on."""


class Memory:
    """Keeps the SDK's tokens for one connection."""

    def __init__(self) -> None:
        self.tokens: OAuthToken | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return None

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        del client_info


def provider(added: Mapping[str, Any], url: str) -> OAuthClientProvider:
    """The SDK's own way to tokens, with what `twogate agent add --json` printed."""
    client_id, issuer = added["client_id"], added["issuer"]
    if "client_secret" in added:
        return ClientCredentialsOAuthProvider(
            server_url=url, storage=Memory(), client_id=client_id, client_secret=added["client_secret"], issuer=issuer
        )
    signer = SignedJWTParameters(
        issuer=client_id, subject=client_id, signing_key=added["private_key_pem"], signing_algorithm="ES256"
    )
    return PrivateKeyJWTOAuthProvider(
        server_url=url,
        storage=Memory(),
        client_id=client_id,
        assertion_provider=signer.create_assertion_provider(),
        issuer=issuer,
    )


@asynccontextmanager
async def connected(
    gateway: Gateway, added: Mapping[str, Any], server: str, mode: str, **headers: str
) -> AsyncIterator[Client]:
    """A client of one server behind the gateway, as a program that uses the SDK would make it."""
    url = f"{gateway.url}/mcp/{server}"
    async with (
        httpx2.AsyncClient(
            auth=provider(added, url), verify=gateway.trust(), timeout=PATIENCE, trust_env=False, headers=headers
        ) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode, read_timeout_seconds=PATIENCE) as client,
    ):
        yield client


def text(result: CallToolResult) -> str:
    """The text of a result that is no error."""
    assert not result.is_error, result
    return "".join(item.text for item in result.content if isinstance(item, TextContent))


def leaves(group: BaseException) -> Iterator[BaseException]:
    """The exceptions of a group, however deep; the SDK's connections wrap what ends them."""
    if isinstance(group, BaseExceptionGroup):
        for inner in group.exceptions:
            yield from leaves(inner)
    else:
        yield group


async def refused(call: Callable[[], Awaitable[object]]) -> tuple[int, str]:
    """Code and reason of the error with which a call must end, be it while connecting."""
    with pytest.raises((MCPError, BaseExceptionGroup)) as caught:
        await call()
    (error,) = leaves(caught.value)
    assert isinstance(error, MCPError)
    return error.code, error.data["reason"]
