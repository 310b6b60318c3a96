"""What an upstream provider says: its metadata, its answers to an authorization request and to a token request.

Here we are the client, and the provider is somebody else's server: every answer is hostile until it is parsed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, cast
from urllib.parse import urlsplit

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.token_request import parse_form

MAX_METADATA: Final = 256 * 1024
"""Bytes that a metadata document may have at most."""

MAX_ANSWER: Final = 64 * 1024
"""Bytes that an answer of the token endpoint may have at most."""

MAX_VALUE: Final = 16 * 1024
"""Characters that a token may have at most."""

MAX_CODE: Final = 8 * 1024

MAX_ENDPOINT: Final = 2048

# error = %x20-21 / %x23-5B / %x5D-7E (RFC 6749 section 4.1.2.1); no error code is long.
_ERROR: Final = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
_VALUE: Final = re.compile(r"[!-~]+")
_STATE: Final = re.compile(r"[A-Za-z0-9_-]{43}")

# What is said no longer of a request but of the person, who then must log in again (RFC 6749 section 5.2, OpenID
# Connect Core section 3.1.2.6).
_GONE: Final = frozenset(
    {"invalid_grant", "access_denied", "login_required", "interaction_required", "consent_required"}
)


class ProviderMetadata(msgspec.Struct, frozen=True):
    """The metadata that a login needs (OpenID Connect Discovery section 3, RFC 8414 section 2).

    `names_issuer`: every authorization response says who sends it (RFC 9207). `methods` are how clients may
    authenticate at the token endpoint.
    """

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    names_issuer: bool
    methods: frozenset[str]


class AuthorizationResponse(msgspec.Struct, frozen=True):
    """What a browser brought back. `unverified_issuer` is who claims to have sent it; either `code` or `error` is set.

    Nothing of it is trusted: anybody can send a browser here.
    """

    state: str
    unverified_issuer: str | None
    code: str | None
    error: str | None

    def __repr__(self) -> str:
        """Leave out state and code."""
        return f"AuthorizationResponse(error={self.error!r})"


class ProviderTokens(msgspec.Struct, frozen=True):
    """What the token endpoint gave."""

    id_token: str | None
    access_token: str | None
    refresh_token: str | None

    def __repr__(self) -> str:
        """Leave out the tokens."""
        return "ProviderTokens()"


class ProviderRefusal(msgspec.Struct, frozen=True):
    """The token endpoint's no. `gone`: it is about the person, not about our request; asking again would not help."""

    error: str
    gone: bool


def parse_metadata(document: bytes, issuer: str) -> ProviderMetadata:
    """Read a provider's metadata.

    Raises:
        GateError: IDENTITY_PROVIDER_UNAVAILABLE if it is not the metadata of this very issuer, or names no endpoints.
    """
    known = _object(document, "the metadata")
    # "The issuer value returned MUST be identical" (OpenID Connect Discovery section 4.3, RFC 8414 section 3.3).
    if known.get("issuer") != issuer:
        raise _unavailable("the metadata is another issuer's")
    authorization, token = known.get("authorization_endpoint"), known.get("token_endpoint")
    if not isinstance(authorization, str) or not isinstance(token, str):
        raise _unavailable("the metadata names no authorization_endpoint or token_endpoint")
    for endpoint in (authorization, token):
        _check_endpoint(endpoint, issuer)
    methods: object = known.get("token_endpoint_auth_methods_supported")
    listed = cast("list[object]", methods) if isinstance(methods, list) else ["client_secret_basic"]
    return ProviderMetadata(
        issuer=issuer,
        authorization_endpoint=authorization,
        token_endpoint=token,
        names_issuer=known.get("authorization_response_iss_parameter_supported") is True,
        methods=frozenset(item for item in listed if isinstance(item, str)),
    )


def parse_authorization_response(query: bytes) -> AuthorizationResponse:
    """Read the query with which a browser comes back (RFC 6749 section 4.1.2); unknown parameters are ignored.

    Raises:
        GateError: REQUEST_MALFORMED, PARAMETER_REPEATED, TOO_LARGE.
    """
    form = parse_form(query)
    state, code, error = form.get("state", ""), form.get("code"), form.get("error")
    if _STATE.fullmatch(state) is None:
        raise GateError(ErrorCode.REQUEST_MALFORMED, "state is missing or none of ours")
    if (code is None) == (error is None):
        raise GateError(ErrorCode.REQUEST_MALFORMED, "neither code nor error, or both")
    if code is not None and len(code) > MAX_CODE:
        raise GateError(ErrorCode.REQUEST_MALFORMED, "code is too long")
    return AuthorizationResponse(state, form.get("iss"), code, None if error is None else _error(error))


def verify_sender(response: AuthorizationResponse, metadata: ProviderMetadata) -> None:
    """Check that a response is from the provider that the login began at, as far as it says (RFC 9207 section 2.4).

    Raises:
        GateError: IDENTITY_PROVIDER_REFUSED.
    """
    # "If the value does not match the expected issuer identifier, clients MUST reject the authorization response".
    if response.unverified_issuer is None:
        if metadata.names_issuer:
            raise GateError(ErrorCode.IDENTITY_PROVIDER_REFUSED, "the response lacks iss, which this provider sends")
    elif response.unverified_issuer != metadata.issuer:
        raise GateError(ErrorCode.IDENTITY_PROVIDER_REFUSED, "iss is another provider: a mixed-up response")


def parse_token_answer(status: int, body: bytes) -> ProviderTokens | ProviderRefusal:
    """Read an answer of the token endpoint (RFC 6749 sections 5.1 and 5.2).

    Raises:
        GateError: IDENTITY_PROVIDER_UNAVAILABLE if it is neither.
    """
    answer = _object(body, "the answer of the token endpoint")
    if status != 200:  # noqa: PLR2004 - OK
        error = answer.get("error")
        if not isinstance(error, str):
            raise _unavailable(f"status {status} from the token endpoint")
        return ProviderRefusal(_error(error), error in _GONE)
    return ProviderTokens(*(_value(answer, name) for name in ("id_token", "access_token", "refresh_token")))


def _check_endpoint(url: str, issuer: str) -> None:
    # Browsers are sent there, so nothing may be read in two ways, and no other scheme can run in them.
    if len(url) > MAX_ENDPOINT or _VALUE.fullmatch(url) is None or "\\" in url or "#" in url:
        raise _unavailable("an endpoint is no plain URL")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise _unavailable("an endpoint is no plain URL") from None
    if "@" in parts.netloc or not parts.hostname:
        raise _unavailable("an endpoint is no plain URL")
    # http is for issuers on this machine alone, which the configuration has checked.
    if parts.scheme != "https" and parts[:2] != urlsplit(issuer)[:2]:
        raise _unavailable("an endpoint is not https")


def _object(document: bytes, what: str) -> Mapping[str, Any]:
    try:
        decoded: object = msgspec.json.decode(document)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise _unavailable(f"{what} is not JSON") from None
    if not isinstance(decoded, dict):
        raise _unavailable(f"{what} is not a JSON object")
    return cast("dict[str, Any]", decoded)


def _value(answer: Mapping[str, Any], name: str) -> str | None:
    value: object = answer.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > MAX_VALUE or _VALUE.fullmatch(value) is None:
        raise _unavailable(f"the token endpoint's {name} is no token")
    return value


def _error(error: str) -> str:
    # For the audit trail: a provider's own words are kept out of it unless they can only be an error code.
    return error if _ERROR.fullmatch(error) else "an unreadable error"


def _unavailable(reason: str) -> GateError:
    return GateError(ErrorCode.IDENTITY_PROVIDER_UNAVAILABLE, reason)
