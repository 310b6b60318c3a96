"""What a browser answers to a passkey request, read before anything of it is verified (WebAuthn Level 3, section 5).

The library verifies signature, origin and flags; here is what it leaves to its caller, and which challenge and which
passkey an answer is about.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final, cast

import msgspec

from twogate.core import strict_json
from twogate.core.errors import ErrorCode, GateError

MAX_ANSWER: Final = 12 * 1024
"""Bytes of a browser's answer; with attestation `none` and keys of any supported kind it has less than 2 KiB."""

MAX_CREDENTIAL_ID: Final = 1023
"""Bytes of a credential id (section 4)."""

_MAX_DEPTH: Final = 8
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]+")


class UnverifiedAnswer(msgspec.Struct, frozen=True):
    """A browser's answer; nothing of it is verified but that it was not made inside another site's page.

    `text` is all of it, as JSON. `credential_id` is base64url; `user_handle` is None where the answer has none.
    """

    text: str
    credential_id: str
    challenge: bytes
    user_handle: bytes | None

    def __repr__(self) -> str:
        """Name the passkey."""
        return f"UnverifiedAnswer({self.credential_id!r})"


def parse_answer(text: str) -> UnverifiedAnswer:
    """Read what `navigator.credentials.get` or `create` returned, in its JSON form (section 5.1).

    Raises:
        GateError: PASSKEY_REFUSED.
    """
    answer = _members(text.encode(), "the answer")
    response = _object(answer.get("response"), "the answer's response")
    credential_id, client_data = answer.get("id"), response.get("clientDataJSON")
    if not isinstance(credential_id, str) or not 0 < len(decode(credential_id)) <= MAX_CREDENTIAL_ID:
        raise _refused("the answer has no credential id")
    said = _members(decode(client_data), "clientDataJSON")
    # "The RP MAY … verify crossOrigin" (section 7.2): ours never asks from inside another site's page.
    if said.get("crossOrigin", False) is not False or "topOrigin" in said:
        raise _refused("the passkey was used inside another site's page")
    handle = response.get("userHandle")
    return UnverifiedAnswer(
        text, credential_id, decode(said.get("challenge")), None if handle in (None, "") else decode(handle)
    )


def encode(raw: bytes) -> str:
    """Base64url without padding, as WebAuthn writes bytes in JSON."""
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def decode(text: object) -> bytes:
    """The bytes of a base64url text, which must be in its one spelling.

    Raises:
        GateError: PASSKEY_REFUSED.
    """
    if not isinstance(text, str) or len(text) > 2 * MAX_ANSWER or _BASE64URL.fullmatch(text) is None:
        raise _refused("a member is not base64url")
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        raise _refused("a member is not base64url") from None
    if encode(raw) != text:
        raise _refused("a member is not base64url in its one spelling")
    return raw


def _members(raw: bytes, what: str) -> dict[str, object]:
    try:
        value = strict_json.decode(raw, max_bytes=MAX_ANSWER, max_depth=_MAX_DEPTH)
    except GateError as error:
        raise _refused(f"{what} is not strict JSON: {error.code.value}") from None
    return _object(value, what)


def _object(value: object, what: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _refused(f"{what} is no JSON object")
    return cast("dict[str, object]", value)


def _refused(why: str) -> GateError:
    return GateError(ErrorCode.PASSKEY_REFUSED, why)
