"""What a sandboxed stdio server may see and take, as the command that starts it so (see `stdio_sandbox`)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from twogate.adapters.upstream import stdio_sandbox
from twogate.core.errors import ErrorCode, GateError

SANDBOX_HOME: Final = Path("/tmp")  # noqa: S108 - one of the sandbox's own
"""`HOME`, `TMPDIR` and the default working directory in a sandbox: memory, private, gone with the server."""

_PROBE_SECONDS: Final = 30.0


class Account(msgspec.Struct, frozen=True):
    """The user and group id that a server runs with."""

    uid: int
    gid: int


class SandboxPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A sandbox. Paths are resolved already: a link that a server makes later changes nothing.

    Everything can be read but `hidden`, in which only `readable` and `writable` are shown; of nested paths the longest
    decides. `accounts` by tenant; None: the user that Twogate runs as. `memory` is the address space in bytes and
    counts for each process, like `open_files`; `processes` counts all of one sandbox.
    """

    network: bool
    hidden: tuple[Path, ...]
    readable: tuple[Path, ...]
    writable: tuple[Path, ...]
    accounts: Mapping[str, Account] | None
    memory: int
    processes: int
    open_files: int

    def launcher(self, tenant: str, cwd: Path | None) -> tuple[str, ...]:
        """The beginning of a command that runs the rest of it in the sandbox.

        Raises:
            GateError: UPSTREAM_UNAVAILABLE: the tenant has no account here.
        """
        account = None
        if self.accounts is not None and (account := self.accounts.get(tenant)) is None:
            raise GateError(ErrorCode.UPSTREAM_UNAVAILABLE, f"sandbox.users names no account for {tenant}")
        # The sandbox has a /tmp of its own already.
        kinds = {path: "hide" for path in self.hidden if path != SANDBOX_HOME and path.is_dir()}
        # The later decides over the same path. What no hidden directory holds can be read as it is: a mount there could
        # only uncover something, as one on `/` would the real `/proc`.
        covered = (*self.hidden, SANDBOX_HOME)
        shown = (*self.readable, *(() if cwd is None else (cwd,)))
        kinds |= {path: "read" for path in shown if any(path.is_relative_to(other) for other in covered)}
        kinds |= dict.fromkeys(self.writable, "write")
        plan = {
            "uid": None if account is None else account.uid,
            "gid": None if account is None else account.gid,
            "network": self.network,
            "mounts": [(str(path), kinds[path]) for path in sorted(kinds, key=lambda path: path.parts)],
            "cwd": str(cwd or SANDBOX_HOME),
            "memory": self.memory,
            "processes": self.processes,
            "open_files": self.open_files,
        }
        return (sys.executable, "-I", "-S", "-B", stdio_sandbox.__file__, json.dumps(plan))

    def probe(self, tenant: str, cwd: Path | None) -> str | None:
        """Build the sandbox with nothing in it; what could not be done, or None."""
        try:
            tried = subprocess.run(  # noqa: S603 - our own script, no shell
                self.launcher(tenant, cwd),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                cwd="/",
                env={},
                timeout=_PROBE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"not ready after {_PROBE_SECONDS:.0f} s"
        if tried.returncode == 0:
            return None
        last = tried.stderr.decode(errors="replace").strip().splitlines()[-1:]
        return "".join(last).removeprefix("twogate sandbox: ") or f"exit code {tried.returncode}"
