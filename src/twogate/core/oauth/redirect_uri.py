"""Where a client may have people sent back to: which redirect URIs are valid, and when two are the same.

RFC 6749 section 3.1.2, RFC 8252 sections 7 and 8, RFC 9700 section 4.1.3, OAuth 2.1 section 2.3.1.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from typing import Final
from urllib.parse import parse_qsl

import msgspec

MAX_REDIRECT_URI: Final = 1024
"""Characters that a redirect URI may have at most."""

APPLICATION_SCHEMES: Final = frozenset(
    {"cursor", "raycast", "vscode", "vscode-insiders", "vscodium", "warp", "windsurf"}
)
"""Schemes of known desktop applications. RFC 8252 section 7.1 asks for reverse domain names; these are older."""

RESPONSE_PARAMETERS: Final = frozenset(
    {"code", "error", "error_description", "error_uri", "id_token", "iss", "response", "state", "access_token"}
)
"""What an authorization response adds: a registered query that has it already would be read either way."""

# Visible ASCII but what RFC 3986 leaves out: browsers read a backslash as a slash and drop some of the others.
_CHARACTERS: Final = re.compile(r"[!#-;=?-\[\]_a-z~]+")
_PERCENT: Final = re.compile(r"(?:[^%]|%[0-9A-Fa-f]{2})*")
_ENCODED_CONTROL: Final = re.compile(r"%(?:[01][0-9A-Fa-f]|7[Ff])")
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*")
_REVERSE_DOMAIN: Final = re.compile(r"[a-z][a-z0-9-]*(?:\.[a-z0-9][a-z0-9-]*)+")
_AUTHORITY: Final = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::(?P<port>[1-9][0-9]{0,4}))?")
_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_MAX_NAME: Final = 253
_MAX_PORT: Final = 65535

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})


class RedirectUri(msgspec.Struct, frozen=True):
    """A valid redirect URI; `text` as it was given. `host` is empty for an application's own scheme.

    `loopback`: http to this machine, where any port is the same URI.
    """

    text: str
    scheme: str
    host: str
    port: int | None
    rest: str
    loopback: bool

    @property
    def shown(self) -> str:
        """Whom people are told that they are sent to: the host, or the application's scheme."""
        return self.host or f"{self.scheme}:"

    @property
    def form_target(self) -> str:
        """The source for a `form-action` directive (CSP 3 section 2.3.1) that lets a form's answer redirect there.

        A host source cannot name an IPv6 address, so that one is its scheme alone.
        """
        if not self.host or self.host.startswith("["):
            return f"{self.scheme}:"
        return f"{self.scheme}://{self.host}" + ("" if self.port is None else f":{self.port}")


def parse_redirect_uri(text: str) -> RedirectUri:
    """Judge a redirect URI: https, http to this machine, or an application's own scheme.

    There is one spelling for each: lower-case scheme and host, no user name, no fragment, no dot segments.

    Raises:
        ValueError: It is not one; the message says what to change, without quoting it.
    """
    if not 1 <= len(text) <= MAX_REDIRECT_URI:
        raise ValueError(f"a redirect URI has 1 to {MAX_REDIRECT_URI} characters")
    if "#" in text:
        raise ValueError("a redirect URI must not have a fragment (#…)")
    if not _CHARACTERS.fullmatch(text) or not _PERCENT.fullmatch(text) or _ENCODED_CONTROL.search(text):
        raise ValueError("a redirect URI holds a character that it cannot; percent-encode it (RFC 3986)")
    scheme, colon, rest = text.partition(":")
    if not colon or not _SCHEME.fullmatch(scheme):
        raise ValueError("a redirect URI is absolute and begins with a scheme in lower case")
    path, _, query = rest.partition("?")
    _check_query(query)
    if scheme in ("https", "http"):
        return _web(text, scheme, rest)
    if scheme not in APPLICATION_SCHEMES and not _REVERSE_DOMAIN.fullmatch(scheme):
        raise ValueError(
            "a redirect URI is https, http to 127.0.0.1, [::1] or localhost, or has a scheme of your own that is a "
            "domain name in reverse, such as com.example.app:/callback"
        )
    if not path.startswith("/") or "@" in path or path.startswith("///"):
        raise ValueError("a redirect URI with a scheme of your own goes on with / or //name/ and holds no @")
    _check_path(path)
    return RedirectUri(text, scheme, "", None, rest, loopback=False)


def redirect_uri_matches(registered: Collection[str], presented: str) -> bool:
    """Whether a redirect URI that a request names is one of the client's.

    Compared character by character, but for the port of http to this machine, which an application learns only when it
    starts to listen (RFC 8252 section 7.3). That includes `localhost`, which RFC 8252 section 8.3 advises against but
    MCP clients use; `localhost` and `127.0.0.1` are never the same. What `parse_redirect_uri` refuses never matches.
    """
    try:
        uri = parse_redirect_uri(presented)
    except ValueError:
        return False
    if presented in registered:
        return True
    return uri.loopback and any(_same_but_port(candidate, uri) for candidate in registered)


def _same_but_port(candidate: str, uri: RedirectUri) -> bool:
    try:
        other = parse_redirect_uri(candidate)
    except ValueError:
        return False
    return other.loopback and (other.host, other.rest) == (uri.host, uri.rest)


def _web(text: str, scheme: str, rest: str) -> RedirectUri:
    authority, slash, after = _split_authority(rest)
    if "@" in authority:
        raise ValueError("a redirect URI must not hold a user name or password")
    match = _AUTHORITY.fullmatch(authority)
    if match is None or int(match["port"] or 1) > _MAX_PORT:
        raise ValueError("a redirect URI names a host in lower case, and a port from 1 to 65535 if any")
    host = match["host"]
    _check_host(host)
    if scheme == "http" and host not in _LOOPBACK:
        raise ValueError("a redirect URI is https; http is only for 127.0.0.1, [::1] and localhost")
    _check_path((slash + after).partition("?")[0])
    port = None if match["port"] is None else int(match["port"])
    return RedirectUri(text, scheme, host, port, slash + after, loopback=scheme == "http")


def _split_authority(rest: str) -> tuple[str, str, str]:
    if not rest.startswith("//"):
        raise ValueError("a redirect URI of http or https goes on with //host/")
    match = re.search(r"[/?]", rest[2:])
    if match is None:
        return rest[2:], "", ""
    at = match.start() + 2
    return rest[2:at], rest[at], rest[at + 1 :]


def _check_host(host: str) -> None:
    if host.startswith("["):
        try:
            address = ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            raise ValueError("a redirect URI holds an IPv6 address that is none") from None
        if str(address) != host[1:-1]:
            raise ValueError("a redirect URI writes an IPv6 address in its short form")
        return
    # Browsers read a host whose last label is a number as an IPv4 address, in decimal, octal or hex (WHATWG URL 3.5).
    last = host.rsplit(".", 1)[-1]
    if last.isdigit() or re.fullmatch(r"0x[0-9a-f]*", last):
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise ValueError("a redirect URI writes an IPv4 address as four decimal numbers") from None
    elif len(host) > _MAX_NAME or not _NAME.fullmatch(host):
        raise ValueError("a redirect URI names a host that is no domain name")


def _check_path(path: str) -> None:
    decoded = re.sub(r"%2[eE]", ".", path)
    if any(segment in (".", "..") for segment in re.split(r"/|%2[fF]|%5[cC]", decoded)):
        raise ValueError("a redirect URI must not have . or .. in its path")


def _check_query(query: str) -> None:
    if any(name in RESPONSE_PARAMETERS for name, _ in parse_qsl(query, keep_blank_values=True)):
        raise ValueError("a redirect URI's query must not use a name of the authorization response, such as code")
