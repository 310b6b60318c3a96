"""Proof of possession: what a presented token is bound to must be proven by whoever presents it (RFC 7800)."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec

from twogate.core.errors import ErrorCode, GateError

KEY: Final = "jkt"
"""The member of `cnf` that holds the thumbprint of a key (RFC 9449 section 6.1)."""

CERTIFICATE: Final = "x5t#S256"
"""The member of `cnf` that holds the thumbprint of a certificate (RFC 8705 section 3.1)."""

_MEMBERS: Final = frozenset({KEY, CERTIFICATE})
# Base64url without padding; of a SHA-256 digest it has 43 characters.
_THUMBPRINT: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")


class ClientCertificate(msgspec.Struct, frozen=True):
    """The certificate that a client showed in the TLS handshake, which checked its key and its chain.

    `thumbprint` is the base64url form of the SHA-256 of its DER form. It holds until `not_after` (Unix seconds, that
    second included), which a connection may outlive.
    """

    thumbprint: str
    not_after: int


class Proven(msgspec.Struct, frozen=True):
    """What the holder of a token proved: to have the key of this thumbprint, and to be whom a certificate is about."""

    key: str | None = None
    certificate: ClientCertificate | None = None


NOTHING_PROVEN: Final = Proven()


class Confirmation(msgspec.Struct, frozen=True):
    """The key and the certificate that a token is bound to, by thumbprint; without either, having it is enough."""

    key: str | None = None
    certificate: str | None = None

    def require(self, proven: Proven, now: int) -> None:
        """Check that exactly what the token is bound to was proven.

        Neither without the other: a bound token without its proof is what a thief has (RFC 7800 section 3.1), and a
        proof beside a token that is not bound to it makes its holder believe in a protection that is not there.

        Raises:
            GateError: TOKEN_BINDING_REFUSED.
        """
        if not _same(self.key, proven.key):
            raise GateError(ErrorCode.TOKEN_BINDING_REFUSED, "the token is not bound to the key that was proven")
        shown = proven.certificate
        # RFC 8705 section 3: "If these values do not match, this indicates that the certificate presented … is not the
        # one to which the token was issued".
        if not _same(self.certificate, None if shown is None else shown.thumbprint):
            raise GateError(ErrorCode.TOKEN_BINDING_REFUSED, "the token is not bound to the certificate that was shown")
        if shown is not None and now > shown.not_after:
            raise GateError(ErrorCode.TOKEN_BINDING_REFUSED, "the certificate expired while the connection was open")


UNBOUND: Final = Confirmation()


def parse_confirmation(claims: Mapping[str, Any]) -> Confirmation:
    """What a token's `cnf` binds it to.

    Raises:
        GateError: TOKEN_BINDING_REFUSED: a confirmation that is not understood is one that nobody proved.
    """
    if "cnf" not in claims:
        return UNBOUND
    claimed: object = claims["cnf"]
    members: Mapping[str, object] = cast("Mapping[str, object]", claimed) if isinstance(claimed, Mapping) else {}
    if not members or not _MEMBERS.issuperset(members):
        raise GateError(ErrorCode.TOKEN_BINDING_REFUSED, "cnf is not a key, a certificate, or both")
    thumbprints: dict[str, str] = {}
    for name, value in members.items():
        if not isinstance(value, str) or _THUMBPRINT.fullmatch(value) is None:
            raise GateError(ErrorCode.TOKEN_BINDING_REFUSED, "cnf holds something else than thumbprints")
        thumbprints[name] = value
    return Confirmation(thumbprints.get(KEY), thumbprints.get(CERTIFICATE))


def verify_confirmation(claims: Mapping[str, Any], proof: str | None) -> None:
    """Check that a token is unbound, or bound to the key of this thumbprint and to nothing else (RFC 9449 section 6.1).

    A proof beside an unbound token is for the token that is asked for.

    Raises:
        GateError: TOKEN_BINDING_REFUSED.
    """
    bound = parse_confirmation(claims)
    if bound is not UNBOUND:
        bound.require(Proven(proof), 0)


def _same(bound: str | None, proven: str | None) -> bool:
    if bound is None or proven is None:
        return bound is proven
    return hmac.compare_digest(bound.encode(), proven.encode())
