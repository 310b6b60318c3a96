"""Finding an issuer's metadata (RFC 8414 section 3, OpenID Connect Discovery section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.keys import MAX_DOCUMENT
from twogate.flows.fetch import Fetch, FetchError, Trust


async def discover(issuer: str, fetch: Fetch, ca_file: Path | None, needed: str) -> Mapping[str, Any]:
    """The metadata of an issuer, which name the very issuer and have a text at `needed`.

    Raises:
        GateError: KEYS_UNAVAILABLE if there are none.
    """
    parts = urlsplit(issuer)
    origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    for url in (
        f"{origin}/.well-known/oauth-authorization-server{path}",
        f"{origin}{path}/.well-known/openid-configuration",
    ):
        try:
            fetched = await fetch.get(url, trust=Trust.CONFIGURED, max_bytes=MAX_DOCUMENT, ca_file=ca_file)
            metadata: object = msgspec.json.decode(fetched.body)
        except (FetchError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
        if isinstance(metadata, dict):
            known = cast("dict[str, Any]", metadata)
            # RFC 8414 section 3.3: the issuer "MUST be identical".
            if known.get("issuer") == issuer and isinstance(known.get(needed), str):
                return known
    raise GateError(ErrorCode.KEYS_UNAVAILABLE, f"no metadata of {issuer} names its {needed}")


def trust_in(url: str, issuer: str) -> Trust:
    """How far an address that an issuer's metadata name may reach.

    An operator vouched for the issuer's host, not for every host that its metadata may come to name.
    """
    return Trust.CONFIGURED if urlsplit(url)[:2] == urlsplit(issuer)[:2] else Trust.REQUESTED
