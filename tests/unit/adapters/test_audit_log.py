"""The writer of the audit trail, its files, the tail of it and the coalesced refusals, on real files."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from twogate.adapters.audit_files import find_segments, verify_directory
from twogate.adapters.audit_log import MAX_PENDING, AuditLog
from twogate.adapters.audit_tail import Entry, Filter, printable, tail
from twogate.adapters.refusal_log import RefusalLog
from twogate.adapters.rng import SystemRng
from twogate.core.audit.chain import Cause, FindingKind, parse_line
from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.errors import ErrorCode, GateError

CANARY = "eyJ" + "hbGciOiJFUzI1NiJ9.eyJjYW5hcnkiOjF9.Y2FuYXJ5LXNpZ25hdHVyZQ"


class FakeClock:
    """A clock that moves when told, and one microsecond a reading so that names sort in order of opening."""

    def __init__(self) -> None:
        self.at_us = 1_750_000_000_000_000

    def now(self) -> int:
        return self.at_us // 1_000_000

    def now_us(self) -> int:
        self.at_us += 1
        return self.at_us

    def monotonic(self) -> float:
        return self.at_us / 1e6

    def pass_(self, seconds: float) -> None:
        self.at_us += int(seconds * 1e6)


class FixedRng:
    def token(self, size: int) -> bytes:
        return b"\1" * size


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "audit"


def begin(directory: Path, clock: FakeClock, *, fsync: bool = False, max_segment: int = 1 << 28) -> AuditLog:
    return AuditLog(directory, clock, SystemRng(), instance="test", fsync=fsync, max_segment=max_segment)


def event(number: int, **fields: object) -> AuditEvent:
    return AuditEvent(kind=EventKind.CALL_INTENT, at=number, request=f"r{number}", **fields)  # type: ignore[arg-type]  # members by name


def lines_of(directory: Path) -> list[bytes]:
    return [
        line for name in find_segments(directory) for line in (directory / f"{name}.jsonl").read_bytes().splitlines()
    ]


def requests_of(directory: Path) -> list[str]:
    return [parsed.request for parsed in map(parse_line, lines_of(directory)) if parsed.kind is EventKind.CALL_INTENT]


def requests_of_complete(directory: Path) -> list[str]:
    """The same where a segment may end in a torn line."""
    return [entry.event.request for entry in tail(directory, 1_000_000) if entry.event is not None]


def only_file(directory: Path) -> Path:
    (file,) = directory.iterdir()
    return file


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def no_room_beyond(size: int) -> Iterator[None]:
    """A real write error in the middle of a write: this process may not make files longer than that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def size_of_newest(directory: Path) -> int:
    return (directory / f"{find_segments(directory)[-1]}.jsonl").stat().st_size


@pytest.mark.parametrize("fsync", [False, True])
async def test_appended_events_are_in_the_file_when_append_returns(
    directory: Path, clock: FakeClock, *, fsync: bool
) -> None:
    log = begin(directory, clock, fsync=fsync)
    await asyncio.gather(*(log.append(event(number)) for number in range(100)))
    assert requests_of(directory) == [f"r{number}" for number in range(100)]
    await log.close()
    report = verify_directory(directory)
    assert (report.ok, report.segments, report.events, report.notes) == (True, 1, 102, ())


async def test_events_of_one_turn_of_the_loop_are_one_write(
    directory: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = begin(directory, clock)
    sizes: list[int] = []
    write = os.write

    def counting(fd: int, data: bytes) -> int:
        sizes.append(len(data))
        return write(fd, data)

    monkeypatch.setattr(os, "write", counting)
    await asyncio.gather(*(log.append(event(number)) for number in range(50)))
    assert len(sizes) == 1
    await log.close()


async def test_events_that_queue_during_a_sync_share_the_next_one(
    directory: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = begin(directory, clock, fsync=True)
    syncs: list[int] = []
    fdatasync = os.fdatasync

    def counting(fd: int) -> None:
        syncs.append(fd)
        fdatasync(fd)

    monkeypatch.setattr(os, "fdatasync", counting)

    async def worker(first: int) -> None:
        for number in range(first, first + 10):
            await log.append(event(number))

    await asyncio.gather(*(worker(first * 10) for first in range(20)))
    assert len(syncs) < 100
    assert len(requests_of(directory)) == 200
    await log.close()


async def test_files_are_private_and_named_by_time_process_and_chance(directory: Path, clock: FakeClock) -> None:
    log = begin(directory, clock)
    file = only_file(directory)
    assert re.fullmatch(rf"20250615T150640\.000001Z-{os.getpid()}-[0-9a-f]{{16}}\.jsonl", file.name)
    assert mode_of(file) == 0o600
    assert mode_of(directory) == 0o700
    await log.close()


async def test_cancelling_one_caller_disturbs_no_other_and_takes_nothing_back(
    directory: Path, clock: FakeClock
) -> None:
    log = begin(directory, clock)
    tasks = [asyncio.create_task(log.append(event(number))) for number in range(3)]
    asyncio.get_running_loop().call_soon(tasks[1].cancel)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [type(None), asyncio.CancelledError, type(None)]
    assert requests_of(directory) == ["r0", "r1", "r2"]
    await log.close()


async def test_close_writes_what_waits_and_then_refuses(directory: Path, clock: FakeClock) -> None:
    log = begin(directory, clock, fsync=True)
    waiting = log.submit(event(1))
    await log.close()
    await waiting
    await log.close()
    with pytest.raises(GateError) as refusal:
        await log.append(event(2))
    assert refusal.value.code is ErrorCode.AUDIT_UNAVAILABLE
    assert [parse_line(line).kind for line in lines_of(directory)][-1] is EventKind.PROCESS_STOPPED


async def test_rotation_links_the_segments(directory: Path, clock: FakeClock) -> None:
    log = begin(directory, clock, max_segment=2000)
    for number in range(60):
        await log.append(event(number))
    await log.close()
    report = verify_directory(directory)
    assert report.ok
    assert report.notes == ()
    assert report.segments > 3
    heads = [line.segment for line in map(parse_line, lines_of(directory)) if line.segment is not None]
    assert {head.cause for head in heads[1:]} == {Cause.ROTATION}
    assert [head.follows[0].segment for head in heads[1:]] == [head.id for head in heads[:-1]]
    assert requests_of(directory) == [f"r{number}" for number in range(60)]


async def test_too_many_waiting_events_are_refused(directory: Path, clock: FakeClock) -> None:
    log = begin(directory, clock)
    waiting = [log.submit(event(number)) for number in range(MAX_PENDING)]
    with pytest.raises(GateError) as refusal:
        log.submit(event(0))
    assert refusal.value.code is ErrorCode.AUDIT_UNAVAILABLE
    await asyncio.gather(*waiting)
    await log.close()


async def test_a_full_disk_refuses_everything_until_a_new_segment_can_be_begun(
    directory: Path, clock: FakeClock
) -> None:
    log = begin(directory, clock)
    await log.append(event(1))
    with no_room_beyond(size_of_newest(directory) + 700):
        failed = await asyncio.gather(*(log.append(event(number)) for number in range(2, 12)), return_exceptions=True)
        assert [type(error) for error in failed] == [GateError] * 10
        assert {error.code for error in failed if isinstance(error, GateError)} == {ErrorCode.AUDIT_UNAVAILABLE}
    with pytest.raises(GateError) as refusal:  # there is room again, but it is not tried at once
        await log.append(event(12))
    assert refusal.value.code is ErrorCode.AUDIT_UNAVAILABLE
    assert len(find_segments(directory)) == 1
    clock.pass_(1.1)
    await log.append(event(13))
    await log.close()
    first, second = find_segments(directory)
    assert not (directory / f"{first}.jsonl").read_bytes().endswith(b"\n"), "the write was to end within a line"
    report = verify_directory(directory)
    assert report.ok, report.problems
    assert [(note.segment, note.kind) for note in report.notes] == [(first, FindingKind.TORN)]
    head = parse_line((directory / f"{second}.jsonl").read_bytes().splitlines()[0]).segment
    assert head is not None
    assert head.cause is Cause.RECOVERY
    assert head.follows[-1].ended
    assert "r1" in requests_of_complete(directory)
    assert "r13" in requests_of_complete(directory)


async def test_a_disk_without_room_for_a_segment_collects_no_files(directory: Path, clock: FakeClock) -> None:
    log = begin(directory, clock)
    with no_room_beyond(100):
        for _ in range(3):
            with pytest.raises(GateError) as refusal:
                await log.append(event(1))
            assert refusal.value.code is ErrorCode.AUDIT_UNAVAILABLE
            clock.pass_(1.1)
        assert len(find_segments(directory)) == 1
    await log.append(event(2))
    await log.close()
    assert verify_directory(directory).ok


async def test_a_failed_sync_refuses_the_batch_and_gives_the_segment_up(
    directory: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = begin(directory, clock, fsync=True)

    def broken(_: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        with pytest.raises(GateError) as refusal:
            await log.append(event(1))
    assert refusal.value.code is ErrorCode.AUDIT_UNAVAILABLE
    clock.pass_(1.1)
    await log.append(event(2))
    await log.close()
    assert len(find_segments(directory)) == 2
    assert verify_directory(directory).ok


async def test_a_link_planted_at_the_name_is_refused(directory: Path, clock: FakeClock, tmp_path: Path) -> None:
    log = AuditLog(directory, clock, FixedRng(), instance="test")
    name = only_file(directory).name
    await log.close()
    (directory / name).unlink()
    (directory / name).symlink_to(tmp_path / "elsewhere")
    clock.at_us = 1_750_000_000_000_000
    with pytest.raises(GateError) as refusal:
        AuditLog(directory, clock, FixedRng(), instance="test")
    assert refusal.value.code is ErrorCode.AUDIT_UNAVAILABLE
    assert not (tmp_path / "elsewhere").exists()
    assert (directory / name).is_symlink()


@pytest.mark.parametrize("place", ["link", "file", "public"])
def test_a_directory_that_others_could_have_made_is_refused(
    directory: Path, clock: FakeClock, tmp_path: Path, place: str
) -> None:
    if place == "link":
        (tmp_path / "real").mkdir()
        directory.symlink_to(tmp_path / "real")
    elif place == "file":
        directory.touch()
    else:
        directory.mkdir()
        directory.chmod(0o777)
    with pytest.raises(GateError) as refusal:
        begin(directory, clock)
    assert refusal.value.code is ErrorCode.AUDIT_UNAVAILABLE


async def test_no_canary_secret_reaches_the_file(directory: Path, clock: FakeClock) -> None:
    log = begin(directory, clock)
    for field in ("detail", "target", "method", "user", "session", "task", "server", "agent", "tenant", "issuer"):
        await log.append(event(1, **{field: f"x {CANARY}"}))
    await log.append(event(2, detail="password=" + CANARY + "x" * 5000, target="t" * 5000, user="\ud800\x1b[31m"))
    await log.close()
    written = b"".join(lines_of(directory))
    for part in CANARY.split("."):
        assert part.encode() not in written
    assert written.count(b"[redacted:jwt]") >= 10
    last = parse_line(lines_of(directory)[-2])
    assert len(last.target) == 1024
    assert last.user == "\\ud800\x1b[31m"


async def test_a_live_segment_is_told_from_a_left_one(directory: Path, clock: FakeClock) -> None:
    log = begin(directory, clock)
    await log.append(event(1))
    assert [note.kind for note in verify_directory(directory).notes] == [FindingKind.LIVE]
    await log.close()
    assert verify_directory(directory).notes == ()


async def test_two_writers_share_a_directory_and_attest_each_other(directory: Path, clock: FakeClock) -> None:
    one = begin(directory, clock)
    await one.append(event(1))
    two = begin(directory, clock)
    await asyncio.gather(*(log.append(event(number)) for number in range(2, 50) for log in (one, two)))
    await one.close()
    await two.close()
    three = begin(directory, clock)
    await three.close()
    report = verify_directory(directory)
    assert (report.ok, report.segments, report.notes) == (True, 3, ())
    heads = [line.segment for line in map(parse_line, lines_of(directory)) if line.segment is not None]
    follows = [[(tip.segment, tip.seq, tip.ended) for tip in head.follows] for head in heads]
    assert follows == [[], [(heads[0].id, 2, False)], [(heads[0].id, 51, True), (heads[1].id, 50, True)]]


WRITER = """
import asyncio, sys
from pathlib import Path
from twogate.adapters.audit_log import AuditLog
from twogate.adapters.clock import SystemClock
from twogate.adapters.rng import SystemRng
from twogate.core.audit.record import AuditEvent, EventKind

async def main():
    log = AuditLog(Path(sys.argv[1]), SystemClock(), SystemRng(), instance="writer", fsync=sys.argv[2] == "fsync")
    async def work(worker):
        number = 0
        while number < int(sys.argv[3]):
            await log.append(AuditEvent(kind=EventKind.CALL_INTENT, at=number, request=f"{worker}-{number}"))
            sys.stdout.buffer.write(f"{worker}-{number}\\n".encode())
            sys.stdout.buffer.flush()
            number += 1
    await asyncio.gather(*(work(worker) for worker in range(20)))
    await log.close()

asyncio.run(main())
"""


def start_writer(directory: Path, *, fsync: bool = False, events: int = 10**9) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-c", WRITER, str(directory), "fsync" if fsync else "", str(events)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE)


@pytest.mark.parametrize("fsync", [False, True])
def test_every_acknowledged_event_survives_a_kill(directory: Path, clock: FakeClock, *, fsync: bool) -> None:
    process = start_writer(directory, fsync=fsync)
    assert process.stdout is not None
    acknowledged = [process.stdout.readline() for _ in range(1500)]
    process.kill()
    rest = process.stdout.read().splitlines(keepends=True)
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    acknowledged += [line for line in rest if line.endswith(b"\n")]
    report = verify_directory(directory)
    assert report.ok, report.problems
    assert FindingKind.UNSTOPPED in [note.kind for note in report.notes]
    assert {line.decode().strip() for line in acknowledged} <= set(requests_of_complete(directory))
    asyncio.run(begin(directory, clock).close())  # the next start attests what was left
    assert verify_directory(directory).ok


def test_two_processes_in_one_directory_never_share_a_segment(directory: Path) -> None:
    writers = [start_writer(directory, events=50) for _ in range(2)]
    for writer in writers:
        writer.communicate(timeout=60)
        assert writer.returncode == 0
    report = verify_directory(directory)
    assert (report.ok, report.segments, report.notes) == (True, 2, ())
    assert sorted(requests_of(directory)) == sorted(f"{w}-{n}" for w in range(20) for n in range(50) for _ in range(2))


async def test_tail_gives_the_last_events_of_all_segments_in_order_of_time(directory: Path, clock: FakeClock) -> None:
    logs = [begin(directory, clock) for _ in range(3)]
    for number in range(3000):
        await logs[number % 3].append(
            event(2_000_000_000_000_000 + number, tenant="even" if number % 2 == 0 else "odd")
        )
    got = [entry.event for entry in tail(directory, 500)]
    assert [line.request for line in got if line is not None] == [
        f"r{2_000_000_000_000_000 + n}" for n in range(2500, 3000)
    ]
    odd = [entry.event for entry in tail(directory, 5, where=Filter(tenant="odd"))]
    assert [line.at % 10_000 for line in odd if line is not None] == [2991, 2993, 2995, 2997, 2999]
    assert len(list(tail(directory, 100_000))) == 3003
    for log in logs:
        await log.close()


async def test_tail_follows_what_is_written_into_old_and_new_segments(directory: Path, clock: FakeClock) -> None:
    log = begin(directory, clock)
    await log.append(event(1))
    seen: list[Entry] = []
    steps = iter([event(2), event(3), None])
    others: list[AuditLog] = []

    def idle() -> bool:
        step = next(steps, None)
        if step is None:
            return False
        waiter = (log if step.at == 2 else others[0]).submit(step)
        (log if step.at == 2 else others[0])._flush()
        assert waiter.done()
        if not others:
            others.append(begin(directory, clock))
        return True

    seen += tail(directory, 2, idle=idle)
    names = [line.request or line.kind.value for line in (entry.event for entry in seen) if line is not None]
    assert names == ["process.started", "r1", "r2", "process.started", "r3"]
    await log.close()
    await others[0].close()


async def test_tail_shows_lines_that_it_cannot_decode_and_skips_a_torn_end(directory: Path, clock: FakeClock) -> None:
    log = begin(directory, clock)
    await log.append(event(1))
    await log.close()
    file = only_file(directory)
    file.write_bytes(file.read_bytes() + b'{"kind":"of.tomorrow"}\n' + b'{"torn')
    entries = list(tail(directory, 2))
    assert [entry.event is None for entry in entries] == [False, True]
    assert entries[1].raw == b'{"kind":"of.tomorrow"}'
    assert [entry.event is None for entry in tail(directory, 2, where=Filter(request="r1"))] == [False]


def test_printable_escapes_what_a_terminal_or_a_reader_would_misread() -> None:
    assert printable("tools/call é 日本") == "tools/call é 日本"
    assert printable("a\x1b[2Jb\r\n\x9b\u202ec\u200d\u2028\ud800") == (
        r"a\u{1b}[2Jb\u{d}\u{a}\u{9b}\u{202e}c\u{200d}\u{2028}\u{d800}"
    )


async def test_a_flood_of_refusals_becomes_few_events_and_true_counts(directory: Path, clock: FakeClock) -> None:
    log = begin(directory, clock)
    refusals = RefusalLog(log, clock)
    refusals.start()
    for _ in range(1000):
        refusals.note("10.0.0.1", ErrorCode.CREDENTIAL_MISSING, "no credential")
    await refusals.close()
    await log.close()
    events = [line for line in map(parse_line, lines_of(directory)) if line.address]
    assert [(line.kind, line.reason, line.count) for line in events] == [
        (EventKind.REQUEST_REFUSED, "credential_missing", 0),
        (EventKind.REFUSALS_COALESCED, "credential_missing", 999),
    ]
    assert events[0].detail == "no credential"


async def test_refusals_that_could_not_be_written_are_counted_and_written_later(
    directory: Path, clock: FakeClock
) -> None:
    log = begin(directory, clock)
    refusals = RefusalLog(log, clock)
    with no_room_beyond(100):
        refusals.note("10.0.0.1", ErrorCode.CREDENTIAL_MISSING, "")
        await asyncio.wait(refusals._pending)
        refusals.note("10.0.0.2", ErrorCode.CREDENTIAL_MISSING, "")
    clock.pass_(30)
    await refusals.close()
    await log.close()
    events = [line for line in map(parse_line, lines_of(directory)) if line.address]
    assert sorted((line.address, line.count) for line in events) == [("10.0.0.1", 1), ("10.0.0.2", 1)]
    assert verify_directory(directory).ok
