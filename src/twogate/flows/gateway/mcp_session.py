"""What a client's `Mcp-Session-Id` remembers of its `initialize` (Streamable HTTP, to 2025-11-25)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from twogate.core.protocol import HANDSHAKE_VERSIONS
from twogate.flows.gateway.approval_forms import elicits_urls
from twogate.flows.gateway.record import Recorded
from twogate.flows.gateway.seal import McpSession


def opened_session(
    recorded: Recorded, upstream: str | None, result: Mapping[str, Any], *, remembers: bool
) -> McpSession | None:
    """The session that a server's answer to `initialize` opens; None if there is nothing to remember.

    `upstream` is the server's own. With `remembers`, so is whether the client can have its user open a URL. Who can is
    told of its own calls alone: where no session of the server's sets a client apart from others, this answer does.
    """
    admitted = recorded.admitted
    session = admitted.session
    url = remembers and _declares_urls(admitted.call.message.params)
    if upstream is None and session is None and not url:
        return None
    version = result.get("protocolVersion")
    known = version if isinstance(version, str) and version in HANDSHAKE_VERSIONS else ""
    return McpSession(
        upstream,
        None if session is None else session.id,
        known,
        url,
        recorded.intent.request if url and upstream is None else "",
    )


def _declares_urls(params: Mapping[str, Any]) -> bool:
    capabilities: Any = params.get("capabilities")
    return isinstance(capabilities, dict) and elicits_urls(cast("dict[str, Any]", capabilities))
