"""Taking back what was issued: tokens, grants, clients and users (DESIGN decision 18).

A revocation names what no access token of the embedded server may come from any more. Gate one looks at it whenever
anything was revoked anywhere, so it holds from the next request on, at every process and every replica.
"""

from __future__ import annotations

from typing import Final, Literal, Protocol

from twogate.core.oauth.access_token import MAX_LIFETIME

RevocationKind = Literal["token", "grant", "client", "user"]

MAX_VALUE: Final = 1024
"""Characters that the name of something revoked may have at most."""


class RevocationStore(Protocol):
    """Keeps revocations, and tells every process of each."""

    async def add(self, kind: RevocationKind, value: str, until: int, now: int) -> None:
        """Revoke until `until`; in force everywhere on return. Of two revocations the one that ends later counts.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...


def outlasts_tokens(now: int) -> int:
    """The moment from which on no access token that exists at `now` is good: how long to revoke all of them.

    It goes by the longest lifetime that the configuration could ever allow, because a reload may have shortened it.
    """
    return now + MAX_LIFETIME


class Revocations:
    """Takes back access tokens.

    `token` is a token's `jti`, `grant` the grant that tokens come from, `client` a client's id, and `user` a person's
    subject, which is random and never given to another one. Who revokes writes the audit event, before.
    """

    def __init__(self, store: RevocationStore) -> None:
        self._store = store

    async def revoke(self, kind: RevocationKind, value: str, until: int, now: int) -> None:
        """Refuse every token of `value` from the next request on, until `until` (Unix seconds), at every gateway.

        Repeating it is fine. `until` is when the last of these tokens expires: its own `exp`, or `outlasts_tokens`.

        Raises:
            GateError: STORE_UNAVAILABLE; it is then unknown whether it holds, so try again.
            ValueError: `value` is no name, or a user's with its tenant; nothing would be refused.
        """
        if not 0 < len(value) <= MAX_VALUE or (kind == "user" and "/" in value):
            raise ValueError(f"{kind}: not the name of one")
        if until > now:
            await self._store.add(kind, value, until, now)
