"""Where short-lived state is that all replicas share: the setting `shared`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import BeforeValidator

from twogate.config.values import MAX_PORT, MAX_URL, check_host, is_loopback

SQL: Final = "sql"
"""Used values in the store, limits in each process's memory."""

PLAIN: Final = "redis://"
TLS: Final = "rediss://"
DEFAULT_PORT: Final = 6379
MAX_DATABASE: Final = 9999

_USER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}\Z")
_PLACE: Final = re.compile(r"(\[[^\]]+\]|[^:\[\]]+)(?::([1-9][0-9]{0,4}))?\Z")
_DATABASE: Final = re.compile(r"(?:0|[1-9][0-9]{0,3})\Z")


@dataclass(frozen=True)
class SharedAddress:
    """A Redis or Valkey server, and who logs in to it; '' is its default user."""

    host: str
    port: int
    database: int
    user: str
    tls: bool

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{TLS if self.tls else PLAIN}{user}{host}:{self.port}/{self.database}"


def parse_shared(value: object) -> str:
    """`sql`, or the URL of a Redis or Valkey server: `rediss://[user@]host[:port][/database]`, written in full.

    `redis://` speaks no TLS and is for this machine only.

    Raises:
        ValueError: It is none of them.
    """
    if value == SQL:
        return SQL
    if not isinstance(value, str) or not value.startswith((PLAIN, TLS)):
        raise ValueError(f"must be {SQL}, or {TLS}host:port/database ({PLAIN} on this machine)")
    return str(shared_address(value))


def shared_address(url: str) -> SharedAddress:
    """The parts of such a URL.

    Raises:
        ValueError: It is none, or it holds a password, which is never repeated.
    """
    tls = url.startswith(TLS)
    rest = url.removeprefix(TLS if tls else PLAIN)
    user, at, place = rest.rpartition("@")
    if ":" in user:
        raise ValueError("must not hold a password; write it to a file of mode 0600 and name that in `shared_password`")
    if len(url) > MAX_URL or not url.isascii() or any(char <= " " or char in '%\\"<>^`{|}\x7f#?' for char in url):
        raise ValueError("holds a character that this URL cannot, or is too long")
    if at and not _USER.match(user):
        raise ValueError("names no valid user (letters, digits and _ . -)")
    where, _, database = place.partition("/")
    match = _PLACE.match(where)
    if match is None or int(match[2] or 1) > MAX_PORT:
        raise ValueError("has no valid host and port")
    host = match[1].strip("[]")
    check_host(host)
    if database and not _DATABASE.match(database):
        raise ValueError(f"must end in the number of a database, 0 to {MAX_DATABASE}")
    if not tls and not is_loopback(host):
        raise ValueError(f"must be {TLS} (TLS); {PLAIN} is only for localhost, 127.0.0.1 and [::1]")
    return SharedAddress(host, int(match[2] or DEFAULT_PORT), int(database or 0), user, tls)


SharedUrl = Annotated[str, BeforeValidator(parse_shared)]
