"""What a refusal looks like in HTTP: for every `ErrorCode` its status, its OAuth error and whether a challenge is due.

The one table beside `core.errors.FACES`, which holds the texts and JSON-RPC codes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from twogate.core.errors import FACES, ErrorCode
from twogate.core.jose.dpop import ALGORITHMS


class HttpFace(msgspec.Struct, frozen=True):
    """How a refusal shows in HTTP. `oauth` is the error word of OAuth answers and challenges.

    `challenge`: a resource server answers with a Bearer challenge (RFC 6750 section 3).
    """

    status: int
    oauth: str = "invalid_request"
    challenge: bool = False


class HttpError(msgspec.Struct, frozen=True):
    """A rendered refusal; the body is JSON."""

    status: int
    headers: Mapping[str, str]
    body: bytes


_MALFORMED = HttpFace(400)
# RFC 6750 section 3.1: `invalid_token` is 401 and challenged.
_TOKEN = HttpFace(401, "invalid_token", challenge=True)
# A challenge would send the client for another token, which would not help.
_FORBIDDEN = HttpFace(403, "access_denied")
_UNAVAILABLE = HttpFace(503, "temporarily_unavailable")
_GATEWAY = HttpFace(502, "server_error")
_CLIENT = HttpFace(401, "invalid_client")

HTTP_FACES: Final[Mapping[ErrorCode, HttpFace]] = MappingProxyType(
    {
        ErrorCode.PARSE_ERROR: _MALFORMED,
        ErrorCode.DUPLICATE_KEY: _MALFORMED,
        ErrorCode.TOO_DEEP: _MALFORMED,
        ErrorCode.TOO_LARGE: HttpFace(413),
        ErrorCode.NOT_UTF8: _MALFORMED,
        ErrorCode.BAD_NUMBER: _MALFORMED,
        ErrorCode.INVALID_REQUEST: _MALFORMED,
        ErrorCode.UNKNOWN_MEMBER: _MALFORMED,
        ErrorCode.CASE_CONFLICT: _MALFORMED,
        ErrorCode.INVALID_PARAMS: _MALFORMED,
        ErrorCode.METHOD_NOT_FOUND: HttpFace(404),
        ErrorCode.BATCH_NOT_SUPPORTED: _MALFORMED,
        ErrorCode.HEADER_MISMATCH: _MALFORMED,
        ErrorCode.UNSUPPORTED_PROTOCOL_VERSION: _MALFORMED,
        ErrorCode.CAPABILITY_MISSING: _MALFORMED,
        ErrorCode.METHOD_NOT_ALLOWED: HttpFace(405),
        ErrorCode.NOT_FOUND: HttpFace(404),
        ErrorCode.NOT_ACCEPTABLE: HttpFace(406),
        ErrorCode.UNSUPPORTED_MEDIA_TYPE: HttpFace(415),
        ErrorCode.ORIGIN_REFUSED: _FORBIDDEN,
        ErrorCode.HOST_REFUSED: _FORBIDDEN,
        ErrorCode.RATE_LIMITED: HttpFace(429, "temporarily_unavailable"),
        ErrorCode.BODY_TIMEOUT: HttpFace(408),
        # RFC 6750 section 3.1: a request without any credential is challenged without an error word.
        ErrorCode.CREDENTIAL_MISSING: HttpFace(401, "", challenge=True),
        ErrorCode.CREDENTIAL_AMBIGUOUS: HttpFace(400, "invalid_request", challenge=True),
        ErrorCode.TOKEN_MALFORMED: _TOKEN,
        ErrorCode.TOKEN_HEADER_REFUSED: _TOKEN,
        ErrorCode.TOKEN_TYPE_REFUSED: _TOKEN,
        ErrorCode.TOKEN_ALGORITHM_REFUSED: _TOKEN,
        ErrorCode.ISSUER_UNKNOWN: _TOKEN,
        ErrorCode.KEY_UNKNOWN: _TOKEN,
        ErrorCode.KEYS_UNAVAILABLE: _UNAVAILABLE,
        ErrorCode.SIGNATURE_INVALID: _TOKEN,
        ErrorCode.TOKEN_EXPIRED: _TOKEN,
        ErrorCode.TOKEN_NOT_YET_VALID: _TOKEN,
        ErrorCode.TOKEN_LIFETIME_EXCESSIVE: _TOKEN,
        ErrorCode.CLAIM_MISSING: _TOKEN,
        ErrorCode.CLAIM_INVALID: _TOKEN,
        ErrorCode.AUDIENCE_MISMATCH: _TOKEN,
        ErrorCode.TENANT_REFUSED: _TOKEN,
        ErrorCode.ROLE_REFUSED: _TOKEN,
        ErrorCode.TOKEN_BINDING_REFUSED: _TOKEN,
        # RFC 9449 section 7.1: 401 with a challenge of its own scheme; section 9 for the nonce.
        ErrorCode.PROOF_REFUSED: HttpFace(401, "invalid_dpop_proof", challenge=True),
        ErrorCode.PROOF_NONCE_REQUIRED: HttpFace(401, "use_dpop_nonce", challenge=True),
        ErrorCode.AGENT_UNBOUND: _TOKEN,
        ErrorCode.AGENT_DISABLED: _TOKEN,
        ErrorCode.TOKEN_REVOKED: _TOKEN,
        ErrorCode.USER_DISABLED: _TOKEN,
        ErrorCode.TOKEN_USED: _TOKEN,
        ErrorCode.ACTOR_REFUSED: _TOKEN,
        ErrorCode.TENANT_SERVER_REFUSED: _FORBIDDEN,
        ErrorCode.METHOD_NOT_PERMITTED: _FORBIDDEN,
        ErrorCode.TARGET_UNCLASSIFIED: _FORBIDDEN,
        ErrorCode.TOOL_INVALID: _FORBIDDEN,
        ErrorCode.TOOL_NOT_APPROVED: _FORBIDDEN,
        ErrorCode.TOOL_CHANGED: _FORBIDDEN,
        ErrorCode.ARGUMENTS_INVALID: _MALFORMED,
        ErrorCode.ROLE_NOT_PERMITTED: _FORBIDDEN,
        ErrorCode.USER_NOT_PERMITTED: _FORBIDDEN,
        ErrorCode.TASK_NOT_PERMITTED: _FORBIDDEN,
        ErrorCode.SCOPE_INSUFFICIENT: HttpFace(403, "insufficient_scope", challenge=True),
        ErrorCode.POLICY_DENIED: _FORBIDDEN,
        ErrorCode.OPERATION_TOKEN_REQUIRED: _FORBIDDEN,
        ErrorCode.OPERATION_TOKEN_INVALID: _FORBIDDEN,
        ErrorCode.OPERATION_TOKEN_MISMATCH: _FORBIDDEN,
        ErrorCode.OPERATION_TOKEN_USED: _FORBIDDEN,
        ErrorCode.OPERATION_OUTCOME_UNKNOWN: _FORBIDDEN,
        ErrorCode.MINT_REFUSED: _FORBIDDEN,
        ErrorCode.APPROVAL_PENDING: _FORBIDDEN,
        ErrorCode.APPROVAL_DENIED: _FORBIDDEN,
        ErrorCode.APPROVAL_EXPIRED: _FORBIDDEN,
        ErrorCode.APPROVAL_CANCELLED: _FORBIDDEN,
        ErrorCode.APPROVAL_DECIDED: HttpFace(409),
        ErrorCode.APPROVER_REFUSED: _FORBIDDEN,
        ErrorCode.APPROVALS_LIMITED: HttpFace(429, "access_denied"),
        ErrorCode.SESSION_REQUIRED: _FORBIDDEN,
        ErrorCode.SESSION_UNKNOWN: _FORBIDDEN,
        ErrorCode.SESSION_MISMATCH: _FORBIDDEN,
        ErrorCode.SESSION_EXPIRED: _FORBIDDEN,
        ErrorCode.SESSION_ENDED: _FORBIDDEN,
        ErrorCode.SESSION_CONFLICT: _MALFORMED,
        ErrorCode.TASK_UNKNOWN: _FORBIDDEN,
        ErrorCode.TASK_LIMIT: _FORBIDDEN,
        # MCP 2025-11-25, transports: 404 makes a client initialize again.
        ErrorCode.MCP_SESSION_UNKNOWN: HttpFace(404),
        ErrorCode.EVENT_UNKNOWN: _MALFORMED,
        ErrorCode.STREAM_CONFLICT: HttpFace(409),
        ErrorCode.SERVER_REQUEST_UNKNOWN: _MALFORMED,
        ErrorCode.REQUEST_STATE_UNKNOWN: _MALFORMED,
        ErrorCode.MCP_TASK_UNKNOWN: _MALFORMED,
        ErrorCode.UPSTREAM_UNAVAILABLE: _GATEWAY,
        ErrorCode.UPSTREAM_TIMEOUT: HttpFace(504, "server_error"),
        ErrorCode.UPSTREAM_INVALID: _GATEWAY,
        ErrorCode.UPSTREAM_BROKEN: _GATEWAY,
        ErrorCode.AUDIT_UNAVAILABLE: _UNAVAILABLE,
        ErrorCode.OUTCOME_UNRECORDED: _UNAVAILABLE,
        ErrorCode.STORE_UNAVAILABLE: _UNAVAILABLE,
        ErrorCode.SHARED_UNAVAILABLE: _UNAVAILABLE,
        ErrorCode.SECRET_UNAVAILABLE: _UNAVAILABLE,
        ErrorCode.INTERNAL: HttpFace(500, "server_error"),
        ErrorCode.CLIENT_INVALID: _CLIENT,
        ErrorCode.ASSERTION_REPLAYED: _CLIENT,
        ErrorCode.GRANT_UNSUPPORTED: HttpFace(400, "unsupported_grant_type"),
        ErrorCode.CLIENT_UNAUTHORIZED: HttpFace(400, "unauthorized_client"),
        ErrorCode.REQUEST_MALFORMED: _MALFORMED,
        ErrorCode.PARAMETER_REPEATED: _MALFORMED,
        ErrorCode.SCOPE_INVALID: HttpFace(400, "invalid_scope"),
        ErrorCode.RESOURCE_INVALID: HttpFace(400, "invalid_target"),
        ErrorCode.GRANT_INVALID: HttpFace(400, "invalid_grant"),
        ErrorCode.GRANT_REUSED: HttpFace(400, "invalid_grant"),
        ErrorCode.CONSENT_MISSING: HttpFace(400, "invalid_grant"),
        ErrorCode.AUTHORIZATION_PENDING: HttpFace(400, "authorization_pending"),
        ErrorCode.SLOW_DOWN: HttpFace(400, "slow_down"),
        ErrorCode.DEVICE_CODE_EXPIRED: HttpFace(400, "expired_token"),
        ErrorCode.ACCESS_DENIED: HttpFace(400, "access_denied"),
        ErrorCode.DPOP_INVALID: HttpFace(400, "invalid_dpop_proof"),
        ErrorCode.DPOP_NONCE_REQUIRED: HttpFace(400, "use_dpop_nonce"),
        ErrorCode.DETAILS_INVALID: HttpFace(400, "invalid_authorization_details"),
        ErrorCode.RESPONSE_TYPE_UNSUPPORTED: HttpFace(400, "unsupported_response_type"),
        ErrorCode.REQUEST_URI_INVALID: HttpFace(400, "invalid_request_uri"),
        ErrorCode.REDIRECT_INVALID: HttpFace(400, "invalid_redirect_uri"),
        ErrorCode.CLIENT_METADATA_INVALID: HttpFace(400, "invalid_client_metadata"),
        ErrorCode.REGISTRATION_REFUSED: HttpFace(401, "invalid_token"),
        ErrorCode.INTERACTION_EXPIRED: HttpFace(400, "access_denied"),
        ErrorCode.FORM_REFUSED: HttpFace(403, "access_denied"),
        ErrorCode.LOGIN_REFUSED: HttpFace(401, "access_denied"),
        ErrorCode.LOGIN_LOCKED: HttpFace(429, "access_denied"),
        ErrorCode.LOGIN_REQUIRED: HttpFace(400, "login_required"),
        ErrorCode.LINK_INVALID: HttpFace(400, "access_denied"),
        ErrorCode.PASSKEY_REFUSED: HttpFace(401, "access_denied"),
        ErrorCode.IDENTITY_PROVIDER_REFUSED: HttpFace(403, "access_denied"),
        ErrorCode.IDENTITY_PROVIDER_UNAVAILABLE: HttpFace(503, "temporarily_unavailable"),
    }
)

# The words of an authorization response where they are not those of the token endpoint: RFC 6749 section 4.1.2.1,
# OpenID Connect Core section 3.1.2.6. It never has `invalid_client` or `invalid_token`.
_AUTHORIZE_WORDS: Final[Mapping[ErrorCode, str]] = MappingProxyType(
    {
        ErrorCode.CONSENT_MISSING: "consent_required",
        ErrorCode.AGENT_UNBOUND: "unauthorized_client",
        ErrorCode.AGENT_DISABLED: "unauthorized_client",
        ErrorCode.USER_DISABLED: "access_denied",
    }
)
_AUTHORIZE_TEXTS: Final[Mapping[ErrorCode, str]] = MappingProxyType(
    {
        ErrorCode.CONSENT_MISSING: "The person must be asked.",
        ErrorCode.AGENT_UNBOUND: "The client may not be used now.",
        ErrorCode.AGENT_DISABLED: "The client may not be used now.",
        ErrorCode.USER_DISABLED: "The person may not grant this.",
        ErrorCode.ACCESS_DENIED: "The person said no.",
    }
)

# What an error description may hold: %x20-21 / %x23-5B / %x5D-7E (RFC 6749 section 5.2, RFC 6750 section 3).
_TELLABLE: Final = str.maketrans({'"': "'", "\\": "/", "`": "'"})


def http_status(code: ErrorCode) -> int:
    """The HTTP status that a refusal is answered with."""
    return HTTP_FACES[code].status


def www_authenticate(code: ErrorCode, resource_metadata_url: str, scopes: Collection[str] = ()) -> str | None:
    """The `WWW-Authenticate` value of a resource server's refusal, None where a challenge would not help.

    Tells where the resource's metadata is (RFC 9728 section 5.1) and which scopes to ask for (RFC 6750 section 3).

    Raises:
        ValueError: the address or a scope cannot be quoted; both come from configuration.
    """
    face = HTTP_FACES[code]
    if not face.challenge:
        return None
    parameters: list[tuple[str, str]] = []
    if face.oauth:
        parameters += [("error", face.oauth), ("error_description", FACES[code].text.translate(_TELLABLE))]
    if scopes:
        parameters.append(("scope", " ".join(sorted(scopes))))
    scheme = "Bearer"
    if code in (ErrorCode.PROOF_REFUSED, ErrorCode.PROOF_NONCE_REQUIRED):
        scheme = "DPoP"
        parameters.append(("algs", " ".join(ALGORITHMS)))
    parameters.append(("resource_metadata", resource_metadata_url))
    return f"{scheme} " + ", ".join(f'{name}="{_quotable(value)}"' for name, value in parameters)


def authorize_error(code: ErrorCode, description: str | None = None) -> tuple[str, str]:
    """The `error` and `error_description` of a refusal at the authorization endpoint (RFC 6749 section 4.1.2.1)."""
    word = _AUTHORIZE_WORDS.get(code, HTTP_FACES[code].oauth or "invalid_request")
    return word, _tellable(description or _AUTHORIZE_TEXTS.get(code, FACES[code].text))


def oauth_error(code: ErrorCode, *, with_header: bool = False, description: str | None = None) -> HttpError:
    """A refusal of the authorization server (RFC 6749 section 5.2).

    `with_header`: the client tried to authenticate by an Authorization header, so a 401 "MUST … include the
    `WWW-Authenticate` response header field matching the authentication scheme used by the client". `description`
    stands instead of the code's own text; it must hold nothing that the caller may not know.
    """
    face = HTTP_FACES[code]
    headers = {"Cache-Control": "no-store"}
    if face.status == 401 and with_header:  # noqa: PLR2004 - Unauthorized
        headers["WWW-Authenticate"] = 'Basic realm="twogate"'
    told = _tellable(description or FACES[code].text)
    error = {"error": face.oauth or "invalid_request", "error_description": told}
    return HttpError(face.status, headers, msgspec.json.encode(error))


def _tellable(text: str) -> str:
    return "".join(char if " " <= char <= "~" else "?" for char in text.translate(_TELLABLE))


def _quotable(value: str) -> str:
    if '"' in value or "\\" in value or not value.isascii() or not value.isprintable():
        raise ValueError(f"{value!r} cannot stand in a quoted string")
    return value
