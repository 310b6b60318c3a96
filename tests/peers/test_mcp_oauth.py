"""Official MCP clients find the authorization server from a server's address alone, log a person in, and call a tool.

They are known by a document of their own (CIMD), or register themselves (DCR). The document lies at a public address,
as far as the gateway can tell: see `named_serve`.
"""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import jwt
import pytest
from mcp import Client
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from mcp_types import TextContent

from harness.stack import free_port
from peers.oauthworld import (
    CALL,
    DOCUMENTS,
    SAID,
    TOOL,
    DocumentServer,
    OAuthWorld,
    document_server,
    node_flow,
    oauth_world,
)
from peers.peers import INSPECTOR, NODE, TYPESCRIPT_CLIENTS, require
from peers.person import Person
from peers.sdk import ERAS
from peers.servers import everything_server
from processlab import PATIENCE

pytestmark = pytest.mark.peer

REDIRECT = "http://127.0.0.1:7777/callback"
KNOWN_BY = ("document", "registration")


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DocumentServer]:
    with document_server(tmp_path_factory.mktemp("documents")) as served:
        yield served


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, documents: DocumentServer) -> Iterator[OAuthWorld]:
    open_doors = {
        "cimd": [{"tenant": "acme", "domain": DOCUMENTS}],
        "registration": {"mode": "open", "tenant": "acme"},
    }
    with (
        everything_server() as url,
        oauth_world(tmp_path_factory.mktemp("twogate"), url, documents, **open_doors) as made,
    ):
        yield made


@pytest.fixture
def person(world: OAuthWorld) -> Iterator[Person]:
    with world.person() as somebody:
        yield somebody


def published(documents: DocumentServer, name: str, redirect_uri: str = "http://127.0.0.1/callback") -> str:
    """Publish a document under a path of its own, so that nothing is cached from another test."""
    return documents.put(
        f"/{name}.json",
        client_name=f"Made by {name}",
        redirect_uris=[redirect_uri],
        grant_types=["authorization_code", "refresh_token"],
        response_types=["code"],
        token_endpoint_auth_method="none",
    )


class Memory:
    """What a program would keep between its starts."""

    def __init__(self) -> None:
        self.tokens: OAuthToken | None = None
        self.seen: list[OAuthToken] = []
        self.client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens
        self.seen.append(tokens)

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


async def call_by_python(
    world: OAuthWorld, person: Person, memory: Memory, mode: str, document: str | None, *, expired: bool = False
) -> tuple[str, int]:
    """Call the tool as a program on the Python SDK; what it said, and how often the person was sent to the server.

    With `expired` it calls once more, after its token has expired as far as it knows.
    """
    opened: list[str] = []

    async def open_page(url: str) -> None:
        opened.append(await asyncio.to_thread(person.open, url))

    async def wait_for_callback() -> AuthorizationCodeResult:
        answer = {name: value[0] for name, value in parse_qs(urlsplit(opened[-1]).query).items()}
        return AuthorizationCodeResult(code=answer["code"], state=answer["state"], iss=answer["iss"])

    provider = OAuthClientProvider(
        server_url=world.resource,
        client_metadata=OAuthClientMetadata.model_validate(
            {"redirect_uris": [REDIRECT], "client_name": "Python client", "token_endpoint_auth_method": "none"}
        ),
        storage=memory,
        redirect_handler=open_page,
        callback_handler=wait_for_callback,
        client_metadata_url=document,
    )
    trust = ssl.create_default_context(cafile=world.ca)
    async with (
        httpx2.AsyncClient(auth=provider, verify=trust, timeout=PATIENCE, trust_env=False) as http,
        Client(
            streamable_http_client(world.resource, http_client=http), mode=mode, read_timeout_seconds=PATIENCE
        ) as client,
    ):
        result = await client.call_tool(TOOL, {})
        if expired:
            provider.context.token_expiry_time = 1
            result = await client.call_tool(TOOL, {})
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text, len(opened)


@pytest.mark.parametrize("mode", ERAS)
@pytest.mark.parametrize("known_by", KNOWN_BY)
async def test_the_python_client(
    world: OAuthWorld, documents: DocumentServer, person: Person, mode: str, known_by: str
) -> None:
    document = published(documents, f"python-{mode}") if known_by == "document" else None
    memory = Memory()
    assert await call_by_python(world, person, memory, mode, document) == (SAID, 1)
    assert memory.client is not None
    assert memory.tokens is not None
    assert memory.client.client_id is not None
    assert (memory.client.client_id == document) is (known_by == "document")
    token = jwt.decode(memory.tokens.access_token, options={"verify_signature": False})
    assert (token["client_id"], token["aud"]) == (memory.client.client_id, world.resource)
    consent = person.seen[-1]
    assert "No administrator has checked this application" in consent
    assert (DOCUMENTS if document else "Python client") in consent
    # The next start needs nobody: the token is there.
    assert await call_by_python(world, person, memory, mode, document) == (SAID, 0)


async def test_the_python_client_refreshes_what_has_expired(
    world: OAuthWorld, documents: DocumentServer, person: Person
) -> None:
    document, memory = published(documents, "refreshing"), Memory()
    assert await call_by_python(world, person, memory, "legacy", document, expired=True) == (SAID, 1)
    assert memory.tokens is not None
    assert len(memory.seen) == 2
    assert memory.seen[0].refresh_token != memory.seen[1].refresh_token


async def test_the_python_client_asks_its_person_again_when_its_token_is_refused(
    world: OAuthWorld, documents: DocumentServer, person: Person
) -> None:
    document, memory = published(documents, "refused"), Memory()
    assert await call_by_python(world, person, memory, "legacy", document) == (SAID, 1)
    assert memory.tokens is not None
    token = memory.tokens.access_token
    memory.tokens = memory.tokens.model_copy(update={"access_token": token[:-8] + "AAAAAAAA"})
    pages = len(person.seen)
    assert await call_by_python(world, person, memory, "legacy", document) == (SAID, 1)
    # Still logged in, and asked anew: a program on this device that proves nothing is never remembered.
    assert ["Allow" in page and "password" not in page for page in person.seen[pages:]] == [True]


@pytest.mark.parametrize("generation", TYPESCRIPT_CLIENTS)
@pytest.mark.parametrize("known_by", KNOWN_BY)
async def test_the_typescript_client(
    world: OAuthWorld, documents: DocumentServer, person: Person, generation: str, known_by: str
) -> None:
    require(TYPESCRIPT_CLIENTS[generation])
    document = published(documents, f"typescript-{generation}") if known_by == "document" else None
    extra = {} if document is None else {"document": document}
    seen = await node_flow(world, "mcp-oauth", person, generation=generation, redirect_uri=REDIRECT, call=CALL, **extra)
    assert (seen["asked"], seen["tools"], seen["text"]) == (True, [TOOL], SAID)
    assert (seen["client"]["client_id"] == document) is (known_by == "document")


@pytest.mark.parametrize("known_by", [*KNOWN_BY, "configuration"])
async def test_the_inspector(
    world: OAuthWorld, documents: DocumentServer, person: Person, known_by: str, tmp_path: Path
) -> None:
    callback = f"http://127.0.0.1:{free_port()}/callback"
    known: dict[str, tuple[str, ...]] = {
        "document": ("--client-metadata-url", published(documents, "inspector")),
        "registration": (),
        "configuration": ("--client-id", "native"),
    }
    command = [
        require(NODE), require(INSPECTOR), "--cli", world.resource, "--transport", "http", "--method", "tools/call",
        "--tool-name", TOOL, "--callback-url", callback, "--connect-timeout", "60000",
        *known[known_by],
    ]  # fmt: skip
    said, visited = await run_inspector(world, person, command, tmp_path)
    assert visited == 1, said
    assert SAID in said


async def run_inspector(world: OAuthWorld, person: Person, command: list[str], home: Path) -> tuple[str, int]:
    """Run it, doing what its person would do when it prints an address; what it printed, and how often that was.

    It logs in only where somebody can see its messages, so they go to a terminal. It finds no browser to open.
    """
    terminal, inner = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *command,
        env={"HOME": str(home), "NODE_EXTRA_CA_CERTS": world.ca, "PATH": str(home), "COLUMNS": "4000"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=inner,
        stderr=inner,
    )
    os.close(inner)
    said, visited = "", 0
    try:
        async with asyncio.timeout(2 * PATIENCE):
            while part := await asyncio.to_thread(_read, terminal):
                said += part
                link = re.search(re.escape(world.url) + r"/authorize\?[!-~]+(?=\x1b)", said)
                if link is not None and not visited:
                    visited += 1
                    target = await asyncio.to_thread(person.open, link[0])
                    async with httpx2.AsyncClient(trust_env=False, timeout=PATIENCE) as http:
                        assert (await http.get(target)).status_code == 200
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(terminal)
    return said, visited


def _read(terminal: int) -> str:
    try:
        return os.read(terminal, 65536).decode()
    except OSError:  # the other end is closed
        return ""


async def test_a_document_that_is_not_let_in_is_refused_and_never_fetched(
    world: OAuthWorld, documents: DocumentServer, person: Person
) -> None:
    stranger = "https://elsewhere.example.com/client.json"
    response = await asyncio.to_thread(
        person.http.get,
        f"{world.url}/authorize",
        params={
            "client_id": stranger, "redirect_uri": REDIRECT, "response_type": "code", "resource": world.resource,
            "code_challenge": "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM", "code_challenge_method": "S256",
        },
    )  # fmt: skip
    assert response.status_code == 400
    assert "location" not in response.headers
    assert "/client.json" not in documents.asked


def test_each_document_was_fetched_and_the_trail_names_its_client(world: OAuthWorld, documents: DocumentServer) -> None:
    """Runs last in this file."""
    events: list[dict[str, Any]] = world.gateway.events()
    granted = {event["client"] for event in events if event["kind"] == "authorization.granted"}
    fetched = {f"https://{DOCUMENTS}{path}" for path in documents.asked}
    assert fetched >= {client for client in granted if client.startswith("https://")} != set()
    assert "client.added" in {event["kind"] for event in events}
    assert json.dumps(events).count("eyJ") == 0
