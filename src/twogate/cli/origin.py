"""An HTTP client for one Twogate, as commands use it that talk to one from afar."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx2

from twogate.cli.output import CommandError
from twogate.config.values import is_loopback

TIMEOUT: Final = 30.0
"""Seconds that a request may take."""


def open_origin(origin: str, ca: Path | None) -> httpx2.Client:
    """A client without proxies, `.netrc` and redirects: what it sends goes to the server that was named.

    Raises:
        CommandError: `origin` is no https origin (http on loopback), or the CA file cannot be used.
    """
    parts = urlsplit(origin)
    secure = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
    if not secure or not parts.hostname or origin != f"{parts.scheme}://{parts.netloc}" or "@" in parts.netloc:
        raise CommandError(
            f"{origin} is no origin of a Twogate: give https://HOST[:PORT], without a path", code="usage"
        )
    try:
        trust = ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise CommandError(f"the CA file {ca} cannot be used: {error.strerror or error}", code="usage") from error
    return httpx2.Client(verify=trust, trust_env=False, timeout=TIMEOUT)
