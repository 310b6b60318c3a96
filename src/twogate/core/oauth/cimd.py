"""Client ID metadata documents: a client whose id is the https URL of a document that describes it.

draft-ietf-oauth-client-id-metadata-document-01; the sections named below are its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, cast

import msgspec

from twogate.core import strict_json
from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.client_auth import AuthMethod
from twogate.core.oauth.client_metadata import ClientMetadata, MetadataRules, invalid_metadata, parse_metadata
from twogate.core.oauth.grant_type import GrantType

MAX_DOCUMENT: Final = 5 * 1024
"""Bytes of a document (section 6.6: "at most 5 kilobytes")."""

MAX_CLIENT_ID: Final = 255
"""Characters of a client id, whatever its form."""

_SCHEME: Final = "https://"
_MAX_DEPTH: Final = 8
_MAX_HOST: Final = 253
_MAX_PORT: Final = 65535
_DEFAULT_PORT: Final = 443

_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})+")
_URL: Final = re.compile(r"https://(?P<host>[a-z0-9.-]+)(?::(?P<port>[1-9][0-9]{0,4}))?(?P<path>/.*)", re.DOTALL)
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PATH: Final = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-F]{2})+")
# What is never percent-encoded in the one spelling of a URL (RFC 3986 section 6.2.2.2), and what URLs are cut by.
_NOT_ENCODED: Final = re.compile(r"%(?:2[35DEF]|3[0-9F]|4[1-9A-F]|5[0-9ACF]|6[1-9A-F]|7[0-9AEF]|[01][0-9A-F])")
_JSON: Final = re.compile(r"application/(?:[a-z0-9!#$&^_.+-]+\+)?json")

# A shared secret in a public document would be none, and one beside it could have been agreed on nowhere.
RULES: Final = MetadataRules(
    methods=frozenset({AuthMethod.NONE, AuthMethod.PRIVATE_KEY_JWT}),
    default_method=AuthMethod.NONE,
    grants=frozenset(GrantType),
    jwks_uri=True,
)


class ClientIdUrl(msgspec.Struct, frozen=True):
    """A client id that is the URL of its document; `text` is its one spelling."""

    text: str
    host: str
    port: int


class DomainRule(msgspec.Struct, frozen=True):
    """Hosts of documents: one, or with `below` every host under it and not itself. `port` is where they are served."""

    host: str
    port: int = _DEFAULT_PORT
    below: bool = False

    def matches(self, url: ClientIdUrl) -> bool:
        """Whether the URL lies there."""
        if url.port != self.port:
            return False
        return url.host.endswith(f".{self.host}") if self.below else url.host == self.host


def is_client_id_url(client_id: str) -> bool:
    """Whether a client id claims to be the URL of a document; whether it is a good one, `parse_client_id_url` says."""
    return client_id.startswith(_SCHEME)


def parse_client_id_url(text: str) -> ClientIdUrl:
    """Judge a client id that is a URL (section 3): https, a named host and a path, and nothing else.

    There is one spelling for each, so that it can be compared as a string. Stricter than the draft: no query at all,
    and no address instead of a name.

    Raises:
        ValueError: It is not one; the message says what to change.
    """
    if len(text) > MAX_CLIENT_ID:
        raise ValueError(f"a client_id has at most {MAX_CLIENT_ID} characters")
    if not text.startswith(_SCHEME):
        raise ValueError("a client_id that is a URL begins with https://")
    if "#" in text or "?" in text or "@" in text.removeprefix(_SCHEME).partition("/")[0]:
        raise ValueError("a client_id that is a URL has no fragment, no query and no user name")
    match = _URL.fullmatch(text)
    if match is None or match["path"] == "/":
        raise ValueError("a client_id that is a URL has a host in lower case and a path, such as /client.json")
    host, port, path = match["host"], int(match["port"] or _DEFAULT_PORT), match["path"]
    check_host(host)
    if port > _MAX_PORT or match["port"] == str(_DEFAULT_PORT):
        raise ValueError("a client_id that is a URL does not write the port 443, and none beyond 65535")
    segments = path.split("/")[1:]
    if not _PATH.fullmatch(path) or _NOT_ENCODED.search(path) or not all(segments[:-1]):
        raise ValueError("a client_id that is a URL has its path in the one usual spelling (RFC 3986 section 6.2.2)")
    if any(segment in (".", "..") for segment in segments):
        raise ValueError("a client_id that is a URL has no . and .. in its path")
    return ClientIdUrl(text, host, port)


def check_host(host: str) -> None:
    """Check that this is a domain name of at least two labels, in lower case.

    Raises:
        ValueError: It is not.
    """
    # A last label that is a number makes an IPv4 address to some parsers (WHATWG URL section 3.5).
    if len(host) > _MAX_HOST or not _HOST.fullmatch(host) or _NUMBER.fullmatch(host.rsplit(".", 1)[-1]):
        raise ValueError("must be a domain name in lower case, of at least two labels")


def best_rule(rules: Iterable[DomainRule], url: ClientIdUrl) -> DomainRule | None:
    """The most specific rule that matches: the host itself, else the longest domain above it."""
    matching = [rule for rule in rules if rule.matches(url)]
    return max(matching, key=lambda rule: (not rule.below, len(rule.host)), default=None)


def parse_document(body: bytes, content_type: str, client_id: str) -> ClientMetadata:
    """Judge a fetched document (section 4).

    1. JSON by its media type, small, and read by everybody alike; 2. `client_id` is the very URL, "using simple string
    comparison"; 3. no shared secret; 4. the metadata is good; 5. people can be told a name.

    Raises:
        GateError: CLIENT_METADATA_INVALID; `data["description"]` says what to change.
    """
    # 1.
    if not _JSON.fullmatch(content_type):
        raise invalid_metadata("the document's Content-Type must be application/json")
    try:
        decoded: object = strict_json.decode(body, max_bytes=MAX_DOCUMENT, max_depth=_MAX_DEPTH)
    except GateError as error:
        raise invalid_metadata(f"the document is not well-formed: {error.face.text}") from error
    if not isinstance(decoded, dict):
        raise invalid_metadata("the document must be a JSON object")
    members = cast("dict[str, object]", decoded)
    # 2.
    if members.get("client_id") != client_id:
        raise invalid_metadata("client_id in the document must be the very URL that it is served at")
    # 3.
    if not {"client_secret", "client_secret_expires_at"}.isdisjoint(members):
        raise invalid_metadata("the document must not have client_secret; everybody can read it")
    # 4.
    try:
        metadata = parse_metadata(members, RULES)
    except GateError as error:
        if error.code is ErrorCode.REDIRECT_INVALID:
            raise invalid_metadata(error.debug) from None
        raise
    # 5.
    if not metadata.name:
        raise invalid_metadata("client_name is missing")
    return metadata
