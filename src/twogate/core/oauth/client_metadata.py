"""What a client says of itself when it registers: its metadata (RFC 7591 section 2), judged.

Dynamic registration and client ID metadata documents have the same members; `MetadataRules` says how they differ.
Members that nothing here acts on (`client_uri`, `logo_uri`, `contacts`, `software_statement`) are ignored and kept
nowhere: people would take them for something that was checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.keys import parse_jwks
from twogate.core.oauth.client_auth import AuthMethod
from twogate.core.oauth.grant_type import GrantType
from twogate.core.oauth.redirect_uri import parse_redirect_uri
from twogate.core.shown import is_seen

MAX_REDIRECT_URIS: Final = 20
"""Redirect URIs that one client may register."""

MAX_NAME: Final = 100
"""Characters of a client's name."""

MAX_KEYS: Final = 10
"""Public keys that one client may register."""

MAX_ITEMS: Final = 50
"""Items of any other list."""

_CODE: Final = "code"
_APPLICATION_TYPES: Final = ("native", "web")
# Members by which a JWK holds what must stay with the client (RFC 7518 section 6).
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


class MetadataRules(msgspec.Struct, frozen=True):
    """What a way of registering lets clients be. `default_method` and `default_grants` hold where they say nothing."""

    methods: frozenset[AuthMethod]
    default_method: AuthMethod
    grants: frozenset[GrantType]
    jwks_uri: bool
    default_grants: frozenset[GrantType] = frozenset({GrantType.AUTHORIZATION_CODE})


class ClientMetadata(msgspec.Struct, frozen=True):
    """A client as it described itself, within the rules. `jwks` is a public JWK set as JSON."""

    redirect_uris: tuple[str, ...]
    method: AuthMethod
    grants: frozenset[GrantType]
    name: str
    jwks: str | None
    jwks_uri: str | None
    application_type: str | None


def invalid_metadata(description: str, code: ErrorCode = ErrorCode.CLIENT_METADATA_INVALID) -> GateError:
    """A refusal that tells the client's developer what to change. `description` quotes nothing of the metadata."""
    return GateError(code, description, data={"description": description})


def parse_metadata(members: Mapping[str, object], rules: MetadataRules) -> ClientMetadata:
    """Judge a client's metadata.

    Grant types that exist but are not for such clients are left out, as RFC 7591 section 2 allows ("the authorization
    server MAY … replace any of the client's requested metadata values"), if one remains that is.

    Raises:
        GateError: CLIENT_METADATA_INVALID, REDIRECT_INVALID; `data["description"]` says what to change.
    """
    grants = _grants(members, rules)
    _check_response_types(members, grants)
    uris = _redirect_uris(members)
    if GrantType.AUTHORIZATION_CODE in grants and not uris:
        raise invalid_metadata("redirect_uris must list at least one URI", ErrorCode.REDIRECT_INVALID)
    method = _method(members, rules)
    jwks, jwks_uri = _keys(members, rules) if method is AuthMethod.PRIVATE_KEY_JWT else (None, None)
    application_type = members.get("application_type")
    if application_type is not None and application_type not in _APPLICATION_TYPES:
        raise invalid_metadata("application_type must be native or web")
    return ClientMetadata(
        redirect_uris=uris,
        method=method,
        grants=grants,
        name=_name(members),
        jwks=jwks,
        jwks_uri=jwks_uri,
        application_type=application_type,
    )


def check_keys(document: object) -> str:
    """A public JWK set as JSON, from its decoded form.

    Raises:
        ValueError: It holds no usable key, too many, or a private or symmetric one.
    """
    entries = cast("dict[str, object]", document).get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not 1 <= len(cast("list[object]", entries)) <= MAX_KEYS:
        raise ValueError(f"must be a JWK set with 1 to {MAX_KEYS} keys")
    for entry in cast("list[object]", entries):
        if isinstance(entry, dict) and not _PRIVATE.isdisjoint(cast("dict[str, object]", entry)):
            raise ValueError("holds a private or symmetric key; publish public keys only, and replace this one")
    text = msgspec.json.encode(document).decode()
    if not parse_jwks(text.encode()):
        raise ValueError("holds no usable public signature key (EC P-256, Ed25519, or RSA of 2048 bits and more)")
    return text


def check_name(name: str) -> str:
    """A client's name as people may be shown it.

    Raises:
        ValueError: It is empty, too long, or holds characters that could make it look like something else.
    """
    # Control and formatting characters, bidirectional ones among them, could reorder the consent page.
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable() or name != name.strip() or not any(map(is_seen, name)):
        raise ValueError(f"must be 1 to {MAX_NAME} printable characters, without blanks around them")
    return name


def _strings(members: Mapping[str, object], name: str, most: int) -> tuple[str, ...] | None:
    value = members.get(name)
    if value is None:
        return None
    items = cast("list[object]", value) if isinstance(value, list) else []
    texts = tuple(item for item in items if isinstance(item, str))
    if not isinstance(value, list) or len(texts) != len(items) or len(items) > most:
        raise invalid_metadata(f"{name} must be a list of at most {most} strings")
    return texts


def _grants(members: Mapping[str, object], rules: MetadataRules) -> frozenset[GrantType]:
    asked = _strings(members, "grant_types", MAX_ITEMS)
    grants = rules.default_grants if asked is None else {grant for grant in GrantType if grant.value in asked}
    allowed = frozenset(grants) & rules.grants
    if not allowed - {GrantType.REFRESH_TOKEN}:
        known = ", ".join(sorted(grant.value for grant in rules.grants - {GrantType.REFRESH_TOKEN}))
        raise invalid_metadata(f"grant_types must have at least one of: {known}")
    return allowed


def _check_response_types(members: Mapping[str, object], grants: frozenset[GrantType]) -> None:
    asked = _strings(members, "response_types", MAX_ITEMS)
    # The table of RFC 7591 section 2.1 holds the two to each other.
    if asked is not None and GrantType.AUTHORIZATION_CODE in grants and _CODE not in asked:
        raise invalid_metadata("response_types must have code")


def _redirect_uris(members: Mapping[str, object]) -> tuple[str, ...]:
    try:
        uris = _strings(members, "redirect_uris", MAX_REDIRECT_URIS) or ()
    except GateError as error:
        raise invalid_metadata(error.debug, ErrorCode.REDIRECT_INVALID) from None
    for index, uri in enumerate(uris):
        try:
            parse_redirect_uri(uri)
        except ValueError as error:
            raise invalid_metadata(f"redirect_uris[{index}]: {error}", ErrorCode.REDIRECT_INVALID) from None
    return tuple(dict.fromkeys(uris))


def _method(members: Mapping[str, object], rules: MetadataRules) -> AuthMethod:
    asked = members.get("token_endpoint_auth_method")
    if asked is None:
        return rules.default_method
    for method in rules.methods:
        if method.value == asked:
            return method
    known = ", ".join(sorted(method.value for method in rules.methods))
    raise invalid_metadata(f"token_endpoint_auth_method must be one of: {known}")


def _keys(members: Mapping[str, object], rules: MetadataRules) -> tuple[str | None, str | None]:
    jwks, jwks_uri = members.get("jwks"), members.get("jwks_uri")
    if not rules.jwks_uri:
        if jwks_uri is not None or jwks is None:
            raise invalid_metadata("private_key_jwt needs the public keys in jwks; jwks_uri is not read here")
    elif (jwks is None) == (jwks_uri is None):
        # "The jwks_uri and jwks parameters MUST NOT both be present" (RFC 7591 section 2).
        raise invalid_metadata("private_key_jwt needs exactly one of jwks and jwks_uri")
    if jwks_uri is not None:
        if not isinstance(jwks_uri, str) or not jwks_uri.startswith("https://"):
            raise invalid_metadata("jwks_uri must be an https URL")
        return None, jwks_uri
    try:
        return check_keys(jwks), None
    except ValueError as error:
        raise invalid_metadata(f"jwks {error}") from None


def _name(members: Mapping[str, object]) -> str:
    name = members.get("client_name")
    if name is None:
        return ""
    if not isinstance(name, str):
        raise invalid_metadata("client_name must be text")
    try:
        return check_name(name)
    except ValueError as error:
        raise invalid_metadata(f"client_name {error}") from None
