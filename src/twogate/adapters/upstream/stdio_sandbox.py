"""The launcher of a sandboxed stdio server: builds Linux namespaces around it and stays until it has ended.

Run as a script, with the standard library only: `python -I -S stdio_sandbox.py PLAN COMMAND...`, where PLAN is what
`stdio_plan.SandboxPlan` says, as JSON. The supervisor starts it as if it were the server. Without a command it builds
the sandbox and exits: that is how Twogate finds out at its start whether the system can.

1. The launcher enters a user namespace, and with it new mount, PID, IPC and cgroup namespaces, and a network namespace
   without any interface that is up. No privilege is needed for that. If the server gets an account of its own, a helper
   that stays outside maps every user id instead of the own one, which only root can.
2. Its child is process 1 of the PID namespace. When that ends, however it ends, the kernel kills everything else in
   there; and it dies with the launcher, by its parent-death signal. It builds the mounts: everything read-only, hidden
   directories empty, `/proc`, `/dev`, `/sys` and `/tmp` of their own.
3. It then gives up the user, every capability and the making of further user namespaces, and starts the server, which
   so has no way to undo a mount, and sees no process but its own.

Nothing is skipped: a step that fails ends the launcher with a line on stderr that names it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

TMP_BYTES: Final = 64 * 1024 * 1024
"""What a server may write to /tmp; /dev/shm has as much again. Both are memory, and gone with the server."""

CANNOT: Final = 125
"""The exit code of a launcher that could not build the sandbox."""

_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWCGROUP: Final = 0x02000000
_CLONE_NEWIPC: Final = 0x08000000
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWPID: Final = 0x20000000
_CLONE_NEWNET: Final = 0x40000000

# Equal on every architecture that Linux got since, and on those that Python is built for.
_SYS_OPEN_TREE: Final = 428
_SYS_MOVE_MOUNT: Final = 429
_SYS_MOUNT_SETATTR: Final = 442

_AT_FDCWD: Final = -100
_AT_EMPTY_PATH: Final = 0x1000
_AT_RECURSIVE: Final = 0x8000
_OPEN_TREE_CLONE: Final = 1
_OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH: Final = 4
_RDONLY: Final = 1
_NOSUID: Final = 2
_NODEV: Final = 4
_NOEXEC: Final = 8
_MS_PRIVATE: Final = 1 << 18

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_CAPABILITY_VERSION: Final = 0x20080522
_MOST_CAPABILITIES: Final = 64

_DEVICES: Final = ("null", "zero", "full", "random", "urandom")
_DEVICE_LINKS: Final = {"fd": "", "stdin": "/0", "stdout": "/1", "stderr": "/2"}

_libc: Final = ctypes.CDLL(None, use_errno=True)


class _MountAttributes(ctypes.Structure):
    _fields_ = [
        ("set", ctypes.c_uint64),
        ("clear", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns", ctypes.c_uint64),
    ]


class StepError(Exception):
    """A step could not be done; says which, and why."""


def _checked(step: str, result: int) -> int:
    if result < 0:
        raise StepError(f"{step}: {os.strerror(ctypes.get_errno())}")
    return result


def _syscall(step: str, *arguments: int | bytes | ctypes.Structure) -> int:
    # Without a type, ctypes passes integers with 32 bits.
    typed = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    passed = [ctypes.byref(value) if isinstance(value, ctypes.Structure) else value for value in typed]
    return _checked(step, _libc.syscall(*passed))


# -- The launcher: namespaces and identities


def _launch(plan: dict[str, Any], command: list[str]) -> int:
    """Enter the namespaces, start process 1 in them, and return how the server ended."""
    null = os.open(os.devnull, os.O_RDWR)  # now: soon it lies among mounts that change
    mapped = _start_mapper(plan)
    flags = _CLONE_NEWNS | _CLONE_NEWPID | _CLONE_NEWIPC | _CLONE_NEWCGROUP
    if not plan["network"]:
        flags |= _CLONE_NEWNET
    _checked("a user namespace", _libc.unshare(_CLONE_NEWUSER))
    mapped()
    # Ours alone, so that the limit of processes counts those of this sandbox, and set before there are any.
    _checked("namespaces", _libc.unshare(flags))
    alive_read, alive_write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(alive_write)
        _as_child(lambda: _first(plan, command, alive_read, null))
    os.close(alive_read)
    # The other end stays open as long as this process lives.
    ended = _wait(child, null)
    os.close(alive_write)
    return ended


def _start_mapper(plan: dict[str, Any]) -> Callable[[], None]:
    """Fork a process that stays in this namespace and maps ids for the one to come; call the result to have it."""
    launcher, own, ours = os.getpid(), plan["uid"] is None, (os.geteuid(), os.getegid())
    go_read, go_write = os.pipe()
    mapper = os.fork()
    if mapper == 0:
        os.close(go_write)
        _as_child(lambda: _map(launcher, ours if own else None, go_read))
    os.close(go_read)

    def mapped() -> None:
        os.write(go_write, b".")
        os.close(go_write)
        if os.waitpid(mapper, 0)[1] != 0:
            raise StepError("the mapping of user ids")

    return mapped


def _map(launcher: int, only: tuple[int, int] | None, go: int) -> int:
    if not os.read(go, 1):
        return 1
    place = Path(f"/proc/{launcher}")
    if only is not None:
        # Without privilege a process must not be able to drop groups, which could be denied something.
        (place / "setgroups").write_text("deny")
    for index, name in enumerate(("uid_map", "gid_map")):
        if only is not None:
            lines = [f"{only[index]} {only[index]} 1"]
        else:  # every id that exists here, as itself
            known = [line.split() for line in Path(f"/proc/self/{name}").read_text().splitlines()]
            lines = [f"{inside} {inside} {count}" for inside, _, count in known]
        (place / name).write_text("\n".join(lines))
    return 0


def _as_child(work: Callable[[], int]) -> NoReturn:
    """Never return from a fork, however its work ends."""
    code = CANNOT
    try:
        code = work()
    except StepError as error:
        _complain(str(error))
    except OSError as error:
        _complain(f"{error.filename or 'system call'}: {error.strerror}")
    finally:
        os._exit(code)


def _complain(text: str) -> None:
    os.write(2, f"twogate sandbox: {text}\n".encode(errors="replace"))


def _wait(child: int, null: int, *, group: bool = False) -> int:
    """Stay until the child has ended, collect whoever else does, and hand SIGTERM on; the child's exit code."""

    def hand_on(number: int, _: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(child, number)

    signal.signal(signal.SIGTERM, hand_on)
    # The server alone holds its pipes, so that their end shows its end.
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
    while True:
        ended, status = os.wait()
        if ended == child:
            return os.waitstatus_to_exitcode(status) & 0xFF


# -- Process 1: what the server finds


def _first(plan: dict[str, Any], command: list[str], alive: int, null: int) -> int:
    _mount_everything(plan)
    # Counted for this namespace; what the server makes in one of its own would be counted anew.
    _write_sysctl("user/max_user_namespaces", "0")
    _attributes("/proc", _AT_RECURSIVE, _RDONLY)
    others = 2 if plan["uid"] is None else 1  # the launcher, if it is of the same user, and this process
    _limit(resource.RLIMIT_NPROC, plan["processes"] + others)
    _limit(resource.RLIMIT_NOFILE, plan["open_files"])
    _limit(resource.RLIMIT_AS, plan["memory"])
    _limit(resource.RLIMIT_CORE, 0)
    _give_up(plan)
    _checked("the parent-death signal", _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    if select.select([alive], [], [], 0)[0]:  # the launcher died before the line above
        return CANNOT
    if not command:
        _enter(plan["cwd"])
        return 0
    child = os.fork()
    if child == 0:
        _as_child(lambda: _become_server(plan["cwd"], command))
    return _wait(child, null, group=True)


def _limit(what: int, most: int) -> None:
    hard = resource.getrlimit(what)[1]
    value = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (value, value))


def _give_up(plan: dict[str, Any]) -> None:
    """Become the server's user, without capabilities and out of sight: nobody may look into this process."""
    for capability in range(_MOST_CAPABILITIES):
        if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break  # beyond the last one that this kernel has
    if plan["uid"] is not None:
        os.setgroups([])
        os.setresgid(plan["gid"], plan["gid"], plan["gid"])
        os.setresuid(plan["uid"], plan["uid"], plan["uid"])
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    _checked("giving up capabilities", _libc.capset(ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)())))
    _checked("no new privileges", _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _checked("hiding process 1", _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))


def _become_server(cwd: str, command: list[str]) -> int:
    os.setsid()
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        try:
            signal.signal(number, signal.SIG_DFL)
        except (OSError, ValueError):
            continue
    _enter(cwd)
    try:
        os.execvp(command[0], command)  # noqa: S606 - the configured command, no shell
    except OSError as error:
        raise StepError(f"{command[0]}: {error.strerror}") from error


def _enter(cwd: str) -> None:
    try:
        os.chdir(cwd)
    except OSError as error:
        raise StepError(f"cwd: {error.strerror}") from error


# -- Mounts


def _mount_everything(plan: dict[str, Any]) -> None:
    # Taken before anything is hidden; each is a copy of the mount, seen by nobody until it is put in its place.
    taken = [(path, kind, -1 if kind == "hide" else _take(path)) for path, kind in plan["mounts"]]
    devices = [(name, _take_file(f"/dev/{name}")) for name in _DEVICES]
    _attributes("/", _AT_RECURSIVE, _RDONLY | _NOSUID | _NODEV, private=True)
    for place in ("/proc", "/dev", "/sys", "/tmp"):  # noqa: S108 - a new one
        if not Path(place).is_dir():
            raise StepError(f"{place} is not a directory")
    _new("proc", "/proc", _NOSUID | _NODEV | _NOEXEC, "hidepid=4")
    _make_devices(devices)
    filled = ["/sys"]
    _new("tmpfs", "/sys", _NOSUID | _NODEV | _NOEXEC, "mode=0555,size=4k")
    _new("tmpfs", "/tmp", _NOSUID | _NODEV, f"mode=1777,size={TMP_BYTES},nr_inodes=16384")  # noqa: S108 - as above
    # Upper directories come before what lies in them, so the longest path decides.
    for path, kind, tree in taken:
        if kind == "hide":
            Path(path).mkdir(parents=True, exist_ok=True)
            _new("tmpfs", path, _NOSUID | _NODEV | _NOEXEC, "mode=0755,size=64k")
            filled.append(path)
            continue
        _set(tree, b"", _AT_EMPTY_PATH | _AT_RECURSIVE, _NOSUID | _NODEV | (_RDONLY if kind == "read" else 0))
        Path(path).mkdir(parents=True, exist_ok=True)
        _put(tree, path)
    for path in filled:
        _attributes(path, 0, _RDONLY)


def _make_devices(devices: list[tuple[str, int]]) -> None:
    _new("tmpfs", "/dev", _NOSUID | _NOEXEC, "mode=0755,size=64k")
    for name, tree in devices:
        os.mknod(f"/dev/{name}")  # an empty file to mount on
        _put(tree, f"/dev/{name}")
    for name, descriptor in _DEVICE_LINKS.items():
        Path(f"/dev/{name}").symlink_to(f"/proc/self/fd{descriptor}")
    Path("/dev/shm").mkdir()  # noqa: S108 - a new one
    _attributes("/dev", 0, _RDONLY | _NODEV)
    _new("tmpfs", "/dev/shm", _NOSUID | _NODEV, f"mode=1777,size={TMP_BYTES},nr_inodes=16384")  # noqa: S108 - as above


def _take(path: str) -> int:
    """A copy of the mounts from a directory on, which must be reached without a symbolic link.

    A server could otherwise put a link where it may write, and have what that names shown at its next start.
    """
    here = os.open("/", os.O_PATH | os.O_DIRECTORY)
    for part in Path(path).parts[1:]:
        try:
            below = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
        except OSError as error:
            raise StepError(f"{path}: {error.strerror}") from error
        os.close(here)
        here = below
    tree = _syscall(
        f"{path}: a copy of the mount",
        *(_SYS_OPEN_TREE, here, b""),
        _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_RECURSIVE | _AT_EMPTY_PATH,
    )
    os.close(here)
    return tree


def _take_file(path: str) -> int:
    return _syscall(path, _SYS_OPEN_TREE, _AT_FDCWD, path.encode(), _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC)


def _put(tree: int, path: str) -> None:
    _syscall(f"{path}: mount", _SYS_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(path), _MOVE_MOUNT_F_EMPTY_PATH)
    os.close(tree)


def _new(kind: str, path: str, flags: int, options: str) -> None:
    encoded = kind.encode()
    _checked(
        f"{path}: mount {kind}",
        _libc.mount(encoded, os.fsencode(path), encoded, ctypes.c_ulong(flags), options.encode()),
    )


def _attributes(path: str, how: int, attributes: int, *, private: bool = False) -> None:
    _set(_AT_FDCWD, os.fsencode(path), how, attributes, private=private)


def _set(place: int, path: bytes, how: int, attributes: int, *, private: bool = False) -> None:
    wanted = _MountAttributes(attributes, 0, _MS_PRIVATE if private else 0, 0)
    step = f"{os.fsdecode(path)}: mount attributes"
    _syscall(step, _SYS_MOUNT_SETATTR, place, path, how, wanted, ctypes.sizeof(wanted))


def _write_sysctl(name: str, value: str) -> None:
    Path(f"/proc/sys/{name}").write_text(value)


def main(arguments: list[str]) -> int:
    """Run the command in the sandbox of the plan; its exit code, or `CANNOT`."""
    plan, command = json.loads(arguments[0]), arguments[1:]
    try:
        return _launch(plan, command)
    except StepError as error:
        _complain(str(error))
    except OSError as error:
        _complain(f"{error.filename or 'system call'}: {error.strerror}")
    return CANNOT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
