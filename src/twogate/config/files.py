"""Whether the files and directories that the settings name are there, and secret ones closed to others."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from twogate.config.client_records import client_file_problems
from twogate.config.document import KeyPath
from twogate.config.servers import HttpServer, LibraryServer
from twogate.config.settings import Settings

Found = tuple[KeyPath, str]


def file_problems(settings: Settings, broken: frozenset[KeyPath]) -> Iterator[Found]:
    """Every problem; `broken` are the places that could not be read themselves."""
    if settings.tls is not None and ("tls",) not in broken:
        yield from _present(settings.tls.certificate, ("tls", "certificate"))
        yield from _secret(settings.tls.key, ("tls", "key"))
        yield from _present(settings.tls.client_ca, ("tls", "client_ca"))
    yield from _secret(settings.store_password, ("store_password",))
    yield from _present(settings.store_ca, ("store_ca",))
    yield from _secret(settings.shared_password, ("shared_password",))
    yield from _present(settings.shared_ca, ("shared_ca",))
    yield from _issuers(settings)
    yield from _logins(settings)
    yield from _clients(settings)
    yield from _servers(settings)


def _issuers(settings: Settings) -> Iterator[Found]:
    for index, issuer in enumerate(settings.issuers):
        place: KeyPath = ("issuers", index)
        yield from _present(issuer.ca, (*place, "ca"))
        if issuer.introspection is not None:
            for key in ("client_secret_file", "private_key_file"):
                yield from _secret(getattr(issuer.introspection, key), (*place, "introspection", key))
    for index, workloads in enumerate(settings.workloads):
        yield from _present(workloads.ca, ("workloads", index, "ca"))
        yield from _present(workloads.jwks_file, ("workloads", index, "jwks_file"))
    for index, identities in enumerate(settings.identity_assertions):
        yield from _present(identities.ca, ("identity_assertions", index, "ca"))


def _logins(settings: Settings) -> Iterator[Found]:
    for index, provider in enumerate(settings.logins):
        yield from _present(provider.ca, ("logins", index, "ca"))
        for key in ("client_secret_file", "private_key_file"):
            yield from _secret(getattr(provider, key), ("logins", index, key))


def _clients(settings: Settings) -> Iterator[Found]:
    yield from client_file_problems(settings)
    for name, client in settings.clients.items():
        if client.secret_file is not None:
            yield from _closed(client.secret_file, ("clients", name, "secret_file"))


def _servers(settings: Settings) -> Iterator[Found]:
    for name, server in settings.servers.items():
        if isinstance(server, HttpServer):
            yield from _present(server.ca, ("servers", name, "ca"))
            continue
        if isinstance(server, LibraryServer):
            continue
        shown: list[tuple[KeyPath, Path]] = [] if server.cwd is None else [(("servers", name, "cwd"), server.cwd)]
        for key in ("readable", "writable") if server.sandbox is not None else ():
            paths: tuple[Path, ...] = getattr(server.sandbox, key)
            shown += [(("servers", name, "sandbox", key, index), path) for index, path in enumerate(paths)]
        for place, path in shown:
            if not path.is_dir():
                yield place, f"{path} is not a directory"


def _present(path: Path | None, place: KeyPath) -> Iterator[Found]:
    if path is not None and not path.is_file():
        yield place, f"{path} is not a file"


def _secret(path: Path | None, place: KeyPath) -> Iterator[Found]:
    if path is not None:
        yield from _present(path, place)
        yield from _closed(path, place)


def _closed(path: Path, place: KeyPath) -> Iterator[Found]:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return
    if mode & 0o077:
        yield place, f"{path} can be used by others (mode {mode:04o}); run `chmod 600 {path}`"
