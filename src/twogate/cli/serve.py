"""`twogate serve`: the gateway, the authorization server and the control API in one process."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Final

import structlog
import typer
import uvloop

from twogate.adapters.serving import Serving, ServingError
from twogate.adapters.signers.local import KeyFileError
from twogate.cli.options import DEFAULT_CONFIG, ConfigOption
from twogate.cli.output import CommandError
from twogate.config import LibraryServer, Settings, TcpAddress, load_settings
from twogate.policies import check_policies
from twogate.sandboxes import check_sandboxes, unsandboxed
from twogate.state import State, open_state
from twogate.web.tls import ServerTls, TlsError

COLLECT_AFTER: Final = 20_000
"""Containers made and not freed again after which the youngest are looked at; Python's own figure is 700."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("serve")(serve_command)


def serve_command(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reloads. The log goes to stderr, one JSON object a line."""
    # Here, because no other command needs HTTP, and all of them would start a second later for it.
    from twogate.web.listen import ListenError  # noqa: PLC0415

    settings = load_settings(config)
    if settings.public_url.startswith("https:") and settings.tls is None and isinstance(settings.listen, TcpAddress):
        raise CommandError(f"{config}: tls: is missing: an https public_url needs it here", code="listen")
    check_policies(config, settings)
    check_sandboxes(config, settings)
    configure_logging()
    try:
        uvloop.run(run_server(settings, config.absolute()))
    except (ListenError, TlsError) as error:
        raise CommandError(str(error), code="listen") from error
    except KeyFileError as error:
        raise CommandError(str(error), code="key_file") from error
    except ServingError as error:
        raise CommandError(str(error), code="serving") from error


async def run_server(settings: Settings, config: Path) -> None:
    """Open the state, serve, close the state. SIGHUP loads `config` anew.

    Raises:
        GateError: STORE_UNAVAILABLE, AUDIT_UNAVAILABLE, SHARED_UNAVAILABLE at the start.
        KeyFileError: a file of the state directory's keys is open to others or broken.
        ListenError, TlsError: the address or the certificate cannot be used.
        ServingError: another process serves over the state directory.
    """
    reload_wanted = asyncio.Event()
    # Before anybody can know this process. The handler stays to the end: by default the signal would kill.
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload_wanted.set)
    serving = Serving(settings.state_directory)
    try:
        state = await open_state(settings)
        try:
            if state.shared is not None:
                # Now, not at the first call: it may be another's, full of what it evicts, or not there.
                await state.shared.check()
            await _serve(settings, config, state, serving, reload_wanted)
        finally:
            await state.close()
    finally:
        serving.close()


async def _serve(
    settings: Settings, config: Path, state: State, serving: Serving, reload_wanted: asyncio.Event
) -> None:
    from twogate.app import build_app, edge_limits  # noqa: PLC0415 - as above
    from twogate.reload import Reloader, tls_files, warn_if_observing  # noqa: PLC0415
    from twogate.web.listen import hosts_of, serve  # noqa: PLC0415

    log = structlog.get_logger("twogate")
    files = tls_files(settings)
    tls = None if files is None else ServerTls(files)
    app = build_app(state)
    reloader = Reloader(config, app, state, tls, serving, reload_wanted)

    def ready(url: str) -> None:
        spare_the_collector()
        reloader.ready(os.getpid())
        log.info("ready", listen=url, public_url=settings.public_url, generation=settings.generation)
        warn_if_observing(settings)
        for warning in unsandboxed(settings):
            log.warning("no_sandbox", message=warning)
        for name, server in settings.servers.items():
            if isinstance(server, LibraryServer):
                log.warning("not_served", server=name, message="it is guarded within its own process (library: true)")

    reloading = asyncio.create_task(reloader.run())
    try:
        await serve(
            app,
            listen=settings.listen,
            tls=tls,
            limits=edge_limits(settings),
            allowed_hosts=hosts_of(settings.public_url),
            on_refusal=app.on_refusal,
            clock=state.clock,
            ready=ready,
            draining=app.draining,
        )
        log.info("stopped")
    finally:
        reloading.cancel()
        await asyncio.gather(reloading, return_exceptions=True)


def spare_the_collector() -> None:
    """Tell Python's cycle collector that what exists now lives as long as the process, and to look less often.

    Modules, templates and compiled schemas are most of the heap; walking them again and again took a twentieth of the
    CPU time under load, and stopped every call meanwhile. A call leaves no reference cycles behind, so less is enough.
    """
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, *gc.get_threshold()[1:])


def configure_logging() -> None:
    """JSON lines to stderr, the libraries' log included."""
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
