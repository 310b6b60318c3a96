"""Reads the audit trail's files: find the segments of a directory, read their ends, verify them all."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from collections import defaultdict
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from twogate.core.audit.chain import (
    MAX_FINDINGS,
    MAX_LINE,
    Attestation,
    Cause,
    Finding,
    FindingKind,
    SegmentHead,
    SegmentVerifier,
    Tip,
    parse_line,
    unseal,
)

NAME_ENDING: Final = ".jsonl"
_NAME: Final = re.compile(r"[0-9]{8}T[0-9]{6}\.[0-9]{6}Z-[0-9]{1,10}-[0-9a-f]{16}")
_BUFFER: Final = 256 * 1024


class VerifyReport(msgspec.Struct, frozen=True):
    """What a verification found. `tips` are the segments' last lines, to be kept elsewhere as checkpoints."""

    segments: int
    events: int
    problems: tuple[Finding, ...]
    notes: tuple[Finding, ...]
    tips: tuple[Tip, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def find_segments(directory: Path) -> list[str]:
    """The ids of the segments in a directory, oldest first.

    Raises:
        OSError: the directory cannot be read.
    """
    with os.scandir(directory) as entries:
        names = (entry.name for entry in entries)
        return sorted(name[: -len(NAME_ENDING)] for name in names if _is_segment(name))


@contextmanager
def open_segment(directory: Path, segment: str) -> Generator[int, None, None]:
    """A descriptor to read a segment; neither links nor devices are followed.

    Raises:
        OSError: missing, not readable, or no regular file.
    """
    fd = os.open(directory / (segment + NAME_ENDING), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        yield fd
    finally:
        os.close(fd)


def is_live(fd: int) -> bool:
    """Whether a process still writes to this segment.

    Ask only about one that has a complete line: before that, its writer may be about to take the lock probed here.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False


def tip_of(directory: Path, segment: str) -> Tip | None:
    """The last complete line of a segment now; None if the file is gone, empty or does not end in an intact line.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        with open_segment(directory, segment) as fd:
            # In this order: of a segment that is not live the end read afterwards is its last.
            line = _first_line(fd)
            ended = line is not None and not is_live(fd)
            sealed = unseal(_last_line(fd))
    except FileNotFoundError:
        return None
    if line is None or sealed is None or not sealed.intact:
        return None
    return Tip(segment, sealed.seq, sealed.hash, ended)


def open_tips(directory: Path) -> tuple[Tip, ...]:
    """The tips of all segments that no segment attests yet: what a new one must name in `follows`.

    A segment that cannot be read is passed over, since a start must not depend on it; a verification reports it.

    Raises:
        OSError: the directory cannot be read.
    """
    tips: list[Tip] = []
    attested: set[Tip] = set()
    for segment in find_segments(directory):
        try:
            tip = tip_of(directory, segment)
            head = _head_of(directory, segment)
        except OSError:
            continue
        if tip is not None:
            tips.append(tip)
        if head is not None:
            attested.update(head.follows)
    return tuple(tip for tip in tips if tip not in attested)


def verify_directory(directory: Path, *, archived_before: str = "", checkpoints: Sequence[Tip] = ()) -> VerifyReport:
    """Verify every segment of a directory and that they belong together, reading each once in constant memory.

    Args:
        directory: where the segments are; they may be written to meanwhile.
        archived_before: an id; segments that sort before it may be missing, since they were moved away on purpose.
        checkpoints: tips kept elsewhere.

    Raises:
        OSError: the directory cannot be read.
    """
    with os.scandir(directory) as entries:
        foreign = sorted(entry.name for entry in entries if not _is_segment(entry.name))
    found = [Finding(name, 0, FindingKind.FOREIGN, "not the name of a segment; not examined") for name in foreign]
    segments = find_segments(directory)
    attestations, continued = _attestations(directory, segments, checkpoints)
    for missing in sorted(attestations.keys() - set(segments)):
        by = attestations[missing][0].by
        if missing < archived_before:
            found.append(Finding(missing, 0, FindingKind.ARCHIVED, f"not here, as it should be; named by {by}"))
        else:
            found.append(Finding(missing, 0, FindingKind.SEGMENT_MISSING, f"{by} saw this segment, but it is gone"))
    events, tips = 0, list[Tip]()
    for segment in segments:
        verifier = SegmentVerifier(segment, attestations.get(segment, ()))
        try:
            with open_segment(directory, segment) as fd:
                count = _verify_segment(fd, verifier, continued=segment in continued)
        except OSError as error:
            found.append(Finding(segment, 0, FindingKind.UNREADABLE, error.strerror or "cannot be read"))
            continue
        found += verifier.findings
        events += count
        tips.append(verifier.tip)
    problems = tuple(finding for finding in found if not finding.kind.is_note)
    notes = tuple(finding for finding in found if finding.kind.is_note)
    return VerifyReport(len(segments), events, problems, notes, tuple(tips))


def _verify_segment(fd: int, verifier: SegmentVerifier, *, continued: bool) -> int:
    name = verifier.tip.segment
    size, lines, torn = os.fstat(fd).st_size, 0, False
    with os.fdopen(os.dup(fd), "rb", _BUFFER) as file:
        while size > 0:
            line = file.readline(MAX_LINE)
            if not line.endswith(b"\n"):
                torn = len(line) < MAX_LINE
                if not torn:
                    text = f"a line longer than {MAX_LINE} bytes; the rest was not examined"
                    verifier.findings.append(Finding(name, lines + 1, FindingKind.UNREADABLE, text))
                    return lines
                break
            size -= len(line)
            lines += 1
            verifier.feed(line[:-1])
            if verifier.exhausted:
                text = f"{MAX_FINDINGS} findings; the rest was not examined"
                verifier.findings.append(Finding(name, lines, FindingKind.UNREADABLE, text))
                break
    live = lines > 0 and is_live(fd)
    if not verifier.exhausted:
        verifier.finish(torn=torn)
    if live:
        verifier.findings.append(Finding(name, 0, FindingKind.LIVE, "a process writes to this segment"))
    elif not lines:
        verifier.findings.append(Finding(name, 0, FindingKind.EMPTY, "no complete line (process killed at its start)"))
    elif not verifier.stopped and not continued:
        text = "does not end with process.stopped: the process was killed, or the end was cut"
        verifier.findings.append(Finding(name, lines, FindingKind.UNSTOPPED, text))
    return lines


def _attestations(
    directory: Path, segments: Sequence[str], checkpoints: Sequence[Tip]
) -> tuple[Mapping[str, list[Attestation]], set[str]]:
    # Also which segments were left by a process that went on in another one, so that nobody misses their stop.
    attestations: defaultdict[str, list[Attestation]] = defaultdict(list)
    continued: set[str] = set()
    for segment in segments:
        try:
            head = _head_of(directory, segment)
        except OSError:
            continue
        for tip in head.follows if head is not None else ():
            attestations[tip.segment].append(Attestation(tip, segment))
            if head is not None and head.cause is not Cause.START:
                continued.add(tip.segment)
    for tip in checkpoints:
        attestations[tip.segment].append(Attestation(tip, "a checkpoint"))
    return attestations, continued


def _head_of(directory: Path, segment: str) -> SegmentHead | None:
    with open_segment(directory, segment) as fd:
        line = _first_line(fd)
    sealed = None if line is None else unseal(line)
    if line is None or sealed is None or not sealed.intact:
        return None
    try:
        return parse_line(line).segment
    except ValueError:
        return None


def _first_line(fd: int) -> bytes | None:
    line, newline, _ = os.pread(fd, MAX_LINE, 0).partition(b"\n")
    return line if newline else None


def _last_line(fd: int) -> bytes:
    # The last complete line; what a torn write left behind it is passed over.
    size = os.fstat(fd).st_size
    window = 8192
    while True:
        start = max(0, size - window)
        complete, newline, _ = os.pread(fd, size - start, start).rpartition(b"\n")
        line_start = complete.rfind(b"\n") + 1
        if newline and (line_start or start == 0):
            return complete[line_start:]
        if start == 0 or window > 2 * MAX_LINE:
            return b""
        window *= 4


def _is_segment(name: str) -> bool:
    return name.endswith(NAME_ENDING) and _NAME.fullmatch(name[: -len(NAME_ENDING)]) is not None
