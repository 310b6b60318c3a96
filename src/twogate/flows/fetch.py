"""Control-plane downloads (key sets, metadata) as flows ask for them; the guarded one lives in `adapters/fetch.py`.

Who named the URL decides what it may point at, so each caller says so with `Trust`; there is no default.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import msgspec


class Trust(StrEnum):
    """Who named the URL."""

    CONFIGURED = "configured"
    """The operator's configuration: may resolve to private or loopback addresses; `http:` to loopback only."""
    REQUESTED = "requested"
    """It came with a request: `https:` only, and every address of its host must be globally reachable."""


class Fetched(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a 200 answer; no other status is ever returned.

    `cache_max_age` is how many seconds the answer says it stays fresh (RFC 9111): 0 for `no-store` and `no-cache`,
    `None` if it says nothing. Callers clamp it. `content_type` is the media type in lower case without parameters.
    """

    body: bytes
    content_type: str = ""
    cache_max_age: int | None = None


class FetchError(Exception):
    """Nothing usable was fetched. The text says why, for the log and the audit trail, never for a caller."""


class Fetch(Protocol):
    """Downloads small documents."""

    async def get(
        self,
        url: str,
        *,
        trust: Trust,
        max_bytes: int,
        ca_file: Path | None = None,
        accept: str = "application/json",
    ) -> Fetched:
        """GET `url`, without redirects, within a fixed time, reading at most `max_bytes`.

        Raises:
            FetchError: The URL or an address of its host is refused, or no complete 200 answer came.
        """
        ...


class Posted(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a form: 200, or one of the 400s, by which OAuth says no (RFC 6749 section 5.2)."""

    status: int
    body: bytes

    def __repr__(self) -> str:
        """Leave out what may be tokens."""
        return f"Posted(status={self.status})"


class FormPost(Protocol):
    """Posts forms to the token endpoints of others, under the rules of `Fetch`."""

    async def post_form(
        self,
        url: str,
        form: Mapping[str, str],
        *,
        trust: Trust,
        max_bytes: int,
        authorization: str | None = None,
        ca_file: Path | None = None,
    ) -> Posted:
        """POST a form once, without redirects, within a fixed time, reading at most `max_bytes`.

        `authorization` is the value of that header field.

        Raises:
            FetchError: The URL or an address of its host is refused, or no complete answer of 200 or the 400s came.
                The form may have arrived all the same.
        """
        ...


class MessagePost(Protocol):
    """Posts messages to whom the operator named, under the rules of `Fetch`."""

    async def post_message(
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        trust: Trust,
        ca_file: Path | None = None,
    ) -> None:
        """POST JSON once, without redirects, within a fixed time. What the answer says beside its status is not read.

        Raises:
            FetchError: The URL or an address of its host is refused, or no answer of the 200s came. The message may
                have arrived all the same.
        """
        ...
