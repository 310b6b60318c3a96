"""Secrets that servers behind Twogate ask for: each call brings that of the calling tenant's, or does not go (R-36).

Where a secret lies is a reference of the configuration: a source, and the name that the source knows it by. There is no
secret that several tenants share, and none that stands in for a missing one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Protocol

from twogate.core.errors import ErrorCode, GateError

MIN_SECRET: Final = 8
MAX_SECRET: Final = 8192
"""Characters of a secret. Shorter ones can be guessed, and longer ones do not fit in a header."""

SECRET_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
"""What a secret of Twogate's own store may be called."""

# RFC 9110 section 5.5, without obs-text and tabs: what no reader takes for the end of a header or of a line.
_VISIBLE: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?")


class Secret:
    """A secret's value, which shows in no text about it."""

    __slots__ = ("value",)

    def __init__(self, value: str) -> None:
        """`value` has been through `parse_secret`."""
        self.value = value

    def __repr__(self) -> str:
        """Never the value."""
        return "Secret(…)"


def parse_secret(raw: bytes) -> str:
    """The secret in the content of a file or of standard input; one line end after it does not belong to it.

    Raises:
        GateError: REQUEST_MALFORMED: what it is instead; never the value.
    """
    if len(raw) > MAX_SECRET + 2:
        raise GateError(ErrorCode.REQUEST_MALFORMED, f"a secret has at most {MAX_SECRET} characters")
    content = raw.removesuffix(b"\n").removesuffix(b"\r")
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError:
        text = ""
    if not MIN_SECRET <= len(content) <= MAX_SECRET:
        raise GateError(ErrorCode.REQUEST_MALFORMED, f"a secret has {MIN_SECRET} to {MAX_SECRET} characters")
    if not _VISIBLE.fullmatch(text):
        # Else it could end the header that it stands in, and begin another one.
        raise GateError(
            ErrorCode.REQUEST_MALFORMED,
            "a secret is one line of visible ASCII characters, without blanks at its beginning and end",
        )
    return text


class SecretSource(Protocol):
    """Where secrets are kept: Twogate's own store, files, a key manager."""

    async def read(self, tenant: str, name: str) -> Secret:
        """The secret as it is now. Called for every message to a server, so what it costs, a call costs.

        Raises:
            GateError: SECRET_UNAVAILABLE: there is none, or it cannot be had now.
        """
        ...


class TenantSecrets:
    """The secrets of every tenant for every server, as one configuration generation refers to them.

    `references` say by (tenant, server) which of `sources` has the secret, and by what name.
    """

    def __init__(
        self, references: Mapping[tuple[str, str], tuple[str, str]], sources: Mapping[str, SecretSource]
    ) -> None:
        self._references = references
        self._sources = sources

    async def of(self, tenant: str, server: str) -> Secret:
        """The tenant's own secret for a server.

        Raises:
            GateError: SECRET_UNAVAILABLE, if there is none too.
        """
        reference = self._references.get((tenant, server))
        if reference is None:
            raise GateError(ErrorCode.SECRET_UNAVAILABLE, f"tenants.{tenant}.secrets names none for {server}")
        scheme, name = reference
        return await self._sources[scheme].read(tenant, name)
