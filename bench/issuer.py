"""The issuer that the gateway trusts: its keys over loopback HTTP, and tokens minted before the clock runs."""

from __future__ import annotations

import asyncio
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Final

import msgspec
from joserfc import jws
from joserfc.jwk import ECKey

LIFETIME: Final = 3000
AGENT: Final = "bench"
TENANT: Final = "acme"
_KID: Final = "bench-1"


class Issuer:
    """Signs ES256 tokens for the one agent."""

    def __init__(self, url: str, key: ECKey) -> None:
        self.url = url
        self._key = key
        self._head = _part({"alg": "ES256", "kid": _KID, "typ": "at+jwt"})
        self._numbers = count()

    def token(self, audience: str) -> str:
        """A token that no other is like."""
        now = int(time.time())  # noqa: TID251 - no flow of ours
        claims = {
            "iss": self.url,
            "sub": AGENT,
            "azp": AGENT,
            "aud": audience,
            "tenant": TENANT,
            "iat": now,
            "exp": now + LIFETIME,
            "jti": f"bench-{next(self._numbers)}",
        }
        signed = self._head + b"." + _part(claims)
        signature = jws.JWSRegistry.algorithms["ES256"].sign(signed, self._key)
        return (signed + b"." + _base64(signature)).decode()


@asynccontextmanager
async def serving() -> AsyncIterator[Issuer]:
    """An issuer that serves its JWK set until the block ends."""
    key = ECKey.generate_key("P-256")
    public = {**key.as_dict(private=False), "kid": _KID, "alg": "ES256", "use": "sig"}
    body = msgspec.json.encode({"keys": [public]})

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = (
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncache-control: max-age=3600\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        )
        writer.write(head + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield Issuer(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", key)
    finally:
        server.close()


def _part(value: object) -> bytes:
    return _base64(msgspec.json.encode(value))


def _base64(raw: bytes) -> bytes:
    return urlsafe_b64encode(raw).rstrip(b"=")
