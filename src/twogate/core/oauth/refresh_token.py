"""Refresh tokens of this server: `handle.secret`, both drawn at random (RFC 6749 section 1.5).

The handle stays for the whole family and finds it; the secret is another one after each use. So a token that was ever
given out is known as one, however old, while no guess is: that is what makes reuse detectable (RFC 9700 section
4.14.2) without keeping every token. The store knows the digests of both.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

import msgspec

from twogate.core.oauth.access_token import encode_base64url

HANDLE_BYTES: Final = 16
SECRET_BYTES: Final = 32

_TOKEN: Final = re.compile(r"([A-Za-z0-9_-]{22})\.([A-Za-z0-9_-]{43})")


class RefreshToken(msgspec.Struct, frozen=True):
    """A refresh token in its two parts."""

    handle: str
    secret: str

    def __repr__(self) -> str:
        """Say nothing of it."""
        return "RefreshToken()"

    @property
    def text(self) -> str:
        """The token as its client has it."""
        return f"{self.handle}.{self.secret}"


def new_refresh_token(handle: bytes | str, secret: bytes) -> RefreshToken:
    """A token of random bytes; `handle` is an earlier token's where the family goes on."""
    return RefreshToken(handle if isinstance(handle, str) else encode_base64url(handle), encode_base64url(secret))


def parse_refresh_token(text: str) -> RefreshToken | None:
    """The token; None if it is no refresh token of this server by its form."""
    match = _TOKEN.fullmatch(text)
    return None if match is None else RefreshToken(match[1], match[2])


def digest_of(part: str) -> str:
    """What the store knows of a code or a part of a token: SHA-256 in hex. Enough, because all of them are random."""
    return hashlib.sha256(part.encode("ascii")).hexdigest()
