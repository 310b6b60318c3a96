"""Proof of possession of access tokens: a bound token is good only with a proof by its key (RFC 9449 section 7)."""

from __future__ import annotations

import hashlib
import hmac
from typing import Final, Protocol

from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.dpop import VerifiedProof
from twogate.core.oauth.access_token import encode_base64url
from twogate.flows.gateway.credential import BearerToken

NONCE: Final = "dpop_nonce"
"""Where the data of a refusal holds the nonce for the next proof."""


class Proofs(Protocol):
    """Verifies proofs and uses them up; `flows.authserver.dpop.DpopProofs` does."""

    def verify_one(self, unverified_proof: str, method: str, uri: str, now: int) -> VerifiedProof:
        """The proof of a request by `method` to `uri`. It changes nothing.

        Raises:
            GateError: DPOP_INVALID, DPOP_NONCE_REQUIRED.
        """
        ...

    async def redeem(self, proof: VerifiedProof, now: int) -> None:
        """Use a proof up.

        Raises:
            GateError: DPOP_INVALID if it was used before, STORE_UNAVAILABLE.
        """
        ...

    def nonce(self, now: int) -> str:
        """The nonce that the next proof must hold."""
        ...


class Possession:
    """Proofs as resource servers judge them: also for the very token, and refused with 401 and a challenge."""

    def __init__(self, proofs: Proofs) -> None:
        self._proofs = proofs

    def verify(self, bearer: BearerToken, method: str, uri: str, now: int) -> VerifiedProof | None:
        """The proof that was shown with a token; None if none was. Whether the token is bound to it is not judged.

        Raises:
            GateError: PROOF_REFUSED; PROOF_NONCE_REQUIRED, whose data hold the NONCE.
        """
        if bearer.unverified_proof is None:
            return None
        try:
            proof = self._proofs.verify_one(bearer.unverified_proof, method, uri, now)
        except GateError as error:
            raise self._at_the_resource(error, now) from error
        # "The value MUST be the result of a base64url encoding … the SHA-256 … hash of the ASCII encoding of the
        # associated access token's value" (section 4.2).
        digest = encode_base64url(hashlib.sha256(bearer.unverified_token.encode()).digest())
        if not hmac.compare_digest(digest.encode(), (proof.access_token_digest or "").encode()):
            raise GateError(ErrorCode.PROOF_REFUSED, "ath is missing, or that of another token")
        return proof

    async def redeem(self, proof: VerifiedProof, now: int) -> None:
        """Use a proof up: once the caller is proven, so that strangers cannot fill the store.

        Raises:
            GateError: PROOF_REFUSED if it was used before, STORE_UNAVAILABLE.
        """
        try:
            await self._proofs.redeem(proof, now)
        except GateError as error:
            raise self._at_the_resource(error, now) from error

    def _at_the_resource(self, error: GateError, now: int) -> GateError:
        match error.code:
            case ErrorCode.DPOP_NONCE_REQUIRED:
                return GateError(ErrorCode.PROOF_NONCE_REQUIRED, error.debug, data={NONCE: self._proofs.nonce(now)})
            case ErrorCode.DPOP_INVALID:
                return GateError(ErrorCode.PROOF_REFUSED, error.debug)
            case _:
                return error
