"""An authorization server and gateway over TLS, with clients of every kind and a person, for clients nobody here wrote."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from joserfc.jwk import ECKey

from harness.stack import free_port
from peers.peers import NODE, NODE_PEERS, require
from peers.person import Person
from processlab import PATIENCE, Gateway, init, serving

SERVER = "everything"
TOOL = "test_simple_text"
CALL = {"name": TOOL, "arguments": {}}
SAID = "This is a simple text response for testing."
TASK = "all"
NAME, PASSWORD = "alice", "correct horse battery staple 9"
CALLBACK = "https://app.example/callback"
LOOPBACK = "http://127.0.0.1/callback"
WEB_SECRET = "6f1c1c1bd1a84a4e9a8d2f35ad8a9c1f4f0b3c5d7e9fa1b2"
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
        return Person(self.url, NAME, PASSWORD, ca=self.ca)


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


def new_key() -> dict[str, Any]:
    """A private key as a JWK, named by its thumbprint."""
    key = ECKey.import_key(ec.generate_private_key(ec.SECP256R1()))
    return {**key.as_dict(private=True), "kid": key.thumbprint()}


@contextmanager
def oauth_world(directory: Path, server_url: str, **changes: Any) -> Iterator[OAuthWorld]:
    """Serve until the block ends. `changes` replace whole sections of the configuration."""
    robot = new_key()
    init(directory, {**oauth_settings(directory, server_url, robot), **changes}, port=free_port())
    add_person(directory)
    with serving(directory) as gateway:
        yield OAuthWorld(gateway, robot)
        gateway.verify_audit()


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


Check = Callable[[], None]


def add_person(directory: Path) -> None:
    """TEMPORARY until `twogate user` is there."""
    from twogate.adapters.rng import SystemRng
    from twogate.config import load_settings
    from twogate.flows.authserver.logins import Login, Logins
    from twogate.flows.authserver.people import User
    from twogate.state import open_store
    from twogate.stores.sql.logins import SqlLoginStore
    from twogate.stores.sql.users import SqlUserStore

    async def add() -> None:
        store = await open_store(load_settings(directory / "twogate.yaml"))
        user = User("acme", "s" * 22, NAME, "Alice Liddell", ("reader",))
        await SqlUserStore(store.engine).add(user)
        logins = Logins(SqlLoginStore(store.engine), SystemRng(), 3600)
        cookie = await logins.begin(Login("acme", "s" * 22, "password", store.clock.now()), store.clock.now())
        (directory / "cookie").write_text(cookie)
        await store.close()

    asyncio.run(add())
