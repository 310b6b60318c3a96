"""An authorization server under the test's control: metadata and keys over real HTTP, and any token asked for."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any
from urllib.parse import parse_qs

from joserfc import jws
from joserfc.jwk import ECKey, OKPKey, RSAKey

PrivateKey = ECKey | RSAKey | OKPKey


def new_key(kind: str = "ES256") -> PrivateKey:
    """A fresh private key for an algorithm."""
    if kind == "ES256":
        return ECKey.generate_key("P-256")
    if kind in ("EdDSA", "Ed25519"):
        return OKPKey.generate_key("Ed25519")
    return RSAKey.generate_key(2048)


class TestIssuer:
    """Serves `/.well-known/oauth-authorization-server`, `/jwks` and `/introspect`; counts what was fetched."""

    __test__ = False

    def __init__(self) -> None:
        self.keys: dict[str, tuple[str, PrivateKey]] = {"k1": ("ES256", new_key())}
        self.odd_keys: list[dict[str, Any]] = []
        self.fetches: list[str] = []
        self.cache_control = "max-age=300"
        # What it says of each token when asked (RFC 7662), raw or as JSON; of others, that they are not active.
        self.introspection: dict[str, dict[str, Any] | bytes] = {}
        self.introspection_status = b"200 OK"
        self.asked: list[dict[str, str]] = []
        self.asked_by: list[str] = []
        self._server: asyncio.Server | None = None
        self.url = ""

    async def __aenter__(self) -> TestIssuer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    def jwks(self) -> dict[str, Any]:
        """The public keys, and whatever else the test put among them."""
        return {
            "keys": [
                {**key.as_dict(private=False), "kid": kid, "alg": algorithm, "use": "sig"}
                for kid, (algorithm, key) in self.keys.items()
            ]
            + self.odd_keys
        }

    def claims(self, audience: str | list[str], **changes: object) -> dict[str, Any]:
        """Claims of a good token; a change to None leaves the claim out."""
        now = int(time.time())
        claims = {
            "iss": self.url,
            "sub": "robot",
            "azp": "robot",
            "aud": audience,
            "iat": now,
            "exp": now + 300,
            "jti": f"j{time.monotonic_ns()}",
            "tenant": "acme",
            **changes,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def token(
        self, audience: str | list[str], *, kid: str = "k1", header: dict[str, Any] | None = None, **changes: object
    ) -> str:
        """A signed token; `header` adds to or replaces header parameters."""
        algorithm, key = self.keys[kid]
        protected = {"alg": algorithm, "kid": kid, "typ": "at+jwt", **(header or {})}
        protected = {name: value for name, value in protected.items() if value is not None}
        return sign(protected, self.claims(audience, **changes), key, algorithm)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        path = request.split(b" ")[1].decode()
        self.fetches.append(path)
        status = b"200 OK"
        if path == "/introspect":
            body, status = await self._introspect(request, reader), self.introspection_status
        elif path == "/jwks":
            body = json.dumps(self.jwks()).encode()
        elif path == "/.well-known/oauth-authorization-server":
            metadata = {"jwks_uri": f"{self.url}/jwks", "introspection_endpoint": f"{self.url}/introspect"}
            body = json.dumps({"issuer": self.url, **metadata}).encode()
        else:
            body, status = b"", b"404 Not Found"
        head = (
            b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nCache-Control: %s\r\n"
            b"Content-Length: %d\r\nConnection: close\r\n\r\n"
        )
        writer.write(head % (status, self.cache_control.encode(), len(body)) + body)
        await writer.drain()
        writer.close()

    async def _introspect(self, request: bytes, reader: asyncio.StreamReader) -> bytes:
        fields = dict(line.split(": ", 1) for line in request.decode().split("\r\n")[1:] if line)
        headers = {name.lower(): value for name, value in fields.items()}
        form = parse_qs((await reader.readexactly(int(headers["content-length"]))).decode())
        asked = {name: values[0] for name, values in form.items()}
        self.asked.append(asked)
        self.asked_by.append(headers.get("authorization", ""))
        said = self.introspection.get(asked["token"], {"active": False})
        return said if isinstance(said, bytes) else json.dumps(said).encode()


def sign(header: dict[str, Any], claims: dict[str, Any] | bytes, key: PrivateKey, algorithm: str) -> str:
    """A compact JWS with exactly this header, whatever it says."""
    payload = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    from base64 import urlsafe_b64encode

    def part(raw: bytes) -> bytes:
        return urlsafe_b64encode(raw).rstrip(b"=")

    signing_input = part(json.dumps(header).encode()) + b"." + part(payload)
    signature = jws.JWSRegistry.algorithms[algorithm].sign(signing_input, key)
    return (signing_input + b"." + part(signature)).decode()
