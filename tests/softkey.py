"""A passkey authenticator in software, which does what honest ones do, and what hostile browsers make of it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from webauthn.helpers import encode_cbor

UP, UV, BE, BS, AT = 0x01, 0x04, 0x08, 0x10, 0x40


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@dataclass
class SoftKey:
    """One passkey. `counts`: whether it counts its signatures."""

    origin: str
    rp_id: str
    counts: bool = True
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    id: bytes = field(default_factory=lambda: os.urandom(32))
    handle: bytes = b""
    count: int = 0

    def create(
        self,
        options: Mapping[str, Any],
        *,
        flags: int = UP | UV | AT,
        fmt: str = "none",
        statement: Mapping[str, Any] | None = None,
        **said: object,
    ) -> str:
        """The answer to `navigator.credentials.create`; `said` changes clientDataJSON."""
        self.handle = unb64(options["user"]["id"])
        public = self.key.public_key().public_numbers()
        cose = encode_cbor({1: 2, 3: -7, -1: 1, -2: public.x.to_bytes(32), -3: public.y.to_bytes(32)})
        data = self._data(flags) + bytes(16) + len(self.id).to_bytes(2) + self.id + cose
        attestation = encode_cbor({"fmt": fmt, "attStmt": dict(statement or {}), "authData": data})
        client_data = self._client_data("webauthn.create", options, said)
        return self._answer(clientDataJSON=b64(client_data), attestationObject=b64(attestation))

    def get(
        self, options: Mapping[str, Any], *, flags: int = UP | UV, handle: bytes | None = None, **said: object
    ) -> str:
        """The answer to `navigator.credentials.get`; `said` changes clientDataJSON."""
        self.count += self.counts
        data = self._data(flags)
        client_data = self._client_data("webauthn.get", options, said)
        signature = self.key.sign(data + hashlib.sha256(client_data).digest(), ec.ECDSA(hashes.SHA256()))
        whose = self.handle if handle is None else handle
        return self._answer(
            clientDataJSON=b64(client_data),
            authenticatorData=b64(data),
            signature=b64(signature),
            **({"userHandle": b64(whose)} if whose else {}),
        )

    def _data(self, flags: int) -> bytes:
        return hashlib.sha256(self.rp_id.encode()).digest() + bytes([flags]) + self.count.to_bytes(4)

    def _client_data(self, kind: str, options: Mapping[str, Any], said: Mapping[str, object]) -> bytes:
        members = {"type": kind, "challenge": options["challenge"], "origin": self.origin, "crossOrigin": False, **said}
        return json.dumps({name: value for name, value in members.items() if value is not None}).encode()

    def _answer(self, **response: str) -> str:
        name = b64(self.id)
        return json.dumps({"id": name, "rawId": name, "type": "public-key", "response": response})
