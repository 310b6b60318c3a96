"""`authorization_details` of the one type there is here, `mcp_session` (RFC 9396; DESIGN decision 6a)."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.strict_json import decode

MAX_DETAILS: Final = 2048
"""Bytes that the parameter may have."""

_MAX_DEPTH: Final = 4


class McpSession(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A session for one task: `{"type": "mcp_session", "task": "quarterly-report"}`."""

    type: Literal["mcp_session"]
    task: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")]


def parse_details(details: str | None) -> str | None:
    """The task that the parameter declares; None without the parameter.

    Raises:
        GateError: DETAILS_INVALID for everything but exactly one well-formed `mcp_session` (RFC 9396 section 5).
    """
    if details is None:
        return None
    try:
        raw = decode(details.encode(), max_bytes=MAX_DETAILS, max_depth=_MAX_DEPTH)
        (session,) = msgspec.convert(raw, list[McpSession])
    except (GateError, ValueError) as error:  # msgspec's errors are ValueErrors
        # Not the parser's text: it quotes the input.
        raise GateError(ErrorCode.DETAILS_INVALID, "not a list of one mcp_session") from error
    return session.task


def details_of(task: str) -> list[dict[str, str]]:
    """The parameter's value for a task, as answers repeat it (RFC 9396 section 7)."""
    return [{"type": "mcp_session", "task": task}]
