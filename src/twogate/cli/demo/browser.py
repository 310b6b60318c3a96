"""A headless Chromium for the demo's approver: how it is found, started and ended.

It is spoken to through a pipe (`--remote-debugging-pipe`) and not through a port: whoever reaches the port drives the
browser.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import shutil
import signal
import sys
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from twogate.cli.demo.devtools import MAX_MESSAGE, BrowserError, Devtools, Page

NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
"""What Chromium is called, in the order in which it is looked for."""

_CLOSING: Final = 5.0
_TOLD: Final = 500
_NO_SANDBOX: Final = "--no-sandbox"
_FLAGS: Final = (
    "--headless",
    "--remote-debugging-pipe",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-breakpad",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-proxy-server",
    # It opens the demo's own pages and finds nothing else.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost",
)

# Puts two ends of pipes where Chromium looks for them, and becomes Chromium.
_AT_3_AND_4: Final = """
import fcntl, os, sys
ends = [int(number) for number in sys.argv[1:3]]
moved = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
for end in ends:
    os.close(end)
os.dup2(moved[0], 3)
os.dup2(moved[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find_chromium(named: str | None) -> str | None:
    """The program: the named one (empty: none), else the first of `NAMES` on the search path."""
    if named is not None:
        return named or None
    return next((path for name in NAMES if (path := shutil.which(name)) is not None), None)


@contextlib.asynccontextmanager
async def open_page(program: str, certificate: Path, directory: Path) -> AsyncGenerator[Page]:
    """A page of a new browser, with a profile of its own below `directory`; the browser ends with the block.

    It trusts the first certificate of a file, whoever signed that, besides what every browser trusts.

    Raises:
        BrowserError: it does not start; says what it printed.
    """
    async with contextlib.AsyncExitStack() as stack:
        # As root it has no sandbox, and elsewhere the system may not let it have one.
        root = os.geteuid() == 0
        for flags in ([_NO_SANDBOX],) if root else ([], [_NO_SANDBOX]):
            starting = _started(program, [*flags, _trusting(certificate)], directory)
            try:
                page = await stack.enter_async_context(starting)
            except BrowserError:
                if _NO_SANDBOX in flags:
                    raise
            else:
                yield page
                return


@contextlib.asynccontextmanager
async def _started(program: str, flags: Sequence[str], directory: Path) -> AsyncGenerator[Page]:
    profile, log = directory / "browser", directory / "browser.log"
    ours, theirs = _pipes()
    with contextlib.ExitStack() as stack:
        for end in (*ours, *theirs):
            stack.enter_context(end)
        numbers = [str(end.fileno()) for end in theirs]
        with log.open("wb") as printed:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-c", _AT_3_AND_4, *numbers),
                *(program, *_FLAGS, *flags, f"--user-data-dir={profile}", "about:blank"),
                stdin=asyncio.subprocess.DEVNULL, stdout=printed, stderr=printed,
                # A group of its own, which Ctrl-C does not reach, so that it ends when its page has.
                pass_fds=[end.fileno() for end in theirs], start_new_session=True,
            )  # fmt: skip
        for end in theirs:
            end.close()
        try:
            async with _spoken_to(*ours) as devtools:
                try:
                    page = await Page.open(devtools)
                except BrowserError as error:
                    raise BrowserError(f"{program} did not start ({error}): {_last_of(log)}") from None
                try:
                    yield page
                finally:
                    with contextlib.suppress(BrowserError):
                        await devtools.command("Browser.close")
        finally:
            await _end(process)
            await asyncio.to_thread(shutil.rmtree, profile, ignore_errors=True)


def _pipes() -> tuple[tuple[BinaryIO, BinaryIO], tuple[BinaryIO, BinaryIO]]:
    """Two pipes: (what we read, what we write), (what the browser reads, what it writes)."""
    they_read, we_write = os.pipe()
    we_read, they_write = os.pipe()
    return (
        (os.fdopen(we_read, "rb", 0), os.fdopen(we_write, "wb", 0)),
        (os.fdopen(they_read, "rb", 0), os.fdopen(they_write, "wb", 0)),
    )


@contextlib.asynccontextmanager
async def _spoken_to(answers: BinaryIO, commands: BinaryIO) -> AsyncGenerator[Devtools]:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=MAX_MESSAGE)
    protocol = asyncio.StreamReaderProtocol(reader)
    reading, _ = await loop.connect_read_pipe(lambda: protocol, answers)
    writing, flow = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), commands
    )
    devtools = Devtools(reader, asyncio.StreamWriter(writing, flow, None, loop))
    listening = asyncio.create_task(devtools.listen())
    try:
        yield devtools
    finally:
        listening.cancel()
        writing.close()
        reading.close()


async def _end(process: asyncio.subprocess.Process) -> None:
    """Give it a moment to end, then kill it with all that it started."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), _CLOSING)
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _trusting(certificate: Path) -> str:
    """The flag by which Chromium takes one certificate for good: others are refused as ever."""
    public = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
    digest = hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    return f"--ignore-certificate-errors-spki-list={base64.b64encode(digest).decode()}"


def _last_of(log: Path) -> str:
    return " ".join(log.read_text(errors="replace").split())[-_TOLD:] or "it printed nothing"
