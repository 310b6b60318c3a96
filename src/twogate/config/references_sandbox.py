"""Whether the sandboxes of stdio servers hold together: tenants and their accounts, paths that nobody may see."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, cast

from pydantic import BaseModel

from twogate.config.document import KeyPath
from twogate.config.sandbox import HIDDEN, Sandbox
from twogate.config.servers import StdioServer
from twogate.config.settings import Settings
from twogate.config.values import UnixAddress

Found = tuple[KeyPath, str]

SECRET_FIELDS: Final = frozenset(
    {
        "key",
        "shared_password",
        "store_password",
        "secret_file",
        "client_secret_file",
        "private_key_file",
        "secret_digest_file",
        # Of `notify`: keys and passwords; Slack's URL is a secret too, and the only `url` that is a file.
        "secret",
        "password",
        "url",
    }
)
"""The settings that name files with secrets, by their last word."""

# Without these nothing runs; a secret that lies in one of them cannot be hidden by hiding its directory.
_NEEDED: Final = frozenset(map(Path, ("/", "/bin", "/dev", "/etc", "/lib", "/lib64", "/proc", "/sbin", "/sys", "/usr")))

_REPLACED: Final = tuple(map(Path, ("/dev", "/proc", "/sys")))


def private_directories(settings: Settings) -> frozenset[Path]:
    """Where Twogate's state, store, socket and secrets lie: directories that no sandboxed server sees into."""
    found = {settings.state_directory, *(path.parent for path in _secrets(settings))}
    for reference in (reference for tenant in settings.tenants.values() for reference in tenant.secrets.values()):
        if reference.path is not None:
            # A link may lead elsewhere; both places have it.
            found |= {reference.path.parent, reference.path.resolve().parent}
    if settings.store_path is not None:
        found.add(settings.store_path.parent)
    if isinstance(settings.listen, UnixAddress):
        found.add(settings.listen.path.parent)
    return frozenset(path.resolve() for path in found)


def python_directories() -> frozenset[Path]:
    """Where this Python lives, beside which the servers' programs are looked for."""
    return frozenset(Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix))


def _secrets(value: object) -> Iterator[Path]:
    if isinstance(value, BaseModel):
        for name, item in value:
            if isinstance(item, Path) and name in SECRET_FIELDS:
                yield item
            yield from _secrets(item)
    elif isinstance(value, dict):
        for item in cast("dict[str, object]", value).values():
            yield from _secrets(item)
    elif isinstance(value, tuple):
        for item in cast("tuple[object, ...]", value):
            yield from _secrets(item)


def sandbox_problems(settings: Settings, broken: frozenset[KeyPath]) -> Iterator[Found]:
    """Every problem between the sandboxes and the other settings."""
    accounts: dict[str, str] = {}
    for name, server in settings.servers.items():
        if not isinstance(server, StdioServer):
            continue
        place: KeyPath = ("servers", name)
        users = None if server.sandbox is None else server.sandbox.users
        if users is None:
            # Without a user id of its own, a server could read what another tenant's does (DESIGN decision 13).
            if len(settings.tenants) > 1:
                text = "runs as Twogate's own user, which several tenants must not share; give each tenant an account"
                yield (*place, "command"), f"{text} in `sandbox: {{users: …}}`, or reach it by `url`"
        elif ("tenants",) not in broken:
            yield from _users(name, users.items(), settings, broken, accounts)
        if server.sandbox is not None and {("store",), ("state",), ("tls",), ("listen",)}.isdisjoint(broken):
            yield from _paths(server, server.sandbox, settings, place)


def _users(
    name: str,
    users: Iterable[tuple[str, str]],
    settings: Settings,
    broken: frozenset[KeyPath],
    accounts: dict[str, str],
) -> Iterator[Found]:
    place: KeyPath = ("servers", name, "sandbox", "users")
    known = dict(users)
    for tenant, account in known.items():
        if tenant not in settings.tenants and ("tenants", tenant) not in broken:
            yield (*place, tenant), f"unknown tenant {tenant!r}; add it to tenants"
        first = accounts.setdefault(account, tenant)
        if first != tenant:
            yield (*place, tenant), f"the account {account!r} is {first}'s already; tenants must not share one"
    for tenant, reaches in settings.tenants.items():
        if name in reaches.servers and tenant not in known:
            yield place, f"names no account for {tenant}, which may reach this server"


def _paths(server: StdioServer, sandbox: Sandbox, settings: Settings, place: KeyPath) -> Iterator[Found]:
    if settings.state is None and settings.store_path is None:
        return  # reported already
    private = private_directories(settings)
    for directory in sorted(private & _NEEDED):
        yield (
            (*place, "sandbox"),
            f"would have to hide {directory}, where Twogate keeps secrets; move them to a directory of their own",
        )
    shown: list[tuple[KeyPath, Path]] = [] if server.cwd is None else [((*place, "cwd"), server.cwd.resolve())]
    for key in ("readable", "writable"):
        paths: tuple[Path, ...] = getattr(sandbox, key)
        shown += [((*place, "sandbox", key, index), path.resolve()) for index, path in enumerate(paths)]
    for at, path in shown:
        if "writable" in at and any(path.is_relative_to(own) or own.is_relative_to(path) for own in _REPLACED):
            yield at, "cannot be shown: /dev, /proc and /sys are the sandbox's own"
            continue
        for directory in private:
            if path.is_relative_to(directory):
                yield at, f"{path} lies in {directory}, where Twogate keeps what no server may see; use another place"
            elif "writable" in at and directory.is_relative_to(path):
                yield at, f"{path} holds {directory}, where Twogate keeps what no server may see; name less"
    yield from _program(server, {path for _, path in shown}, private, (*place, "command"))


def _program(server: StdioServer, shown: set[Path], private: frozenset[Path], place: KeyPath) -> Iterator[Found]:
    program = Path(server.command[0])
    if program.is_absolute() and not any(program.is_relative_to(path) for path in shown | python_directories()):
        for directory in sorted({*private, *HIDDEN}):
            if program.is_relative_to(directory):
                yield place, f"lies in {directory}, which the sandbox hides; add its place to `readable`"
                break
