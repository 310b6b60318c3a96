"""Proof of possession: what a presented token is bound to must be proven by whoever presents it (RFC 7800)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twogate.core.errors import ErrorCode, GateError


def verify_confirmation(claims: Mapping[str, Any], proof: str | None) -> None:
    """Check that a token is unbound, or bound to the key of this thumbprint and to nothing else (RFC 9449 section 6.1).

    Raises:
        GateError: TOKEN_BINDING_REFUSED.
    """
    if "cnf" not in claims:
        return
    # A confirmation that is not understood is one that nobody proved, so a bare `jkt` is all there may be.
    if proof is None or claims["cnf"] != {"jkt": proof}:
        raise GateError(ErrorCode.TOKEN_BINDING_REFUSED, "the token is bound to a key that was not proven here")
