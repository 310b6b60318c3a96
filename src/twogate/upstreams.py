"""Opening the configured MCP servers: what the gateway and the commands that ask servers share.

A part of the composition root, apart from `app.py` because commands need no HTTP.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from twogate.adapters.envelope import KEY_FILE, LocalEnvelope
from twogate.adapters.secrets.files import FileSecrets
from twogate.adapters.secrets.sealed import SealedSecrets
from twogate.adapters.signers.local import KeyFileError, LocalSecret
from twogate.adapters.upstream.by_tenant import TenantConnections
from twogate.adapters.upstream.credentialed import CredentialedUpstream, HeaderSecrets, RenewedUpstream
from twogate.adapters.upstream.http import HttpUpstream
from twogate.adapters.upstream.sse import SseLimits, SseUpstream
from twogate.adapters.upstream.stdio import StdioUpstream
from twogate.adapters.upstream.stdio_process import StdioCredential, StdioLimits
from twogate.config import Settings
from twogate.config.secrets import FILE, LOCAL, ProcessCredential
from twogate.config.servers import HttpServer, LibraryServer, StdioServer
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.envelope import Envelope
from twogate.flows.environment import Clock, Rng
from twogate.flows.gateway.upstream import Upstream
from twogate.flows.secrets import SecretSource, TenantSecrets
from twogate.sandboxes import sandbox_plan


def tenants_of(server: str, settings: Settings) -> frozenset[str]:
    """The tenants that may reach a server."""
    return frozenset(name for name, entry in settings.tenants.items() if server in entry.servers)


class GuardedElsewhereError(Exception):
    """The server is guarded within its own process; no other can reach it."""


def open_secrets(settings: Settings, envelope: Envelope) -> TenantSecrets:
    """The secrets that the configuration refers to. Nothing is read before it is needed."""
    references = {
        (tenant, server): (reference.scheme, reference.name)
        for tenant, entry in settings.tenants.items()
        for server, reference in entry.secrets.items()
    }
    sources: dict[str, SecretSource] = {
        LOCAL: SealedSecrets(settings.state_directory, envelope),
        FILE: FileSecrets(),
    }
    return TenantSecrets(references, sources)


def local_envelope(settings: Settings, rng: Rng) -> LocalEnvelope:
    """What seals and opens values under the key of this installation, which is made on first use.

    Raises:
        KeyFileError: the key's file is missing its protection.
    """
    # Else the key's directory would be made with it, open to others.
    settings.state_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return LocalEnvelope(LocalSecret.open(settings.state_directory / "keys", KEY_FILE, rng), rng)


class _NoKey:
    """Stands for a key that cannot be had: it opens nothing. Implements `flows.envelope.Envelope`."""

    def __init__(self, why: str) -> None:
        self._why = why

    async def seal(self, purpose: str, owner: str, plaintext: bytes) -> bytes:  # noqa: ARG002 - of the Protocol
        raise GateError(ErrorCode.KEYS_UNAVAILABLE, self._why)

    async def open(self, purpose: str, owner: str, sealed: bytes) -> bytes:  # noqa: ARG002 - of the Protocol
        raise GateError(ErrorCode.KEYS_UNAVAILABLE, self._why)


def reading_envelope(settings: Settings, rng: Rng) -> Envelope:
    """What opens values for a command that changes nothing: it makes no key, and without one it opens nothing."""
    try:
        exists = (settings.state_directory / "keys" / KEY_FILE).exists()
        return local_envelope(settings, rng) if exists else _NoKey("there is no key yet")
    except (KeyFileError, OSError) as error:
        return _NoKey(str(error))


def command_secrets(settings: Settings, rng: Rng) -> TenantSecrets:
    """The secrets for a command that only uses them."""
    return open_secrets(settings, reading_envelope(settings, rng))


async def missing_secrets(settings: Settings, rng: Rng) -> Sequence[tuple[str, str, str]]:
    """Each tenant and server whose secret cannot be had, and why."""
    secrets, missing = command_secrets(settings, rng), list[tuple[str, str, str]]()
    for tenant, entry in settings.tenants.items():
        for server in entry.servers:
            if (known := settings.servers.get(server)) is not None and known.credential is not None:
                try:
                    await secrets.of(tenant, server)
                except GateError as error:
                    missing.append((tenant, server, error.debug))
    return missing


def open_upstream(
    name: str, settings: Settings, clock: Clock, log: Callable[[str, str], None], secrets: TenantSecrets
) -> Upstream:
    """The way to one configured server; nothing is connected or started before the first message.

    `log` takes the server's name and a line, mostly what its process wrote to stderr.

    Raises:
        OSError: the server's CA file cannot be read, or an account of its sandbox does not exist.
        GuardedElsewhereError: it is a part of another process (`library: true`).
    """
    tenants = len(tenants_of(name, settings))
    match settings.servers[name]:
        case HttpServer(url=url, ca=ca, credential=credential, transport=transport):
            headers = None
            if credential is not None:
                headers = HeaderSecrets(secrets, name, credential.header, credential.effective_scheme)
            if transport == "http":
                upstream = TenantConnections(HttpUpstream(url, ca_file=ca))
                return upstream if headers is None else CredentialedUpstream(upstream, headers)
            made = None if headers is None else headers.of
            bounds = SseLimits().divided(tenants)
            links = SseUpstream(url, ca_file=ca, limits=bounds, name=name, clock=clock, log=log, credential=made)
            return links if headers is None else RenewedUpstream(links, secrets, name)
        case StdioServer(command=command, cwd=cwd, env=env, credential=credential) as server:
            processes = StdioUpstream(
                command,
                cwd=cwd,
                environment=env,
                limits=StdioLimits().divided(tenants),
                name=name,
                clock=clock,
                log=log,
                sandbox=sandbox_plan(server, settings),
                credential=None if credential is None else _given(secrets, name, credential),
            )
            return processes if credential is None else RenewedUpstream(processes, secrets, name)
        case LibraryServer():
            raise GuardedElsewhereError(f"server {name} is guarded within its own process, and reached there only")


def _given(secrets: TenantSecrets, server: str, how: ProcessCredential) -> Callable[[str], Awaitable[StdioCredential]]:
    async def of(tenant: str) -> StdioCredential:
        secret = await secrets.of(tenant, server)
        return StdioCredential(how.variable, secret.value, how.env is None)

    return of
