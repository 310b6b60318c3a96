"""Proofs of possession (RFC 9449): whoever shows one gets tokens bound to its key, and must show one with them.

The server's nonces are made of the time and a secret, so that nothing is kept for strangers, and that a replica with
the same keys knows them. A proof lives as long as its nonce, and is used once.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.dpop import MAX_AGE, VerifiedProof, verify_proof
from twogate.core.oauth.access_token import encode_base64url
from twogate.flows.authserver.clients import ReplayStore

REPLAY_KIND: Final = "dpop"

NONCE_SECONDS: Final = 60
"""Seconds after which there is another nonce. Each is good during its own period and the next one."""

NONCE_BYTES: Final = 18

_SECRET_LABEL: Final = b"twogate-dpop-nonce-v1"


class DpopProofs:
    """Verifies proofs for POSTs to this server; implements `form.Proofs`."""

    def __init__(self, issuer: str, replay: ReplayStore, secret: bytes) -> None:
        """`secret` may serve other purposes too: the nonces' own key is derived from it."""
        self._issuer = issuer
        self._replay = replay
        self._key = hmac.digest(secret, _SECRET_LABEL, hashlib.sha256)

    def verify(self, proofs: Sequence[str], path: str, now: int) -> VerifiedProof | None:
        """The proof of a POST to `path`, None if there is none. It changes nothing; see `redeem`.

        Raises:
            GateError: DPOP_INVALID; DPOP_NONCE_REQUIRED if only its nonce is missing, old or not ours.
        """
        if not proofs:
            return None
        # "There is not more than one DPoP HTTP request header field." (RFC 9449 section 4.3, point 1)
        if len(proofs) > 1:
            raise GateError(ErrorCode.DPOP_INVALID, "more than one proof")
        return self.verify_one(proofs[0], "POST", self._issuer + path, now)

    def verify_one(self, unverified_proof: str, method: str, uri: str, now: int) -> VerifiedProof:
        """The proof of a request by `method` to `uri`, which has neither query nor fragment. It changes nothing.

        Raises:
            GateError: DPOP_INVALID; DPOP_NONCE_REQUIRED if only its nonce is missing, old or not ours.
        """
        proof = verify_proof(unverified_proof, method, uri, now)
        if not self._is_ours(proof.nonce, now):
            raise GateError(ErrorCode.DPOP_NONCE_REQUIRED, "the nonce is missing, old or not ours")
        return proof

    async def redeem(self, proof: VerifiedProof, now: int) -> None:
        """Use a proof up. Called when the client is authenticated, so that strangers cannot fill the store.

        Raises:
            GateError: DPOP_INVALID if it was used before, STORE_UNAVAILABLE.
        """
        # Until its nonce or its `iat` is too old. The latter is good up to and including its last second.
        until = min(proof.issued_at + MAX_AGE + 1, (now // NONCE_SECONDS + 2) * NONCE_SECONDS)
        # Within the key's own identifiers: nobody else can use them up.
        if not await self._replay.redeem(REPLAY_KIND, proof.thumbprint, proof.jti, until, now):
            raise GateError(ErrorCode.DPOP_INVALID, "jti was used before")

    def nonce(self, now: int) -> str:
        """The nonce that the next proof must hold."""
        return self._nonce(now // NONCE_SECONDS)

    def _is_ours(self, nonce: str | None, now: int) -> bool:
        current, presented = now // NONCE_SECONDS, (nonce or "").encode()
        known = [hmac.compare_digest(presented, self._nonce(period).encode()) for period in (current, current - 1)]
        return any(known)

    def _nonce(self, period: int) -> str:
        return encode_base64url(hmac.digest(self._key, str(period).encode(), hashlib.sha256)[:NONCE_BYTES])
