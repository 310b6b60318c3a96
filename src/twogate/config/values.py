"""What single values of the configuration may look like: durations, sizes, addresses, URLs, names."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, TypeVar
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from twogate.core.entry import parse_entry
from twogate.core.oauth.workload_token import is_trust_domain

T = TypeVar("T")

MAX_URL: Final = 2048
MAX_HOST: Final = 253
MAX_PORT: Final = 65535
ABSENT: Final = "absent"
"""How a list of JOSE types means tokens that have none."""

MAX_SOCKET_PATH: Final = 100  # sun_path holds 108 bytes on Linux, 104 elsewhere

_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\Z")
_DURATION: Final = re.compile(r"([1-9][0-9]{0,5})(s|m|h|d)\Z")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZE: Final = re.compile(r"([1-9][0-9]{0,8})(B|KiB|MiB)\Z")
_BYTES: Final = {"B": 1, "KiB": 1024, "MiB": 1024 * 1024}
_POINTER: Final = re.compile(r"(?:/(?:[^~/]|~[01])+)+\Z")
_SERVER: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_DEFAULT_PORT: Final = {"http": 80, "https": 443}


@dataclass(frozen=True)
class TcpAddress:
    """Where to listen: an IP address or name, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        """As the setting spells it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class UnixAddress:
    """Where to listen: a Unix socket."""

    path: Path

    def __str__(self) -> str:
        """As the setting spells it."""
        return f"unix:{self.path}"


Address = TcpAddress | UnixAddress


@dataclass(frozen=True)
class Base:
    """The validation context: the directory that holds the file, from which relative paths count, and Unix seconds.

    Without a time no moment is near enough to be accepted.
    """

    directory: Path
    now: int = 0


def is_loopback(host: str) -> bool:
    """Whether a host can only be this machine: `localhost` or a loopback address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _split(url: str) -> tuple[SplitResult, str, int | None]:
    # urlsplit drops some control characters silently and takes nearly any host, so both are checked here.
    if len(url) > MAX_URL:
        raise ValueError(f"is longer than {MAX_URL} characters")
    if not url.isascii() or any(char <= " " or char in '\\"<>^`{|}\x7f' for char in url):
        raise ValueError("holds a character that a URL cannot; write international names in their xn-- form")
    try:
        parts, port = urlsplit(url), urlsplit(url).port
    except ValueError as error:
        raise ValueError(f"is not a URL: {error}") from None
    if parts.scheme not in ("https", "http"):
        raise ValueError("must be a URL that starts with https://")
    if "@" in parts.netloc:
        raise ValueError("must not hold a user name or password; secrets never stand in this file")
    if "#" in url:
        raise ValueError("must not have a fragment (#…)")
    host = parts.hostname or ""
    check_host(host)
    if port == 0:
        raise ValueError("has port 0")
    return parts, host, port


def check_host(host: str) -> None:
    """Check that this is an IP address or a name in lower case.

    Raises:
        ValueError: It is neither.
    """
    try:
        ipaddress.ip_address(host)
    except ValueError:
        # A last label of digits would be read as an IPv4 address by some clients (RFC 1123 section 2.1).
        if len(host) > MAX_HOST or not _HOST.match(host) or host.rsplit(".", 1)[-1].isdigit():
            raise ValueError(f"has no valid host ({host!r})") from None


def _require_https(parts: SplitResult, host: str) -> None:
    if parts.scheme != "https" and not is_loopback(host):
        raise ValueError("must be https; http is only for localhost, 127.0.0.1 and [::1]")


def parse_origin(url: str) -> str:
    """A web origin (RFC 6454 section 6.2) in its one spelling; http only for loopback hosts.

    Raises:
        ValueError: It is not one.
    """
    parts, host, port = _split(url)
    _require_https(parts, host)
    if parts.path not in ("", "/") or "?" in url:
        raise ValueError("must be only https://host or https://host:port, without path and query")
    shown = f"[{ipaddress.ip_address(host)}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + ("" if port in (None, _DEFAULT_PORT[parts.scheme]) else f":{port}")


def _parse_issuer(url: str) -> str:
    # RFC 8414 section 2: https, no query, no fragment. Returned as written: issuers are compared as raw strings.
    parts, host, _ = _split(url)
    _require_https(parts, host)
    if "?" in url:
        raise ValueError("must not have a query (?…)")
    return url


def _parse_vouching(name: str) -> str:
    if not name.startswith("spiffe:"):
        return _parse_issuer(name)
    if not is_trust_domain(name):
        raise ValueError("must be spiffe://trust-domain, in lower case and without a path")
    return name


def _parse_fetched(url: str) -> str:
    parts, host, _ = _split(url)
    _require_https(parts, host)
    return url


def _parse_upstream(url: str) -> str:
    parts, _, _ = _split(url)
    if "?" in url:
        raise ValueError("must not have a query (?…); secrets never stand in this file")
    if not parts.path:
        raise ValueError("must have a path, usually /mcp")
    return url


def parse_duration(value: object) -> int:
    """Seconds of a text like `90s`, `5m`, `1h`, `30d`.

    Raises:
        ValueError: It is not one.
    """
    match = _DURATION.match(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be a duration with a unit: 90s, 5m, 1h, 30d")
    return int(match[1]) * _SECONDS[match[2]]


def parse_size(value: object) -> int:
    """Bytes of a text like `512KiB`, `4MiB`.

    Raises:
        ValueError: It is not one.
    """
    match = _SIZE.match(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be a size with a unit: 512KiB, 4MiB")
    return int(match[1]) * _BYTES[match[2]]


def parse_listen(value: object) -> Address:
    """An address of the form `host:port`, `[v6]:port` or `unix:/path`.

    Raises:
        ValueError: It is not one.
    """
    if isinstance(value, (TcpAddress, UnixAddress)):
        return value
    if not isinstance(value, str):
        raise ValueError('must be "host:port" or "unix:/path"')  # noqa: TRY004 - pydantic reports only ValueError
    if value.startswith("unix:"):
        path = value.removeprefix("unix:")
        if not path.startswith("/") or "\0" in path or len(path.encode()) > MAX_SOCKET_PATH:
            raise ValueError(f"must be unix: and an absolute path of at most {MAX_SOCKET_PATH} bytes")
        return UnixAddress(Path(path))
    host, colon, port = value.rpartition(":")
    if not colon or not re.fullmatch(r"[1-9][0-9]{0,4}", port) or int(port) > MAX_PORT:
        raise ValueError('must be "host:port" with a port from 1 to 65535, or "unix:/path"')
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if bracketed != (":" in host):
        raise ValueError("an IPv6 address must stand in brackets: [::1]:8443")
    check_host(host)
    return TcpAddress(host, int(port))


def directory_of(info: ValidationInfo) -> Path:
    """The directory that relative paths count from."""
    return info.context.directory if isinstance(info.context, Base) else Path.cwd()


def _absolute(path: Path, info: ValidationInfo) -> Path:
    if "\0" in str(path) or not path.name:
        raise ValueError("must be a path")
    return directory_of(info) / path


def _unique(values: tuple[T, ...]) -> tuple[T, ...]:
    if len(set(values)) != len(values):
        raise ValueError("names something twice")
    return values


def _pointer(value: str) -> str:
    if not _POINTER.match(value):
        raise ValueError("must be a JSON pointer (RFC 6901) such as /tenant or /realm_access/roles")
    return value


def _no_nul(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not hold a NUL character")
    return value


def _server_name(value: str) -> str:
    if not _SERVER.fullmatch(value):
        raise ValueError("a server's name is 1 to 63 of a-z 0-9 _ - and starts with a-z or 0-9")
    return value


def _entry(value: str) -> str:
    _server_name(parse_entry(value).server)
    return value


def matching(pattern: str, message: str) -> AfterValidator:
    """A validator that accepts only text that matches the whole pattern."""
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise ValueError(message)
        return value

    return AfterValidator(check)


Duration = Annotated[int, BeforeValidator(parse_duration)]
Size = Annotated[int, BeforeValidator(parse_size)]
Listen = Annotated[Address, BeforeValidator(parse_listen)]
FilePath = Annotated[Path, AfterValidator(_absolute)]
Origin = Annotated[str, AfterValidator(parse_origin)]
IssuerUrl = Annotated[str, AfterValidator(_parse_issuer)]
VouchingIssuer = Annotated[str, AfterValidator(_parse_vouching)]
"""An issuer's URL, or a SPIFFE trust domain."""
FetchedUrl = Annotated[str, AfterValidator(_parse_fetched)]
UpstreamUrl = Annotated[str, AfterValidator(_parse_upstream)]
Pointer = Annotated[str, AfterValidator(_pointer)]
ProcessText = Annotated[str, AfterValidator(_no_nul)]

ServerName = Annotated[str, AfterValidator(_server_name)]
Name = Annotated[
    str,
    matching(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}", "a name is 1 to 63 letters, digits, _ and -, no _ or - at its start"),
]
GroupName = Annotated[
    str, matching(r"[^\x00-\x1f\x7f]{1,256}", "a group's name is 1 to 256 characters, no control ones")
]
TenantName = Annotated[
    str, matching(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", "a tenant's name is 1 to 63 letters, digits and . _ -")
]
AgentKey = Annotated[
    str,
    matching(
        r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}/[A-Za-z0-9][A-Za-z0-9._-]{0,62}",
        "an agent is written tenant/name, each 1 to 63 letters, digits and . _ -",
    ),
]
Target = Annotated[str, AfterValidator(_entry)]
# RFC 6749 section 3.3.
ScopeName = Annotated[
    str, matching(r"[!#-\[\]-~]{1,128}", 'a scope is 1 to 128 visible ASCII characters, no " and no \\')
]
Identifier = Annotated[str, matching(r"[!-~]{1,256}", "must be 1 to 256 visible ASCII characters, no blanks")]
MediaSubtype = Annotated[
    str,
    matching(
        r"(?:application/)?[A-Za-z0-9!#$&^_.+-]{1,64}",
        f"must be a JOSE typ such as at+jwt or JWT, or {ABSENT} for tokens without one",
    ),
]
ResourcePath = Annotated[
    str,
    matching(
        r"/(?:sessions|operations|mcp(?:/[a-z0-9][a-z0-9_-]{0,62})?)",
        "must be the path of a resource, such as /mcp/git or /sessions",
    ),
]

NonEmpty = Annotated[tuple[T, ...], Field(min_length=1), AfterValidator(_unique)]
"""A list with at least one item and none twice: an empty allowlist is an error, never "everything" or a default."""

Entries = NonEmpty[str]
"""Classes and entries of `tools`; that they exist is checked in `references`."""
