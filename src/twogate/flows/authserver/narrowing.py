"""What a token request may say again of what was granted: the same, or less."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.authorization_details import parse_details
from twogate.core.oauth.token_request import parse_scope
from twogate.flows.authserver.grant import Authorization


def verify_same(authorization: Authorization, form: Mapping[str, str]) -> None:
    """Check that a form names no other resource (RFC 8707 section 2.2) or task (RFC 9396 section 6) than was granted.

    Raises:
        GateError: RESOURCE_INVALID, DETAILS_INVALID.
    """
    if form.get("resource", authorization.resource) != authorization.resource:
        raise GateError(ErrorCode.RESOURCE_INVALID, "another resource was granted")
    task = parse_details(form.get("authorization_details"))
    if task is not None and task != authorization.task:
        raise GateError(ErrorCode.DETAILS_INVALID, "another task, or none, was granted")


def narrow(authorization: Authorization, form: Mapping[str, str]) -> Authorization:
    """What was granted, with the scopes that a form asks for; all of them if it asks for none (RFC 6749 section 6).

    Raises:
        GateError: SCOPE_INVALID, RESOURCE_INVALID, DETAILS_INVALID.
    """
    verify_same(authorization, form)
    if "scope" not in form:
        return authorization
    wanted = parse_scope(form["scope"])
    # "The requested scope MUST NOT include any scope not originally granted by the resource owner".
    if not set(wanted) <= set(authorization.scopes):
        raise GateError(ErrorCode.SCOPE_INVALID, "a scope was not granted")
    return msgspec.structs.replace(authorization, scopes=wanted)
