"""An authorization server and gateway over TLS, with clients of each kind and a person, for foreign OAuth clients."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc.jwk import ECKey
from typer.testing import CliRunner

from harness.stack import free_port
from harness.tls_relay import make_certificate
from peers.peers import NODE, NODE_PEERS, require
from peers.person import Person
from processlab import PATIENCE, Gateway, here_json, init, serving
from twogate.cli.main import app

SERVER = "everything"
TOOL = "test_simple_text"
CALL = {
    "name": TOOL,
    "arguments": {},
    "_meta": {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    },
}
SAID = "This is a simple text response for testing."
TASK = "all"
SCOPE = "reports"
NAME, PASSWORD = "alice", "correct horse battery staple 9"
CALLBACK = "https://app.example/callback"
LOOPBACK = "http://127.0.0.1/callback"
WEB_SECRET = "6f1c1c1bd1a84a4e9a8d2f35ad8a9c1f4f0b3c5d7e9fa1b2"
DOCUMENTS = "clients.example.com"
CODE = ["authorization_code", "refresh_token"]


@dataclass
class OAuthWorld:
    """The running server, and what its clients authenticate with."""

    gateway: Gateway
    robot: dict[str, Any]
    """The private key of the agent's client, a JWK."""

    @property
    def url(self) -> str:
        """The issuer."""
        return self.gateway.url

    @property
    def resource(self) -> str:
        """The server's endpoint at the gateway."""
        return f"{self.url}/mcp/{SERVER}"

    @property
    def ca(self) -> str:
        """The file with the CA certificate to trust."""
        return str(self.gateway.directory / "ca.pem")

    def client(self, client_id: str) -> dict[str, Any]:
        """A client as the scripts of the peers take it."""
        credentials: dict[str, dict[str, Any]] = {"web": {"secret": WEB_SECRET}, "robot": {"jwk": self.robot}}
        return {"id": client_id, **credentials.get(client_id, {})}

    def person(self) -> Person:
        """Alice, at a browser that has never been here."""
        trust = ssl.create_default_context(cafile=self.ca)
        return Person(self.url, NAME, PASSWORD, httpx2.HTTPTransport(verify=trust))


def oauth_settings(directory: Path, server_url: str, robot: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration: one server, one task, a client of each kind."""
    (directory / "web.secret").write_text(WEB_SECRET)
    (directory / "web.secret").chmod(0o600)
    public = {name: robot[name] for name in ("kty", "crv", "x", "y", "kid")}
    (directory / "robot.json").write_text(json.dumps({"keys": [public]}))
    holder = {"role": "reader", "tasks": [TASK], "default_task": TASK}
    return {
        "servers": {SERVER: {"url": server_url}},
        "tools": {f"{SERVER}.{TOOL}": {"class": "read"}},
        "tasks": {TASK: {"tools": ["read"]}},
        "scopes": {"reports": ["read"], "files": ["read"]},
        "tenants": {"acme": {"servers": [SERVER]}},
        "agents": {
            "acme/public-client": holder,
            "acme/robot": {**holder, "bindings": [{"issuer": "embedded", "client_id": "robot"}]},
        },
        "clients": {
            "native": {
                "tenant": "acme", "kind": "public", "auth": "none", "name": "Acme Code", "redirect_uris": [LOOPBACK],
            },
            "cli": {
                "tenant": "acme", "kind": "public", "auth": "none", "name": "Acme Terminal",
                "grants": ["device_code", "refresh_token"],
            },
            "web": {
                "tenant": "acme", "kind": "host", "auth": "client_secret",
                "secret_file": "web.secret", "name": "Acme Desk", "redirect_uris": [CALLBACK],
                "grants": [*CODE, "device_code"],
            },
            "robot": {
                "tenant": "acme", "kind": "agent", "agent": "acme/robot", "auth": "private_key_jwt",
                "jwks_file": "robot.json", "name": "Acme Robot", "redirect_uris": [CALLBACK],
                "grants": [*CODE, "client_credentials", "token_exchange"],
            },
        },
    }  # fmt: skip


def add_person(directory: Path) -> None:
    """Add Alice as an operator does, with a password."""
    config = ("--config", str(directory / "twogate.yaml"))
    here_json("user", "add", f"acme/{NAME}", "--role", "reader", "--display-name", "Alice Liddell", *config)
    done = CliRunner().invoke(app, ["user", "passwd", f"acme/{NAME}", "--prompt", *config], input=f"{PASSWORD}\n")
    assert done.exit_code == 0, done.output


def new_key() -> dict[str, Any]:
    """A private key as a JWK, named by its thumbprint."""
    key = ECKey.import_key(ec.generate_private_key(ec.SECP256R1()))
    return {**key.as_dict(private=True), "kid": key.thumbprint()}


@contextmanager
def oauth_world(
    directory: Path, server_url: str, documents: DocumentServer | None = None, **changes: Any
) -> Iterator[OAuthWorld]:
    """Serve until the block ends. `changes` replace whole sections of the configuration.

    With `documents`, clients may have their metadata there.
    """
    robot = new_key()
    init(directory, {**oauth_settings(directory, server_url, robot), **changes}, port=free_port())
    add_person(directory)
    gateway = None
    if documents is not None:
        script = str(Path(__file__).with_name("named_serve.py"))
        launcher = (sys.executable, script, f"{DOCUMENTS}={documents.port}", "--")
        gateway = Gateway(directory, launcher, SSL_CERT_FILE=str(documents.ca))
    with serving(directory, gateway) as running:
        yield OAuthWorld(running, robot)
        running.verify_audit()


@dataclass
class DocumentServer:
    """A web server of an application's maker: `https://clients.example.com`, as only the gateway can reach it."""

    port: int
    ca: Path
    documents: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def put(self, path: str, **members: Any) -> str:
        """Publish a client's metadata; its address, which is the client's id."""
        url = f"https://{DOCUMENTS}{path}"
        self.documents[path] = {"client_id": url, **members}
        return url


@contextmanager
def document_server(directory: Path) -> Iterator[DocumentServer]:
    """Serve documents over TLS until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked.append(self.path)
            found = served.documents.get(self.path)
            content = json.dumps(found).encode()
            self.send_response(404 if found is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base calls it so
            """Say nothing."""

    ca, certificate = make_certificate(directory, DOCUMENTS)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    served = DocumentServer(server.server_port, ca)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def node_flow(world: OAuthWorld, library: str, person: Person, **task: Any) -> dict[str, Any]:
    """Let a script go through one flow, with a person who does what it asks for; what it saw."""
    whole = {"issuer": world.url, "resource": world.resource, "redirect_uri": CALLBACK, **task}
    process = await asyncio.create_subprocess_exec(
        require(NODE),
        str(NODE_PEERS / f"{library}.mjs"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "NODE_EXTRA_CA_CERTS": world.ca},
        limit=2**20,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(PATIENCE):
            answer: Any = whole
            while True:
                process.stdin.write(json.dumps(answer).encode() + b"\n")
                await process.stdin.drain()
                line = await process.stdout.readline()
                assert line, (await process.stderr.read()).decode()
                said = json.loads(line)
                if "done" in said:
                    result: dict[str, Any] = said["done"]
                    return result
                answer = await asyncio.to_thread(_obey, said, person)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _obey(said: Mapping[str, Any], person: Person) -> dict[str, str]:
    if "open" in said:
        return {"callback": person.open(said["open"])}
    begun = said["device"]
    person.let_in(begun["verification_uri_complete"], begun["user_code"])
    return {}
