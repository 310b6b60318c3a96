"""The `jwt-bearer` grant's request: a JWT assertion in place of a grant (RFC 7523 section 2.1)."""

from __future__ import annotations

from collections.abc import Mapping

from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.jwt import UnverifiedJwt, parse_jwt


def parse_assertion(form: Mapping[str, str]) -> UnverifiedJwt:
    """The one assertion of a request.

    Raises:
        GateError: REQUEST_MALFORMED, TOKEN_MALFORMED, TOKEN_HEADER_REFUSED.
    """
    assertion = form.get("assertion")
    if assertion is None:
        raise GateError(ErrorCode.REQUEST_MALFORMED, "assertion is missing")
    return parse_jwt(assertion)
