"""`twogate serve`: the gateway, the authorization server and the control API in one process."""

from __future__ import annotations

import logging
import sys

import structlog
import typer
import uvloop

from twogate.adapters.signers.local import KeyFileError
from twogate.cli.options import DEFAULT_CONFIG, ConfigOption
from twogate.cli.output import CommandError
from twogate.config import Settings, load_settings
from twogate.state import open_state
from twogate.web.tls import TlsError, TlsFiles


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("serve")(serve_command)


def serve_command(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Serve until SIGTERM or SIGINT; the log goes to stderr, one JSON object a line."""
    # Here, because no other command needs HTTP, and all of them would start a second later for it.
    from twogate.web.listen import ListenError  # noqa: PLC0415

    settings = load_settings(config)
    configure_logging()
    try:
        uvloop.run(run_server(settings))
    except (ListenError, TlsError) as error:
        raise CommandError(str(error), code="listen") from error
    except KeyFileError as error:
        raise CommandError(str(error), code="key_file") from error


async def run_server(settings: Settings) -> None:
    """Open the state, serve, close the state.

    Raises:
        GateError: STORE_UNAVAILABLE, AUDIT_UNAVAILABLE at the start.
        KeyFileError: a file of the state directory's keys is open to others or broken.
        ListenError, TlsError: the address or the certificate cannot be used.
    """
    from twogate.app import build_app, edge_limits  # noqa: PLC0415 - as above
    from twogate.web.listen import hosts_of, serve  # noqa: PLC0415

    log = structlog.get_logger("twogate")
    state = await open_state(settings)
    try:
        app = build_app(state)
        await serve(
            app,
            listen=settings.listen,
            tls=tls_files(settings),
            limits=edge_limits(settings),
            allowed_hosts=hosts_of(settings.public_url),
            on_refusal=app.on_refusal,
            clock=state.clock,
            ready=lambda url: log.info("ready", listen=url, public_url=settings.public_url),
        )
        log.info("stopped")
    finally:
        await state.close()


def tls_files(settings: Settings) -> TlsFiles | None:
    """The server's certificate and key, if any are configured."""
    return None if settings.tls is None else TlsFiles(certificate=settings.tls.certificate, key=settings.tls.key)


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
