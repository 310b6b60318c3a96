"""Response headers that every answer of the control plane carries (R-91)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

# Nothing here is a page: a browser that is tricked into showing an answer runs and embeds nothing.
_ALWAYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
        "Referrer-Policy": "no-referrer",
    }
)
_STRICT_TRANSPORT: Final = "max-age=31536000"


def security_headers(public_url: str) -> dict[str, str]:
    """The headers for answers under this origin; HSTS only over https, where alone browsers heed it (RFC 6797)."""
    if public_url.startswith("https://"):
        return {**_ALWAYS, "Strict-Transport-Security": _STRICT_TRANSPORT}
    return dict(_ALWAYS)
