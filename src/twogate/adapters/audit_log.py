"""The writer of the audit trail: group commit into hash-chained segments (DESIGN decision 19).

Events appended within one turn of the event loop become one write. Returning from `append` means that the kernel has
the event, so it survives a kill of this process; with `fsync`, the disk has it. After a failed write nothing more goes
into that segment: what waits is refused, and a later append begins a new segment that attests the old one's end.
Events of a failed write may still stand in the trail, although what they announce was refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import msgspec

from twogate.adapters.audit_files import NAME_ENDING, open_tips, tip_of
from twogate.core.audit.chain import Cause, Chain, Tip
from twogate.core.audit.detector import MAX_FIELD, Scrubber, encodable
from twogate.core.audit.record import OBSERVE, AuditEvent, EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.environment import Clock, Rng

MAX_SEGMENT: Final = 256 * 1024 * 1024
"""Bytes of a segment after which the next one is begun."""
MAX_PENDING: Final = 65_536
"""Events that may wait for the disk; more are refused."""
RETRY_AFTER: Final = 1.0
"""Seconds between attempts to begin a new segment after a failure."""


class _Segment:
    """An open segment: written by this process only, its lock held until closed."""

    __slots__ = ("chain", "fd", "size")

    def __init__(self, fd: int, chain: Chain) -> None:
        self.fd = fd
        self.chain = chain
        self.size = 0

    @property
    def tip(self) -> Tip:
        """Its last line."""
        return Tip(self.chain.segment, self.chain.seq, self.chain.tip)

    def write(self, data: bytes) -> None:
        """Write all of it.

        Raises:
            OSError: some of it may have been written.
        """
        view = memoryview(data)
        while view:
            written = os.write(self.fd, view)
            self.size += written
            view = view[written:]


class AuditLog:
    """Appends events to segments of one directory; implements `flows.audit.AuditSink`.

    Construction begins the first segment, so that a directory that cannot be written stops the start. Use it from one
    event loop.
    """

    def __init__(
        self,
        directory: Path,
        clock: Clock,
        rng: Rng,
        *,
        instance: str,
        fsync: bool = False,
        max_segment: int = MAX_SEGMENT,
        observe_until: int | None = None,
    ) -> None:
        """Open the directory, made if it is missing, and begin a segment.

        Events from before `observe_until` (Unix seconds) are marked as written while gate two was only observed; the
        attribute may be set again.

        Raises:
            GateError: AUDIT_UNAVAILABLE.
        """
        self._path = directory
        self._clock = clock
        self._rng = rng
        self._instance = instance[:MAX_FIELD]
        self._max_segment = max_segment
        self.observe_until = observe_until
        self._json = msgspec.json.Encoder().encode
        self._scrubber = Scrubber()
        self._executor = ThreadPoolExecutor(1, "audit-sync") if fsync else None
        self._events: list[bytes] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._scheduled = False
        self._syncing = False
        self._closing = False
        self._idle: asyncio.Future[None] | None = None
        self._retry_at = 0.0
        self._acknowledged: Tip | None = None
        try:
            self._directory = _open_directory(directory)
            try:
                self._segment: _Segment | None = self._begin(Cause.START, open_tips(directory))
            except BaseException:
                os.close(self._directory)
                raise
        except OSError as error:
            raise _unavailable(f"cannot begin a segment in {directory}: {_reason(error)}") from error

    async def append(self, event: AuditEvent) -> None:
        """Write one event; return when it survives a kill of this process. Cancelling does not take it back.

        Raises:
            GateError: AUDIT_UNAVAILABLE.
        """
        await self.submit(event)

    def submit(self, event: AuditEvent) -> asyncio.Future[None]:
        """Hand in one event without waiting; the future is `append`'s end.

        Raises:
            GateError: AUDIT_UNAVAILABLE (known already; else the future raises it).
        """
        if self._closing:
            raise _unavailable("the audit log is closed")
        if self._segment is None and self._clock.monotonic() < self._retry_at:
            raise _unavailable("the last write failed")
        if len(self._events) >= MAX_PENDING:
            raise _unavailable(f"{MAX_PENDING} events wait for the disk")
        encoded = self._encoded(event)
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        # One future each, not a shared one: cancelling a caller cancels the future it waits for.
        waiter = loop.create_future()
        self._events.append(encoded)
        self._waiters.append(waiter)
        if not self._scheduled and not self._syncing:
            self._scheduled = True
            loop.call_soon(self._flush)
        return waiter

    def check(self) -> None:
        """Whether events can be written, as far as the last attempt tells.

        Raises:
            GateError: AUDIT_UNAVAILABLE.
        """
        if self._closing or self._segment is None:
            raise _unavailable("the last write failed")

    async def close(self) -> None:
        """Write what waits and `process.stopped`; give up the segment. A second call does nothing."""
        if self._closing:
            return
        self._closing = True
        while self._scheduled or self._syncing:
            self._idle = asyncio.get_running_loop().create_future()
            await self._idle
        segment, self._segment = self._segment, None
        if segment is not None:
            event = AuditEvent(kind=EventKind.PROCESS_STOPPED, at=self._clock.now_us())
            # The process ends either way; a trail without this line says that it ended otherwise.
            with contextlib.suppress(OSError):
                segment.write(segment.chain.seal(self._encode(event)))
                if self._executor is not None:
                    await asyncio.get_running_loop().run_in_executor(self._executor, os.fsync, segment.fd)
            os.close(segment.fd)
        os.close(self._directory)
        if self._executor is not None:
            self._executor.shutdown(wait=False)

    def _encoded(self, event: AuditEvent) -> bytes:
        event = self._scrubber.scrub(event)
        try:
            encoded = self._encode(event)
        except UnicodeEncodeError:
            return self._encode(encodable(event))
        return encoded if len(encoded) <= MAX_FIELD else self._encode(encodable(event))

    def _encode(self, event: AuditEvent) -> bytes:
        if self.observe_until is not None and event.at < self.observe_until * 1_000_000:
            event = msgspec.structs.replace(event, enforcement=OBSERVE)
        return self._json(event)

    def _flush(self) -> None:
        self._scheduled = False
        events, self._events = self._events, []
        waiters, self._waiters = self._waiters, []
        try:
            segment = self._ready_segment()
            seal = segment.chain.seal
            segment.write(b"".join([seal(event) for event in events]))
        except OSError as error:
            self._break(waiters, error)
            return
        if self._executor is None:
            self._release(segment, waiters)
            return
        self._syncing = True
        future = asyncio.get_running_loop().run_in_executor(self._executor, os.fdatasync, segment.fd)
        future.add_done_callback(lambda done: self._synced(done, segment, waiters))

    def _synced(self, done: asyncio.Future[None], segment: _Segment, waiters: Sequence[asyncio.Future[None]]) -> None:
        self._syncing = False
        error = asyncio.CancelledError() if done.cancelled() else done.exception()
        if error is None:
            self._release(segment, waiters)
        else:
            # What of it reached the disk is unknown, and a second sync would not tell: the segment is given up.
            self._break(waiters, error)
        if self._events:
            self._flush()

    def _release(self, segment: _Segment, waiters: Sequence[asyncio.Future[None]]) -> None:
        self._acknowledged = segment.tip
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._wake_close()

    def _break(self, waiters: Sequence[asyncio.Future[None]], error: BaseException) -> None:
        segment, self._segment = self._segment, None
        if segment is not None:
            os.close(segment.fd)
        self._retry_at = self._clock.monotonic() + RETRY_AFTER
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(_unavailable(f"cannot write to {self._path}: {_reason(error)}"))
        self._wake_close()

    def _wake_close(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _ready_segment(self) -> _Segment:
        segment = self._segment
        if segment is None:
            if self._clock.monotonic() < self._retry_at:
                raise OSError(errno.EIO, "the last write failed")
            self._segment = self._begin(Cause.RECOVERY, self._broken_tips())
        elif segment.size >= self._max_segment:
            follows = (msgspec.structs.replace(segment.tip, ended=True),)
            self._segment = self._begin(Cause.ROTATION, follows)
            os.close(segment.fd)
        else:
            return segment
        return self._segment

    def _broken_tips(self) -> tuple[Tip, ...]:
        # Two views of the segment that broke: what was acknowledged, and what it holds now (perhaps complete lines of
        # the failed write beyond that).
        acknowledged = self._acknowledged
        if acknowledged is None:
            return ()
        found = tip_of(self._path, acknowledged.segment)
        return (acknowledged,) if found is None else (acknowledged, found)

    def _begin(self, cause: Cause, follows: tuple[Tip, ...]) -> _Segment:
        now = self._clock.now_us()
        utc = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now // 1_000_000))
        name = f"{utc}.{now % 1_000_000:06d}Z-{os.getpid()}-{self._rng.token(8).hex()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(name + NAME_ENDING, flags, 0o600, dir_fd=self._directory)
        try:
            # Held while open: tells readers that the segment is live. Before the first line, as they probe after it.
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            chain = Chain(name)
            segment = _Segment(fd, chain)
            event = self._encode(AuditEvent(kind=EventKind.PROCESS_STARTED, at=now))
            segment.write(chain.seal_first(event, self._instance, os.getpid(), cause, follows))
            if self._executor is not None:
                os.fsync(fd)
                os.fsync(self._directory)
        except BaseException:
            os.close(fd)
            # Nothing in it was acknowledged; a full disk must not collect one such file a second.
            with contextlib.suppress(OSError):
                os.unlink(name + NAME_ENDING, dir_fd=self._directory)
            raise
        self._acknowledged = segment.tip
        return segment


def _open_directory(path: Path) -> int:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    if os.fstat(fd).st_mode & stat.S_IWOTH:
        os.close(fd)
        raise PermissionError(errno.EPERM, "everybody may write to the directory: make it mode 0700")
    return fd


def _reason(error: BaseException) -> str:
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else type(error).__name__


def _unavailable(debug: str) -> GateError:
    return GateError(ErrorCode.AUDIT_UNAVAILABLE, debug)
