"""Someone who may write the audit directory changes it: each change is found and named."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from twogate.adapters.audit_files import VerifyReport, find_segments, verify_directory
from twogate.adapters.audit_log import AuditLog
from twogate.adapters.clock import SystemClock
from twogate.adapters.rng import SystemRng
from twogate.core.audit.chain import MAX_LINE, Chain, FindingKind
from twogate.core.audit.record import AuditEvent, EventKind

LINES = 12


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Three segments of three process runs, ten calls each."""

    async def run() -> None:
        for process in range(3):
            log = AuditLog(tmp_path / "audit", SystemClock(), SystemRng(), instance="test")
            for number in range(LINES - 2):
                await log.append(
                    AuditEvent(kind=EventKind.CALL_INTENT, at=number, agent="reporter", target=f"t.{process}-{number}")
                )
            await log.close()

    asyncio.run(run())
    assert verify_directory(tmp_path / "audit").notes == ()
    assert verify_directory(tmp_path / "audit").ok
    return tmp_path / "audit"


def file_of(directory: Path, index: int) -> Path:
    return directory / f"{find_segments(directory)[index]}.jsonl"


def change(directory: Path, index: int, edit: Callable[[list[bytes]], object]) -> None:
    file = file_of(directory, index)
    lines = file.read_bytes().splitlines(keepends=True)
    edit(lines)
    file.write_bytes(b"".join(lines))


def rehash(line: bytes) -> bytes:
    return (
        line[:-76]
        + b',"hash":"'
        + hashlib.sha256(b"twogate-audit-v1 line\n" + line[:-76]).hexdigest().encode()
        + b'"}\n'
    )


def edited(line: bytes) -> bytes:
    assert b"reporter" in line
    return line.replace(b"reporter", b"deployer")


def found(report: VerifyReport) -> list[tuple[str, int, FindingKind]]:
    return [(problem.segment, problem.line, problem.kind) for problem in report.problems]


@pytest.mark.parametrize("segment", [0, 1, 2])
@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda lines: lines.__setitem__(4, edited(lines[4])), (5, FindingKind.ALTERED)),
        (lambda lines: lines.__setitem__(4, rehash(edited(lines[4]))), (5, FindingKind.ALTERED)),
        (lambda lines: lines.__delitem__(4), (5, FindingKind.MISSING)),
        (lambda lines: lines.insert(5, lines.pop(4)), (6, FindingKind.REORDERED)),
        (lambda lines: lines.insert(5, lines[4]), (6, FindingKind.DUPLICATE)),
        (lambda lines: lines.insert(5, edited(lines[4])), (6, FindingKind.INSERTED)),
        (lambda lines: lines.insert(5, rehash(edited(lines[4]))), (6, FindingKind.INSERTED)),
        (lambda lines: lines.insert(5, b"\n"), (6, FindingKind.INSERTED)),
    ],
    ids=["edited", "edited and rehashed", "deleted", "swapped", "duplicated", "inserted", "forged", "blank line"],
)
def test_a_changed_line_is_named(
    directory: Path, segment: int, edit: Callable[[list[bytes]], object], expected: tuple[int, FindingKind]
) -> None:
    name = find_segments(directory)[segment]
    change(directory, segment, edit)
    assert found(verify_directory(directory)) == [(name, *expected)]


def test_a_flipped_byte_anywhere_is_found(directory: Path) -> None:
    file = file_of(directory, 1)
    original = file.read_bytes()
    for position in range(0, len(original), 7):
        data = bytearray(original)
        data[position] ^= 0x04
        file.write_bytes(bytes(data))
        assert not verify_directory(directory).ok, f"byte {position}"


@pytest.mark.parametrize("segment", [0, 1])
def test_a_removed_segment_is_found(directory: Path, segment: int) -> None:
    name = find_segments(directory)[segment]
    file_of(directory, segment).unlink()
    assert found(verify_directory(directory)) == [(name, 0, FindingKind.SEGMENT_MISSING)]


def test_a_segment_archived_on_purpose_is_a_note(directory: Path) -> None:
    names = find_segments(directory)
    file_of(directory, 0).unlink()
    report = verify_directory(directory, archived_before=names[1])
    assert report.ok
    assert [(note.segment, note.kind) for note in report.notes] == [(names[0], FindingKind.ARCHIVED)]


@pytest.mark.parametrize("cut", ["last line", "within the last line", "everything"])
def test_a_cut_tail_of_an_older_segment_is_found(directory: Path, cut: str) -> None:
    name = find_segments(directory)[1]
    file = file_of(directory, 1)
    lines = file.read_bytes().splitlines(keepends=True)
    kept = {"last line": lines[:-1], "within the last line": [*lines[:-1], lines[-1][:-5]], "everything": []}[cut]
    file.write_bytes(b"".join(kept))
    (problem,) = verify_directory(directory).problems
    assert (problem.segment, problem.kind) == (name, FindingKind.CUT)
    assert f"seq {LINES}" in problem.text


def test_an_older_segment_cut_and_grown_again_is_found(directory: Path) -> None:
    name = find_segments(directory)[1]

    def forge(lines: list[bytes]) -> None:
        del lines[8:]
        chain = Chain(name)
        chain.seq, chain.tip = 8, lines[-1][-67:-3].decode()
        lines.extend(chain.seal(b'{"kind":"call.intent","at":1}') for _ in range(LINES - 8))

    change(directory, 1, forge)
    assert found(verify_directory(directory)) == [(name, LINES, FindingKind.ALTERED)]


def test_lines_added_to_an_older_segment_are_found(directory: Path) -> None:
    name = find_segments(directory)[0]

    def extend(lines: list[bytes]) -> None:
        chain = Chain(name)
        chain.seq, chain.tip = LINES, lines[-1][-67:-3].decode()
        lines.append(chain.seal(b'{"kind":"call.intent","at":1}'))

    change(directory, 0, extend)
    assert {kind for _, line, kind in found(verify_directory(directory)) if line == LINES + 1} == {FindingKind.INSERTED}


def test_a_renamed_and_a_copied_segment_are_found(directory: Path) -> None:
    old = file_of(directory, 1)
    copy = old.with_name(old.name.replace("Z-", "Z-9"))
    copy.write_bytes(old.read_bytes())
    assert found(verify_directory(directory)) == [(copy.stem, 1, FindingKind.ALTERED)]
    old.unlink()
    assert (old.stem, 0, FindingKind.SEGMENT_MISSING) in found(verify_directory(directory))


def test_a_changed_first_line_cannot_unsay_what_it_attests(directory: Path) -> None:
    names = find_segments(directory)
    file_of(directory, 1).unlink()
    change(directory, -1, lambda lines: lines.__setitem__(0, rehash(lines[0].replace(b"follows", b"Follows"))))
    assert (names[2], 1, FindingKind.ALTERED) in found(verify_directory(directory))


def test_a_cut_tail_of_the_newest_segment_is_found_by_a_checkpoint_only(directory: Path) -> None:
    checkpoints = verify_directory(directory).tips
    name = find_segments(directory)[2]
    change(directory, 2, lambda lines: lines.__delitem__(slice(8, None)))
    report = verify_directory(directory)
    assert report.ok  # the limit that the module states; the missing process.stopped is the hint
    assert [note.kind for note in report.notes] == [FindingKind.UNSTOPPED]
    assert found(verify_directory(directory, checkpoints=checkpoints)) == [(name, 8, FindingKind.CUT)]


def test_a_removed_newest_segment_is_found_by_a_checkpoint(directory: Path) -> None:
    checkpoints = verify_directory(directory).tips
    name = find_segments(directory)[2]
    file_of(directory, 2).unlink()
    assert found(verify_directory(directory, checkpoints=checkpoints)) == [(name, 0, FindingKind.SEGMENT_MISSING)]


@pytest.mark.parametrize("plant", ["link", "fifo", "directory"])
def test_what_is_planted_as_a_segment_is_not_read(directory: Path, tmp_path: Path, plant: str) -> None:
    file = file_of(directory, 2)
    planted = file.with_name(file.name.replace("Z-", "Z-9"))
    if plant == "link":
        planted.symlink_to(file)
    elif plant == "fifo":
        os.mkfifo(planted)
    else:
        planted.mkdir()
    assert found(verify_directory(directory)) == [(planted.stem, 0, FindingKind.UNREADABLE)]
    # It does not keep the gateway from starting either.
    log = AuditLog(directory, SystemClock(), SystemRng(), instance="test")
    asyncio.run(log.close())


def test_other_files_are_noted(directory: Path) -> None:
    (directory / "notes.txt").write_text("x")
    report = verify_directory(directory)
    assert report.ok
    assert [(note.segment, note.kind) for note in report.notes] == [("notes.txt", FindingKind.FOREIGN)]


def test_an_endless_line_is_not_read_into_memory(directory: Path) -> None:
    name = find_segments(directory)[2]
    with file_of(directory, 2).open("ab") as file:
        file.write(b"x" * (MAX_LINE * 3))
    assert found(verify_directory(directory)) == [(name, LINES + 1, FindingKind.UNREADABLE)]
