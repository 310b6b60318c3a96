"""Whether the settings of the shared store hold together."""

from __future__ import annotations

from collections.abc import Iterator

from twogate.config.document import KeyPath
from twogate.config.settings import Settings
from twogate.config.shared_url import SQL, TLS, shared_address

Found = tuple[KeyPath, str]


def shared_problems(settings: Settings, broken: frozenset[KeyPath]) -> Iterator[Found]:
    """Every problem; `broken` are the places that could not be read themselves."""
    if ("shared",) in broken:
        return
    if settings.shared == SQL:
        for name in ("shared_password", "shared_ca"):
            if getattr(settings, name) is not None:
                yield (name,), "goes with a Redis or Valkey server in `shared`"
        return
    address = shared_address(settings.shared)
    if settings.shared_ca is not None and not address.tls:
        yield ("shared_ca",), f"goes with {TLS}, which speaks TLS"
    if address.user and settings.shared_password is None and ("shared_password",) not in broken:
        yield ("shared_password",), f"is missing: `shared` names the user {address.user}"
