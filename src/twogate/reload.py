"""Loading the configuration anew while serving: all of it takes effect, or nothing (DESIGN decision 22).

1. The file is read and checked as at the start, and compared with what cannot change while serving.
2. Certificate and key are read, and everything of the new generation is made, unused yet. Both happen in a thread, so
   that calls go on meanwhile.
3. The agents and clients of the file are compared with those of the store.
4. The audit trail has the change before it takes effect.
5. In one turn of the event loop the new generation and its certificate become current. Nothing in this step can fail.
"""

from __future__ import annotations

import asyncio
import ssl
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
import structlog

from twogate.adapters.serving import Problem, Reload, Serving, Status
from twogate.app import Application
from twogate.config import ConfigError, Settings, load_settings
from twogate.config import Problem as ConfigProblem
from twogate.config.policy import configured_agents
from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.errors import GateError
from twogate.flows.authserver.directory import check_clients
from twogate.flows.registry import check_definitions
from twogate.policies import check_policies
from twogate.sandboxes import check_sandboxes
from twogate.state import State
from twogate.web.generation import Generation
from twogate.web.tls import ServerTls, TlsError, TlsFiles, server_context

log = structlog.get_logger("twogate")

# What the listener, the store and the audit trail were opened with.
_FIXED: Final[dict[str, Callable[[Settings], object]]] = {
    "public_url": lambda settings: settings.public_url,
    "listen": lambda settings: settings.listen,
    "tls": lambda settings: settings.tls is not None,
    "store": lambda settings: settings.store,
    "store_password": lambda settings: settings.store_password,
    "store_ca": lambda settings: settings.store_ca,
    "shared": lambda settings: settings.shared,
    "shared_password": lambda settings: settings.shared_password,
    "shared_ca": lambda settings: settings.shared_ca,
    "state": lambda settings: settings.state_directory,
    "limits.body": lambda settings: settings.limits.body,
    "limits.connections": lambda settings: settings.limits.connections,
    "limits.connections_per_address": lambda settings: settings.limits.connections_per_address,
    "audit.fsync": lambda settings: settings.audit.fsync,
}


class RestartNeededError(ConfigError):
    """The file is valid, but says something else of what cannot change while serving."""


class StoppingError(Exception):
    """The process is about to end."""


def tls_files(settings: Settings) -> TlsFiles | None:
    """The server's certificate and key, and whose client certificates it asks for, if any are configured."""
    tls = settings.tls
    if tls is None:
        return None
    required = tls.client_certificate == "required"
    return TlsFiles(
        certificate=tls.certificate, key=tls.key, client_ca=tls.client_ca, client_certificate_required=required
    )


def warn_if_observing(settings: Settings) -> None:
    """Say in the log that gate two refuses nothing by role or task, if it does not."""
    if settings.observe_until is not None:
        until = datetime.fromtimestamp(settings.observe_until, UTC).isoformat()
        log.warning("observing", until=until, message="gate two records role and task refusals and lets the calls run")


class Reloader:
    """Loads the file anew whenever `wanted` is set; requests that come meanwhile are answered by one more attempt."""

    def __init__(
        self,
        config: Path,
        app: Application,
        state: State,
        tls: ServerTls | None,
        serving: Serving,
        wanted: asyncio.Event,
    ) -> None:
        self._config = config
        self._app = app
        self._state = state
        self._tls = tls
        self._serving = serving
        self._wanted = wanted
        self._status: Status | None = None

    def ready(self, pid: int) -> None:
        """Say who serves, now that it does; from then on it can be asked to reload.

        Raises:
            OSError: the status cannot be written.
        """
        self._status = Status(pid, self._state.clock.now(), self._app.current.settings.generation, str(self._config))
        self._serving.publish(self._status)

    async def run(self) -> None:
        """Reload whenever asked to, until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            await self.reload()

    async def reload(self) -> None:
        """Make one attempt and say how it ended: in the log, on the audit trail and in the status."""
        if self._status is None:
            return
        status = msgspec.structs.replace(self._status, begun=self._status.begun + 1)
        before = self._app.current.settings.generation
        try:
            # First, so that whoever asks from now on waits for an attempt that reads the file after they asked.
            self._serving.publish(status)
            self._status = status
            await self._attempt()
        except Exception as error:  # noqa: BLE001 - the very edge: whatever it is, the old configuration serves on
            outcome = refusal(error, number=status.begun, generation=before)
            await self._record_refusal(outcome)
        else:
            generation = self._app.current.settings.generation
            outcome = Reload(status.begun, before, generation)
            log.info("reloaded", before=before, generation=generation)
            warn_if_observing(self._app.current.settings)
        self._status = msgspec.structs.replace(status, generation=outcome.generation, last=outcome)
        try:
            self._serving.publish(self._status)
        except OSError as error:
            log.warning("status_not_written", message=str(error))

    async def _attempt(self) -> None:
        if self._app.draining.is_set():
            raise StoppingError
        # 1. and 2.
        generation, context = await asyncio.to_thread(self._prepare)
        # 3.
        agents, bindings = configured_agents(generation.settings)
        check_definitions(await self._state.registry_store.load(), agents, bindings)
        await check_clients(self._state.clients, generation.settings.clients)
        # 4.
        await self._state.audit.append(
            AuditEvent(
                kind=EventKind.CONFIGURATION_RELOADED,
                at=self._state.clock.now_us(),
                detail=f"{self._app.current.settings.generation} -> {generation.settings.generation}",
            )
        )
        # 5.
        if self._tls is not None and context is not None:
            self._tls.adopt(context)
        self._app.adopt(generation)
        self._state.audit.observe_until = generation.settings.observe_until

    def _prepare(self) -> tuple[Generation, ssl.SSLContext | None]:
        if self._config.exists() and not self._config.is_file():
            # Reading a pipe could wait for ever.
            raise ConfigError(self._config, (ConfigProblem(0, "", "is not a file"),))
        settings = load_settings(self._config)
        fixed = tuple(changed(self._app.current.settings, settings))
        if fixed:
            problems = (ConfigProblem(0, key, "cannot change while serving; restart to change it") for key in fixed)
            raise RestartNeededError(self._config, tuple(problems))
        files = tls_files(settings)
        context = None if files is None else server_context(files)
        check_policies(self._config, settings)
        check_sandboxes(self._config, settings)
        return self._app.build_next(settings), context

    async def _record_refusal(self, outcome: Reload) -> None:
        log.error(
            "reload_refused",
            code=outcome.code,
            message=outcome.message,
            problems=[msgspec.to_builtins(problem) for problem in outcome.problems],
            generation=outcome.generation,
        )
        # Places only: a message may repeat what somebody wrote into the file by mistake.
        places = "; ".join(_place(problem) for problem in outcome.problems)
        event = AuditEvent(
            kind=EventKind.CONFIGURATION_REFUSED, at=self._state.clock.now_us(), reason=outcome.code, detail=places
        )
        try:
            await self._state.audit.append(event)
        except GateError as error:
            log.warning("refusal_not_recorded", message=error.debug)


def _place(problem: Problem) -> str:
    return f"line {problem.line} {problem.key}".rstrip() if problem.line else problem.key


def changed(old: Settings, new: Settings) -> list[str]:
    """The settings that differ although they cannot change while serving."""
    return [key for key, value in _FIXED.items() if value(old) != value(new)]


def refusal(error: Exception, *, number: int, generation: str) -> Reload:
    """What an operator is told of a failed attempt: as the commands say it, without values of what broke."""
    problems: tuple[Problem, ...] = ()
    match error:
        case ConfigError():
            code = "restart_needed" if isinstance(error, RestartNeededError) else "configuration_invalid"
            message = str(error)
            problems = tuple(Problem(str(error.path), item.line, item.key, item.message) for item in error.problems)
        case GateError():
            code, message = error.code.value, error.debug or error.face.text
        case TlsError():
            code, message = "tls", str(error)
        case StoppingError():
            code, message = "stopping", "the process is about to end"
        case OSError():
            place = f"{error.filename}: " if error.filename else ""
            code, message = "system", f"{place}{error.strerror or type(error).__name__}"
        case _:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"
            code, message = "internal", f"internal error: {place}"
    return Reload(number, generation, generation, code, message, problems)
