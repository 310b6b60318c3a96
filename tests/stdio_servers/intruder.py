"""A stdio server that tries to leave its sandbox. `tools/call` runs what `name` says; standard library only."""

import ctypes
import json
import mmap
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
PTRACE_ATTACH = 16
MNT_DETACH = 2
libc = ctypes.CDLL(None, use_errno=True)


def attempt(what: Callable[[], object]) -> str:
    """How it went: `ok`, or the name of the error."""
    try:
        what()
    except (OSError, MemoryError, ValueError) as error:
        return type(error).__name__
    return "ok"


def call(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), "")


def who() -> dict[str, Any]:
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    return {"uid": os.getresuid(), "gid": os.getresgid(), "pid": os.getpid(), "status": status, "cwd": str(Path.cwd())}


def look_around() -> dict[str, str]:
    """Everything in /proc that names a process, and what it tells of it."""
    seen = {}
    for entry in Path("/proc").glob("[0-9]*"):
        seen[entry.name] = "".join(read(entry / name) for name in ("cmdline", "environ", "maps", "cgroup"))
    return seen


def read(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError as error:
        return f"({type(error).__name__})"


def uncover(paths: list[str]) -> dict[str, str]:
    """Read files, by every way round a mount that hides them."""
    found = {path: read(Path(path)) for path in paths}
    pids = ["self", "1", *(str(number) for number in range(2, 20))]
    found |= {path + pid: read(Path(f"/proc/{pid}/root{path}")) for path in paths for pid in pids}
    tried = [attempt(lambda: call(libc.unshare(CLONE_NEWUSER | CLONE_NEWNS)))]
    for path in paths:
        for place in Path(path).parents:
            tried.append(attempt(lambda place=place: call(libc.umount2(os.fsencode(place), MNT_DETACH))))  # type: ignore[misc]  # as a default
            found[f"{path} below {place}"] = read(Path(path))
    tried.append(attempt(lambda: call(libc.mount(b"proc", b"/tmp", b"proc", 0, None))))
    tried.append(attempt(lambda: call(libc.mount(b"none", b"/", None, 32, None))))  # MS_REMOUNT
    tried.append(attempt(lambda: os.chroot("/proc/1/root")))
    return found | {"tried": " ".join(tried)}


def write(paths: list[str]) -> dict[str, str]:
    return {path: attempt(lambda path=path: Path(path).write_text("x")) for path in paths}  # type: ignore[misc]  # as a default


def connect(port: int, abstract: str, path: str) -> dict[str, str]:
    def tcp(address: str, family: int) -> None:
        with socket.socket(family, socket.SOCK_STREAM) as one:
            one.settimeout(5)
            one.connect((address, port))

    def unix(address: str) -> None:
        with socket.socket(socket.AF_UNIX) as one:
            one.connect(address)

    def datagram() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.sendto(b"x", ("192.0.2.1", 9))

    return {
        "loopback": attempt(lambda: tcp("127.0.0.1", socket.AF_INET)),
        "address": attempt(lambda: tcp("192.0.2.1", socket.AF_INET)),
        "datagram": attempt(datagram),
        "abstract": attempt(lambda: unix("\0" + abstract)),
        "path": attempt(lambda: unix(path)),
        "interfaces": " ".join(name for _, name in socket.if_nameindex()),
    }


def attack(pids: list[int]) -> dict[str, Any]:
    """Signal and trace others."""
    result: dict[str, Any] = {}
    for pid in [*pids, 1]:
        result[f"signal {pid}"] = attempt(lambda pid=pid: os.kill(pid, signal.SIGKILL))  # type: ignore[misc]  # as a default
        trace = ctypes.c_long(PTRACE_ATTACH), ctypes.c_long(pid), None, None
        result[f"trace {pid}"] = attempt(lambda trace=trace: call(libc.ptrace(*trace)))  # type: ignore[misc]  # as a default
    return result


def kill_everybody() -> None:
    if os.fork() == 0:
        os.kill(-1, signal.SIGKILL)
    signal.pause()


def daemons(count: int) -> list[int]:
    for _ in range(count):
        if os.fork() == 0:
            os.setsid()
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            if os.fork() == 0:
                time.sleep(600)
            os._exit(0)
        os.wait()
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]


def grab(size: int) -> dict[str, str]:
    return {
        "private": attempt(lambda: bytearray(size)),
        "shared": attempt(lambda: mmap.mmap(-1, size, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)),
        "raise": attempt(lambda: resource.setrlimit(resource.RLIMIT_NPROC, (9999, 9999))),
        "tmp": attempt(lambda: Path("/tmp/big").write_bytes(b"x" * (80 << 20))),
        "shm": attempt(lambda: Path("/dev/shm/big").write_bytes(b"x" * (80 << 20))),
    }


def multiply(most: int) -> int:
    children = []
    for _ in range(most):
        try:
            child = os.fork()
        except OSError:
            break
        if child == 0:
            time.sleep(600)
            os._exit(0)
        children.append(child)
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return len(children)


lingering: list[str] = []


def linger(path: str) -> None:
    """Outlive the end of stdin, and write to a file once told to end by signal."""

    def told(number: int, _: object) -> None:
        Path(path).write_text(str(number))
        os._exit(0)

    signal.signal(signal.SIGTERM, told)
    lingering.append(path)


TRICKS: dict[str, Callable[..., Any]] = {
    "who": who, "look_around": look_around, "uncover": uncover, "write": write, "connect": connect, "attack": attack,
    "daemons": daemons, "grab": grab, "multiply": multiply, "linger": linger, "kill_everybody": kill_everybody,
    "listing": lambda path: sorted(os.listdir(path)),  # noqa: PTH208 - names only
    "descriptors": lambda: sorted(os.listdir("/proc/self/fd")),  # noqa: PTH208 - as above
    "environment": lambda: dict(os.environ),
    "open_files": lambda: resource.getrlimit(resource.RLIMIT_NOFILE),
    "exit": lambda: os._exit(0),
}  # fmt: skip

for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    answer: Any = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "i", "version": "1"}}
    if message["method"] == "tools/call":
        answer = {"done": TRICKS[message["params"]["name"]](**message["params"]["arguments"])}
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": answer}) + "\n")
    sys.stdout.flush()
while lingering:
    signal.pause()
