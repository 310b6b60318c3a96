"""A client's key and the proofs that it makes (RFC 9449), good ones and every bad one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from harness.issuer import PrivateKey, new_key, sign
from tokenlab import ISSUER, Lab

TOKEN_URL = f"{ISSUER}/token"


@dataclass
class Prover:
    """A key of one algorithm. A change to None leaves a claim or header parameter out."""

    algorithm: str = "ES256"
    key: PrivateKey = field(init=False)

    def __post_init__(self) -> None:
        self.key = new_key(self.algorithm)

    @property
    def jwk(self) -> dict[str, Any]:
        return {name: value for name, value in self.key.as_dict(private=False).items() if name != "kid"}

    @property
    def thumbprint(self) -> str:
        return self.key.thumbprint()

    def proof(self, now: int, nonce: Any = None, *, header: Any = None, **changes: Any) -> str:
        protected: dict[str, Any] = {"typ": "dpop+jwt", "alg": self.algorithm, "jwk": self.jwk, **(header or {})}
        claims = {"jti": uuid4().hex, "htm": "POST", "htu": TOKEN_URL, "iat": now, "nonce": nonce, **changes}
        return sign(without_none(protected), without_none(claims), self.key, self.algorithm)

    async def fresh(self, lab: Lab, **changes: Any) -> dict[str, str]:
        """The header of a proof with the server's current nonce."""
        return {"DPoP": self.proof(lab.clock.now(), await server_nonce(lab), **changes)}


async def server_nonce(lab: Lab) -> str:
    """The nonce, as a client learns it: by a proof without one."""
    response = await lab.http.post(
        "/token", data={"grant_type": "client_credentials"}, headers={"DPoP": Prover().proof(lab.clock.now())}
    )
    assert (response.status_code, response.json()["error"]) == (400, "use_dpop_nonce")
    return response.headers["DPoP-Nonce"]


def without_none(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}
