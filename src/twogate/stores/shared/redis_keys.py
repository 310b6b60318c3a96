"""How keys are named: by deployment and by digest, so that they say nothing and collide with nobody's."""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

_DEPLOYMENT: Final = 16


def prefix_of(public_url: str) -> str:
    """The start of every key of one deployment. The braces keep its keys together where a proxy spreads keys."""
    return f"twogate:{{{hashlib.sha256(public_url.encode()).hexdigest()[:_DEPLOYMENT]}}}:"


def digest_of(*parts: str) -> str:
    """The SHA-256 of some strings, in hexadecimal; no two lists of them run together into one.

    Raises:
        UnicodeEncodeError: one of them is not valid Unicode.
    """
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()
