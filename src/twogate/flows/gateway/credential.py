"""The one authenticating credential of a request (DESIGN decision 3).

An access token in `Authorization` is what exists so far, alone or with a proof of its key. Whatever else could pass for
a credential or a proof is refused, not ignored: a caller must not believe in a protection that nobody checked. A client
certificate is taken from the TLS connection and never from a header, by which anybody could claim one.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Final

import msgspec

from twogate.core.errors import ErrorCode, GateError

# RFC 6750 section 2.1: b64token, which RFC 9449 section 7.1 calls token68.
_TOKEN68: Final = (string.ascii_letters + string.digits + "-._~+/").encode()

# RFC 9421; certificates as Envoy, RFC 9440 and nginx forward them; API keys.
_UNSUPPORTED: Final = frozenset(
    {
        "signature", "signature-input", "x-forwarded-client-cert", "client-cert", "client-cert-chain",
        "ssl-client-cert", "x-ssl-client-cert", "x-client-cert", "x-api-key",
    }
)  # fmt: skip


class BearerToken(msgspec.Struct, frozen=True):
    """An access token as presented, with the proof beside it, if any; nothing of either is believed yet."""

    unverified_token: str
    unverified_proof: str | None = None

    def __repr__(self) -> str:
        """Never the token: a traceback or a log line must not hold one."""
        return "BearerToken(…)"


def parse_credential(headers: Mapping[str, str]) -> BearerToken:
    """Find the request's one credential. `headers` are in lower case; the edge refused repeated ones.

    Raises:
        GateError: CREDENTIAL_MISSING, CREDENTIAL_AMBIGUOUS.
    """
    if not _UNSUPPORTED.isdisjoint(headers):
        name = min(_UNSUPPORTED.intersection(headers))
        raise GateError(ErrorCode.CREDENTIAL_AMBIGUOUS, f"header {name} is a credential or proof not accepted here")
    authorization = headers.get("authorization")
    if authorization is None:
        raise GateError(ErrorCode.CREDENTIAL_MISSING)
    proof = headers.get("dpop")
    # One scheme says that there is a proof, the other that there is none; nothing is passed over.
    scheme, _, token = authorization.partition(" ")
    # The scheme is case-insensitive (RFC 9110 section 11.1).
    if scheme.lower() != ("bearer" if proof is None else "dpop") or not _is_token68(token):
        raise GateError(
            ErrorCode.CREDENTIAL_AMBIGUOUS, "Authorization is not one bearer token, nor one DPoP token with its proof"
        )
    return BearerToken(token, proof)


def _is_token68(text: str) -> bool:
    # A regular expression takes three times as long, and tokens are long and come with every request.
    core = text.encode("latin-1", "replace").rstrip(b"=")
    return core != b"" and core.translate(None, _TOKEN68) == b""
