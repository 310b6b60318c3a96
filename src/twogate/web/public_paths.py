"""Which paths of a guarded application anybody may reach, past both gates: those that its author names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

# A path of segments that need no percent-encoding, none of them `.` or `..`, so that it has one spelling.
_PATH: Final = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9\-._~!$&'()*+,;=:@]+)+/?|/")


class PublicPaths:
    """Exact paths, and with a `/` at the end all below them."""

    def __init__(self, endpoint: str, paths: Iterable[str]) -> None:
        """`endpoint` is the MCP endpoint, which must stay out of them.

        Raises:
            ValueError: what is no plain path; a path that would let the endpoint out.
        """
        if isinstance(paths, str):
            raise TypeError("public_paths is a list of paths")
        self._paths = tuple(paths)
        for path in (endpoint, *self._paths):
            if not _PATH.fullmatch(path):
                raise ValueError(f"{path!r} is no plain absolute path")
        for path in self._paths:
            # Frameworks take `/mcp` and `/mcp/` for one, and some all below it, in whatever letter case.
            one, other = f"{path}/".casefold().replace("//", "/"), f"{endpoint}/".casefold().replace("//", "/")
            if one.startswith(other) or (path.endswith("/") and other.startswith(one)):
                raise ValueError(f"public_paths: {path} would let callers around the gates to {endpoint}")
        self._exact = frozenset(self._paths)
        self._below = tuple(path for path in self._paths if path.endswith("/"))

    def __contains__(self, path: str) -> bool:
        return path in self._exact or (bool(self._below) and path.startswith(self._below))

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)
