"""What makes a stolen access token worthless: proofs of its key (RFC 9449 section 7), and tokens that are good once.

Both are used up in a store that every replica shares, and only after the caller is proven.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final, Protocol

from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.dpop import VerifiedProof
from twogate.core.oauth.access_token import encode_base64url
from twogate.core.oauth.confirmation import NOTHING_PROVEN, ClientCertificate, Proven
from twogate.core.principal import Principal
from twogate.flows.authserver.clients import ReplayStore
from twogate.flows.gateway.credential import BearerToken

ONE_TIME: Final = "access-token"
"""The kind under which the store of used values knows access tokens."""

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

    def __init__(self, proofs: Proofs, replay: ReplayStore) -> None:
        """`replay` knows the tokens that were good once."""
        self._proofs = proofs
        self._replay = replay

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

    async def redeem(self, proof: VerifiedProof | None, principal: Principal, now: int) -> None:
        """Use up what is good once: the proof, and the token if its issuer's are.

        It comes when the caller is proven, so that strangers cannot fill the store, and once for a request: neither
        what a batch holds nor a caller that is proven again is another one. The proof comes first: if the store fails
        between the two, the owner makes another proof and still has the token.

        Raises:
            GateError: PROOF_REFUSED, TOKEN_USED if it was used before, STORE_UNAVAILABLE.
        """
        if proof is not None:
            await self.redeem_proof(proof, now)
        if principal.one_time is not None:
            await redeem_token(self._replay, principal.issuer, principal.one_time, principal.expires_at, now)

    async def redeem_proof(self, proof: VerifiedProof | None, now: int) -> None:
        """Use up a proof, if there is one.

        Raises:
            GateError: PROOF_REFUSED if it was used before, STORE_UNAVAILABLE.
        """
        if proof is not None:
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


def proven_by(proof: VerifiedProof | None, certificate: ClientCertificate | None) -> Proven:
    """What a caller proved besides holding a token: by a proof, and by the certificate of its connection."""
    if proof is None and certificate is None:
        return NOTHING_PROVEN
    return Proven(None if proof is None else proof.thumbprint, certificate)


async def redeem_token(replay: ReplayStore, issuer: str, jti: str, expires_at: int, now: int) -> None:
    """Use up a token that is good once. Its `jti` tells it from all others of its issuer (RFC 7519 section 4.1.7).

    Raises:
        GateError: TOKEN_USED, STORE_UNAVAILABLE.
    """
    if not await replay.redeem(ONE_TIME, issuer, jti, expires_at, now):
        raise GateError(ErrorCode.TOKEN_USED, "a token that is good once was used before")
