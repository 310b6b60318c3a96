"""The webauthn library behind a port; implements `flows.authserver.passkeys.PasskeyVerifier`."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable
from typing import Final, TypeVar
from urllib.parse import urlsplit

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from webauthn import verify_authentication_response, verify_registration_response
from webauthn.helpers import parse_attestation_object, parse_registration_credential_json
from webauthn.helpers.cose import COSEAlgorithmIdentifier
from webauthn.helpers.exceptions import WebAuthnException
from webauthn.helpers.structs import AttestationFormat

from twogate.core import webauthn
from twogate.core.errors import ErrorCode, GateError
from twogate.core.webauthn import UnverifiedAnswer
from twogate.flows.authserver.passkeys import NewPasskey

T = TypeVar("T")

ALGORITHMS: Final = [
    COSEAlgorithmIdentifier.ECDSA_SHA_256,
    COSEAlgorithmIdentifier.EDDSA,
    COSEAlgorithmIdentifier.RSASSA_PKCS1_v1_5_SHA_256,
]

# What authenticators send when asked for no attestation (WebAuthn Level 3, section 5.1.3): nothing, or their own.
_FORMATS: Final = frozenset({AttestationFormat.NONE, AttestationFormat.PACKED})

# What the library raises for bytes that somebody made up; the rest of its contract is WebAuthnException.
_HOSTILE: Final = (
    WebAuthnException,
    InvalidSignature,
    UnsupportedAlgorithm,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    struct.error,
)


class PasskeyLibrary:
    """Verifies answers of browsers on one origin."""

    def __init__(self, origin: str, rp_id: str) -> None:
        self._origin = origin
        self._rp_id = rp_id

    def verify_new(self, answer: UnverifiedAnswer, challenge: bytes) -> NewPasskey:
        """The passkey that an answer to an enrolment holds (WebAuthn Level 3, section 7.1).

        Raises:
            GateError: PASSKEY_REFUSED.
        """

        def verify() -> NewPasskey:
            credential = parse_registration_credential_json(answer.text)
            # The library can read formats whose certificates nobody here trusts; what is not read cannot be wrong.
            if parse_attestation_object(credential.response.attestation_object).fmt not in _FORMATS:
                raise GateError(ErrorCode.PASSKEY_REFUSED, "an attestation that was not asked for")
            verified = verify_registration_response(
                credential=credential,
                expected_challenge=challenge,
                expected_rp_id=self._rp_id,
                expected_origin=self._origin,
                require_user_verification=True,
                supported_pub_key_algs=ALGORITHMS,
            )
            if credential.raw_id != verified.credential_id:
                raise GateError(ErrorCode.PASSKEY_REFUSED, "the answer names another passkey than it holds")
            return NewPasskey(
                webauthn.encode(verified.credential_id),
                webauthn.encode(verified.credential_public_key),
                verified.sign_count,
            )

        return _judged(verify)

    def verify_used(self, answer: UnverifiedAnswer, challenge: bytes, public_key: str, sign_count: int) -> int:
        """The new signature count of a passkey that answered (section 7.2). A count of 0 may stay 0.

        Raises:
            GateError: PASSKEY_REFUSED.
        """

        def verify() -> int:
            return verify_authentication_response(
                credential=answer.text,
                expected_challenge=challenge,
                expected_rp_id=self._rp_id,
                expected_origin=self._origin,
                credential_public_key=webauthn.decode(public_key),
                credential_current_sign_count=sign_count,
                require_user_verification=True,
            ).new_sign_count

        return _judged(verify)


def relying_party(public_url: str) -> str | None:
    """The RP ID of an origin: its host; None if that is an address, which cannot be one (section 5.1.3)."""
    host = urlsplit(public_url).hostname or ""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host
    return None


def _judged(verify: Callable[[], T]) -> T:
    try:
        return verify()
    except _HOSTILE as error:
        # The library's texts quote what the browser sent, so only what kind of defect it was is told; but a count that
        # went back is what a copied authenticator looks like.
        copied = "sign count" in str(error)
        why = "the signature count did not grow" if copied else f"the answer does not verify: {type(error).__name__}"
        raise GateError(ErrorCode.PASSKEY_REFUSED, why) from None
