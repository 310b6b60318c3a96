"""The small process between Twogate and a stdio server: it starts the server and leaves nothing behind when it ends.

Run as a script, with the standard library only: `python -I -S stdio_supervisor.py CONTROL GRACE HOME CWD COMMAND...`.
Why a process of its own: code between fork and exec is unsafe in a process with threads, and only a living process can
clean up after a gateway that was killed with SIGKILL.

1. The gateway holds the other end of the socket CONTROL. However the gateway ends, the kernel closes that end, so end
   of file here means: end the server. The byte `E` means the same, `K` means: end it at once.
2. On Linux this process is a *child subreaper*: a descendant whose parent dies becomes our child, even if it made a
   session of its own (a daemon). Killing descendants until none is left therefore leaves no orphan.
3. If this process is killed itself, the server gets SIGKILL by its parent-death signal, and the gateway kills its
   process group. What a server of the same user could still do (stop or kill both of us) needs a user of its own.

End: wait GRACE seconds for the server to see its stdin closed, SIGTERM to its process group, wait again, SIGKILL to
every descendant. HOME, the server's private directory, is removed last. Elsewhere than on Linux only the process group
is known.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Final

END: Final = b"E"
KILL_NOW: Final = b"K"
_LINUX: Final = sys.platform == "linux"
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38
_KILL_ROUND_SECONDS: Final = 0.05


def _prctl(option: int, value: int) -> None:
    import ctypes  # noqa: PLC0415 - exists for every Python on Linux, not needed elsewhere

    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _harden() -> None:
    """Limits that the server inherits from this process."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if _LINUX:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        # A set-uid descendant would lose its parent-death signal and could not be killed by us.
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def _start(cwd: str, command: list[str]) -> int:
    """Fork and execute the server in a session of its own; its process id.

    Raises:
        OSError: the directory or the command cannot be used.
    """
    parent = os.getpid()
    # Close-on-exec, so end of file says that the command runs.
    failure_read, failure_write = os.pipe()
    child = os.fork()
    if child == 0:
        number = errno.EINVAL
        try:
            _become_server(parent, cwd, command)
        except OSError as error:
            number = error.errno or number
        except ValueError:  # a NUL in an argument
            pass
        finally:
            os.write(failure_write, str(number).encode())
            os._exit(127)
    os.close(failure_write)
    with os.fdopen(failure_read, "rb") as pipe:
        failure = pipe.read()
    if failure:
        os.waitpid(child, 0)
        raise OSError(int(failure), os.strerror(int(failure)))
    return child


def _become_server(parent: int, cwd: str, command: list[str]) -> None:
    if _LINUX:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(127)
    os.setsid()
    signal.set_wakeup_fd(-1)
    # Ignored and blocked signals survive exec.
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.chdir(cwd)
    os.execvp(command[0], command)  # noqa: S606 - the configured command, no shell


def _reap(server: int) -> bool:
    """Collect every ended child; whether the server is among them."""
    gone = False
    with contextlib.suppress(ChildProcessError):
        while True:
            child, _ = os.waitpid(-1, os.WNOHANG)
            if child == 0:
                break
            gone = gone or child == server
    return gone


def _descendants() -> list[int]:
    """Process ids of all descendants, from /proc; empty elsewhere than on Linux."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # The command name in parentheses may hold anything; the parent is the second field after it.
            fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: list[int] = []
    frontier = [os.getpid()]
    while frontier:
        below = children.get(frontier.pop(), [])
        found += below
        frontier += below
    return found


def _kill_all(wake: int) -> None:
    """Kill until this process has no child left; orphans of the killed become its children."""
    while True:
        for pid in _descendants():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0] != 0:
                pass
        except ChildProcessError:
            return
        _pause(wake, None, _KILL_ROUND_SECONDS)


def _pause(wake: int, control: socket.socket | None, seconds: float | None) -> bool:
    """Wait for an ended child, the gateway or the time; whether the gateway has something to say."""
    watched: list[int | socket.socket] = [wake] if control is None else [wake, control]
    ready = select.select(watched, [], [], seconds)[0]
    if wake in ready:
        with contextlib.suppress(BlockingIOError):
            os.read(wake, 4096)
    return control is not None and control in ready


def _supervise(server: int, control: socket.socket, grace: float, wake: int) -> None:
    """Return once the server is gone or was killed."""
    watched: socket.socket | None = control
    deadline: float | None = None
    warned = False
    while not _reap(server):
        now = time.monotonic()  # noqa: TID251 - a script of its own, which can take no Clock
        if deadline is not None and now >= deadline:
            _signal_group(server, signal.SIGKILL if warned else signal.SIGTERM)
            if warned:
                return
            warned, deadline = True, now + grace
        if not _pause(wake, watched, None if deadline is None else deadline - now):
            continue
        said = _hear(control)
        if said == KILL_NOW:
            _signal_group(server, signal.SIGKILL)
            return
        if said != END:  # after its end of file the socket would be readable for ever
            watched = None
        if deadline is None:
            # `now` was read before the pause, which may have been long.
            deadline = time.monotonic() + grace  # noqa: TID251 - as above


def _signal_group(server: int, number: signal.Signals) -> None:
    # The server is not reaped yet, so its number is still its own.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(server, number)


def _hear(control: socket.socket) -> bytes:
    try:
        return control.recv(1)
    except OSError:  # a reset is an end too
        return b""


def _ignore(number: int, frame: FrameType | None) -> None:
    """A handler must exist for the wake-up descriptor to be written."""


def main(arguments: list[str]) -> int:
    """Start the server named by the arguments, stay until it has ended, and remove its traces."""
    descriptor, grace, home, cwd, *command = arguments
    # The duplicate has a low number (select takes no high ones) and is closed on exec.
    with socket.socket(fileno=int(descriptor)) as inherited:
        control = inherited.dup()
    # A service manager may signal every process at once; we end when the gateway does.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    wake, wake_write = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, _ignore)
    try:
        _harden()
        server = _start(cwd, command)
    except OSError as error:
        _tell(control, f"failed {errno.errorcode.get(error.errno or 0, 'unknown')}\n")
    else:
        # The server alone holds its pipes, so that their end shows its end.
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0, inheritable=False)
        os.dup2(null, 1, inheritable=False)
        os.close(null)
        _tell(control, f"started {server}\n")
        _supervise(server, control, float(grace), wake)
        _kill_all(wake)
    _remove(home)
    return 0


def _tell(control: socket.socket, line: str) -> None:
    with contextlib.suppress(OSError):  # the gateway is gone: the next read says so
        control.sendall(line.encode())


def _remove(home: str) -> None:
    import shutil  # noqa: PLC0415 - costs start-up time and is needed only here

    with contextlib.suppress(OSError, RecursionError):
        shutil.rmtree(home)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
