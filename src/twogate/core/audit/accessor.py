"""Accessors: keyed digests that name a credential or an argument in the audit trail without revealing it.

Equal values give equal accessors under one key, so that events can be tied together; without the key a guess cannot be
checked. The key's id stands in front, so that a rotation is seen and old accessors can still be looked up.
"""

from __future__ import annotations

import hmac
import re
from typing import Final

MIN_KEY: Final = 32
"""Bytes of a key: as many as SHA-256 gives (RFC 2104 section 3)."""
_DIGITS: Final = 20
_KEY_ID: Final = re.compile(r"[a-z0-9]{1,16}")


class Accessors:
    """Makes accessors under one key."""

    __slots__ = ("_begun", "_key", "_prefix")

    def __init__(self, key_id: str, key: bytes) -> None:
        if _KEY_ID.fullmatch(key_id) is None:
            raise ValueError("an accessor key's id is 1 to 16 of a-z and 0-9")
        if len(key) < MIN_KEY:
            raise ValueError(f"an accessor key has at least {MIN_KEY} bytes")
        self._key = key
        self._begun: dict[str, hmac.HMAC] = {}  # by kind, which our own code names
        self._prefix = key_id + ":"

    def of(self, kind: str, value: bytes) -> str:
        """The accessor of a value; the same value of another kind gives another one.

        Raises:
            ValueError: `kind` is empty or holds a NUL, which parts it from the value.
        """
        begun = self._begun.get(kind)
        if begun is None:
            if not kind or "\0" in kind:
                raise ValueError("an accessor's kind is not empty and holds no NUL")
            begun = self._begun[kind] = hmac.new(self._key, b"%b\0" % kind.encode(), "sha256")
        digest = begun.copy()
        digest.update(value)
        return self._prefix + digest.hexdigest()[:_DIGITS]
