"""One stdio server as a child process: starting it cleanly, its lines, and ending it with everything it started."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from twogate.adapters.upstream import stdio_supervisor
from twogate.adapters.upstream.duplex_channel import DuplexLimits
from twogate.adapters.upstream.stdio_stderr import StderrLines
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.environment import Clock

PATH: Final = "/usr/local/bin:/usr/bin:/bin"
"""Where a server's command is looked for, after the directory of this Python interpreter."""

# Valid inside JSON strings, but line ends for servers that split lines as Unicode does.
_LINE_SEPARATORS: Final = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))
_CHUNK_BYTES: Final = 64 * 1024
_WRITE_BUFFER_BYTES: Final = 64 * 1024
_KILL_SECONDS: Final = 5.0
_READ_OUT_SECONDS: Final = 1.0
_REAP_SECONDS: Final = 0.005
_REAP_ROUNDS: Final = 100


class StdioLimits(DuplexLimits, frozen=True, kw_only=True):
    """Bounds for the processes of one stdio server. Times are in seconds.

    `grace` is waited after closing stdin and again after SIGTERM.
    """

    stderr_line_bytes: int = 4096
    stderr_lines_per_second: int = 50
    start: float = 10.0
    grace: float = 2.0


class StdioCredential(msgspec.Struct, frozen=True):
    """A secret for one process: in the environment variable, or else in a file that the variable names."""

    variable: str
    value: str
    as_file: bool

    def __repr__(self) -> str:
        """Never the value."""
        return f"StdioCredential({self.variable!r})"


class StdioCommand(msgspec.Struct, frozen=True):
    """How to start a server. `environment` is added to a minimal one; nothing of Twogate's own is inherited.

    `home` is what it is told to be its own directory; None: one that is made for it.
    """

    name: str
    command: tuple[str, ...]
    cwd: Path | None
    environment: Mapping[str, str]
    home: Path | None = None
    credential: StdioCredential | None = None


def as_line(message: bytes) -> bytes:
    """A message of JSON as one line, however the reader splits lines."""
    for raw, escaped in _LINE_SEPARATORS:
        message = message.replace(raw, escaped)
    return message + b"\n"


def clean_environment(configured: Mapping[str, str], home: Path) -> dict[str, str]:
    """The complete environment of a server: four variables and what the configuration names."""
    return {
        "PATH": f"{Path(sys.executable).parent}:{PATH}",
        "LANG": "C.UTF-8",
        "HOME": str(home),
        "TMPDIR": str(home),
        **configured,
    }


class _Pipes(msgspec.Struct):
    """The supervisor and its pipes, on the event loop. `transports` are all of them, for closing."""

    popen: subprocess.Popen[bytes]
    control: tuple[asyncio.StreamReader, asyncio.StreamWriter]
    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader
    stderr: asyncio.StreamReader
    transports: tuple[asyncio.BaseTransport, ...]


class StdioProcess:
    """A running server behind its supervisor (see `stdio_supervisor`); implements `duplex_channel.Channel`."""

    def __init__(self, pipes: _Pipes, home: Path, limits: StdioLimits, stderr: StderrLines) -> None:
        self.pid = 0
        self._pipes = pipes
        self._home = home
        self._limits = limits
        self._ending: asyncio.Task[None] | None = None
        self._write_lock = asyncio.Lock()
        self._stdout_ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._report: asyncio.Future[str] = loop.create_future()
        self._watch_task = loop.create_task(self._watch())
        self._stderr_task = loop.create_task(stderr.read(pipes.stderr))

    @classmethod
    async def start(
        cls, what: StdioCommand, limits: StdioLimits, clock: Clock, log: Callable[[str, str], None]
    ) -> StdioProcess:
        """Start the server in a process group, directory and environment of its own.

        Raises:
            GateError: UPSTREAM_UNAVAILABLE if the command cannot be started.
        """
        try:
            popen, control, home = _spawn(what, limits)
            pipes = await _attach(popen, control)
        except (OSError, ValueError) as error:
            raise GateError(ErrorCode.UPSTREAM_UNAVAILABLE, f"cannot start {what.command[0]!r}: {error}") from error
        process = cls(pipes, home, limits, StderrLines(what.name, limits, clock, log))
        try:
            async with asyncio.timeout(limits.start):
                status = await asyncio.shield(process._report)
        except TimeoutError:
            status = "failed no report in time"
        except asyncio.CancelledError:
            await process.end(now=True)
            raise
        word, _, detail = status.partition(" ")
        if word != "started":
            await process.end(now=True)
            raise GateError(
                ErrorCode.UPSTREAM_UNAVAILABLE, f"cannot start {what.command[0]!r}: {detail or 'no report'}"
            )
        process.pid = int(detail)
        return process

    async def _watch(self) -> None:
        """Hear the supervisor's report, and its end: then everything else must end too."""
        reader = self._pipes.control[0]
        report = b""
        with contextlib.suppress(OSError):
            report = await reader.readline()
        self._report.set_result(report.decode("ascii", "replace").rstrip("\n"))
        with contextlib.suppress(OSError):
            await reader.read()
        if self._ending is None:
            self._ending = asyncio.get_running_loop().create_task(self._end(now=True, read_out=True))

    async def messages(self) -> AsyncIterator[bytes]:
        """The server's lines without their ends, until it closes stdout. A last line without an end is dropped.

        Raises:
            GateError: UPSTREAM_INVALID for a line beyond the limit.
        """
        held = bytearray()
        while chunk := await self._pipes.stdout.read(_CHUNK_BYTES):
            *complete, rest = chunk.split(b"\n")
            for part in complete:
                self._check_size(len(held) + len(part))
                yield bytes(held) + part if held else part
                held.clear()
            self._check_size(len(held) + len(rest))
            held += rest
            # A read that finds data does not suspend: give way, so that a flood cannot hold the event loop.
            await asyncio.sleep(0)
        self._stdout_ended.set()

    def _check_size(self, size: int) -> None:
        if size > self._limits.message_bytes:
            raise GateError(ErrorCode.UPSTREAM_INVALID, f"a line of more than {self._limits.message_bytes} bytes")

    async def write(self, message: bytes) -> None:
        """Write one line once the server has read what was written before, and wait until it reads this one.

        Raises:
            GateError: UPSTREAM_BROKEN.
        """
        async with self._write_lock:
            try:
                # Before as well: who gave up waiting left a line behind, and a server that is busy must not make lines
                # pile up in memory. Who gives up here has sent nothing.
                await self._pipes.stdin.drain()
                if self._pipes.stdin.is_closing():
                    raise GateError(ErrorCode.UPSTREAM_BROKEN, "the server's stdin is closed")
                self._pipes.stdin.write(as_line(message))
                await self._pipes.stdin.drain()
            except OSError as error:
                raise GateError(ErrorCode.UPSTREAM_BROKEN, "the server closed its stdin") from error

    def offer(self, message: bytes) -> None:
        """Write one line that may be lost: it is, while the server is behind with reading."""
        stdin = self._pipes.stdin
        if not stdin.is_closing() and stdin.transport.get_write_buffer_size() < _WRITE_BUFFER_BYTES:
            stdin.write(as_line(message))

    def end_soon(self, *, now: bool) -> None:
        """Begin to end the server and everything it started: at once, or with the grace of `StdioLimits`."""
        self._begin_end(now=now)

    async def end(self, *, now: bool) -> None:
        """End the server and everything it started, and return when all is gone."""
        await asyncio.shield(self._begin_end(now=now))

    def _begin_end(self, *, now: bool) -> asyncio.Task[None]:
        if self._ending is None:
            self._ending = asyncio.get_running_loop().create_task(self._end(now=now))
        elif now and not self._ending.done():
            self._tell(stdio_supervisor.KILL_NOW)
        return self._ending

    def _tell(self, word: bytes) -> None:
        writer = self._pipes.control[1]
        if not writer.is_closing():
            writer.write(word)

    async def _end(self, *, now: bool, read_out: bool = False) -> None:
        stdin = self._pipes.stdin.transport
        if stdin.get_write_buffer_size():
            stdin.abort()  # what the server does not read would keep the pipe open
        else:
            stdin.close()
        self._tell(stdio_supervisor.KILL_NOW if now else stdio_supervisor.END)
        patience = _KILL_SECONDS if now else _KILL_SECONDS + 2 * self._limits.grace
        await asyncio.wait((self._watch_task,), timeout=patience)
        await self._reap()
        if read_out:  # the server's last words may still be in the pipe; only a process that escaped keeps it open
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_READ_OUT_SECONDS):
                    await self._stdout_ended.wait()
        for transport in self._pipes.transports:
            transport.close()
        await asyncio.wait((self._stderr_task, self._watch_task))
        await asyncio.sleep(0)  # transports close their pipes in the loop's next round
        if self._home.exists():  # only if the supervisor was killed or failed
            await asyncio.to_thread(shutil.rmtree, self._home, ignore_errors=True)

    async def _reap(self) -> None:
        """Collect the supervisor, which has just ended; if it has not, it is killed, and the server with it."""
        rounds = 0
        while (code := self._pipes.popen.poll()) is None:
            if rounds == _REAP_ROUNDS:
                self._pipes.popen.kill()
            rounds += 1
            await asyncio.sleep(_REAP_SECONDS)
        if code < 0 and self.pid:
            # The supervisor was killed. The number can have passed to a stranger only if no process of ours is left.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)


async def _attach(popen: subprocess.Popen[bytes], control: socket.socket) -> _Pipes:
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_unix_connection(sock=control)
    stdin, protocol = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), popen.stdin
    )
    stdin.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
    stdout, stderr = asyncio.StreamReader(limit=_CHUNK_BYTES), asyncio.StreamReader(limit=_CHUNK_BYTES)
    out, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdout), popen.stdout)
    err, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stderr), popen.stderr)
    return _Pipes(
        popen,
        (reader, writer),
        asyncio.StreamWriter(stdin, protocol, None, loop),
        stdout,
        stderr,
        (writer.transport, stdin, out, err),
    )


def _spawn(what: StdioCommand, limits: StdioLimits) -> tuple[subprocess.Popen[bytes], socket.socket, Path]:
    home = Path(tempfile.mkdtemp(prefix="twogate-stdio-"))
    ours, theirs = socket.socketpair()
    environment = clean_environment(what.environment, what.home or home)
    passed: tuple[int, ...] = (theirs.fileno(),)
    try:
        if what.credential is not None:
            shown = what.credential.value
            if what.credential.as_file:
                passed = (*passed, sealed_file(shown))
                shown = f"/proc/self/fd/{passed[-1]}"
            environment[what.credential.variable] = shown
        popen = subprocess.Popen(  # noqa: S603 - the configured command, no shell
            [
                *(sys.executable, "-I", "-S", "-B", stdio_supervisor.__file__),
                *(str(theirs.fileno()), str(limits.grace), str(home), str(what.cwd or home)),
                *what.command,
            ],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=passed,
            start_new_session=True,
            cwd="/",
            env=environment,
        )
    except BaseException:
        ours.close()
        shutil.rmtree(home, ignore_errors=True)
        raise
    finally:
        for descriptor in passed[1:]:
            os.close(descriptor)
        theirs.close()
    ours.setblocking(False)
    return popen, ours, home


def sealed_file(content: str) -> int:
    """A descriptor of a file in memory that has no name, and that nobody can change any more.

    Whoever inherits the descriptor can open the file by it, also as another user; nobody else can find it.

    Raises:
        OSError: it cannot be made.
    """
    if sys.platform != "linux":
        raise OSError(errno.ENOTSUP, "files in memory need Linux")
    descriptor = os.memfd_create("twogate", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.write(descriptor, content.encode("ascii"))
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.fchmod(descriptor, 0o444)
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
