"""From the setting `sandbox` of a stdio server to its plan, and whether this system can do what it asks for.

A part of the composition root, beside `upstreams.py`.
"""

from __future__ import annotations

import errno
import os
import pwd
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from twogate.adapters.upstream.stdio_plan import Account, SandboxPlan
from twogate.config import ConfigError, Problem, Settings, StdioServer
from twogate.config.references_sandbox import private_directories, python_directories
from twogate.config.sandbox import HIDDEN


def sandbox_plan(server: StdioServer, settings: Settings) -> SandboxPlan | None:
    """The plan of a server's sandbox; None if it has none.

    Raises:
        OSError: an account does not exist.
    """
    wanted = server.sandbox
    if wanted is None:
        return None
    hidden = {*private_directories(settings), *(path.resolve() for path in HIDDEN)}
    readable = {path.resolve() for path in wanted.readable}
    # Hidden or not, the programs beside this Python must be found, and on the network so must names.
    needed = set(python_directories())
    if wanted.network == "host":
        needed.add(Path("/etc/resolv.conf").resolve().parent)
    readable |= {path for path in needed - hidden if any(path.is_relative_to(other) for other in hidden)}
    return SandboxPlan(
        network=wanted.network == "host",
        hidden=tuple(sorted(hidden)),
        readable=tuple(sorted(readable)),
        writable=tuple(path.resolve() for path in wanted.writable),
        accounts=None if wanted.users is None else _accounts(wanted.users),
        memory=wanted.memory,
        processes=wanted.processes,
        open_files=wanted.open_files,
    )


def _accounts(users: Mapping[str, str]) -> dict[str, Account]:
    found: dict[str, Account] = {}
    for tenant, name in users.items():
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "no such account", name) from None
        found[tenant] = Account(entry.pw_uid, entry.pw_gid)
    return found


def check_sandboxes(config: Path, settings: Settings) -> None:
    """Refuse a sandbox that this system cannot build for this user: each is built once, with nothing in it.

    Raises:
        ConfigError: With every problem found.
    """
    problems = tuple(Problem(0, f"servers.{name}.{key}", message) for name, key, message in _problems(settings))
    if problems:
        raise ConfigError(config, problems)


def _problems(settings: Settings) -> Iterator[tuple[str, str, str]]:
    uids: dict[int, str] = {}
    for name, server in settings.servers.items():
        if not isinstance(server, StdioServer) or server.sandbox is None:
            continue
        if sys.platform != "linux":
            yield name, "sandbox", "needs Linux; run the server in a container of its own and reach it by `url`"
            continue
        users = server.sandbox.users
        root = os.geteuid() == 0
        if users is None and root:
            # A root without capabilities would still own every file of root's, and have no limit of processes.
            yield name, "sandbox.users", "is missing: Twogate runs as root, and the server must not; name an account"
            continue
        if users is not None and not root:
            yield name, "sandbox.users", "needs Twogate to run as root; leave it out to run as Twogate's own user"
            continue
        try:
            plan = sandbox_plan(server, settings)
        except OSError as error:
            yield name, "sandbox.users", f"{error.filename}: {error.strerror}"
            continue
        if plan is not None:
            yield from ((name, *found) for found in _account_problems(plan, uids))
            cwd = None if server.cwd is None else server.cwd.resolve()
            # Accounts differ in what they may enter. The name of the only one, if there are none, does not matter.
            for tenant in users or ("",):
                if (failed := plan.probe(tenant, cwd)) is not None:
                    yield name, "sandbox", f"cannot be built here: {failed}"


def _account_problems(plan: SandboxPlan, uids: dict[int, str]) -> Iterator[tuple[str, str]]:
    for tenant, account in (plan.accounts or {}).items():
        if account.uid == 0 or account.gid == 0:
            yield f"sandbox.users.{tenant}", "is an account of root's, which sees and may do too much; name another"
        first = uids.setdefault(account.uid, tenant)
        if first != tenant:
            yield f"sandbox.users.{tenant}", f"has the user id of {first}'s account; tenants must not share one"


def unsandboxed(settings: Settings) -> Iterator[str]:
    """A warning for each stdio server that has no sandbox."""
    for name, server in settings.servers.items():
        if isinstance(server, StdioServer) and server.sandbox is None:
            yield (
                f"servers.{name}: runs without a sandbox, as Twogate's own user: it can read Twogate's keys and store, "
                "and reach the network; say `sandbox: {}` and what it needs"
            )
