"""Every way Twogate can refuse or fail, in one table.

`ErrorCode` names the exact reason and goes to the audit trail. What a caller is told is coarser: its JSON-RPC code and
public text are fixed here, its HTTP status and OAuth words in `web/errors.py`. Codes that must not be told apart by a
caller (a tool outside the role, outside the task, or that does not exist) share one public face.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from twogate.core.error_code import ErrorCode

__all__ = [
    "FACES",
    "GATE_ONE",
    "GATE_TWO",
    "HEADER_MISMATCH",
    "INVALID_PARAMS",
    "INVALID_REQUEST",
    "LIMITED",
    "METHOD_NOT_FOUND",
    "PARSE",
    "TIMED_OUT",
    "TOKEN_NEEDED",
    "TRANSPORT",
    "UNAVAILABLE",
    "UNSUPPORTED_PROTOCOL_VERSION",
    "UPSTREAM",
    "ErrorCode",
    "Face",
    "GateError",
]


class Face(msgspec.Struct, frozen=True):
    """What a caller may learn: the JSON-RPC error code, a stable public reason and one sentence."""

    jsonrpc: int
    reason: str
    text: str


# Ours lie outside -32768..-32000, which JSON-RPC and MCP reserve.
GATE_ONE: Final = -31401
GATE_TWO: Final = -31403
TOKEN_NEEDED: Final = -31428
LIMITED: Final = -31429
UPSTREAM: Final = -31502
UNAVAILABLE: Final = -31503
TIMED_OUT: Final = -31504
TRANSPORT: Final = -31400

PARSE: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
HEADER_MISMATCH: Final = -32020
CAPABILITY_MISSING: Final = -32021
UNSUPPORTED_PROTOCOL_VERSION: Final = -32022

_TOKEN = Face(GATE_ONE, "invalid_token", "The access token is not valid here.")
_NOT_PERMITTED = Face(GATE_TWO, "not_permitted", "This call is not permitted for this agent within its task.")
_WITHHELD = Face(GATE_TWO, "tool_withheld", "The tool is withheld until an operator approves it as it is now.")
_SESSION = Face(GATE_TWO, "session_refused", "The session is not valid; declare a task to open one.")
_GRANT = Face(INVALID_REQUEST, "invalid_grant", "The code, token or assertion is not valid here.")
_UNAVAILABLE = Face(UNAVAILABLE, "unavailable", "Twogate cannot serve the call right now; nothing was run.")

FACES: Final[Mapping[ErrorCode, Face]] = MappingProxyType(
    {
        ErrorCode.PARSE_ERROR: Face(PARSE, "parse_error", "The body is not one well-formed JSON value."),
        ErrorCode.DUPLICATE_KEY: Face(PARSE, "duplicate_key", "An object in the body names a member twice."),
        ErrorCode.TOO_DEEP: Face(PARSE, "too_deep", "The body is nested too deeply."),
        ErrorCode.TOO_LARGE: Face(INVALID_REQUEST, "too_large", "The request is larger than this server accepts."),
        ErrorCode.NOT_UTF8: Face(PARSE, "not_utf8", "The body is not valid UTF-8."),
        ErrorCode.BAD_NUMBER: Face(PARSE, "bad_number", "The body holds a number that JSON peers read differently."),
        ErrorCode.INVALID_REQUEST: Face(INVALID_REQUEST, "invalid_request", "The body is not a JSON-RPC 2.0 message."),
        ErrorCode.UNKNOWN_MEMBER: Face(INVALID_REQUEST, "unknown_member", "The message has a member JSON-RPC lacks."),
        ErrorCode.CASE_CONFLICT: Face(
            INVALID_REQUEST, "case_conflict", "A member differs from a known one only by letter case."
        ),
        ErrorCode.INVALID_PARAMS: Face(INVALID_PARAMS, "invalid_params", "The method's parameters are not valid."),
        ErrorCode.METHOD_NOT_FOUND: Face(METHOD_NOT_FOUND, "method_not_found", "The method does not exist here."),
        ErrorCode.BATCH_NOT_SUPPORTED: Face(
            INVALID_REQUEST, "batch_not_supported", "Batches are not accepted; send one message a request."
        ),
        ErrorCode.HEADER_MISMATCH: Face(HEADER_MISMATCH, "header_mismatch", "A header and the body disagree."),
        ErrorCode.UNSUPPORTED_PROTOCOL_VERSION: Face(
            UNSUPPORTED_PROTOCOL_VERSION, "unsupported_protocol_version", "Unsupported protocol version"
        ),
        ErrorCode.CAPABILITY_MISSING: Face(
            CAPABILITY_MISSING, "capability_missing", "The client does not declare what this takes."
        ),
        ErrorCode.METHOD_NOT_ALLOWED: Face(TRANSPORT, "method_not_allowed", "This HTTP method is not served here."),
        ErrorCode.NOT_FOUND: Face(TRANSPORT, "not_found", "There is nothing at this address."),
        ErrorCode.NOT_ACCEPTABLE: Face(
            TRANSPORT, "not_acceptable", "Accept must allow application/json and text/event-stream."
        ),
        ErrorCode.UNSUPPORTED_MEDIA_TYPE: Face(
            TRANSPORT, "unsupported_media_type", "Content-Type must be application/json."
        ),
        ErrorCode.ORIGIN_REFUSED: Face(TRANSPORT, "origin_refused", "This Origin may not call this server."),
        ErrorCode.HOST_REFUSED: Face(TRANSPORT, "host_refused", "Host does not name this server."),
        ErrorCode.RATE_LIMITED: Face(LIMITED, "rate_limited", "Too many requests; wait and try again."),
        ErrorCode.BODY_TIMEOUT: Face(TRANSPORT, "body_timeout", "The request body did not arrive in time."),
        ErrorCode.CREDENTIAL_MISSING: Face(GATE_ONE, "credential_missing", "An access token is required."),
        ErrorCode.CREDENTIAL_AMBIGUOUS: Face(GATE_ONE, "invalid_request", "Present exactly one bearer token."),
        ErrorCode.TOKEN_MALFORMED: _TOKEN,
        ErrorCode.TOKEN_HEADER_REFUSED: _TOKEN,
        ErrorCode.TOKEN_TYPE_REFUSED: _TOKEN,
        ErrorCode.TOKEN_ALGORITHM_REFUSED: _TOKEN,
        ErrorCode.ISSUER_UNKNOWN: _TOKEN,
        ErrorCode.KEY_UNKNOWN: _TOKEN,
        ErrorCode.KEYS_UNAVAILABLE: _UNAVAILABLE,
        ErrorCode.SIGNATURE_INVALID: _TOKEN,
        ErrorCode.TOKEN_EXPIRED: Face(GATE_ONE, "token_expired", "The access token has expired."),
        ErrorCode.TOKEN_NOT_YET_VALID: Face(GATE_ONE, "token_not_yet_valid", "The access token is not valid yet."),
        ErrorCode.TOKEN_LIFETIME_EXCESSIVE: _TOKEN,
        ErrorCode.CLAIM_MISSING: _TOKEN,
        ErrorCode.CLAIM_INVALID: _TOKEN,
        ErrorCode.AUDIENCE_MISMATCH: Face(
            GATE_ONE, "audience_mismatch", "The access token was not issued for this resource."
        ),
        ErrorCode.TENANT_REFUSED: _TOKEN,
        ErrorCode.ROLE_REFUSED: _TOKEN,
        ErrorCode.TOKEN_BINDING_REFUSED: _TOKEN,
        ErrorCode.PROOF_REFUSED: Face(GATE_ONE, "invalid_dpop_proof", "The DPoP proof is not valid."),
        ErrorCode.PROOF_NONCE_REQUIRED: Face(
            GATE_ONE, "use_dpop_nonce", "The DPoP proof needs the nonce of this answer."
        ),
        ErrorCode.AGENT_UNBOUND: _TOKEN,
        ErrorCode.AGENT_DISABLED: _TOKEN,
        ErrorCode.TOKEN_REVOKED: _TOKEN,
        ErrorCode.USER_DISABLED: _TOKEN,
        ErrorCode.TOKEN_USED: _TOKEN,
        ErrorCode.ACTOR_REFUSED: _TOKEN,
        ErrorCode.TENANT_SERVER_REFUSED: _NOT_PERMITTED,
        ErrorCode.METHOD_NOT_PERMITTED: _NOT_PERMITTED,
        ErrorCode.TARGET_UNCLASSIFIED: _NOT_PERMITTED,
        ErrorCode.TOOL_INVALID: _NOT_PERMITTED,
        ErrorCode.TOOL_NOT_APPROVED: _WITHHELD,
        ErrorCode.TOOL_CHANGED: _WITHHELD,
        ErrorCode.ARGUMENTS_INVALID: Face(
            INVALID_PARAMS, "arguments_invalid", "An argument does not fit the tool's schema; nothing was run."
        ),
        ErrorCode.ROLE_NOT_PERMITTED: _NOT_PERMITTED,
        ErrorCode.USER_NOT_PERMITTED: _NOT_PERMITTED,
        ErrorCode.TASK_NOT_PERMITTED: _NOT_PERMITTED,
        ErrorCode.SCOPE_INSUFFICIENT: Face(
            GATE_TWO, "insufficient_scope", "The access token lacks a scope that covers this call."
        ),
        ErrorCode.POLICY_DENIED: _NOT_PERMITTED,
        ErrorCode.OPERATION_TOKEN_REQUIRED: Face(
            TOKEN_NEEDED, "operation_token_required", "This call needs an operation token; nothing was run."
        ),
        ErrorCode.OPERATION_TOKEN_INVALID: Face(
            TOKEN_NEEDED, "operation_token_invalid", "The operation token is not valid here; nothing was run."
        ),
        ErrorCode.OPERATION_TOKEN_MISMATCH: Face(
            TOKEN_NEEDED, "operation_token_mismatch", "The operation token is for another call; nothing was run."
        ),
        ErrorCode.OPERATION_TOKEN_USED: Face(
            TOKEN_NEEDED,
            "operation_token_used",
            "The operation token was used before, and its call may have run; nothing was run now.",
        ),
        ErrorCode.OPERATION_OUTCOME_UNKNOWN: Face(
            TOKEN_NEEDED,
            "operation_outcome_unknown",
            "The call of this operation token may have run, and nobody knows how it ended; nothing was run now.",
        ),
        ErrorCode.MINT_REFUSED: Face(GATE_TWO, "mint_refused", "You may not issue an operation token for this call."),
        ErrorCode.APPROVAL_PENDING: Face(
            TOKEN_NEEDED, "approval_pending", "A person must approve this call; nothing was run. Send it again later."
        ),
        ErrorCode.APPROVAL_DENIED: Face(TOKEN_NEEDED, "approval_denied", "A person denied this call; nothing was run."),
        ErrorCode.APPROVAL_EXPIRED: Face(
            TOKEN_NEEDED, "approval_expired", "Nobody approved this call in time; nothing was run."
        ),
        ErrorCode.APPROVAL_CANCELLED: Face(
            TOKEN_NEEDED, "approval_cancelled", "The call may not run any more; nothing was run."
        ),
        ErrorCode.APPROVAL_DECIDED: Face(
            INVALID_REQUEST, "approval_decided", "This call was decided already, or waits no longer."
        ),
        ErrorCode.APPROVER_REFUSED: Face(GATE_TWO, "approver_refused", "You may not do this, or not to this call."),
        ErrorCode.APPROVALS_LIMITED: Face(
            LIMITED, "approvals_limited", "You approved too many calls lately; you can deny, or approve later."
        ),
        ErrorCode.SESSION_REQUIRED: Face(
            GATE_TWO, "session_required", "Declare a task first: POST it to /sessions and send the session you get."
        ),
        ErrorCode.SESSION_UNKNOWN: _SESSION,
        ErrorCode.SESSION_MISMATCH: _SESSION,
        ErrorCode.SESSION_EXPIRED: Face(GATE_TWO, "session_expired", "The session has reached its deadline."),
        ErrorCode.SESSION_ENDED: Face(GATE_TWO, "session_ended", "The session was ended."),
        ErrorCode.SESSION_CONFLICT: Face(
            INVALID_REQUEST, "session_conflict", "The request names more than one session or task."
        ),
        ErrorCode.TASK_UNKNOWN: Face(GATE_TWO, "task_unknown", "The agent has no such task."),
        ErrorCode.TASK_LIMIT: Face(
            GATE_TWO, "task_limit", "Another task of this agent is still live; wait for its deadline or ask a person."
        ),
        ErrorCode.MCP_SESSION_UNKNOWN: Face(
            INVALID_REQUEST, "mcp_session_unknown", "The Mcp-Session-Id is not known here; initialize again."
        ),
        ErrorCode.EVENT_UNKNOWN: Face(
            INVALID_REQUEST, "event_unknown", "The Last-Event-ID belongs to no stream of this session."
        ),
        ErrorCode.STREAM_CONFLICT: Face(
            TRANSPORT, "stream_conflict", "The server has a stream of this session open already."
        ),
        ErrorCode.SERVER_REQUEST_UNKNOWN: Face(
            INVALID_REQUEST, "server_request_unknown", "The response answers no request that was made to this client."
        ),
        ErrorCode.REQUEST_STATE_UNKNOWN: Face(
            INVALID_PARAMS, "request_state_unknown", "The requestState was not given to this client for this call."
        ),
        ErrorCode.MCP_TASK_UNKNOWN: Face(INVALID_PARAMS, "mcp_task_unknown", "There is no such task."),
        ErrorCode.UPSTREAM_UNAVAILABLE: Face(
            UPSTREAM, "upstream_unavailable", "The MCP server behind Twogate cannot be reached; nothing was run."
        ),
        ErrorCode.UPSTREAM_TIMEOUT: Face(
            TIMED_OUT, "upstream_timeout", "The MCP server did not answer in time; the call may have run."
        ),
        ErrorCode.UPSTREAM_INVALID: Face(
            UPSTREAM, "upstream_invalid", "The MCP server's answer is not valid MCP; the call may have run."
        ),
        ErrorCode.UPSTREAM_BROKEN: Face(
            UPSTREAM, "upstream_broken", "The MCP server broke off its answer; the call may have run."
        ),
        ErrorCode.AUDIT_UNAVAILABLE: _UNAVAILABLE,
        # Not the face above: the call was forwarded, and an agent that is told otherwise would run it twice.
        ErrorCode.OUTCOME_UNRECORDED: Face(
            UNAVAILABLE, "outcome_unrecorded", "The answer cannot be passed on right now; the call may have run."
        ),
        ErrorCode.STORE_UNAVAILABLE: _UNAVAILABLE,
        ErrorCode.SHARED_UNAVAILABLE: _UNAVAILABLE,
        ErrorCode.SECRET_UNAVAILABLE: _UNAVAILABLE,
        ErrorCode.INTERNAL: Face(-32603, "internal", "Internal error."),
        ErrorCode.CLIENT_INVALID: Face(GATE_ONE, "invalid_client", "Client authentication failed."),
        ErrorCode.ASSERTION_REPLAYED: Face(GATE_ONE, "invalid_client", "Client authentication failed."),
        ErrorCode.GRANT_UNSUPPORTED: Face(
            INVALID_REQUEST, "unsupported_grant_type", "The grant type is not supported."
        ),
        ErrorCode.CLIENT_UNAUTHORIZED: Face(
            INVALID_REQUEST, "unauthorized_client", "The client may not use this grant."
        ),
        ErrorCode.REQUEST_MALFORMED: Face(INVALID_REQUEST, "invalid_request", "The request is not well-formed."),
        ErrorCode.PARAMETER_REPEATED: Face(INVALID_REQUEST, "invalid_request", "A parameter is given more than once."),
        ErrorCode.SCOPE_INVALID: Face(INVALID_REQUEST, "invalid_scope", "A requested scope does not exist."),
        ErrorCode.RESOURCE_INVALID: Face(
            INVALID_REQUEST, "invalid_target", "`resource` must name one resource of this server."
        ),
        ErrorCode.GRANT_INVALID: _GRANT,
        ErrorCode.GRANT_REUSED: _GRANT,
        ErrorCode.CONSENT_MISSING: _GRANT,
        ErrorCode.AUTHORIZATION_PENDING: Face(
            INVALID_REQUEST, "authorization_pending", "Nobody has decided yet; ask again later."
        ),
        ErrorCode.SLOW_DOWN: Face(INVALID_REQUEST, "slow_down", "Asked too often; wait longer between two requests."),
        ErrorCode.DEVICE_CODE_EXPIRED: Face(
            INVALID_REQUEST, "expired_token", "The device code has expired; begin again."
        ),
        ErrorCode.ACCESS_DENIED: Face(INVALID_REQUEST, "access_denied", "The person said no."),
        ErrorCode.DPOP_INVALID: Face(INVALID_REQUEST, "invalid_dpop_proof", "The DPoP proof is not valid."),
        ErrorCode.DPOP_NONCE_REQUIRED: Face(
            INVALID_REQUEST, "use_dpop_nonce", "The DPoP proof needs the nonce of this answer."
        ),
        ErrorCode.DETAILS_INVALID: Face(
            INVALID_REQUEST,
            "invalid_authorization_details",
            "authorization_details must be one mcp_session with a task.",
        ),
        ErrorCode.RESPONSE_TYPE_UNSUPPORTED: Face(
            INVALID_REQUEST, "unsupported_response_type", "response_type must be code."
        ),
        ErrorCode.REQUEST_URI_INVALID: Face(
            INVALID_REQUEST, "invalid_request_uri", "The pushed request is unknown, used or expired."
        ),
        ErrorCode.REDIRECT_INVALID: Face(
            INVALID_REQUEST, "invalid_redirect_uri", "The redirect URI is not registered for this client."
        ),
        ErrorCode.CLIENT_METADATA_INVALID: Face(
            INVALID_REQUEST, "invalid_client_metadata", "The client's metadata is not valid."
        ),
        ErrorCode.REGISTRATION_REFUSED: Face(GATE_ONE, "invalid_token", "The token does not allow this registration."),
        ErrorCode.INTERACTION_EXPIRED: Face(
            INVALID_REQUEST, "interaction_expired", "This page has expired; go back to the application and begin again."
        ),
        ErrorCode.FORM_REFUSED: Face(
            INVALID_REQUEST, "form_refused", "The form did not come from our page; load the page again."
        ),
        ErrorCode.LOGIN_REFUSED: Face(GATE_ONE, "login_refused", "Name or password is wrong."),
        ErrorCode.LOGIN_LOCKED: Face(LIMITED, "login_locked", "Too many failed attempts; wait and try again."),
        ErrorCode.LOGIN_REQUIRED: Face(INVALID_REQUEST, "login_required", "A person must log in first."),
        ErrorCode.LINK_INVALID: Face(
            INVALID_REQUEST, "link_invalid", "The link is unknown, used or expired; ask an operator for another."
        ),
        ErrorCode.PASSKEY_REFUSED: Face(GATE_ONE, "passkey_refused", "The passkey could not be verified."),
        ErrorCode.IDENTITY_PROVIDER_REFUSED: Face(
            INVALID_REQUEST, "identity_provider_refused", "The identity provider did not let this person in."
        ),
        ErrorCode.IDENTITY_PROVIDER_UNAVAILABLE: Face(
            UNAVAILABLE, "unavailable", "The identity provider cannot be reached right now."
        ),
    }
)


class GateError(Exception):
    """A refusal or failure with its exact reason.

    `debug` is for the audit trail and the log only, never for the caller; it must hold no credential and no argument
    value. `data` is told to the caller beside the public text (for example the supported protocol versions).
    """

    def __init__(self, code: ErrorCode, debug: str = "", *, data: Mapping[str, object] | None = None) -> None:
        super().__init__(f"{code.value}: {debug}" if debug else code.value)
        self.code = code
        self.debug = debug
        self.data = data

    @property
    def face(self) -> Face:
        """What the caller may learn of this error."""
        return FACES[self.code]
