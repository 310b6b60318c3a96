"""Where the store is: the setting `store`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import parse_qsl, urlsplit

from pydantic import BeforeValidator, ValidationInfo

from twogate.config.values import MAX_PORT, MAX_SOCKET_PATH, MAX_URL, check_host, directory_of

SQLITE: Final = "sqlite:///"
POSTGRESQL: Final = "postgresql+asyncpg://"
DEFAULT_PORT: Final = 5432

_SPELLINGS: Final = ("postgresql://", POSTGRESQL)
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}\Z")
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}\Z")
_SOCKET_NAME: Final = len("/.s.PGSQL.65535")


def parse_store(value: object, info: ValidationInfo) -> str:
    """The URL of a SQLite file or of a PostgreSQL database, in SQLAlchemy's spelling.

    `sqlite:///var/lib/x.db` is absolute, `sqlite:///./x.db` lies beside the configuration file;
    `postgresql+asyncpg://user@host:port/database` is reached by TCP, `postgresql+asyncpg://user@/database?host=/run/pg`
    by the Unix socket in that directory.

    Raises:
        ValueError: It is none of them.
    """
    if isinstance(value, str) and value.startswith(_SPELLINGS):
        return _parse_postgresql(value)
    if not isinstance(value, str) or not value.startswith(SQLITE):
        raise ValueError(
            "must be sqlite:///directory/file.db (absolute), sqlite:///./file.db (beside this file) or "
            f"{POSTGRESQL}user@host/database"
        )
    path = value.removeprefix(SQLITE).removeprefix("/")
    if not path or any(char in "?#%" or not char.isprintable() for char in path):
        raise ValueError("must be the path of a database file, without ?, # and %")
    if path.startswith(("./", "../")):
        return f"{SQLITE}{directory_of(info) / path}"
    if "/" not in path:
        # SQLAlchemy would read it as relative, other tools as absolute: ask.
        raise ValueError(f"write {SQLITE}./{path} for a file beside this one, or an absolute path with its directory")
    return f"{SQLITE}/{path}"


def is_postgresql(store: str) -> bool:
    """Whether a parsed `store` is a PostgreSQL database; else it is a SQLite file."""
    return store.startswith(POSTGRESQL)


def _parse_postgresql(url: str) -> str:
    # None of the errors repeats the URL: it may hold a password, also where none belongs.
    if ":" in url.partition("//")[2].rpartition("@")[0]:
        raise ValueError("must not hold a password; write it to a file of mode 0600 and name that in `store_password`")
    if len(url) > MAX_URL or not url.isascii() or any(char <= " " or char in '%\\"<>^`{|}\x7f#' for char in url):
        raise ValueError("holds a character that this URL cannot, or is too long")
    parts = urlsplit(url)
    user, _, place = parts.netloc.rpartition("@")
    database = parts.path.removeprefix("/")
    if not _NAME.match(user) or not _NAME.match(database):
        raise ValueError(f"must be {POSTGRESQL}user@host/database, with user and database of letters, digits and _ . -")
    if not place:
        directory, port = _socket(parts.query)
        return f"{POSTGRESQL}{user}@/{database}?host={directory}&port={port}"
    if parts.query:
        raise ValueError("must have either a host or ?host=/directory/of/the/socket, and no other option")
    return f"{POSTGRESQL}{user}@{_host(place)}/{database}"


def _host(place: str) -> str:
    match = re.fullmatch(r"(\[[^\]]+\]|[^:\[\]]+)(?::([0-9]+))?", place)
    if match is None:
        raise ValueError("has no valid host")
    check_host(match[1].strip("[]"))
    return f"{match[1]}:{_port(match[2])}"


def _socket(query: str) -> tuple[Path, int]:
    pairs = parse_qsl(query, keep_blank_values=True)
    options = dict(pairs)
    directory = options.get("host", "")
    if not options.keys() <= {"host", "port"} or len(options) != len(pairs) or not directory.startswith("/"):
        raise ValueError("must name a host, or the directory of the Unix socket: …@/database?host=/run/postgresql")
    if "," in directory or len(directory) + _SOCKET_NAME > MAX_SOCKET_PATH:
        raise ValueError("names no directory that a socket can be in")
    return Path(directory), _port(options.get("port"))


def _port(port: str | None) -> int:
    if port is None:
        return DEFAULT_PORT
    if not _PORT.match(port) or int(port) > MAX_PORT:
        raise ValueError("has no valid port")
    return int(port)


StoreUrl = Annotated[str, BeforeValidator(parse_store)]
