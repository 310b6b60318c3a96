"""Proofs of possession at the authorization server (RFC 9449)."""

from __future__ import annotations

from collections.abc import Sequence

from twogate.core.errors import ErrorCode, GateError


class NoProofs:
    """Accepts no proof; implements `form.Proofs`."""

    async def verify(self, proofs: Sequence[str], path: str, now: int) -> str | None:  # noqa: ARG002 - as in the port
        """Refuse every proof: a client that sends one expects a bound token.

        Raises:
            GateError: DPOP_INVALID.
        """
        if proofs:
            raise GateError(ErrorCode.DPOP_INVALID, "no proofs are accepted")
        return None

    def nonce(self, now: int) -> str | None:  # noqa: ARG002 - as in the port
        """None."""
        return None
