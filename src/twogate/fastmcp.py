"""For servers made with FastMCP: nothing runs that did not come through `twogate.asgi`.

from twogate.asgi import Twogate
from twogate.fastmcp import TwogateMiddleware

mcp = FastMCP("notes", middleware=[TwogateMiddleware()])
app = Twogate(mcp.http_app(), server="notes", config="twogate.yaml")

The gates are `twogate.asgi`. This adds to them: were the server reached by another way (another mount, `mcp.run()`,
stdio, a client in memory), it would refuse all of it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final, cast

from mcp.shared.exceptions import MCPError

from twogate.adapters.upstream.stamp import Stamp, current_stamp, set_current, stamp_in
from twogate.core.errors import FACES, ErrorCode

try:
    from fastmcp.exceptions import AuthorizationError
    from fastmcp.server.middleware import CallNext, Middleware, MiddlewareContext
except ImportError as error:
    raise ImportError("twogate.fastmcp needs FastMCP 4; install fastmcp>=4.1") from error

__all__ = ["TwogateMiddleware"]

log = logging.getLogger("twogate.fastmcp")

_FACE: Final = FACES[ErrorCode.METHOD_NOT_PERMITTED]

# The methods whose message is their parameters; of others only the method is compared if their message is no mapping.
_TYPED: Final = frozenset({"tools/call", "resources/read", "prompts/get"})


class TwogateMiddleware(Middleware):
    """Refuses every message that is not the one which both gates let in, as part of a request that still runs.

    Put it first, and on the outermost server only: what stands before it must not change names or arguments, and a
    server mounted in another is called under other names. A tool that calls other tools of its server through FastMCP
    is refused them, because nobody decided on those.
    """

    async def __call__(self, context: MiddlewareContext[Any], call_next: CallNext[Any, Any]) -> Any:  # noqa: ANN401 - as the base class has it
        """Let the message on, or refuse it.

        Raises:
            MCPError: It came around `twogate.asgi`, or is another than was decided on.
        """
        stamp = _stamp(context)
        if stamp is None or not stamp.redeem(context.method or "", _params(context)):
            _note(context.method, stamp)
            raise MCPError(code=_FACE.jsonrpc, message=_FACE.text, data={"reason": _FACE.reason})
        before = current_stamp()
        set_current(stamp)
        try:
            return await call_next(context)
        finally:
            set_current(before)

    async def check_resource_access(self, context: MiddlewareContext[Any]) -> None:
        """Refuse what FastMCP reads of a resource otherwise than by `resources/read`.

        Raises:
            AuthorizationError: As `__call__`.
        """
        stamp = _stamp(context)
        if stamp is None or not stamp.redeem("resources/read", _params(context)):
            _note(context.method, stamp)
            raise AuthorizationError(_FACE.text)


def _stamp(context: MiddlewareContext[Any]) -> Stamp | None:
    """The stamp of the HTTP request that brought this very message; never one that the context only inherited."""
    fastmcp_context = context.fastmcp_context
    request_context = None if fastmcp_context is None else fastmcp_context.request_context
    request = None if request_context is None else request_context.request
    return None if request is None else stamp_in(request.scope)


def _params(context: MiddlewareContext[Any]) -> Mapping[str, Any] | None:
    message = context.message
    if isinstance(message, Mapping):
        return cast("Mapping[str, Any]", message)
    if context.method not in _TYPED:
        return None
    if context.method == "resources/read":
        return {"uri": str(message.uri)}
    return {"name": message.name, "arguments": message.arguments or {}}


def _note(method: str | None, stamp: Stamp | None) -> None:
    # The caller is told nothing; a person who runs the server has to see that something goes around the gates.
    why = "it came around twogate.asgi" if stamp is None else "its request is over, or was for something else"
    log.warning("refused %s: %s", method, why)
