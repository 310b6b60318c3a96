"""The audit trail's hash chain: the format of a line, sealing, and the verification state machine.

A segment is one file of JSON lines, begun by a process at start, at rotation, or after a failed write. Each line is

    {"seq":N,"prev":"<hash of the line before>",<the event's members>,"hash":"<hash>"}

with hash = SHA-256(tag, then the line's own bytes up to `,"hash"`), so that a verifier hashes the bytes it reads and
needs no canonical JSON. The first line's `prev` is derived from the segment's name. Its event is `process.started`,
and its member `segment` names in `follows` the tip (name, last seq, last hash) of every older segment that no other
segment attests yet. So an older segment that was removed, cut, rewritten or extended is found.

What a hash chain without checkpoints held elsewhere CANNOT find, since it holds no key: lines cut from the end of a
segment that no later one attests (the newest, or one still live when last attested), such a segment removed as a
whole, and a rewrite of everything by someone who may write every file. Keep tips elsewhere and give them to the
verifier; then all of this is found up to the last tip kept.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from twogate.core.audit.record import AuditEvent

MAX_LINE: Final = 131_072
"""Bytes of a line with its newline; the writer stays below by cutting fields, the reader refuses more."""
MAX_FOLLOWS: Final = 256
"""Tips that a first line names at most, so that it fits a line."""
MAX_FINDINGS: Final = 100
"""Findings of one segment; what lies behind them is not examined."""

_VERSION: Final = 1
_LINE_HASH: Final = hashlib.sha256(b"twogate-audit-v1 line\n")
_SEGMENT_TAG: Final = b"twogate-audit-v1 segment\n"
_LINE: Final = re.compile(
    rb'\{"seq":([1-9][0-9]{0,15}),"prev":"([0-9a-f]{64})",(.+),"hash":"([0-9a-f]{64})"\}', re.DOTALL
)
_SEAL_SIZE: Final = len(b',"hash":""}') + 64
_STOPPED: Final = b'"kind":"process.stopped"'


class Cause(StrEnum):
    """Why a segment was begun."""

    START = "start"
    ROTATION = "rotation"
    RECOVERY = "recovery"


class Tip(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was seen of a segment: its last complete line. `ended`: nobody wrote to it any more."""

    segment: str
    seq: int
    hash: str
    ended: bool = False


class SegmentHead(msgspec.Struct, frozen=True, omit_defaults=True):
    """The member `segment` of a first line. `id` is the file's name without its ending."""

    id: str
    instance: str
    pid: int
    cause: Cause
    version: int
    follows: tuple[Tip, ...] = ()


class Line(AuditEvent, frozen=True, kw_only=True):
    """One decoded line: the event and its place in the chain."""

    seq: int
    prev: str
    hash: str
    segment: SegmentHead | None = None


class Sealed(NamedTuple):
    """The chain's members of a line, as stated; `intact` tells whether the line's bytes give its hash."""

    seq: int
    prev: str
    hash: str
    intact: bool
    stops: bool


_encode = msgspec.json.Encoder().encode
_decoder: Final = msgspec.json.Decoder(Line)


def genesis(segment: str) -> str:
    """The `prev` of a segment's first line."""
    return hashlib.sha256(_SEGMENT_TAG + segment.encode()).hexdigest()


class Chain:
    """Seals events into the lines of one segment. `seq` and `tip` are those of the last line sealed."""

    __slots__ = ("segment", "seq", "tip")

    def __init__(self, segment: str) -> None:
        self.segment = segment
        self.seq = 0
        self.tip = genesis(segment)

    def seal(self, event: bytes) -> bytes:
        """The next line, newline included, for an event's JSON object."""
        self.seq += 1
        line = f'{{"seq":{self.seq},"prev":"{self.tip}",'.encode() + event[1:-1]
        digest = _LINE_HASH.copy()
        digest.update(line)
        self.tip = digest.hexdigest()
        return line + f',"hash":"{self.tip}"}}\n'.encode()

    def seal_first(self, event: bytes, instance: str, pid: int, cause: Cause, follows: tuple[Tip, ...]) -> bytes:
        """The first line: the same with the member `segment`; of too many tips the newest are kept."""
        head = SegmentHead(self.segment, instance, pid, cause, _VERSION, follows[-MAX_FOLLOWS:])
        return self.seal(b'%b,"segment":%b}' % (event[:-1], _encode(head)))


def unseal(line: bytes) -> Sealed | None:
    """The chain's members of a line (without newline), or None if it does not have the format of one."""
    match = _LINE.fullmatch(line) if len(line) < MAX_LINE else None
    if match is None:
        return None
    seq, prev, _, stated = match.groups()
    digest = _LINE_HASH.copy()
    digest.update(line[:-_SEAL_SIZE])
    intact = digest.hexdigest().encode() == stated
    return Sealed(int(seq), prev.decode(), stated.decode(), intact, line.startswith(_STOPPED, match.start(3)))


def parse_line(line: bytes) -> Line:
    """Decode a line (without newline). Its hash is not checked here; members of later versions are passed over.

    Raises:
        ValueError: longer than MAX_LINE, not JSON, or not an event this version knows.
    """
    if len(line) >= MAX_LINE:
        raise ValueError(f"line of {len(line)} bytes, at most {MAX_LINE} are read")
    try:
        return _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"not an audit event: {error}") from error


class FindingKind(StrEnum):
    """What is wrong (a failure), or worth knowing (a note)."""

    ALTERED = "altered"
    MISSING = "missing"
    REORDERED = "reordered"
    INSERTED = "inserted"
    DUPLICATE = "duplicate"
    CUT = "cut"
    SEGMENT_MISSING = "segment_missing"
    UNREADABLE = "unreadable"

    TORN = "torn"
    LIVE = "live"
    EMPTY = "empty"
    UNSTOPPED = "unstopped"
    ARCHIVED = "archived"
    FOREIGN = "foreign"

    @property
    def is_note(self) -> bool:
        """Whether this is no failure."""
        return self in _NOTES


_NOTES: Final = frozenset(
    {
        FindingKind.TORN,
        FindingKind.LIVE,
        FindingKind.EMPTY,
        FindingKind.UNSTOPPED,
        FindingKind.ARCHIVED,
        FindingKind.FOREIGN,
    }
)


class Finding(msgspec.Struct, frozen=True):
    """One thing found in a segment. `line` counts from 1; 0 means the segment as a whole."""

    segment: str
    line: int
    kind: FindingKind
    text: str


class Attestation(NamedTuple):
    """A tip of this segment as seen by `by`: a later segment's name, or a checkpoint."""

    tip: Tip
    by: str


class _Gap:
    """Sequence numbers not seen yet, first to last, noticed at a line."""

    __slots__ = ("first", "last", "line")

    def __init__(self, first: int, last: int, line: int) -> None:
        self.first, self.last, self.line = first, last, line


class SegmentVerifier:
    """Verifies one segment line by line in constant memory.

    Invariant: `_next` and `_tip` belong to the line accepted with the highest seq; everything below `_next` was seen,
    reported, or lies in a gap. A line that is not intact is a suspect until the next intact one tells whether it
    stands in the place of a line (altered) or between two lines (inserted).
    """

    def __init__(self, segment: str, attestations: Iterable[Attestation] = ()) -> None:
        self.findings: list[Finding] = []
        self.stopped = False
        self._segment = segment
        self._attested = sorted(attestations, key=lambda item: item.tip.seq, reverse=True)
        self._ends = min(
            (item for item in self._attested if item.tip.ended), key=lambda item: item.tip.seq, default=None
        )
        self._line = 0
        self._next = 1
        self._tip = genesis(segment)
        self._before = ""
        self._rival = ""
        self._suspects: list[int] = []
        self._gaps: list[_Gap] = []

    @property
    def tip(self) -> Tip:
        """The last line accepted."""
        return Tip(self._segment, self._next - 1, self._tip)

    @property
    def exhausted(self) -> bool:
        """Whether so much is wrong that looking further tells nothing."""
        return len(self.findings) + len(self._suspects) + len(self._gaps) >= MAX_FINDINGS

    def feed(self, line: bytes) -> None:
        """Take the next complete line, without its newline."""
        self._line += 1
        sealed = unseal(line)
        if sealed is None or not sealed.intact:
            self._suspects.append(self._line)
        elif sealed.seq == self._next:
            self._take_expected(sealed)
        elif sealed.seq > self._next:
            self._take_later(sealed)
        else:
            self._take_earlier(sealed)

    def finish(self, *, torn: bool) -> None:
        """No more lines. `torn`: bytes without a newline follow the last one."""
        self._settle(FindingKind.ALTERED, "does not match its hash")
        for gap in self._gaps:
            self._report(gap.line, FindingKind.MISSING, f"{_range(gap.first, gap.last)} missing before this line")
        for tip, by in self._attested:
            self._report(
                self._line,
                FindingKind.CUT,
                f"ends at seq {self._next - 1}, but {by} saw seq {tip.seq}: the tail was cut",
            )
        if torn:
            self._report(
                self._line + 1, FindingKind.TORN, "the last line was not written to its end (process killed, disk full)"
            )

    def _take_expected(self, sealed: Sealed) -> None:
        if sealed.prev in (self._tip, self._rival):
            self._settle(FindingKind.INSERTED, "stands between two lines that belong together")
        elif sealed.seq == 1:
            self._settle(FindingKind.INSERTED, "stands before the first line")
            self._report(
                self._line, FindingKind.ALTERED, "the first line belongs to another segment (file renamed or copied)"
            )
        elif self._suspects:
            self._settle(FindingKind.ALTERED, "does not match its hash")
        else:
            self._report(
                self._line - 1,
                FindingKind.ALTERED,
                "altered with its hash made anew: the next line continues another one",
            )
        self._accept(sealed)

    def _take_later(self, sealed: Sealed) -> None:
        lacking, suspects = sealed.seq - self._next, len(self._suspects)
        self._settle(FindingKind.ALTERED, "does not match its hash")
        if suspects < lacking:
            # With suspects in between, which of the numbers are theirs is unknown: the last ones are called missing.
            self._gaps.append(_Gap(self._next + suspects, sealed.seq - 1, self._line))
        self._accept(sealed)

    def _take_earlier(self, sealed: Sealed) -> None:
        self._settle(FindingKind.INSERTED, "does not match its hash")
        if sealed.hash == self._tip:
            self._report(self._line, FindingKind.DUPLICATE, f"repeats the line before (seq {sealed.seq})")
        elif self._leave_gap(sealed.seq):
            self._report(self._line, FindingKind.REORDERED, f"seq {sealed.seq} stands behind seq {self._next - 1}")
        elif sealed.seq == self._next - 1 and sealed.prev == self._before:
            self._rival = sealed.hash
            self._report(
                self._line,
                FindingKind.INSERTED,
                f"this line and the one before are both seq {sealed.seq}: one was inserted",
            )
        else:
            self._report(
                self._line, FindingKind.DUPLICATE, f"seq {sealed.seq} again (copied from further up, or inserted)"
            )

    def _accept(self, sealed: Sealed) -> None:
        if self.stopped:
            self._report(self._line, FindingKind.INSERTED, "stands behind process.stopped")
        if self._ends is not None and sealed.seq > self._ends.tip.seq:
            self._report(
                self._line, FindingKind.INSERTED, f"{self._ends.by} saw this segment end at seq {self._ends.tip.seq}"
            )
            self._ends = None
        while self._attested and self._attested[-1].tip.seq <= sealed.seq:
            tip, by = self._attested.pop()
            if tip.seq == sealed.seq and tip.hash != sealed.hash:
                self._report(self._line, FindingKind.ALTERED, f"{by} saw another line seq {tip.seq}: rewritten since")
        self._next, self._tip = sealed.seq + 1, sealed.hash
        self._before, self._rival = sealed.prev, ""
        self.stopped = sealed.stops

    def _leave_gap(self, seq: int) -> bool:
        for gap in self._gaps:
            if gap.first <= seq <= gap.last:
                self._gaps.remove(gap)
                if gap.first < seq:
                    self._gaps.append(_Gap(gap.first, seq - 1, gap.line))
                if seq < gap.last:
                    self._gaps.append(_Gap(seq + 1, gap.last, gap.line))
                return True
        return False

    def _settle(self, kind: FindingKind, text: str) -> None:
        for line in self._suspects:
            self._report(line, kind, text)
        self._suspects.clear()

    def _report(self, line: int, kind: FindingKind, text: str) -> None:
        self.findings.append(Finding(self._segment, line, kind, text))


def _range(first: int, last: int) -> str:
    return f"seq {first}" if first == last else f"seq {first} to {last}"
