"""Library mode: both gates around an MCP server of one's own, in its process (R-42, DESIGN decision 16).

from twogate.asgi import Twogate

app = Twogate(mcp.http_app(), server="notes", config="twogate.yaml")

The result is an ASGI application for any ASGI server. It is the gateway itself, whose server `notes` happens to be in
the same process: one implementation decides, limits and records, whichever way the server is reached.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.routing import Match

from twogate.adapters.serving import Serving, ServingError
from twogate.adapters.signers.local import KeyFileError
from twogate.adapters.upstream.asgi import AsgiUpstream
from twogate.app import Application, build_app, edge_limits
from twogate.config import ConfigError, LibraryServer, Problem, Settings, load_settings
from twogate.core.errors import GateError
from twogate.policies import check_policies
from twogate.reload import warn_if_observing
from twogate.require import Identity, NotPermittedError, current, identity, require_auth
from twogate.sandboxes import check_sandboxes
from twogate.state import open_state
from twogate.web.asgi_edge import NOT_SERVING, AsgiEdge, answer_with
from twogate.web.gateway import PREFIX
from twogate.web.inner_lifespan import InnerLifespan, LifespanError
from twogate.web.listen import hosts_of
from twogate.web.public_paths import PublicPaths

__all__ = ["Identity", "NotPermittedError", "Twogate", "current", "identity", "require_auth"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("twogate.asgi")

# What a person who starts the server can do something about; the text says what.
_START_ERRORS: Final = (ConfigError, GateError, KeyFileError, ServingError, LifespanError, OSError)
_MISTAKE: Final = "twogate: the start failed; the log of twogate.asgi says why"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class Twogate:
    """An ASGI application that lets a call reach `app` only if both gates do.

    It serves what `twogate serve` serves, under the `public_url` of the configuration: the server's MCP endpoint as
    `/mcp/{server}`, its metadata, sessions, health, and the authorization server if that is on. Of `app` itself nothing
    else can be reached, unless `public_paths` names it. It must be the outermost application: what is put around it
    must not change paths or headers, and what `app` is given by another way is not guarded.

    The ASGI lifespan opens the store and the audit trail, and runs the lifespan of `app`; a request before it, or
    without it, is refused. One process at a time may serve over a `state` directory.

    Args:
        app: The MCP server, as an ASGI application.
        config: The configuration file, in which `servers` has the server with `library: true`.
        server: The server's name there.
        path: Where `app` has its MCP endpoint (Streamable HTTP).
        public_paths: Paths of `app` that anybody may reach, past both gates and unrecorded. One that ends in `/` means
            all below it. None may hold the endpoint, nor be a path of Twogate's own.

    Raises:
        ValueError: A path that is none, or public paths that would let the endpoint out.
    """

    def __init__(
        self,
        app: AsgiApp,
        *,
        config: str | Path = "twogate.yaml",
        server: str,
        path: str = "/mcp",
        public_paths: Iterable[str] = (),
    ) -> None:
        self._app = app
        self._config = Path(config)
        self._server = server
        self._path = path
        self._public = PublicPaths(path, public_paths)
        self._serving: AsgiEdge | None = None
        self._inner_state: dict[str, Any] = {}
        self.application: Application | None = None
        """The gateway, while it serves; for tests."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            serving = self._serving
            if serving is None:
                await answer_with(NOT_SERVING, scope, send, [])
            else:
                await serving(scope, receive, send)
        elif scope["type"] == "websocket":
            # No MCP transport. Closed before it is accepted, which is answered as 403.
            await send({"type": "websocket.close", "code": 1008})
        else:
            raise ValueError(f"unknown ASGI scope {scope['type']!r}")

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Serve until the block ends, where no ASGI server runs the lifespan.

        Raises:
            ConfigError: The configuration cannot be used, or has no such server.
            GateError: STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
            KeyFileError, OSError: A file cannot be used.
            ServingError: Another process serves over the state directory.
            LifespanError: `app` did not start.
        """
        settings = load_settings(self._config)
        _require_server(self._config, settings, self._server)
        check_policies(self._config, settings)
        check_sandboxes(self._config, settings)
        async with AsyncExitStack() as stack:
            serving = Serving(settings.state_directory)
            stack.callback(serving.close)
            state = await open_state(settings)
            stack.push_async_callback(state.close)
            inner = InnerLifespan(self._app)
            self._inner_state = await inner.start()
            stack.push_async_callback(inner.stop)
            application = build_app(state, guarded={self._server: self._upstream(settings)})
            self._refuse_own_paths(application)
            await application.open()
            warn_if_observing(settings)
            self.application = application
            self._serving = AsgiEdge(
                self._route,
                limits=edge_limits(settings),
                allowed_hosts=hosts_of(settings.public_url),
                public_url=settings.public_url,
                on_refusal=application.on_refusal,
            )
            try:
                yield
            finally:
                self._serving = None
                application.draining.set()
                await application.close()
                self.application = None

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if path in self._public:
            await self._app({**scope, "state": dict(self._inner_state)}, receive, send)
        elif self.application is not None:
            await self.application(scope, receive, send)

    def _upstream(self, settings: Settings) -> AsgiUpstream:
        parts = urlsplit(settings.public_url)
        return AsgiUpstream(
            self._app,
            name=self._server,
            path=self._path,
            scheme=parts.scheme,
            host=parts.hostname or "",
            port=parts.port or _DEFAULT_PORTS[parts.scheme],
            netloc=parts.netloc,
            state=self._inner_state,
        )

    def _refuse_own_paths(self, application: Application) -> None:
        control = cast("Starlette", application.current.control)
        for path in self._public:
            scope: Scope = {"type": "http", "path": path, "root_path": "", "method": "GET", "headers": []}
            own = any(
                route.matches(scope)[0] is not Match.NONE
                or (path.endswith("/") and str(getattr(route, "path", path)).startswith(path))
                for route in control.routes
            )
            if own or f"{path}/".startswith(PREFIX):
                raise _no_config(self._config, f"public_paths of twogate.asgi: {path} is a path of Twogate's own")

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        stack = AsyncExitStack()
        try:
            await stack.enter_async_context(self.running())
        except _START_ERRORS as error:
            await send({"type": "lifespan.startup.failed", "message": f"twogate: {error}"})
            return
        except BaseException:
            # Servers take a lifespan that only raises for one they may do without.
            log.exception("the start failed")
            await send({"type": "lifespan.startup.failed", "message": _MISTAKE})
            raise
        await send({"type": "lifespan.startup.complete"})
        try:
            await receive()
        finally:
            await stack.aclose()
        await send({"type": "lifespan.shutdown.complete"})


def _require_server(path: Path, settings: Settings, name: str) -> None:
    server = settings.servers.get(name)
    if server is None:
        raise _no_config(path, f"servers: has no {name}; add `{name}: {{library: true}}`")
    if not isinstance(server, LibraryServer):
        raise _no_config(path, f"servers.{name}: is reached by url or command, not guarded in its process")


def _no_config(path: Path, message: str) -> ConfigError:
    return ConfigError(path, (Problem(0, "", message),))
